//! Doorbells: what publishes a queue's tail, or how far its completions were consumed (NVMe 1.4 §3.1.24, §3.1.25).
//!
//! A controller that is a program may offer *shadow* doorbells (§5.7, §7.13): words in memory that it looks at by
//! itself while it is awake. The register is then written only where the controller asks for it, since each write to
//! it costs a trap. Only the kernel writes these words: they tell the controller what to fetch.

use core::sync::atomic::{
    AtomicU32,
    Ordering::{Relaxed, Release, SeqCst},
    fence,
};

use parakernel_core::{
    memory::{DmaBlock, SharedMemory},
    mmio::Registers,
    queue::Doorbell,
    ring::{Position, RingSize},
};

/// The caller's memory for shadow doorbells: two pages, each aligned to a page.
#[derive(Debug)]
pub struct ShadowMemory<'m> {
    /// What the driver writes.
    pub values: DmaBlock<'m>,
    /// What the controller writes: the value at which it wants the register to be written.
    pub events: DmaBlock<'m>,
}

impl<'m> ShadowMemory<'m> {
    /// The shadow of the doorbell `offset` bytes after the first; `None` beyond the page, where registers must do.
    pub(crate) fn shadow(&self, offset: usize) -> Option<Shadow<'m>> {
        let word = |memory: SharedMemory<'m>| memory.view::<AtomicU32>(offset);
        Some(Shadow {
            value: word(self.values.memory())?,
            event: word(self.events.memory())?,
        })
    }
}

/// The two words of one shadow doorbell.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shadow<'m> {
    value: &'m AtomicU32,
    event: &'m AtomicU32,
}

impl Shadow<'_> {
    /// Both words as a new queue needs them.
    pub(crate) fn clear(&self) {
        self.value.store(0, Relaxed);
        self.event.store(0, Relaxed);
    }

    /// Publishes `value`; whether the register must be written too.
    fn publish(&self, value: u32) -> bool {
        let old = u32::from_le(self.value.load(Relaxed));
        self.value.store(value.to_le(), Relaxed);
        // The controller stores its event and then looks at the value; here it is the other way round, so that one of
        // the two sees what the other did.
        fence(SeqCst);
        is_passed(u32::from_le(self.event.load(Relaxed)), value, old)
    }
}

/// Whether going from `old` to `new` passes `event`: all are slots, but compared modulo 2¹⁶.
fn is_passed(event: u32, new: u32, old: u32) -> bool {
    let distance = |from: u32| new.wrapping_sub(from) & 0xffff;
    distance(event.wrapping_add(1)) < distance(old)
}

/// A doorbell register of the controller, with its shadow if the controller has shadows.
#[derive(Clone, Copy, Debug)]
pub struct RegisterDoorbell<'m, R> {
    registers: R,
    offset: usize,
    mask: u32,
    shadow: Option<Shadow<'m>>,
}

impl<'m, R> RegisterDoorbell<'m, R> {
    pub(crate) const fn new(
        registers: R,
        offset: usize,
        size: RingSize,
        shadow: Option<Shadow<'m>>,
    ) -> Self {
        Self {
            registers,
            offset,
            mask: size.entries() - 1,
            shadow,
        }
    }
}

impl<R: Registers> Doorbell for RegisterDoorbell<'_, R> {
    #[inline]
    fn ring(&mut self, tail: Position) {
        let value = tail.as_u32() & self.mask;
        fence(Release);
        if self.shadow.is_none_or(|shadow| shadow.publish(value)) {
            self.registers.write32(self.offset, value);
        }
    }

    #[inline]
    fn accepted(&self, rung: Position) -> Position {
        rung
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_passed_exactly_when_it_is_one_of_the_slots_left() {
        for size in [2_u32, 64, 4096] {
            for old in [0, 1, size / 2, size - 1] {
                for steps in 1..size.min(70) {
                    let new = (old + steps) % size;
                    for event in (0..size).step_by(usize::try_from(size.div_ceil(64)).unwrap()) {
                        let passed = (0..steps).any(|step| (old + step) % size == event);
                        assert_eq!(
                            is_passed(event, new, old),
                            passed,
                            "{event} {old} {new} of {size}"
                        );
                    }
                }
            }
        }
    }
}
