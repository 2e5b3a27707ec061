//! Interrupts: one vector for the port, others for queue pairs, masked and paced by the kernel alone.

use core::time::Duration;

use parakernel_core::mmio::{Register, Registers, Window};

use crate::{
    device::{Device, Vector},
    regs::{
        Eiac, Eicr, Eims, Gpie, IvarMisc,
        table::{EiamEx, EimcEx, EimsEx, Eitr, EitrBlock, Ivar, IvarBlock, VectorMaskBlock},
    },
};

/// The unit of the time between two interrupts, at 10 Gb/s (§8.2.3.5.12).
pub(crate) const INTERVAL_UNIT: Duration = Duration::from_nanos(2048);

/// The least time between two interrupts of a vector, until it is set: 20,000 in a second.
pub(crate) const DEFAULT_INTERVAL: Duration = Duration::from_micros(50);

/// Why the port interrupted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cause(Eicr);

impl Cause {
    /// The link went up or down.
    #[must_use]
    pub fn is_link(self) -> bool {
        self.0.is_set(Eicr::LSC)
    }

    /// A virtual function wrote to its mailbox, or was reset: see [`Functions::serve`](crate::functions::Functions::serve).
    #[must_use]
    pub fn is_mailbox(self) -> bool {
        self.0.is_set(Eicr::MAILBOX)
    }

    /// Frames were lost because the port's own packet buffer was full.
    #[must_use]
    pub fn has_lost_frames(self) -> bool {
        self.0.is_set(Eicr::RX_MISS)
    }

    /// The port found an error that only its reset mends: in its memory, or on PCI Express.
    #[must_use]
    pub fn is_fatal(self) -> bool {
        self.0.is_set(Eicr::ECC) || self.0.is_set(Eicr::PCI_EXCEPTION)
    }

    /// The port is gone: all bits read as ones.
    #[must_use]
    pub fn is_gone(self) -> bool {
        self.0.bits() == u64::from(u32::MAX)
    }
}

/// Arms one vector, for whoever serves its queue on another core than the control half.
///
/// Its register takes ones and leaves zeroes alone, so cores need not agree about who writes it.
#[derive(Clone, Copy, Debug)]
pub struct Alarm<R> {
    registers: R,
    vector: Vector,
}

impl<R: Registers> Alarm<R> {
    /// The alarm of `vector` of the port with these registers.
    #[must_use]
    pub const fn new(registers: R, vector: Vector) -> Self {
        Self { registers, vector }
    }

    /// Lets the vector interrupt, once: then it is masked again. What came in between is told at once.
    pub fn arm(&self) {
        let number = self.vector.number();
        if let Some(base) = VectorMaskBlock::base(number / 32) {
            let row = Window::<&R, VectorMaskBlock>::new(&self.registers, base);
            row.write(EimsEx::from_bits(1 << (number % 32)));
        }
    }
}

impl<R: Registers> Device<'_, R> {
    /// Messages, one for each vector; a vector whose message was sent is masked until it is armed again. All else than
    /// queues goes to vector 0.
    pub(crate) fn set_up_interrupts(&self) {
        let port = self.port();
        port.write(
            Gpie::default()
                .with(Gpie::MULTIPLE_MSIX, 1)
                .with(Gpie::OCD, 1)
                .with(Gpie::VT_MODE, self.function_mode())
                .with(Gpie::EIAME, 1)
                .with(Gpie::PBA_SUPPORT, 1),
        );
        port.write(Eiac::default().with(Eiac::RTX_QUEUE, Eiac::RTX_QUEUE.max()));
        for index in 0..VectorMaskBlock::COUNT {
            if let Some(base) = VectorMaskBlock::base(index) {
                self.row(base).write(EiamEx::from_bits(u32::MAX.into()));
            }
        }
        for index in 0..IvarBlock::COUNT {
            if let Some(base) = IvarBlock::base(index) {
                self.row(base).write(Ivar::default());
            }
        }
        port.write(IvarMisc::default().with(IvarMisc::INT_ALLOC_VAL_1, 1));
        for number in 0..EitrBlock::COUNT {
            if let Some(vector) = Vector::new(number) {
                self.set_interval(vector, DEFAULT_INTERVAL);
            }
        }
    }

    /// Has link changes, messages of virtual functions and errors told by [`Vector::PORT`].
    pub fn watch_port(&self) {
        let causes = Eims::default()
            .with(Eims::LSC, 1)
            .with(Eims::MAILBOX, u64::from(self.functions() > 0))
            .with(Eims::RX_MISS, 1)
            .with(Eims::PCI_EXCEPTION, 1)
            .with(Eims::ECC, 1);
        self.port().write(causes);
    }

    /// Why [`Vector::PORT`] came; reading it acknowledges.
    #[must_use]
    pub fn take_cause(&self) -> Cause {
        let cause = self.port().read::<Eicr>();
        // Written back, as not every configuration clears by reading (§8.2.3.5.1).
        self.port().write(cause);
        Cause(cause)
    }

    /// Lets `vector` interrupt, once: then it is masked again.
    pub fn arm(&self, vector: Vector) {
        Alarm::new(self.registers(), vector).arm();
    }

    /// Keeps `vector` from interrupting.
    pub fn mask(&self, vector: Vector) {
        if let Some(base) = VectorMaskBlock::base(vector.number() / 32) {
            let bit = 1 << (vector.number() % 32);
            self.row(base).write(EimcEx::from_bits(bit));
        }
    }

    /// Sets the least time between two interrupts of `vector`: at least 2 µs, at most 1 ms, in units of 2 µs.
    pub fn set_interval(&self, vector: Vector, interval: Duration) {
        let units = interval.as_nanos() / INTERVAL_UNIT.as_nanos();
        let max = Eitr::ITR_INTERVAL.max();
        let units = u64::try_from(units).unwrap_or(max).clamp(1, max);
        if let Some(base) = EitrBlock::base(vector.number()) {
            let eitr = Eitr::default().with(Eitr::ITR_INTERVAL, units);
            self.row(base).write(eitr.with(Eitr::CNT_WDIS, 1));
        }
    }

    /// Has both queues of `pair` told by `vector`, or by none.
    pub(crate) fn set_vector(&self, pair: u8, vector: Option<Vector>) {
        let Some(base) = IvarBlock::base(pair / 2) else {
            return;
        };
        let number = vector.map_or(0, |vector| vector.number().into());
        let valid = u64::from(vector.is_some());
        self.row(base).modify(|ivar: Ivar| {
            if pair.is_multiple_of(2) {
                ivar.with(Ivar::INT_ALLOC_0, number)
                    .with(Ivar::INT_ALLOC_VAL_0, valid)
                    .with(Ivar::INT_ALLOC_1, number)
                    .with(Ivar::INT_ALLOC_VAL_1, valid)
            } else {
                ivar.with(Ivar::INT_ALLOC_2, number)
                    .with(Ivar::INT_ALLOC_VAL_2, valid)
                    .with(Ivar::INT_ALLOC_3, number)
                    .with(Ivar::INT_ALLOC_VAL_3, valid)
            }
        });
    }
}
