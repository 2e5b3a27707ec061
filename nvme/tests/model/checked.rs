//! `Checked` mode end to end: a process's data half, the kernel's part, and the model, which audits every transfer.
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use core::time::Duration;

use crate::rig::{DEVICE, Driver, ENTRIES, Rig, Tables, queue};
use parakernel_core::{
    abi::{LeaseRing, SharedDoorbell, StatusPage, SubmissionPage},
    address::{BusAddress, Direction, Iova, NodeId},
    device::DeviceId,
    handle::{ProcessId, Slot},
    memory::{
        BlockArena, BlockBuffer, Extent, ExtentSlot, PageSlot, Region, RegionStorage, RegionTable,
        SharedMemory,
    },
    queue::{BlockOperation, BlockQueue, BlockRequest, Lba},
    ring::Position,
    validate::Violation,
    volume::{Identity, Volume},
};
use parakernel_mock_hw::{
    fault::{Fault, When},
    memory::{Lease, Range},
    nvme::{Config, NamespaceConfig},
    pci::Bar,
};
use parakernel_nvme::{
    checked::{CheckedMemory, CheckedQueue, Claim, ServiceError},
    controller::{PairState, QueueId},
    doorbell::RegisterDoorbell,
    error::CompletionError,
    prp::{ListTables, write_tables},
    queue::{CommandTable, DataPointer, Queue, QueueConfig, Rings},
    validate::{BusyMark, Rules},
};
use proptest::prelude::*;

const FIRST: u64 = 100;
const BLOCKS: u64 = 400;
const BUFFER: usize = 64 << 10;
const BUFFERS: usize = 20;
const PROCESS: Lease = Lease(7);
/// Where the process finds its buffers in its own I/O address space.
const IOVA: u64 = 0x20_0000;

/// The records of one process and its lease.
struct Records {
    submission: SubmissionPage,
    status: StatusPage,
    busy: [BusyMark; ENTRIES],
    commands: CommandTable<ENTRIES>,
    regions: [Slot<parakernel_core::memory::RegionEntry>; 2],
    extents: [ExtentSlot; 4],
    pages: [PageSlot; BUFFERS * BUFFER / 4096],
}

impl Records {
    fn new() -> Self {
        Self {
            submission: SubmissionPage::default(),
            status: StatusPage::default(),
            busy: [BusyMark::FREE; ENTRIES],
            commands: CommandTable::new(),
            regions: [const { Slot::EMPTY }; 2],
            extents: [ExtentSlot::EMPTY; 4],
            pages: [PageSlot::EMPTY; BUFFERS * BUFFER / 4096],
        }
    }
}

/// A process with one queue pair, and the kernel's end of it.
struct Lab<'m> {
    rig: &'m Rig,
    process: Queue<'m, SharedDoorbell<'m>, ENTRIES>,
    kernel: CheckedQueue<'m, RegisterDoorbell<'m, Bar>>,
    regions: RegionTable<'m>,
    arena: BlockArena<'m>,
    spare: Vec<BlockBuffer>,
    shadow: SharedMemory<'m>,
    completions: SharedMemory<'m>,
    submission: &'m SubmissionPage,
    status: &'m StatusPage,
}

fn config() -> Config {
    Config {
        namespaces: vec![
            NamespaceConfig {
                blocks: 1000,
                block_len: 512,
            },
            NamespaceConfig::default(),
        ],
        ..Config::default()
    }
}

