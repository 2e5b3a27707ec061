//! The headers of a frame, as far as steering needs them. Every byte comes from a peer or from a process.

use core::net::{Ipv4Addr, Ipv6Addr};

use super::{Mac, Vlan};

pub(super) const IPV4: u16 = 0x0800;
pub(super) const ARP: u16 = 0x0806;
pub(super) const IPV6: u16 = 0x86dd;
/// A customer VLAN tag, IEEE 802.1Q.
const TAG: u16 = 0x8100;
/// Other tags: service VLANs (IEEE 802.1ad) and what switches used before it.
const OTHER_TAGS: [u16; 3] = [0x88a8, 0x9100, 0x9200];

const ICMP: u8 = 1;
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
const ICMPV6: u8 = 58;

/// Why a frame is not understood: nothing can be said of what it might mean to others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Unclear {
    /// A header is cut short, or its lengths contradict each other.
    Truncated,
    /// More than one tag, or one of another kind, or an id that is none.
    Tags,
}

/// A frame with its Ethernet header read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame<'b> {
    pub(super) destination: Mac,
    pub(super) source: Mac,
    pub(super) vlan: Option<Vlan>,
    pub(super) ether_type: u16,
    pub(super) payload: &'b [u8],
}

impl<'b> Frame<'b> {
    pub(super) fn parse(bytes: &'b [u8]) -> Result<Self, Unclear> {
        let (destination, rest) = take::<6>(bytes)?;
        let (source, rest) = take::<6>(rest)?;
        let (mut ether_type, mut payload) = take_u16(rest)?;
        let mut vlan = None;
        if ether_type == TAG {
            let (control, rest) = take_u16(payload)?;
            vlan = Some(Vlan::new(control & 0xfff).ok_or(Unclear::Tags)?);
            (ether_type, payload) = take_u16(rest)?;
        }
        if ether_type == TAG || OTHER_TAGS.contains(&ether_type) {
            return Err(Unclear::Tags);
        }
        Ok(Self {
            destination: Mac(destination),
            source: Mac(source),
            vlan,
            ether_type,
            payload,
        })
    }
}

/// An ARP message for IPv4 over Ethernet, RFC 826.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arp {
    pub(super) is_request: bool,
    pub(super) sender_mac: Mac,
    pub(super) sender: Ipv4Addr,
    pub(super) target: Ipv4Addr,
}

impl Arp {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Unclear> {
        /// Ethernet, IPv4, and their address lengths.
        const KIND: [u8; 6] = [0, 1, 8, 0, 6, 4];
        let (kind, rest) = take::<6>(bytes)?;
        let (operation, rest) = take_u16(rest)?;
        let (sender_mac, rest) = take::<6>(rest)?;
        let (sender, rest) = take::<4>(rest)?;
        let (_, rest) = take::<6>(rest)?;
        let (target, _) = take::<4>(rest)?;
        if kind != KIND || !(1..=2).contains(&operation) {
            return Err(Unclear::Truncated);
        }
        Ok(Self {
            is_request: operation == 1,
            sender_mac: Mac(sender_mac),
            sender: sender.into(),
            target: target.into(),
        })
    }
}

/// What an IP packet carries, as far as it can be told without guessing.
#[derive(Clone, Copy, Debug)]
pub(super) enum Transport<'b> {
    /// TCP or UDP, with source and destination port.
    Ports(u16, u16),
    /// ICMP, or `ICMPv6`, with its message.
    Icmp(&'b [u8]),
    /// A fragment, first ones included: the others have no ports.
    Fragment,
    /// Another protocol.
    Other,
}

/// An IPv4 packet, RFC 791.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ipv4<'b> {
    pub(super) source: Ipv4Addr,
    pub(super) destination: Ipv4Addr,
    pub(super) has_options: bool,
    pub(super) transport: Transport<'b>,
}

impl<'b> Ipv4<'b> {
    /// Reads the header from the first bytes of a packet; `whole` where all bytes of the packet should be there.
    pub(super) fn parse(bytes: &'b [u8], whole: Whole) -> Result<Self, Unclear> {
        let (header, _) = take::<20>(bytes)?;
        let [version_and_length, _, len_high, len_low, ..] = header;
        let header_len = usize::from(version_and_length & 0xf) * 4;
        let total = usize::from(u16::from_be_bytes([len_high, len_low]));
        let is_long_enough = whole == Whole::No || total <= bytes.len();
        if version_and_length >> 4 != 4 || header_len < 20 || total < header_len || !is_long_enough
        {
            return Err(Unclear::Truncated);
        }
        let end = total.min(bytes.len());
        let payload = bytes.get(header_len..end).ok_or(Unclear::Truncated)?;
        let fragment = u16::from_be_bytes([header[6], header[7]]);
        // More fragments, or an offset.
        let transport = if fragment & 0x3fff != 0 {
            Transport::Fragment
        } else {
            transport(header[9], payload, ICMP, whole)?
        };
        Ok(Self {
            source: Ipv4Addr::new(header[12], header[13], header[14], header[15]),
            destination: Ipv4Addr::new(header[16], header[17], header[18], header[19]),
            has_options: header_len > 20,
            transport,
        })
    }
}

