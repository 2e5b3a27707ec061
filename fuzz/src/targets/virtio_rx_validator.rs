//! The kernel's side of a checked virtio receive queue, split and packed, and the filling of sealed ones.
//!
//! The contract (ARCHITECTURE section 4): of an entry of the process's ring only the address counts; the device gets it
//! if all bytes that it may write there lie in one piece of a region that it may write; never a slot that it still has;
//! and never more entries than the ring has.

use parakernel_core::{
    address::{Direction, Iova},
    memory::ArenaLayout,
    ring::Position,
};
use parakernel_nic_virtio::{
    checked::{CheckedReceiver, Fault, seal},
    virtqueue::{CheckedFormat, packed::Packed, split::Split},
};

use super::virtqueue::{Layout, Posted, Silent, WRITE, Wire};
use crate::{
    Report, Target,
    input::Input,
    memory::Pages,
    regions::{PAGE, Regions, Storage},
};

pub(super) const TARGET: Target = Target {
    name: "virtio_rx_validator",
    run,
    is_validator: true,
    max_len: 256,
};

/// Where the device finds its ring.
const RING: u64 = 0x5000_0000;

fn run(bytes: &[u8]) -> Report {
    let input = &mut Input::new(bytes);
    let mut storage = Storage::new();
    let mut regions = Regions::new(&mut storage);
    regions.insert(input, Direction::Bidirectional, 16);
    regions.insert(input, Direction::FromDevice, 8);
    regions.insert(input, Direction::ToDevice, 4);
    match input.byte() % 8 {
        0 => seal_ring(input, &regions),
        1 => run_ring::<2>(input, &mut regions),
        2 => run_ring::<32>(input, &mut regions),
        _ => run_ring::<8>(input, &mut regions),
    }
}

fn run_ring<const N: usize>(input: &mut Input<'_>, regions: &mut Regions<'_>) -> Report {
    let hardware = Pages::new(Wire::bytes::<N>(), RING);
    let shadow = Pages::new(16 * N, 0);
    let shared = hardware.shared();
    if input.byte() & 1 == 0 {
        let ring = Split::<N>::in_block(shared).expect("room");
        let wire = Wire::new::<N>(&hardware, Layout::Split);
        Bench::<_, N>::new(input, ring, wire, &shadow).drive(input, regions)
    } else {
        let ring = Packed::<N>::in_block(shared).expect("room");
        let wire = Wire::new::<N>(&hardware, Layout::Packed);
        Bench::<_, N>::new(input, ring, wire, &shadow).drive(input, regions)
    }
}

/// Process and device around a queue, and what both have done so far.
struct Bench<'a, F, const N: usize> {
    queue: CheckedReceiver<'a, F, Silent, N>,
    wire: Wire<'a>,
    shadow: &'a Pages,
    /// Bytes that the device may write into a buffer.
    posted: u32,
    /// Slots of buffers that the device has, in no order.
    with_device: Vec<u32>,
    /// Entries written and taken over.
    written: u32,
    accepted: u32,
    shape: &'static str,
    report: Report,
}

impl<'a, F: CheckedFormat, const N: usize> Bench<'a, F, N> {
    fn new(input: &mut Input<'_>, ring: F, wire: Wire<'a>, shadow: &'a Pages) -> Self {
        let posted = input.choose(&[2048, 1526, 4096, 13, 9000]);
        let queue = CheckedReceiver::new(ring, Silent, shadow.shared(), posted);
        Self {
            queue: queue.expect("buffers longer than a header"),
            shape: if F::COPIES_COMPLETIONS {
                "packed buffer"
            } else {
                "split buffer"
            },
            wire,
            shadow,
            posted,
            with_device: Vec::with_capacity(N),
            written: 0,
            accepted: 0,
            report: Report::default(),
        }
    }

