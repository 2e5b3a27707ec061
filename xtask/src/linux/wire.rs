//! A second opinion about the frames between two cards: `etherparse` reads the capture and checks every checksum.

use anyhow::{Context, Result, ensure};
use core::fmt;
use etherparse::{IpNumber, Ipv4Header, NetSlice, SlicedPacket, TransportSlice, VlanSlice};
use std::{
    fs::File,
    io::{BufReader, ErrorKind, Read},
    path::Path,
};

/// The VLAN that the guest uses; 0 is what a driver adds for priorities.
const VLAN: u16 = 5;

/// Longest frame with 9,000 bytes of IP and a tag.
const LONGEST: usize = 9018;

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Wire {
    frames: u64,
    checksums: u64,
    tagged: u64,
    /// The first few frames that are not as they should be.
    wrong: Vec<String>,
    wrongs: u64,
}

impl Wire {
    /// Reads the capture at `path`, where frames have at least `shortest` bytes.
    pub(super) fn read(path: &Path, shortest: usize) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("no {}", path.display()))?;
        let mut file = BufReader::new(file);
        let mut header = [0; 24];
        file.read_exact(&mut header)?;
        ensure!(
            header[..4] == [0x4d, 0x3c, 0xb2, 0xa1],
            "{} is no capture",
            path.display()
        );
        let mut wire = Self::default();
        while let Some(frame) = next(&mut file)? {
            wire.look_at(&frame, shortest);
        }
        Ok(wire)
    }

    /// Sentences about what is wrong; where VLANs were tried (`tags`), some frame has to have a tag.
    pub(super) fn failures(&self, tags: bool) -> Vec<String> {
        let mut failures = self.wrong.clone();
        if self.wrongs > self.wrong.len() as u64 {
            failures.push(format!("{} frames on the wire are wrong", self.wrongs));
        }
        if tags && self.tagged == 0 {
            failures.push("no frame on the wire has a VLAN tag".to_owned());
        }
        failures
    }

    fn look_at(&mut self, frame: &[u8], shortest: usize) {
        self.frames += 1;
        match check(frame, shortest) {
            Ok(Seen { checksums, tagged }) => {
                self.checksums += checksums;
                self.tagged += u64::from(tagged);
            }
            Err(error) => {
                self.wrongs += 1;
                if self.wrong.len() < 5 {
                    self.wrong
                        .push(format!("frame {} on the wire: {error}", self.frames));
                }
            }
        }
    }
}

impl fmt::Display for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "on the wire: {} frames, {} checksums right, {} frames tagged",
            self.frames, self.checksums, self.tagged
        )
    }
}

/// What a frame has.
struct Seen {
    checksums: u64,
    tagged: bool,
}

/// Checks one frame.
fn check(frame: &[u8], shortest: usize) -> Result<Seen> {
    ensure!(frame.len() >= shortest, "{} bytes", frame.len());
    ensure!(frame.len() <= LONGEST, "{} bytes", frame.len());
    let packet = SlicedPacket::from_ethernet(frame).context("no parser can read it")?;
    let mut seen = Seen {
        checksums: 0,
        tagged: false,
    };
    if let Some(VlanSlice::SingleVlan(tag)) = packet.vlan() {
        let id = tag.vlan_identifier().value();
        ensure!(id == VLAN || id == 0, "VLAN {id}");
        seen.tagged = true;
    }
    match &packet.net {
        Some(NetSlice::Ipv4(ip)) => {
            let header = ip.header().to_header();
            let right = header.calc_header_checksum();
            ensure!(header.header_checksum == right, "checksum of IPv4");
            let transport = transport_of_ipv4(&header, packet.transport.as_ref())?;
            seen.checksums = 1 + transport;
        }
        Some(NetSlice::Ipv6(ip)) => {
            let header = ip.header();
            let addresses = [header.source(), header.destination()];
            seen.checksums = transport_of_ipv6(addresses, packet.transport.as_ref())?;
        }
        _ => {}
    }
    Ok(seen)
}

/// Whether two checksums are the same number: in ones' complement zero has two forms (RFC 1071), and Linux as well as
/// cards store the other one than `etherparse` computes.
const fn is_same(one: u16, other: u16) -> bool {
    one == other || one == !other && (one == 0 || other == 0)
}

/// How many checksums the transport has; all are right.
fn transport_of_ipv4(ip: &Ipv4Header, transport: Option<&TransportSlice<'_>>) -> Result<u64> {
    let (stated, right) = match transport {
        Some(TransportSlice::Tcp(tcp)) => (
            tcp.checksum(),
            tcp.to_header()
                .calc_checksum_ipv4_raw(ip.source, ip.destination, tcp.payload())?,
        ),
        Some(TransportSlice::Udp(udp)) if udp.checksum() != 0 => (
            udp.checksum(),
            udp.to_header()
                .calc_checksum_ipv4_raw(ip.source, ip.destination, udp.payload())?,
        ),
        _ => return Ok(0),
    };
    ensure!(
        ip.protocol == IpNumber::TCP || ip.protocol == IpNumber::UDP,
        "another protocol"
    );
    ensure!(
        is_same(stated, right),
        "checksum of the transport over IPv4: {stated:#06x}, not {right:#06x}"
    );
    Ok(1)
}

fn transport_of_ipv6(
    [source, destination]: [[u8; 16]; 2],
    transport: Option<&TransportSlice<'_>>,
) -> Result<u64> {
    let (stated, right) = match transport {
        Some(TransportSlice::Tcp(tcp)) => (
            tcp.checksum(),
            tcp.to_header()
                .calc_checksum_ipv6_raw(source, destination, tcp.payload())?,
        ),
        Some(TransportSlice::Udp(udp)) => (
            udp.checksum(),
            udp.to_header()
                .calc_checksum_ipv6_raw(source, destination, udp.payload())?,
        ),
        _ => return Ok(0),
    };
    ensure!(
        is_same(stated, right),
        "checksum of the transport over IPv6: {stated:#06x}, not {right:#06x}"
    );
    Ok(1)
}

/// The next frame of a capture in the classic format, little-endian.
fn next(file: &mut impl Read) -> Result<Option<Vec<u8>>> {
    let mut header = [0; 16];
    match file.read_exact(&mut header) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let [a, b, c, d] = [header[8], header[9], header[10], header[11]];
    let len = u32::from_le_bytes([a, b, c, d]) as usize;
    ensure!(len <= 0x4_0000, "a frame of {len} bytes in the capture");
    let mut frame = vec![0; len];
    file.read_exact(&mut frame)?;
    Ok(Some(frame))
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;

    fn frame() -> Vec<u8> {
        let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
            .ipv4([10, 9, 0, 1], [10, 9, 0, 2], 64)
            .tcp(1, 2, 3, 4);
        let mut frame = Vec::new();
        builder.write(&mut frame, &[7; 100]).unwrap();
        frame
    }

    #[test]
    fn zero_has_two_forms() {
        assert!(is_same(0, 0xffff) && is_same(0xffff, 0) && is_same(7, 7));
        assert!(!is_same(0x00ff, 0xff00) && !is_same(0, 1));
    }

    #[test]
    fn every_wrong_byte_behind_the_addresses_is_found() {
        assert_eq!(check(&frame(), 60).unwrap().checksums, 2);
        // What is covered by a checksum: from the length of the IPv4 packet on.
        for at in 16..frame().len() {
            let mut wrong = frame();
            wrong[at] ^= 0x10;
            let found = check(&wrong, 60).map_or(true, |seen| seen.checksums < 2);
            assert!(found, "byte {at}");
        }
    }
}
