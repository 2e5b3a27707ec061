//! Which functions this driver is for.

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

impl Kind {
    /// The port with this PCI device id, as the datasheet (§9.3.3.2), DPDK and Linux list them; `None` for another.
    #[must_use]
    pub const fn of(device: u16) -> Option<Self> {
        match device {
            // SFP, SFP with FCoE, SFP on a mezzanine card, SFP+ with two and four ports, one port.
            0x10FB | 0x1529 | 0x1507 | 0x154D | 0x154A | 0x1557 => Some(Self::Sfp),
            // KX4, its mezzanine card, combined backplane, XAUI, KR, CX4.
            0x10F7 | 0x1514 | 0x10F8 | 0x10FC | 0x1517 | 0x10F9 => Some(Self::Backplane),
            _ => None,
        }
    }
}