    fn drive(mut self, input: &mut Input<'_>, regions: &mut Regions<'_>) -> Report {
        let mut goes_on = true;
        while goes_on && !input.is_empty() {
            match input.byte() & 15 {
                0 => regions.remove(input),
                1 => regions.insert(input, Direction::FromDevice, 8),
                2..=6 => self.complete(input),
                7..=11 => self.complete_in_order(input),
                _ => goes_on = self.arm(input, regions),
            }
        }
        self.report
    }

    /// The process writes entries and calls the kernel; whether it may go on.
    fn arm(&mut self, input: &mut Input<'_>, regions: &Regions<'_>) -> bool {
        let count = input.below(2 * N as u64);
        for _ in 0..count {
            let slot = self.written % entries::<N>();
            let is_free = self.written - self.accepted < entries::<N>();
            // Mostly it keeps to the slots that are free.
            if !is_free || (self.with_device.contains(&slot) && !input.one_in(64)) {
                break;
            }
            self.write(input, slot as usize, regions);
            self.written += 1;
        }
        let mut claim = self.written;
        if input.one_in(64) {
            claim = claim.wrapping_add(small(input.below(80))).wrapping_sub(40);
        }
        let budget = input.choose(&[u32::MAX, 1, 3, 0]);
        self.service(claim, budget, regions)
    }

    /// An entry: an address mostly in a region, and whatever else.
    fn write(&self, input: &mut Input<'_>, slot: usize, regions: &Regions<'_>) {
        let direction = if input.one_in(32) {
            Direction::ToDevice
        } else {
            Direction::FromDevice
        };
        let mut address = regions.address(input, direction, self.posted.into());
        if input.one_in(32) {
            address = match input.byte() % 5 {
                0 => address.wrapping_add(1),
                4 => address.wrapping_sub(1 + input.below(PAGE)),
                1 => address.wrapping_add(PAGE),
                2 => u64::MAX - input.below(u64::from(self.posted) + 2),
                _ => input.word(),
            };
        }
        self.shadow.store(2 * slot, address);
        // The kernel's own length and flags are what counts.
        self.shadow.store(2 * slot + 1, input.byte().into());
    }

    fn service(&mut self, claim: u32, budget: u32, regions: &Regions<'_>) -> bool {
        let result = self
            .queue
            .service(Position::new(claim), &regions.table, budget);
        let mut expected = Vec::new();
        let wanted = claim.wrapping_sub(self.accepted);
        let mut is_refused = wanted > entries::<N>();
        let count = if is_refused { 0 } else { wanted.min(budget) };
        for at in self.accepted..self.accepted + count {
            let slot = at % entries::<N>();
            let address = self.shadow.load(2 * slot as usize);
            let bus = regions.contiguous(address, self.posted.into(), Direction::FromDevice);
            let is_busy = self.with_device.contains(&slot);
            let allowed = bus.filter(|_| !is_busy);
            self.report.note(self.shape, allowed.is_some());
            let Some(bus) = allowed else {
                is_refused = true;
                break;
            };
            self.with_device.push(slot);
            expected.push((at, bus));
        }
        match result {
            Ok(accepted) => {
                assert!(!is_refused, "the kernel armed what breaks a rule");
                self.accepted += count;
                // A claim of more than was written was within the ring.
                self.written = self.written.max(self.accepted);
                assert_eq!(accepted.as_u32(), self.accepted);
                self.expect_armed(&expected);
                true
            }
            Err(Fault::Process(violation)) => {
                assert!(
                    is_refused,
                    "the kernel refused what breaks no rule: {violation}"
                );
                self.expect_nothing_beyond(&expected);
                false
            }
            Err(Fault::Device(error)) => panic!("an honest device: {error}"),
        }
    }

    /// The device finds these buffers and no other.
    fn expect_armed(&self, expected: &[(u32, u64)]) {
        for &(at, address) in expected {
            let posted = Posted {
                address,
                len: self.posted,
                flags: WRITE,
                id: u16::try_from(at % entries::<N>()).expect("a slot"),
            };
            assert_eq!(self.wire.posted(at), Some(posted));
        }
        assert_eq!(self.wire.posted(self.accepted), None);
        let outstanding = u32::try_from(self.with_device.len()).expect("few");
        assert_eq!(self.queue.outstanding(), outstanding);
    }

