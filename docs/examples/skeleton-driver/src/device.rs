//! The control half: it owns the registers, and waits only while the device is brought up.

use core::{task::Poll, time::Duration};

use embedded_hal::delay::DelayNs;
use parakernel_core::{
    access::Isolation,
    address::NodeId,
    device::{Limits, Operation, QueueDevice, QueueKind, QueueSpec, Waits},
    memory::DmaBlock,
    mmio::{Register, Registers, Window},
    ring::RingSize,
    time::{Instant, Timeout, wait_until},
};

use crate::{
    error::{BeginError, BringUpError},
    regs::{self, Control, Ctrl, Id, Ring, Size, Status, TailRegister},
    ring::Descriptor,
};

/// What ID holds, §1.
const IDENTITY: u64 = 0x4d49_5252;
/// How long reset and start may take, §3 and §4.
const LIMIT: Duration = Duration::from_millis(1);
/// How often a wait looks: the device has a thousandth of its limit.
const INTERVAL: Duration = Duration::from_micros(1);

/// A Mirror whose queue has `N` entries.
#[derive(Debug)]
pub struct Mirror<'a, R, const N: usize> {
    bar: R,
    /// The device's ring. It is the device's as long as the queue works.
    ring: DmaBlock<'a>,
    size: RingSize,
    node: NodeId,
}

impl<'a, R: Registers + Clone, const N: usize> Mirror<'a, R, N> {
    /// Brings up the device with the registers `bar`, on the node `node`: §3. `ring` holds the queue's entries.
    ///
    /// # Errors
    ///
    /// [`BringUpError`], with what the device failed to do. It is left idle then, as far as it listens.
    pub fn bring_up(
        bar: R,
        ring: DmaBlock<'a>,
        node: NodeId,
        delay: &mut impl DelayNs,
    ) -> Result<Self, BringUpError> {
        let size = Self::ring_size(&ring)?;
        let device = Self {
            bar,
            ring,
            size,
            node,
        };
        device.identify()?;
        device.reset(delay).map_err(BringUpError::Reset)?;
        Ok(device)
    }

    fn ring_size(ring: &DmaBlock<'_>) -> Result<RingSize, BringUpError> {
        let entries = u32::try_from(N).ok().filter(|n| (2..=256).contains(n));
        let fits = ring.memory().view::<[Descriptor; N]>(0).is_some();
        let size = entries.filter(|_| fits).and_then(RingSize::new);
        size.ok_or(BringUpError::Ring { entries: N })
    }

    /// Whether it is this device, §1. Reads of one that is gone are all ones, which is no identity.
    fn identify(&self) -> Result<(), BringUpError> {
        let len = self.bar.len();
        if len < regs::LEN {
            return Err(BringUpError::RegisterFile { len });
        }
        let id = self.control().read::<Id>().bits();
        if id == IDENTITY {
            Ok(())
        } else {
            Err(BringUpError::Identity { id })
        }
    }

    /// Makes the device idle, §3.
    fn reset(&self, delay: &mut impl DelayNs) -> Result<(), Timeout> {
        self.disable();
        wait_until(delay, LIMIT, INTERVAL, || self.is_idle())
    }

    /// Starts the queue, §4.
    fn start(&self) {
        let control = self.control();
        let address = Ring::from_bits(self.ring.bus_address().as_u64());
        #[expect(unsafe_code, reason = "tells the device where its ring is")]
        // SAFETY: the block is this device's own and stays in `self`; what is written into it was checked by whoever
        // has the ring.
        unsafe {
            control.write_address(address);
        }
        // INTERPRETATION(missing): what both hold after a reset is not said, so both are always written.
        control.write(Size::from_bits(self.size.entries().into()));
        control.modify(|ctrl: Ctrl| ctrl.with(Ctrl::ENABLE, 1));
    }

    fn disable(&self) {
        self.control()
            .modify(|ctrl: Ctrl| ctrl.with(Ctrl::ENABLE, 0));
    }

    fn is_idle(&self) -> bool {
        !self.control().read::<Status>().is_set(Status::ACTIVE)
    }

    const fn control(&self) -> Window<&R, Control> {
        Window::new(&self.bar, regs::CONTROL_PAGE)
    }

    /// The device's ring.
    #[must_use]
    pub const fn ring(&self) -> &DmaBlock<'a> {
        &self.ring
    }

    /// The queue's doorbell, for whoever writes the device's ring.
    #[must_use]
    pub fn doorbell(&self) -> TailRegister<R> {
        TailRegister::new(self.bar.clone())
    }

    fn claim(&self, spec: &QueueSpec) -> Result<(), BeginError> {
        if spec.queue.index() != 0 || spec.second_ring != self.size || spec.first_ring != self.size
        {
            return Err(BeginError::NoSuchQueue);
        }
        if !self.is_idle() {
            return Err(BeginError::Claimed);
        }
        self.start();
        Ok(())
    }
}

impl<R: Registers + Clone, const N: usize> QueueDevice for Mirror<'_, R, N> {
    type Error = BeginError;

    fn limits(&self) -> Limits {
        // Whatever is not said here does not hold: the device writes its entries, so `Sealed` is out, and `Checked` is
        // the cheapest mode for a shared one.
        let facts = Isolation::OWN_DOORBELL_PAGE | Isolation::STEERS_EXACTLY;
        Limits {
            kind: QueueKind::Network,
            queues: 1,
            vectors: 0,
            min_ring: self.size,
            max_ring: self.size,
            doorbell_stride: 4096,
            first_isolation: facts,
            second_isolation: facts,
            rules: 0,
            node: self.node,
            waits: Waits {
                claim: LIMIT,
                drain: LIMIT,
                stop: LIMIT,
                steer: Duration::ZERO,
                reset: LIMIT,
            },
        }
    }

    fn begin(&mut self, operation: Operation, _now: Instant) -> Result<(), Self::Error> {
        match operation {
            Operation::Claim(spec) => self.claim(&spec),
            // The fence before it has stopped the process: nothing is published any more.
            Operation::Drain(_) => Ok(()),
            Operation::Stop(_) | Operation::Reset | Operation::Silence => {
                self.disable();
                Ok(())
            }
            Operation::Flush(_) => {
                // A read does not overtake what the device wrote before.
                let _status: Status = self.control().read();
                Ok(())
            }
        }
    }

    fn poll(&mut self, operation: Operation, _now: Instant) -> Poll<Result<(), Self::Error>> {
        let status: Status = self.control().read();
        let is_done = match operation {
            Operation::Claim(_) => status.is_set(Status::ACTIVE),
            Operation::Drain(_) => !status.is_set(Status::BUSY),
            Operation::Stop(_) | Operation::Reset => !status.is_set(Status::ACTIVE),
            Operation::Flush(_) | Operation::Silence => true,
        };
        if is_done {
            Poll::Ready(Ok(()))
        } else {
            Poll::Pending
        }
    }
}
