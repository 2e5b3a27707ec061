//! The device as a whole: its parts, and what each register makes them do.

use core::time::Duration;

use parakernel_core::{mmio::Width, time::Instant};

use super::{
    Config, Counts,
    director::Director,
    eeprom,
    entry::{Act, Does, Entry},
    interrupt::Interrupts,
    mailbox::Mailbox,
    receive::Receiver,
    registers::{self, Registers, canonical},
    sfp::Sfp,
    sriov::Sriov,
    transmit::TxQueue,
    virtual_function::Virtual,
};
use crate::{
    fault::Fault,
    pci::{Function, Model, ones},
    random::Random,
    wire::Wire,
    world::{self, Activity, Turn},
};

/// Receive and transmit queues: 128 of each.
pub(super) const QUEUES: usize = 128;

/// BARs: registers, and the MSI-X table.
pub(super) const REGISTER_BAR: usize = 0;
pub(super) const MSIX_BAR: usize = 4;

#[derive(Debug)]
pub(super) struct Device {
    pub(super) function: Function,
    pub(super) config: Config,
    pub(super) wire: Wire,
    pub(super) regs: Registers,
    pub(super) eeprom: Vec<u16>,
    pub(super) sfp: Sfp,
    pub(super) interrupts: Interrupts,
    pub(super) tx: Vec<TxQueue>,
    pub(super) receiver: Receiver,
    pub(super) director: Director,
    pub(super) counts: Counts,
    pub(super) virtuals: Vec<Virtual>,
    pub(super) sriov: Sriov,
    pub(super) mailboxes: [Mailbox; 64],
    /// A reset that goes on.
    pub(super) resetting: Option<Instant>,
    pub(super) reset_bit_until: Instant,
    /// The semaphore bit that reads set once it was read.
    pub(super) semaphore: bool,
    pub(super) link: Link,
    /// The other side asked for a pause until then.
    pub(super) paused_until: Instant,
    /// Receive queues that drop what finds no descriptor, a bit each.
    pub(super) queues_that_drop: u128,
    /// Receive queues that finish stopping.
    pub(super) stopping: Vec<(usize, Instant)>,
}

/// The link of the port.
#[derive(Debug)]
pub(super) struct Link {
    /// Whether the cable leads somewhere.
    pub(super) plugged: bool,
    pub(super) up: bool,
    /// When it will be up.
    pub(super) at: Option<Instant>,
    /// When a link that flapped comes back.
    pub(super) back: Option<Instant>,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            plugged: true,
            up: false,
            at: None,
            back: None,
        }
    }
}

impl Device {
    pub(super) fn new(function: Function, config: Config, virtuals: Vec<Virtual>) -> Self {
        let any_module = config.any_module;
        let mut device = Self {
            function,
            wire: Wire::default(),
            regs: Registers::new(),
            eeprom: eeprom::contents(config.mac, any_module),
            sfp: Sfp::new(),
            interrupts: Interrupts::default(),
            tx: (0..QUEUES).map(|_| TxQueue::default()).collect(),
            receiver: Receiver::default(),
            director: Director::default(),
            counts: Counts::default(),
            mailboxes: [Mailbox::default(); 64],
            virtuals,
            sriov: Sriov::default(),
            resetting: None,
            reset_bit_until: Instant::default(),
            semaphore: false,
            link: Link::default(),
            paused_until: Instant::default(),
            queues_that_drop: 0,
            stopping: Vec::new(),
            config,
        };
        device.power_up();
        device
    }

    pub(super) fn violation(&self, section: &'static str, text: core::fmt::Arguments<'_>) {
        self.function.violation(section, text);
    }

    pub(super) fn now(&self) -> Instant {
        self.function.clock().now()
    }

    pub(super) fn later(&self, delay: Duration) -> Instant {
        self.now().saturating_add(delay)
    }

    pub(super) fn read32(&mut self, offset: usize) -> u32 {
        let offset = canonical(offset);
        let Some((entry, n)) = self.regs.at(offset) else {
            let text = format_args!("register {offset:#07x} read");
            self.function.left_out(text);
            return 0;
        };
        match entry.does {
            Does::Keeps(_) | Does::Tells | Does::Unseen => self.regs.word(offset),
            Does::Counts => self.regs.take(offset),
            Does::LeftOut => {
                self.report(entry, n, "read");
                self.regs.word(offset)
            }
            Does::Acts(act) => self.read_acting(act, n, offset),
        }
    }