/// Registers the process's buffers, which lie in two pieces on the bus, and writes the region's tables.
fn register<'m>(rig: &'m Rig, records: RegionStorage<'m>) -> (RegionTable<'m>, BlockArena<'m>) {
    let len = BUFFERS * BUFFER;
    let memory: Range = rig.memory.allocate(len).unwrap();
    rig.memory
        .grant(DEVICE, memory, Direction::Bidirectional, PROCESS);
    let mut table = RegionTable::new(ProcessId::new(1, 1), Iova::new(IOVA), records, &[]).unwrap();
    let bus = memory.start.as_u64();
    let halves = [bus, bus + len as u64 / 2].map(|bus| Extent {
        bus: BusAddress::new(bus),
        len: len as u64 / 2,
    });
    let region = Region {
        iova: Iova::new(IOVA),
        len: len as u64,
        direction: Direction::Bidirectional,
        node: NodeId::new(0),
    };
    let id = table.insert(region, &halves).unwrap();
    let pages = (0..len / 4096).map(|n| BusAddress::new(bus + n as u64 * 4096));
    let tables = usize::try_from(ListTables::bytes(len as u64 / 4096)).unwrap();
    let block = rig.memory.lend(DEVICE, tables, crate::rig::KERNEL).unwrap();
    table
        .attach_lists(id, write_tables(&block, pages).unwrap())
        .unwrap();
    let base = rig.memory.pointer(memory).unwrap();
    // SAFETY: allocated for this arena alone, and never freed.
    #[expect(unsafe_code, reason = "a process's view of its buffers")]
    let arena = unsafe { BlockArena::new(base, len, Iova::new(IOVA), BUFFER) };
    (table, arena.unwrap())
}

/// The kernel's end of pair 1, confined to the volume.
fn kernel_end<'m>(
    rig: &Rig,
    driver: &Driver<'m>,
    shadow: SharedMemory<'m>,
    [submission, completion]: [SharedMemory<'m>; 2],
    busy: &'m mut [BusyMark],
) -> CheckedQueue<'m, RegisterDoorbell<'m, Bar>> {
    let volume = Volume {
        device: DeviceId::new(0),
        namespace: 1,
        start: Lba::new(FIRST),
        blocks: BLOCKS,
        owner: Identity(1),
    };
    let pair = driver.pair(queue(1)).unwrap();
    let data = driver.namespaces().next().unwrap().data.unwrap();
    let rules = Rules::new(&volume, &data, driver.limits().max_transfer).unwrap();
    let memory = CheckedMemory {
        shadow,
        submission,
        completion,
        busy,
    };
    let doorbells = [
        pair.tail_doorbell(rig.nvme.bar0()),
        pair.head_doorbell(rig.nvme.bar0()),
    ];
    CheckedQueue::new(pair.queue, pair.size, memory, rules, doorbells).unwrap()
}

impl<'m> Lab<'m> {
    fn new(rig: &'m Rig, driver: &mut Driver<'m>, records: &'m mut Records) -> Self {
        let memory = rig.pair_memory();
        let rings = [memory.submission.memory(), memory.completion.memory()];
        let completions = rings[1];
        driver
            .begin_create(queue(1), memory, rig.now())
            .map_err(|(error, _)| error)
            .unwrap();
        assert_eq!(
            rig.wait(|now| driver.poll_pair(queue(1), now)),
            Some(PairState::Live)
        );
        let namespace = *driver.namespaces().next().unwrap();
        let shadow = rig
            .memory
            .shared(rig.memory.allocate(64 * ENTRIES).unwrap())
            .unwrap();
        let kernel = kernel_end(rig, driver, shadow, rings, &mut records.busy);
        let storage = RegionStorage {
            regions: &mut records.regions,
            extents: &mut records.extents,
            pages: &mut records.pages,
        };
        let (regions, mut arena) = register(rig, storage);
        let config = QueueConfig {
            queue: queue(1),
            namespace: namespace.id,
            blocks: namespace.data.unwrap(),
            max_transfer: driver.limits().max_transfer,
            pointer: DataPointer::ByKernel,
            ranges: None,
        };
        let (submission, status) = (&records.submission, &records.status);
        let doorbells = [LeaseRing::First, LeaseRing::Second]
            .map(|ring| SharedDoorbell::new(submission, status, ring));
        let rings = Rings::new(shadow, rings[1]).unwrap();
        let process = Queue::new(config, rings, &mut records.commands, &arena, doorbells).unwrap();
        let spare = core::iter::from_fn(|| arena.take()).collect();
        Self {
            rig,
            process,
            kernel,
            regions,
            arena,
            spare,
            shadow,
            completions,
            submission,
            status,
        }
    }

    /// The system call: the kernel reads the process's claims once, and says how far it got.
    fn call(&mut self, budget: u32) -> Result<(), ServiceError> {
        let claimed =
            |ring: LeaseRing| Position::new(self.submission.tails[ring as usize].load(Relaxed));
        let claim = Claim {
            tail: claimed(LeaseRing::First),
            head: claimed(LeaseRing::Second),
        };
        let accepted = self.kernel.service(claim, &self.regions, budget)?;
        self.status.accepted[LeaseRing::First as usize].store(accepted.as_u32(), Relaxed);
        Ok(())
    }

