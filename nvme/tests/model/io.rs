//! The data half against the model: what goes in comes out, in any order, under any fault, or an error says why not.
use core::task::Poll;
use core::time::Duration;

use crate::rig::{ENTRIES, KernelQueue, Rig, Tables, queue, request};
use parakernel_core::{
    memory::{BlockArena, BlockBuffer},
    queue::{BlockCompletion, BlockOperation, BlockQueue, BlockRequest},
};
use parakernel_mock_hw::{
    fault::{Fault, When},
    nvme::{Config, NamespaceConfig, Status as ModelStatus, StatusRule},
};
use parakernel_nvme::{
    controller::PairState,
    error::{QueueError, RequestError},
    queue::CommandTable,
    status::Status,
};
use proptest::prelude::*;

/// A queue, its spare buffers, and what every block should hold.
struct Disk<'m> {
    rig: &'m Rig,
    queue: KernelQueue<'m>,
    arena: BlockArena<'m>,
    spare: Vec<BlockBuffer>,
    expected: Vec<u8>,
}

const BLOCKS: u64 = 64;

impl Disk<'_> {
    fn buffer(&mut self, byte: u8) -> Option<BlockBuffer> {
        let mut buffer = self.spare.pop()?;
        self.arena.bytes_mut(&mut buffer).fill(byte);
        Some(buffer)
    }

    /// Waits until nothing is in flight, or the queue fails.
    fn settle(&mut self) -> Result<Vec<BlockCompletion<Status>>, QueueError> {
        let mut ended = Vec::new();
        let Self { rig, queue, .. } = self;
        let outcome = rig.wait(|_| match queue.poll(5, |done| ended.push(done)) {
            Err(error) => Poll::Ready(Err(error)),
            Ok(_) if queue.room() == ENTRIES - 1 => Poll::Ready(Ok(())),
            Ok(_) => Poll::Pending,
        });
        outcome.unwrap_or(Ok(())).map(|()| ended)
    }
}

