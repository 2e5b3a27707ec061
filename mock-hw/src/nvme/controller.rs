//! The controller's registers and its life: enabled, ready, shut down, failed (NVMe 1.4, 3.1 and 7.6).

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use core::time::Duration;

use parakernel_core::{address::BusAddress, mmio::Width, time::Instant};

use super::{
    Config, StatusRule,
    engine::Job,
    events::Events,
    features::Features,
    log::Log,
    namespace::Namespace,
    queue::{Completion, Submission},
};
use crate::{
    bytes::{extract, merge},
    fault::Fault,
    pci::{Function, Model, ones},
};

/// Where the controller is between disabled and ready.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Life {
    Disabled,
    Enabling {
        until: Instant,
    },
    Ready,
    /// Transfers that were begun may still happen until it is disabled.
    Disabling {
        until: Instant,
    },
    /// CSTS.CFS is set: only a reset helps.
    Failed,
}

/// CSTS.SHST.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Shutdown {
    No,
    Running { until: Instant },
    Complete,
}

/// The registers that the host writes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Written {
    /// CC.
    pub(super) configuration: u32,
    /// AQA.
    pub(super) admin_attributes: u32,
    /// ASQ.
    pub(super) admin_submission: u64,
    /// ACQ.
    pub(super) admin_completion: u64,
}

#[derive(Debug)]
pub(super) struct Controller {
    pub(super) function: Function,
    pub(super) config: Config,
    pub(super) written: Written,
    pub(super) life: Life,
    pub(super) shutdown: Shutdown,
    pub(super) submissions: BTreeMap<u16, Submission>,
    pub(super) completions: BTreeMap<u16, Completion>,
    /// Submission queues that may have something to fetch.
    pub(super) active: BTreeSet<u16>,
    /// Completion queues that have something to post or to report.
    pub(super) posting: BTreeSet<u16>,
    pub(super) jobs: Vec<Job>,
    pub(super) namespaces: BTreeMap<u32, Namespace>,
    pub(super) features: Features,
    pub(super) events: Events,
    pub(super) log: Log,
    /// Shadow doorbell and event index buffers.
    pub(super) shadow: Option<(BusAddress, BusAddress)>,
    pub(super) rules: VecDeque<StatusRule>,
    /// When a link that went down comes back.
    pub(super) link_back: Option<Instant>,
}

const REGISTERS: &str = "NVMe 1.4, 3.1";
const ENABLE: &str = "NVMe 1.4, 3.1.5 and 7.6.1";
const DOORBELL: &str = "NVMe 1.4, 3.1.24";

impl Controller {
    /// Offset of the first doorbell.
    const DOORBELLS: usize = 0x1000;

    fn page_exponent(&self) -> u32 {
        (self.written.configuration >> 7) & 0xf
    }

    /// The memory page size that CC.MPS selects, in bytes.
    pub(super) fn page(&self) -> u64 {
        4096 << self.page_exponent()
    }

    fn is_enabled(&self) -> bool {
        self.written.configuration & 1 != 0
    }

    /// CAP.
    fn capabilities(&self) -> u64 {
        let config = &self.config;
        let units = config.timeout.as_millis().div_ceil(500).min(255);
        u64::from(config.queue_entries - 1)
            | 1 << 16
            | u64::try_from(units).unwrap_or(255) << 24
            | u64::from(config.stride_exponent & 0xf) << 32
            | 1 << 37
            | u64::from(config.page_exponent_max & 0xf) << 52
    }

    /// CSTS.
    fn status(&self) -> u32 {
        let ready = matches!(self.life, Life::Ready | Life::Disabling { .. });
        let failed = self.life == Life::Failed;
        let shutdown = match self.shutdown {
            Shutdown::No => 0,
            Shutdown::Running { .. } => 1,
            Shutdown::Complete => 2,
        };
        u32::from(ready) | u32::from(failed) << 1 | shutdown << 2
    }