    /// Writes a command into the shadow ring as a process may that does not keep to the data half.
    fn forge(&self, slot: usize, words: [u64; 8]) {
        let entry = self.shadow.slice::<AtomicU64>(slot * 64, 8).unwrap();
        for (cell, word) in entry.iter().zip(words) {
            cell.store(word.to_le(), Relaxed);
        }
    }

    fn claim(&self, ring: LeaseRing, position: u32) {
        self.submission.tails[ring as usize].store(position, Relaxed);
    }

    fn request(
        &mut self,
        operation: BlockOperation,
        lba: u64,
        blocks: u32,
        byte: u8,
    ) -> Option<BlockRequest> {
        let mut buffer = self.spare.pop()?;
        self.arena.bytes_mut(&mut buffer).fill(byte);
        Some(BlockRequest {
            buffer: Some(buffer),
            ..crate::rig::request(operation, lba, blocks, lba)
        })
    }

    /// Calls and polls until nothing is in flight.
    fn finish(&mut self) -> usize {
        let mut ended = 0;
        for _ in 0..200 {
            self.call(3).unwrap();
            self.rig.world.run_for(Duration::from_micros(200));
            let Self { process, spare, .. } = self;
            ended += process
                .poll(4, |done| {
                    assert_eq!(done.status, Ok(()));
                    spare.extend(done.buffer);
                })
                .unwrap();
            if self.process.room() == ENTRIES - 1 {
                break;
            }
        }
        ended
    }
}

/// Brings everything up, and hands it to `run` with the driver.
fn with_lab(seed: u64, run: impl FnOnce(&mut Lab<'_>, &mut Driver<'_>)) {
    let rig = Rig::new(seed, config());
    let mut tables = Tables::new(4);
    let mut records = Records::new();
    let mut driver = rig.bring_up(&mut tables);
    let mut lab = Lab::new(&rig, &mut driver, &mut records);
    run(&mut lab, &mut driver);
    assert_eq!(rig.memory.escapes(), [], "a transfer that no lease allows");
}

#[test]
fn transfers_of_every_length_arrive_where_the_process_meant_them() {
    with_lab(1, |lab, _| {
        for blocks in [1_u32, 7, 8, 9, 16, 17, 24, 63, 64, 65, 127, 128] {
            let byte = blocks.to_le_bytes()[0];
            let write = lab
                .request(BlockOperation::Write, FIRST + 5, blocks, byte)
                .unwrap();
            assert_eq!(lab.process.submit([write]), Ok(1));
            assert_eq!(lab.finish(), 1);
            let stored = lab
                .rig
                .nvme
                .read_blocks(1, FIRST + 5, blocks.into())
                .unwrap();
            assert!(stored.iter().all(|&found| found == byte), "{blocks}");
            let read = lab
                .request(BlockOperation::Read, FIRST + 5, blocks, 0xff)
                .unwrap();
            assert_eq!(lab.process.submit([read]), Ok(1));
            assert_eq!(lab.finish(), 1);
            let bytes = lab.arena.bytes(lab.spare.last().unwrap());
            let (data, rest) = bytes.split_at(blocks as usize * 512);
            assert!(
                data.iter().all(|&found| found == byte) && rest.iter().all(|&found| found == 0xff)
            );
        }
        lab.rig.world.trace().assert_clean();
    });
}

#[test]
fn a_process_that_keeps_the_rules_gets_everything_done() {
    for seed in 0..10 {
        with_lab(seed, |lab, _| {
            let mut ended = 0;
            for round in 0..60_u64 {
                let requests: Vec<_> = (0..round % 16)
                    .filter_map(|n| lab.request(BlockOperation::Write, FIRST + n * 16, 16, 1))
                    .collect();
                ended += requests.len();
                let room = lab.process.room();
                assert!(requests.len() <= room);
                lab.process.submit(requests).unwrap();
                lab.process
                    .submit(
                        (room > 15).then(|| crate::rig::request(BlockOperation::Flush, 0, 0, 0)),
                    )
                    .unwrap();
                ended += usize::from(room > 15 && round % 16 < 15);
                lab.finish();
            }
            assert!(ended > 400 && lab.spare.len() == BUFFERS);
            lab.rig.world.trace().assert_clean();
        });
    }
}

