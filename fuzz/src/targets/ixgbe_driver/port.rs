//! A port that mostly says what the driver wants to hear, and holds the driver to some rules whatever it says.

use core::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use parakernel_core::mmio::{Registers, Width};

use crate::input::Input;

const ENABLE: u32 = 1 << 25;

pub(super) struct Port<'a> {
    input: &'a RefCell<Input<'a>>,
    written: RefCell<Vec<u32>>,
    /// How many reads are answered rightly before the next lie.
    honest: Cell<u64>,
    /// Lies are at most so far apart, in reads.
    distance: Cell<u64>,
    /// What decides the bits of the module.
    module: Cell<u64>,
    /// Lies that are told again and again, whatever is written, until the port is reset.
    stuck: RefCell<BTreeMap<usize, u32>>,
}

impl<'a> Port<'a> {
    pub(super) fn new(input: &'a RefCell<Input<'a>>) -> Self {
        let port = Self {
            input,
            written: RefCell::new(vec![0; 0x2_0000 / 4]),
            honest: Cell::new(0),
            distance: Cell::new(0),
            module: Cell::new(input.borrow_mut().byte().into()),
            stuck: RefCell::default(),
        };
        port.choose_distance(&[4000, 8000, 300, 65_536]);
        port
    }

    /// From here on there is another time between lies.
    pub(super) fn choose_distance(&self, distances: &[u64]) {
        let mut input = self.input.borrow_mut();
        self.distance.set(input.choose(distances));
        self.honest.set(input.below(self.distance.get()));
    }

    /// The addresses that let frames in (receive addresses whose valid bit is set).
    pub(super) fn addresses(&self) -> impl Iterator<Item = [u8; 6]> {
        (0..128).filter_map(|index| {
            let row = 0xA200 + 8 * index;
            let [low, high] = [self.written(row), self.written(row + 4)];
            let [a, b, c, d] = low.to_le_bytes();
            let [e, f, ..] = high.to_le_bytes();
            (high >> 31 == 1).then_some([a, b, c, d, e, f])
        })
    }

    /// What virtual functions write and ask for, which is anything: their words, and who was reset or has written.
    fn message(&self, offset: usize) -> Option<u32> {
        if !matches!(offset, 0x1_3000..0x1_4000 | 0x600 | 0x1C0 | 0x710..0x720) {
            return None;
        }
        let mut input = self.input.borrow_mut();
        if input.is_empty() {
            return Some(0);
        }
        Some(match offset {
            0x1_3000..0x1_4000 if offset.is_multiple_of(64) => {
                let [kind, info, rare] = input.bytes();
                let flags = if rare == 0xFF { 1 << 31 } else { 0 };
                let kind = [1, 1, 1, 2, 3, 4, 5, 8, 9, 1, 3, kind][usize::from(kind) % 12];
                u32::from(kind) | u32::from(info) << 16 | flags
            }
            // The first function's own address, lengths, numbers of VLANs; else anything.
            0x1_3000..0x1_4000 => match input.byte() {
                byte @ 0..32 => u32::from(byte),
                32..128 => input.choose(&[2, 1, 1 << 8 | 1, 1518, 5]),
                _ => u32::from_le_bytes(input.bytes()),
            },
            _ => u32::from(input.byte()),
        })
    }

    /// What the driver wrote last.
    fn written(&self, offset: usize) -> u32 {
        self.written.borrow()[offset / 4]
    }

    fn is_time_to_lie(&self) -> bool {
        let left = self.honest.get();
        self.honest.set(left.saturating_sub(1));
        if left == 0 {
            let mut input = self.input.borrow_mut();
            // An input that is used up tells no more lies.
            let next = if input.is_empty() {
                u64::MAX
            } else {
                input.below(self.distance.get())
            };
            self.honest.set(next);
            return next != u64::MAX;
        }
        false
    }