    /// The 8 bytes of the register file at `offset`, a multiple of 8.
    fn word(&self, offset: usize) -> u64 {
        match offset {
            0x00 => self.capabilities(),
            0x08 => u64::from(self.config.version),
            0x10 => u64::from(self.written.configuration) << 32,
            0x18 => u64::from(self.status()) << 32,
            0x20 => u64::from(self.written.admin_attributes) << 32,
            0x28 => self.written.admin_submission,
            0x30 => self.written.admin_completion,
            0x38 => 0,
            _ => {
                self.function
                    .left_out(format_args!("register {offset:#x} read"));
                0
            }
        }
    }

    fn write_dword(&mut self, offset: usize, value: u32) {
        match offset {
            0x0c | 0x10 => self.write_mask(value),
            0x14 => self.write_configuration(value),
            0x24 | 0x28 | 0x2c | 0x30 | 0x34 => self.write_admin(offset, value),
            0x20 => self
                .function
                .left_out(format_args!("NVM subsystem reset (CAP.NSSRS is 0)")),
            0x00 | 0x04 | 0x08 | 0x1c => {
                let text = format_args!("write of {value:#x} to read-only register {offset:#x}");
                self.function.violation(REGISTERS, text);
            }
            _ => self.function.violation(
                REGISTERS,
                format_args!("write to reserved register {offset:#x}"),
            ),
        }
    }

    /// INTMS and INTMC are for pin-based and MSI interrupts only.
    fn write_mask(&self, value: u32) {
        if self.function.uses_msix() {
            let text = format_args!("interrupt mask {value:#x} written while MSI-X is enabled");
            self.function.violation("NVMe 1.4, 3.1.3", text);
        }
    }

    fn write_admin(&mut self, offset: usize, value: u32) {
        if self.is_enabled() {
            self.function.violation(
                ENABLE,
                format_args!("register {offset:#x} written while CC.EN is 1"),
            );
            return;
        }
        let written = &mut self.written;
        let wide = u64::from(value);
        match offset {
            0x24 => written.admin_attributes = value & 0x0fff_0fff,
            0x28 => written.admin_submission = merge(written.admin_submission, 0, 4, wide) & !0xfff,
            0x2c => written.admin_submission = merge(written.admin_submission, 4, 4, wide),
            0x30 => written.admin_completion = merge(written.admin_completion, 0, 4, wide) & !0xfff,
            _ => written.admin_completion = merge(written.admin_completion, 4, 4, wide),
        }
        if matches!(offset, 0x28 | 0x30) && value & 0xfff != 0 {
            self.function.violation(
                REGISTERS,
                format_args!("admin queue base {value:#x} not page-aligned"),
            );
        }
    }

    fn write_configuration(&mut self, value: u32) {
        let old = core::mem::replace(&mut self.written.configuration, value & 0x00ff_fff1);
        let (was, is) = (old & 1 != 0, value & 1 != 0);
        // CSS, MPS and AMS may change only while EN is 0, or in the write that sets it.
        if was && is && (old ^ value) & 0x3ff0 != 0 {
            self.function.violation(
                ENABLE,
                format_args!("CC changed from {old:#x} to {value:#x} while enabled"),
            );
        }
        match (was, is) {
            (false, true) => self.enable(),
            (true, false) => self.disable(),
            _ => {}
        }
        let (before, notice) = ((old >> 14) & 3, (value >> 14) & 3);
        if notice != 0 && notice != before {
            self.begin_shutdown(notice);
        }
    }

