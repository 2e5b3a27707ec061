//! What both ring formats have in common: chains of buffers, and what breaks a ring.

use parakernel_core::address::BusAddress;

use super::features::Features;
use crate::{
    bytes::{u16_at, u32_at, u64_at},
    memory::DmaError,
    pci::Function,
};

/// One buffer of a chain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Buffer {
    pub(super) address: BusAddress,
    pub(super) len: usize,
}

/// A chain that the driver made available.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Chain {
    /// The head's index (split), or the buffer id (packed).
    pub(super) id: u16,
    /// Ring entries that it takes in a packed ring.
    pub(super) slots: u16,
    /// The buffers that the device reads, then those that it writes.
    pub(super) readable: Vec<Buffer>,
    pub(super) writable: Vec<Buffer>,
    /// The table entries that it uses, in a split ring.
    pub(super) entries: Vec<u16>,
}

impl Chain {
    pub(super) const fn new(id: u16) -> Self {
        Self {
            id,
            slots: 0,
            readable: Vec::new(),
            writable: Vec::new(),
            entries: Vec::new(),
        }
    }

    pub(super) fn writable_len(&self) -> usize {
        self.writable.iter().map(|buffer| buffer.len).sum()
    }

    pub(super) fn readable_len(&self) -> usize {
        self.readable.iter().map(|buffer| buffer.len).sum()
    }

    /// Adds a buffer: device-readable ones come first (2.7.4.2), and all together have at most 2^32 bytes (2.7.5.2).
    pub(super) fn add(&mut self, descriptor: &Descriptor) -> Result<(), Broken> {
        let buffer = Buffer {
            address: BusAddress::new(descriptor.address),
            len: descriptor.len,
        };
        let total = (self.readable_len() + self.writable_len()).saturating_add(buffer.len);
        if total as u64 > 1 << 32 {
            return Err(Broken::rule(
                "virtio 1.3, 2.7.5.2",
                "a chain of more than 2^32 bytes",
            ));
        }
        if descriptor.writable() {
            self.writable.push(buffer);
            return Ok(());
        }
        if !self.writable.is_empty() {
            return Err(Broken::rule(
                "virtio 1.3, 2.7.4.2",
                "a device-readable buffer after a writable one",
            ));
        }
        self.readable.push(buffer);
        Ok(())
    }
}

/// Why a ring cannot go on.
#[derive(Clone, Debug)]
pub(super) enum Broken {
    /// The driver broke the rule of this section.
    Rule(&'static str, String),
    /// Ring memory could not be reached.
    Transfer(DmaError),
}

impl Broken {
    pub(super) fn rule(section: &'static str, text: impl Into<String>) -> Self {
        Self::Rule(section, text.into())
    }
}

impl From<DmaError> for Broken {
    fn from(error: DmaError) -> Self {
        Self::Transfer(error)
    }
}

/// Sixteen bytes of a descriptor, taken apart; `next` is the id in a packed ring.
#[derive(Clone, Copy, Debug)]
pub(super) struct Descriptor {
    pub(super) address: u64,
    pub(super) len: usize,
    pub(super) flags: u16,
    pub(super) next: u16,
}

impl Descriptor {
    /// A split ring's descriptor: address, length, flags, next (2.7.5).
    pub(super) fn split(bytes: &[u8]) -> Self {
        Self {
            flags: u16_at(bytes, 12),
            next: u16_at(bytes, 14),
            ..Self::packed(bytes)
        }
    }

    /// A packed ring's descriptor: address, length, id, flags (2.8.13).
    pub(super) fn packed(bytes: &[u8]) -> Self {
        Self {
            address: u64_at(bytes, 0),
            len: usize::try_from(u32_at(bytes, 8)).unwrap_or(usize::MAX),
            flags: u16_at(bytes, 14),
            next: u16_at(bytes, 12),
        }
    }

    pub(super) const fn continues(&self) -> bool {
        self.flags & 1 != 0
    }

    pub(super) const fn writable(&self) -> bool {
        self.flags & 2 != 0
    }

    pub(super) const fn indirect(&self) -> bool {
        self.flags & 4 != 0
    }

    /// The bytes of the table that an indirect descriptor points at, checked for feature and length.
    pub(super) fn table(
        &self,
        function: &Function,
        features: Features,
        limit: u16,
    ) -> Result<Vec<u8>, Broken> {
        const SECTION: &str = "virtio 1.3, 2.7.5.3.1";
        if !features.contains(Features::INDIRECT_DESC) {
            return Err(Broken::rule(SECTION, "INDIRECT without the feature"));
        }
        if self.continues() {
            return Err(Broken::rule(SECTION, "INDIRECT and NEXT in one descriptor"));
        }
        if self.len == 0 || !self.len.is_multiple_of(16) {
            return Err(Broken::rule(
                SECTION,
                format!("an indirect table of {} bytes", self.len),
            ));
        }
        if self.len / 16 > usize::from(limit) {
            return Err(Broken::rule(
                SECTION,
                "an indirect table longer than the queue",
            ));
        }
        let mut bytes = vec![0; self.len];
        function.read(BusAddress::new(self.address), &mut bytes)?;
        Ok(bytes)
    }
}

/// Whether moving from `old` to `new` passes `event` (2.7.10): the interval is counted from the event.
pub(super) const fn passes(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_passed_exactly_when_counting_meets_it() {
        for old in [0_u16, 5, 0x7fff, 0xfff0, 0xffff] {
            for added in 0..40 {
                let new = old.wrapping_add(added);
                for distance in 0..60 {
                    let event = old.wrapping_sub(10).wrapping_add(distance);
                    let met = (0..added).any(|n| old.wrapping_add(n) == event);
                    assert_eq!(passes(event, new, old), met, "{old} {added} {event}");
                }
            }
        }
    }
}
