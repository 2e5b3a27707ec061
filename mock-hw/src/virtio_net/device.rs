//! The device behind either transport: status, features, queues and configuration (virtio 1.3, 2 and 3).

use core::{fmt, time::Duration};

use parakernel_core::{mmio::Width, time::Instant};

use super::{
    Config, Counts,
    chain::Broken,
    features::Features,
    queue::{Queue, Role},
    steering::Steering,
};
use crate::{
    bytes::{extract, put},
    fault::Fault,
    pci::{Function, ones},
    wire::Wire,
};

/// The transport's share of the device.
#[derive(Debug)]
pub(super) enum Transport {
    /// Offset of the capability that opens a window from configuration space.
    Pci {
        window: usize,
    },
    Mmio,
}

#[derive(Debug)]
pub(super) struct Net {
    pub(super) function: Function,
    pub(super) transport: Transport,
    pub(super) config: Config,
    pub(super) wire: Wire,
    pub(super) status: u8,
    /// Whether status was read since `FEATURES_OK` was set.
    pub(super) features_seen: bool,
    /// What the driver wrote, not yet checked.
    pub(super) accepted: u64,
    /// In force since `FEATURES_OK`.
    pub(super) features: Features,
    pub(super) device_select: u32,
    pub(super) driver_select: u32,
    pub(super) queue_select: u16,
    pub(super) config_vector: u16,
    pub(super) generation: u8,
    pub(super) interrupt_status: u8,
    pub(super) queues: Vec<Queue>,
    pub(super) resetting: Option<Instant>,
    pub(super) link_up: bool,
    pub(super) link_back: Option<Instant>,
    pub(super) steering: Steering,
    pub(super) counts: Counts,
}

const STATUS: &str = "virtio 1.3, 2.1.1 and 3.1.1";

/// Status bits.
const ACKNOWLEDGE: u8 = 1;
const DRIVER: u8 = 2;
pub(super) const DRIVER_OK: u8 = 4;
pub(super) const FEATURES_OK: u8 = 8;
const NEEDS_RESET: u8 = 64;
const FAILED: u8 = 128;

impl Net {
    pub(super) fn new(function: Function, transport: Transport, config: Config) -> Self {
        let queues = 2 * usize::from(config.queue_pairs) + 1;
        Self {
            function,
            transport,
            wire: Wire::default(),
            status: 0,
            features_seen: false,
            accepted: 0,
            features: Features::empty(),
            device_select: 0,
            driver_select: 0,
            queue_select: 0,
            config_vector: Queue::NO_VECTOR,
            generation: 0,
            interrupt_status: 0,
            queues: (0..queues).map(|_| Queue::new(config.queue_size)).collect(),
            resetting: None,
            link_up: true,
            link_back: None,
            steering: Steering::new(&config),
            counts: Counts::default(),
            config,
        }
    }

    pub(super) fn is_live(&self) -> bool {
        self.status & DRIVER_OK != 0 && self.status & NEEDS_RESET == 0 && self.resetting.is_none()
    }

    pub(super) fn violation(&self, section: &'static str, text: fmt::Arguments<'_>) {
        self.function.violation(section, text);
    }

    /// What queue `index` is for, under the features in force (5.1.2).
    pub(super) fn role(&self, index: u16) -> Option<Role> {
        let many = self.features.intersects(Features::MQ | Features::RSS);
        let pairs = if many { self.config.queue_pairs } else { 1 };
        if index == 2 * pairs {
            return self
                .features
                .contains(Features::CTRL_VQ)
                .then_some(Role::Control);
        }
        let pair = index / 2;
        if pair >= pairs {
            return None;
        }
        Some(if index.is_multiple_of(2) {
            Role::Receive(pair)
        } else {
            Role::Transmit(pair)
        })
    }

    pub(super) fn offered_word(&self) -> u32 {
        word(self.config.features.bits(), self.device_select)
    }

    pub(super) fn accepted_word(&self) -> u32 {
        word(self.accepted, self.driver_select)
    }

    pub(super) fn accept_word(&mut self, value: u32) {
        if self.status & FEATURES_OK != 0 {
            self.violation(STATUS, format_args!("features written after FEATURES_OK"));
            return;
        }
        match self.driver_select {
            0 => self.accepted = self.accepted & !0xffff_ffff | u64::from(value),
            1 => self.accepted = self.accepted & 0xffff_ffff | u64::from(value) << 32,
            _ if value != 0 => {
                self.violation(STATUS, format_args!("feature bits above 63 accepted"));
            }
            _ => {}
        }
    }

    pub(super) fn read_status(&mut self) -> u8 {
        self.features_seen |= self.status & FEATURES_OK != 0;
        self.status
    }

    pub(super) fn write_status(&mut self, value: u8) {
        if value == 0 {
            self.begin_reset();
            return;
        }
        if self.resetting.is_some() {
            self.violation(
                STATUS,
                format_args!("status written before the reset was seen to be complete"),
            );
            return;
        }
        let old = self.status;
        let kept = old & !NEEDS_RESET;
        if kept & !value != 0 {
            self.violation(
                STATUS,
                format_args!("status bits cleared: {old:#x} became {value:#x}"),
            );
        }
        let new = value & !old;
        let out_of_order = (new & DRIVER != 0 && value & ACKNOWLEDGE == 0)
            || (new & FEATURES_OK != 0 && value & DRIVER == 0)
            || (new & DRIVER_OK != 0 && old & FEATURES_OK == 0);
        if out_of_order && value & FAILED == 0 {
            self.violation(
                STATUS,
                format_args!("status {old:#x} became {value:#x} out of order"),
            );
        }
        self.status = old | value & !NEEDS_RESET;
        if new & FEATURES_OK != 0 {
            self.check_features();
        }
        if new & DRIVER_OK != 0 && old & FEATURES_OK != 0 {
            self.must_have_seen_features();
        }
    }