    fn enable(&mut self) {
        if self.life != Life::Disabled {
            self.function
                .violation(ENABLE, format_args!("CC.EN set while CSTS.RDY is 1"));
            return;
        }
        let cc = self.written.configuration;
        let attributes = self.written.admin_attributes;
        let (sq, cq) = (attributes & 0xfff, attributes >> 16);
        let problem = if (cc >> 4) & 7 != 0 {
            Some("an I/O command set that CAP.CSS does not offer")
        } else if self.page_exponent() > u32::from(self.config.page_exponent_max) {
            Some("a memory page size above CAP.MPSMAX")
        } else if (cc >> 11) & 7 != 0 {
            Some("an arbitration mechanism that CAP.AMS does not offer")
        } else if sq == 0 || cq == 0 {
            Some("an admin queue of one entry")
        } else {
            None
        };
        if let Some(problem) = problem {
            self.function
                .violation(ENABLE, format_args!("enabled with {problem}"));
            self.life = Life::Failed;
            return;
        }
        let mut delay = self.config.ready_delay;
        if self.function.faults().fires(Fault::SlowReady) {
            self.function.fault(format_args!("not ready in time"));
            delay = 3 * self.config.timeout + Duration::from_secs(1);
        }
        self.shutdown = Shutdown::No;
        self.life = Life::Enabling {
            until: self.later(delay),
        };
    }

    fn disable(&mut self) {
        match self.life {
            Life::Enabling { .. } => {
                self.function.violation(
                    ENABLE,
                    format_args!("CC.EN cleared before CSTS.RDY became 1"),
                );
            }
            Life::Disabled => return,
            Life::Ready | Life::Disabling { .. } | Life::Failed => {}
        }
        self.life = Life::Disabling {
            until: self.later(self.config.disable_delay),
        };
    }

    fn begin_shutdown(&mut self, notice: u32) {
        if notice == 3 {
            self.function.violation(
                "NVMe 1.4, 3.1.5",
                format_args!("CC.SHN set to a reserved value"),
            );
            return;
        }
        if notice == 1 && self.submissions.len() > 1 {
            self.function.note(format_args!(
                "normal shutdown with I/O queues still there (7.6.2 asks to delete them)"
            ));
        }
        self.shutdown = Shutdown::Running {
            until: self.later(self.config.shutdown_delay),
        };
    }

    fn later(&self, delay: Duration) -> Instant {
        self.function.clock().now().saturating_add(delay)
    }

    /// Moves on where a timer ran out; when the next one does.
    pub(super) fn live(&mut self, now: Instant) -> Option<Instant> {
        if let Some(back) = self.link_back {
            if now < back {
                return Some(back);
            }
            self.link_back = None;
            self.function.set_gone(false);
        }
        if let Shutdown::Running { until } = self.shutdown {
            if now < until {
                return Some(until);
            }
            self.namespaces.values_mut().for_each(Namespace::flush);
            self.shutdown = Shutdown::Complete;
        }
        match self.life {
            Life::Enabling { until } | Life::Disabling { until } if now < until => Some(until),
            Life::Enabling { .. } => {
                self.start();
                None
            }
            Life::Disabling { .. } => {
                self.stop();
                None
            }
            Life::Disabled | Life::Ready | Life::Failed => None,
        }
    }

    fn start(&mut self) {
        let written = self.written;
        let submission = (written.admin_attributes & 0xfff) + 1;
        let completion = (written.admin_attributes >> 16) + 1;
        self.submissions
            .insert(0, Submission::new(written.admin_submission, submission, 0));
        self.completions.insert(
            0,
            Completion::new(written.admin_completion, completion, Some(0)),
        );
        self.life = Life::Ready;
    }

    /// Controller reset: every queue and command is gone; AQA, ASQ and ACQ stay (7.3.2).
    pub(super) fn stop(&mut self) {
        self.submissions.clear();
        self.completions.clear();
        self.active.clear();
        self.posting.clear();
        self.jobs.clear();
        self.features = Features::new(&self.config);
        self.events = Events::default();
        self.shadow = None;
        self.shutdown = Shutdown::No;
        self.written.configuration = 0;
        self.life = Life::Disabled;
    }

    /// Stops with CSTS.CFS.
    pub(super) fn fail(&mut self, why: &str) {
        self.function
            .note(format_args!("controller fatal status: {why}"));
        self.life = Life::Failed;
    }