/// Whether a packet's bytes are all there, or only the first of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Whole {
    Yes,
    No,
}

/// An IPv6 packet, RFC 8200.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ipv6<'b> {
    pub(super) source: Ipv6Addr,
    pub(super) destination: Ipv6Addr,
    /// Whether something stands between the header and the transport: there, anything could hide.
    pub(super) has_extensions: bool,
    pub(super) transport: Transport<'b>,
}

impl<'b> Ipv6<'b> {
    /// As [`Ipv4::parse`].
    pub(super) fn parse(bytes: &'b [u8], whole: Whole) -> Result<Self, Unclear> {
        /// Hop-by-hop options, routing, fragment, encapsulated security, authentication, destination options,
        /// mobility, host identity, shim, and two for experiments: RFC 7045 section 4.
        const EXTENSIONS: [u8; 11] = [0, 43, 44, 50, 51, 60, 135, 139, 140, 253, 254];
        let (start, rest) = take::<8>(bytes)?;
        let (source, rest) = take::<16>(rest)?;
        let (destination, rest) = take::<16>(rest)?;
        let [version, _, _, _, len_high, len_low, next, _] = start;
        let len = usize::from(u16::from_be_bytes([len_high, len_low]));
        if version >> 4 != 6 || (whole == Whole::Yes && len > rest.len()) {
            return Err(Unclear::Truncated);
        }
        let has_extensions = EXTENSIONS.contains(&next);
        let payload = &rest[..len.min(rest.len())];
        let transport = if has_extensions {
            Transport::Other
        } else {
            transport(next, payload, ICMPV6, whole)?
        };
        Ok(Self {
            source: source.into(),
            destination: destination.into(),
            has_extensions,
            transport,
        })
    }
}

/// A message of neighbour discovery, RFC 4861.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Discovery {
    /// Somebody looks for a router.
    RouterSolicitation,
    /// Somebody looks for, or announces, the owner of this address.
    Neighbour {
        target: Ipv6Addr,
        is_advertisement: bool,
    },
    /// Somebody says that it is a router, or knows a better way.
    Router,
}

impl Discovery {
    /// The message, or `None` where it is `ICMPv6` of another kind.
    pub(super) fn parse(message: &[u8]) -> Result<Option<Self>, Unclear> {
        let (kind, _) = take::<1>(message)?;
        Ok(match kind[0] {
            133 => Some(Self::RouterSolicitation),
            134 | 137 => Some(Self::Router),
            135 | 136 => {
                let (_, rest) = take::<8>(message)?;
                let (target, _) = take::<16>(rest)?;
                Some(Self::Neighbour {
                    target: target.into(),
                    is_advertisement: kind[0] == 136,
                })
            }
            _ => None,
        })
    }

    /// The link-layer addresses that the options of the message give, RFC 4861 section 4.6.1.
    pub(super) fn link_addresses(message: &[u8]) -> impl Iterator<Item = Result<Mac, Unclear>> {
        let fixed = if message.first() == Some(&133) { 8 } else { 24 };
        let mut rest = message.get(fixed..).unwrap_or(&[]);
        core::iter::from_fn(move || {
            while !rest.is_empty() {
                let option = rest;
                let units = usize::from(*option.get(1).unwrap_or(&0));
                if units == 0 || units * 8 > option.len() {
                    rest = &[];
                    return Some(Err(Unclear::Truncated));
                }
                rest = &option[units * 8..];
                if let [1 | 2, 1, a, b, c, d, e, f, ..] = *option {
                    return Some(Ok(Mac([a, b, c, d, e, f])));
                }
                if matches!(option[0], 1 | 2) {
                    return Some(Err(Unclear::Truncated));
                }
            }
            None
        })
    }
}

/// Reads the ports where the header around them makes sense; who would not accept it would not see ports either.
fn transport(
    protocol: u8,
    payload: &[u8],
    icmp: u8,
    whole: Whole,
) -> Result<Transport<'_>, Unclear> {
    let (header_len, claimed) = match protocol {
        TCP => {
            let (header, _) = take::<20>(payload)?;
            (20, usize::from(header[12] >> 4) * 4)
        }
        UDP => {
            let (header, _) = take::<8>(payload)?;
            (8, usize::from(u16::from_be_bytes([header[4], header[5]])))
        }
        _ if protocol == icmp => return Ok(Transport::Icmp(payload)),
        _ => return Ok(Transport::Other),
    };
    if claimed < header_len || (whole == Whole::Yes && claimed > payload.len()) {
        return Err(Unclear::Truncated);
    }
    let (source, rest) = take_u16(payload)?;
    let (destination, _) = take_u16(rest)?;
    Ok(Transport::Ports(source, destination))
}

fn take<const N: usize>(bytes: &[u8]) -> Result<([u8; N], &[u8]), Unclear> {
    let (first, rest) = bytes.split_first_chunk().ok_or(Unclear::Truncated)?;
    Ok((*first, rest))
}

fn take_u16(bytes: &[u8]) -> Result<(u16, &[u8]), Unclear> {
    let (first, rest) = take(bytes)?;
    Ok((u16::from_be_bytes(first), rest))
}
