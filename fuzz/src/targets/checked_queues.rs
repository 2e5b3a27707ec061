//! The kernel's side of checked queues between a process and a device that both keep to the rules mostly, and now and then
//! write whatever they like.
//!
//! Nothing may panic or go on without end, also after an error was reported; and whatever the device finds in its ring
//! lies in the process's regions, or in the kernel's own tables.

use parakernel_core::{
    address::Direction,
    device::DeviceId,
    queue::Lba,
    ring::{Position, RingSize},
    volume::{Identity, Volume},
};
use parakernel_nic_virtio::{
    checked::{AnySource, CheckedReceiver, CheckedSender, Tables},
    virtqueue::{CheckedFormat, packed::Packed, split::Split},
};
use parakernel_nvme::{
    checked::{CheckedMemory, CheckedQueue, Claim},
    controller::QueueId,
    identify::NamespaceData,
    validate::{BusyMark, Rules},
};

use super::any_answer;
use super::virtqueue::{INDIRECT, Layout, NEXT, Posted, Silent, WRITE, Wire};
use crate::{
    Report, Target,
    input::Input,
    memory::Pages,
    regions::{PAGE, Regions, Storage},
};

pub(super) const TARGET: Target = Target {
    name: "checked_queues",
    run,
    is_validator: true,
    max_len: 384,
};

/// Entries of each ring.
const N: usize = 8;
/// Where the device finds its ring, and the kernel's tables.
const RING: u64 = 0x5000_0000;
const TABLES: u64 = 0x6000_0000;

fn run(bytes: &[u8]) -> Report {
    let input = &mut Input::new(bytes);
    let mut storage = Storage::new();
    let mut regions = Regions::new(&mut storage);
    regions.insert(input, Direction::Bidirectional, 8);
    regions.insert(input, Direction::ToDevice, 4);
    match input.byte() % 5 {
        0 => nvme(input, &regions),
        which => {
            let pages = Pages::new(Wire::bytes::<N>(), RING);
            let layout = if which & 1 == 0 {
                Layout::Split
            } else {
                Layout::Packed
            };
            let hardware = Hardware {
                pages: &pages,
                layout,
            };
            let (split, packed) = (
                Split::in_block(pages.shared()),
                Packed::in_block(pages.shared()),
            );
            let (split, packed) = (split.expect("room"), packed.expect("room"));
            match which {
                1 => receive::<Packed<'_, N>>(input, &regions, packed, &hardware),
                2 => receive::<Split<'_, N>>(input, &regions, split, &hardware),
                3 => transmit::<Packed<'_, N>>(input, &regions, packed, &hardware),
                _ => transmit::<Split<'_, N>>(input, &regions, split, &hardware),
            }
        }
    }
}

/// Whether something out of order comes now. Mostly nothing does: a queue that has failed shows little.
fn is_unruly(input: &mut Input<'_>) -> bool {
    input.one_in(24)
}

/// Changes some words of memory: to anything, or only a few bits of them.
fn scribble(input: &mut Input<'_>, pages: &Pages, words: core::ops::Range<usize>) {
    if !is_unruly(input) {
        return;
    }
    for _ in 0..1 + input.below(6) {
        let span = u64::try_from(words.len()).expect("few words");
        let index = words.start + usize::try_from(input.below(span)).expect("few words");
        let old = pages.load(index);
        let new = match input.byte() & 7 {
            0 => input.word(),
            1 => u64::MAX,
            2 => 0,
            3 => old ^ 1 << input.below(64),
            4 => old.wrapping_add(1),
            5 => u64::from(input.byte()),
            6 => u64::from(input.byte() & 15) << 32 | u64::from(input.byte()) << 16,
            _ => old.wrapping_add(1 << 16),
        };
        pages.store(index, new);
    }
}

/// What a process says of how far it is: the truth, or something near it, or anything.
fn position(input: &mut Input<'_>, truth: Position) -> Position {
    if !is_unruly(input) {
        return truth;
    }
    match input.byte() {
        0xff => Position::new(u32::from_le_bytes(input.bytes())),
        ahead => truth
            .advanced(u32::from(ahead) % 19)
            .advanced(0_u32.wrapping_sub(9)),
    }
}

