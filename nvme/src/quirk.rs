//! Controllers that need to be handled differently from what the specification says.

use core::time::Duration;

use bitflags::bitflags;

bitflags! {
    /// What to do differently for a controller.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Quirks: u32 {
        /// Do not read CSTS for a while after disabling: it would hang or lie.
        const SLOW_READY = 1 << 0;
        /// Identify knows no list of active namespaces: ask for each number up to the last.
        const NO_NAMESPACE_LIST = 1 << 1;
        /// Write Zeroes is reported, but slow or wrong: do not offer it.
        const NO_WRITE_ZEROES = 1 << 2;
    }
}

/// How long CSTS is left alone after disabling a controller with [`Quirks::SLOW_READY`].
pub(crate) const SLOW_READY_DELAY: Duration = Duration::from_millis(2500);

/// PCI vendor and device, and what is known about it; where from is said in `ASSUMPTIONS.md`.
const TABLE: [(u16, u16, Quirks); 5] = [
    // Samsung PM1725, PM1725a; Memblaze PBlaze4.
    (0x144d, 0xa821, Quirks::SLOW_READY),
    (
        0x144d,
        0xa822,
        Quirks::SLOW_READY.union(Quirks::NO_WRITE_ZEROES),
    ),
    (0x1c5f, 0x0540, Quirks::SLOW_READY),
    // QEMU's controller before it had a vendor of its own; an open-channel controller and its emulation.
    (
        0x8086,
        0x5845,
        Quirks::NO_NAMESPACE_LIST.union(Quirks::NO_WRITE_ZEROES),
    ),
    (0x1d1d, 0x1f1f, Quirks::NO_NAMESPACE_LIST),
];

impl Quirks {
    /// What is known about the controller with this PCI vendor and device.
    #[must_use]
    pub fn of(vendor: u16, device: u16) -> Self {
        let known = TABLE
            .iter()
            .find(|entry| (entry.0, entry.1) == (vendor, device));
        known.map_or(Self::empty(), |entry| entry.2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quirks_are_found_by_both_numbers() {
        assert_eq!(Quirks::of(0x144d, 0xa821), Quirks::SLOW_READY);
        assert_eq!(Quirks::of(0x144d, 0x5845), Quirks::empty());
        assert_eq!(Quirks::of(0x1b36, 0x0010), Quirks::empty());
    }
}
