//! A host that knows the specification's numbers and nothing of any driver.

use core::sync::atomic::{AtomicU32, Ordering};

use embedded_hal::delay::DelayNs;
use parakernel_core::{
    address::{Direction, PhysAddr},
    mmio::Registers,
};
use parakernel_mock_hw::{
    Memory, World,
    memory::{Lease, Range, RequesterId},
    nvme::{Config, Nvme},
    pci::Bar,
    trace::Trace,
};

pub(crate) const MIB: usize = 1 << 20;
const DEVICE: RequesterId = RequesterId(0x0100);
const LEASE: Lease = Lease(1);

pub(crate) fn config() -> Config {
    Config::default()
}

/// An address as two dwords.
pub(crate) fn two(address: u64) -> [u32; 2] {
    [address as u32, (address >> 32) as u32]
}

struct Queue {
    sq: u64,
    cq: u64,
    entries: u32,
    tail: u32,
    head: u32,
    phase: u32,
}

pub(crate) struct Host {
    pub(crate) world: World,
    pub(crate) memory: Memory,
    pub(crate) nvme: Nvme,
    pub(crate) bar: Bar,
    pub(crate) last_result: u32,
    queues: Vec<(u16, Queue)>,
    data: Range,
    /// The memory page size is `4096 << page_exponent`.
    page_exponent: u32,
    stride: usize,
    next_id: u16,
    events: u32,
    shadow: Option<u64>,
    others: Vec<(u16, u32, u32)>,
}

impl Host {
    pub(crate) fn new(world: &World, config: Config) -> Self {
        Self::with_geometry(world, config, 0)
    }

    pub(crate) fn with_geometry(world: &World, config: Config, page_exponent: u32) -> Self {
        let stride = 4 << config.stride_exponent;
        let memory = world.memory(32 * MIB);
        let big = config.transfer_exponent > 5;
        let nvme = Nvme::new(world, &memory, DEVICE, config);
        nvme.config_space().enable();
        let data = Self::granted(&memory, if big { 8 * MIB } else { MIB / 2 });
        Self {
            bar: nvme.bar0(),
            world: world.clone(),
            memory,
            nvme,
            last_result: 0,
            queues: Vec::new(),
            data,
            page_exponent,
            stride,
            next_id: 0,
            events: 0,
            shadow: None,
            others: Vec::new(),
        }
    }

    fn granted(memory: &Memory, len: usize) -> Range {
        let range = memory.allocate_aligned(len, 1 << 16).unwrap();
        memory.grant(DEVICE, range, Direction::Bidirectional, LEASE);
        range
    }

    fn queue(&self, entries: u32) -> Queue {
        let page = |bytes| Self::granted(&self.memory, bytes).start.as_u64();
        Queue {
            sq: page(64 * entries as usize),
            cq: page(16 * entries as usize),
            entries,
            tail: 0,
            head: 0,
            phase: 1,
        }
    }

    pub(crate) fn enable(&mut self) {
        let admin = self.queue(8);
        self.bar.write32(0x24, 0x0007_0007);
        self.bar.write64(0x28, admin.sq);
        self.bar.write64(0x30, admin.cq);
        self.bar
            .write32(0x14, 0x0046_0001 | self.page_exponent << 7);
        self.queues = vec![(0, admin)];
        self.shadow = None;
        for _ in 0..10_000 {
            if self.bar.read32(0x1c) & 1 == 1 {
                return;
            }
            self.world.delay_us(10);
        }
        panic!("never ready");
    }

    pub(crate) fn enable_again(&mut self) {
        self.data = Self::granted(&self.memory, self.data.len);
        self.enable();
    }

    pub(crate) fn end_lease(&self) {
        // The admin queue goes on under a lease of its own.
        self.memory.end(LEASE);
        for (id, queue) in &self.queues {
            if *id == 0 {
                for start in [queue.sq, queue.cq] {
                    let range = Range {
                        start: PhysAddr::new(start),
                        len: 4096,
                    };
                    self.memory
                        .grant(DEVICE, range, Direction::Bidirectional, Lease(2));
                }
            }
        }
    }

    pub(crate) fn create_pair(&mut self, id: u16, entries: u32) -> (u32, u32) {
        let queue = self.queue(entries);
        let size = (entries - 1) << 16 | u32::from(id);
        let cq = self.admin(5, |command| {
            command[6..8].copy_from_slice(&two(queue.cq));
            (command[10], command[11]) = (size, 1);
        });
        let sq = self.admin(1, |command| {
            command[6..8].copy_from_slice(&two(queue.sq));
            (command[10], command[11]) = (size, u32::from(id) << 16 | 1);
        });
        self.queues.push((id, queue));
        (cq, sq)
    }