/// How many entries a process adds, of as many as there is room for.
fn added(input: &mut Input<'_>, room: usize) -> u32 {
    let room = u64::try_from(room).expect("few");
    u32::try_from(input.below(4).min(room)).expect("few")
}

/// The calls of a queue, and what became of them. Those after the first that failed must only end.
#[derive(Default)]
struct Calls {
    report: Report,
    has_failed: bool,
}

impl Calls {
    fn note(&mut self, shape: &'static str, is_ok: bool) {
        if !self.has_failed {
            self.report.note(shape, is_ok);
            self.has_failed = !is_ok;
        }
    }
}

fn nvme(input: &mut Input<'_>, regions: &Regions<'_>) -> Report {
    let [shadow, submission, completion] = [(); 3].map(|()| Pages::new(1, 0));
    let mut busy = [BusyMark::FREE; N];
    let volume = Volume {
        device: DeviceId::new(0),
        namespace: 1,
        start: Lba::new(64),
        blocks: 4096,
        owner: Identity(1),
    };
    let data = NamespaceData {
        blocks: 1 << 20,
        block_shift: 9,
        write_protected: false,
    };
    let memory = CheckedMemory {
        shadow: shadow.shared(),
        submission: submission.shared(),
        completion: completion.shared(),
        busy: &mut busy,
    };
    let queue = QueueId::new(1).expect("not the admin queue");
    let rules = Rules::new(&volume, &data, None).expect("a volume");
    let size = RingSize::new(8).expect("a power of two");
    let mut queue = CheckedQueue::new(queue, size, memory, rules, [Silent, Silent]).expect("room");
    let mut controller = Controller {
        submission: &submission,
        completion: &completion,
        completed: 0,
    };
    let mut tail = Position::START;
    let mut calls = Calls::default();
    while !input.is_empty() {
        let head = Position::new(controller.completed);
        let room = N - 1 - tail.since(head).min(7) as usize;
        let more = added(input, room);
        for at in 0..more {
            read_command(input, &shadow, tail.advanced(at), regions);
        }
        scribble(input, &shadow, 0..8 * N);
        scribble(input, &completion, 0..2 * N);
        let claim = Claim {
            tail: position(input, tail.advanced(more)),
            head: position(input, head),
        };
        let result = queue.service(claim, &regions.table, u32::from(input.byte()));
        calls.note("nvme call", result.is_ok());
        tail = result.unwrap_or(tail);
        controller.complete(input, tail);
        // An error is an answer.
        any_answer(queue.has_news(claim.head));
        any_answer(queue.drain());
        assert!((queue.in_flight() as usize) < N);
        expect_commands(&submission, regions);
    }
    calls.report
}

/// A controller that keeps to the rules (NVMe 2.0 base specification, 4.2): it completes commands in their order.
struct Controller<'p> {
    submission: &'p Pages,
    completion: &'p Pages,
    completed: u32,
}

impl Controller<'_> {
    /// Completes some of the commands before `tail`.
    fn complete(&mut self, input: &mut Input<'_>, tail: Position) {
        let there = tail.as_u32().wrapping_sub(self.completed).min(7);
        for _ in 0..input.below(4).min(there.into()) {
            let slot = self.completed as usize % N;
            let is_first_round = (self.completed as usize / N).is_multiple_of(2);
            self.completed = self.completed.wrapping_add(1);
            let id = self.submission.load(8 * slot) >> 16 & 0xffff;
            let head = u64::from(self.completed) % N as u64;
            let phase = u64::from(is_first_round) << 48;
            self.completion.store(2 * slot, 0);
            self.completion
                .store(2 * slot + 1, head | 1 << 16 | id << 32 | phase);
        }
    }
}