    pub(super) fn write32(&mut self, offset: usize, value: u32) {
        let offset = canonical(offset);
        let Some((entry, n)) = self.regs.at(offset) else {
            let text = format_args!("register {offset:#07x} written with {value:#x}");
            self.function.left_out(text);
            return;
        };
        if self.resetting.is_some() {
            let text = format_args!("{}[{n}] written before the reset was over", entry.name);
            self.violation("82599, 4.2.1.6.1", text);
        }
        let left_out = value & entry.left_out;
        if left_out != 0 {
            let text = format_args!("{}[{n}] written with {left_out:#x} set", entry.name);
            self.function.left_out(text);
        }
        match entry.does {
            Does::Keeps(mask) => {
                let kept = self.regs.word(offset) & !mask;
                self.regs.set(offset, kept | value & mask);
            }
            Does::Unseen => self.regs.set(offset, value),
            Does::Tells | Does::Counts => {}
            Does::LeftOut => {
                // Turning off what is left out leaves nothing to be desired.
                if value != 0 {
                    self.report(entry, n, "written");
                }
                self.regs.set(offset, value);
            }
            Does::Acts(act) => self.write_acting(act, n, offset, value),
        }
    }

    fn report(&self, entry: Entry, n: usize, what: &str) {
        let text = format_args!("{}[{n}] {what}", entry.name);
        self.function.left_out(text);
    }

    fn read_acting(&mut self, act: Act, n: usize, offset: usize) -> u32 {
        match act {
            Act::Ctrl => self.read_ctrl(),
            Act::Status => self.status(),
            Act::Esdp => self.read_esdp(),
            Act::I2cctl => self.sfp.read(),
            Act::Eec => self.read_eec(),
            Act::Swsm => self.read_swsm(),
            Act::Eicr => self.read_eicr(),
            // Reading this clears nothing.
            Act::Eics => self.interrupts.causes(),
            Act::Eims => self.interrupts.mask(),
            Act::EimsEx => self.interrupts.mask_ex(n),
            Act::EicsEx | Act::EimcEx | Act::Eimc => 0,
            Act::Eitr => self.interrupts.eitr(n),
            Act::Rxdctl => self.read_rxdctl(n),
            Act::Links | Act::Links2 => self.links(),
            Act::Anlp1 => self.negotiation(),
            Act::Secrxstat => self.secrxstat(),
            // The data path is empty as soon as it is asked to be.
            Act::Sectxstat => 1,
            Act::Frtimer => self.frtimer(),
            Act::Systim => self.systim(offset),
            Act::Fdirfree => self.director.free(),
            Act::Pfmailbox => self.read_pf_mailbox(n),
            Act::Pfvflrec => 0,
            Act::Rttbcnrc => self.rate(),
            Act::Eerd
            | Act::SwFwSync
            | Act::Rdlen
            | Act::Rdt
            | Act::Rdrxctl
            | Act::Rxctrl
            | Act::Tdlen
            | Act::Tdt
            | Act::Txdctl
            | Act::Autoc
            | Act::Fdirctrl
            | Act::Fdircmd
            | Act::Fdirhash
            | Act::Rttdqsel
            | Act::Pfqde
            | Act::Pfvfte
            | Act::CtrlExt
            | Act::Pfmbicr
            | Act::Msca => self.regs.word(offset),
        }
    }

