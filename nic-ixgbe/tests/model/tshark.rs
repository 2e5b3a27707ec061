//! What the card makes of packets, as `tshark` reads it: a third opinion, of a program that many look at wires with.

use std::{fs, io::ErrorKind, path::PathBuf, process::Command};

use parakernel_core::queue::TxQueue;
use parakernel_mock_hw::memory::Lease;
use parakernel_nic_ixgbe::{device::Pair, offload::Metadata};

use crate::packets::{Net, Offload, Outgoing, Packet, Transport};
use crate::rig::{JUMBO, Machine, claim};

/// Checksums as `tshark` judges them.
const BAD: &str = "0";
const GOOD: &str = "1";

/// Packets of all kinds, whose checksums are the card's work.
fn packets() -> Vec<Outgoing> {
    let mut packets = Vec::new();
    for net in [Net::V4, Net::V6] {
        for (transport, offload) in [
            (Transport::Udp, Offload::Sums),
            (Transport::Tcp, Offload::Sums),
            (Transport::Tcp, Offload::Segments(701)),
        ] {
            for tag in [None, Some(0x0064), Some(0xE001)] {
                for len in [19_usize, 700, 1402, 5000] {
                    let packet = Packet {
                        macs: [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]],
                        net,
                        addresses: [[10, 0, 0, 1], [10, 0, 0, 2]],
                        transport,
                        port: 2000,
                        payload: (0..len).map(|n| (n * 7) as u8).collect(),
                    };
                    packets.push(Outgoing {
                        packet,
                        offload,
                        tag,
                    });
                }
            }
        }
    }
    packets
}

/// A capture file (pcap, Ethernet) of these frames.
fn capture(frames: &[Vec<u8>]) -> PathBuf {
    let mut bytes = Vec::new();
    let header = [0xA1B2_C3D4, 0x0004_0002, 0, 0, 65_535, 1_u32];
    bytes.extend(header.iter().flat_map(|word| word.to_le_bytes()));
    for frame in frames {
        let len = frame.len() as u32;
        let record = [0, 0, len, len];
        bytes.extend(record.iter().flat_map(|word| word.to_le_bytes()));
        bytes.extend(frame);
    }
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("ixgbe.pcap");
    fs::write(&path, bytes).unwrap();
    path
}

/// A line for each frame: tag, IP version, and what checksums are; `None` where there is no `tshark`.
fn read(path: &PathBuf) -> Option<Vec<String>> {
    let mut command = Command::new("tshark");
    command.arg("-r").arg(path).args(["-T", "fields"]);
    for protocol in ["ip", "udp", "tcp"] {
        let wish = format!("{protocol}.check_checksum:TRUE");
        command.args(["-o", &wish]);
    }
    for field in ["vlan.priority", "vlan.id", "ip.checksum.status"] {
        command.args(["-e", field]);
    }
    for field in ["udp.checksum.status", "tcp.checksum.status"] {
        command.args(["-e", field]);
    }
    let output = match command.output() {
        Err(error) if error.kind() == ErrorKind::NotFound => return None,
        output => output.unwrap(),
    };
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let lines = String::from_utf8(output.stdout).unwrap();
    Some(lines.lines().map(str::to_owned).collect())
}

/// What is to be said of a frame of a packet.
fn line(outgoing: &Outgoing, l4: &str) -> String {
    let number = |shift: u16, mask: u16| {
        let number = outgoing.tag.map(|tag| tag >> shift & mask);
        number.map_or(String::new(), |number| number.to_string())
    };
    let ip = match outgoing.packet.net {
        Net::V4 => GOOD,
        Net::V6 => "",
    };
    let (udp, tcp) = match outgoing.packet.transport {
        Transport::Udp => (l4, ""),
        Transport::Tcp => ("", l4),
    };
    let (priority, id) = (number(13, 7), number(0, 0xFFF));
    format!("{priority}\t{id}\t{ip}\t{udp}\t{tcp}")
}

#[test]
fn tshark_finds_tags_and_checksums_as_they_were_asked_for() {
    let machine = Machine::new(1);
    let mut pairs = [Pair::EMPTY; 1];
    let mut device = machine.with_link(JUMBO, &mut pairs);
    let mut owned = claim(&machine, &mut device, 0, (Lease(1), Metadata::Header)).unwrap();
    let (mut frames, mut expected) = (Vec::new(), Vec::new());
    for outgoing in packets() {
        let (bytes, header) = outgoing.given();
        assert!(owned.send_with(&bytes, 1000, header).unwrap());
        machine.settle();
        owned.tx.reclaim(&mut owned.pool).unwrap();
        let sent = machine.wire.take_all();
        assert_eq!(sent.len(), outgoing.expected().len());
        expected.extend(sent.iter().map(|_| line(&outgoing, GOOD)));
        frames.extend(sent);
    }
    // That one is judged wrong where it is.
    let packets = packets();
    let mut damaged = frames[0].clone();
    *damaged.get_mut(50).unwrap() ^= 1;
    frames.push(damaged);
    expected.push(line(&packets[0], BAD));
    match read(&capture(&frames)) {
        Some(lines) => assert_eq!(lines, expected),
        None => eprintln!("there is no tshark here, so it was not asked"),
    }
    machine.assert_clean();
}
