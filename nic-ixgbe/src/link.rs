//! The link.

use parakernel_core::mmio::{Register, Registers};

use crate::{
    device::Device,
    id::Kind,
    regs::{Autoc, Autoc2, Esdp, Links},
};

/// Link mode: 10 Gb/s serial, no negotiation (§8.2.3.22.19).
const LMS_10G_SERIAL: u64 = 3;
/// Medium of that: SFI (§8.2.3.22.22).
const PMA_PMD_SFI: u64 = 2;

/// The state of the link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Link {
    /// Frames pass.
    pub is_up: bool,
    /// In Mb/s, where it is up and the port says a speed that there is.
    pub speed_mbps: Option<u32>,
}

impl Link {
    /// No link.
    pub(crate) const DOWN: Self = Self {
        is_up: false,
        speed_mbps: None,
    };

    /// The link as a register tells it: whether it is up, and the number of its speed.
    pub(crate) fn new(is_up: bool, speed: u64) -> Self {
        let speed_mbps = match speed {
            1 => Some(100),
            2 => Some(1000),
            3 => Some(10_000),
            _ => None,
        };
        Self {
            is_up,
            speed_mbps: speed_mbps.filter(|_| is_up),
        }
    }
}

impl<R: Registers> Device<'_, R> {
    /// Begins with the link, §4.6.4. For an SFP+ module: serial, no negotiation, its transmitter on. On a backplane as the
    /// EEPROM says.
    pub(crate) fn set_up_link(&self) {
        let port = self.port();
        port.modify(|autoc2: Autoc2| autoc2.with(Autoc2::LINK_DISABLE, 0));
        if self.kind() == Kind::Sfp {
            port.modify(|autoc2: Autoc2| autoc2.with(Autoc2::PMA_PMD_10G_SERIAL, PMA_PMD_SFI));
            port.modify(|esdp: Esdp| esdp.with(Esdp::SDP3_DATA, 0));
            port.modify(|autoc: Autoc| autoc.with(Autoc::LMS, LMS_10G_SERIAL));
        } else {
            port.modify(|autoc: Autoc| self.offer_pauses(autoc));
        }
        port.modify(|autoc: Autoc| autoc.with(Autoc::RESTART_AN, 1));
    }

    /// The state of the link. That it was down in the meantime is not told: [`Cause::is_link`](crate::interrupt::Cause) is.
    #[must_use]
    pub fn link(&self) -> Link {
        if self.is_gone() {
            return Link::DOWN;
        }
        let links = self.port().read::<Links>();
        Link::new(links.is_set(Links::LINK_UP), links.field(Links::LINK_SPEED))
    }

    /// Whether there is a module in the cage, as boards with an SFP+ cage say (SDP2, §3.7); `None` on others.
    #[must_use]
    pub fn has_module(&self) -> Option<bool> {
        let is_set = self.port().read::<Esdp>().is_set(Esdp::SDP2_DATA);
        (self.kind() == Kind::Sfp).then_some(is_set)
    }
}
