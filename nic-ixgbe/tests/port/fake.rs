//! A strict port: registers with the behaviour that bring-up and queues depend on.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
};

use embedded_hal::delay::DelayNs;
use parakernel_core::mmio::{Registers, Width};

/// What the port does wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Fault {
    #[default]
    None,
    /// It goes on with requests though it was told to stop.
    BusyMaster,
    StuckReset,
    NoEeprom,
    EepromNotRead,
    /// Its words do not add up.
    BadChecksum,
    /// It gives no word.
    StuckWords,
    /// A module that acknowledges nothing; without it, the clock of its bus is held down.
    SilentModule,
    BadFirmware,
    StuckDma,
    /// The firmware keeps the MAC's registers.
    StuckSemaphore,
    StuckReceivePath,
    GroupAddress,
    /// A queue of these does not change its state.
    StuckReceiveQueue,
    StuckTransmitQueue,
    /// The Flow Director is not set up.
    NoDirector,
    /// It does not end a command, once the table was set up.
    StuckDirector,
    /// It takes no filter.
    FullDirector,
    /// All registers read as ones.
    Gone,
    /// The same, once the first queue was asked to stop.
    GoneAtStop,
}

/// Time that passes when it is asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Clock(pub(crate) Rc<Cell<u64>>);

impl DelayNs for Clock {
    fn delay_ns(&mut self, ns: u32) {
        self.0.set(self.0.get() + u64::from(ns));
    }
}

#[derive(Debug)]
pub(crate) struct Port {
    pub(crate) clock: Clock,
    pub(crate) fault: Cell<Fault>,
    registers: RefCell<BTreeMap<u32, u32>>,
    /// Every write, in order.
    pub(crate) log: RefCell<Vec<(u32, u32)>>,
    masked: Cell<bool>,
    /// When the last reset began.
    reset_at: Cell<Option<u64>>,
    pub(crate) resets: Cell<u32>,
    /// When each queue's enable bit was written, and what.
    asked: RefCell<BTreeMap<u32, (u64, bool)>>,
}

/// How long the port takes for things.
const RESET_NS: u64 = 2_000_000;
const EEPROM_NS: u64 = 15_000_000;
const QUEUE_NS: u64 = 30_000;

const MAC: [u32; 2] = [0x5634_1202, 0x8000_9A78];

impl Port {
    pub(crate) fn new(fault: Fault) -> Self {
        let port = Self {
            clock: Clock::default(),
            fault: Cell::new(fault),
            registers: RefCell::default(),
            log: RefCell::default(),
            masked: Cell::new(false),
            reset_at: Cell::new(None),
            resets: Cell::new(0),
            asked: RefCell::default(),
        };
        port.set_defaults();
        port
    }

    fn set_defaults(&self) {
        let mut registers = self.registers.borrow_mut();
        registers.clear();
        registers.insert(0x8, 1 << 19);
        registers.insert(0xA200, MAC[0]);
        registers.insert(0xA204, MAC[1]);
        if self.fault.get() == Fault::GroupAddress {
            registers.insert(0xA200, MAC[0] | 1);
        }
        registers.insert(0x5088, 0x8100);
        registers.insert(0x2F00, 0x8 << 17 | 1);
        registers.insert(0x4240, 1 << 10 | 3);
        registers.insert(0x42A0, 4 << 13);
        registers.insert(0x42A8, 1 << 28);
        registers.insert(0x20, 1 << 3);
        registers.insert(0x4A80, 0x8100 << 16);
        for queue in 0..128 {
            registers.insert(rx(queue) + 0xC, 1 << 12);
        }
        self.asked.borrow_mut().clear();
    }

    /// A register as it was written last, without side effects.
    pub(crate) fn peek(&self, offset: u32) -> u32 {
        self.registers.borrow().get(&offset).copied().unwrap_or(0)
    }

    pub(crate) fn poke(&self, offset: u32, value: u32) {
        self.registers.borrow_mut().insert(offset, value);
    }

