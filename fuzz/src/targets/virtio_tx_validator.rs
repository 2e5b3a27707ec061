//! The kernel's side of a checked virtio transmit queue, split and packed.
//!
//! After each call the device's end of the ring is read as a device reads it: each frame must be a header that the
//! kernel made and then exactly the bytes of the process's frame, and must stay so until the device returns it.
#![expect(
    unsafe_code,
    reason = "implements a trait whose memory is read by bus address"
)]

mod header;
mod oracle;

use parakernel_core::{
    address::{BusAddress, Direction},
    memory::PAGE_SIZE,
    ring::Position,
    steering::Layers,
    validate::SpoofedField,
};
use parakernel_nic_virtio::{
    checked::{AnySource, CheckedSender, Fault, SourceCheck, Tables},
    virtqueue::{CheckedFormat, packed::Packed, split::Split},
};

use super::virtqueue::{Layout, Posted, Silent, Wire, used_word};
use crate::{
    Report, Target,
    input::Input,
    memory::Pages,
    regions::{PAGE, Regions, Storage},
};
use oracle::{Contract, Frame, HEADER, Ring};

pub(super) const TARGET: Target = Target {
    name: "virtio_tx_validator",
    run,
    is_validator: true,
    max_len: 512,
};

/// Where the device finds its ring, and the kernel's tables.
const RING: u64 = 0x5000_0000;
const TABLES: u64 = 0x6000_0000;
/// How many frames of several parts may be on their way at once; more wait.
const LONG_FRAMES: usize = 8;

/// A policy that looks at frames: those whose first byte is small may leave.
#[derive(Clone, Copy, Debug)]
struct SmallFirstByte;

/// What lies at an address of the process's memory, for ever.
fn content(address: u64) -> u8 {
    let [low, next, ..] = (address ^ address >> 16)
        .wrapping_mul(0x9e37_79b1)
        .to_be_bytes()[4..]
    else {
        return 0;
    };
    low ^ next
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
            Some(_) => Err(SpoofedField::Mac),
            None => Err(SpoofedField::Truncated),
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
    match input.byte() % 8 {
        0 => run_ring::<2>(input, &mut regions),
        1 => header::check(input),
        2 | 3 => run_ring::<32>(input, &mut regions),
        _ => run_ring::<8>(input, &mut regions),
    }
}

fn run_ring<const N: usize>(input: &mut Input<'_>, regions: &mut Regions<'_>) -> Report {
    let ring = Pages::new(Wire::bytes::<N>(), RING);
    let tables = Pages::new(Tables::<N>::BYTES, TABLES);
    // The process's descriptors, and the completions that are copied for it.
    let process = Pages::new(2 * PAGE_SIZE, 0);
    let memory = Memory {
        ring: &ring,
        tables: &tables,
        process: &process,
    };
    let is_split = input.byte() & 1 == 0;
    let looks = input.one_in(3);
    let shared = ring.shared();
    if is_split {
        let format = Split::<N>::in_block(shared).expect("room");
        let bench = Bench::<_, N>::new(input, (format, Layout::Split), memory);
        bench.drive(input, regions, looks)
    } else {
        let format = Packed::<N>::in_block(shared).expect("room");
        let bench = Bench::<_, N>::new(input, (format, Layout::Packed), memory);
        bench.drive(input, regions, looks)
    }
}

#[derive(Clone, Copy)]
struct Memory<'a> {
    ring: &'a Pages,
    tables: &'a Pages,
    process: &'a Pages,
}

/// A frame that the device has.
#[derive(Debug)]
struct OnItsWay {
    frame: Frame,
    /// What the device was given for it, once that was looked at.
    posted: Option<Posted>,
}

/// Process and device around a queue, and what both have done so far.
struct Bench<'a, F, const N: usize> {
    queue: CheckedSender<'a, F, Silent, N>,
    wire: Wire<'a>,
    layout: Layout,
    memory: Memory<'a>,
    contract: Contract,
    looks: bool,
    on_their_way: Vec<OnItsWay>,
    /// Returned by the device, not yet seen by the kernel.
    returned: Vec<Frame>,
    /// Descriptors written, and taken over.
    written: u32,
    next: u32,
    /// The process's tail: frames (split) or descriptors (packed) written; and those taken over.
    tail: u32,
    accepted: u32,
    posted: u32,
    /// Entries of copied completions.
    told: u32,
    report: Report,
}

impl<'a, F: CheckedFormat, const N: usize> Bench<'a, F, N> {
    fn new(input: &mut Input<'_>, (format, layout): (F, Layout), memory: Memory<'a>) -> Self {
        let max_frame = input.choose(&[1514, 9014, 14, 60_000]);
        let tables = Tables::new(memory.tables.block()).expect("room");
        let shadow = memory.process.shared().part(0, PAGE_SIZE).expect("room");
        let copies = memory.process.shared().part(PAGE_SIZE, PAGE_SIZE);
        let copies = copies.filter(|_| layout == Layout::Packed);
        let queue = CheckedSender::new((format, Silent), shadow, copies, tables, max_frame);
        Self {
            queue: queue.expect("room"),
            wire: Wire::new::<N>(memory.ring, layout),
            layout,
            memory,
            contract: Contract {
                max_frame,
                entries: N,
            },
            looks: false,
            on_their_way: Vec::with_capacity(N),
            returned: Vec::with_capacity(N),
            written: 0,
            next: 0,
            tail: 0,
            accepted: 0,
            posted: 0,
            told: 0,
            report: Report::default(),
        }
    }

