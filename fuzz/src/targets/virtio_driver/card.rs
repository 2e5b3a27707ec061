//! A virtio network card as lean as can be, written from virtio 1.3 §2, §4.1, §4.2 and §5.1; the input says when it lies.

use core::cell::{Cell, RefCell};

use parakernel_core::mmio::{Registers, Width};
use parakernel_nic_virtio::transport::pci::BarRange;

use super::super::virtqueue::{AVAIL, NEXT, USED, WRITE, Wire, low16};
use crate::{input::Input, memory::Pages};

/// What of the card a register file is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Part {
    /// Configuration space of the PCI function.
    Space,
    /// Common configuration, §4.1.4.3.
    Common,
    /// Everything else that is in the BAR: notification, interrupt status.
    Other,
    /// The network device's configuration, §5.1.4.
    Device,
    /// The MMIO layout, §4.2.2, with the configuration behind it.
    Mmio,
}

/// A part of a card, as a register file.
#[derive(Clone, Debug)]
pub(super) struct View<'c, 'm> {
    card: &'c Card<'m>,
    part: Part,
    len: usize,
}

impl<'c, 'm> View<'c, 'm> {
    pub(super) const fn new(card: &'c Card<'m>, part: Part) -> Self {
        let len = match part {
            Part::Space => 256,
            Part::Common | Part::Other | Part::Device | Part::Mmio => 0x1000,
        };
        Self { card, part, len }
    }
}

impl Registers for View<'_, '_> {
    fn read(&self, offset: usize, width: Width) -> u64 {
        assert!(
            offset + width.bytes() <= self.len,
            "{:?} has no {offset:#x}",
            self.part
        );
        let truth = match self.part {
            Part::Space => return self.card.space(offset, width),
            Part::Common => self.card.common(offset),
            Part::Other => 1,
            Part::Device => self.card.config(offset),
            Part::Mmio => self.card.mmio(offset),
        };
        self.card.bend(truth) & (u64::MAX >> (64 - 8 * width.bytes()))
    }

    fn write(&self, offset: usize, width: Width, value: u64) {
        assert!(
            offset + width.bytes() <= self.len,
            "{:?} has no {offset:#x}",
            self.part
        );
        match self.part {
            Part::Common => self.card.set_common(offset, value),
            Part::Mmio => {
                if let Some(common) = in_common(offset) {
                    self.card.set_common(common, value);
                }
            }
            Part::Space | Part::Other | Part::Device => {}
        }
    }

    fn len(&self) -> usize {
        self.len
    }
}

/// Offsets in the common configuration.
const FEATURE_SELECT: usize = 0x00;
const FEATURES: usize = 0x04;
const STATUS: usize = 0x14;
const QUEUE_SELECT: usize = 0x16;
const QUEUE_SIZE: usize = 0x18;
const QUEUE_ENABLE: usize = 0x1c;
const NOTIFY_OFFSET: usize = 0x1e;
const DESCRIPTORS: usize = 0x20;
const QUEUE_RESET: usize = 0x3a;

/// Which common register an MMIO register is.
const fn in_common(offset: usize) -> Option<usize> {
    match offset {
        0x10 => Some(FEATURES),
        0x14 => Some(FEATURE_SELECT),
        0x24 => Some(0x08),
        0x20 => Some(0x0c),
        0x30 => Some(QUEUE_SELECT),
        0x34 => Some(QUEUE_SIZE),
        0x44 => Some(QUEUE_ENABLE),
        0x70 => Some(STATUS),
        0x80 | 0x84 => Some(DESCRIPTORS + (offset - 0x80)),
        0x90 | 0x94 => Some(0x28 + (offset - 0x90)),
        0xa0 | 0xa4 => Some(0x30 + (offset - 0xa0)),
        0xc0 => Some(QUEUE_RESET),
        0xfc => Some(0x15),
        _ => None,
    }
}

/// Pairs that the card has; the queue behind them is the control queue.
const PAIRS: u16 = 2;
const QUEUES: usize = 5;

