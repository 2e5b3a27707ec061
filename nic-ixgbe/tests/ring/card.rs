//! A device of a few lines, and the memory that it shares with the driver.

use std::{cell::Cell, ptr::NonNull, rc::Rc};

use parakernel_core::{
    memory::SharedMemory,
    mmio::{Registers, Width},
};

/// Entries of each ring.
pub(crate) const N: usize = 16;

/// Where things lie on the bus, 256 KiB from here on.
pub(crate) const BASE: u64 = 0x10_0000;
pub(crate) const LEN: usize = 0x4_0000;
pub(crate) const RX_RING: u64 = BASE;
pub(crate) const TX_RING: u64 = BASE + 0x1000;
pub(crate) const HEAD: u64 = BASE + 0x2000;
pub(crate) const BUFFERS: u64 = BASE + 0x1_0000;

/// Memory that driver and device reach.
#[derive(Clone, Copy)]
pub(crate) struct Bus {
    base: NonNull<u8>,
}

impl Bus {
    pub(crate) fn new() -> Self {
        #[derive(Clone)]
        #[repr(align(4096))]
        struct Page([u8; 4096]);
        let pages = vec![Page([0; 4096]); LEN / 4096].leak();
        assert_eq!(pages[0].0[0], 0);
        Self {
            base: NonNull::from(pages).cast(),
        }
    }

    pub(crate) fn host(self, at: u64) -> NonNull<u8> {
        let offset = usize::try_from(at - BASE).unwrap();
        assert!(offset < LEN, "the device reaches {at:#x}");
        // SAFETY: inside the memory, which is leaked.
        unsafe { self.base.add(offset) }
    }

    pub(crate) fn shared(self, at: u64, len: usize) -> SharedMemory<'static> {
        assert!(usize::try_from(at - BASE).unwrap() + len <= LEN);
        // SAFETY: leaked; rings are viewed as atomics by the driver, and by nobody else at the same time.
        unsafe { SharedMemory::new(self.host(at), len) }
    }

    pub(crate) fn read(self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let last = self.host(at + len as u64 - 1);
        assert!(last >= self.host(at));
        // SAFETY: both ends lie inside the memory.
        unsafe {
            self.host(at)
                .copy_to(NonNull::new(bytes.as_mut_ptr()).unwrap(), len);
        }
        bytes
    }

    pub(crate) fn write(self, at: u64, bytes: &[u8]) {
        let last = self.host(at + bytes.len() as u64 - 1);
        assert!(last >= self.host(at));
        // SAFETY: both ends lie inside the memory, and nobody else looks at it now.
        unsafe {
            self.host(at)
                .copy_from(NonNull::from(bytes).cast(), bytes.len());
        };
    }

    pub(crate) fn word(self, at: u64) -> u64 {
        u64::from_le_bytes(self.read(at, 8).try_into().unwrap())
    }

    pub(crate) fn set_word(self, at: u64, word: u64) {
        self.write(at, &word.to_le_bytes());
    }
}

/// A tail register.
#[derive(Clone, Debug, Default)]
pub(crate) struct TailCell(pub(crate) Rc<Cell<u32>>);

impl Registers for TailCell {
    fn read(&self, _offset: usize, _width: Width) -> u64 {
        panic!("the data half reads no register");
    }

    fn write(&self, offset: usize, width: Width, value: u64) {
        assert_eq!((offset, width), (0x18, Width::U32));
        assert!(value < 1 << 16);
        self.0.set(u32::try_from(value).unwrap());
    }

    fn len(&self) -> usize {
        0x40
    }
}

/// A packet as it left.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Sent {
    pub(crate) bytes: Vec<u8>,
    /// The context descriptor that its offloads went by, and the offload bits of its own.
    pub(crate) offloads: Option<([u64; 2], u64)>,
}

/// The device's side of one queue pair.
pub(crate) struct Card {
    pub(crate) bus: Bus,
    pub(crate) rdt: TailCell,
    pub(crate) tdt: TailCell,
    pub(crate) rx_ring: u64,
    pub(crate) tx_ring: u64,
    pub(crate) head: u64,
    pub(crate) tx_entries: u32,
    pub(crate) rdh: u32,
    pub(crate) tdh: u32,
    /// Bytes of a packet buffer.
    pub(crate) size: usize,
    context: Option<[u64; 2]>,
    unreported: u32,
}

impl Card {
    pub(crate) fn new(bus: Bus) -> Self {
        Self {
            bus,
            rdt: TailCell::default(),
            tdt: TailCell::default(),
            rx_ring: RX_RING,
            tx_ring: TX_RING,
            head: HEAD,
            tx_entries: u32::try_from(N).unwrap(),
            rdh: 0,
            tdh: 0,
            size: 1024,
            context: None,
            unreported: 0,
        }
    }

