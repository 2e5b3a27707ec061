//! The kernel's side of checked queues between a process and a device that both write whatever they like.
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
use super::virtqueue::{INDIRECT, Layout, Posted, Silent, WRITE, Wire};
use crate::{
    Report, Target,
    input::Input,
    memory::Pages,
    regions::{PAGE, Regions, Storage},
};

pub(super) const TARGET: Target = Target {
    name: "checked_queues",
    run,
    is_validator: false,
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

/// Changes some words of memory: to anything, or only a few bits of them.
fn scribble(input: &mut Input<'_>, pages: &Pages, words: core::ops::Range<usize>) {
    for _ in 0..input.below(6) {
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

/// A position near `near`, or any.
fn position(input: &mut Input<'_>, near: Position) -> Position {
    match input.byte() {
        0xff => Position::new(u32::from_le_bytes(input.bytes())),
        ahead => near
            .advanced(u32::from(ahead) % 11)
            .advanced(0_u32.wrapping_sub(1)),
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
    let (mut tail, mut head) = (Position::START, Position::START);
    let mut report = Report::default();
    while !input.is_empty() {
        if input.byte() & 1 == 0 {
            let slot = input.below(N as u64) * 8;
            read_command(input, &shadow, usize::try_from(slot).expect("few"), regions);
        }
        scribble(input, &shadow, 0..8 * N);
        scribble(input, &completion, 0..2 * N);
        let claim = Claim {
            tail: position(input, tail),
            head: position(input, head),
        };
        let result = queue.service(claim, &regions.table, u32::from(input.byte()));
        report.note("call", result.is_ok());
        tail = result.unwrap_or(tail);
        head = claim.head;
        // An error is an answer.
        any_answer(queue.has_news(head));
        any_answer(queue.drain());
        assert!((queue.in_flight() as usize) < N);
        expect_commands(&submission, regions);
    }
    report
}

/// A read of one page, as a process gives it.
fn read_command(input: &mut Input<'_>, shadow: &Pages, first: usize, regions: &Regions<'_>) {
    let address = regions.address(input, Direction::FromDevice, PAGE) & !3;
    let id = u64::from(input.byte() & 7);
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
        shadow.store(first + index, word);
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
    let mut report = Report::default();
    while !input.is_empty() {
        if input.byte() & 1 == 0 {
            let slot = usize::try_from(input.below(N as u64)).expect("few");
            shadow.store(
                2 * slot,
                regions.address(input, Direction::FromDevice, 2048),
            );
        }
        scribble(input, &shadow, 0..2 * N);
        scribble(input, hardware.pages, hardware.writable());
        let claim = position(input, queue.accepted());
        let result = queue.service(claim, &regions.table, input.byte().into());
        report.note("call", result.is_ok());
        // An error is an answer.
        any_answer(queue.harvest());
        assert!(queue.outstanding() as usize <= N);
        for posted in hardware.descriptors() {
            let is_own = posted.address == 0 || regions.holds_bus(posted.address);
            assert!(is_own, "another's memory: {posted:x?}");
        }
    }
    report
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
    let mut report = Report::default();
    while !input.is_empty() {
        if input.byte() & 1 == 0 {
            let slot = usize::try_from(input.below(N as u64)).expect("few");
            shadow.store(2 * slot, regions.address(input, Direction::ToDevice, 100));
            let more = u64::from(input.byte() & 1);
            let shift = if hardware.layout == Layout::Split {
                32
            } else {
                48
            };
            shadow.store(2 * slot + 1, 80 | more << shift);
        }
        scribble(input, &shadow, 0..2 * N);
        scribble(input, hardware.pages, hardware.writable());
        let claim = position(input, queue.accepted());
        let result = queue.service(claim, &regions.table, &AnySource, input.byte().into());
        report.note("call", result.is_ok());
        any_answer(queue.harvest());
        assert!(queue.outstanding() as usize <= N);
        for posted in hardware.descriptors() {
            expect_table(&posted, &tables, (hardware.layout, regions));
        }
    }
    report
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