    /// Fills the entries of pair 1's submission queue, without telling.
    #[cfg(feature = "proptest")]
    pub(crate) fn put_commands(&mut self, commands: &[Vec<u8>]) {
        let place = self.place(1);
        let sq = self.queues[place].1.sq;
        for (at, command) in (sq..).step_by(64).zip(commands) {
            self.poke(at, command);
        }
    }

    pub(crate) fn trace(&self) -> Trace {
        self.world.trace()
    }

    pub(crate) fn settle(&self) {
        self.world.settle(1_000_000);
    }

    /// A granted page-aligned address with at least 512 KiB behind it.
    pub(crate) fn page(&self) -> u64 {
        self.data.start.as_u64()
    }

    pub(crate) fn poke(&self, at: u64, bytes: &[u8]) {
        assert!(self.memory.poke(PhysAddr::new(at), bytes));
    }

    pub(crate) fn peek(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        assert!(self.memory.peek(PhysAddr::new(at), &mut bytes));
        bytes
    }

    fn place(&mut self, id: u16) -> usize {
        self.queues
            .iter()
            .position(|(queue, _)| *queue == id)
            .unwrap()
    }

    fn submit(&mut self, queue: u16, command: [u32; 16], ring: bool) {
        let place = self.place(queue);
        let bytes: Vec<u8> = command
            .iter()
            .flat_map(|dword| dword.to_le_bytes())
            .collect();
        let (sq, tail, entries) = {
            let queue = &self.queues[place].1;
            (queue.sq, queue.tail, queue.entries)
        };
        self.poke(sq + 64 * u64::from(tail), &bytes);
        let tail = (tail + 1) % entries;
        self.queues[place].1.tail = tail;
        if ring {
            self.ring(2 * usize::from(queue), tail);
        }
    }