/// A controller with a namespace of [`BLOCKS`] blocks and one queue, by which `run` does what it wants.
fn with_disk(seed: u64, config: Config, run: impl FnOnce(&mut Disk<'_>)) {
    let config = Config {
        namespaces: vec![NamespaceConfig {
            blocks: BLOCKS,
            block_len: 512,
        }],
        ..config
    };
    let rig = Rig::new(seed, config);
    let mut tables = Tables::new(4);
    let mut commands = CommandTable::new();
    let mut driver = rig.bring_up(&mut tables);
    let mut arena = rig.arena(ENTRIES, 4096);
    let queue = rig.kernel_queue(&mut driver, &mut commands, &arena);
    let mut disk = Disk {
        rig: &rig,
        queue,
        spare: core::iter::from_fn(|| arena.take()).collect(),
        arena,
        expected: vec![0; 64],
    };
    run(&mut disk);
}

#[test]
fn a_full_queue_takes_no_more_and_loses_nothing() {
    with_disk(1, Config::default(), |disk| {
        for round in 0..200_u8 {
            let writes = (0_u8..).map_while(|n| {
                let mut buffer = disk.spare.pop()?;
                disk.arena.bytes_mut(&mut buffer).fill(n ^ round);
                let write = request(BlockOperation::Write, n.into(), 1, n.into());
                Some(BlockRequest {
                    buffer: Some(buffer),
                    ..write
                })
            });
            assert_eq!(
                disk.queue.submit(writes),
                Ok(ENTRIES - 1),
                "one entry stays free"
            );
            assert_eq!((disk.queue.room(), disk.spare.len()), (0, 1));
            let mut ended = disk.settle().unwrap();
            assert_eq!(ended.len(), ENTRIES - 1);
            ended.sort_by_key(|done| done.user);
            for (n, done) in (0..).zip(ended) {
                assert_eq!((done.user, done.status), (n, Ok(())));
                disk.spare.extend(done.buffer);
            }
            let stored = disk.rig.nvme.read_blocks(1, 0, 15).unwrap();
            assert!(
                stored
                    .chunks(512)
                    .zip(0_u8..)
                    .all(|(block, n)| block[0] == n ^ round)
            );
        }
        disk.rig.world.trace().assert_clean();
    });
}

#[test]
fn requests_that_can_never_be_carried_out_come_back() {
    with_disk(2, Config::default(), |disk| {
        let refused =
            |disk: &mut Disk<'_>, request: BlockRequest| match disk.queue.submit([request]) {
                Err(QueueError::Request {
                    request,
                    reason,
                    submitted: 0,
                }) => {
                    disk.spare.extend(request.buffer);
                    reason
                }
                other => panic!("{other:?}"),
            };
        let read = |disk: &mut Disk<'_>, blocks| BlockRequest {
            buffer: disk.buffer(0),
            ..request(BlockOperation::Read, 0, blocks, 0)
        };
        for blocks in [0, 9, u32::MAX] {
            let read = read(disk, blocks);
            assert_eq!(refused(disk, read), RequestError::Blocks);
        }
        assert_eq!(
            refused(disk, request(BlockOperation::Write, 0, 1, 0)),
            RequestError::Buffer
        );
        let flush = BlockRequest {
            operation: BlockOperation::Flush,
            ..read(disk, 1)
        };
        assert_eq!(refused(disk, flush), RequestError::Buffer);
        assert_eq!(
            refused(disk, request(BlockOperation::WriteZeroes, 0, 65_537, 0)),
            RequestError::Blocks
        );
        assert_eq!(
            refused(disk, request(BlockOperation::Deallocate, 0, 0, 0)),
            RequestError::Blocks
        );
        // What came before the refused one is published.
        let flush = || request(BlockOperation::Flush, 0, 0, 5);
        let zeroes = request(BlockOperation::WriteZeroes, 0, 0, 0);
        let error = disk
            .queue
            .submit([flush(), flush(), zeroes, flush()])
            .unwrap_err();
        assert!(
            matches!(error, QueueError::Request { submitted: 2, .. }),
            "{error:?}"
        );
        assert_eq!(disk.settle().unwrap().len(), 2);
        assert_eq!(disk.spare.len(), ENTRIES);
    });
}

#[test]
fn a_status_says_whether_to_try_again() {
    with_disk(3, Config::default(), |disk| {
        let mut outcome = |kind, code, do_not_retry| {
            let status = ModelStatus {
                kind,
                code,
                do_not_retry,
            };
            disk.rig.nvme.fail_next(StatusRule {
                queue: Some(1),
                opcode: None,
                status,
                count: 1,
            });
            let mut write = request(BlockOperation::Write, 3, 1, 9);
            write.buffer = disk.buffer(1);
            disk.queue.submit([write]).unwrap();
            let done = disk.settle().unwrap().pop().unwrap();
            assert!(done.buffer.is_some());
            disk.spare.extend(done.buffer);
            done.status.unwrap_err()
        };
        let media = outcome(2, 0x81, false);
        assert_eq!((media.type_and_code(), media.may_retry()), (0x281, true));
        assert!(!outcome(2, 0x80, true).may_retry());
        assert!(!outcome(0, 0x07, false).may_retry());
    });
}

/// One step of a random run.
#[derive(Clone, Debug)]
enum Step {
    Submit(BlockOperation, u64, u32, u8),
    Poll(usize),
    Run(u64),
    Fault(Fault, When),
}

