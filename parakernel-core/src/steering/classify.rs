//! Who gets a frame that no rule of the device matched.

use super::{
    GrantTable, NameGrant, Vlan,
    frame::{ARP, Arp, Discovery, Frame, IPV4, IPV6, Ipv4, Ipv6, Transport, Unclear, Whole},
};
use crate::{device::DeviceId, handle::ProcessId};

/// Who gets a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Recipient {
    /// The only process whose grant covers the frame.
    One(ProcessId),
    /// Every process with a name in this VLAN, or among the untagged: a broadcast or multicast.
    Everyone(Option<Vlan>),
    /// The kernel: nobody's grant covers the frame, or more than one process's does, or it cannot be understood.
    Kernel,
}

impl GrantTable<'_> {
    /// Who gets the frame `bytes`, a whole one, that `device` received.
    ///
    /// Never guesses: a frame that could mean different things to different readers (options, extension headers,
    /// nested tags, lengths that contradict each other) is the kernel's.
    #[must_use]
    pub fn classify(&self, device: DeviceId, bytes: &[u8]) -> Recipient {
        self.recipient(device, bytes).unwrap_or(Recipient::Kernel)
    }

    /// The processes that a frame for everyone goes to, each once.
    pub fn everyone(
        &self,
        device: DeviceId,
        vlan: Option<Vlan>,
    ) -> impl Iterator<Item = ProcessId> {
        let has_name = move |owner| self.of(owner, device).any(|names| names.vlan == vlan);
        let mut index = 0;
        let mut owners = self.iter().map(|(_, grant)| grant.owner);
        core::iter::from_fn(move || {
            loop {
                let owner = owners.next()?;
                let is_first = self
                    .iter()
                    .take(index)
                    .all(|(_, grant)| grant.owner != owner);
                index += 1;
                if is_first && has_name(owner) {
                    return Some(owner);
                }
            }
        })
    }

    fn recipient(&self, device: DeviceId, bytes: &[u8]) -> Result<Recipient, Unclear> {
        let frame = Frame::parse(bytes)?;
        match frame.ether_type {
            ARP => self.of_arp(device, &frame),
            IPV4 => self.of_ipv4(device, &frame),
            IPV6 => self.of_ipv6(device, &frame),
            _ => Ok(Recipient::Kernel),
        }
    }

    fn of_arp(&self, device: DeviceId, frame: &Frame<'_>) -> Result<Recipient, Unclear> {
        let arp = Arp::parse(frame.payload)?;
        // An announcement asks for its own address.
        if frame.destination.is_group() && arp.sender == arp.target {
            return Ok(Recipient::Everyone(frame.vlan));
        }
        Ok(self.only(device, frame, |names| names.has_ipv4(arp.target)))
    }

    fn of_ipv4(&self, device: DeviceId, frame: &Frame<'_>) -> Result<Recipient, Unclear> {
        let packet = Ipv4::parse(frame.payload, Whole::Yes)?;
        let to = packet.destination;
        if packet.has_options {
            return Ok(Recipient::Kernel);
        }
        if to.is_multicast() || to.is_broadcast() {
            return Ok(for_group(frame));
        }
        if frame.destination.is_group() {
            return Ok(Recipient::Kernel);
        }
        let covers =
            |names: &NameGrant| names.has_ipv4(to) && names.has_transport(&packet.transport);
        Ok(self.only(device, frame, covers))
    }

    fn of_ipv6(&self, device: DeviceId, frame: &Frame<'_>) -> Result<Recipient, Unclear> {
        let packet = Ipv6::parse(frame.payload, Whole::Yes)?;
        let to = packet.destination;
        if packet.has_extensions {
            return Ok(Recipient::Kernel);
        }
        if to.is_multicast() {
            if let Transport::Icmp(message) = packet.transport
                && let Some(Discovery::Neighbour {
                    target,
                    is_advertisement: false,
                }) = Discovery::parse(message)?
            {
                return Ok(self.only(device, frame, |names| names.has_ipv6(target)));
            }
            return Ok(for_group(frame));
        }
        if frame.destination.is_group() {
            return Ok(Recipient::Kernel);
        }
        let covers =
            |names: &NameGrant| names.has_ipv6(to) && names.has_transport(&packet.transport);
        Ok(self.only(device, frame, covers))
    }

    /// The only process with a name that the frame is for, by MAC address and VLAN, and that `covers` the rest.
    fn only(
        &self,
        device: DeviceId,
        frame: &Frame<'_>,
        covers: impl Fn(&NameGrant) -> bool,
    ) -> Recipient {
        let is_for = |names: &NameGrant| {
            (frame.destination.is_group() || frame.destination == names.mac)
                && frame.vlan == names.vlan
                && covers(names)
        };
        let on_device = self.iter().filter(|(_, grant)| grant.device == device);
        let mut owners = on_device
            .filter(|(_, grant)| is_for(&grant.names))
            .map(|(_, grant)| grant.owner);
        match owners.next() {
            Some(owner) if owners.all(|other| other == owner) => Recipient::One(owner),
            _ => Recipient::Kernel,
        }
    }
}

/// A packet to a group of hosts; one that comes in a frame to a single station is none.
fn for_group(frame: &Frame<'_>) -> Recipient {
    if frame.destination.is_group() {
        Recipient::Everyone(frame.vlan)
    } else {
        Recipient::Kernel
    }
}

impl NameGrant {
    fn has_ipv4(&self, address: core::net::Ipv4Addr) -> bool {
        self.ipv4.is_some_and(|own| own.contains(address))
    }

    fn has_ipv6(&self, address: core::net::Ipv6Addr) -> bool {
        self.ipv6.is_some_and(|own| own.contains(address))
    }

    /// Whether the grant covers what the packet carries, its addresses aside.
    fn has_transport(&self, transport: &Transport<'_>) -> bool {
        match *transport {
            Transport::Ports(_, destination) => self.ports.contains(destination),
            Transport::Icmp(_) => true,
            // Somewhere in there is a port, or something of the kind.
            Transport::Fragment | Transport::Other => self.ports.is_all(),
        }
    }
}
