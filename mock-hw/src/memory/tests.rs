use core::sync::atomic::{AtomicU32, Ordering};

use parakernel_core::address::{BusAddress, Direction, PhysAddr};

use proptest::{collection::vec, prelude::*, sample::select};

use super::{DmaError, Escapes, Lease, Memory, Outcome, PAGE, Range, RequesterId, Translation};
use crate::World;

const DEVICE: RequesterId = RequesterId(0x0100);
const LEASE: Lease = Lease(7);

fn at(range: Range, offset: u64) -> BusAddress {
    BusAddress::new(range.start.as_u64() + offset)
}

fn memory() -> Memory {
    World::new(0).memory(64 * PAGE)
}

#[test]
fn a_granted_transfer_moves_bytes_both_ways_at_any_alignment() {
    let memory = memory();
    let range = memory.allocate(3 * PAGE).unwrap();
    memory.grant(DEVICE, range, Direction::Bidirectional, LEASE);
    let bus = memory.bus(DEVICE);
    let bytes: Vec<u8> = (0..=255).cycle().take(PAGE + 100).collect();
    for offset in [0, 1, 7, 8, 4093] {
        bus.write(at(range, offset), &bytes).unwrap();
        let mut back = vec![0; bytes.len()];
        bus.read(at(range, offset), &mut back).unwrap();
        assert_eq!(back, bytes);
    }
    assert!(memory.escapes().is_empty());
    assert_eq!(memory.allowed(LEASE).bytes, 10 * bytes.len() as u64);
}

#[test]
fn a_transfer_one_byte_too_long_escapes_and_is_blocked_or_performed() {
    let memory = memory();
    let range = memory.allocate(2 * PAGE).unwrap();
    let granted = Range {
        start: range.start,
        len: 100,
    };
    memory.grant(DEVICE, granted, Direction::Bidirectional, LEASE);
    let bus = memory.bus(DEVICE);
    assert_eq!(
        bus.write(at(range, 0), &[1; 101]),
        Err(DmaError::Escape(at(range, 0)))
    );
    let mut seen = [9; 1];
    assert!(memory.peek(range.start, &mut seen));
    assert_eq!(seen, [0]);

    memory.set_escapes(Escapes::Performed);
    bus.write(at(range, 0), &[1; 101]).unwrap();
    assert!(memory.peek(PhysAddr::new(range.start.as_u64() + 100), &mut seen));
    assert_eq!(seen, [1]);
    assert_eq!(memory.escapes().len(), 2);
    assert_eq!(memory.escapes()[1].outcome, Outcome::Escaped);
}

#[test]
fn an_ended_lease_allows_nothing_and_another_device_never_did() {
    let memory = memory();
    let range = memory.allocate(PAGE).unwrap();
    memory.grant(DEVICE, range, Direction::FromDevice, LEASE);
    assert!(memory.bus(DEVICE).read_array::<4>(at(range, 0)).is_err());
    assert!(
        memory
            .bus(RequesterId(1))
            .write(at(range, 0), &[0])
            .is_err()
    );
    memory.bus(DEVICE).write(at(range, 0), &[0]).unwrap();
    memory.end(LEASE);
    assert!(memory.bus(DEVICE).write(at(range, 0), &[0]).is_err());
    assert_eq!(memory.escapes().len(), 3);
}

#[test]
fn neighbouring_grants_of_one_lease_join_and_of_two_do_not() {
    let memory = memory();
    let range = memory.allocate(PAGE).unwrap();
    let part = |start: u64, len| Range {
        start: PhysAddr::new(range.start.as_u64() + start),
        len,
    };
    memory.grant(DEVICE, part(0, 64), Direction::Bidirectional, LEASE);
    memory.grant(DEVICE, part(64, 64), Direction::Bidirectional, LEASE);
    memory.grant(DEVICE, part(128, 64), Direction::Bidirectional, Lease(8));
    let bus = memory.bus(DEVICE);
    bus.write(at(range, 0), &[1; 128]).unwrap();
    assert!(bus.write(at(range, 100), &[1; 40]).is_err());
    memory.end_range(LEASE, part(32, 32));
    bus.write(at(range, 0), &[1; 32]).unwrap();
    bus.write(at(range, 64), &[1; 64]).unwrap();
    assert!(bus.write(at(range, 31), &[1; 2]).is_err());
}

