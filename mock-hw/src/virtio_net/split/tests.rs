//! The split ring held against another device side that nobody here wrote: rust-vmm's `virtio-queue`.
//!
//! Both work on memory of their own with the same bytes at the same addresses.
#![expect(
    clippy::cast_possible_truncation,
    reason = "a test; numbers are cut to the width of the field that they go to"
)]

use alloc::collections::VecDeque;

use parakernel_core::address::{Direction, PhysAddr};
use proptest::{collection::vec, prelude::*};
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::*;
use crate::{
    Memory, World,
    memory::{Lease, RequesterId},
    pci::Identity,
};

const BASE: u64 = 0x4_0000_0000;
const LEN: usize = 1 << 16;
const AVAILABLE: u64 = BASE + 0x1000;
const USED: u64 = BASE + 0x2000;
const TABLES: u64 = BASE + 0x3000;

/// One buffer: length, and whether the device writes it.
type Part = (u32, bool);

#[derive(Clone, Debug)]
enum Step {
    /// Offers a chain, in a table of its own from this part on.
    Offer(Vec<Part>, Option<usize>),
    Take,
    /// Gives back one of the chains that were taken, with a length.
    Give(usize, u32),
    /// The driver asks to be told at this distance from the used index.
    Event(i16),
    AskNotification,
}

fn step() -> impl Strategy<Value = Step> {
    let part = (0..5000_u32, any::<bool>());
    let table = prop_oneof![Just(None), (0..4_usize).prop_map(Some)];
    prop_oneof![
        4 => (vec(part, 1..5), table).prop_map(|(mut parts, table)| {
            parts.sort_by_key(|(_, writable)| *writable);
            Step::Offer(parts, table)
        }),
        3 => Just(Step::Take),
        3 => (any::<usize>(), any::<u32>()).prop_map(|(which, len)| Step::Give(which, len)),
        1 => (-3..3_i16).prop_map(Step::Event),
        1 => Just(Step::AskNotification),
    ]
}

/// The two devices, and a driver that knows where it put what.
struct Pair {
    memory: Memory,
    function: Function,
    ours: Split,
    their_memory: GuestMemoryMmap,
    theirs: Queue,
    size: u16,
    free: VecDeque<u16>,
    offered: u16,
    used: u16,
    tables: u64,
    taken: Vec<Chain>,
    /// Table entries of the chains not given back, by head.
    held: Vec<Vec<u16>>,
}