    /// Of a batch that was refused the device may find buffers that were checked, and nothing else.
    fn expect_nothing_beyond(&self, checked: &[(u32, u64)]) {
        for &(at, address) in checked {
            let posted = self.wire.posted(at);
            assert!(posted.is_none_or(|posted| posted.address == address));
        }
        let behind = self.accepted + u32::try_from(checked.len()).expect("few");
        assert_eq!(self.wire.posted(behind), None);
    }

    fn complete(&mut self, input: &mut Input<'_>) {
        if !self.with_device.is_empty() {
            let chosen = usize::from(input.byte()) % self.with_device.len();
            let slot = self.with_device.swap_remove(chosen);
            self.wire.complete(slot, small(input.below(65_536)));
        }
    }

    /// Returns some buffers in the order in which they were armed.
    fn complete_in_order(&mut self, input: &mut Input<'_>) {
        let age = |slot: &u32| {
            (slot + 2 * entries::<N>() - self.accepted % entries::<N>()) % entries::<N>()
        };
        self.with_device.sort_by_key(age);
        let count = (1 + usize::from(input.byte() & 7)).min(self.with_device.len());
        for slot in self.with_device.drain(..count) {
            self.wire.complete(slot, 60);
        }
    }
}

/// Fills the descriptors of a ring that a process may arm by itself: each must be one of its buffers, whatever it
/// writes into the index ring.
fn seal_ring(input: &mut Input<'_>, regions: &Regions<'_>) -> Report {
    const N: usize = 8;
    let pages = Pages::new(Wire::bytes::<N>(), RING);
    let ring = Split::<N>::in_block(pages.shared()).expect("room");
    let layout = ArenaLayout {
        stride: input.choose(&[2112, 2048, 4096, 1024, 64]),
        headroom: input.choose(&[64, 12, 128, 0, 11]),
        header: input.choose(&[12, 12, 12, 12, 12, 12, 10, 0]),
        count: input.choose(&[8, 3, 1, 16, 9, 0]),
    };
    let bytes = u64::from(layout.stride) * u64::from(layout.count);
    let mut base = regions.address(input, Direction::FromDevice, bytes);
    if input.one_in(8) {
        base =
            base.wrapping_add(input.choose(&[64, PAGE, u64::MAX - base, 0u64.wrapping_sub(PAGE)]));
    }
    let is_sealed = seal(&ring, Iova::new(base), &layout, &regions.table).is_ok();
    let is_layout = layout.header == 12
        && layout.header <= layout.headroom
        && layout.headroom < layout.stride
        && layout.count > 0;
    let place = |index: u64| {
        let start = index % u64::from(layout.count.max(1)) * u64::from(layout.stride)
            + u64::from(layout.headroom - 12);
        let len = 12 + u64::from(layout.stride - layout.headroom);
        let bus = regions.contiguous(base.checked_add(start)?, len, Direction::FromDevice)?;
        Some((bus, len))
    };
    let places: Option<Vec<_>> = if is_layout {
        (0..8).map(place).collect()
    } else {
        None
    };
    assert_eq!(is_sealed, places.is_some(), "{layout:?} at {base:#x}");
    let mut report = Report::default();
    report.note("sealed ring", is_sealed);
    for (index, (bus, len)) in places.unwrap_or_default().into_iter().enumerate() {
        let (address, rest) = (pages.load(2 * index), pages.load(2 * index + 1));
        let found = Posted::decode(Layout::Split, address, rest);
        assert_eq!(
            (found.address, u64::from(found.len), found.flags),
            (bus, len, WRITE)
        );
    }
    report
}

fn entries<const N: usize>() -> u32 {
    u32::try_from(N).expect("a small ring")
}

fn small(number: u64) -> u32 {
    number.try_into().expect("a small number")
}
