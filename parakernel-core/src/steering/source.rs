//! What a process may send: its own addresses, and nothing that only the kernel may say.

use core::borrow::Borrow;

use super::{
    NameGrant,
    frame::{ARP, Arp, Discovery, Frame, IPV4, IPV6, Ipv4, Ipv6, Transport, Unclear, Whole},
};
use crate::validate::SpoofedField;

/// How many bytes from the start of a frame tell whether it may leave by [`Way::Hardware`]: an Ethernet header with a
/// tag, the longest IPv4 header, and a TCP header without options.
pub const SOURCE_HEADERS: usize = 18 + 60 + 20;

/// The way that a frame leaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Way {
    /// A queue of the device, of which the kernel sees the first [`SOURCE_HEADERS`] bytes. ARP and neighbour discovery
    /// do not leave here.
    Hardware,
    /// The virtual queue, of which the kernel sees whole frames.
    Virtual,
}

impl NameGrant {
    /// Checks that a frame, or its first bytes, is sent from names of this grant.
    ///
    /// Leaves room for no second reading: a frame with extension headers, nested tags or an `EtherType` other than IPv4,
    /// IPv6 and ARP does not pass. PAUSE (0x8808) and LLDP (0x88CC) are among them.
    ///
    /// # Errors
    ///
    /// The first part of the frame that is not the process's own.
    pub fn check_source(&self, bytes: &[u8], way: Way) -> Result<(), SpoofedField> {
        let frame = Frame::parse(bytes)?;
        if frame.source != self.mac {
            return Err(SpoofedField::Mac);
        }
        if frame.vlan != self.vlan {
            return Err(SpoofedField::Vlan);
        }
        match frame.ether_type {
            ARP if way == Way::Hardware => Err(SpoofedField::Arp),
            ARP => self.check_arp(&frame),
            IPV4 => self.check_ipv4(&frame, way),
            IPV6 => self.check_ipv6(&frame, way),
            _ => Err(SpoofedField::EtherType),
        }
    }

    /// Checks that a frame is sent from names of one of the grants.
    ///
    /// # Errors
    ///
    /// As [`check_source`](Self::check_source) for the last of them; [`SpoofedField::Mac`] where there is none.
    pub fn check_any(
        grants: impl IntoIterator<Item = impl Borrow<Self>>,
        bytes: &[u8],
        way: Way,
    ) -> Result<(), SpoofedField> {
        let mut result = Err(SpoofedField::Mac);
        for names in grants {
            result = names.borrow().check_source(bytes, way);
            if result.is_ok() {
                break;
            }
        }
        result
    }

    fn check_arp(&self, frame: &Frame<'_>) -> Result<(), SpoofedField> {
        let arp = Arp::parse(frame.payload)?;
        // A probe asks whether an address is free, in nobody's name: RFC 5227 section 2.1.1.
        let is_probe = arp.is_request && arp.sender.is_unspecified();
        let is_own = self.ipv4.is_some_and(|own| own.contains(arp.sender));
        if arp.sender_mac == self.mac && (is_own || is_probe) {
            Ok(())
        } else {
            Err(SpoofedField::Arp)
        }
    }

    fn check_ipv4(&self, frame: &Frame<'_>, way: Way) -> Result<(), SpoofedField> {
        let packet = Ipv4::parse(frame.payload, way.whole())?;
        if !self.ipv4.is_some_and(|own| own.contains(packet.source)) {
            return Err(SpoofedField::Ipv4);
        }
        self.check_port(&packet.transport)
    }

    fn check_ipv6(&self, frame: &Frame<'_>, way: Way) -> Result<(), SpoofedField> {
        let packet = Ipv6::parse(frame.payload, way.whole())?;
        let own = |address| self.ipv6.is_some_and(|own| own.contains(address));
        if packet.has_extensions {
            return Err(SpoofedField::Ipv6);
        }
        if let Transport::Icmp(message) = packet.transport
            && let Some(discovery) = Discovery::parse(message)?
        {
            let is_anonymous = packet.source.is_unspecified();
            let allowed = match discovery {
                Discovery::RouterSolicitation => own(packet.source) || is_anonymous,
                Discovery::Neighbour {
                    target,
                    is_advertisement: true,
                } => own(packet.source) && own(target),
                // Without a source it asks whether an address of its own is free: RFC 4862 section 5.4.2.
                Discovery::Neighbour { target, .. } => {
                    own(packet.source) || (is_anonymous && own(target))
                }
                Discovery::Router => false,
            };
            if way == Way::Hardware || !allowed {
                return Err(SpoofedField::Arp);
            }
            return self.check_link_addresses(message);
        }
        if !own(packet.source) {
            return Err(SpoofedField::Ipv6);
        }
        self.check_port(&packet.transport)
    }

    fn check_link_addresses(&self, message: &[u8]) -> Result<(), SpoofedField> {
        for address in Discovery::link_addresses(message) {
            if address? != self.mac {
                return Err(SpoofedField::Arp);
            }
        }
        Ok(())
    }

    fn check_port(&self, transport: &Transport<'_>) -> Result<(), SpoofedField> {
        let allowed = match *transport {
            Transport::Ports(source, _) => self.ports.contains(source),
            Transport::Icmp(_) => true,
            Transport::Fragment | Transport::Other => self.ports.is_all(),
        };
        if allowed {
            Ok(())
        } else {
            Err(SpoofedField::Port)
        }
    }
}

impl Way {
    const fn whole(self) -> Whole {
        match self {
            Self::Hardware => Whole::No,
            Self::Virtual => Whole::Yes,
        }
    }
}

impl From<Unclear> for SpoofedField {
    fn from(unclear: Unclear) -> Self {
        match unclear {
            Unclear::Truncated => Self::Truncated,
            Unclear::Tags => Self::Vlan,
        }
    }
}
