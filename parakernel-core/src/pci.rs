//! PCI functions: their address, their configuration space, and the capabilities in it.
//!
//! Configuration space is written by the device, so nothing in it is believed: lists are walked for as long as they can
//! be at most, offsets are compared with the space's length, and a function that is gone (all ones) says so.
//!
//! ```
//! use parakernel_core::pci::Address;
//!
//! let nic: Address = "0000:01:00.0".parse()?;
//! assert_eq!(nic.bus(), 1);
//! assert_eq!(nic.to_string(), "0000:01:00.0");
//! # Ok::<(), parakernel_core::pci::ParseAddressError>(())
//! ```

use core::{fmt, str::FromStr};

use crate::error::{Error, ErrorKind};

mod capability;
mod config;
mod sr_iov;

pub use capability::{Capabilities, Capability, ExtendedCapabilities};
pub use config::{Bar, Config, Identity, MsiX, MsiXTable};
pub use sr_iov::SrIov;

/// Where a function sits: segment, bus, device, function. Written `0000:01:00.0`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Address {
    segment: u16,
    /// Bus in the upper byte, device in bits 3 to 7, function in bits 0 to 2.
    requester: u16,
}

impl Address {
    /// Function `function` (0 to 7) of device `device` (0 to 31); `None` where one is larger.
    #[must_use]
    pub const fn new(segment: u16, bus: u8, device: u8, function: u8) -> Option<Self> {
        if device > 31 || function > 7 {
            return None;
        }
        Some(Self {
            segment,
            requester: (bus as u16) << 8 | (device as u16) << 3 | function as u16,
        })
    }

    /// The function with this requester id in `segment`.
    #[must_use]
    pub const fn from_requester(segment: u16, requester: u16) -> Self {
        Self { segment, requester }
    }

    /// Segment group, that is, which host bridge's tree.
    #[must_use]
    pub const fn segment(self) -> u16 {
        self.segment
    }

    /// Bus number.
    #[must_use]
    pub const fn bus(self) -> u8 {
        self.requester.to_be_bytes()[0]
    }

    /// Device number, 0 to 31.
    #[must_use]
    pub const fn device(self) -> u8 {
        self.requester.to_be_bytes()[1] >> 3
    }

    /// Function number, 0 to 7.
    #[must_use]
    pub const fn function(self) -> u8 {
        self.requester.to_be_bytes()[1] & 7
    }

    /// The id that the function's transactions carry, and by which an IOMMU knows it.
    #[must_use]
    pub const fn requester(self) -> u16 {
        self.requester
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (segment, bus) = (self.segment, self.bus());
        let (device, function) = (self.device(), self.function());
        write!(f, "{segment:04x}:{bus:02x}:{device:02x}.{function:x}")
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Address {
    type Err = ParseAddressError;

    /// Reads `0000:01:00.0`, or `01:00.0` for segment 0.
    fn from_str(text: &str) -> Result<Self, ParseAddressError> {
        parse(text).ok_or(ParseAddressError)
    }
}

fn parse(text: &str) -> Option<Address> {
    let (rest, function) = text.rsplit_once('.')?;
    let (rest, device) = rest.rsplit_once(':')?;
    let (segment, bus) = rest.rsplit_once(':').unwrap_or(("0000", rest));
    let segment = hex(segment, 4)?;
    let bus = u8::try_from(hex(bus, 2)?).ok()?;
    let device = u8::try_from(hex(device, 2)?).ok()?;
    let function = u8::try_from(hex(function, 1)?).ok()?;
    Address::new(segment, bus, device, function)
}

/// The number that exactly `digits` hexadecimal digits stand for; signs are not digits.
fn hex(text: &str, digits: usize) -> Option<u16> {
    let well_formed = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    well_formed.then(|| u16::from_str_radix(text, 16).ok())?
}

/// The text is not of the form `0000:01:00.0`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ParseAddressError;

impl fmt::Display for ParseAddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a PCI address looks like 0000:01:00.0")
    }
}

impl core::error::Error for ParseAddressError {}

/// What is wrong with a function's configuration space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum PciError {
    /// Nobody answers: the function was removed, or never was there.
    Removed,
    /// A list of capabilities has a loop.
    Loop,
    /// A list of capabilities leads to `offset`, where none can be.
    BadPointer {
        /// Byte offset in configuration space.
        offset: u16,
    },
    /// The capability at `offset` is shorter than its kind must be.
    Short {
        /// Byte offset in configuration space.
        offset: u16,
    },
    /// A capability lies in base address register `index`, which is none.
    BadBar {
        /// The register's number as the device gave it.
        index: u8,
    },
    /// More virtual functions than there can be.
    TooMany {
        /// How many were wanted.
        wanted: u16,
        /// How many there can be.
        total: u16,
    },
    /// The table at `offset` in its base address register does not fit there.
    OutsideBar {
        /// Byte offset.
        offset: u64,
    },
}

impl fmt::Display for PciError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Removed => f.write_str("no function answers"),
            Self::Loop => f.write_str("the capability list has a loop"),
            Self::BadPointer { offset } => write!(f, "no capability can be at {offset:#x}"),
            Self::Short { offset } => write!(f, "the capability at {offset:#x} is too short"),
            Self::BadBar { index } => write!(f, "there is no base address register {index}"),
            Self::TooMany { wanted, total } => {
                write!(f, "{wanted} virtual functions are more than {total}")
            }
            Self::OutsideBar { offset } => {
                write!(
                    f,
                    "the table at {offset:#x} exceeds its base address register"
                )
            }
        }
    }
}

impl core::error::Error for PciError {}

impl Error for PciError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Removed => ErrorKind::Removed,
            Self::TooMany { .. } => ErrorKind::InvalidArgument,
            Self::Loop
            | Self::BadPointer { .. }
            | Self::Short { .. }
            | Self::BadBar { .. }
            | Self::OutsideBar { .. } => ErrorKind::Protocol,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_address_survives_its_text(segment: u16, requester: u16) {
            let address = Address::from_requester(segment, requester);
            prop_assert_eq!(address.to_string().parse(), Ok(address));
            let (bus, device, function) = (address.bus(), address.device(), address.function());
            prop_assert_eq!(Address::new(segment, bus, device, function), Some(address));
        }

        #[test]
        fn any_text_is_refused_or_read_back(text in "[0-9a-f:.+-]{0,14}") {
            if let Ok(address) = text.parse::<Address>() {
                prop_assert!(address.to_string().ends_with(&text));
            }
        }
    }

    #[test]
    fn malformed_addresses_are_refused() {
        for text in [
            "",
            "1:00.0",
            "01:20.0",
            "01:00.8",
            "01:00",
            "+1:00.0",
            "00000:01:00.0",
            "01:00.0 ",
        ] {
            assert_eq!(text.parse::<Address>(), Err(ParseAddressError), "{text}");
        }
    }
}
