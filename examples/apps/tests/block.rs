//! The block benchmark on a disk in memory: it finds its own blocks, and everything that is wrong with them.
#![expect(clippy::unwrap_used, unsafe_code, reason = "tests; makes arenas")]

extern crate alloc;

use alloc::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    rc::Rc,
};
use core::{cell::RefCell, ptr::NonNull};

use parakernel_apps::{
    block::{self, Job, Lane, Load, Statistics, Volume},
    executor::Flag,
    pattern::Stamp,
    runtime::{Metric, Runtime},
};
use parakernel_core::{
    address::Iova,
    error::ErrorKind,
    memory::BlockArena,
    queue::{BlockCompletion, BlockOperation, BlockQueue, BlockRequest},
    time::Instant,
};
use proptest::prelude::*;

const BUFFER: usize = 0x4000;
const OWNER: u64 = 0x51;

/// What a disk does wrong, every so many times.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Fault(Wrong, usize);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wrong {
    Nothing,
    /// A read returns one byte flipped.
    FlipsByte,
    /// A write is lost.
    LosesWrite,
    /// A write goes to the next block.
    Misplaces,
    /// A request fails.
    Fails,
    /// A request breaks the queue for good.
    Breaks,
    /// Nothing is completed from then on.
    Hangs,
}

const NONE: Fault = Fault(Wrong::Nothing, 1);

impl Fault {
    /// Whether the `count`-th time is one for this fault.
    fn strikes(self, wrong: Wrong, count: usize) -> bool {
        self.0 == wrong && count > 0 && count.is_multiple_of(self.1)
    }
}

struct Disk {
    bytes: Vec<u8>,
    block_len: usize,
    fault: Fault,
    requests: usize,
    reads: usize,
    writes: usize,
    /// Operations and numbers of blocks that were asked for.
    seen: BTreeSet<(String, u32)>,
    deepest: usize,
}

/// A queue pair of a disk: completes what it was given in an order of its own.
struct Queue<'a> {
    disk: Rc<RefCell<Disk>>,
    arena: &'a BlockArena<'a>,
    entries: usize,
    random: u64,
    in_flight: VecDeque<BlockRequest>,
}

impl BlockQueue for Queue<'_> {
    type Error = ErrorKind;
    type Status = ErrorKind;

    fn submit(
        &mut self,
        requests: impl IntoIterator<Item = BlockRequest>,
    ) -> Result<usize, ErrorKind> {
        let room = self.entries - self.in_flight.len();
        let before = self.in_flight.len();
        self.in_flight.extend(requests.into_iter().take(room));
        let mut disk = self.disk.borrow_mut();
        disk.deepest = disk.deepest.max(self.in_flight.len());
        Ok(self.in_flight.len() - before)
    }

    fn poll(
        &mut self,
        budget: usize,
        mut done: impl FnMut(BlockCompletion<ErrorKind>),
    ) -> Result<usize, ErrorKind> {
        let mut count = 0;
        while count < budget {
            // xorshift64: which request is next, and whether one is at all.
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            let pick = usize::try_from(self.random >> 33).unwrap();
            if self.in_flight.is_empty() || pick.is_multiple_of(5) {
                break;
            }
            if self.disk.borrow().hangs() {
                break;
            }
            let mut request = self.in_flight.remove(pick % self.in_flight.len()).unwrap();
            let status = self.disk.borrow_mut().carry_out(&mut request, self.arena)?;
            done(BlockCompletion {
                user: request.user,
                status,
                buffer: request.buffer,
            });
            count += 1;
        }
        Ok(count)
    }
}

impl Disk {
    fn new(blocks: u64, block_len: usize, fault: Fault) -> Rc<RefCell<Self>> {
        let bytes = vec![0xee; usize::try_from(blocks).unwrap() * block_len];
        Rc::new(RefCell::new(Self {
            bytes,
            block_len,
            fault,
            requests: 0,
            reads: 0,
            writes: 0,
            seen: BTreeSet::new(),
            deepest: 0,
        }))
    }