#[derive(Debug)]
pub(super) struct Card<'m> {
    control: &'m Pages,
    input: &'m RefCell<Input<'m>>,
    /// One value in so many is a lie.
    rarity: u8,
    offered: u64,
    feature_select: Cell<u64>,
    accepted: Cell<u64>,
    status: Cell<u64>,
    select: Cell<usize>,
    enabled: RefCell<[bool; QUEUES]>,
    /// Addresses of the control queue's areas, by offset in the common configuration.
    areas: RefCell<[u64; 3]>,
    /// Commands carried out.
    count: Cell<u32>,
}

impl<'m> Card<'m> {
    pub(super) fn new(control: &'m Pages, input: &'m RefCell<Input<'m>>) -> Self {
        let mut choices = input.borrow_mut();
        let rarity = choices.choose(&[128, 64, 32, 255, 64, 16]);
        let offered =
            u64::MAX ^ choices.choose(&[0, 1 << 34, 1 << 35, 1 << 40, 1 << 15, 1 << 17, 1 << 60]);
        drop(choices);
        Self {
            control,
            input,
            rarity,
            offered,
            feature_select: Cell::new(0),
            accepted: Cell::new(0),
            status: Cell::new(0),
            select: Cell::new(0),
            enabled: RefCell::default(),
            areas: RefCell::default(),
            count: Cell::new(0),
        }
    }

    /// The truth, mostly.
    fn bend(&self, truth: u64) -> u64 {
        let mut input = self.input.borrow_mut();
        if !input.one_in(self.rarity) {
            return truth;
        }
        match input.byte() % 6 {
            0 => u64::MAX,
            1 => 0,
            2 => truth.wrapping_add(1),
            3 => truth.wrapping_sub(1),
            4 => truth ^ 1 << input.below(64),
            _ => input.word(),
        }
    }

    /// A PCI function with five capabilities, all in BAR 4.
    fn space(&self, offset: usize, width: Width) -> u64 {
        /// Type, where in the BAR, length.
        const STRUCTURES: [(u8, u32, u32); 4] = [
            (1, 0, 0x40),
            (2, 0x1000, 0x1000),
            (3, 0x2000, 4),
            (4, 0x3000, 0x40),
        ];
        let mut space = [0; 256];
        space[..4].copy_from_slice(&[0xf4, 0x1a, 0x41, 0x10]);
        space[6] = 0x10;
        space[0x34] = 0x40;
        for (at, (kind, start, len)) in (0x40..).step_by(20).zip(STRUCTURES) {
            let next = if kind == 4 {
                0
            } else {
                u8::try_from(at + 20).expect("below 256")
            };
            space[at..at + 5].copy_from_slice(&[0x09, next, 20, kind, 4]);
            space[at + 8..at + 12].copy_from_slice(&start.to_le_bytes());
            space[at + 12..at + 16].copy_from_slice(&len.to_le_bytes());
            space[at + 16] = 4;
        }
        let mut word = [0; 8];
        word[..width.bytes()].copy_from_slice(&space[offset..offset + width.bytes()]);
        self.bend(u64::from_le_bytes(word)) & (u64::MAX >> (64 - 8 * width.bytes()))
    }

    /// A piece of BAR 4, where it is one.
    pub(super) fn map(&self, range: BarRange) -> Option<View<'_, 'm>> {
        let part = match range.offset {
            0 => Part::Common,
            0x3000 => Part::Device,
            _ => Part::Other,
        };
        let len = range.len as usize;
        (range.bar == 4 && len <= 0x10_0000).then_some(View {
            card: self,
            part,
            len,
        })
    }

    fn mmio(&self, offset: usize) -> u64 {
        match offset {
            0x00 => 0x7472_6976,
            0x04 => 2,
            0x08 => 1,
            0x60 => 1,
            0x100.. => self.config(offset - 0x100),
            _ => in_common(offset).map_or(0, |common| self.common(common)),
        }
    }

