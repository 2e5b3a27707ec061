//! Reset, EEPROM, semaphores, pins, link, time (82599, 4.2, 4.6.3, 5.2.5.3, 6, 10.5).

use core::time::Duration;

use parakernel_core::time::Instant;

use super::{
    device::Device,
    director::Director,
    eeprom,
    interrupt::{Interrupts, LSC},
    mailbox::Mailbox,
    receive::Receiver,
    registers::rx,
    transmit::TxQueue,
    virtual_function::Virtual,
};
use crate::fault::Fault;

/// Registers.
const CTRL: usize = 0x0_0000;
const CTRL_EXT: usize = 0x0_0018;
const ESDP: usize = 0x0_0020;
const EEC: usize = 0x1_0010;
const EERD: usize = 0x1_0014;
const SWSM: usize = 0x1_0140;
const SW_FW_SYNC: usize = 0x1_0160;
const AUTOC: usize = 0x0_42a0;
const AUTOC2: usize = 0x0_42a8;
const RDRXCTL: usize = 0x0_2f00;
const RAL: usize = 0x0_a200;
const MSCA: usize = 0x0_425c;
const MSRWD: usize = 0x0_4260;
const TIMINCA: usize = 0x0_8c14;

/// CTRL: no new requests to memory; link reset; reset.
const MASTER_DISABLE: u32 = 1 << 2;
const LINK_RESET: u32 = 1 << 3;
const RESET: u32 = 1 << 26;

/// How long CTRL.RST reads 1.
const RESET_BIT: Duration = Duration::from_micros(1);

/// STATUS: requests to memory may be made.
const MASTER_ENABLED: u32 = 1 << 19;

/// RDRXCTL: the DMA unit is ready.
const DMA_INIT_DONE: u32 = 1 << 3;

/// What the EEPROM makes of AUTOC and AUTOC2: 10 Gb/s over SFI, no negotiation.
const AUTOC_FROM_EEPROM: u32 = 3 << 13 | 0xc09c_0000;
const AUTOC2_FROM_EEPROM: u32 = 0x000a_0000;

/// AUTOC: restart; where bits 15 to 13 say how the link comes up.
const RESTART: u32 = 1 << 12;

impl Device {
    /// Everything as after power came.
    pub(super) fn power_up(&mut self) {
        self.begin_anew();
        self.semaphore = false;
        self.resetting = None;
        self.reset_bit_until = Instant::default();
        self.link.back = None;
        self.end_virtuals();
        self.drop_link();
        self.begin_link();
    }

    /// All registers and queues as after a reset; the EEPROM is read.
    fn begin_anew(&mut self) {
        self.regs.reset();
        self.interrupts = Interrupts::default();
        self.tx
            .iter_mut()
            .for_each(|queue| *queue = TxQueue::default());
        self.receiver = Receiver::default();
        self.director = Director::default();
        self.paused_until = Instant::default();
        self.queues_that_drop = 0;
        self.stopping.clear();
        self.virtuals.iter_mut().for_each(Virtual::reset);
        self.mailboxes.fill(Mailbox::default());
        self.regs.set(RDRXCTL, DMA_INIT_DONE);
        self.regs.set(AUTOC, AUTOC_FROM_EEPROM);
        self.regs.set(AUTOC2, AUTOC2_FROM_EEPROM);
        let mac = self.config.mac;
        let low = u32::from_le_bytes([mac[0], mac[1], mac[2], mac[3]]);
        let high = u32::from(u16::from_le_bytes([mac[4], mac[5]]));
        self.regs.set(RAL, low);
        self.regs.set(RAL + 4, high | 1 << 31);
        // The first address belongs to pool 0 (8.2.3.7.10).
        self.regs.set(0x0_a600, 1);
    }