    fn hangs(&self) -> bool {
        self.fault.0 == Wrong::Hangs && self.requests >= self.fault.1
    }

    /// Does what is asked, or what the fault makes of it; the outer error is the queue's.
    fn carry_out(
        &mut self,
        request: &mut BlockRequest,
        arena: &BlockArena<'_>,
    ) -> Result<Result<(), ErrorKind>, ErrorKind> {
        self.requests += 1;
        self.seen
            .insert((format!("{:?}", request.operation), request.blocks));
        if self.fault.strikes(Wrong::Breaks, self.requests) {
            return Err(ErrorKind::Removed);
        }
        if self.fault.strikes(Wrong::Fails, self.requests) {
            return Ok(Err(ErrorKind::Device));
        }
        let len = request.blocks as usize * self.block_len;
        let start = usize::try_from(request.lba.as_u64()).unwrap() * self.block_len;
        let buffer = request.buffer.as_mut();
        match request.operation {
            BlockOperation::Read => self.read(start, &mut arena.bytes_mut(buffer.unwrap())[..len]),
            BlockOperation::Write | BlockOperation::WriteThrough => {
                self.write(start, &arena.bytes(buffer.unwrap())[..len]);
            }
            BlockOperation::WriteZeroes => self.bytes[start..start + len].fill(0),
            BlockOperation::Deallocate => self.bytes[start..start + len].fill(0xdd),
            BlockOperation::Flush => {}
            _ => return Err(ErrorKind::Unsupported),
        }
        Ok(Ok(()))
    }

    fn read(&mut self, start: usize, into: &mut [u8]) {
        into.copy_from_slice(&self.bytes[start..start + into.len()]);
        self.reads += 1;
        if self.fault.strikes(Wrong::FlipsByte, self.reads) {
            let at = self.reads % into.len();
            into[at] ^= 0x10;
        }
    }

    fn write(&mut self, start: usize, bytes: &[u8]) {
        self.writes += 1;
        if self.fault.strikes(Wrong::LosesWrite, self.writes) {
            return;
        }
        let misplaced = self.fault.strikes(Wrong::Misplaces, self.writes);
        let start = start + if misplaced { self.block_len } else { 0 };
        // What is put beyond the end is lost.
        let end = self.bytes.len().min(start + bytes.len());
        self.bytes[start..end].copy_from_slice(&bytes[..end - start]);
    }

    fn stamps(&self) -> Vec<Option<Stamp>> {
        let blocks = self.bytes.chunks_exact(self.block_len);
        blocks.map(|block| Stamp::check(block).ok()).collect()
    }
}

/// A kernel whose clock moves on by a microsecond per turn, and by a second per sleep.
#[derive(Default)]
struct Clock {
    now: u64,
    lines: Vec<String>,
    reported: BTreeMap<&'static str, u64>,
}

impl Runtime for Clock {
    fn now(&mut self) -> Instant {
        Instant::from_nanos(self.now)
    }

    fn end_of_turn(&mut self) {
        self.now += 1000;
    }

    fn wait(&mut self, _deadline: Option<Instant>) {
        self.now += 1_000_000_000;
    }

    fn log(&mut self, line: &str) {
        self.lines.push(line.into());
    }

    fn report(&mut self, metric: Metric, value: u64) {
        self.reported.insert(metric.name(), value);
    }
}

/// A volume in the middle of a disk, and who works on it how.
#[derive(Clone, Copy, Debug)]
struct Case {
    volume: Volume,
    load: Load,
    queues: usize,
    entries: usize,
    buffers: usize,
}

const CASE: Case = Case {
    volume: Volume {
        owner: OWNER,
        namespace: 2,
        first: 100,
        blocks: 333,
        block_len: 512,
    },
    load: Load {
        depth: 128,
        transfer: 32,
        passes: Some(12),
        discard: false,
    },
    queues: 3,
    entries: 63,
    buffers: 200,
};