    /// Writes a doorbell, or its shadow and the register only where the event index asks for it.
    fn ring(&self, index: usize, value: u32) {
        let Some(shadow) = self.shadow.filter(|_| index > 1) else {
            self.bar.write32(0x1000 + self.stride * index, value);
            return;
        };
        let range = Range {
            start: PhysAddr::new(shadow),
            len: 8192,
        };
        let words = self.memory.shared(range).unwrap();
        let doorbell = words.view::<AtomicU32>(4 * index).unwrap();
        let event = words.view::<AtomicU32>(4096 + 4 * index).unwrap();
        let old = doorbell.swap(value, Ordering::SeqCst) as u16;
        let event = event.load(Ordering::SeqCst) as u16;
        let new = value as u16;
        if new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old) {
            self.bar.write32(0x1000 + 4 * index, value);
        }
    }

    /// The next completion: id, status, result.
    fn take(&mut self, queue: u16) -> Option<(u16, u32, u32)> {
        let place = self.place(queue);
        let (cq, head) = (self.queues[place].1.cq, self.queues[place].1.head);
        let entry = self.peek(cq + 16 * u64::from(head), 16);
        let dword = |n: usize| u32::from_le_bytes(entry[4 * n..4 * n + 4].try_into().unwrap());
        let state = &mut self.queues[place].1;
        if (dword(3) >> 16) & 1 != state.phase {
            return None;
        }
        state.head = (head + 1) % state.entries;
        if state.head == 0 {
            state.phase ^= 1;
        }
        assert_eq!(dword(2) >> 16, u32::from(queue));
        let head = state.head;
        self.ring(2 * usize::from(queue) + 1, head);
        Some((dword(3) as u16, (dword(3) >> 17) & 0x7ff, dword(0)))
    }

    pub(crate) fn wait(&mut self, queue: u16) -> (u16, u32, u32) {
        for _ in 0..200_000 {
            if let Some(done) = self.take(queue) {
                return done;
            }
            self.world.delay_us(1);
        }
        panic!("no completion in queue {queue}");
    }

    /// Gives a command to the controller; its id.
    pub(crate) fn begin(
        &mut self,
        queue: u16,
        opcode: u32,
        namespace: u32,
        fill: impl FnOnce(&mut [u32; 16]),
    ) -> u16 {
        self.next_id = self.next_id % 50 + 1;
        let mut command = [0; 16];
        command[0] = opcode | u32::from(self.next_id) << 16;
        command[1] = namespace;
        fill(&mut command);
        self.submit(queue, command, true);
        self.next_id
    }

    pub(crate) fn call(
        &mut self,
        queue: u16,
        opcode: u32,
        namespace: u32,
        fill: impl FnOnce(&mut [u32; 16]),
    ) -> u32 {
        let own = self.begin(queue, opcode, namespace, fill);
        loop {
            let (id, status, result) = self.wait(queue);
            if id == own {
                self.last_result = result;
                return status;
            }
            self.others.push((id, status, result));
        }
    }

    pub(crate) fn admin(&mut self, opcode: u32, fill: impl FnOnce(&mut [u32; 16])) -> u32 {
        self.call(0, opcode, 0, fill)
    }

    pub(crate) fn io(
        &mut self,
        opcode: u32,
        namespace: u32,
        fill: impl FnOnce(&mut [u32; 16]),
    ) -> u32 {
        self.call(1, opcode, namespace, fill)
    }

    pub(crate) fn identify(&mut self, cns: u32, namespace: u32) -> Vec<u8> {
        let page = self.page();
        let status = self.call(0, 6, namespace, |command| {
            command[6..8].copy_from_slice(&two(page));
            command[10] = cns;
        });
        assert_eq!(status, 0);
        self.peek(page, 4096)
    }

    pub(crate) fn log_page(&mut self, page: u32, len: u32) -> Vec<u8> {
        let place = self.page();
        let status = self.admin(2, |command| {
            command[6..8].copy_from_slice(&two(place));
            command[10] = page | (len / 4 - 1) << 16;
        });
        assert_eq!(status, 0);
        self.peek(place, len as usize)
    }

    /// PRPs for `len` bytes at `start`; the list lies in the last quarter of the data.
    fn prps(&self, start: u64, len: usize) -> [u32; 4] {
        let mut pages = Vec::new();
        let page = 4096 << self.page_exponent;
        let mut at = start - start % page + page;
        while at < start + len as u64 {
            pages.push(at);
            at += page;
        }
        let mut list = self.page() + (self.data.len / 4 * 3) as u64;
        let prp2 = match pages.len() {
            0 => 0,
            1 => pages[0],
            _ => list,
        };
        if pages.len() > 1 {
            let mut rest = &pages[..];
            while rest.len() > 512 {
                let mut entries = rest[..511].to_vec();
                entries.push(list + 4096);
                self.put_list(list, &entries);
                rest = &rest[511..];
                list += 4096;
            }
            self.put_list(list, rest);
        }
        let [a, b] = two(start);
        let [c, d] = two(prp2);
        [a, b, c, d]
    }

    fn put_list(&self, at: u64, entries: &[u64]) {
        let bytes: Vec<u8> = entries
            .iter()
            .flat_map(|entry| entry.to_le_bytes())
            .collect();
        self.poke(at, &bytes);
    }

    fn transfer(
        &mut self,
        opcode: u32,
        (namespace, lba): (u32, u64),
        len: usize,
        offset: usize,
    ) -> u32 {
        let prps = self.prps(self.page() + offset as u64, len);
        self.io(opcode, namespace, |command| {
            command[6..10].copy_from_slice(&prps);
            command[10..12].copy_from_slice(&two(lba));
            command[12] = (len / 512 - 1) as u32;
        })
    }

    pub(crate) fn write(&mut self, namespace: u32, lba: u64, bytes: &[u8], offset: usize) -> u32 {
        self.poke(self.page() + offset as u64, bytes);
        self.transfer(1, (namespace, lba), bytes.len(), offset)
    }

    pub(crate) fn compare(&mut self, namespace: u32, lba: u64, bytes: &[u8]) -> u32 {
        self.poke(self.page(), bytes);
        self.transfer(5, (namespace, lba), bytes.len(), 0)
    }

    pub(crate) fn read(
        &mut self,
        namespace: u32,
        lba: u64,
        len: usize,
        offset: usize,
    ) -> (u32, Vec<u8>) {
        let at = self.page() + offset as u64;
        self.poke(at, &vec![0xee; len]);
        let status = self.transfer(2, (namespace, lba), len, offset);
        (status, self.peek(at, len))
    }

    pub(crate) fn deallocate(&mut self, namespace: u32, ranges: &[(u64, u32)]) -> u32 {
        let page = self.page();
        for (n, (lba, blocks)) in ranges.iter().enumerate() {
            self.poke(page + 16 * n as u64 + 4, &blocks.to_le_bytes());
            self.poke(page + 16 * n as u64 + 8, &lba.to_le_bytes());
        }
        self.io(9, namespace, |command| {
            command[6..8].copy_from_slice(&two(page));
            (command[10], command[11]) = (ranges.len() as u32 - 1, 4);
        })
    }

    /// Submits reads of two pages each, with ids from 100 on, and rings once.
    pub(crate) fn submit_reads(&mut self, queue: u16, count: u16) {
        for n in 0..count {
            let prps = self.prps(self.page() + u64::from(n) * 8192, 8192);
            let mut command = [0; 16];
            command[0] = 2 | u32::from(100 + n) << 16;
            command[1] = 1;
            command[6..10].copy_from_slice(&prps);
            command[12] = 15;
            self.submit(queue, command, n + 1 == count);
        }
    }

    pub(crate) fn read_many(&mut self, queue: u16, count: u16) -> Vec<u16> {
        self.submit_reads(queue, count);
        self.collect(queue, count)
    }

    /// The ids of the next completions, in the order in which they come.
    pub(crate) fn collect(&mut self, queue: u16, count: u16) -> Vec<u16> {
        (0..count)
            .map(|_| {
                let (id, status, _) = self.wait(queue);
                assert_eq!(status, 0);
                id
            })
            .collect()
    }

    /// The same, whether the commands succeeded or were aborted.
    pub(crate) fn collect_any(&mut self, queue: u16, count: u16) -> Vec<u16> {
        let one = |_| {
            let (id, status, _) = self.wait(queue);
            assert!(matches!(status, 0 | 0x07));
            id
        };
        (0..count).map(one).collect()
    }

    pub(crate) fn hold_event_request(&mut self) {
        let mut command = [0; 16];
        self.events += 1;
        command[0] = 0x0c | (900 + self.events) << 16;
        self.submit(0, command, true);
        self.settle();
    }

    pub(crate) fn take_admin(&mut self) -> (u32, u32) {
        let (_, status, result) = self.others.pop().unwrap_or_else(|| self.wait(0));
        (status, result)
    }

    pub(crate) fn try_take_admin(&mut self) -> Option<(u16, u32, u32)> {
        self.take(0)
    }

    pub(crate) fn use_shadow_doorbells(&mut self) {
        let pages = Self::granted(&self.memory, 8192).start.as_u64();
        let [a, b] = two(pages);
        let [c, d] = two(pages + 4096);
        let status = self.admin(0x7c, |command| {
            command[6..10].copy_from_slice(&[a, b, c, d]);
        });
        assert_eq!(status, 0);
        self.shadow = Some(pages);
    }

    /// Identify Controller, without waiting.
    pub(crate) fn submit_identify(&mut self) {
        let [low, high] = two(self.page());
        let mut command = [0; 16];
        command[0] = 6 | 990 << 16;
        (command[6], command[7], command[10]) = (low, high, 1);
        self.submit(0, command, true);
    }

    /// Enables MSI-X, its first vectors unmasked, and a queue pair with interrupts in place of pair 1.
    pub(crate) fn use_interrupts(&mut self) {
        let space = self.nvme.config_space();
        let mut at = usize::from(space.read8(0x34));
        while space.read8(at) != 0x11 {
            at = usize::from(space.read8(at + 1));
        }
        let table = space.read32(at + 4) as usize & !7;
        for vector in 0..2 {
            self.bar.write64(table + 16 * vector, 0xfee0_0000);
            self.bar
                .write32(table + 16 * vector + 8, 0x40 + vector as u32);
            self.bar.write32(table + 16 * vector + 12, 0);
        }
        space.write16(at + 2, 0x8000);
        let queue = self.queue(16);
        let size = 15 << 16 | 1;
        for (opcode, base, attributes) in [
            (0, 0, 0),
            (4, 0, 0),
            (5, queue.cq, 0x0001_0003),
            (1, queue.sq, 0x0001_0001),
        ] {
            let status = self.admin(opcode, |command| {
                command[6..8].copy_from_slice(&two(base));
                (command[10], command[11]) = (size, attributes);
            });
            assert_eq!(status, 0);
        }
        self.queues.retain(|(id, _)| *id != 1);
        self.queues.push((1, queue));
    }
}
