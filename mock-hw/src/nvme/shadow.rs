//! Shadow doorbells: tails and heads in memory, the registers only to wake (NVMe 1.4, 5.7 and 7.13).
//!
//! Admin doorbells stay registers. A queue is looked at from a register write on until its tail was seen unchanged.

use parakernel_core::address::BusAddress;

use super::{controller::Controller, events::Events};
use crate::bytes::u32_at;

impl Controller {
    /// Takes the tail from the shadow doorbell and publishes what was seen; whether the controller goes on.
    pub(super) fn read_shadow_tail(&mut self, id: u16) -> bool {
        let place = self.doorbell_place(id, 0);
        let (Some((shadow, event)), Some(submission)) =
            (self.shadow, self.submissions.get_mut(&id))
        else {
            return true;
        };
        if submission.head != submission.tail {
            return true;
        }
        let Ok(bytes) = self.function.read_array::<4>(at(shadow, place)) else {
            self.fail("a shadow doorbell could not be read");
            return false;
        };
        let tail = u32_at(&bytes, 0);
        if tail == submission.tail {
            submission.awake = false;
            return true;
        }
        if !submission.accepts(tail) {
            submission.awake = false;
            self.bad_doorbell("shadow tail", id, tail, Events::INVALID_VALUE);
            return false;
        }
        submission.tail = tail;
        submission.awake = true;
        if self
            .function
            .write(at(event, place), &tail.to_le_bytes())
            .is_err()
        {
            self.fail("an event index could not be written");
            return false;
        }
        true
    }

    pub(super) fn read_shadow_head(&mut self, id: u16) {
        let place = self.doorbell_place(id, 1);
        let (Some((shadow, event)), Some(completion)) =
            (self.shadow, self.completions.get_mut(&id))
        else {
            return;
        };
        let Ok(bytes) = self.function.read_array::<4>(at(shadow, place)) else {
            self.fail("a shadow doorbell could not be read");
            return;
        };
        let head = u32_at(&bytes, 0);
        if head == completion.head {
            return;
        }
        if completion.accepts(head) {
            completion.head = head;
            if self
                .function
                .write(at(event, place), &head.to_le_bytes())
                .is_err()
            {
                self.fail("an event index could not be written");
            }
        } else {
            self.bad_doorbell("shadow head", id, head, Events::INVALID_VALUE);
        }
    }

    /// Asks for a doorbell with the next head, and looks once more.
    pub(super) fn await_shadow_head(&mut self, id: u16) {
        let place = self.doorbell_place(id, 1);
        let (Some((_, event)), Some(completion)) = (self.shadow, self.completions.get(&id)) else {
            return;
        };
        let head = completion.head.to_le_bytes();
        if self.function.write(at(event, place), &head).is_err() {
            self.fail("an event index could not be written");
            return;
        }
        self.read_shadow_head(id);
        if let Some(completion) = self.completions.get_mut(&id) {
            completion.blocked = completion.is_full();
        }
    }

    /// Byte offset of a doorbell in the buffers: laid out like the registers.
    const fn doorbell_place(&self, queue: u16, which: u64) -> u64 {
        (2 * queue as u64 + which) * (4 << self.config.stride_exponent)
    }
}

fn at(base: BusAddress, offset: u64) -> BusAddress {
    BusAddress::new(base.as_u64().wrapping_add(offset))
}