/// A read of one page at position `at`, as a process gives it.
fn read_command(input: &mut Input<'_>, shadow: &Pages, at: Position, regions: &Regions<'_>) {
    let address = regions.address(input, Direction::FromDevice, PAGE) & !3;
    let slot = at.as_u32() as usize % N;
    // No other command in flight has a slot's number as its id.
    let id = slot as u64;
    let words = [
        2 | id << 16 | 1 << 32,
        0,
        0,
        address & !(PAGE - 1),
        0,
        64,
        7,
        0,
    ];
    for (index, word) in words.into_iter().enumerate() {
        shadow.store(8 * slot + index, word);
    }
}

/// Each command with the controller moves data of the process's only, in blocks of its own.
fn expect_commands(submission: &Pages, regions: &Regions<'_>) {
    for slot in 0..N {
        let words: [u64; 8] = core::array::from_fn(|index| submission.load(8 * slot + index));
        if words[0] == 0 {
            continue;
        }
        assert_eq!(words[0] >> 32, 1, "another namespace");
        if words[0] & 0xff != 0 {
            let end = words[5]
                .checked_add((words[6] & 0xffff) + 1)
                .expect("no wrap");
            assert!(words[5] >= 64 && end <= 64 + 4096, "another's blocks");
        }
        assert!(
            words[3] == 0 || regions.holds_bus(words[3]),
            "another's memory: {words:x?}"
        );
    }
}

/// Process and device around a receive queue.
fn receive<F: CheckedFormat>(
    input: &mut Input<'_>,
    regions: &Regions<'_>,
    ring: F,
    hardware: &Hardware<'_>,
) -> Report {
    let shadow = Pages::new(1, 0);
    let queue = CheckedReceiver::<F, _, N>::new(ring, Silent, shadow.shared(), 2048);
    let mut queue = queue.expect("buffers longer than a header");
    let mut card = Wire::new::<N>(hardware.pages, hardware.layout);
    let mut calls = Calls::default();
    while !input.is_empty() {
        let more = added(input, N.saturating_sub(queue.outstanding() as usize));
        for at in 0..more {
            let address = regions.address(input, Direction::FromDevice, 2048);
            shadow.store(2 * slot(queue.accepted().advanced(at)), address);
        }
        scribble(input, &shadow, 0..2 * N);
        scribble(input, hardware.pages, hardware.writable());
        let claim = position(input, queue.accepted().advanced(more));
        let result = queue.service(claim, &regions.table, input.byte().into());
        calls.note(
            hardware.shape(["split receive call", "packed receive call"]),
            result.is_ok(),
        );
        complete(input, &mut card);
        // An error is an answer.
        any_answer(queue.harvest());
        assert!(queue.outstanding() as usize <= N);
        for posted in hardware.descriptors() {
            let is_own = posted.address == 0 || regions.holds_bus(posted.address);
            assert!(is_own, "another's memory: {posted:x?}");
        }
    }
    calls.report
}

const fn slot(at: Position) -> usize {
    at.as_u32() as usize % N
}

/// A card that keeps to the rules: it uses some of the chains that it was given, in their order.
fn complete(input: &mut Input<'_>, card: &mut Wire<'_>) {
    for _ in 0..input.below(4) {
        let Some((chain, places)) = card.next() else {
            break;
        };
        card.complete(chain.id.into(), 60);
        card.skip(places);
    }
}

/// Process and device around a transmit queue.
fn transmit<F: CheckedFormat>(
    input: &mut Input<'_>,
    regions: &Regions<'_>,
    ring: F,
    hardware: &Hardware<'_>,
) -> Report {
    let (shadow, copies) = (Pages::new(1, 0), Pages::new(1, 0));
    let tables = Pages::new(Tables::<N>::BYTES, TABLES);
    let owned = Tables::new(tables.block()).expect("room");
    let copied = Some(copies.shared());
    let queue = CheckedSender::<F, _, N>::new((ring, Silent), shadow.shared(), copied, owned, 1514);
    let mut queue = queue.expect("room");
    let mut card = Wire::new::<N>(hardware.pages, hardware.layout);
    let mut process = Sender {
        shadow: &shadow,
        layout: hardware.layout,
        written: Position::START,
        frames: Vec::new(),
    };
    let mut calls = Calls::default();
    while !input.is_empty() {
        let accepted = queue.accepted();
        let more = process.write(input, regions, queue.outstanding());
        scribble(input, &shadow, 0..2 * N);
        scribble(input, hardware.pages, hardware.writable());
        let claim = position(input, accepted.advanced(more));
        let result = queue.service(claim, &regions.table, &AnySource, u32::MAX);
        let shape = hardware.shape(["split transmit call", "packed transmit call"]);
        calls.note(shape, result.is_ok());
        complete(input, &mut card);
        any_answer(queue.harvest());
        assert!(queue.outstanding() as usize <= N);
        for posted in hardware.descriptors() {
            expect_table(&posted, &tables, (hardware.layout, regions));
        }
    }
    calls.report
}