    /// Whether a queue, by its control register, is on now.
    pub(crate) fn is_on(&self, control: u32) -> bool {
        let asked = self.asked.borrow().get(&control).copied();
        let Some((at, wanted)) = asked else {
            return false;
        };
        let is_stuck = match self.fault.get() {
            Fault::StuckReceiveQueue => !(0x6000..0xD000).contains(&control),
            Fault::StuckTransmitQueue => (0x6000..0x8000).contains(&control),
            _ => false,
        };
        wanted == (!is_stuck && self.clock.0.get() >= at + QUEUE_NS)
    }

    fn since_reset(&self) -> u64 {
        self.reset_at
            .get()
            .map_or(u64::MAX, |at| self.clock.0.get() - at)
    }

    fn read32(&self, offset: u32) -> u32 {
        if self.fault.get() == Fault::Gone {
            return u32::MAX;
        }
        assert!(
            self.since_reset() >= 1_000_000,
            "register {offset:#07x} read within 1 ms of a reset (§8.2.3.1.1)"
        );
        let stored = self.peek(offset);
        let fault = self.fault.get();
        match offset {
            0x0 if self.since_reset() < RESET_NS
                || (self.resets.get() > 0 && fault == Fault::StuckReset) =>
            {
                stored | 1 << 26
            }
            0x8 => {
                let is_quiet = self.peek(0x0) & 1 << 2 != 0 && fault != Fault::BusyMaster;
                u32::from(!is_quiet) << 19 | stored & 3 << 2
            }
            0x1_0010 => {
                let is_read = self.since_reset() >= EEPROM_NS && fault != Fault::EepromNotRead;
                u32::from(is_read) << 9 | u32::from(fault != Fault::NoEeprom) << 8
            }
            0x1_0014 => match (stored >> 2 & 0x3FFF, fault) {
                (_, Fault::StuckWords) => 0,
                (0x3F, Fault::BadChecksum) => 0xBABB << 16 | 2,
                (0x3F, _) => 0xBABA << 16 | 2,
                _ => 2,
            },
            // The lines are as they are let go.
            0x28 if fault == Fault::SilentModule => stored | stored >> 1 & 5,
            0x1_0148 => u32::from(fault == Fault::BadFirmware) << 19,
            0x2F00 => stored | u32::from(fault != Fault::StuckDma) << 3,
            0x1_0140 => {
                self.poke(offset, stored | 1);
                stored
            }
            0x1_0160 => stored | u32::from(fault == Fault::StuckSemaphore) << 8,
            0xEE00 => stored | u32::from(stored & 3 != 0 && fault != Fault::NoDirector) << 3,
            0xEE2C => match (stored & 3, fault) {
                (0, _) => stored,
                (_, Fault::StuckDirector) => stored,
                (3, _) => stored & !7 | u32::from(fault != Fault::FullDirector) << 2,
                _ => stored & !7,
            },
            0x8D04 => {
                let is_empty = self.peek(0x8D00) & 2 != 0 && fault != Fault::StuckReceivePath;
                u32::from(is_empty)
            }
            _ if is_control(offset) => stored & !(1 << 25) | u32::from(self.is_on(offset)) << 25,
            _ => stored,
        }
    }

