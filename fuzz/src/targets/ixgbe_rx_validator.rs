//! The kernel's side of a checked 82599 receive queue.
//!
//! The contract: of an entry of the process's ring only the address counts; the device gets it if it is even and all bytes
//! that it may write there lie in one piece of a region that it may write; never a slot that it still has; never more
//! entries than the ring less one; and never anything in the second word, where "done" would stand.

use core::cell::Cell;

use parakernel_core::{address::Direction, queue::Doorbell, ring::Position};
use parakernel_nic_ixgbe::checked::{CheckedReceiver, Fault};

use crate::{
    Report, Target,
    input::Input,
    memory::Pages,
    regions::{PAGE, Regions, Storage},
};

pub(super) const TARGET: Target = Target {
    name: "ixgbe_rx_validator",
    run,
    is_validator: true,
    max_len: 256,
};

/// The tail that the device was told last.
#[derive(Debug)]
pub(super) struct Tail<'a>(pub(super) &'a Cell<u32>);

impl Doorbell for Tail<'_> {
    fn ring(&mut self, tail: Position) {
        self.0.set(tail.as_u32());
    }

    fn accepted(&self, rung: Position) -> Position {
        rung
    }
}

fn run(bytes: &[u8]) -> Report {
    let input = &mut Input::new(bytes);
    let mut storage = Storage::new();
    let mut regions = Regions::new(&mut storage);
    regions.insert(input, Direction::Bidirectional, 16);
    regions.insert(input, Direction::FromDevice, 8);
    regions.insert(input, Direction::ToDevice, 4);
    if input.byte() & 1 == 0 {
        run_ring::<8>(input, &mut regions)
    } else {
        run_ring::<32>(input, &mut regions)
    }
}

/// Process and device around a queue, and what both have done so far; positions are counted, never wrapped.
struct Bench<'a, const N: usize> {
    queue: CheckedReceiver<'a, Tail<'a>, N>,
    told: &'a Cell<u32>,
    hardware: &'a Pages,
    shadow: &'a Pages,
    /// Bytes that the device may write into a buffer.
    posted: u32,
    /// What the device has, oldest first: position and address.
    with_device: Vec<(u32, u64)>,
    /// Entries written and taken over.
    written: u32,
    accepted: u32,
    report: Report,
}

fn run_ring<const N: usize>(input: &mut Input<'_>, regions: &mut Regions<'_>) -> Report {
    let (hardware, shadow) = (Pages::new(16 * N, 0), Pages::new(16 * N, 0));
    let told = Cell::new(0);
    let posted = input.choose(&[2048, 1024, 4096, 16384, 3072]);
    let queue = CheckedReceiver::new(hardware.shared(), shadow.shared(), Tail(&told), posted);
    let bench = Bench::<N> {
        queue: queue.expect("rings of whole pages"),
        told: &told,
        hardware: &hardware,
        shadow: &shadow,
        posted,
        with_device: Vec::new(),
        written: 0,
        accepted: 0,
        report: Report::default(),
    };
    bench.drive(input, regions)
}

impl<const N: usize> Bench<'_, N> {
    fn drive(mut self, input: &mut Input<'_>, regions: &mut Regions<'_>) -> Report {
        let mut goes_on = true;
        while goes_on && !input.is_empty() {
            match input.byte() & 15 {
                0 => regions.remove(input),
                1 => regions.insert(input, Direction::FromDevice, 8),
                2..=8 => self.complete(1 + input.below(N as u64)),
                9 => self.harvest(),
                _ => goes_on = self.arm(input, regions),
            }
        }
        self.report
    }

    /// The process writes entries and calls the kernel; whether it may go on.
    fn arm(&mut self, input: &mut Input<'_>, regions: &Regions<'_>) -> bool {
        for _ in 0..input.below(2 * N as u64) {
            let free = most::<N>() - self.outstanding();
            // Mostly it keeps to the slots that are free.
            if self.written - self.accepted >= most::<N>()
                || (self.written - self.accepted >= free && !input.one_in(64))
            {
                break;
            }
            self.write(input, regions);
        }
        let mut claim = self.written;
        if input.one_in(64) {
            claim = claim.wrapping_add(small(input.below(80))).wrapping_sub(40);
        }
        let budget = input.choose(&[u32::MAX, 1, 3, 0]);
        self.service(claim, budget, regions)
    }

    /// An entry: an address mostly in a region, and whatever else.
    fn write(&mut self, input: &mut Input<'_>, regions: &Regions<'_>) {
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
        let slot = self.written as usize % N;
        self.shadow.store(2 * slot, address);
        self.shadow
            .store(2 * slot + 1, u64::from(input.byte()) << 56 | 3);
        self.written += 1;
    }

    fn service(&mut self, claim: u32, budget: u32, regions: &Regions<'_>) -> bool {
        let before = self.told.get();
        let result = self
            .queue
            .service(Position::new(claim), &regions.table, budget);
        let wanted = claim.wrapping_sub(self.accepted);
        let mut is_refused = wanted > most::<N>();
        let count = if is_refused { 0 } else { wanted.min(budget) };
        is_refused |= self.outstanding() + count > most::<N>();
        let mut expected = Vec::new();
        for at in self.accepted..self.accepted + count {
            let address = self.shadow.load(2 * (at as usize % N));
            let bus = regions.contiguous(address, self.posted.into(), Direction::FromDevice);
            let bus = bus.filter(|_| address.is_multiple_of(2));
            self.report.note("buffer", bus.is_some());
            let Some(bus) = bus else {
                is_refused = true;
                break;
            };
            expected.push((at, bus));
        }
        match result {
            Ok(accepted) => {
                assert!(!is_refused, "the kernel armed what breaks a rule");
                self.accepted += count;
                self.written = self.written.max(self.accepted);
                self.with_device.extend(expected);
                assert_eq!(accepted.as_u32(), self.accepted);
                assert_eq!(self.told.get(), self.accepted);
            }
            Err(Fault::Process(violation)) => {
                assert!(
                    is_refused,
                    "the kernel refused what breaks no rule: {violation}"
                );
                assert_eq!(
                    self.told.get(),
                    before,
                    "a tail moved in spite of a violation"
                );
            }
            Err(Fault::Device(error)) => panic!("an honest device: {error}"),
        }
        self.expect_ring();
        !is_refused
    }

    /// What the device may fetch is what the oracle says, and nothing of it is "done".
    fn expect_ring(&self) {
        for &(at, address) in &self.with_device {
            let slot = at as usize % N;
            assert_eq!(self.hardware.load(2 * slot), address);
            assert_eq!(self.hardware.load(2 * slot + 1), 0);
        }
    }

    /// The device fills up to `count` buffers, in order.
    fn complete(&mut self, count: u64) {
        let count = small(count).min(self.outstanding());
        for (at, _) in self.with_device.drain(..count as usize) {
            let slot = at as usize % N;
            self.hardware.store(2 * slot, 0x1234_5678_0000_0001);
            self.hardware.store(2 * slot + 1, 60 << 32 | 3);
        }
    }

    fn harvest(&mut self) {
        self.queue.harvest();
        assert_eq!(self.queue.outstanding(), self.outstanding());
    }

    fn outstanding(&self) -> u32 {
        u32::try_from(self.with_device.len()).expect("few")
    }
}

/// How many buffers the device may have.
fn most<const N: usize>() -> u32 {
    u32::try_from(N).expect("a small ring") - 1
}

fn small(number: u64) -> u32 {
    number.try_into().expect("a small number")
}
