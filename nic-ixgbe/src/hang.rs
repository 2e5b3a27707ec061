//! Transmit queues that stand still: seen by their heads, and what to do about it.
//!
//! A queue that has something to send and whose head does not move, while the link is up and the peer asks for no pauses, hangs.
//! First its pair is [released](Device::begin_release) and claimed again, which disturbs nobody else; where the queue does not
//! stop, or hangs again soon, the port is [reset](Device::begin_reset), which ends everybody's queues, so that is the
//! kernel's policy to decide. Nothing here is on a data path: one look now and then, by the kernel.

use core::time::Duration;

use parakernel_core::{
    mmio::{Register, Registers},
    time::{Deadline, Instant},
};

use crate::{
    device::{Device, PairState},
    regs::counter::{Lxoffrxcnt, Lxonrxcnt},
};

/// How long a head may stand still: longer than a pause can be (33 ms at 10 Gb/s, over and over), and what drivers take.
pub const STILL_LIMIT: Duration = Duration::from_secs(5);

/// A queue that hangs again within it was not helped by stopping it.
pub const AGAIN: Duration = Duration::from_secs(60);

/// What helps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Remedy {
    /// To release the pair, and to claim it again.
    Queue,
    /// To reset the port.
    Port,
}

/// What is known of one transmit queue, in the caller's memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Watch {
    head: u64,
    /// Since when it stands there with something to send.
    still: Option<Deadline>,
    /// Until when another hang is the port's.
    suspect: Option<Deadline>,
}

impl Watch {
    /// Nothing is known.
    pub const NEW: Self = Self {
        head: 0,
        still: None,
        suspect: None,
    };

    /// Looks at the transmit queue of `pair`, at least once in [`STILL_LIMIT`]; what helps, where it hangs. `has_paused` says
    /// whether the peer has asked for pauses since the last look: see [`Device::take_pauses`].
    pub fn look<R: Registers>(
        &mut self,
        device: &Device<'_, R>,
        (pair, has_paused): (u8, bool),
        now: Instant,
    ) -> Option<Remedy> {
        match device.pair_state(pair) {
            Some(PairState::Active) => {}
            // It was told to stop, and did not.
            Some(PairState::Quarantined) => return Some(Remedy::Port),
            _ => {
                self.still = None;
                return None;
            }
        }
        let (head, tail) = device.transmit_positions(pair)?;
        let may_stand = head == tail || has_paused || !device.link().is_up;
        if may_stand || head != self.head {
            self.head = head;
            self.still = None;
        }
        if may_stand {
            return None;
        }
        let limit = Deadline::after(now, STILL_LIMIT);
        self.still.get_or_insert(limit).check(now).err()?;
        Some(self.judge(now))
    }

    /// The first hang is the queue's, and one soon after it is the port's.
    fn judge(&mut self, now: Instant) -> Remedy {
        self.still = None;
        let is_suspect = |deadline: Deadline| deadline.check(now).is_ok();
        if self.suspect.is_some_and(is_suspect) {
            self.suspect = None;
            return Remedy::Port;
        }
        self.suspect = Some(Deadline::after(now, AGAIN));
        Remedy::Queue
    }
}

impl<R: Registers> Device<'_, R> {
    /// How often the peer has asked for a pause, or for its end, since the last look. It is part of the
    /// [port's statistics](crate::stats::PortStatistics), which it takes from.
    #[must_use]
    pub fn take_pauses(&self) -> u64 {
        let port = self.port();
        port.read::<Lxonrxcnt>().bits() + port.read::<Lxoffrxcnt>().bits()
    }
}