fn step(faults: bool) -> impl Strategy<Value = Step> {
    let operation = prop::sample::select(
        &[
            BlockOperation::Read,
            BlockOperation::Write,
            BlockOperation::WriteThrough,
            BlockOperation::Flush,
            BlockOperation::WriteZeroes,
            BlockOperation::Deallocate,
        ][..],
    );
    let fault = prop::sample::select(&Fault::ALL[..]);
    let when = prop_oneof![Just(When::NEXT), (0..6_u64).prop_map(When::After)];
    let weight = u32::from(faults);
    prop_oneof![
        6 => (operation, 0..BLOCKS + 2, 1..=8_u32, any::<u8>())
            .prop_map(|(operation, lba, blocks, byte)| Step::Submit(operation, lba, blocks, byte)),
        3 => (0..20_usize).prop_map(Step::Poll),
        3 => (0..200_u64).prop_map(Step::Run),
        weight => (fault, when).prop_map(|(fault, when)| Step::Fault(fault, when)),
    ]
}

fn has_data(operation: BlockOperation) -> bool {
    use BlockOperation::{Read, Write, WriteThrough};
    matches!(operation, Read | Write | WriteThrough)
}

/// Everything that was submitted and has not come back: user word, operation, first block, blocks, byte.
type Outstanding = Vec<(u64, BlockOperation, u64, u32, u8)>;

fn submit(
    disk: &mut Disk<'_>,
    outstanding: &mut Outstanding,
    user: u64,
    step: (BlockOperation, u64, u32, u8),
) {
    let (operation, lba, blocks, byte) = step;
    let has_data = has_data(operation);
    // Two commands on the same block may be carried out in any order: then nothing could be said about its contents.
    let overlaps = |other: &(u64, BlockOperation, u64, u32, u8)| {
        other.2 < lba + u64::from(blocks) && lba < other.2 + u64::from(other.3)
    };
    if disk.queue.room() == 0
        || outstanding.iter().any(overlaps)
        || has_data && disk.spare.is_empty()
    {
        return;
    }
    let mut request = request(operation, lba, blocks, user);
    request.buffer = if has_data { disk.buffer(byte) } else { None };
    assert_eq!(disk.queue.submit([request]), Ok(1));
    outstanding.push((user, operation, lba, blocks, byte));
}

/// Takes one completion: it must be of a command outstanding, and a read must hold what was written.
fn check(
    disk: &mut Disk<'_>,
    outstanding: &mut Outstanding,
    done: BlockCompletion<Status>,
    intact: bool,
) {
    let index = outstanding
        .iter()
        .position(|known| known.0 == done.user)
        .unwrap();
    let (_, operation, lba, blocks, byte) = outstanding.swap_remove(index);
    let inside = lba + u64::from(blocks) <= BLOCKS;
    if intact {
        let flush = operation == BlockOperation::Flush;
        assert_eq!(
            done.status.is_ok(),
            inside || flush,
            "{operation:?} {lba} {blocks} {:?}",
            done.status
        );
    }
    if inside && done.status.is_ok() {
        let range = usize::try_from(lba).unwrap()..usize::try_from(lba).unwrap() + blocks as usize;
        match operation {
            BlockOperation::Read => {
                let bytes = disk.arena.bytes(done.buffer.as_ref().unwrap());
                let blocks = bytes.chunks(512).zip(&disk.expected[range]);
                assert!(
                    blocks
                        .into_iter()
                        .all(|(block, &byte)| block.iter().all(|&found| found == byte))
                        || !intact
                );
            }
            BlockOperation::Write | BlockOperation::WriteThrough => disk.expected[range].fill(byte),
            BlockOperation::WriteZeroes | BlockOperation::Deallocate => {
                disk.expected[range].fill(0);
            }
            BlockOperation::Flush | _ => {}
        }
    }
    disk.spare.extend(done.buffer);
}

