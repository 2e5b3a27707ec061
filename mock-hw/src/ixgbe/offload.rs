//! Checksums, segmentation and tags of frames that are sent (82599, 7.2.4 and 7.2.5).

use super::packet::crc32c;
use crate::frame::{big16, fold, sum};

/// What a context descriptor says (7.2.3.2.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Context {
    pub(super) vlan: u16,
    pub(super) mac_len: usize,
    pub(super) ip_len: usize,
    pub(super) l4_len: usize,
    pub(super) mss: usize,
    pub(super) is_ipv4: bool,
    /// 0 UDP, 1 TCP, 2 SCTP.
    pub(super) l4: u8,
}

impl Context {
    pub(super) fn decode(low: u64, high: u64) -> Self {
        let field = |word: u64, shift: u32, bits: u32| {
            usize::try_from(word >> shift & ((1 << bits) - 1)).unwrap_or(0)
        };
        Self {
            vlan: u16::try_from(low >> 16 & 0xffff).unwrap_or(0),
            mac_len: field(low, 9, 7),
            ip_len: field(low, 0, 9),
            l4_len: field(high, 40, 8),
            mss: field(high, 48, 16),
            is_ipv4: high >> 10 & 1 == 1,
            l4: u8::try_from(high >> 11 & 3).unwrap_or(0),
        }
    }

    const fn l4_start(&self) -> usize {
        self.mac_len + self.ip_len
    }

    const fn header_len(&self) -> usize {
        self.l4_start() + self.l4_len
    }

    /// Where the checksum lies in the transport header.
    const fn checksum_offset(&self) -> usize {
        match self.l4 {
            0 => 6,
            1 => 16,
            _ => 8,
        }
    }
}

/// Which checksums to insert.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Insert {
    pub(super) ip: bool,
    pub(super) l4: bool,
}

/// Inserts the checksums; an error says which header does not lie in the frame.
pub(super) fn checksums(
    frame: &mut [u8],
    context: &Context,
    insert: Insert,
) -> Result<(), &'static str> {
    if insert.ip && context.is_ipv4 {
        let header = frame
            .get_mut(context.mac_len..context.l4_start())
            .filter(|header| header.len() >= 20)
            .ok_or("IP checksum beyond the frame")?;
        ip_checksum(header);
    }
    if insert.l4 {
        let segment = frame
            .get_mut(context.l4_start()..)
            .filter(|segment| segment.len() >= context.checksum_offset() + 4)
            .ok_or("transport checksum beyond the frame")?;
        l4_checksum(segment, context);
    }
    Ok(())
}

fn ip_checksum(header: &mut [u8]) {
    header[10..12].fill(0);
    let value = !fold(sum(header));
    header[10..12].copy_from_slice(&value.to_be_bytes());
}

/// Software left the sum of the pseudo header in the field; for SCTP, which has none, anything.
fn l4_checksum(segment: &mut [u8], context: &Context) {
    let at = context.checksum_offset();
    if context.l4 == 2 {
        segment[at..at + 4].fill(0);
        let value = crc32c(segment);
        segment[at..at + 4].copy_from_slice(&value.to_le_bytes());
        return;
    }
    let mut value = !fold(sum(segment));
    if value == 0 && context.l4 == 0 {
        value = 0xffff;
    }
    segment[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// The TCP flags that stay in the first, a middle and the last segment (DTXTCPFLGL, DTXTCPFLGH).
#[derive(Clone, Copy, Debug)]
pub(super) struct FlagMasks {
    pub(super) first: u16,
    pub(super) middle: u16,
    pub(super) last: u16,
}

/// Cuts `frame` into segments, each with its own headers; an error says what is wrong with the request.
pub(super) fn segments(
    frame: &[u8],
    context: &Context,
    insert: Insert,
    flags: FlagMasks,
) -> Result<Vec<Vec<u8>>, &'static str> {
    let header_len = context.header_len();
    let least = if context.l4 == 1 { 20 } else { 8 };
    if context.l4 > 1 || context.l4_len < least || context.ip_len < 20 || context.mac_len < 14 {
        return Err("segmentation with impossible header lengths");
    }
    if context.mss == 0 || frame.len() <= header_len {
        return Err("segmentation without MSS or payload");
    }
    let (header, payload) = frame.split_at(header_len);
    let count = payload.len().div_ceil(context.mss);
    let mut segments = Vec::with_capacity(count);
    for (n, part) in payload.chunks(context.mss).enumerate() {
        let mut segment = header.to_vec();
        segment.extend_from_slice(part);
        lengths(&mut segment, context, n);
        if context.l4 == 1 {
            let mask = match n {
                _ if n + 1 == count => flags.last,
                0 => flags.first,
                _ => flags.middle,
            };
            tcp(&mut segment[context.l4_start()..], n * context.mss, mask);
        }
        finish(&mut segment, context, insert)?;
        segments.push(segment);
    }
    Ok(segments)
}

/// The lengths and the identification of one segment.
fn lengths(segment: &mut [u8], context: &Context, n: usize) {
    let (ip, l4) = (context.mac_len, context.l4_start());
    let len = |from: usize| {
        u16::try_from(segment.len() - from)
            .unwrap_or(u16::MAX)
            .to_be_bytes()
    };
    let (total, l4_len) = (len(ip), len(l4));
    if context.is_ipv4 {
        segment[ip + 2..ip + 4].copy_from_slice(&total);
        let number = u16::try_from(n & 0xffff).unwrap_or(0);
        let id = big16(segment, ip + 4).wrapping_add(number);
        segment[ip + 4..ip + 6].copy_from_slice(&id.to_be_bytes());
    } else {
        let payload = u16::try_from(segment.len() - ip - 40.min(segment.len() - ip));
        let payload = payload.unwrap_or(u16::MAX).to_be_bytes();
        segment[ip + 4..ip + 6].copy_from_slice(&payload);
    }
    if context.l4 == 0 {
        segment[l4 + 4..l4 + 6].copy_from_slice(&l4_len);
    }
}

/// Sequence number and flags of one segment.
fn tcp(header: &mut [u8], offset: usize, mask: u16) {
    let mut sequence = [0; 4];
    sequence.copy_from_slice(&header[4..8]);
    let offset = u32::try_from(offset).unwrap_or(0);
    let sequence = u32::from_be_bytes(sequence).wrapping_add(offset);
    header[4..8].copy_from_slice(&sequence.to_be_bytes());
    let flags = big16(header, 12) & (0xf000 | mask & 0x0fff);
    header[12..14].copy_from_slice(&flags.to_be_bytes());
}

/// The checksums of one segment: the pseudo header's sum in the field has no length yet.
fn finish(segment: &mut [u8], context: &Context, insert: Insert) -> Result<(), &'static str> {
    if insert.l4 {
        let l4 = context.l4_start();
        let len = u32::try_from(segment.len() - l4).unwrap_or(0);
        let at = l4 + context.checksum_offset();
        let with_len = fold(u32::from(big16(segment, at)) + len);
        segment[at..at + 2].copy_from_slice(&with_len.to_be_bytes());
    }
    checksums(segment, context, insert)
}

/// Inserts a VLAN tag behind the addresses.
pub(super) fn insert_tag(frame: &mut Vec<u8>, kind: u16, tag: u16) {
    if frame.len() >= 12 {
        let [a, b] = kind.to_be_bytes();
        let [c, d] = tag.to_be_bytes();
        frame.splice(12..12, [a, b, c, d]);
    }
}
