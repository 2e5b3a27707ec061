//! A queue that a process has in `Checked` mode, with the kernel in between.

use core::sync::atomic::Ordering;

use parakernel_core::{
    abi::{LeaseRing, SharedDoorbell, StatusPage, SubmissionPage},
    access::AccessMode,
    address::{BusAddress, Direction, Iova, NodeId},
    handle::{ProcessId, Slot},
    memory::{Extent, ExtentSlot, PageSlot, Pool, Region, RegionStorage, RegionTable},
    ring::Position,
    validate::Violation,
};
use parakernel_mock_hw::{World, memory::Lease};
use skeleton_driver::{checked::CheckedQueue, queue::Queue, ring::Descriptor};

use crate::{
    direct::{CARD, LAYOUT, bring_up, claim, exchange, perform},
    model::Trouble,
};

/// The region table of a process whose only region, `iova..iova + len`, lies at the same place on the bus.
pub(crate) fn with_region<T>(iova: u64, len: u64, run: impl FnOnce(&RegionTable<'_>) -> T) -> T {
    let (mut regions, mut extents) = ([Slot::EMPTY], [ExtentSlot::EMPTY]);
    let mut pages = [PageSlot::EMPTY; 64];
    let storage = RegionStorage {
        regions: &mut regions,
        extents: &mut extents,
        pages: &mut pages,
    };
    let iova = Iova::new(iova);
    let mut table = RegionTable::new(ProcessId::new(0, 0), iova, storage, &[]).unwrap();
    let region = Region {
        iova,
        len,
        direction: Direction::Bidirectional,
        node: NodeId::new(0),
    };
    let bus = BusAddress::new(iova.as_u64());
    table.insert(region, &[Extent { bus, len }]).unwrap();
    run(&table)
}

#[test]
fn the_same_data_half_works_behind_the_kernel() {
    let world = World::new(6);
    let memory = world.memory(1 << 20);
    let mut device = bring_up(&world, &memory, Trouble::None).unwrap();
    perform(&world, &mut device, claim(AccessMode::Checked));

    // What the process has: a shadow ring, its two pages, and its buffers.
    let lend = || memory.lend(CARD, 4096, Lease(2)).unwrap().memory();
    let (shadow, pages) = (lend(), [lend(), lend()]);
    let submission: &SubmissionPage = pages[0].view(0).unwrap();
    let status: &StatusPage = pages[1].view(0).unwrap();
    let arena = memory.lend_arena(CARD, LAYOUT, Lease(2)).unwrap();
    let (base, len) = (arena.iova_base(), LAYOUT.bytes().next_multiple_of(4096));
    let doorbell = SharedDoorbell::new(submission, status, LeaseRing::First);
    let ring = device.ring().memory();
    let mut queue = Queue::<_, 8>::new(shadow, ring, doorbell, &arena).unwrap();
    let mut words = [0; 16];
    let mut pool = Pool::new(arena, &mut words);

    // What the kernel does in a system call: read the tail once, take entries over, say how far it came.
    let mut kernel = CheckedQueue::<_, 8>::new(ring, shadow, device.doorbell()).unwrap();
    with_region(base.as_u64(), len as u64, |regions| {
        let submit = || {
            let claimed = Position::new(submission.tails[0].load(Ordering::Acquire));
            let accepted = kernel.service(claimed, regions, 64).unwrap();
            status.accepted[0].store(accepted.as_u32(), Ordering::Release);
        };
        exchange(&world, &mut queue, &mut pool, 100, submit);
    });
    assert_eq!(pool.free(), 16);
    assert!(memory.escapes().is_empty());
}

/// What comes of one entry, with the tail `claimed`; the device must not have seen anything if it was refused.
fn attempt(address: u64, len: u16, claimed: u32) -> Result<Position, Violation> {
    let world = World::new(7);
    let memory = world.memory(1 << 20);
    let mut device = bring_up(&world, &memory, Trouble::None).unwrap();
    perform(&world, &mut device, claim(AccessMode::Checked));
    let shadow = memory.lend(CARD, 4096, Lease(2)).unwrap();
    let entries: &[Descriptor; 8] = shadow.memory().view(0).unwrap();
    for entry in entries {
        entry.arm(address, len);
    }
    let ring = device.ring().memory();
    let mut kernel = CheckedQueue::<_, 8>::new(ring, shadow.memory(), device.doorbell()).unwrap();
    let result = with_region(0x10_0000, 0x2000, |regions| {
        kernel.service(Position::new(claimed), regions, 64)
    });
    world.settle(100);
    // A page that nobody granted is not in the log, but among the escapes.
    let is_touched = !memory.log().is_empty() || !memory.escapes().is_empty();
    assert_eq!(is_touched, result.is_ok());
    result
}

#[test]
fn each_attack_is_stopped_before_the_device_sees_anything() {
    assert_eq!(attempt(0x10_0000, 60, 1), Ok(Position::new(1)));
    // The last byte of the frame is the first behind the region.
    let beyond = attempt(0x10_2000 - 59, 60, 1);
    assert!(matches!(beyond, Err(Violation::OutsideRegions { .. })));
    let outside = attempt(0x10_2000, 60, 1);
    assert!(matches!(outside, Err(Violation::OutsideRegions { .. })));
    let wraps = attempt(u64::MAX - 8, 60, 1);
    assert!(matches!(wraps, Err(Violation::OutsideRegions { .. })));
    let empty = attempt(0x10_0000, 0, 1);
    assert_eq!(empty, Err(Violation::Length { len: 0 }));
    let ahead = attempt(0x10_0000, 60, 9);
    assert!(matches!(ahead, Err(Violation::TailJump { .. })));
    let behind = attempt(0x10_0000, 60, u32::MAX);
    assert!(matches!(behind, Err(Violation::TailJump { .. })));
}