impl Pair {
    fn new(size: u16, start: u16) -> Self {
        let memory = World::new(0).memory(LEN);
        let range = memory.allocate(LEN).unwrap();
        assert_eq!(range.start.as_u64(), BASE);
        let requester = RequesterId(1);
        memory.grant(requester, range, Direction::Bidirectional, Lease(0));
        let identity = Identity {
            vendor: 0,
            device: 0,
            subsystem_vendor: 0,
            subsystem: 0,
            revision: 0,
            class: 0,
        };
        let mut function = Function::new(&World::new(0), &memory, requester, identity);
        function.make_platform_device();
        let features = Features::EVENT_IDX | Features::INDIRECT_DESC;
        let mut ours = Split::new(size, [BASE, AVAILABLE, USED], features);
        (ours.next_available, ours.next_used, ours.reported) = (start, start, start);

        let their_memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(BASE), LEN)]).unwrap();
        let mut theirs = Queue::new(size).unwrap();
        let halves = |address: u64| (Some(address as u32), Some((address >> 32) as u32));
        let ((low, high), (available, above), (used, over)) =
            (halves(BASE), halves(AVAILABLE), halves(USED));
        theirs.set_desc_table_address(low, high);
        theirs.set_avail_ring_address(available, above);
        theirs.set_used_ring_address(used, over);
        theirs.set_event_idx(true);
        theirs.set_next_avail(start);
        theirs.set_next_used(start);
        theirs.set_ready(true);
        let mut pair = Self {
            memory,
            function,
            ours,
            their_memory,
            theirs,
            size,
            free: (0..size).collect(),
            offered: start,
            used: start,
            tables: TABLES,
            taken: Vec::new(),
            held: vec![Vec::new(); usize::from(size)],
        };
        pair.write(AVAILABLE + 2, &start.to_le_bytes());
        pair.write(USED + 2, &start.to_le_bytes());
        pair
    }

    fn write(&mut self, at: u64, bytes: &[u8]) {
        assert!(self.memory.poke(PhysAddr::new(at), bytes));
        self.their_memory
            .write_slice(bytes, GuestAddress(at))
            .unwrap();
    }

    fn offer(&mut self, parts: &[Part], table: Option<usize>) {
        let split = table.map_or(parts.len(), |table| table.min(parts.len() - 1));
        let direct = split + usize::from(split < parts.len());
        if self.free.len() < direct || parts.len() > usize::from(self.size) {
            return;
        }
        let entries: Vec<u16> = self.free.drain(..direct).collect();
        if split < parts.len() {
            let count = parts.len() - split;
            let place = self.tables;
            self.tables = TABLES + (place - TABLES + 16 * count as u64) % 0x8000;
            for (n, part) in parts[split..].iter().enumerate() {
                let next = (n + 1 < count).then_some(n as u16 + 1);
                self.descriptor(
                    place + 16 * n as u64,
                    (BASE + 64 * n as u64, part.0),
                    part.1,
                    next,
                );
            }
            self.write(
                BASE + 16 * u64::from(entries[split]) + 12,
                &4_u16.to_le_bytes(),
            );
            let mut bytes = place.to_le_bytes().to_vec();
            bytes.extend((16 * count as u32).to_le_bytes());
            self.write(BASE + 16 * u64::from(entries[split]), &bytes);
        }
        for (n, part) in parts[..split].iter().enumerate() {
            let next = entries.get(n + 1).copied();
            self.descriptor(
                BASE + 16 * u64::from(entries[n]),
                (BASE + 64 * n as u64, part.0),
                part.1,
                next,
            );
        }
        let slot = u64::from(self.offered % self.size);
        self.write(AVAILABLE + 4 + 2 * slot, &entries[0].to_le_bytes());
        self.offered = self.offered.wrapping_add(1);
        self.write(AVAILABLE + 2, &self.offered.to_le_bytes());
        let head = usize::from(entries[0]);
        self.held[head] = entries;
    }

    fn descriptor(
        &mut self,
        at: u64,
        (address, len): (u64, u32),
        writable: bool,
        next: Option<u16>,
    ) {
        let mut bytes = address.to_le_bytes().to_vec();
        bytes.extend(len.to_le_bytes());
        bytes.extend((u16::from(next.is_some()) | u16::from(writable) << 1).to_le_bytes());
        bytes.extend(next.unwrap_or(0).to_le_bytes());
        self.write(at, &bytes);
    }

    fn take(&mut self) {
        let ours = self.ours.take(&self.function).unwrap();
        let theirs = self.theirs.iter(&self.their_memory).unwrap().next();
        let Some(chain) = ours else {
            assert!(theirs.is_none());
            return;
        };
        let theirs = theirs.unwrap();
        assert_eq!(chain.id, theirs.head_index());
        let buffers = |writable: bool| -> Vec<(u64, usize)> {
            let all = theirs
                .clone()
                .filter(|descriptor| descriptor.is_write_only() == writable);
            all.map(|descriptor| (descriptor.addr().0, descriptor.len() as usize))
                .collect()
        };
        let mine = |buffers: &[super::super::chain::Buffer]| -> Vec<(u64, usize)> {
            buffers
                .iter()
                .map(|buffer| (buffer.address.as_u64(), buffer.len))
                .collect()
        };
        assert_eq!(mine(&chain.readable), buffers(false));
        assert_eq!(mine(&chain.writable), buffers(true));
        self.taken.push(chain);
    }

    fn give(&mut self, which: usize, len: u32) {
        if self.taken.is_empty() {
            return;
        }
        let chain = self.taken.swap_remove(which % self.taken.len());
        let id = chain.id;
        self.ours
            .give(&self.function, &[(chain, len as usize)])
            .unwrap();
        self.theirs.add_used(&self.their_memory, id, len).unwrap();
        self.used = self.used.wrapping_add(1);
        self.free
            .extend(core::mem::take(&mut self.held[usize::from(id)]));
        let wanted = self.theirs.needs_notification(&self.their_memory).unwrap();
        assert_eq!(self.ours.wants_interrupt(&self.function).unwrap(), wanted);
    }

    fn event(&mut self, distance: i16) {
        let event = self.used.wrapping_add_signed(distance);
        self.write(
            AVAILABLE + 4 + 2 * u64::from(self.size),
            &event.to_le_bytes(),
        );
    }

    fn ask_notification(&mut self) {
        self.ours.ask_notification(&self.function, true).unwrap();
        let more = self.theirs.enable_notification(&self.their_memory).unwrap();
        assert_eq!(self.ours.has_available(&self.function).unwrap(), more);
    }

    /// All that a device may have written.
    fn compare(&self) {
        let mut ours = vec![0; 0x1000];
        let mut theirs = ours.clone();
        assert!(self.memory.peek(PhysAddr::new(USED), &mut ours));
        self.their_memory
            .read_slice(&mut theirs, GuestAddress(USED))
            .unwrap();
        assert_eq!(ours, theirs);
    }
}

proptest! {
    #[test]
    fn our_device_side_does_what_virtio_queue_does(
        size in prop_oneof![Just(2_u16), Just(8), Just(64)],
        start in prop_oneof![Just(0_u16), any::<u16>()],
        steps in vec(step(), 1..120),
    ) {
        let mut pair = Pair::new(size, start);
        for step in steps {
            match step {
                Step::Offer(parts, table) => pair.offer(&parts, table),
                Step::Take => pair.take(),
                Step::Give(which, len) => pair.give(which, len),
                Step::Event(distance) => pair.event(distance),
                Step::AskNotification => pair.ask_notification(),
            }
            pair.compare();
        }
    }

    /// Whatever the bytes say: an error or a chain, never a panic, and nothing that rust-vmm would not follow.
    #[test]
    fn hostile_bytes_break_the_ring_or_agree(
        bytes in vec(any::<u8>(), 8 * 16),
        heads in vec(0..10_u16, 8),
    ) {
        let mut pair = Pair::new(8, 0);
        // Keeps lengths and indices small, so that some chains are sound.
        let mut bytes = bytes;
        for descriptor in bytes.chunks_exact_mut(16) {
            descriptor[10] = 0;
            descriptor[11] = 0;
            descriptor[12] &= 7;
            descriptor[13] = 0;
            descriptor[14] &= 7;
            descriptor[15] = 0;
            let address = BASE + 0x100 + u64::from(descriptor[0]);
            descriptor[..8].copy_from_slice(&address.to_le_bytes());
        }
        pair.write(BASE, &bytes);
        for (slot, head) in heads.iter().enumerate() {
            pair.write(AVAILABLE + 4 + 2 * slot as u64, &head.to_le_bytes());
        }
        pair.write(AVAILABLE + 2, &8_u16.to_le_bytes());
        for _ in 0..8 {
            let mut trial = pair.ours.clone();
            match trial.take(&pair.function) {
                Ok(Some(_)) => pair.take(),
                Ok(None) => unreachable!("eight chains are available"),
                Err(_) => break,
            }
        }
    }
}
