//! Vectors of a virtual function, and its link.

use core::time::Duration;

use parakernel_core::mmio::{Register, Registers, Window};

use super::{Function, VECTORS, own_vector};
use crate::{
    device::Vector,
    interrupt::INTERVAL_UNIT,
    link::Link,
    regs::function::{
        FUNCTION_QUEUES, FunctionWordBlock, Vflinks, Vteimc, Vteims, Vteitr, Vtivar, VtivarMisc,
    },
};

impl<R: Registers> Function<'_, R> {
    /// The state of the link.
    #[must_use]
    pub fn link(&self) -> Link {
        if self.is_gone() {
            return Link::DOWN;
        }
        let links = self.window().read::<Vflinks>();
        Link::new(
            links.is_set(Vflinks::LINK_UP),
            links.field(Vflinks::LINK_SPEED),
        )
    }

    /// Lets `vector` interrupt, once: then it is masked again. One beyond [`VECTORS`] does nothing.
    pub fn arm(&self, vector: Vector) {
        if let Some(number) = own_vector(vector) {
            self.window().write(Vteims::from_bits(1 << number));
        }
    }

    /// Keeps `vector` from interrupting.
    pub fn mask(&self, vector: Vector) {
        if let Some(number) = own_vector(vector) {
            self.window().write(Vteimc::from_bits(1 << number));
        }
    }

    /// Has news from the port told by `vector`, or by none: one beyond [`VECTORS`] is none.
    pub fn watch_port(&self, vector: Option<Vector>) {
        let number = vector.and_then(own_vector);
        let misc = VtivarMisc::default().with(VtivarMisc::INT_ALLOC, number.unwrap_or(0).into());
        self.window()
            .write(misc.with(VtivarMisc::INT_ALLOC_VAL, number.is_some().into()));
    }

    /// Sets the least time between two interrupts of `vector`: at least 2 µs, at most 1 ms, in units of 2 µs.
    pub fn set_interval(&self, vector: Vector, interval: Duration) {
        let units = interval.as_nanos() / INTERVAL_UNIT.as_nanos();
        let max = Vteitr::ITR_INTERVAL.max();
        let units = u64::try_from(units).unwrap_or(max).clamp(1, max);
        if let Some(row) = own_vector(vector).and_then(|number| self.word(number)) {
            row.write(Vteitr::default().with(Vteitr::ITR_INTERVAL, units));
        }
    }

    /// Has both queues of `pair` told by `vector`, or by none.
    pub(super) fn set_vector(&self, pair: u8, vector: Option<Vector>) {
        let number = vector.and_then(own_vector);
        let valid = u64::from(number.is_some());
        let number = number.unwrap_or(0).into();
        let Some(row) = self.word(pair / 2) else {
            return;
        };
        row.modify(|ivar: Vtivar| {
            if pair.is_multiple_of(2) {
                ivar.with(Vtivar::INT_ALLOC_0, number)
                    .with(Vtivar::INT_ALLOC_VAL_0, valid)
                    .with(Vtivar::INT_ALLOC_1, number)
                    .with(Vtivar::INT_ALLOC_VAL_1, valid)
            } else {
                ivar.with(Vtivar::INT_ALLOC_2, number)
                    .with(Vtivar::INT_ALLOC_VAL_2, valid)
                    .with(Vtivar::INT_ALLOC_3, number)
                    .with(Vtivar::INT_ALLOC_VAL_3, valid)
            }
        });
    }

    /// Nothing is told by any vector.
    pub(super) fn clear_vectors(&self) {
        for index in 0..FUNCTION_QUEUES / 2 {
            if let Some(row) = self.word(index) {
                row.write(Vtivar::default());
            }
        }
        self.watch_port(None);
        for vector in (0..VECTORS).filter_map(Vector::new) {
            self.set_interval(vector, crate::interrupt::DEFAULT_INTERVAL);
        }
    }

    fn word(&self, index: u8) -> Option<Window<&R, FunctionWordBlock>> {
        FunctionWordBlock::base(index).map(|base| Window::new(self.registers(), base))
    }
}