    fn check_features(&mut self) {
        let features = Features::from_bits_truncate(self.accepted);
        self.features_seen = false;
        let Some(objection) = features.objection(self.accepted, self.config.features) else {
            self.features = features;
            self.steering.begin(features);
            return;
        };
        self.violation(
            "virtio 1.3, 2.2.1 and 5.1.3.1",
            format_args!("FEATURES_OK refused: {objection}"),
        );
        self.status &= !FEATURES_OK;
    }

    pub(super) fn must_have_seen_features(&self) {
        if !self.features_seen {
            self.violation(
                STATUS,
                format_args!("status not read again after FEATURES_OK was set"),
            );
        }
    }

    fn begin_reset(&mut self) {
        let mut delay = self.config.reset_delay;
        if self.function.faults().fires(Fault::SlowReady) {
            self.function.fault(format_args!("reset takes long"));
            delay = Duration::from_secs(30);
        }
        if self.status == 0 || delay.is_zero() {
            self.reset_device();
        } else {
            self.resetting = Some(self.later(delay));
        }
    }

    /// Everything but the offer back to its start.
    pub(super) fn reset_device(&mut self) {
        let max = self.config.queue_size;
        self.queues
            .iter_mut()
            .for_each(|queue| *queue = Queue::new(max));
        self.status = 0;
        self.features_seen = false;
        self.accepted = 0;
        self.features = Features::empty();
        self.config_vector = Queue::NO_VECTOR;
        self.interrupt_status = 0;
        self.resetting = None;
        self.steering = Steering::new(&self.config);
    }

    pub(super) fn later(&self, delay: Duration) -> Instant {
        self.function.clock().now().saturating_add(delay)
    }

    /// The ring cannot go on: the device asks for a reset (2.1.2).
    pub(super) fn break_ring(&mut self, index: u16, why: &Broken) {
        match why {
            Broken::Rule(section, text) => {
                self.violation(section, format_args!("queue {index}: {text}"));
            }
            Broken::Transfer(error) => self.function.note(format_args!("queue {index}: {error}")),
        }
        self.need_reset();
    }

    pub(super) fn need_reset(&mut self) {
        self.status |= NEEDS_RESET;
        self.config_changed();
    }

    /// Tells the driver that configuration or status changed.
    pub(super) fn config_changed(&mut self) {
        self.generation = self.generation.wrapping_add(1);
        if self.status & DRIVER_OK == 0 {
            return;
        }
        self.interrupt_status |= 2;
        self.interrupt(self.config_vector);
    }

    pub(super) fn queue_used(&mut self, index: u16) {
        let vector = self.queues[usize::from(index)].vector;
        // With MSI-X the queue's bit stays out of it (4.1.4.5.1).
        if matches!(self.transport, Transport::Mmio) || !self.function.uses_msix() {
            self.interrupt_status |= 1;
        }
        self.interrupt(vector);
    }

    fn interrupt(&mut self, vector: u16) {
        match self.transport {
            Transport::Mmio => self.function.interrupt(0),
            Transport::Pci { .. } if vector != Queue::NO_VECTOR => self.function.interrupt(vector),
            Transport::Pci { .. } => {}
        }
    }
}

/// The 32 feature bits that `select` names; there are none above 63.
fn word(features: u64, select: u32) -> u32 {
    let bits = match select {
        0 => features & 0xffff_ffff,
        1 => features >> 32,
        _ => 0,
    };
    u32::try_from(bits).unwrap_or(0)
}

/// The configuration of virtio-net (5.1.4).
impl Net {
    fn config_bytes(&self) -> [u8; 24] {
        let config = &self.config;
        let mut bytes = [0; 24];
        put(&mut bytes, 0, &config.mac);
        put(&mut bytes, 6, &u16::from(self.link_up).to_le_bytes());
        put(&mut bytes, 8, &config.queue_pairs.to_le_bytes());
        put(&mut bytes, 10, &config.mtu.to_le_bytes());
        // Speed and duplex are unknown.
        put(&mut bytes, 12, &u32::MAX.to_le_bytes());
        put(&mut bytes, 16, &[0xff]);
        if config
            .features
            .intersects(Features::RSS | Features::HASH_REPORT)
        {
            put(&mut bytes, 17, &[40]);
            put(&mut bytes, 18, &Steering::TABLE_LIMIT.to_le_bytes());
            put(&mut bytes, 20, &Steering::HASH_TYPES.to_le_bytes());
        }
        bytes
    }

    pub(super) fn read_config_field(&self, offset: usize, width: Width) -> u64 {
        let bytes = self.config_bytes();
        let natural = match offset {
            0..6 | 16 | 17 => Width::U8,
            6 | 8 | 10 | 18 => Width::U16,
            12 | 20 => Width::U32,
            _ => {
                self.violation(
                    "virtio 1.3, 5.1.4",
                    format_args!("configuration read at {offset}"),
                );
                return ones(width);
            }
        };
        if natural != width {
            let text =
                format_args!("configuration at {offset} read with {width:?}, not {natural:?}");
            self.violation("virtio 1.3, 4.1.3.1 and 4.2.2.2", text);
        }
        let start = offset / 8 * 8;
        let word = u64::from_le_bytes(crate::bytes::array_at(&bytes, start));
        extract(word, offset - start, width.bytes())
    }

    pub(super) fn write_config_field(&self, offset: usize) {
        self.violation(
            "virtio 1.3, 5.1.4.1",
            format_args!("configuration written at {offset}"),
        );
    }
}