/// A read of 8 blocks at the beginning of the volume into the first buffer, under id 0.
const READ: [u64; 8] = [1 << 32 | 2, 0, 0, IOVA, 0, FIRST, 7, 0];

/// `READ` with one word changed.
fn with(index: usize, word: u64) -> [u64; 8] {
    let mut words = READ;
    words[index] = word;
    words
}

/// Lets a process try each, and fail as told, without any transfer.
fn try_all<const N: usize>(attacks: [(&str, [u64; 8], Violation); N]) {
    for (name, words, violation) in attacks {
        with_lab(1, |lab, _| {
            lab.forge(0, words);
            lab.claim(LeaseRing::First, 1);
            let error = lab.call(16).unwrap_err();
            assert_eq!(error, ServiceError::Violation(violation), "{name}");
            assert_eq!(lab.kernel.in_flight(), 0);
            lab.rig.world.run_for(Duration::from_millis(1));
            assert_eq!(lab.rig.memory.allowed(PROCESS).transfers, 0, "{name}");
        });
    }
}

#[test]
fn addresses_and_blocks_outside_never_reach_the_controller() {
    let end = IOVA + (BUFFERS * BUFFER) as u64;
    let outside = |iova| Violation::OutsideRegions {
        iova: Iova::new(iova),
        len: 4096,
    };
    let volume = |lba| Violation::OutsideVolume {
        lba: Lba::new(lba),
        blocks: 8,
    };
    try_all([
        ("an address outside its regions", with(3, end), outside(end)),
        (
            "an address below them",
            with(3, IOVA - 4096),
            outside(IOVA - 4096),
        ),
        ("the MSI window", with(3, 0xfee0_0000), outside(0xfee0_0000)),
        (
            "an address that is not a multiple of 4",
            with(3, IOVA + 2),
            Violation::Forbidden { field: 2 },
        ),
        (
            "a second page where none belongs",
            with(4, 0x1000),
            Violation::Forbidden { field: 0x1000 },
        ),
        (
            "a block before its volume",
            with(5, FIRST - 1),
            volume(FIRST - 1),
        ),
        (
            "a block behind its volume",
            with(5, FIRST + BLOCKS - 7),
            volume(FIRST + BLOCKS - 7),
        ),
        (
            "blocks that wrap",
            with(5, u64::MAX - 3),
            volume(u64::MAX - 3),
        ),
        (
            "more than a command may transfer",
            with(6, 256),
            Violation::Length { len: 257 * 512 },
        ),
    ]);
}

#[test]
fn other_commands_and_forms_never_reach_the_controller() {
    let opcode = |opcode: u64| with(0, 1 << 32 | opcode);
    let forbidden = |field| Violation::Forbidden { field };
    let command = |opcode| Violation::Opcode { opcode };
    try_all([
        (
            "another namespace",
            with(0, 2 << 32 | 2),
            Violation::Namespace { id: 2 },
        ),
        (
            "all namespaces",
            with(0, 0xffff_ffff << 32),
            Violation::Namespace { id: u32::MAX },
        ),
        ("a vendor's opcode", opcode(0x80), command(0x80)),
        ("a deallocation by a list", opcode(0x09), command(0x09)),
        ("a reservation", opcode(0x0d), command(0x0d)),
        ("a fused command", opcode(0x0102), forbidden(0x0100)),
        ("an SGL", opcode(0x4002), forbidden(0x4000)),
        ("a metadata pointer", with(2, IOVA), forbidden(IOVA)),
        (
            "protection information",
            with(6, 7 | 1 << 26),
            forbidden(1 << 26),
        ),
        (
            "an id beyond the ring",
            opcode(16 << 16 | 2),
            Violation::IndexOutOfRange { index: 16 },
        ),
    ]);
}