#[test]
fn an_iommu_translates_by_direction_and_forgets_only_when_flushed() {
    let memory = memory();
    let range = memory.allocate(2 * PAGE).unwrap();
    memory.grant(DEVICE, range, Direction::Bidirectional, LEASE);
    memory.translate(DEVICE, Translation::Mapped);
    let bus_address = BusAddress::new(0x1_0000);
    let bus = memory.bus(DEVICE);
    assert!(matches!(
        bus.write(bus_address, &[1]),
        Err(DmaError::Translation(_))
    ));

    // Two pages, swapped: a transfer across them must be translated twice.
    let page = |n: u64| Range {
        start: PhysAddr::new(range.start.as_u64() + n * 4096),
        len: PAGE,
    };
    memory.map(DEVICE, bus_address, page(1), Direction::FromDevice);
    memory.map(
        DEVICE,
        BusAddress::new(0x1_1000),
        page(0),
        Direction::FromDevice,
    );
    bus.write(BusAddress::new(0x1_0fff), &[5, 6]).unwrap();
    let mut seen = [0; 1];
    assert!(memory.peek(PhysAddr::new(range.start.as_u64() + 8191), &mut seen) && seen == [5]);
    assert!(memory.peek(range.start, &mut seen) && seen == [6]);
    assert!(bus.read_array::<1>(bus_address).is_err());

    memory.unmap(DEVICE, bus_address, 2 * PAGE);
    bus.write(bus_address, &[1]).unwrap();
    memory.invalidate(DEVICE);
    assert!(bus.write(bus_address, &[1]).is_err());
    assert_eq!(memory.faults().len(), 3);
}

#[test]
fn an_address_outside_memory_or_wrapping_is_never_memory() {
    let memory = memory();
    memory.set_escapes(Escapes::Performed);
    let bus = memory.bus(DEVICE);
    for address in [0, 0xfee0_0000, Memory::BASE.as_u64() - 1, u64::MAX] {
        let mut bytes = [0; 4];
        assert!(bus.read(BusAddress::new(address), &mut bytes).is_err());
        assert_eq!(bytes[0], 0xff);
    }
}

#[test]
fn freed_memory_merges_and_comes_back_zeroed() {
    let memory = memory();
    let all = memory.free_bytes();
    let ranges: Vec<Range> = (0..8).map(|_| memory.allocate(1).unwrap()).collect();
    memory.fill(ranges[3], 0xaa);
    for index in [3, 1, 2, 7, 0, 5, 4, 6] {
        memory.free(ranges[index]);
    }
    assert_eq!(memory.free_bytes(), all);
    let whole = memory.allocate(all).unwrap();
    let mut bytes = vec![1; all];
    assert!(memory.peek(whole.start, &mut bytes));
    assert!(bytes.iter().all(|byte| *byte == 0));
    assert!(memory.allocate(1).is_none());
}

#[test]
fn lent_memory_is_found_by_cpu_and_device_also_through_an_iommu() {
    for translation in [Translation::Identity, Translation::Mapped] {
        let memory = memory();
        memory.translate(DEVICE, translation);
        let block = memory.lend(DEVICE, 100, LEASE).unwrap();
        let word = block.memory().view::<AtomicU32>(8).unwrap();
        word.store(0x1234_5678, Ordering::Relaxed);
        let bus = memory.bus(DEVICE);
        let address = block.bus_address().checked_add(8).unwrap();
        assert_eq!(bus.read_array(address), Ok(0x1234_5678_u32.to_ne_bytes()));
        bus.write(address, &7_u32.to_ne_bytes()).unwrap();
        assert_eq!(word.load(Ordering::Relaxed), 7);
        memory.end(LEASE);
        assert!(bus.write(address, &[0]).is_err());
    }
}

#[test]
#[should_panic = "not allocated"]
fn memory_cannot_be_freed_twice() {
    let memory = memory();
    let range = memory.allocate(1).unwrap();
    memory.free(range);
    memory.free(range);
}

#[test]
fn a_block_that_was_taken_back_is_lent_again_under_the_next_lease_only() {
    for translation in [Translation::Identity, Translation::Mapped] {
        let memory = memory();
        memory.translate(DEVICE, translation);
        let mut places = Vec::new();
        for n in 0..1000 {
            let block = memory.lend(DEVICE, 2 * PAGE, Lease(n)).unwrap();
            let word = block.memory().view::<AtomicU32>(4).unwrap();
            assert_eq!(word.swap(7, Ordering::Relaxed), 0);
            places.push(block.bus_address());
            assert!(memory.take_back(DEVICE, block, Lease(n)));
            assert!(memory.bus(DEVICE).write(places[0], &[1]).is_err());
        }
        places.dedup();
        assert_eq!(places.len(), 1);
        assert_eq!(memory.free_bytes(), 62 * PAGE);
    }
}

#[test]
fn a_part_of_a_block_is_not_taken_back() {
    let memory = memory();
    let (first, _second) = memory
        .lend(DEVICE, 2 * PAGE, LEASE)
        .unwrap()
        .split_at(PAGE)
        .unwrap();
    assert!(!memory.take_back(DEVICE, first, LEASE));
}

