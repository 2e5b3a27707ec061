//! The kernel's side of a checked 82599 transmit queue, with and without a look at the first bytes of frames.
//!
//! After each call the device's ring is read as the device reads it, up to the tail that it was told: it must be the
//! packets that the contract allows, translated, and nothing else, and must stay so until the device says that it is
//! done.
#![expect(
    unsafe_code,
    reason = "implements a trait whose memory is read by bus address"
)]

mod oracle;

use core::{cell::Cell, sync::atomic::AtomicU32};
use std::collections::VecDeque;

use parakernel_core::{
    address::{BusAddress, Direction},
    ring::Position,
    steering::Layers,
    validate::SpoofedField,
};
use parakernel_nic_ixgbe::{
    checked::{AnySource, CheckedSender, Fault, Heads, Progress, SourceCheck},
    validate::Limits,
};

use super::ixgbe_rx_validator::Tail;
use crate::{
    Report, Target,
    input::Input,
    memory::Pages,
    regions::{Regions, Storage},
};
use oracle::{Contract, Packet};

pub(super) const TARGET: Target = Target {
    name: "ixgbe_tx_validator",
    run,
    is_validator: true,
    max_len: 512,
};

/// Where the device finds the first bytes of frames.
const HEADS: u64 = 0x6000_0000;
/// How many bytes of a frame the kernel looks at: Ethernet with a tag, the longest IPv4 header, TCP.
const LOOKED_AT: u64 = 98;
/// Bytes from one packet's first bytes to the next's.
const HEAD_SLOT: u64 = 128;

/// A policy that looks at frames: those whose first byte is small may leave.
#[derive(Clone, Copy, Debug)]
struct SmallFirstByte;

/// What lies at an address of the process's memory, for ever.
fn content(address: u64) -> u8 {
    (address ^ address >> 9)
        .wrapping_mul(0x9e37_79b1)
        .to_le_bytes()[2]
}

/// The largest first byte of a frame that may leave.
const LARGEST: u8 = 0xf0;

impl SourceCheck for SmallFirstByte {
    const LOOKS: bool = true;

    unsafe fn read(&self, from: BusAddress, into: &mut [u8]) -> bool {
        for (address, byte) in (from.as_u64()..).zip(into) {
            *byte = content(address);
        }
        true
    }

    fn check(&self, head: &[u8], _: Option<Layers>) -> Result<(), SpoofedField> {
        match head.first() {
            Some(&first) if first <= LARGEST => Ok(()),
            Some(_) | None => Err(SpoofedField::Mac),
        }
    }
}

fn run(bytes: &[u8]) -> Report {
    let input = &mut Input::new(bytes);
    let mut storage = Storage::new();
    let mut regions = Regions::new(&mut storage);
    regions.insert(input, Direction::Bidirectional, 8);
    regions.insert(input, Direction::ToDevice, 8);
    regions.insert(input, Direction::FromDevice, 2);
    match input.byte() & 3 {
        0 => run_ring::<_, 8, 8>(input, &mut regions, AnySource),
        1 => run_ring::<_, 16, 32>(input, &mut regions, SmallFirstByte),
        _ => run_ring::<_, 64, 64>(input, &mut regions, AnySource),
    }
}

fn run_ring<S: SourceCheck, const N: usize, const H: usize>(
    input: &mut Input<'_>,
    regions: &mut Regions<'_>,
    source: S,
) -> Report {
    let (ring, shadow) = (Pages::new(16 * H, 0), Pages::new(16 * N, 0));
    let (words, heads) = (Pages::new(4096, 0), Pages::new(Heads::<N>::BYTES, HEADS));
    let told = Cell::new(0);
    let max_frame = input.choose(&[1514, 9014, 600, 1518]);
    let vlan = (N == H).then(|| input.choose(&[7, 0, 4094]));
    let words_seen = words.shared();
    let progress = if N == H {
        Progress::Device
    } else {
        let told = words_seen.view::<AtomicU32>(64).expect("inside the page");
        Progress::Kernel(told, Heads::new(heads.block()).expect("room"))
    };
    let limits = Limits { max_frame, vlan };
    let hardware = (ring.shared(), words_seen);
    let queue = CheckedSender::new(hardware, shadow.shared(), progress, Tail(&told), limits);
    let bench = Bench::<S, N, H> {
        source,
        queue: queue.expect("rings of whole pages"),
        told: &told,
        memory: Memory {
            ring: &ring,
            shadow: &shadow,
            words: &words,
            heads: &heads,
        },
        contract: Contract::new(max_frame, vlan),
        on_their_way: VecDeque::new(),
        written: 0,
        accepted: 0,
        freed: 0,
        posted: 0,
        done: 0,
        report: Report::default(),
    };
    bench.drive(input, regions)
}

