//! A guest that knows the specification's numbers and nothing of any driver.

use core::time::Duration;

use parakernel_core::{
    address::{Direction, PhysAddr},
    mmio::{Registers, Width},
};
use parakernel_mock_hw::{
    Memory, World,
    memory::{Lease, Range, RequesterId},
    virtio_net::{Config, Features, VirtioNet},
};

pub(crate) const DEVICE: RequesterId = RequesterId(0x0200);
pub(crate) const LEASE: Lease = Lease(1);

/// A buffer of a chain: address, length, whether the device writes it.
pub(crate) type Part = (u64, u32, bool);

/// Register accesses of both transports, under one name each.
pub(crate) enum Access {
    Pci {
        offsets: [usize; 4],
        multiplier: usize,
    },
    Mmio,
}

pub(crate) struct Ring {
    pub(crate) index: u16,
    size: u16,
    table: u64,
    driver: u64,
    device: u64,
    available: u16,
    used: u16,
    wrap: bool,
    used_wrap: bool,
    free: Vec<u16>,
    /// The next table entry, with `IN_ORDER`.
    next: u16,
    /// Table entries, or slots, of a chain by its id.
    chains: Vec<Vec<u16>>,
}

pub(crate) struct Guest {
    pub(crate) world: World,
    pub(crate) memory: Memory,
    pub(crate) net: VirtioNet,
    access: Access,
    pub(crate) features: Features,
    next: u64,
    end: u64,
}

impl Guest {
    pub(crate) fn pci(world: &World, config: Config) -> Self {
        let memory = world.memory(8 << 20);
        let net = VirtioNet::pci(world, &memory, DEVICE, config);
        let space = net.config_space();
        space.enable();
        let mut offsets = [0; 4];
        let mut multiplier = 0;
        let mut at = usize::from(space.read8(0x34));
        while at != 0 {
            let kind = usize::from(space.read8(at + 3));
            if space.read8(at) == 0x09 && (1..=4).contains(&kind) {
                assert_eq!(space.read8(at + 4), 4);
                offsets[kind - 1] = space.read32(at + 8) as usize;
                if kind == 2 {
                    multiplier = space.read32(at + 16) as usize;
                }
            }
            at = usize::from(space.read8(at + 1));
        }
        Self::new(
            world,
            memory,
            net,
            Access::Pci {
                offsets,
                multiplier,
            },
        )
    }

    pub(crate) fn mmio(world: &World, config: Config) -> Self {
        let memory = world.memory(8 << 20);
        let net = VirtioNet::mmio(world, &memory, DEVICE, config);
        Self::new(world, memory, net, Access::Mmio)
    }

    fn new(world: &World, memory: Memory, net: VirtioNet, access: Access) -> Self {
        let range = memory.allocate(4 << 20).unwrap();
        memory.grant(DEVICE, range, Direction::Bidirectional, LEASE);
        let next = range.start.as_u64();
        Self {
            world: world.clone(),
            memory,
            net,
            access,
            features: Features::empty(),
            next,
            end: next + range.len as u64,
        }
    }

    /// The same guest, taking its memory from `range` from now on.
    pub(crate) fn moved_to(mut self, range: Range) -> Self {
        self.next = range.start.as_u64();
        self.end = self.next + range.len as u64;
        self
    }

    /// Granted memory, page-aligned.
    pub(crate) fn room(&mut self, len: usize) -> u64 {
        let at = self.next;
        self.next += len.next_multiple_of(4096) as u64;
        assert!(self.next <= self.end);
        at
    }

    pub(crate) fn poke(&self, at: u64, bytes: &[u8]) {
        assert!(self.memory.poke(PhysAddr::new(at), bytes));
    }

    pub(crate) fn peek(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        assert!(self.memory.peek(PhysAddr::new(at), &mut bytes));
        bytes
    }

    fn peek16(&self, at: u64) -> u16 {
        u16::from_le_bytes(self.peek(at, 2).try_into().unwrap())
    }

    fn peek32(&self, at: u64) -> u32 {
        u32::from_le_bytes(self.peek(at, 4).try_into().unwrap())
    }

    pub(crate) fn settle(&self) {
        self.world.settle(1_000_000);
    }

    /// Writes a common register by its PCI offset and width, or its MMIO offset.
    pub(crate) fn write(&self, pci: usize, width: Width, mmio: usize, value: u32) {
        match &self.access {
            Access::Pci { offsets, .. } => {
                self.net.bar(4).write(offsets[0] + pci, width, value.into());
            }
            Access::Mmio => self.net.mmio_registers().write32(mmio, value),
        }
    }