/// A process that keeps to the rules of a transmit ring.
struct Sender<'p> {
    shadow: &'p Pages,
    layout: Layout,
    /// How many descriptors it has written.
    written: Position,
    /// How many descriptors each frame has, in their order.
    frames: Vec<u32>,
}

impl Sender<'_> {
    /// Writes a frame where there is room, beside what the kernel and the card have; by how much the tail moves: split rings count
    /// frames, packed ones descriptors.
    fn write(&mut self, input: &mut Input<'_>, regions: &Regions<'_>, outstanding: u32) -> u32 {
        let taken = match self.layout {
            Layout::Split => self.frames.iter().rev().take(outstanding as usize).sum(),
            Layout::Packed => outstanding,
        };
        let parts = added(input, N.saturating_sub(taken as usize));
        for part in 0..parts {
            let is_last = part + 1 == parts;
            let entry = Posted {
                address: regions.address(input, Direction::ToDevice, 100),
                len: 80,
                flags: if is_last { 0 } else { NEXT },
                id: 0,
            };
            let slot = slot(self.written);
            self.shadow.store(2 * slot, entry.address);
            self.shadow.store(2 * slot + 1, entry.encode(self.layout));
            self.written = self.written.after();
        }
        if parts > 0 {
            self.frames.push(parts);
        }
        match self.layout {
            Layout::Split => parts.min(1),
            Layout::Packed => parts,
        }
    }
}

/// A descriptor leads to a table of the kernel's, and that to the kernel's header and the process's memory.
fn expect_table(posted: &Posted, tables: &Pages, (layout, regions): (Layout, &Regions<'_>)) {
    assert!(
        posted.flags & INDIRECT != 0 && posted.len <= 17 * 16,
        "{posted:x?}"
    );
    for index in 0..u64::from(posted.len / 16) {
        let at = posted.address + 16 * index;
        let word = |at| {
            tables
                .at_bus(at)
                .expect("a table outside the kernel's memory")
        };
        let entry = Posted::decode(layout, word(at), word(at + 8));
        let is_own = entry.address == 0
            || tables.at_bus(entry.address & !7).is_some()
            || regions.holds_bus(entry.address);
        assert!(
            is_own && entry.flags & WRITE == 0,
            "another's memory: {entry:x?}"
        );
    }
}

/// The device's ring, and what of it the device writes.
struct Hardware<'p> {
    pages: &'p Pages,
    layout: Layout,
}

impl Hardware<'_> {
    /// One of two names, for split and packed rings.
    fn shape(&self, [split, packed]: [&'static str; 2]) -> &'static str {
        match self.layout {
            Layout::Split => split,
            Layout::Packed => packed,
        }
    }

    /// Words that the device writes by right: the used ring, or everything.
    fn writable(&self) -> core::ops::Range<usize> {
        match self.layout {
            Layout::Split => Split::<'_, N>::USED / 8..Split::<'_, N>::USED / 8 + N + 2,
            Layout::Packed => 0..2 * N,
        }
    }

    /// What the device finds. Of a packed ring, which it writes itself, nothing can be said.
    fn descriptors(&self) -> impl Iterator<Item = Posted> {
        let count = if self.layout == Layout::Split { N } else { 0 };
        (0..count).map(|index| {
            let (address, rest) = (self.pages.load(2 * index), self.pages.load(2 * index + 1));
            Posted::decode(self.layout, address, rest)
        })
    }
}