    fn drive(mut self, input: &mut Input<'_>, regions: &mut Regions<'_>, looks: bool) -> Report {
        self.looks = looks;
        let mut goes_on = true;
        while goes_on && !input.is_empty() {
            match input.byte() & 15 {
                0 => regions.remove(input),
                1 => regions.insert(input, Direction::ToDevice, 8),
                2..=4 => self.complete(input),
                5..=8 => self.complete_in_order(input),
                9..=12 => self.write_frame(input, regions),
                _ => goes_on = self.call(input, regions),
            }
        }
        self.report
    }

    /// The process writes a frame of some parts, mostly where its ring is free.
    fn write_frame(&mut self, input: &mut Input<'_>, regions: &Regions<'_>) {
        let most = input.choose(&[1, 1, 2, 4, 16, 18]);
        let parts = small(1 + input.below(most));
        let is_free = (self.written..self.written + parts).all(|at| !self.is_taken(at));
        if !is_free && !input.one_in(64) {
            return;
        }
        let each = (self.contract.max_frame / parts.max(1)).max(1);
        for part in 0..parts {
            let more = part + 1 < parts;
            self.write_part(input, regions, (part == 0, more, each));
        }
        self.tail += if self.layout == Layout::Packed {
            parts
        } else {
            1
        };
    }

    /// Whether the device has the slot of descriptor `at`, or the kernel has not looked at what is there.
    fn is_taken(&self, at: u32) -> bool {
        let slot = at as usize % N;
        let has = |frame: &Frame| frame.slots.contains(&slot);
        at >= self.next + entries::<N>()
            || self.on_their_way.iter().any(|sent| has(&sent.frame))
            || self.returned.iter().any(has)
    }

    fn write_part(
        &mut self,
        input: &mut Input<'_>,
        regions: &Regions<'_>,
        (is_first, more, each): (bool, bool, u32),
    ) {
        let header = if is_first { HEADER } else { 0 };
        let least = if more || !is_first { 1 } else { 14.min(each) };
        let any = 1 + small(input.below(2000)) % each;
        let mut len = input.choose(&[least, each, 60.min(each).max(least), any]);
        let mut address = regions
            .address(input, Direction::ToDevice, len.into())
            .wrapping_sub(header.into());
        let mut flags = if more { 1 } else { 0 };
        len += header;
        if input.one_in(64) {
            match input.byte() % 11 {
                0 => address = address.wrapping_add(1),
                1 => address = u64::MAX - input.below(64),
                2 => address = regions.address(input, Direction::FromDevice, len.into()),
                3 => len = input.below(30).try_into().expect("small"),
                4 => len = len.wrapping_add(1),
                5 => len = u32::MAX - u32::from(input.byte()),
                6 => flags ^= 1 << (input.byte() & 15),
                7 => address = address.wrapping_add(PAGE),
                8 => address = input.word(),
                9 => address = address.wrapping_sub(1 + input.below(PAGE)),
                _ => flags ^= 1,
            }
        }
        // Marks of a packed ring, ids and the index of what follows are the kernel's own business.
        let noise = u16::from(input.byte());
        if self.layout == Layout::Packed {
            flags |= (noise & 1) << 7 | (noise & 2) << 14;
        }
        let entry = Posted {
            address,
            len,
            flags,
            id: noise,
        };
        let slot = self.written as usize % N;
        self.memory.process.store(2 * slot, address);
        self.memory
            .process
            .store(2 * slot + 1, entry.encode(self.layout));
        self.written += 1;
    }

    /// The process calls the kernel; whether it may go on.
    fn call(&mut self, input: &mut Input<'_>, regions: &Regions<'_>) -> bool {
        let mut claim = self.tail;
        if input.one_in(64) {
            claim = claim.wrapping_add(small(input.below(80))).wrapping_sub(40);
        }
        let budget = input.choose(&[u32::MAX, 64, 1, 3, 0]);
        let at = Position::new(claim);
        let result = if self.looks {
            self.queue
                .service(at, &regions.table, &SmallFirstByte, budget)
        } else {
            self.queue.service(at, &regions.table, &AnySource, budget)
        };
        self.expect_told();
        let is_refused = !self.expect_frames(claim, budget, regions);
        match result {
            Ok(accepted) => {
                assert!(!is_refused, "the kernel sent what breaks a rule");
                assert_eq!(accepted.as_u32(), self.accepted);
                self.expect_posted();
                // A claim of more than was written was within the ring.
                self.tail = self.tail.max(self.accepted);
                self.written = self.written.max(self.next);
                true
            }
            Err(Fault::Process(violation)) => {
                assert!(
                    is_refused,
                    "the kernel refused what breaks no rule: {violation}"
                );
                assert_eq!(self.wire.posted(self.posted), None, "a refused frame");
                false
            }
            Err(Fault::Device(error)) => panic!("an honest device: {error}"),
        }
    }

