//! What a device is told of a frame's headers.

use super::{
    Protocol,
    frame::{Frame, IPV4, IPV6, TCP, UDP},
};
use crate::validate::SpoofedField;

/// The version of IP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IpVersion {
    /// Version 4.
    V4,
    /// Version 6.
    V6,
}

/// The headers at the start of a frame, as a device is told of them that writes checksums and lengths of segments there.
///
/// Who sends chooses these numbers. Ones that are not the frame's would have the device write over an address after that was
/// checked: an IPv4 checksum 10 bytes behind a header that is said to begin two bytes late lands in the source address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layers {
    /// Bytes of the Ethernet header, tags included.
    pub link_len: usize,
    /// The version of IP.
    pub ip: IpVersion,
    /// Bytes of the IP header.
    pub ip_len: usize,
    /// The transport protocol, where the device writes into its header.
    pub transport: Option<Protocol>,
}

impl Layers {
    /// Checks that these are the headers of the frame with these first bytes. Frames with extension headers have none that can be
    /// told.
    ///
    /// # Errors
    ///
    /// [`SpoofedField::Layers`] where they are not, or the frame's cannot be told.
    pub fn check(&self, head: &[u8]) -> Result<(), SpoofedField> {
        let wrong = SpoofedField::Layers;
        let frame = Frame::parse(head).map_err(|_| wrong)?;
        let byte = |at: usize| frame.payload.get(at).copied().ok_or(wrong);
        let (ip, ip_len, protocol) = match frame.ether_type {
            IPV4 => (IpVersion::V4, usize::from(byte(0)? & 0xf) * 4, byte(9)?),
            IPV6 => (IpVersion::V6, 40, byte(6)?),
            _ => return Err(wrong),
        };
        let is_transport = match self.transport {
            None => true,
            Some(Protocol::Tcp) => protocol == TCP,
            Some(Protocol::Udp) => protocol == UDP,
        };
        let link_len = head.len() - frame.payload.len();
        if (self.link_len, self.ip, self.ip_len) == (link_len, ip, ip_len) && is_transport {
            Ok(())
        } else {
            Err(wrong)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An Ethernet header, tagged or not, an IP header of `ip_len` bytes, and a transport header.
    fn head(tagged: bool, version: u8, ip_len: usize, protocol: u8) -> Vec<u8> {
        let mut head = vec![2; 12];
        if tagged {
            head.extend([0x81, 0, 0, 5]);
        }
        head.extend(if version == 4 { [8, 0] } else { [0x86, 0xdd] });
        let start = head.len();
        head.resize(start + ip_len + 20, 0);
        if version == 4 {
            head[start] = 0x40 | u8::try_from(ip_len / 4).unwrap();
            head[start + 9] = protocol;
        } else {
            head[start] = 0x60;
            head[start + 6] = protocol;
        }
        head
    }

    #[test]
    fn only_the_frames_own_headers_pass() {
        let frames = [
            (14, IpVersion::V4, 20, Protocol::Udp),
            (18, IpVersion::V4, 20, Protocol::Tcp),
            (14, IpVersion::V4, 60, Protocol::Tcp),
            (14, IpVersion::V6, 40, Protocol::Udp),
            (18, IpVersion::V6, 40, Protocol::Tcp),
        ];
        let mut passed = 0;
        for (link, ip, len, protocol) in frames {
            let version = if ip == IpVersion::V4 { 4 } else { 6 };
            let number = if protocol == Protocol::Tcp { 6 } else { 17 };
            let head = head(link == 18, version, len, number);
            for link_len in 0..128 {
                for claimed in [IpVersion::V4, IpVersion::V6] {
                    for ip_len in 0..512 {
                        for transport in [None, Some(Protocol::Tcp), Some(Protocol::Udp)] {
                            let layers = Layers {
                                link_len,
                                ip: claimed,
                                ip_len,
                                transport,
                            };
                            let is_own = (link_len, claimed, ip_len) == (link, ip, len)
                                && transport.is_none_or(|it| it == protocol);
                            assert_eq!(layers.check(&head).is_ok(), is_own, "{layers:?}");
                            passed += u32::from(is_own);
                        }
                    }
                }
            }
        }
        assert_eq!(passed, 10, "each with and without a transport header");
    }

    #[test]
    fn headers_that_cannot_be_told_do_not_pass() {
        let layers = Layers {
            link_len: 14,
            ip: IpVersion::V4,
            ip_len: 20,
            transport: None,
        };
        let whole = head(false, 4, 20, 17);
        for len in 0..24 {
            assert_eq!(layers.check(&whole[..len]), Err(SpoofedField::Layers));
        }
        assert!(layers.check(&whole[..24]).is_ok(), "all that is looked at");
        let mut arp = whole;
        arp[13] = 6;
        assert_eq!(layers.check(&arp), Err(SpoofedField::Layers));
    }
}
