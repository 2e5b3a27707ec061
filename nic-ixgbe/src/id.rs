//! Which functions this driver is for.

use core::fmt;

use parakernel_core::error::{Error, ErrorKind};

/// The vendor id of all of them.
pub const VENDOR: u16 = 0x8086;

/// What a port is, as far as the driver does different things.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Kind {
    /// An 82599 with a cage for an SFP+ module: its link is 10 Gb/s serial, without negotiation.
    Sfp,
    /// An 82599 on a backplane, or with a copper cable of its own: the EEPROM says how its link comes up.
    Backplane,
}

/// Why a function of the family is not driven.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum NotDriven {
    /// An 82598, the generation before: its queues, filters and interrupts lie elsewhere and are fewer.
    Older,
    /// An 82599 with a QSFP+ cage, or with a 10GBASE-T PHY of another chip: module and PHY are told of over buses that are not
    /// driven.
    Medium,
    /// An X540: queues and filters are the 82599's, but its link is a PHY of its own behind MDIO, its configuration is in a
    /// flash, its packet buffer has 384 KiB, and its semaphores have other rules.
    X540,
    /// An X550: as an X540, with more: malicious driver detection that stops queues, I2C and semaphores at other places, and
    /// on some a PHY that the firmware is asked about.
    X550,
    /// A virtual function of an 82599: [`vf`](crate::vf) is for it.
    Function,
    /// A virtual function of another card.
    OtherFunction,
    /// None of the family.
    Unknown,
}

impl fmt::Display for NotDriven {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Older => "an 82598 is not driven",
            Self::Medium => "an 82599 with this medium is not driven",
            Self::X540 => "an X540 is not driven",
            Self::X550 => "an X550 is not driven",
            Self::Function => "a virtual function has a driver of its own",
            Self::OtherFunction => "a virtual function of another card is not driven",
            Self::Unknown => "this is none of the family",
        })
    }
}

impl core::error::Error for NotDriven {}

impl Error for NotDriven {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Unsupported
    }
}

impl Kind {
    /// The port with this PCI device id, as the datasheet (§9.3.3.2), DPDK and Linux list them; `None` for another.
    #[must_use]
    pub const fn of(device: u16) -> Option<Self> {
        match device {
            // SFP, SFP with FCoE, SFP on a mezzanine card, SFP+ with two and four ports, one port.
            0x10FB | 0x1529 | 0x1507 | 0x154D | 0x154A | 0x1557 => Some(Self::Sfp),
            // KX4, its mezzanine card, combined backplane, the same with FCoE, XAUI, KR, CX4.
            0x10F7 | 0x1514 | 0x10F8 | 0x152A | 0x10FC | 0x1517 | 0x10F9 => Some(Self::Backplane),
            _ => None,
        }
    }

    /// The same, with the reason where it is not driven.
    ///
    /// # Errors
    ///
    /// [`NotDriven`], by the lists of DPDK and Linux.
    pub const fn identify(device: u16) -> Result<Self, NotDriven> {
        if let Some(kind) = Self::of(device) {
            return Ok(kind);
        }
        Err(match device {
            0x10B6
            | 0x1508
            | 0x10C6..=0x10C8
            | 0x150B
            | 0x10DB
            | 0x10DD
            | 0x10E1
            | 0x10EC
            | 0x10F1
            | 0x10F4 => NotDriven::Older,
            0x1558 | 0x151C | 0x154F => NotDriven::Medium,
            0x1528 | 0x1560 => NotDriven::X540,
            0x1563
            | 0x15D1
            | 0x15AA..=0x15AE
            | 0x15B0
            | 0x15C2..=0x15C4
            | 0x15C6..=0x15C8
            | 0x15CA
            | 0x15CC
            | 0x15CE
            | 0x15E4
            | 0x15E5 => NotDriven::X550,
            0x10ED => NotDriven::Function,
            0x152E | 0x1515 | 0x1530 | 0x1564 | 0x1565 | 0x15A8 | 0x15A9 | 0x15B4 | 0x15C5 => {
                NotDriven::OtherFunction
            }
            _ => NotDriven::Unknown,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No id is on two lists, and each of the family is on one.
    #[test]
    fn a_card_is_driven_or_refused_for_a_reason() {
        assert_eq!(Kind::identify(0x10FB), Ok(Kind::Sfp));
        assert_eq!(Kind::identify(0x152A), Ok(Kind::Backplane));
        for (device, reason) in [
            (0x10C7, NotDriven::Older),
            (0x151C, NotDriven::Medium),
            (0x1528, NotDriven::X540),
            (0x15AB, NotDriven::X550),
            (0x10ED, NotDriven::Function),
            (0x1515, NotDriven::OtherFunction),
            (0x100E, NotDriven::Unknown),
        ] {
            assert_eq!(Kind::identify(device), Err(reason));
            assert_eq!(Kind::of(device), None);
        }
        let driven = (0..=u16::MAX).filter(|&device| Kind::identify(device).is_ok());
        assert_eq!(driven.count(), 13);
    }
}