    /// The process was told of each frame that the device returned, where completions are copied.
    fn expect_told(&mut self) {
        for frame in self.returned.drain(..) {
            if self.layout == Layout::Packed {
                let slot = self.told as usize % N;
                let word = self.memory.process.load(512 + 2 * slot + 1);
                let id = u16::try_from(frame.slots[0]).expect("a slot");
                assert_eq!(word, used_word(self.told, id, N));
                self.told += u32::try_from(frame.slots.len()).expect("few");
            }
        }
    }

    /// What must have become of the frames before `claim`: `false` where one breaks a rule.
    fn expect_frames(&mut self, claim: u32, budget: u32, regions: &Regions<'_>) -> bool {
        if claim.wrapping_sub(self.accepted) > entries::<N>() {
            return false;
        }
        let mut left = budget;
        while self.accepted != claim && left > 0 {
            let ring = Ring {
                process: self.memory.process,
                layout: self.layout,
                busy: self
                    .on_their_way
                    .iter()
                    .flat_map(|sent| sent.frame.slots.iter().copied())
                    .collect(),
                end: (self.layout == Layout::Packed).then_some(claim),
            };
            let is_long = ring.entry(&self.contract, self.next).flags & 1 != 0;
            let long = self
                .on_their_way
                .iter()
                .filter(|sent| sent.frame.is_long)
                .count();
            if is_long && long == LONG_FRAMES {
                break;
            }
            let frame = self.contract.frame(&ring, self.next, regions);
            let frame =
                frame.filter(|frame| !self.looks || content(frame.pieces[0].bus) <= LARGEST);
            self.note(&ring, frame.is_some());
            let Some(frame) = frame else { return false };
            let parts = u32::try_from(frame.slots.len()).expect("few");
            self.next += parts;
            self.accepted += if self.layout == Layout::Packed {
                parts
            } else {
                1
            };
            self.on_their_way.push(OnItsWay {
                frame,
                posted: None,
            });
            self.posted += 1;
            left -= 1;
        }
        true
    }

    fn note(&mut self, ring: &Ring<'_>, is_allowed: bool) {
        let parts = self.contract.count_parts(ring, self.next);
        let shape = match (self.layout, parts) {
            (Layout::Split, 1) => "split, one part",
            (Layout::Split, 2..=8) => "split, two to eight parts",
            (Layout::Split, _) => "split, more parts",
            (Layout::Packed, 1) => "packed, one part",
            (Layout::Packed, 2..=8) => "packed, two to eight parts",
            (Layout::Packed, _) => "packed, more parts",
        };
        self.report.note(shape, is_allowed);
        if self.looks {
            self.report.note("first bytes looked at", is_allowed);
        }
        let header = ring.entry(&self.contract, self.next).address;
        if content(header) & 1 != 0 {
            self.report
                .note("frame whose own header asks for an offload", is_allowed);
        }
    }

    /// The device finds the new frames, and no other.
    fn expect_posted(&mut self) {
        let new = self
            .on_their_way
            .iter_mut()
            .filter(|sent| sent.posted.is_none());
        let count = u32::try_from(new.count()).expect("few");
        let new = self
            .on_their_way
            .iter_mut()
            .filter(|sent| sent.posted.is_none());
        for (at, sent) in (self.posted - count..).zip(new) {
            let posted = self.wire.posted(at).expect("a frame that was taken over");
            assert_eq!(usize::from(posted.id), sent.frame.slots[0]);
            sent.posted = Some(posted);
            sent.frame
                .check(self.memory.tables, self.layout, (&posted, self.looks));
        }
        assert_eq!(self.wire.posted(self.posted), None);
        assert_eq!(self.queue.outstanding() as usize, self.on_their_way.len());
    }

    fn complete(&mut self, input: &mut Input<'_>) {
        if !self.on_their_way.is_empty() {
            let chosen = usize::from(input.byte()) % self.on_their_way.len();
            self.give_back(chosen);
        }
    }

    fn complete_in_order(&mut self, input: &mut Input<'_>) {
        let count = 1 + usize::from(input.byte() & 7);
        for _ in 0..count.min(self.on_their_way.len()) {
            self.give_back(0);
        }
    }

    fn give_back(&mut self, index: usize) {
        let sent = self.on_their_way.remove(index);
        // What the device has stays as it was until it gives it back.
        let posted = sent.posted.expect("looked at when it was posted");
        sent.frame
            .check(self.memory.tables, self.layout, (&posted, self.looks));
        self.wire.complete(posted.id.into(), 0);
        self.returned.push(sent.frame);
    }
}

fn entries<const N: usize>() -> u32 {
    u32::try_from(N).expect("a small ring")
}

fn small(number: u64) -> u32 {
    number.try_into().expect("a small number")
}