/// What came of a run.
struct Outcome {
    result: Result<(), ErrorKind>,
    statistics: Statistics,
    clock: Clock,
}

impl Case {
    fn disk(&self, fault: Fault) -> Rc<RefCell<Disk>> {
        let blocks = self.volume.first + self.volume.blocks + 50;
        Disk::new(blocks, self.volume.block_len, fault)
    }

    fn run(&self, disk: &Rc<RefCell<Disk>>) -> Outcome {
        let mut memory = Pages::new(self.buffers * BUFFER);
        let mut arena = memory.arena();
        let mut buffers: Vec<_> = core::iter::from_fn(|| arena.take().map(Some)).collect();
        let queue = |random| {
            Lane::new(Queue {
                disk: Rc::clone(disk),
                arena: &arena,
                entries: self.entries,
                random,
                in_flight: VecDeque::new(),
            })
        };
        let mut lanes: Vec<_> = (1..=self.queues as u64).map(queue).collect();
        let job = Job::new(&mut lanes, &arena, &mut buffers, self.volume, self.load);
        let flags = Box::leak(Box::new([Flag::new()]));
        let (statistics, mut clock) = (Statistics::new(), Clock::default());
        let result = block::run(&mut clock, &mut [job.unwrap()], &statistics, flags);
        if result.is_ok() {
            assert!(buffers.iter().all(Option::is_some), "a buffer was lost");
        }
        Outcome {
            result,
            statistics,
            clock,
        }
    }
}

/// Page-aligned memory.
struct Pages(Vec<Page>);

#[derive(Clone)]
#[repr(align(4096))]
struct Page(#[expect(dead_code, reason = "reached through a pointer")] [u8; 4096]);

impl Pages {
    fn new(bytes: usize) -> Self {
        Self(vec![Page([0; 4096]); bytes.div_ceil(4096)])
    }

    fn arena(&mut self) -> BlockArena<'_> {
        let len = self.0.len() * 4096;
        let base = NonNull::from(self.0.as_mut_slice()).cast();
        // SAFETY: the memory is borrowed for the arena's life, and there is no other arena.
        unsafe { BlockArena::new(base, len, Iova::new(0), BUFFER) }.unwrap()
    }
}

#[test]
fn every_block_of_the_volume_and_no_other_carries_the_last_generation() {
    let disk = CASE.disk(NONE);
    let outcome = CASE.run(&disk);
    outcome.result.unwrap();
    let statistics = outcome.statistics;
    assert_eq!(statistics.written(), 12 * 333);
    assert_eq!(statistics.verified(), 12 * 333);
    assert_eq!((statistics.bad(), statistics.failed()), (0, 0));
    for (lba, stamp) in (0..).zip(disk.borrow().stamps()) {
        let expected = (100..433).contains(&lba).then_some(Stamp {
            owner: OWNER,
            namespace: 2,
            lba,
            generation: 12,
        });
        assert_eq!(stamp, expected, "block {lba}");
    }
}

#[test]
fn passes_have_all_sizes_depths_and_orders() {
    let case = Case {
        queues: 1,
        entries: 200,
        load: Load {
            passes: Some(200),
            ..CASE.load
        },
        volume: Volume {
            blocks: 150,
            ..CASE.volume
        },
        ..CASE
    };
    let disk = case.disk(NONE);
    let outcome = case.run(&disk);
    outcome.result.unwrap();
    let disk = disk.borrow();
    for operation in ["Read", "Write", "WriteThrough"] {
        for size in [1, 2, 4, 8, 16, 32] {
            assert!(
                disk.seen.contains(&(operation.into(), size)),
                "{operation} {size}"
            );
        }
    }
    assert_eq!(disk.deepest, 128);
    let lines = outcome.clock.lines;
    assert_eq!(lines.len(), 200);
    for order in ["in order", "shuffled"] {
        for depth in [1, 2, 4, 8, 16, 32, 64, 128] {
            let is_so = |line: &String| {
                let has = |piece: &str| {
                    piece.contains(order) && piece.contains(&format!("depth {depth})"))
                };
                line.split(',').any(has)
            };
            assert!(lines.iter().any(is_so), "{order} {depth}");
        }
    }
}