#[test]
fn what_was_accepted_before_a_violation_is_carried_out() {
    with_lab(2, |lab, _| {
        lab.forge(0, READ);
        lab.forge(1, with(0, 1 << 32 | 1 << 16 | 2));
        lab.forge(2, with(0, 0xffff << 32));
        lab.claim(LeaseRing::First, 3);
        assert!(matches!(
            lab.call(16),
            Err(ServiceError::Violation(Violation::Namespace { .. }))
        ));
        assert_eq!(lab.kernel.in_flight(), 2);
        lab.rig.world.run_for(Duration::from_millis(1));
        assert_eq!(lab.kernel.drain(), Ok(0));
    });
}

#[test]
fn ids_in_flight_tails_and_heads_are_the_kernels_to_know() {
    with_lab(3, |lab, _| {
        // The same id twice, before the first has completed.
        lab.forge(0, READ);
        lab.forge(1, READ);
        lab.claim(LeaseRing::First, 2);
        assert_eq!(
            lab.call(16),
            Err(ServiceError::Violation(Violation::Busy { id: 0 }))
        );
        lab.rig.world.run_for(Duration::from_millis(1));
        // A head that claims completions that never came frees nothing but what came.
        lab.claim(LeaseRing::Second, 9);
        for (n, claimed) in [(1, 1 + 15), (1, 17), (1, u32::MAX), (1, 0)] {
            lab.claim(LeaseRing::First, claimed);
            let fits = claimed == 16;
            let outcome = lab.call(0);
            let jump = Violation::TailJump {
                claimed,
                accepted: n,
            };
            assert_eq!(
                outcome,
                if fits {
                    Ok(())
                } else {
                    Err(ServiceError::Violation(jump))
                },
                "{claimed}"
            );
        }
        // A head that goes back makes the ring shorter, for this process only.
        lab.claim(LeaseRing::Second, 0);
        lab.claim(LeaseRing::First, 1);
        assert_eq!(lab.call(16), Ok(()));
        lab.rig.world.trace().assert_clean();
    });
}

#[test]
fn a_process_that_takes_no_completions_stops_itself_only() {
    with_lab(4, |lab, _| {
        for n in 0..ENTRIES as u64 - 1 {
            lab.forge(usize::try_from(n).unwrap(), with(0, 1 << 32 | n << 16 | 2));
        }
        lab.claim(LeaseRing::First, 15);
        assert_eq!(lab.call(16), Ok(()));
        lab.rig.world.run_for(Duration::from_millis(1));
        assert_eq!(lab.call(16), Ok(()));
        assert_eq!(lab.kernel.in_flight(), 0);
        assert_eq!(lab.kernel.has_news(Position::START), Ok(true));
        // All ids are free, but the completion ring is full of what was not taken.
        lab.forge(15, READ);
        lab.claim(LeaseRing::First, 16);
        assert!(matches!(
            lab.call(16),
            Err(ServiceError::Violation(Violation::TailJump { .. }))
        ));
        lab.rig.world.trace().assert_clean();
    });
}

#[test]
fn a_command_that_changes_after_the_copy_is_the_one_that_was_checked() {
    with_lab(5, |lab, _| {
        lab.forge(0, READ);
        lab.claim(LeaseRing::First, 1);
        assert_eq!(lab.call(16), Ok(()));
        // The controller has not fetched anything yet; it will not fetch from here.
        lab.forge(0, with(5, 0));
        lab.rig.world.run_for(Duration::from_millis(1));
        assert_eq!(
            (lab.kernel.drain(), lab.rig.nvme.counts().failed),
            (Ok(0), 0)
        );
        assert_eq!(lab.rig.memory.allowed(PROCESS).bytes, 4096);
    });
}

/// The order of a revocation: fence, drain, delete; then no byte moves any more.
#[test]
fn nothing_moves_after_a_pair_is_deleted() {
    for seed in 0..50 {
        with_lab(seed, |lab, driver| {
            let requests: Vec<_> = (0..12)
                .filter_map(|_| lab.request(BlockOperation::Read, FIRST, 128, 0))
                .collect();
            assert_eq!(lab.process.submit(requests), Ok(12));
            lab.call(16).unwrap();
            lab.rig.world.settle(seed * 5);
            // Half of the runs drain first, the others delete with commands in flight.
            if seed % 2 == 0 {
                let drained = lab.rig.wait(|_| match lab.kernel.drain() {
                    Ok(0) => core::task::Poll::Ready(()),
                    _ => core::task::Poll::Pending,
                });
                assert_eq!(drained, Some(()));
            }
            driver.begin_delete(queue(1), lab.rig.now()).unwrap();
            let gone = lab.rig.wait(|now| driver.poll_pair(queue(1), now));
            assert_eq!(gone, Some(PairState::Gone(None)));
            let before = lab.rig.memory.allowed(PROCESS);
            lab.rig.memory.end(PROCESS);
            lab.rig.world.run_for(Duration::from_millis(5));
            assert_eq!(lab.rig.memory.allowed(PROCESS), before);
        });
    }
}