    /// Buffers that the device has.
    pub(crate) fn armed(&self) -> usize {
        (self.rdt.0.get().wrapping_sub(self.rdh) as usize) % N
    }

    /// Receives a frame; `false` where it was dropped for want of buffers.
    pub(crate) fn receive(&mut self, frame: &[u8]) -> bool {
        self.receive_as(frame, 0, 0)
    }

    /// The same with bits in the last status word, and a first word.
    pub(crate) fn receive_as(&mut self, frame: &[u8], status: u64, first: u64) -> bool {
        let parts = frame.chunks(self.size);
        let count = parts.len();
        if count > self.armed() {
            return false;
        }
        for (number, part) in parts.enumerate() {
            let at = self.rx_ring + 16 * u64::from(self.rdh);
            let (address, header) = (self.bus.word(at), self.bus.word(at + 8));
            assert_eq!(header, 0, "a header address overlaps the done bit");
            assert_eq!(address & 1, 0);
            self.bus.host(address + self.size as u64 - 1);
            self.bus.write(address, part);
            let last = if number + 1 == count { 2 | status } else { 0 };
            self.bus.set_word(at, first);
            self.bus
                .set_word(at + 8, 1 | last | (part.len() as u64) << 32);
            self.rdh = (self.rdh + 1) % u32::try_from(N).unwrap();
        }
        true
    }

    /// Takes up to `budget` descriptors to send; the packets.
    pub(crate) fn send(&mut self, budget: usize) -> Vec<Sent> {
        let mut sent = Vec::new();
        let mut done = 0;
        while done < budget && self.tdh != self.tdt.0.get() {
            let (packet, count) = self.send_one();
            done += count;
            sent.extend(packet);
        }
        sent
    }

    fn next_descriptor(&mut self) -> [u64; 2] {
        assert_ne!(self.tdh, self.tdt.0.get(), "the tail cuts a packet in two");
        let at = self.tx_ring + 16 * u64::from(self.tdh);
        self.tdh = (self.tdh + 1) % self.tx_entries;
        [self.bus.word(at), self.bus.word(at + 8)]
    }

    /// Sends one packet, or takes one context; with the number of descriptors.
    fn send_one(&mut self) -> (Option<Sent>, usize) {
        let mut words = self.next_descriptor();
        let [first, second] = words;
        if second >> 20 & 0xF == 2 {
            assert_eq!(second & (1 << 29), 1 << 29, "a context is advanced");
            assert_eq!(first >> 32, 0);
            self.context = Some(words);
            return (None, 1);
        }
        let payload = (second >> 46) as usize;
        let offloads = second & (1 << 30 | 1 << 31 | 1 << 39 | 1 << 40 | 1 << 41);
        let (mut bytes, mut count) = (Vec::new(), 0);
        loop {
            let [address, second] = words;
            assert_eq!(
                second >> 20 & 0xF,
                3,
                "a data descriptor in the middle of a packet"
            );
            assert_eq!(
                second & (0xF << 16 | 1 << 26 | 1 << 28 | 0xF << 32),
                0,
                "reserved bits"
            );
            assert_eq!(second & (1 << 25 | 1 << 29), 1 << 25 | 1 << 29);
            let len = (second & 0xFFFF) as usize;
            assert!(len > 0 && len <= 15_872);
            bytes.extend(self.bus.read(address, len));
            count += 1;
            self.unreported += 1;
            assert!(
                self.unreported <= 40,
                "the chip's descriptors fill up without a report"
            );
            let is_last = second & 1 << 24 != 0;
            if second & 1 << 27 != 0 {
                assert!(is_last, "a report in the middle of a packet");
                self.unreported = 0;
                self.bus.write(self.head, &self.tdh.to_le_bytes());
            }
            if is_last {
                break;
            }
            words = self.next_descriptor();
        }
        assert!(count <= 40 && bytes.len() >= 17);
        let context = (offloads != 0).then(|| (self.context.unwrap(), offloads));
        let headers = context
            .filter(|_| offloads & 1 << 31 != 0)
            .map_or(0, |([a, b], _)| {
                (a & 0x1FF) + (a >> 9 & 0x7F) + (b >> 40 & 0xFF)
            });
        assert_eq!(payload, bytes.len() - usize::try_from(headers).unwrap());
        (
            Some(Sent {
                bytes,
                offloads: context,
            }),
            count,
        )
    }
}