#[test]
fn a_second_run_goes_on_with_the_next_generation() {
    let disk = CASE.disk(NONE);
    CASE.run(&disk).result.unwrap();
    CASE.run(&disk).result.unwrap();
    assert_eq!(disk.borrow().stamps()[100].unwrap().generation, 24);
}

#[test]
fn a_pass_that_was_cut_short_is_made_whole_first() {
    let disk = CASE.disk(NONE);
    CASE.run(&disk).result.unwrap();
    disk.borrow_mut().requests = 0;
    // Somewhere in the writing of generation 13, after the survey.
    disk.borrow_mut().fault = Fault(Wrong::Breaks, 20);
    assert_eq!(CASE.run(&disk).result, Err(ErrorKind::Removed));
    let generations = |disk: &Disk| -> BTreeSet<_> {
        let stamps = disk.stamps().into_iter().flatten();
        stamps.map(|stamp| stamp.generation).collect()
    };
    assert_eq!(generations(&disk.borrow()), BTreeSet::from([12, 13]));
    disk.borrow_mut().fault = NONE;
    let once = Case {
        load: Load {
            passes: Some(0),
            ..CASE.load
        },
        ..CASE
    };
    let outcome = once.run(&disk);
    outcome.result.unwrap();
    assert_eq!(generations(&disk.borrow()), BTreeSet::from([13]));
    assert_eq!(outcome.statistics.bad(), 0);
}

#[test]
fn discarding_zeroes_and_deallocates() {
    let case = Case {
        load: Load {
            passes: Some(3),
            discard: true,
            ..CASE.load
        },
        ..CASE
    };
    let disk = case.disk(NONE);
    let outcome = case.run(&disk);
    outcome.result.unwrap();
    assert_eq!(outcome.statistics.verified(), 2 * 3 * 333);
    assert_eq!(outcome.statistics.bad(), 0);
    let disk = disk.borrow();
    assert!(
        disk.bytes[100 * 512..433 * 512]
            .iter()
            .all(|&byte| byte == 0xdd)
    );
    assert!(disk.bytes[433 * 512..].iter().all(|&byte| byte == 0xee));
}

#[test]
fn what_a_bad_disk_does_is_found() {
    for fault in [
        Fault(Wrong::FlipsByte, 7),
        Fault(Wrong::LosesWrite, 5),
        Fault(Wrong::Misplaces, 11),
    ] {
        let outcome = CASE.run(&CASE.disk(fault));
        outcome.result.unwrap();
        assert!(outcome.statistics.bad() > 0, "{fault:?}");
        assert_eq!(outcome.clock.reported["bad"], outcome.statistics.bad());
    }
    let outcome = CASE.run(&CASE.disk(Fault(Wrong::Fails, 10)));
    outcome.result.unwrap();
    assert!(outcome.statistics.failed() >= outcome.statistics.requests() / 10);
    assert!(outcome.clock.reported["bad"] >= outcome.statistics.failed());
}

#[test]
fn a_broken_queue_ends_the_work_and_a_silent_one_too() {
    let outcome = CASE.run(&CASE.disk(Fault(Wrong::Breaks, 100)));
    assert_eq!(outcome.result, Err(ErrorKind::Removed));
    let outcome = CASE.run(&CASE.disk(Fault(Wrong::Hangs, 100)));
    assert_eq!(outcome.result, Err(ErrorKind::Timeout));
}