    fn common(&self, offset: usize) -> u64 {
        let queue = self.select.get();
        match offset {
            FEATURES => self.offered >> (32 * self.feature_select.get().min(1)) & 0xffff_ffff,
            0x12 => QUEUES as u64,
            STATUS => self.status.get(),
            QUEUE_SIZE if queue < QUEUES => 16,
            QUEUE_ENABLE => self
                .enabled
                .borrow()
                .get(queue)
                .copied()
                .unwrap_or(false)
                .into(),
            NOTIFY_OFFSET => queue as u64,
            _ => 0,
        }
    }

    fn set_common(&self, offset: usize, value: u64) {
        let queue = self.select.get();
        let set_enabled = |on| {
            if let Some(enabled) = self.enabled.borrow_mut().get_mut(queue) {
                *enabled = on;
            }
        };
        match offset {
            FEATURE_SELECT | 0x08 => self.feature_select.set(value),
            0x0c => {
                let shift = 32 * self.feature_select.get().min(1);
                self.accepted.set(self.accepted.get() | value << shift);
            }
            STATUS => self.set_status(value),
            QUEUE_SELECT => self.select.set(usize::try_from(value).expect("16 bits")),
            QUEUE_ENABLE => set_enabled(value == 1),
            QUEUE_RESET => set_enabled(false),
            DESCRIPTORS..0x38 if queue == QUEUES - 1 => {
                let place = &mut self.areas.borrow_mut()[(offset - DESCRIPTORS) / 8];
                let shift = offset % 8 * 8;
                *place = *place & !(0xffff_ffff << shift) | value << shift;
            }
            _ => {}
        }
    }

    fn set_status(&self, value: u64) {
        if value == 0 {
            *self.enabled.borrow_mut() = [false; QUEUES];
            self.accepted.set(0);
            self.count.set(0);
        }
        self.status.set(self.bend(value));
    }

    /// The network device's configuration: address, link up, pairs, MTU, speed, duplex, RSS limits.
    fn config(&self, offset: usize) -> u64 {
        let mut bytes = [0; 0x40];
        bytes[..6].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
        bytes[6] = 1;
        bytes[8..10].copy_from_slice(&PAIRS.to_le_bytes());
        bytes[10..12].copy_from_slice(&1500_u16.to_le_bytes());
        bytes[12..16].copy_from_slice(&10_000_u32.to_le_bytes());
        bytes[16..20].copy_from_slice(&[1, 40, 128, 0]);
        bytes[20..24].copy_from_slice(&0x3f_u32.to_le_bytes());
        let mut word = [0; 8];
        let end = (offset + 8).min(bytes.len());
        if let Some(from) = bytes.get(offset..end) {
            word[..from.len()].copy_from_slice(from);
        }
        u64::from_le_bytes(word)
    }

    /// Carries out a command, or says so.
    pub(super) fn turn(&self) {
        let [descriptors, driver, device] = *self.areas.borrow();
        let how = self.input.borrow_mut().byte();
        if descriptors == 0 || how == 0xff {
            return;
        }
        let count = self.count.get();
        if self.accepted.get() >> 34 & 1 == 1 {
            self.turn_packed(descriptors, count);
        } else {
            self.turn_split((descriptors, driver, device), count);
        }
        if how > 0xf0 {
            let mut input = self.input.borrow_mut();
            let index = usize::try_from(input.below(64)).expect("few");
            self.control.store(index, input.word());
        }
    }

    fn turn_split(&self, (descriptors, driver, device): (u64, u64, u64), count: u32) {
        let byte = |at| self.control.byte_at(at).unwrap_or(0);
        let word = |at| u16::from_le_bytes([byte(at), byte(at + 1)]);
        if word(driver + 2) == low16(count) {
            return;
        }
        let head = u64::from(word(driver + 4 + 2 * u64::from(count % 4)));
        let mut at = head;
        for _ in 0..4 {
            let flags = word(descriptors + 16 * at + 12);
            if flags & WRITE != 0 {
                self.answer(descriptors + 16 * at);
            }
            if flags & NEXT == 0 {
                break;
            }
            at = u64::from(word(descriptors + 16 * at + 14));
        }
        let place = device + 4 + 8 * u64::from(count % 4);
        let id = self.bend(head);
        for (offset, value) in (0..).zip((id & 0xffff_ffff | 1 << 32).to_le_bytes()) {
            self.control.set_byte_at(place + offset, value);
        }
        let index = self.bend(u64::from(count) + 1).to_le_bytes();
        self.control.set_byte_at(device + 2, index[0]);
        self.control.set_byte_at(device + 3, index[1]);
        self.count.set(count + 1);
    }