/// Runs `steps`; with faults, what comes back needs only be of a command outstanding, once.
fn run(disk: &mut Disk<'_>, steps: Vec<Step>, intact: bool) {
    let mut outstanding = Outstanding::new();
    for (user, step) in (0..).zip(steps) {
        match step {
            Step::Submit(operation, lba, blocks, byte) => {
                submit(disk, &mut outstanding, user, (operation, lba, blocks, byte));
            }
            Step::Run(count) => {
                disk.rig.world.settle(count);
            }
            Step::Fault(fault, when) => disk.rig.nvme.faults().inject(fault, when),
            Step::Poll(budget) => {
                let mut ended = Vec::new();
                let outcome = disk.queue.poll(budget, |done| ended.push(done));
                assert!(ended.len() <= budget);
                for done in ended {
                    check(disk, &mut outstanding, done, intact);
                }
                if let Err(error) = outcome {
                    assert!(
                        matches!(error, QueueError::Completion(_)) && !intact,
                        "{error:?}"
                    );
                    return;
                }
            }
        }
    }
    if intact {
        for done in disk.settle().unwrap() {
            check(disk, &mut outstanding, done, true);
        }
        assert!(outstanding.is_empty());
        assert_eq!(disk.spare.len(), ENTRIES);
        disk.rig.world.trace().assert_clean();
        assert_eq!(disk.rig.memory.escapes(), []);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Without faults every request ends, and every read returns what was written last.
    #[test]
    fn blocks_hold_what_was_written(seed: u64, steps in prop::collection::vec(step(false), 1..120)) {
        with_disk(seed, Config::default(), |disk| run(disk, steps, true));
    }

    /// Under every fault: no panic, no completion of what was not outstanding, and an error where the device lies.
    #[test]
    fn faults_end_in_an_error_or_not_at_all(seed: u64, steps in prop::collection::vec(step(true), 1..120)) {
        with_disk(seed, Config::default(), |disk| run(disk, steps, false));
    }
}

/// A queue pair is lost in the middle of its work, revived, and works.
#[test]
fn a_reset_under_load_loses_no_buffer() {
    for seed in 0..20 {
        let rig = Rig::new(seed, Config::default());
        let mut tables = Tables::new(4);
        let mut commands = CommandTable::new();
        let mut again = CommandTable::new();
        let mut driver = rig.bring_up(&mut tables);
        let mut arena = rig.arena(ENTRIES, 4096);
        let mut disk = rig.kernel_queue(&mut driver, &mut commands, &arena);
        let reads = |arena: &mut BlockArena<'_>| -> Vec<_> {
            let buffers = core::iter::from_fn(|| arena.take()).take(ENTRIES - 1);
            buffers
                .map(|buffer| BlockRequest {
                    buffer: Some(buffer),
                    ..request(BlockOperation::Read, 0, 8, 1)
                })
                .collect()
        };
        assert_eq!(disk.submit(reads(&mut arena)), Ok(ENTRIES - 1));
        rig.world.settle(seed * 7);
        driver.begin_reset(rig.now());
        assert_eq!(rig.wait(|now| driver.poll_reset(now)), Some(Ok(())));
        let mut buffers = Vec::new();
        // SAFETY: the controller was reset.
        #[expect(unsafe_code, reason = "the test's own promise")]
        unsafe {
            disk.abandon(|_, buffer| buffers.extend(buffer));
        }
        assert_eq!(buffers.len(), ENTRIES - 1);
        assert_eq!(driver.take_back(queue(1)).map(|_| ()), Ok(()));
        let mut disk = rig.kernel_queue(&mut driver, &mut again, &arena);
        let write = BlockRequest {
            buffer: buffers.pop(),
            ..request(BlockOperation::Write, 0, 8, 2)
        };
        assert_eq!(disk.submit([write]), Ok(1));
        rig.world.run_for(Duration::from_millis(1));
        let mut statuses = Vec::new();
        disk.poll(ENTRIES, |done| statuses.push(done.status))
            .unwrap();
        assert_eq!(statuses, [Ok(())]);
        assert_eq!(
            driver.poll_pair(queue(1), rig.now()),
            Poll::Ready(PairState::Live)
        );
        rig.world.trace().assert_clean();
    }
}