#[derive(Clone, Copy)]
struct Memory<'a> {
    ring: &'a Pages,
    shadow: &'a Pages,
    words: &'a Pages,
    heads: &'a Pages,
}

/// A packet that the device has: its descriptors, and where both rings stand behind it.
#[derive(Debug)]
struct OnItsWay {
    descriptors: Vec<[u64; 2]>,
    start: u32,
    end: u32,
    process_end: u32,
    head: Vec<u8>,
    head_at: u64,
}

/// Process and device around a queue, and what both have done so far; positions are counted, never wrapped.
struct Bench<'a, S, const N: usize, const H: usize> {
    source: S,
    queue: CheckedSender<'a, Tail<'a>, N, H>,
    told: &'a Cell<u32>,
    memory: Memory<'a>,
    contract: Contract,
    on_their_way: VecDeque<OnItsWay>,
    written: u32,
    accepted: u32,
    /// Entries of the process's ring that the kernel has seen the device be done with.
    freed: u32,
    /// The device's ring: written, and done with.
    posted: u32,
    done: u32,
    report: Report,
}

impl<S: SourceCheck, const N: usize, const H: usize> Bench<'_, S, N, H> {
    const LOOKS: bool = S::LOOKS;

    fn drive(mut self, input: &mut Input<'_>, regions: &mut Regions<'_>) -> Report {
        let mut goes_on = true;
        while goes_on && !input.is_empty() {
            match input.byte() & 15 {
                0 => regions.remove(input),
                1 => regions.insert(input, Direction::ToDevice, 8),
                2..=5 => self.send(input),
                _ => goes_on = self.submit(input, regions),
            }
        }
        self.report
    }

    /// The process writes packets and calls the kernel; whether it may go on.
    fn submit(&mut self, input: &mut Input<'_>, regions: &Regions<'_>) -> bool {
        let free = entries::<N>() - 1 - (self.accepted - self.freed);
        for _ in 0..1 + input.below(12) {
            let packet = self.contract.packet(input, regions);
            let used = self.written - self.accepted + u32::try_from(packet.len()).expect("few");
            if used > free && (used >= entries::<N>() || !input.one_in(32)) {
                break;
            }
            for entry in packet {
                let slot = self.written as usize % N;
                self.memory.shadow.store(2 * slot, entry[0]);
                self.memory.shadow.store(2 * slot + 1, entry[1]);
                self.written += 1;
            }
        }
        let mut claim = self.written;
        if input.one_in(64) {
            claim = claim.wrapping_add(small(input.below(80))).wrapping_sub(40);
        }
        let budget = input.choose(&[u32::MAX, 1, 5, 0]);
        self.service(claim, budget, regions)
    }

    fn service(&mut self, claim: u32, budget: u32, regions: &Regions<'_>) -> bool {
        let before = self.told.get();
        let result = self
            .queue
            .service(Position::new(claim), &regions.table, &self.source, budget);
        self.see_done();
        let wanted = claim.wrapping_sub(self.accepted);
        let mut is_refused = wanted > entries::<N>() - 1 - (self.accepted - self.freed);
        let count = if is_refused { 0 } else { wanted.min(budget) };
        let (mut taken, mut expected) = (0, Vec::new());
        let mut contract = self.contract.clone();
        while taken < count && !is_refused {
            let entries = (taken..wanted)
                .map(|at| self.entry(self.accepted + at))
                .collect();
            let (shape, packet) = contract.read(entries, regions);
            let packet = packet.filter(|packet| self.may_leave(packet));
            self.report.note(shape, packet.is_some());
            match packet {
                Some(packet) => {
                    taken += packet.entries;
                    expected.push((taken, packet));
                }
                None => is_refused = true,
            }
        }
        match result {
            Ok(accepted) => {
                assert!(!is_refused, "the kernel posted what breaks a rule");
                self.contract = contract;
                for (taken, packet) in expected {
                    self.post(&packet, self.accepted + taken);
                }
                self.accepted += taken;
                self.written = self.written.max(self.accepted);
                assert_eq!(accepted.as_u32(), self.accepted);
                assert_eq!(self.told.get(), self.posted);
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

    fn entry(&self, at: u32) -> [u64; 2] {
        let slot = at as usize % N;
        [
            self.memory.shadow.load(2 * slot),
            self.memory.shadow.load(2 * slot + 1),
        ]
    }

    fn may_leave(&self, packet: &Packet) -> bool {
        let first = packet.parts.first().map(|&(address, _)| content(address));
        !Self::LOOKS || first.is_some_and(|first| first <= LARGEST)
    }

    /// The packet is the device's: what its descriptors are to be.
    fn post(&mut self, packet: &Packet, process_end: u32) {
        let start = self.posted;
        let mut descriptors: Vec<_> = packet.context.into_iter().collect();
        let first_data = process_end - u32::try_from(packet.parts.len()).expect("few");
        let head_at = HEADS + u64::from(first_data % entries::<N>()) * HEAD_SLOT;
        let mut head = Vec::new();
        let mut parts = Vec::new();
        for &(address, len) in &packet.parts {
            let missing = LOOKED_AT - head.len() as u64;
            let copied = if Self::LOOKS { len.min(missing) } else { 0 };
            head.extend((address..address + copied).map(content));
            if len > copied {
                parts.push((address + copied, len - copied));
            }
        }
        if Self::LOOKS {
            parts.insert(0, (head_at, head.len() as u64));
        }
        let last = parts.len() - 1;
        let data = |(index, (address, len))| {
            let end = if index == last { 1 << 24 } else { 0 };
            [address, packet.common | end | len]
        };
        descriptors.extend(parts.into_iter().enumerate().map(data));
        self.posted += u32::try_from(descriptors.len()).expect("few");
        self.on_their_way.push_back(OnItsWay {
            descriptors,
            start,
            end: self.posted,
            process_end,
            head,
            head_at,
        });
    }

    fn descriptor(&self, at: u32) -> [u64; 2] {
        let slot = at as usize % H;
        [
            self.memory.ring.load(2 * slot),
            self.memory.ring.load(2 * slot + 1),
        ]
    }

    /// What the device may fetch is what the oracle says, with reports at ends of packets only, the last one's among them.
    fn expect_ring(&self) {
        const RS: u64 = 1 << 27;
        assert!(self.posted - self.done < entries::<H>());
        for packet in &self.on_their_way {
            for (at, expected) in (packet.start..).zip(&packet.descriptors) {
                let [first, second] = self.descriptor(at);
                assert_eq!([first, second & !RS], *expected);
                let is_end = at + 1 == packet.end;
                assert!(second & RS == 0 || is_end, "a report inside a packet");
                assert!(
                    second & RS != 0 || at + 1 != self.posted,
                    "no report of the last"
                );
            }
            for (at, &byte) in (packet.head_at..).zip(&packet.head) {
                assert_eq!(self.memory.heads.byte_at(at), Some(byte));
            }
        }
    }

    /// The device is done with some packets, and says so where it was asked to.
    fn send(&mut self, input: &mut Input<'_>) {
        for _ in 0..1 + input.below(8) {
            let Some(packet) = self.on_their_way.pop_front() else {
                return;
            };
            self.done = packet.end;
            if self.descriptor(packet.end - 1)[1] & 1 << 27 != 0 {
                self.memory
                    .words
                    .store(0, u64::from(packet.end % entries::<H>()));
                self.reported(packet.process_end);
            }
        }
    }

    /// The kernel will see at its next call that the device came so far.
    fn reported(&mut self, process_end: u32) {
        self.contract.reported = process_end;
    }

    fn see_done(&mut self) {
        self.freed = self.contract.reported;
        if Self::LOOKS {
            let told = self.memory.words.load(8);
            assert_eq!(told, u64::from(self.freed % entries::<N>()));
        }
    }
}

fn entries<const N: usize>() -> u32 {
    u32::try_from(N).expect("a small ring")
}

fn small(number: u64) -> u32 {
    number.try_into().expect("a small number")
}