    fn write32(&self, offset: u32, value: u32) {
        assert!(
            self.since_reset() >= 1_000_000,
            "write to {offset:#07x} within 1 ms of a reset"
        );
        let is_reset = self.resets.get() > 0;
        match offset {
            0x0 if value & (1 << 26 | 1 << 3) != 0 => return self.reset(),
            0x888 => {
                assert_eq!(value, 0x7FFF_FFFF, "bit 31 is reserved");
                self.masked.set(true);
            }
            0x880 | 0xAA0 | 0xAA4 => self.masked.set(false),
            0x3000 if value & 1 != 0 => {
                assert_eq!(
                    self.peek(0x8D00) & 2,
                    2,
                    "receive on with its path on (§4.6.7)"
                );
            }
            0x42A0 => assert_eq!(self.peek(0x1_0160) & 8, 8, "AUTOC without the semaphore"),
            0x8120 => assert_eq!(
                self.peek(0x4900) & 1 << 6,
                1 << 6,
                "MTQC with the arbiter on"
            ),
            0x5218..=0x53FF | 0xE600..=0xE7FF => assert!(is_reset, "a filter before the reset"),
            _ => self.check_queue(offset, value),
        }
        self.log.borrow_mut().push((offset, value));
        if offset != 0x1_0140 || value & 1 == 0 || self.peek(offset) & 1 != 0 {
            self.poke(offset, value);
        }
    }

    fn reset(&self) {
        assert!(self.masked.get(), "reset before masking (§4.6.3.1)");
        assert_eq!(
            self.peek(0x0) & 1 << 2,
            1 << 2,
            "reset without master disable (§4.2.1.6.1)"
        );
        self.set_defaults();
        self.masked.set(false);
        self.log.borrow_mut().clear();
        self.resets.set(self.resets.get() + 1);
        self.reset_at.set(Some(self.clock.0.get()));
    }

    /// The rules of queues' registers.
    fn check_queue(&self, offset: u32, value: u32) {
        let Some((base, is_rx)) = queue_of(offset) else {
            return;
        };
        let control = base + 0x28;
        match offset - base {
            0x0 => {
                assert_eq!(value % 128, 0, "a ring is aligned to 128 bytes");
                assert!(
                    !self.is_on(control),
                    "a ring moved under a queue that is on"
                );
            }
            0x8 => assert!(value.is_multiple_of(128) && value > 0 && !self.is_on(control)),
            0x18 => assert!(
                value == 0 || self.is_on(control),
                "a tail before the queue is on"
            ),
            0x28 => {
                let wanted = value & 1 << 25 != 0;
                if wanted && is_rx {
                    let srrctl = self.peek(base + 0x14);
                    assert_eq!(srrctl & 1 << 28, 1 << 28, "a queue that stalls the others");
                    assert_eq!(
                        srrctl >> 25 & 7,
                        1,
                        "not the advanced format with one buffer"
                    );
                    assert_eq!(self.peek(base + 0xC) & 1 << 12, 0, "DCA_RXCTRL bit 12");
                }
                if !wanted && self.fault.get() == Fault::GoneAtStop {
                    self.fault.set(Fault::Gone);
                }
                let time = self.clock.0.get();
                self.asked.borrow_mut().insert(control, (time, wanted));
            }
            0x38 => assert_eq!(value & 0xF, 1, "head write-back on, aligned to 16 bytes"),
            _ => {}
        }
    }
}

/// The block of receive queue `queue`.
pub(crate) fn rx(queue: u32) -> u32 {
    if queue < 64 {
        0x1000 + 0x40 * queue
    } else {
        0xD000 + 0x40 * (queue - 64)
    }
}

fn queue_of(offset: u32) -> Option<(u32, bool)> {
    match offset {
        0x1000..0x2000 | 0xD000..0xE000 => Some((offset & !0x3F, true)),
        0x6000..0x8000 => Some((offset & !0x3F, false)),
        _ => None,
    }
}

fn is_control(offset: u32) -> bool {
    queue_of(offset).is_some_and(|(base, _)| offset == base + 0x28)
}

impl Registers for Port {
    fn read(&self, offset: usize, width: Width) -> u64 {
        assert!(width == Width::U32 && offset < 0x2_0000);
        self.read32(offset.try_into().unwrap()).into()
    }

    fn write(&self, offset: usize, width: Width, value: u64) {
        assert!(width == Width::U32 && offset < 0x2_0000);
        if self.fault.get() != Fault::Gone {
            self.write32(offset.try_into().unwrap(), value.try_into().unwrap());
        }
    }

    fn len(&self) -> usize {
        0x2_0000
    }
}