    pub(crate) fn read(&self, pci: usize, width: Width, mmio: usize) -> u32 {
        match &self.access {
            Access::Pci { offsets, .. } => self.net.bar(4).read(offsets[0] + pci, width) as u32,
            Access::Mmio => self.net.mmio_registers().read32(mmio),
        }
    }

    pub(crate) fn read_config(&self, offset: usize, width: Width) -> u64 {
        match &self.access {
            Access::Pci { offsets, .. } => self.net.bar(4).read(offsets[3] + offset, width),
            Access::Mmio => self.net.mmio_registers().read(0x100 + offset, width),
        }
    }

    pub(crate) fn set_status(&self, value: u32) {
        self.write(0x14, Width::U8, 0x070, value);
    }

    pub(crate) fn status(&self) -> u32 {
        self.read(0x14, Width::U8, 0x070)
    }

    pub(crate) fn reset(&self) {
        self.set_status(0);
        while self.status() != 0 {
            self.world.run_for(Duration::from_micros(1));
        }
    }

    pub(crate) fn offered(&self) -> Features {
        let mut bits = 0;
        for half in 0..2 {
            self.write(0x00, Width::U32, 0x014, half);
            bits |= u64::from(self.read(0x04, Width::U32, 0x010)) << (32 * half);
        }
        Features::from_bits_retain(bits)
    }

    /// Up to `FEATURES_OK`; whether the device agreed.
    pub(crate) fn negotiate(&mut self, features: Features) -> bool {
        self.reset();
        self.set_status(1);
        self.set_status(3);
        for half in 0..2_u32 {
            self.write(0x08, Width::U32, 0x024, half);
            self.write(
                0x0c,
                Width::U32,
                0x020,
                (features.bits() >> (32 * half)) as u32,
            );
        }
        self.set_status(11);
        self.features = features;
        self.status() & 8 != 0
    }

    pub(crate) fn start(&self) {
        self.set_status(15);
    }

    pub(crate) fn queue(&mut self, index: u16, size: u16) -> Ring {
        let table = self.room(16 * usize::from(size));
        let driver = self.room(6 + 2 * usize::from(size));
        let device = self.room(6 + 8 * usize::from(size));
        self.set_up(index, size, [table, driver, device]);
        assert_eq!(self.read(0x1c, Width::U16, 0x044), 1);
        Ring {
            index,
            size,
            table,
            driver,
            device,
            available: 0,
            used: 0,
            wrap: true,
            used_wrap: true,
            free: (0..size).rev().collect(),
            next: 0,
            chains: vec![Vec::new(); usize::from(size)],
        }
    }

    /// Tells the device where a queue's areas lie, and enables it.
    pub(crate) fn set_up(&self, index: u16, size: u16, areas: [u64; 3]) {
        self.write(0x16, Width::U16, 0x030, index.into());
        self.write(0x18, Width::U16, 0x038, size.into());
        for (n, area) in areas.into_iter().enumerate() {
            for half in 0..2 {
                let value = (area >> (32 * half)) as u32;
                self.write(
                    0x20 + 8 * n + 4 * half,
                    Width::U32,
                    0x080 + 16 * n + 4 * half,
                    value,
                );
            }
        }
        self.write(0x1c, Width::U16, 0x044, 1);
    }

    /// Starts with the first pair and, if agreed, the control queue.
    pub(crate) fn bring_up(&mut self, features: Features, size: u16) -> (Ring, Ring) {
        assert!(self.negotiate(features));
        let queues = (self.queue(0, size), self.queue(1, size));
        self.start();
        queues
    }

    fn is_packed(&self) -> bool {
        self.features.contains(Features::RING_PACKED)
    }

    /// Makes a chain available without telling; its id.
    pub(crate) fn offer(&self, ring: &mut Ring, parts: &[Part]) -> u16 {
        if self.is_packed() {
            self.offer_packed(ring, parts)
        } else {
            self.offer_split(ring, parts)
        }
    }

