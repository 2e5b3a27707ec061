//! Queue registers and notifications, the same behind either transport (virtio 1.3, 2.6, 2.9, 4.1.4.3 and 4.2.2).

use core::time::Duration;

use parakernel_core::mmio::Width;

use super::{
    device::{DRIVER_OK, FEATURES_OK, Net, Transport},
    features::Features,
    queue::{Queue, Ring},
};
use crate::fault::Fault;

impl Net {
    const QUEUE: &str = "virtio 1.3, 4.1.4.3.2 and 4.2.2.2";

    /// The selected queue; none where the features in force leave it out.
    pub(super) fn selected(&self) -> Option<&Queue> {
        let agreed = self.status & FEATURES_OK != 0;
        let there = !agreed || self.role(self.queue_select).is_some();
        self.queues
            .get(usize::from(self.queue_select))
            .filter(|_| there)
    }

    /// The selected queue, if it may be set up now.
    fn setting_up(&mut self, what: &str) -> Option<&mut Queue> {
        let index = self.queue_select;
        if self.status & FEATURES_OK == 0 {
            self.violation(
                Self::QUEUE,
                format_args!("queue {index}: {what} before FEATURES_OK"),
            );
        }
        let Some(queue) = self.queues.get(usize::from(index)) else {
            self.violation(
                Self::QUEUE,
                format_args!("queue {index}: {what}, and there is none"),
            );
            return None;
        };
        if queue.ring.is_some() {
            self.violation(
                Self::QUEUE,
                format_args!("queue {index}: {what} while enabled"),
            );
            return None;
        }
        self.queues.get_mut(usize::from(index))
    }

    pub(super) fn set_queue_size(&mut self, size: u16) {
        if let Some(queue) = self.setting_up("size written") {
            queue.size = size;
        }
    }

    /// Writes the low or high half of an area's address.
    pub(super) fn set_area(&mut self, area: usize, high: bool, value: u32) {
        if let Some(queue) = self.setting_up("area written") {
            let old = queue.areas[area];
            let value = u64::from(value);
            queue.areas[area] = if high {
                old & 0xffff_ffff | value << 32
            } else {
                old & !0xffff_ffff | value
            };
        }
    }

    /// Takes `vector` if there is one; reading back tells (4.1.5.1.2).
    pub(super) fn map_vector(&self, vector: u16) -> u16 {
        if self.function.has_vector(vector) {
            vector
        } else {
            Queue::NO_VECTOR
        }
    }

    pub(super) fn set_queue_vector(&mut self, vector: u16) {
        let vector = self.map_vector(vector);
        if let Some(queue) = self.queues.get_mut(usize::from(self.queue_select)) {
            queue.vector = vector;
        }
    }

    pub(super) fn enable_queue(&mut self) {
        self.must_have_seen_features();
        let (index, features) = (self.queue_select, self.features);
        if self.role(index).is_none() {
            self.violation(
                "virtio 1.3, 5.1.2",
                format_args!("queue {index} enabled, and there is none"),
            );
            return;
        }
        let Some(queue) = self.setting_up("enabled") else {
            return;
        };
        if let Some(objection) = queue.objection(features) {
            self.violation(
                Self::QUEUE,
                format_args!("queue {index} enabled with {objection}"),
            );
            return;
        }
        queue.ring = Some(Ring::new(queue.size, queue.areas, features));
        // Receive queues are looked at when a frame comes; the others wait for a notification.
        queue.awake = false;
    }

    /// Stops the selected queue: after a time no byte of it is touched any more (2.6.1).
    pub(super) fn reset_queue(&mut self) {
        let index = self.queue_select;
        if !self.features.contains(Features::RING_RESET) {
            self.violation(
                "virtio 1.3, 2.6.1",
                format_args!("queue {index} reset without RING_RESET"),
            );
            return;
        }
        let mut delay = self.config.reset_delay;
        if self.function.faults().fires(Fault::SlowReady) {
            self.function
                .fault(format_args!("reset of queue {index} takes long"));
            delay = Duration::from_secs(30);
        }
        let until = self.later(delay);
        match self.queues.get_mut(usize::from(index)) {
            Some(queue) if queue.ring.is_some() => queue.resetting = Some(until),
            _ => self.violation(
                "virtio 1.3, 2.6.1",
                format_args!("queue {index} reset while not enabled"),
            ),
        }
    }

    pub(super) fn stop_queue(&mut self, index: usize) {
        if let Some(queue) = self.queues.get_mut(index) {
            *queue = Queue::new(queue.max_size);
        }
    }

    /// A notification: the queue's index, and with `NOTIFICATION_DATA` its position (2.9).
    pub(super) fn notify(&mut self, value: u32, width: Width) {
        const SECTION: &str = "virtio 1.3, 4.1.5.2 and 4.2.3.3";
        let [low, high, third, fourth] = value.to_le_bytes();
        let index = u16::from_le_bytes([low, high]);
        if self.status & DRIVER_OK == 0 {
            let text = format_args!("queue {index} notified before DRIVER_OK");
            self.violation("virtio 1.3, 3.1.1", text);
            return;
        }
        let with_data = self.features.contains(Features::NOTIFICATION_DATA);
        let whole = with_data || matches!(self.transport, Transport::Mmio);
        let expected = if whole { Width::U32 } else { Width::U16 };
        if width != expected {
            let text = format_args!("queue {index} notified with {width:?}, not {expected:?}");
            self.violation(SECTION, text);
        }
        let queue = self.queues.get_mut(usize::from(index));
        let Some(queue) = queue.filter(|queue| queue.ring.is_some()) else {
            let text = format_args!("queue {index} notified, and it is not enabled");
            self.violation(SECTION, text);
            return;
        };
        queue.awake = true;
        if with_data {
            self.check_position(index, u16::from_le_bytes([third, fourth]));
        }
    }

    /// Compares the position in a notification with that in the ring (2.9).
    fn check_position(&mut self, index: u16, position: u16) {
        let queue = self.queues.get(usize::from(index));
        let Some(ring) = queue
            .and_then(|queue| queue.ring.as_ref())
            .filter(|_| self.is_live())
        else {
            return;
        };
        match ring.notified_position(&self.function) {
            Ok(expected) if expected != position => {
                let text = format_args!(
                    "queue {index} notified with position {position:#x}, not {expected:#x}"
                );
                self.violation("virtio 1.3, 2.9", text);
            }
            Ok(_) => {}
            Err(why) => self.break_ring(index, &why),
        }
    }
}
