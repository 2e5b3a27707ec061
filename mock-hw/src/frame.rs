//! What a network device reads from a frame: addresses, ports and checksums, strictly within its bytes.

use crate::bytes::array_at;

/// What a frame says of where it comes from and goes to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Headers {
    /// The VLAN id of the first tag.
    pub(crate) vlan: Option<u16>,
    /// Source address, then destination address: 8 bytes for IPv4, 32 for IPv6, none otherwise.
    pub(crate) addresses: Vec<u8>,
    /// TCP (6) or UDP (17), where the frame is no fragment and both ports lie in it.
    pub(crate) protocol: Option<u8>,
    /// Source port, then destination port.
    pub(crate) ports: [u8; 4],
    /// Where the transport header starts, and where the packet ends.
    pub(crate) transport: usize,
    pub(crate) end: usize,
}

impl Headers {
    pub(crate) fn parse(frame: &[u8]) -> Self {
        let mut headers = Self::default();
        let mut at = 12;
        let mut kind = big16(frame, at);
        if kind == 0x8100 {
            headers.vlan = Some(big16(frame, at + 2) & 0xfff);
            at += 4;
            kind = big16(frame, at);
        }
        let start = at + 2;
        match kind {
            0x0800 => headers.ipv4(frame, start),
            0x86dd => headers.ipv6(frame, start),
            _ => {}
        }
        headers
    }

    fn ipv4(&mut self, frame: &[u8], start: usize) {
        let Some(header) = frame.get(start..start + 20) else {
            return;
        };
        let header_len = usize::from(header[0] & 0xf) * 4;
        let total = usize::from(big16(header, 2));
        if header[0] >> 4 != 4
            || header_len < 20
            || total < header_len
            || start + total > frame.len()
        {
            return;
        }
        self.addresses = header[12..20].to_vec();
        let fragment = big16(header, 6) & 0x3fff != 0;
        self.finish(
            frame,
            start + header_len,
            start + total,
            (!fragment).then_some(header[9]),
        );
    }

    fn ipv6(&mut self, frame: &[u8], start: usize) {
        let Some(header) = frame.get(start..start + 40) else {
            return;
        };
        let end = start + 40 + usize::from(big16(header, 4));
        if header[0] >> 4 != 6 || end > frame.len() {
            return;
        }
        self.addresses = header[8..40].to_vec();
        // Behind an extension header the model does not look.
        self.finish(frame, start + 40, end, Some(header[6]));
    }

    fn finish(&mut self, frame: &[u8], transport: usize, end: usize, protocol: Option<u8>) {
        (self.transport, self.end) = (transport, end);
        let header_len = if protocol == Some(6) { 20 } else { 8 };
        if matches!(protocol, Some(6 | 17)) && transport + header_len <= end {
            self.protocol = protocol;
            self.ports = array_at(frame, transport);
        }
    }

    /// Whether the transport checksum is there and right; `None` where there is none to check.
    pub(crate) fn checksum_is_right(&self, frame: &[u8]) -> Option<bool> {
        let protocol = self.protocol?;
        let segment = frame.get(self.transport..self.end)?;
        if protocol == 17 && big16(segment, 6) == 0 {
            return None;
        }
        let pseudo =
            sum(&self.addresses) + u32::from(protocol) + u32::try_from(segment.len()).ok()?;
        Some(fold(pseudo + sum(segment)) == 0xffff)
    }
}

/// The ones' complement checksum of `bytes`, to be stored as it is.
pub(crate) fn checksum(bytes: &[u8]) -> u16 {
    !fold(sum(bytes))
}

pub(crate) fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|pair| u32::from(big16(pair, 0))).sum()
}

pub(crate) fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap_or(0)
}

pub(crate) fn big16(bytes: &[u8], offset: usize) -> u16 {
    u16::from_be_bytes(array_at(bytes, offset))
}

/// The Toeplitz hash of `input`: for each bit that is set, the 32 bits of the key from there on.
pub(crate) fn toeplitz(key: &[u8], input: &[u8]) -> u32 {
    let bit = |bytes: &[u8], n: usize| {
        bytes
            .get(n / 8)
            .is_some_and(|byte| byte >> (7 - n % 8) & 1 == 1)
    };
    let mut window = u32::from_be_bytes(array_at(key, 0));
    let mut hash = 0;
    for n in 0..8 * input.len() {
        if bit(input, n) {
            hash ^= window;
        }
        window = window << 1 | u32::from(bit(key, n + 32));
    }
    hash
}

/// The key that the published examples of RSS hashes use.
#[cfg(test)]
const KEY: [u8; 40] = [
    0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0,
    0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c,
    0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn toeplitz_gives_the_published_values() {
        // Source 66.9.149.187:2794, destination 161.142.100.80:1766.
        let addresses = [66, 9, 149, 187, 161, 142, 100, 80];
        assert_eq!(toeplitz(&KEY, &addresses), 0x323e_8fc2);
        let mut with_ports = addresses.to_vec();
        with_ports.extend(2794_u16.to_be_bytes());
        with_ports.extend(1766_u16.to_be_bytes());
        assert_eq!(toeplitz(&KEY, &with_ports), 0x51cc_c178);
    }

    #[test]
    fn a_cut_frame_has_no_addresses_beyond_its_end() {
        let mut frame = vec![0; 14 + 20 + 8];
        frame[12] = 0x08;
        frame[14] = 0x45;
        frame[17] = 28;
        frame[23] = 17;
        let whole = Headers::parse(&frame);
        assert_eq!((whole.addresses.len(), whole.protocol), (8, Some(17)));
        for len in 0..frame.len() {
            let cut = Headers::parse(&frame[..len]);
            assert_eq!((cut.addresses.len(), cut.protocol), (0, None), "{len}");
        }
        frame[20] = 0x20;
        assert_eq!(Headers::parse(&frame).protocol, None);
    }

    #[test]
    fn a_checksum_is_right_after_it_was_stored() {
        let mut frame = vec![0; 14 + 20 + 9];
        frame[12] = 0x08;
        frame[14] = 0x45;
        frame[17] = 29;
        frame[23] = 17;
        frame[42] = 0xab;
        let headers = Headers::parse(&frame);
        assert_eq!(headers.checksum_is_right(&frame), None);
        let pseudo = fold(sum(&headers.addresses) + 17 + 9);
        frame[40..42].copy_from_slice(&pseudo.to_be_bytes());
        let value = checksum(&frame[34..43]);
        frame[40..42].copy_from_slice(&value.to_be_bytes());
        assert_eq!(headers.checksum_is_right(&frame), Some(true));
        frame[42] ^= 1;
        assert_eq!(headers.checksum_is_right(&frame), Some(false));
    }
}