    fn offer_split(&self, ring: &mut Ring, parts: &[Part]) -> u16 {
        let in_order = self.features.contains(Features::IN_ORDER);
        let entries: Vec<u16> = if in_order {
            let first = ring.next;
            ring.next = (first + parts.len() as u16) % ring.size;
            let rest = (1..parts.len() as u16).map(|n| (first + n) % ring.size);
            let entries: Vec<u16> = core::iter::once(first).chain(rest).collect();
            ring.free.retain(|free| !entries.contains(free));
            entries
        } else {
            parts.iter().map(|_| ring.free.pop().unwrap()).collect()
        };
        for (n, (address, len, writable)) in parts.iter().enumerate() {
            let next = entries.get(n + 1);
            let flags = u16::from(next.is_some()) | u16::from(*writable) << 1;
            let mut bytes = address.to_le_bytes().to_vec();
            bytes.extend(len.to_le_bytes());
            bytes.extend(flags.to_le_bytes());
            bytes.extend(next.copied().unwrap_or(0).to_le_bytes());
            self.poke(ring.table + 16 * u64::from(entries[n]), &bytes);
        }
        let head = entries[0];
        self.offer_head(ring, head);
        ring.chains[usize::from(head)] = entries;
        head
    }

    /// Puts `head` into the available ring, whatever it is.
    pub(crate) fn offer_head(&self, ring: &mut Ring, head: u16) {
        self.poke(
            ring.driver + 4 + 2 * u64::from(ring.available % ring.size),
            &head.to_le_bytes(),
        );
        ring.available = ring.available.wrapping_add(1);
        self.poke(ring.driver + 2, &ring.available.to_le_bytes());
    }

    pub(crate) fn poke_descriptor(&self, ring: &Ring, index: u16, bytes: &[u8]) {
        self.poke(ring.table + 16 * u64::from(index), bytes);
    }

    pub(crate) fn poke_available(&self, ring: &Ring, slot: u16, head: u16) {
        self.poke(ring.driver + 4 + 2 * u64::from(slot), &head.to_le_bytes());
    }

    pub(crate) fn poke_available_index(&self, ring: &Ring, index: u16) {
        self.poke(ring.driver + 2, &index.to_le_bytes());
    }

    fn offer_packed(&self, ring: &mut Ring, parts: &[Part]) -> u16 {
        let id = ring.free.pop().unwrap();
        let mut head = None;
        for (n, (address, len, writable)) in parts.iter().enumerate() {
            let more = n + 1 < parts.len();
            let marks = if ring.wrap { 1 << 7 } else { 1 << 15 };
            let flags = u16::from(more) | u16::from(*writable) << 1 | marks;
            let place = ring.table + 16 * u64::from(ring.available);
            let mut bytes = address.to_le_bytes().to_vec();
            bytes.extend(len.to_le_bytes());
            bytes.extend(id.to_le_bytes());
            self.poke(place, &bytes);
            match head {
                None => head = Some((place + 14, flags)),
                Some(_) => self.poke(place + 14, &flags.to_le_bytes()),
            }
            ring.available += 1;
            if ring.available == ring.size {
                ring.available = 0;
                ring.wrap = !ring.wrap;
            }
        }
        let (place, flags) = head.unwrap();
        self.poke(place, &flags.to_le_bytes());
        ring.chains[usize::from(id)] = vec![0; parts.len()];
        id
    }

    /// Whether the device asked to be told of what was just offered; asked for each chain by itself.
    fn wants_notification(&self, ring: &Ring) -> bool {
        let event_index = self.features.contains(Features::EVENT_IDX);
        if self.is_packed() {
            return match self.peek16(ring.device + 2) {
                0 => true,
                1 => false,
                // With an event: tell always, which is allowed.
                _ => true,
            };
        }
        if event_index {
            let event = self.peek16(ring.device + 4 + 8 * u64::from(ring.size));
            return event == ring.available.wrapping_sub(1);
        }
        self.peek16(ring.device) & 1 == 0
    }

    pub(crate) fn notify(&self, ring: &Ring) {
        let position = if self.is_packed() {
            ring.available | u16::from(ring.wrap) << 15
        } else {
            ring.available
        };
        let with_data = self.features.contains(Features::NOTIFICATION_DATA);
        let value = u32::from(ring.index)
            | if with_data {
                u32::from(position) << 16
            } else {
                0
            };
        match &self.access {
            Access::Pci {
                offsets,
                multiplier,
            } => {
                let width = if with_data { Width::U32 } else { Width::U16 };
                let offset = offsets[1] + multiplier * usize::from(ring.index);
                self.net.bar(4).write(offset, width, value.into());
            }
            Access::Mmio => self.net.mmio_registers().write32(0x050, value),
        }
    }

