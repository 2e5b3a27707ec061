//! The two lists of capabilities, walked with a bound.

use super::PciError;
use crate::mmio::Registers;

/// Where the configuration header ends and capabilities may begin.
const HEADER: u16 = 0x40;
/// Where the space of conventional PCI ends and extended capabilities begin.
const EXTENDED: u16 = 0x100;
/// Where the configuration space of PCI Express ends.
const END: u16 = 0x1000;
/// Byte offset of the pointer to the first capability.
const POINTER: usize = 0x34;

/// A capability that a list leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Capability {
    /// What kind it is; 8 bits in the conventional list, 16 in the extended one.
    pub id: u16,
    /// Byte offset in configuration space; a multiple of 4.
    pub offset: u16,
}

impl Capability {
    /// MSI-X.
    pub const MSI_X: u16 = 0x11;
    /// PCI Express.
    pub const PCI_EXPRESS: u16 = 0x10;
    /// Single root I/O virtualization, among the extended ones.
    pub const SR_IOV: u16 = 0x10;
    /// Vendor specific: of virtio, where its registers are.
    pub const VENDOR: u16 = 0x09;
}

/// The conventional capabilities, PCI 3.0 section 6.7; made by [`Config::capabilities`](super::Config::capabilities).
///
/// Ends after the first error.
#[derive(Clone, Debug)]
pub struct Capabilities<R> {
    registers: R,
    next: u16,
    /// How many more there can be: each takes 4 bytes or more between `HEADER` and `EXTENDED`.
    left: u16,
}

impl<R: Registers> Capabilities<R> {
    pub(super) fn new(registers: R) -> Self {
        Self {
            next: u16::from(registers.read8(POINTER)) & !3,
            registers,
            left: (EXTENDED - HEADER) / 4,
        }
    }

    /// No capability at all, for functions whose status says so.
    pub(super) const fn none(registers: R) -> Self {
        Self {
            registers,
            next: 0,
            left: 0,
        }
    }
}

impl<R: Registers> Iterator for Capabilities<R> {
    type Item = Result<Capability, PciError>;

    fn next(&mut self) -> Option<Self::Item> {
        let offset = core::mem::take(&mut self.next);
        if offset == 0 {
            return None;
        }
        if offset < HEADER {
            return Some(Err(PciError::BadPointer { offset }));
        }
        let Some(left) = self.left.checked_sub(1) else {
            return Some(Err(PciError::Loop));
        };
        self.left = left;
        let [id, next] = self.registers.read16(usize::from(offset)).to_le_bytes();
        if (id, next) == (0xff, 0xff) {
            return Some(Err(PciError::Removed));
        }
        self.next = u16::from(next) & !3;
        Some(Ok(Capability {
            id: u16::from(id),
            offset,
        }))
    }
}

/// The extended capabilities, PCI Express 5.0 section 7.6; made by
/// [`Config::extended_capabilities`](super::Config::extended_capabilities).
///
/// Ends after the first error.
#[derive(Clone, Debug)]
pub struct ExtendedCapabilities<R> {
    registers: R,
    next: u16,
    /// How many more there can be: each takes 8 bytes or more between `EXTENDED` and `END`.
    left: u16,
}

impl<R: Registers> ExtendedCapabilities<R> {
    pub(super) fn new(registers: R) -> Self {
        let present = registers.len() >= usize::from(END);
        Self {
            registers,
            next: if present { EXTENDED } else { 0 },
            left: (END - EXTENDED) / 8,
        }
    }
}

impl<R: Registers> Iterator for ExtendedCapabilities<R> {
    type Item = Result<Capability, PciError>;

    fn next(&mut self) -> Option<Self::Item> {
        let offset = core::mem::take(&mut self.next);
        if offset == 0 {
            return None;
        }
        if !(EXTENDED..END).contains(&offset) {
            return Some(Err(PciError::BadPointer { offset }));
        }
        let Some(left) = self.left.checked_sub(1) else {
            return Some(Err(PciError::Loop));
        };
        self.left = left;
        let header = self.registers.read32(usize::from(offset));
        match header {
            // "A Capability ID of 0000h … with a next pointer of 000h": the list is empty.
            0 => return None,
            // Conventional PCI behind a bridge: nobody answers up here.
            u32::MAX if offset == EXTENDED => return None,
            u32::MAX => return Some(Err(PciError::Removed)),
            _ => {}
        }
        let [low, high, ..] = header.to_le_bytes();
        self.next = u16::try_from(header >> 20).unwrap_or(0) & !3;
        Some(Ok(Capability {
            id: u16::from_le_bytes([low, high]),
            offset,
        }))
    }
}