    /// A write to the doorbell area.
    fn ring(&mut self, offset: usize, width: Width, value: u64) {
        let stride = 4 << self.config.stride_exponent;
        let index = (offset - Self::DOORBELLS) / stride;
        let queue = u16::try_from(index / 2);
        let (Ok(queue), true, Width::U32) = (
            queue,
            (offset - Self::DOORBELLS).is_multiple_of(stride),
            width,
        ) else {
            self.function.violation(
                DOORBELL,
                format_args!("no doorbell at {offset:#x}, or not written as 32 bits"),
            );
            return;
        };
        if self.life != Life::Ready {
            self.function.violation(
                DOORBELL,
                format_args!("doorbell of queue {queue} rung while not ready"),
            );
            return;
        }
        let value = u32::try_from(value & 0xffff).unwrap_or(0);
        if index.is_multiple_of(2) {
            self.ring_tail(queue, value);
        } else {
            self.ring_head(queue, value);
        }
    }

    fn ring_tail(&mut self, queue: u16, tail: u32) {
        let shadowed = self.shadow.is_some() && queue > 0;
        let Some(submission) = self.submissions.get_mut(&queue) else {
            self.bad_doorbell("tail", queue, tail, Events::INVALID_REGISTER);
            return;
        };
        if shadowed {
            // The register only wakes; the shadow says where the tail is.
            submission.awake = true;
        } else if submission.accepts(tail) {
            submission.tail = tail;
            submission.rung = tail;
        } else {
            self.bad_doorbell("tail", queue, tail, Events::INVALID_VALUE);
            return;
        }
        self.active.insert(queue);
    }

    fn ring_head(&mut self, queue: u16, head: u32) {
        let shadowed = self.shadow.is_some() && queue > 0;
        let Some(completion) = self.completions.get_mut(&queue) else {
            self.bad_doorbell("head", queue, head, Events::INVALID_REGISTER);
            return;
        };
        if !shadowed {
            if !completion.accepts(head) {
                self.bad_doorbell("head", queue, head, Events::INVALID_VALUE);
                return;
            }
            completion.head = head;
        }
        completion.blocked = false;
        self.posting.insert(queue);
    }

    /// "Invalid doorbell register" or "invalid doorbell write value" (5.2).
    pub(super) fn bad_doorbell(&mut self, which: &str, queue: u16, value: u32, event: u32) {
        let text = format_args!("{which} doorbell of queue {queue} written with {value}");
        self.function.violation(
            "NVMe 1.4, 5.2, Asynchronous Event Information - Error Status",
            text,
        );
        self.report(event);
    }
}

impl Model for Controller {
    fn function(&mut self) -> &mut Function {
        &mut self.function
    }

    fn read_bar(&mut self, _bar: usize, offset: usize, width: Width) -> u64 {
        if offset >= Self::DOORBELLS {
            self.function
                .violation(DOORBELL, format_args!("doorbell read at {offset:#x}"));
            return 0;
        }
        if matches!(width, Width::U8 | Width::U16) {
            self.function.violation(
                REGISTERS,
                format_args!("register {offset:#x} read with {width:?}"),
            );
            return ones(width);
        }
        extract(self.word(offset & !7), offset % 8, width.bytes())
    }

    fn write_bar(&mut self, _bar: usize, offset: usize, width: Width, value: u64) {
        if offset >= Self::DOORBELLS {
            self.ring(offset, width, value);
            return;
        }
        match width {
            Width::U32 => self.write_dword(offset, u32::try_from(value).unwrap_or(0)),
            Width::U64 => {
                self.write_dword(offset, u32::try_from(extract(value, 0, 4)).unwrap_or(0));
                self.write_dword(offset + 4, u32::try_from(extract(value, 4, 4)).unwrap_or(0));
            }
            Width::U8 | Width::U16 => {
                self.function.violation(
                    REGISTERS,
                    format_args!("register {offset:#x} written with {width:?}"),
                );
            }
        }
    }

    fn reset(&mut self) {
        self.stop();
        self.written = Written::default();
    }
}
