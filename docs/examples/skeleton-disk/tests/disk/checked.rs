//! A queue that a process has in `Checked` mode, with the kernel in between.
#![expect(
    unsafe_code,
    reason = "an arena at another address than the bus has it"
)]

use std::sync::atomic::Ordering;

use parakernel_core::{
    abi::{LeaseRing, SharedDoorbell, StatusPage, SubmissionPage},
    address::{BusAddress, Direction, Iova, NodeId},
    handle::{ProcessId, Slot},
    memory::{
        BlockArena, Extent, ExtentSlot, PageSlot, Region, RegionStorage, RegionTable, Shared,
    },
    queue::{BlockOperation, BlockQueue},
    ring::Position,
    validate::Violation,
};
use parakernel_mock_hw::{Memory, memory::Range};
use skeleton_disk::{
    checked::Checked,
    error::{QueueError, TakeError},
    queue::Queue,
    regs::TailDoorbell,
    ring::Command,
};

use crate::{DATA, DISK, Machine, N, exchange, model::Defect, request, volume};

/// Where a process finds its memory; on the bus it is somewhere else.
pub(crate) const BASE: u64 = 0x10_0000;
/// Pages of its regions, in their order: buffers, one page that devices only read, one that they only write.
const REGIONS: [(u64, Direction); 3] = [
    (8, Direction::Bidirectional),
    (1, Direction::ToDevice),
    (1, Direction::FromDevice),
];

/// Hands the region table of a process to `run`, whose ten pages lie at `bus` on the bus.
pub(crate) fn with_regions<T>(bus: u64, run: impl FnOnce(&RegionTable<'_>) -> T) -> T {
    let storage = RegionStorage {
        regions: &mut [const { Slot::EMPTY }; 3],
        extents: &mut [ExtentSlot::EMPTY; 3],
        pages: &mut [PageSlot::EMPTY; 10],
    };
    let owner = ProcessId::new(0, 0);
    let mut table = RegionTable::new(owner, Iova::new(BASE), storage, &[]).unwrap();
    let mut offset = 0;
    for (pages, direction) in REGIONS {
        let region = Region {
            iova: Iova::new(BASE + offset),
            len: pages * 4096,
            direction,
            node: NodeId::new(0),
        };
        let bus = BusAddress::new(bus + offset);
        table
            .insert(
                region,
                &[Extent {
                    bus,
                    len: region.len,
                }],
            )
            .unwrap();
        offset += region.len;
    }
    run(&table)
}

/// A process's memory, which the device may reach.
fn memory_of_process(memory: &Memory) -> Range {
    let range = memory.allocate(10 * 4096).unwrap();
    memory.grant(DISK, range, Direction::Bidirectional, DATA);
    range
}

/// The process's buffers, at its own addresses.
fn arena(memory: &Memory, range: Range) -> BlockArena<'_> {
    let base = memory.pointer(range).unwrap();
    // SAFETY: `memory` outlives the arena, and nothing else on the CPU's side touches these pages.
    unsafe { BlockArena::new(base, 8 * 4096, Iova::new(BASE), 4096) }.unwrap()
}

/// A page that the process and the kernel share; no device may reach it.
fn page<T: Shared>(memory: &Memory) -> &T {
    let range = memory.allocate(4096).unwrap();
    memory.shared(range).unwrap().view(0).unwrap()
}

#[test]
fn the_same_data_half_works_behind_the_kernel() {
    for seed in 0..100 {
        let machine = Machine::new(seed, Defect::None);
        let disk = machine.claimed();
        let memory = &machine.memory;
        let range = memory_of_process(memory);

        // What the process has: a shadow ring, its two pages, and its buffers.
        let shadow = page::<[Command; N]>(memory);
        let (submission, status) = (page::<SubmissionPage>(memory), page::<StatusPage>(memory));
        let mut arena = arena(memory, range);
        let doorbell = SharedDoorbell::new(submission, status, LeaseRing::First);
        let mut queue = Queue::new(shadow, disk.answers, &arena, doorbell);

        // What the kernel does in a system call: read the tail once, take commands over, say how far it came.
        let doorbell = TailDoorbell::new(machine.model.clone());
        let mut kernel = Checked::new(shadow, disk.commands, disk.answers, volume(), doorbell);
        with_regions(range.start.as_u64(), |regions| {
            let turn = || {
                let claimed = Position::new(submission.tails[0].load(Ordering::Acquire));
                let accepted = kernel.take(claimed, regions, 3).unwrap();
                status.accepted[0].store(accepted.as_u32(), Ordering::Release);
                machine.world.step();
            };
            exchange(&mut queue, &mut arena, turn);
        });
        assert!(!machine.model.has_failed());
        assert_eq!(memory.escapes(), []);
    }
}

#[test]
fn after_a_violation_nothing_of_the_batch_was_published() {
    let machine = Machine::new(1, Defect::None);
    let disk = machine.claimed();
    let shadow = page::<[Command; N]>(&machine.memory);
    let range = memory_of_process(&machine.memory);
    let mut arena = arena(&machine.memory, range);
    let (submission, status) = (page(&machine.memory), page(&machine.memory));
    let doorbell = SharedDoorbell::new(submission, status, LeaseRing::First);
    let mut queue = Queue::new(shadow, disk.answers, &arena, doorbell);
    // The second block is the first behind the volume.
    let reads = [47, 48].map(|lba| request(BlockOperation::Read, lba, arena.take()));
    assert_eq!(queue.submit(reads), Ok(2));
    let doorbell = TailDoorbell::new(machine.model.clone());
    let mut kernel = Checked::new(shadow, disk.commands, disk.answers, volume(), doorbell);
    let taken = with_regions(range.start.as_u64(), |regions| {
        kernel.take(Position::new(2), regions, 9)
    });
    let violation = Err(TakeError::Process(Violation::OutsideVolume {
        lba: parakernel_core::queue::Lba::new(48),
        blocks: 1,
    }));
    assert_eq!(taken, violation);
    machine.world.settle(100);
    assert_eq!(machine.model.unanswered(), 0);
    assert!(machine.memory.log().is_empty());
}

#[test]
fn a_disk_that_lies_to_the_kernel_ends_the_queue() {
    for defect in [Defect::AnswersStrangers, Defect::AnswersTwice] {
        let machine = Machine::new(1, defect);
        let disk = machine.claimed();
        let shadow = page::<[Command; N]>(&machine.memory);
        let range = memory_of_process(&machine.memory);
        let mut arena = arena(&machine.memory, range);
        let (submission, status) = (page(&machine.memory), page(&machine.memory));
        let doorbell = SharedDoorbell::new(submission, status, LeaseRing::First);
        let mut queue = Queue::new(shadow, disk.answers, &arena, doorbell);
        let read = request(BlockOperation::Read, 8, arena.take());
        assert_eq!(queue.submit([read]), Ok(1));
        let doorbell = TailDoorbell::new(machine.model.clone());
        let mut kernel = Checked::new(shadow, disk.commands, disk.answers, volume(), doorbell);
        with_regions(range.start.as_u64(), |regions| {
            let tail = Position::new(1);
            assert_eq!(kernel.take(tail, regions, 9), Ok(tail));
            machine.world.settle(100);
            let lie = kernel.take(tail, regions, 9);
            let is_found = matches!(lie, Err(TakeError::Device(QueueError::NotInFlight(_))));
            assert!(is_found, "{defect:?}: {lie:?}");
        });
    }
}