    /// What the module says next: too many bits to have each of them in the input.
    fn module_bit(&self) -> bool {
        let bits = self.module.get();
        let next = bits
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.module.set(next);
        next >> 62 == 3
    }

    /// What is right.
    fn truth(&self, offset: usize) -> u32 {
        let written = self.written(offset);
        match offset {
            // Nothing is under way, no reset goes on, no semaphore is taken.
            0x0 => written & !(1 << 26 | 1 << 3),
            0x8 | 0x1_0148 => 0,
            // A module is there. Its clock line is as it is driven, its data line mostly low.
            0x20 => written | 1 << 2,
            0x28 => {
                let data = u32::from(self.module_bit());
                written & 0xE | written >> 1 & 1 | data << 2
            }
            0x1_0140 => written & 2,
            0x1_0010 => 0x300,
            // Words of an EEPROM whose sum is right.
            0x1_0014 if written >> 2 & 0x3FFF == 0x3F => 0xBABA << 16 | 2,
            0x1_0014 => 2,
            0x2F00 => written | 8,
            0x8D04 => 1,
            // The link is up at 10 Gb/s.
            0x42A4 => 3 << 28 | 1 << 30,
            0xA200 => 0x5634_1202,
            0xA204 => 0x8000_9A78,
            // The Flow Director is ready, does what it is told at once, and has what it is asked for.
            0xEE00 => written | u32::from(written & 3 != 0) << 3,
            0xEE2C if written & 3 == 3 => written & !7 | 4,
            0xEE2C => written & !7,
            _ => written,
        }
    }

    /// The block of a queue at this offset: where it begins, and the register in it.
    fn queue_block(offset: usize) -> Option<(usize, usize)> {
        let is_queue = matches!(offset, 0x1000..0x2000 | 0xD000..0xE000 | 0x6000..0x8000);
        is_queue.then_some((offset & !0x3F, offset & 0x3F))
    }

    /// Rules that no lie suspends: a ring's place and length are not written while its queue is on, and a tail lies in the
    /// ring.
    fn check_queue(&self, offset: usize, value: u32) {
        let Some((block, register)) = Self::queue_block(offset) else {
            return;
        };
        let is_on = self.written(block + 0x28) & ENABLE != 0;
        match register {
            0x0 | 0x4 | 0x8 => assert!(!is_on, "{offset:#x} written while its queue is on"),
            0x18 => {
                let len = self.written(block + 0x8);
                let is_start = value == 0 && !is_on;
                assert!(is_start || value * 16 < len, "tail {value} of {len} bytes");
            }
            _ => {}
        }
    }
}

impl Registers for Port<'_> {
    fn read(&self, offset: usize, width: Width) -> u64 {
        assert!(width == Width::U32 && offset < 0x2_0000);
        if let Some(word) = self.message(offset) {
            return word.into();
        }
        if self.is_time_to_lie() {
            let mut input = self.input.borrow_mut();
            let word = u32::from_le_bytes(input.bytes());
            // Some single bits, as a card that is nearly right would have them.
            let flipped = self.truth(offset) ^ 1 << (word & 31);
            let lie = input.choose(&[word, u32::MAX, 0, flipped]);
            if input.one_in(8) {
                self.stuck.borrow_mut().insert(offset, lie);
            }
            return lie.into();
        }
        if let Some(&lie) = self.stuck.borrow().get(&offset) {
            return lie.into();
        }
        self.truth(offset).into()
    }

    fn write(&self, offset: usize, width: Width, value: u64) {
        assert!(width == Width::U32 && offset < 0x2_0000);
        let value = u32::try_from(value).expect("32 bits");
        self.check_queue(offset, value);
        let is_reset = offset == 0 && value & (1 << 26 | 1 << 3) != 0;
        let mut written = self.written.borrow_mut();
        if is_reset {
            written.fill(0);
            self.stuck.borrow_mut().clear();
        }
        written[offset / 4] = value;
    }

    fn len(&self) -> usize {
        0x2_0000
    }
}
