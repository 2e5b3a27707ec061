//! The steps from a reset to service, one function each: §3.1.1.

use core::time::Duration;

use embedded_hal::delay::DelayNs;
use parakernel_core::{memory::DmaBlock, time::wait_until};

use super::{Control, Pair, RESET_LIMIT, notify_register, pair, queues_of};
use crate::{
    control::{self, ControlQueue},
    error::InitError,
    features::Features,
    link::{self, Limits},
    transport::{RingAddresses, Status, Transport},
};

/// How often the status is looked at meanwhile.
const RESET_INTERVAL: Duration = Duration::from_micros(100);

/// Step 1: "Reset the device", and wait until it says so (§4.1.4.3.2).
pub(super) fn reset<T: Transport>(
    transport: &T,
    delay: &mut impl DelayNs,
) -> Result<(), InitError> {
    transport.set_status(Status::empty());
    let is_done = || transport.status().is_empty();
    wait_until(delay, RESET_LIMIT, RESET_INTERVAL, is_done).map_err(|timeout| {
        if transport.status().is_gone() {
            InitError::Removed
        } else {
            InitError::Reset(timeout)
        }
    })
}

/// Steps 2 to 6: the driver has seen the device and knows how to drive it, chooses features, and looks whether the device
/// agrees.
pub(super) fn negotiate<T: Transport>(
    transport: &T,
    wanted: Features,
    capacity: usize,
) -> Result<Features, InitError> {
    transport.set_status(Status::ACKNOWLEDGE);
    transport.set_status(Status::ACKNOWLEDGE | Status::DRIVER);
    let offered = Features::from_bits_truncate(transport.device_features());
    let features = fitting(transport, Features::choose(offered, wanted)?, capacity)?;
    transport.accept_features(features.bits());
    let status = Status::ACKNOWLEDGE | Status::DRIVER | Status::FEATURES_OK;
    transport.set_status(status);
    let status = transport.status();
    if status.is_gone() {
        Err(InitError::Removed)
    } else if !status.contains(Status::FEATURES_OK) {
        Err(InitError::FeaturesRefused)
    } else {
        Ok(features)
    }
}

/// The features for which receive buffers of `capacity` bytes do. A driver that agrees on `MTU` "MUST supply enough receive
/// buffers to receive at least one receive packet of size `mtu`" (§5.1.4.2), and one that does not agree on merged buffers
/// is to have 1,526 bytes in each, the header included (§5.1.6.3.1). The configuration may be read before (§3.1.1).
fn fitting<T: Transport>(
    transport: &T,
    mut features: Features,
    capacity: usize,
) -> Result<Features, InitError> {
    const ETHERNET: usize = 14;
    const USUAL: usize = 1500 + ETHERNET;
    if features.contains(Features::MRG_RXBUF) {
        return Ok(features);
    }
    let mtu = link::limits(transport, features & Features::MTU)?.mtu;
    let longest = mtu.map_or(USUAL, |mtu| usize::from(mtu) + ETHERNET);
    if longest > capacity {
        features.remove(Features::MTU);
    }
    if longest.min(USUAL) > capacity {
        Err(InitError::Memory)
    } else {
        Ok(features)
    }
}

/// Step 7, the control queue: the one behind all pairs that the device has (§5.1.2), used or not; without `MQ` and
/// `RSS` that is number 2.
pub(super) fn set_up_control<'a, T: Transport>(
    transport: &T,
    features: Features,
    limits: &Limits,
    page: DmaBlock<'a>,
) -> Result<Control<'a>, InitError> {
    if !features.contains(Features::CTRL_VQ) {
        return Ok(Control::None(page));
    }
    let queue = limits.pairs.checked_mul(2);
    let queue = queue.ok_or(InitError::Config {
        value: limits.pairs.into(),
    })?;
    let entries = transport.max_entries(queue);
    let error = InitError::Queue { queue, entries };
    if entries < control::ENTRY_COUNT.into() {
        return Err(error);
    }
    let register = notify_register(transport, features, queue).ok_or(error)?;
    let control = ControlQueue::new(page, features, register).ok_or(InitError::Memory)?;
    transport.set_vector(Some(queue), None);
    transport.enable_queue(queue, &control.addresses());
    Ok(Control::Queue(control))
}

/// Step 7, the other queues: with `RING_RESET` each gets a ring with nothing in it, and its own when it is claimed.
///
/// INTERPRETATION(missing): without `RING_RESET` a queue is enabled when it is claimed, after `DRIVER_OK`. The
/// specification has drivers set up their queues before, and forbids nothing; listed in `ASSUMPTIONS.md`.
pub(super) fn set_up_idle<T: Transport>(
    transport: &T,
    features: Features,
    pairs: &mut [Pair],
    idle: &RingAddresses,
) -> Result<(), InitError> {
    for (index, pair) in (0_u16..).zip(pairs) {
        let limits = queues_of(index).map(|queue| (queue, transport.max_entries(queue)));
        for (queue, entries) in limits {
            if entries < idle.entries().into() {
                return Err(InitError::Queue { queue, entries });
            }
        }
        let can_idle = features.contains(Features::RING_RESET);
        let idle = can_idle.then(|| pair::enable_idle(transport, index, idle));
        *pair = Pair::new(idle, limits.map(|(_, entries)| entries));
    }
    Ok(())
}

/// Has configuration changes told by `vector`; by which they are.
pub(super) fn set_config_vector<T: Transport>(transport: &T, vector: Option<u16>) -> Option<u16> {
    if transport.set_vector(None, vector) {
        return vector;
    }
    transport.set_vector(None, None);
    None
}

/// Step 8: the device is live.
pub(super) fn go<T: Transport>(transport: &T) -> Result<(), InitError> {
    let status = Status::ACKNOWLEDGE | Status::DRIVER | Status::FEATURES_OK | Status::DRIVER_OK;
    transport.set_status(status);
    let status = transport.status();
    if status.is_gone() {
        Err(InitError::Removed)
    } else if status.contains(Status::DEVICE_NEEDS_RESET) {
        Err(InitError::NeedsReset)
    } else {
        Ok(())
    }
}