    /// Makes a chain available and tells the device if it asked for it.
    pub(crate) fn submit(&self, ring: &mut Ring, parts: &[Part]) -> u16 {
        let id = self.offer(ring, parts);
        if self.wants_notification(ring) {
            self.notify(ring);
        }
        id
    }

    /// The next used entry: id and length.
    pub(crate) fn used(&self, ring: &mut Ring) -> Option<(u16, u32)> {
        let (id, len) = if self.is_packed() {
            self.used_packed(ring)?
        } else {
            self.used_split(ring)?
        };
        let entries = core::mem::take(&mut ring.chains[usize::from(id)]);
        assert!(!entries.is_empty(), "{id} was not in use");
        if self.is_packed() {
            ring.used += entries.len() as u16;
            if ring.used >= ring.size {
                ring.used -= ring.size;
                ring.used_wrap = !ring.used_wrap;
            }
            ring.free.push(id);
        } else {
            ring.used = ring.used.wrapping_add(1);
            ring.free.extend(entries);
        }
        Some((id, len))
    }

    fn used_split(&self, ring: &Ring) -> Option<(u16, u32)> {
        if self.peek16(ring.device + 2) == ring.used {
            return None;
        }
        let at = ring.device + 4 + 8 * u64::from(ring.used % ring.size);
        Some((self.peek32(at) as u16, self.peek32(at + 4)))
    }

    fn used_packed(&self, ring: &Ring) -> Option<(u16, u32)> {
        let at = ring.table + 16 * u64::from(ring.used);
        let flags = self.peek16(at + 14);
        let (available, used) = (flags >> 7 & 1 == 1, flags >> 15 == 1);
        (available == used && used == ring.used_wrap)
            .then(|| (self.peek16(at + 12), self.peek32(at + 8)))
    }

    /// Where the used index of a split ring stands.
    pub(crate) fn used_index(&self, ring: &Ring) -> u16 {
        self.peek16(ring.device + 2)
    }

    /// Sends `frame` in two buffers, header apart, and waits for it to be used.
    pub(crate) fn send(&mut self, ring: &mut Ring, header: &[u8], frame: &[u8]) {
        let at = self.room(header.len() + frame.len());
        self.poke(at, header);
        self.poke(at + header.len() as u64, frame);
        let len = frame.len() as u32;
        let parts = [
            (at, header.len() as u32, false),
            (at + header.len() as u64, len, false),
        ];
        self.submit(ring, &parts);
        self.settle();
        assert!(self.used(ring).is_some());
    }

    /// Carries out a control command; its acknowledgement.
    pub(crate) fn control(&mut self, ring: &mut Ring, class: u8, command: u8, data: &[u8]) -> u8 {
        let at = self.room(4096);
        self.poke(at, &[class, command]);
        self.poke(at + 16, data);
        self.poke(at + 3000, &[0xee]);
        let mut parts = vec![(at, 2, false)];
        if !data.is_empty() {
            parts.push((at + 16, data.len() as u32, false));
        }
        parts.push((at + 3000, 1, true));
        self.submit(ring, &parts);
        self.settle();
        assert_eq!(self.used(ring).map(|(_, len)| len), Some(1));
        self.peek(at + 3000, 1)[0]
    }

    /// Enables MSI-X and gives queues 0 to 2 and the configuration a vector each.
    pub(crate) fn use_interrupts(&self) {
        let space = self.net.config_space();
        let mut at = usize::from(space.read8(0x34));
        while space.read8(at) != 0x11 {
            at = usize::from(space.read8(at + 1));
        }
        let table = self.net.bar(2);
        for vector in 0..4 {
            table.write64(16 * vector, 0xfee0_0000);
            table.write32(16 * vector + 8, 0x40 + vector as u32);
            table.write32(16 * vector + 12, 0);
        }
        space.write16(at + 2, 0x8000);
        for queue in 0..3 {
            self.write(0x16, Width::U16, 0, queue);
            self.write(0x1a, Width::U16, 0, queue);
        }
        self.write(0x10, Width::U16, 0, 3);
    }

    /// Asks the device not to interrupt.
    pub(crate) fn suppress_interrupts(&self, ring: &Ring) {
        if self.is_packed() {
            self.poke(ring.driver + 2, &1_u16.to_le_bytes());
        } else if self.features.contains(Features::EVENT_IDX) {
            let event = ring.used.wrapping_sub(1);
            self.poke(
                ring.driver + 4 + 2 * u64::from(ring.size),
                &event.to_le_bytes(),
            );
        } else {
            self.poke(ring.driver, &1_u16.to_le_bytes());
        }
    }
}