/// Grants and ends of grants in one page, and a transfer in it.
#[derive(Clone, Debug)]
enum Change {
    Grant(u64, u64, Direction, u64),
    End(u64),
    EndRange(u64, u64, u64),
}

fn direction() -> impl Strategy<Value = Direction> {
    select(vec![
        Direction::ToDevice,
        Direction::FromDevice,
        Direction::Bidirectional,
    ])
}

fn change() -> impl Strategy<Value = Change> {
    let place = (0..64_u64, 1..24_u64);
    prop_oneof![
        6 => (place.clone(), direction(), 0..3_u64)
            .prop_map(|((start, len), direction, lease)| Change::Grant(start, len, direction, lease)),
        1 => (0..3_u64).prop_map(Change::End),
        2 => (place, 0..3_u64).prop_map(|((start, len), lease)| Change::EndRange(start, len, lease)),
    ]
}

/// What is granted, byte by byte: the slow and obvious way.
#[derive(Default)]
struct Bytes(Vec<(u64, Direction, Lease)>);

impl Bytes {
    fn apply(&mut self, change: &Change) {
        match *change {
            Change::Grant(start, len, direction, lease) => {
                self.0
                    .extend((start..start + len).map(|byte| (byte, direction, Lease(lease))));
            }
            Change::End(lease) => self.0.retain(|(_, _, other)| *other != Lease(lease)),
            Change::EndRange(start, len, lease) => {
                let ended = start..start + len;
                self.0
                    .retain(|(byte, _, other)| *other != Lease(lease) || !ended.contains(byte));
            }
        }
    }

    /// Whether one lease covers every byte.
    fn allow(&self, start: u64, len: u64, wanted: Direction) -> bool {
        let covers = |lease, byte| {
            let mut grants = self.0.iter();
            grants
                .any(|(at, direction, by)| *at == byte && *by == lease && direction.allows(wanted))
        };
        (0..3).any(|lease| (start..start + len).all(|byte| covers(Lease(lease), byte)))
    }
}

proptest! {
    #[test]
    fn the_audit_agrees_with_looking_at_every_byte(
        changes in vec(change(), 0..12),
        transfers in vec((0..80_u64, 1..30_usize, any::<bool>()), 1..20),
    ) {
        let memory = memory();
        let page = memory.allocate(PAGE).unwrap();
        let part = |start: u64, len: u64| Range {
            start: PhysAddr::new(page.start.as_u64() + start),
            len: usize::try_from(len).unwrap(),
        };
        let mut bytes = Bytes::default();
        for change in &changes {
            bytes.apply(change);
            match *change {
                Change::Grant(start, len, direction, lease) => {
                    memory.grant(DEVICE, part(start, len), direction, Lease(lease));
                }
                Change::End(lease) => memory.end(Lease(lease)),
                Change::EndRange(start, len, lease) => memory.end_range(Lease(lease), part(start, len)),
            }
        }
        let bus = memory.bus(DEVICE);
        for (start, len, writes) in transfers {
            let mut data = vec![0; len];
            let (done, wanted) = if writes {
                (bus.write(at(page, start), &data).is_ok(), Direction::FromDevice)
            } else {
                (bus.read(at(page, start), &mut data).is_ok(), Direction::ToDevice)
            };
            prop_assert_eq!(done, bytes.allow(start, len as u64, wanted), "{} {} {:?}", start, len, wanted);
        }
    }

    /// Whatever is taken and given back: ranges never overlap, and in the end all is free and in one piece.
    #[test]
    fn memory_is_given_to_one_owner_at_a_time(
        steps in vec((any::<bool>(), 1..6 * PAGE, 0..4_u32, any::<usize>()), 1..60),
    ) {
        let memory = memory();
        let all = memory.free_bytes();
        let mut held: Vec<Range> = Vec::new();
        for (take, len, alignment, which) in steps {
            if take {
                let alignment = PAGE << alignment;
                if let Some(range) = memory.allocate_aligned(len, alignment) {
                    prop_assert!(range.start.is_aligned(alignment as u64) && range.len >= len);
                    prop_assert!(held.iter().all(|other| !other.overlaps(range)));
                    held.push(range);
                }
            } else if !held.is_empty() {
                memory.free(held.swap_remove(which % held.len()));
            }
            let taken: usize = held.iter().map(|range| range.len).sum();
            prop_assert_eq!(memory.free_bytes(), all - taken);
        }
        held.drain(..).for_each(|range| memory.free(range));
        prop_assert!(memory.allocate(all).is_some());
    }
}