    fn write_acting(&mut self, act: Act, n: usize, offset: usize, value: u32) {
        match act {
            Act::Ctrl => self.write_ctrl(value),
            Act::Esdp => self.regs.set(offset, value),
            Act::I2cctl => self.sfp.write(value),
            Act::Eec => self.regs.set(offset, value & 0x7f),
            Act::Eerd => self.write_eerd(value),
            Act::Swsm => self.write_swsm(value),
            Act::SwFwSync => self.write_sw_fw_sync(value),
            Act::Eicr => self.interrupts.clear(value),
            Act::Eics => self.write_eics(value),
            Act::EicsEx => self.interrupts.raise_ex(n, value),
            Act::Eims => self.interrupts.enable(value),
            Act::EimsEx => self.interrupts.enable_ex(n, value),
            Act::Eimc => self.interrupts.disable(value),
            Act::EimcEx => self.interrupts.disable_ex(n, value),
            Act::Eitr => self.interrupts.set_eitr(n, value),
            Act::Rdlen | Act::Tdlen => self.regs.set(offset, value & 0x000f_ff80),
            Act::Rdt => self.write_rdt(n, value),
            Act::Rxdctl => self.write_rxdctl(n, value),
            Act::Rdrxctl => self.write_rdrxctl(value),
            Act::Rxctrl => self.write_rxctrl(value),
            Act::Tdt => self.write_tdt(n, value),
            Act::Txdctl => self.write_txdctl(n, value),
            Act::Autoc => self.write_autoc(value),
            Act::Fdirctrl => self.write_fdirctrl(value),
            Act::Fdircmd => self.write_fdircmd(value),
            Act::Fdirhash | Act::Rttdqsel => self.regs.set(offset, value),
            Act::Rttbcnrc => self.set_rate(value),
            Act::Msca => self.write_msca(value),
            Act::Pfqde => self.write_pfqde(value),
            Act::Pfmailbox => self.write_pf_mailbox(n, value),
            Act::Pfmbicr => self.regs.update(offset, |causes| causes & !value),
            Act::Pfvflrec => self.clear_function_resets(n, value),
            Act::CtrlExt => {
                let before = self.regs.word(offset);
                self.regs.set(offset, value);
                self.tell_ready(before, value);
            }
            Act::Pfvfte => {
                self.regs.set(offset, value);
                self.look_again();
            }
            Act::Systim => self.set_systim(offset, value),
            Act::Status
            | Act::Links
            | Act::Links2
            | Act::Anlp1
            | Act::Secrxstat
            | Act::Sectxstat
            | Act::Frtimer
            | Act::Fdirfree => {}
        }
    }

    /// Faults of the whole device.
    fn break_down(&mut self) {
        if self.function.faults().fires(Fault::Removal) {
            self.function.fault(format_args!("removed"));
            self.remove();
        }
        if self.function.faults().fires(Fault::LinkFlap) {
            self.function.fault(format_args!("link down"));
            self.drop_link();
            self.link.back = Some(self.later(Duration::from_millis(1)));
        }
    }

    /// Pulls the device.
    pub(super) fn remove(&mut self) {
        self.power_up();
        self.function.set_gone(true);
    }

    /// One piece of work, if there is any.
    fn work(&mut self, random: &mut Random) -> bool {
        let receive_first = random.chance(500);
        if receive_first && self.receive() {
            return true;
        }
        self.transmit(random) || (!receive_first && self.receive())
    }
}

impl world::Device for Device {
    fn step(&mut self, turn: &mut Turn<'_>) -> Activity {
        if self.function.is_gone() {
            return Activity::Idle;
        }
        self.break_down();
        let timer = self.live(turn.now);
        let before = self.signal(turn.now);
        if self.resetting.is_none() && self.work(turn.random) {
            return Activity::Worked;
        }
        // What was just done may have a vector that may signal at once.
        let after = self.signal(turn.now);
        let (signalled, virtuals) = self.signal_virtuals(turn.now);
        if signalled {
            // The virtual function takes it at its turn.
            return Activity::Worked;
        }
        let paced = self.next_paced(turn.now);
        let next = [timer, before, after, virtuals, paced]
            .into_iter()
            .flatten();
        next.min().map_or(Activity::Idle, Activity::Waiting)
    }
}

impl Model for Device {
    fn function(&mut self) -> &mut Function {
        &mut self.function
    }

    fn read_bar(&mut self, bar: usize, offset: usize, width: Width) -> u64 {
        if bar != REGISTER_BAR || offset >= registers::LEN {
            return 0;
        }
        match width {
            Width::U32 => u64::from(self.read32(offset)),
            Width::U64 => u64::from(self.read32(offset)) | u64::from(self.read32(offset + 4)) << 32,
            Width::U8 | Width::U16 => {
                let text = format_args!("register {offset:#07x} read with {width:?}");
                self.violation("82599, 8.1.1", text);
                ones(width)
            }
        }
    }

    fn write_bar(&mut self, bar: usize, offset: usize, width: Width, value: u64) {
        if bar != REGISTER_BAR || offset >= registers::LEN {
            return;
        }
        let [low, high] = [value & 0xffff_ffff, value >> 32];
        match width {
            Width::U32 | Width::U64 => {
                self.write32(offset, u32::try_from(low).unwrap_or(0));
                if width == Width::U64 {
                    self.write32(offset + 4, u32::try_from(high).unwrap_or(0));
                }
            }
            Width::U8 | Width::U16 => {
                let text = format_args!("register {offset:#07x} written with {width:?}");
                self.violation("82599, 8.1.1", text);
            }
        }
    }

    fn wrote_config(&mut self, offset: usize, width: Width) {
        self.wrote_capability(offset, width.bytes());
    }

    fn reset(&mut self) {
        self.power_up();
    }
}