#[test]
fn a_controller_that_lies_is_found_out_by_the_kernel() {
    for fault in [Fault::BadId, Fault::DuplicateCompletion, Fault::StuckDone] {
        let mut found = 0;
        for seed in 0..20 {
            with_lab(seed, |lab, _| {
                lab.rig.nvme.faults().inject(fault, When::After(seed % 3));
                for n in 0..6 {
                    lab.forge(n, with(0, 1 << 32 | (n as u64) << 16 | 2));
                }
                lab.claim(LeaseRing::First, 6);
                lab.call(16).unwrap();
                lab.rig.world.run_for(Duration::from_millis(1));
                match lab.call(16) {
                    // An entry that is left out looks like a command that takes its time: that is for a deadline to end.
                    Ok(()) => found += usize::from(lab.kernel.in_flight() > 0),
                    Err(ServiceError::Completion(CompletionError::CommandId { .. })) => found += 1,
                    Err(other) => assert_eq!(other.to_string(), "", "{fault:?}"),
                }
            });
        }
        assert!(found > 0, "{fault:?} was never found");
    }
}

/// An entry of this round that names another queue is no completion of this one, and no gap either.
#[test]
fn a_completion_for_another_queue_is_an_error() {
    for id in [0_u16, 2, u16::MAX] {
        with_lab(1, |lab, _| {
            lab.forge(0, with(0, 1 << 32 | 2));
            lab.claim(LeaseRing::First, 1);
            lab.call(16).unwrap();
            // Success of command 0 in the first round, whose phase is 1.
            let last = lab.completions.view::<AtomicU64>(8).unwrap();
            last.store((u64::from(id) << 16 | 1 << 48).to_le(), Relaxed);
            let lie = ServiceError::Completion(CompletionError::QueueId { id });
            assert_eq!(lab.call(16), Err(lie));
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever a process writes into its ring and claims: no transfer outside its memory, none outside its blocks.
    #[test]
    fn nothing_a_process_writes_leaves_its_memory_and_volume(
        seed: u64,
        entries in prop::collection::vec((any::<u8>(), 0..9_usize, any::<u64>()), 1..60),
        claims in prop::collection::vec((0..20_u32, 0..20_u32), 1..8),
    ) {
        with_lab(seed, |lab, _| {
            for (slot, (byte, index, word)) in entries.iter().enumerate() {
                let write = if byte % 2 == 0 { 1 } else { 2 };
                let id = u64::from(byte % 16) << 16;
                let mut words = with(0, 1 << 32 | id | write);
                words[3] += u64::from(*byte) * 2048;
                if let Some(odd) = words.get_mut(*index).filter(|_| byte % 3 == 0) {
                    *odd = *word;
                }
                lab.forge(slot % ENTRIES, words);
            }
            for (tail, head) in claims {
                lab.claim(LeaseRing::First, tail);
                lab.claim(LeaseRing::Second, head);
                if lab.call(16).is_err() {
                    break;
                }
                lab.rig.world.settle(u64::from(tail) * 7);
            }
            lab.rig.world.run_for(Duration::from_millis(2));
            lab.rig.world.trace().assert_clean();
            let untouched = [0..FIRST, FIRST + BLOCKS..1000];
            for range in untouched {
                let bytes = lab.rig.nvme.read_blocks(1, range.start, range.end - range.start).unwrap();
                assert!(bytes.iter().all(|&byte| byte == 0));
            }
        });
    }
}

#[test]
fn only_queues_with_ids_are_pairs() {
    assert_eq!(QueueId::new(0), None);
}