    fn turn_packed(&self, ring: u64, count: u32) {
        let byte = |at| self.control.byte_at(at).unwrap_or(0);
        let word = |at| u16::from_le_bytes([byte(at), byte(at + 1)]);
        let (mut slot, round) = (u64::from(count % 4), (count / 4).is_multiple_of(2));
        let first = ring + 16 * slot;
        let flags = word(first + 14);
        if (flags & AVAIL != 0) != round || (flags & USED != 0) == round {
            return;
        }
        let mut used = 0;
        for _ in 0..4 {
            used += 1;
            let at = ring + 16 * slot;
            if word(at + 14) & WRITE != 0 {
                self.answer(at);
            }
            if word(at + 14) & NEXT == 0 {
                break;
            }
            slot = (slot + 1) % 4;
        }
        let marks = if round { AVAIL | USED } else { 0 };
        let [low, high] =
            low16(u32::try_from(self.bend(marks.into()) & 0xffff).expect("16 bits")).to_le_bytes();
        self.control.set_byte_at(first + 14, low);
        self.control.set_byte_at(first + 15, high);
        self.count.set(count + used);
    }

    /// Writes a command's status into the buffer of the descriptor at `at`: mostly that it was carried out.
    fn answer(&self, at: u64) {
        let address = (0..8).map(|offset| self.control.byte_at(at + offset).unwrap_or(0));
        let address = address
            .enumerate()
            .fold(0, |sum, (index, byte)| sum | u64::from(byte) << (8 * index));
        let [status, ..] = self.bend(0).to_le_bytes();
        self.control.set_byte_at(address, status);
    }

    /// Uses some receive buffers.
    pub(super) fn receive(&self, input: &mut Input<'_>, wire: &mut Wire<'_>, buffers: &Pages) {
        let is_liar = self.rarity < 255;
        for _ in 0..input.byte() & 7 {
            let Some((posted, more)) = wire.next() else {
                break;
            };
            let mut id = u32::from(posted.id);
            let mut len = 12 + u32::try_from(input.below(190)).expect("small");
            let mut count = 1;
            if is_liar && input.one_in(self.rarity) {
                match input.byte() % 5 {
                    0 => id = u32::from_le_bytes(input.bytes()),
                    1 => len = u32::from_le_bytes(input.bytes()),
                    2 => len = u32::from(input.byte()),
                    3 => count = u16::from_le_bytes(input.bytes()),
                    _ => id = id.wrapping_add(1),
                }
            } else if input.one_in(4) {
                count = 2;
            }
            // The number of buffers is the last field of the header.
            for (offset, byte) in (10..).zip(count.to_le_bytes()) {
                buffers.set_byte_at(posted.address + offset, byte);
            }
            wire.complete(id, len);
            wire.skip(more);
        }
        if is_liar && input.one_in(self.rarity) {
            wire.jump(input.byte().into());
        }
    }

    /// Uses some frames.
    pub(super) fn send(&self, input: &mut Input<'_>, wire: &mut Wire<'_>) {
        for _ in 0..input.byte() & 7 {
            let Some((posted, more)) = wire.next() else {
                break;
            };
            let is_lie = self.rarity < 255 && input.one_in(self.rarity);
            let id = if is_lie {
                u32::from_le_bytes(input.bytes())
            } else {
                posted.id.into()
            };
            wire.complete(id, 0);
            wire.skip(more);
        }
    }
}