    /// Timers that ended at `now`; when the next one does.
    pub(super) fn live(&mut self, now: Instant) -> Option<Instant> {
        if self.resetting.is_some_and(|at| at <= now) {
            self.resetting = None;
        }
        if self.link.back.is_some_and(|at| at <= now) {
            self.link.back = None;
            self.begin_link();
        }
        if self.link.at.is_some_and(|at| at <= now) {
            self.link.at = None;
            self.link.up = true;
            self.other_event(LSC);
        }
        self.finish_stopping(now);
        let stopping = self.stopping.iter().map(|(_, at)| *at).min();
        let paused = (self.paused_until > now).then_some(self.paused_until);
        [
            self.resetting,
            self.link.back,
            self.link.at,
            stopping,
            paused,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    pub(super) fn read_ctrl(&self) -> u32 {
        // The bit clears itself soon; until the device is ready it takes longer.
        let begins = self.reset_bit_until > self.now();
        self.regs.word(CTRL) & !(LINK_RESET | RESET) | if begins { RESET } else { 0 }
    }

    pub(super) fn write_ctrl(&mut self, value: u32) {
        if value & (RESET | LINK_RESET) == 0 {
            self.regs.set(CTRL, value);
            return;
        }
        let busy = self.tx.iter().any(TxQueue::is_busy);
        if busy && self.regs.word(CTRL) & MASTER_DISABLE == 0 {
            let text = format_args!("reset without the master disable handshake");
            self.violation("82599, 5.2.5.3.2", text);
        }
        let mut delay = self.config.reset_delay;
        let mut bit = RESET_BIT;
        if self.function.faults().fires(Fault::SlowReady) {
            self.function.fault(format_args!("reset takes long"));
            delay = Duration::from_secs(30);
            bit = delay;
        }
        let kept = value & !(RESET | LINK_RESET | MASTER_DISABLE);
        let link = value & LINK_RESET != 0;
        // A reset of the port alone leaves the link as it is.
        let autoc = self.regs.word(AUTOC);
        self.begin_anew();
        self.regs.set(CTRL, kept);
        self.resetting = Some(self.later(delay));
        self.reset_bit_until = self.later(bit);
        if link {
            self.drop_link();
            self.begin_link();
        } else {
            self.regs.set(AUTOC, autoc);
        }
    }

    /// Whether the device may make requests to memory.
    pub(super) fn is_master(&self) -> bool {
        self.regs.word(CTRL) & MASTER_DISABLE == 0
    }

    pub(super) fn status(&self) -> u32 {
        let link = u32::from(self.link.up) << 7;
        let functions = u32::from(self.config.virtual_functions) << 10;
        let master = if self.is_master() { MASTER_ENABLED } else { 0 };
        link | functions | master
    }

    /// Pin 2 tells whether there is a module, where it is an input.
    pub(super) fn read_esdp(&self) -> u32 {
        let value = self.regs.word(ESDP);
        if value & 1 << 10 != 0 {
            return value;
        }
        value & !4 | u32::from(self.sfp.is_present()) << 2
    }

    /// EEC: the EEPROM is there, was read, and is this large; direct access is granted at once.
    pub(super) fn read_eec(&self) -> u32 {
        let value = self.regs.word(EEC);
        if value & 0x40 != 0 {
            self.function.left_out(format_args!("direct EEPROM access"));
        }
        let granted = value << 1 & 0x80;
        value | granted | 0x0100 | u32::from(self.resetting.is_none()) << 9 | eeprom::SIZE << 11
    }

    /// EERD: reads a word, and is done at once (8.2.3.2.2).
    pub(super) fn write_eerd(&mut self, value: u32) {
        if value & 1 == 0 {
            self.regs.set(EERD, value);
            return;
        }
        if self.function.faults().fires(Fault::AdminTimeout) {
            self.function.fault(format_args!("EEPROM read never done"));
            self.regs.set(EERD, value);
            return;
        }
        let address = value >> 2 & 0x3fff;
        let word = self.eeprom.get(address as usize).copied();
        if word.is_none() {
            let text = format_args!("EEPROM word {address:#x} read beyond its end");
            self.violation("82599, 8.2.3.2.2", text);
        }
        let data = u32::from(word.unwrap_or(0xffff)) << 16;
        self.regs.set(EERD, data | address << 2 | 2);
    }

    /// SWSM: bit 0 reads as it was and is set by that; whoever read 0 has it (8.2.3.4.9).
    pub(super) fn read_swsm(&mut self) -> u32 {
        let value = self.regs.word(SWSM) & !1 | u32::from(self.semaphore);
        self.semaphore = true;
        value
    }

    pub(super) fn write_swsm(&mut self, value: u32) {
        self.semaphore = value & 1 != 0;
        self.regs.set(SWSM, value & 6);
    }

    pub(super) fn write_sw_fw_sync(&mut self, value: u32) {
        if self.regs.word(SWSM) & 2 == 0 {
            let text = format_args!("SW_FW_SYNC written without SWSM.SWESMBI");
            self.violation("82599, 10.5.4", text);
        }
        self.regs.set(SW_FW_SYNC, value);
    }

    /// MSCA: nobody answers on the management data bus (8.2.3.22.11).
    pub(super) fn write_msca(&mut self, value: u32) {
        self.regs.set(MSCA, value & !(1 << 30));
        if value & 1 << 30 != 0 && value >> 27 & 1 == 1 {
            self.regs.update(MSRWD, |word| word | 0xffff_0000);
        }
    }

    pub(super) fn write_autoc(&mut self, value: u32) {
        let before = self.regs.word(AUTOC);
        self.regs.set(AUTOC, value & !RESTART);
        if value & RESTART != 0 || (before ^ value) & 0xe000 != 0 {
            self.drop_link();
            self.begin_link();
        }
    }

    /// Link down, now.
    pub(super) fn drop_link(&mut self) {
        self.link.at = None;
        if self.link.up {
            self.link.up = false;
            self.other_event(LSC);
        }
    }

    /// The link comes up after a while, if there is a module and the cable leads somewhere.
    pub(super) fn begin_link(&mut self) {
        if self.link.plugged && self.sfp.is_present() && self.link.back.is_none() {
            self.link.at = Some(self.later(self.config.link_delay));
        }
    }

    /// LINKS: up, at 10 Gb/s or 1 Gb/s, aligned (8.2.3.22.20).
    pub(super) fn links(&self) -> u32 {
        /// All lanes in sync and aligned, signal found.
        const ALIGNED: u32 = 0x0002_1f80 | 0x0040_0000;

        if !self.link.up {
            return 0;
        }
        let speed = if self.is_slow() { 2 } else { 3 };
        1 << 30 | speed << 28 | ALIGNED
    }

    /// ANLP1: the state of negotiation, in bits 19 to 16, is not idle in the link modes that negotiate
    /// (8.2.3.22.23). Nobody answers.
    pub(super) fn negotiation(&self) -> u32 {
        let negotiates = self.regs.word(AUTOC) >> 13 & 4 != 0;
        u32::from(negotiates) << 18
    }

    /// Megabits a second of the link.
    pub(super) fn link_mbps(&self) -> u32 {
        if self.is_slow() { 1_000 } else { 10_000 }
    }

    /// Whether the link mode is one of 1 Gb/s.
    fn is_slow(&self) -> bool {
        matches!(self.regs.word(AUTOC) >> 13 & 7, 0 | 2)
    }

    pub(super) fn frtimer(&self) -> u32 {
        u32::try_from((self.now().as_nanos() / 1000) & 0xffff_ffff).unwrap_or(0)
    }

    /// The time of IEEE 1588: TIMINCA's increment for each 6.4 ns at 10 Gb/s (8.2.3.26).
    pub(super) fn systim(&self, offset: usize) -> u32 {
        let increment = u64::from(self.regs.word(TIMINCA) & 0xff_ffff);
        let ticks = self.now().as_nanos() * 10 / 64;
        let time = ticks.wrapping_mul(increment);
        let half = if offset & 4 == 0 { time >> 32 } else { time };
        u32::try_from(half & 0xffff_ffff).unwrap_or(0)
    }

    /// Setting the time back is left out: it runs from power-up on.
    pub(super) fn set_systim(&self, offset: usize, value: u32) {
        if value != 0 {
            let text = format_args!("time register {offset:#x} set to {value:#x}");
            self.function.left_out(text);
        }
    }

    /// Whether the driver says it is there.
    pub(super) fn is_driven(&self) -> bool {
        self.regs.word(CTRL_EXT) & 1 << 28 != 0
    }

    /// How many receive queues are enabled.
    pub(super) fn receiving(&self) -> usize {
        (0..super::device::QUEUES)
            .filter(|n| self.regs.word(rx(*n) + 0x28) & 1 << 25 != 0)
            .count()
    }
}