#[test]
fn jobs_on_several_volumes_run_side_by_side() {
    let mut pages = [Pages::new(64 * BUFFER), Pages::new(64 * BUFFER)];
    let mut arenas = pages.each_mut().map(Pages::arena);
    let mut buffers = arenas
        .each_mut()
        .map(|arena| core::iter::from_fn(|| arena.take().map(Some)).collect::<Vec<_>>());
    let volumes = [
        CASE.volume,
        Volume {
            block_len: 4096,
            blocks: 99,
            ..CASE.volume
        },
    ];
    let disks = volumes.map(|volume| Case { volume, ..CASE }.disk(NONE));
    let lane = |index: usize| {
        Lane::new(Queue {
            disk: Rc::clone(&disks[index]),
            arena: &arenas[index],
            entries: 31,
            random: 9,
            in_flight: VecDeque::new(),
        })
    };
    let (mut small, mut large) = ([lane(0)], [lane(1), lane(1)]);
    let [for_small, for_large] = &mut buffers;
    let load = |transfer| Load {
        transfer,
        passes: Some(5),
        ..CASE.load
    };
    let mut jobs = [
        Job::new(&mut small, &arenas[0], for_small, volumes[0], load(32)).unwrap(),
        Job::new(&mut large, &arenas[1], for_large, volumes[1], load(4)).unwrap(),
    ];
    let flags = Box::leak(Box::new([Flag::new(), Flag::new()]));
    let statistics = Statistics::new();
    block::run(&mut Clock::default(), &mut jobs, &statistics, flags).unwrap();
    assert_eq!(statistics.verified(), 5 * (333 + 99));
    assert_eq!(statistics.bad(), 0);
}

#[test]
fn jobs_that_cannot_work_are_refused() {
    let mut pages = Pages::new(2 * BUFFER);
    let mut arena = pages.arena();
    let mut buffers = [arena.take()];
    let mut lanes = [Lane::new(Queue {
        disk: CASE.disk(NONE),
        arena: &arena,
        entries: 1,
        random: 1,
        in_flight: VecDeque::new(),
    })];
    let Case { volume, load, .. } = CASE;
    let mut refused =
        |volume, load| Job::new(&mut lanes, &arena, &mut buffers, volume, load).is_none();
    assert!(!refused(volume, load));
    assert!(refused(
        volume,
        Load {
            transfer: 33,
            ..load
        }
    ));
    assert!(refused(
        volume,
        Load {
            transfer: 0,
            ..load
        }
    ));
    for block_len in [0, 56, 100] {
        let volume = Volume {
            block_len,
            ..volume
        };
        assert!(refused(volume, load), "{block_len}");
    }
    assert!(refused(volume, Load { depth: 0, ..load }));
    assert!(refused(
        Volume {
            blocks: 0,
            ..volume
        },
        load
    ));
    assert!(refused(
        Volume {
            first: u64::MAX,
            ..volume
        },
        load
    ));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn any_load_on_any_volume_verifies(
        blocks in 1..250_u64,
        large in any::<bool>(),
        depth in 1..=128_usize,
        share in 1..=32_u32,
        queues in 1..4_usize,
        entries in 1..80_usize,
        buffers in 1..100_usize,
    ) {
        let (block_len, most) = if large { (4096, 4) } else { (512, 32) };
        let case = Case {
            volume: Volume { blocks, block_len, ..CASE.volume },
            load: Load { depth, transfer: share.min(most), passes: Some(3), discard: true },
            queues,
            entries,
            buffers,
        };
        let outcome = case.run(&case.disk(NONE));
        prop_assert_eq!(outcome.result, Ok(()));
        prop_assert_eq!(outcome.statistics.written(), 3 * blocks);
        prop_assert_eq!(outcome.statistics.verified(), 6 * blocks);
        prop_assert_eq!(outcome.statistics.bad() + outcome.statistics.failed(), 0);
    }
}
