//! The 82599 model, driven register by register and descriptor by descriptor, with numbers from the datasheet.
#![expect(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test; numbers are cut to the width of the field that they go to"
)]

#[path = "ixgbe/agent.rs"]
mod agent;
#[path = "ixgbe/driver.rs"]
mod driver;
#[path = "ixgbe/properties.rs"]
mod properties;
#[path = "ixgbe/virtual_functions.rs"]
mod virtual_functions;

use core::time::Duration;

use driver::{Context, Driver, LEASE, RING, rx, tx};
use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice, VlanSlice};
use parakernel_core::mmio::Registers;
use parakernel_mock_hw::{
    fault::{Fault, When},
    trace::Kind,
    wire::Wire,
};

const HERE: [u8; 6] = [0x02, 0x1b, 0x21, 0, 0, 1];
const THERE: [u8; 6] = [0x02, 0, 0, 0, 0, 9];

fn udp(ports: [u16; 2], len: usize) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(THERE, HERE)
        .ipv4([10, 0, 0, 9], [10, 0, 0, 1], 64)
        .udp(ports[0], ports[1]);
    let mut frame = Vec::new();
    let payload: Vec<u8> = (0..len).map(|n| n as u8).collect();
    builder.write(&mut frame, &payload).unwrap();
    frame
}

fn tcp(len: usize) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(HERE, THERE)
        .ipv4([10, 0, 0, 1], [10, 0, 0, 9], 64)
        .tcp(1000, 2000, 77, 100)
        .psh();
    let mut frame = Vec::new();
    let payload: Vec<u8> = (0..len).map(|n| (n % 251) as u8).collect();
    builder.write(&mut frame, &payload).unwrap();
    frame
}

/// Checks the checksums of a frame with a parser that nobody here wrote; its TCP sequence number and payload.
fn check_tcp(frame: &[u8]) -> (u32, Vec<u8>) {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let Some(NetSlice::Ipv4(ip)) = packet.net else {
        panic!("no IPv4");
    };
    let header = ip.header().to_header();
    assert_eq!(header.header_checksum, header.calc_header_checksum());
    let Some(TransportSlice::Tcp(tcp)) = packet.transport else {
        panic!("no TCP");
    };
    let (source, destination) = (header.source, header.destination);
    let sum = tcp
        .to_header()
        .calc_checksum_ipv4_raw(source, destination, tcp.payload());
    assert_eq!(tcp.checksum(), sum.unwrap());
    (tcp.sequence_number(), tcp.payload().to_vec())
}

#[test]
fn the_eeprom_is_read_word_by_word_and_its_checksum_is_right() {
    let driver = Driver::new(1);
    let word = |address: u32| {
        driver.write(0x1_0014, address << 2 | 1);
        let value = driver.read(0x1_0014);
        assert_ne!(value & 2, 0);
        (value >> 16) as u16
    };
    let mut sum = (0..0x40).fold(0_u16, |sum, n| sum.wrapping_add(word(n)));
    for pointer in 0x03..0x0f {
        let at = u32::from(word(pointer));
        if at != 0xffff && at != 0 {
            let len = u32::from(word(at));
            sum = (1..=len).fold(sum, |sum, n| sum.wrapping_add(word(at + n)));
        }
    }
    assert_eq!(sum, 0xbaba);
    assert_eq!(driver.read(0xa200).to_le_bytes(), HERE[..4]);
    assert_eq!(driver.read(0xa204), 0x8000_0100);
    driver.world.trace().assert_clean();
}

#[test]
fn the_semaphore_goes_to_the_first_who_reads_it() {
    let driver = Driver::new(2);
    assert_eq!(driver.read(0x1_0140) & 1, 0);
    assert_eq!(driver.read(0x1_0140) & 1, 1);
    driver.write(0x1_0140, 2);
    driver.write(0x1_0160, 1);
    assert_eq!(driver.read(0x1_0160), 1);
    driver.write(0x1_0140, 0);
    assert_eq!(driver.read(0x1_0140) & 1, 0);
    driver.world.trace().assert_clean();
    driver.write(0x1_0160, 0);
    assert_eq!(driver.world.trace().violations().len(), 1);
}

#[test]
fn the_link_comes_up_after_a_while_and_its_changes_are_a_cause() {
    let driver = Driver::new(3);
    let _old = driver.read(0x0800);
    driver.card.set_link(false);
    assert_eq!(driver.read(0x42a4), 0);
    assert_eq!(driver.read(0x0800) & 1 << 20, 1 << 20);
    driver.card.set_link(true);
    assert_eq!(driver.read(0x42a4), 0);
    driver.world.run_for(Duration::from_millis(30));
    assert_eq!(driver.read(0x42a4) >> 28, 7);
    assert_eq!(driver.read(0x0800) & 1 << 20, 1 << 20);
    assert_eq!(driver.read(0x0800), 0);
}

#[test]
fn frames_go_out_and_come_in_and_are_counted_once() {
    let driver = Driver::new(4);
    let (mut rx_queue, mut tx_queue) = (driver.rx_queue(0), driver.tx_queue(0));
    let frame = udp([1, 2], 100);
    driver.send(&mut tx_queue, &frame);
    assert_eq!(driver.wire.take_all(), core::slice::from_ref(&frame));
    assert_eq!(driver.word(tx_queue.ring + 8) >> 32 & 1, 1);
    for _ in 0..3 * RING {
        driver.wire.send(&frame);
        driver.settle();
        let received = driver.receive(&mut rx_queue);
        assert_eq!(received.len(), 1);
        assert_eq!(received[0].bytes, frame);
        // Done, end, checksums of IP and UDP looked at, and right.
        assert_eq!(received[0].high & 0xfff0_0463, 0x463);
    }
    assert_eq!(driver.read(0x4074), 3 * RING as u32);
    assert_eq!(driver.read(0x4074), 0);
    assert_eq!(driver.read(0x1030), 3 * RING as u32);
    assert_eq!(driver.read(0x4080), 1);
    assert_eq!(driver.read(0x6030), 1);
    driver.world.trace().assert_clean();
}

#[test]
fn a_long_frame_takes_several_buffers_and_only_the_last_is_the_end() {
    let driver = Driver::new(5);
    driver.write(0x4240, driver.read(0x4240) | 4); // HLREG0.JUMBOEN
    driver.write(0x4268, 9018 << 16); // MAXFRS
    let mut queue = driver.rx_queue(0);
    let frame = udp([5, 6], 8000);
    driver.wire.send(&frame);
    driver.settle();
    let received = driver.receive(&mut queue);
    assert_eq!(received.len(), frame.len().div_ceil(2048));
    let (last, others) = received.split_last().unwrap();
    assert!(last.is_last() && others.iter().all(|part| !part.is_last()));
    let bytes: Vec<u8> = received.into_iter().flat_map(|part| part.bytes).collect();
    assert_eq!(bytes, frame);
    driver.world.trace().assert_clean();
}

#[test]
fn a_frame_that_is_too_long_is_counted_and_dropped() {
    let driver = Driver::new(6);
    let mut queue = driver.rx_queue(0);
    driver.wire.send(&udp([5, 6], 1600));
    driver.settle();
    assert!(driver.receive(&mut queue).is_empty());
    assert_eq!(driver.read(0x40ac), 1);
}

#[test]
fn wrong_checksums_are_reported_and_delivered() {
    let driver = Driver::new(7);
    let mut queue = driver.rx_queue(0);
    let mut frame = udp([1, 2], 50);
    frame[60] ^= 1;
    driver.wire.send(&frame);
    frame[60] ^= 1;
    frame[22] ^= 1;
    driver.wire.send(&frame);
    driver.settle();
    let errors: Vec<u64> = driver
        .receive(&mut queue)
        .iter()
        .map(|part| part.high >> 30 & 3)
        .collect();
    assert_eq!(errors, [1, 2]);
}

#[test]
fn tags_are_stripped_and_inserted() {
    let driver = Driver::new(8);
    let (mut rx_queue, mut tx_queue) = (driver.rx_queue(0), driver.tx_queue(0));
    driver.write(rx(0) + 0x28, 1 << 25 | 1 << 30); // RXDCTL.VME
    let frame = udp([1, 2], 60);
    let context = Context {
        lens: [14, 20, 0],
        tag: 0x6123,
        ..Context::default()
    };
    driver.context(&mut tx_queue, &context);
    driver.send_with(&mut tx_queue, &frame, frame.len(), 1 << 30);
    let sent = driver.wire.take().unwrap();
    let packet = SlicedPacket::from_ethernet(&sent).unwrap();
    let Some(VlanSlice::SingleVlan(vlan)) = packet.vlan() else {
        panic!("no tag");
    };
    assert_eq!(
        (
            vlan.vlan_identifier().value(),
            vlan.priority_code_point().value()
        ),
        (0x123, 3)
    );
    driver.wire.send(&sent);
    driver.settle();
    let received = driver.receive(&mut rx_queue);
    assert_eq!(received[0].bytes, frame);
    assert_eq!((received[0].tag(), received[0].high & 8), (0x6123, 8));
    driver.world.trace().assert_clean();
}

#[test]
fn the_vlan_table_keeps_other_vlans_out() {
    let driver = Driver::new(9);
    let mut queue = driver.rx_queue(0);
    driver.write(0x5088, 0x4000_8100); // VLNCTRL.VFE
    driver.write(0xa000 + 4 * (0x123 / 32), 1 << (0x123 % 32));
    for id in [0x123_u16, 0x124] {
        let mut frame = udp([1, 2], 60);
        let [high, low] = id.to_be_bytes();
        frame.splice(12..12, [0x81, 0, high, low]);
        driver.wire.send(&frame);
    }
    driver.settle();
    assert_eq!(driver.receive(&mut queue).len(), 1);
    assert_eq!(driver.card.counts().filtered, 1);
}

#[test]
fn a_large_send_becomes_segments_that_another_parser_finds_right() {
    let driver = Driver::new(10);
    let mut queue = driver.tx_queue(3);
    let mut frame = tcp(10_000);
    // What a driver leaves to the card: lengths, checksums; the pseudo header's sum without length.
    frame[16..18].fill(0);
    frame[24..26].fill(0);
    let pseudo: u32 = [0x0a00, 0x0001, 0x0a00, 0x0009, 6].iter().sum();
    frame[50..52].copy_from_slice(&(pseudo as u16).to_be_bytes());
    let context = Context {
        lens: [14, 20, 20],
        mss: 1460,
        tag: 0,
        kind: 1,
    };
    driver.context(&mut queue, &context);
    driver.send_with(&mut queue, &frame, 10_000, 1 << 31 | 3 << 40);
    let sent = driver.wire.take_all();
    assert_eq!(sent.len(), 10_000_usize.div_ceil(1460));
    let mut payload = Vec::new();
    for (n, segment) in sent.iter().enumerate() {
        let (sequence, part) = check_tcp(segment);
        assert_eq!(sequence as usize, 77 + payload.len());
        // Only the last one pushes.
        assert_eq!(segment[47] & 8 != 0, n + 1 == sent.len());
        payload.extend(part);
    }
    assert_eq!(payload, frame[54..]);
    driver.world.trace().assert_clean();
}

/// RFC 9260, appendix A, over a packet that another implementation's checksum was computed for: the CRC of "123456789" is
/// tested beside the code, here its place and byte order.
#[test]
fn the_checksum_of_sctp_is_inserted() {
    let driver = Driver::new(45);
    let mut queue = driver.tx_queue(0);
    let mut frame = udp([5, 6], 40);
    frame[23] = 132;
    // Ports, verification tag, checksum, one DATA chunk.
    frame[38..42].fill(0xee);
    frame[42..46].fill(0);
    let context = Context {
        lens: [14, 20, 0],
        kind: 2,
        ..Context::default()
    };
    driver.context(&mut queue, &context);
    driver.send_with(&mut queue, &frame, frame.len(), 2 << 40);
    let sent = driver.wire.take().unwrap();
    let mut zeroed = sent[34..].to_vec();
    zeroed[8..12].fill(0);
    // The slow, obvious CRC32c: bit by bit, reflected.
    let crc = zeroed.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 }
        })
    });
    assert_eq!(sent[42..46], (!crc).to_le_bytes());
    // The other side finds it right, and wrong with a bit turned over.
    let mut rx = driver.rx_queue(0);
    driver.write(0x5000, 0x3000); // RXCSUM
    let mut broken = sent.clone();
    broken[50] ^= 1;
    for frame in [&sent, &broken] {
        let mut frame = frame.clone();
        frame[..6].copy_from_slice(&HERE);
        driver.wire.send(&frame);
    }
    driver.settle();
    let errors: Vec<u64> = driver
        .receive(&mut rx)
        .iter()
        .map(|part| part.high >> 30 & 1)
        .collect();
    assert_eq!(errors, [0, 1]);
    driver.world.trace().assert_clean();
}

/// RTTBCNRC: a factor of 10 leaves a tenth of 10 Gb/s, whoever else sends.
#[test]
fn a_queue_with_a_rate_keeps_to_it_and_no_other_queue_does() {
    let driver = Driver::new(46);
    let mut queues = [0, 70].map(|n| driver.tx_queue(n));
    driver.write(0x4904, 70); // RTTDQSEL
    driver.write(0x4984, 1 << 31 | 10 << 14);
    driver.write(0x4904, 0);
    assert_eq!(driver.read(0x4984), 0);
    driver.write(0x4904, 70);
    assert_eq!(driver.read(0x4984), 1 << 31 | 10 << 14);
    // 1,250 bytes are a microsecond, and ten for the slow one.
    let frame = vec![2; 1250 - 24];
    for queue in &mut queues {
        driver.poke(queue.buffers, &frame);
        for _ in 0..RING - 2 {
            let high = frame.len() as u64 | 0x2b30_0000 | (frame.len() as u64) << 46;
            driver.put(queue, queue.buffers, high);
        }
        driver.ring(queue);
    }
    let head = |n: usize| driver.read(tx(n) + 0x10) as usize;
    driver.world.run_for(Duration::from_micros(100));
    assert_eq!(head(0), RING - 2);
    assert!((8..=12).contains(&head(70)), "{}", head(70));
    driver.world.run_for(Duration::from_micros(100));
    assert!((18..=22).contains(&head(70)), "{}", head(70));
    // The rest goes at once.
    driver.write(0x4984, 0);
    driver.settle();
    assert_eq!(head(70), RING - 2);
    driver.world.trace().assert_clean();
}

#[test]
fn a_checksum_is_inserted_where_the_context_says() {
    let driver = Driver::new(11);
    let mut queue = driver.tx_queue(0);
    let right = tcp(333);
    let mut frame = right.clone();
    frame[24..26].fill(0);
    let pseudo: u32 = [0x0a00, 0x0001, 0x0a00, 0x0009, 6, 353].iter().sum();
    frame[50..52].copy_from_slice(&(pseudo as u16).to_be_bytes());
    let context = Context {
        lens: [14, 20, 20],
        kind: 1,
        ..Context::default()
    };
    driver.context(&mut queue, &context);
    driver.send_with(&mut queue, &frame, frame.len(), 3 << 40);
    assert_eq!(driver.wire.take_all(), [right]);
    driver.world.trace().assert_clean();
}

#[test]
fn the_head_is_written_back_instead_of_descriptors() {
    let driver = Driver::new(12);
    let mut queue = driver.tx_queue(0);
    let head = driver.lend(4096);
    driver.bar.write64(tx(0) + 0x38, head | 1);
    for n in 1..5 {
        driver.send(&mut queue, &udp([1, 2], 60));
        assert_eq!(driver.peek(head, 4), [n, 0, 0, 0]);
        assert_eq!(driver.read(tx(0) + 0x10), u32::from(n));
    }
    assert_eq!(driver.word(queue.ring + 8) >> 32 & 1, 0);
    driver.world.trace().assert_clean();
}

#[test]
fn hashes_choose_queues_by_the_table() {
    let driver = Driver::new(13);
    let mut queues = [0, 1, 2, 3].map(|n| driver.rx_queue(n));
    driver.write(0x5000, 1 << 13); // RXCSUM.PCSD: the hash is reported
    driver.write(0x5818, 0x0042_0001); // MRQC: RSS over IPv4 and UDP
    // Key bit 120 alone: the low 7 bits of the hash are those of the destination port, reversed.
    for n in 0..10 {
        driver.write(0x5c80 + 4 * n, if n == 3 { 0x0000_8000 } else { 0 });
    }
    for n in 0..32 {
        driver.write(0x5c00 + 4 * n, 0x0302_0100);
    }
    for port in 0..128 {
        driver.wire.send(&udp([999, port], 20));
    }
    let mut seen = 0;
    for _ in 0..20 {
        driver.settle();
        for queue in &mut queues {
            for part in driver.receive(queue) {
                let hash = (part.low >> 32) as usize;
                assert_eq!((hash & 3, part.low & 0xf), (queue.n, 7));
                seen += 1;
            }
        }
    }
    assert_eq!(seen, 128);
    driver.world.trace().assert_clean();
}

#[test]
fn the_five_tuple_filter_of_the_highest_priority_wins() {
    let driver = Driver::new(14);
    let mut queues = [0, 7, 100].map(|n| driver.rx_queue(n));
    // Any UDP to port 53 to queue 7; from 10.0.0.9 to queue 100, with more priority.
    let port = u32::from(53_u16.swap_bytes()) << 16;
    let nine = u32::from_le_bytes([10, 0, 0, 9]);
    for (n, address, queue, priority, ignored) in
        [(0, 0, 7, 0, 0b00111), (1, nine, 100, 7, 0b00110)]
    {
        driver.write(0xe000 + 4 * n, address);
        driver.write(0xe400 + 4 * n, port);
        driver.write(0xe800 + 4 * n, queue << 21);
        driver.write(
            0xe600 + 4 * n,
            1 << 31 | 1 << 30 | ignored << 25 | priority << 2 | 1,
        );
    }
    driver.wire.send(&udp([1, 53], 20));
    driver.wire.send(&udp([1, 54], 20));
    let mut other = udp([1, 53], 20);
    other[29] = 8;
    driver.wire.send(&other);
    driver.settle();
    let counts = queues.each_mut().map(|queue| driver.receive(queue).len());
    assert_eq!(counts, [1, 1, 1]);
    driver.world.trace().assert_clean();
}

#[test]
fn the_filter_of_syn_goes_first_where_it_says_so() {
    let driver = Driver::new(29);
    let mut queues = [7, 9].map(|n| driver.rx_queue(n));
    driver.write(0xe400, u32::from(2000_u16.swap_bytes()) << 16); // SDPQF
    driver.write(0xe800, 7 << 21); // L34TIMIR
    let mut frame = tcp(20);
    frame[47] |= 2;
    // FTQF: TCP to the port, or off; SYNQF with SYNQFP or without.
    let by_port = 1 << 31 | 1 << 30 | 0b00111 << 25;
    for (five_tuple, first, expected) in
        [(by_port, 0, [1, 0]), (by_port, 1, [0, 1]), (0, 0, [0, 1])]
    {
        driver.write(0xe600, five_tuple);
        driver.write(0xec30, first << 31 | 9 << 1 | 1);
        driver.wire.send(&frame);
        driver.settle();
        let found = queues.each_mut().map(|queue| driver.receive(queue).len());
        assert_eq!(found, expected, "{five_tuple:#x} {first}");
    }
    driver.world.trace().assert_clean();
}

#[test]
fn what_is_left_out_does_not_go_unnoticed() {
    let driver = Driver::new(28);
    for (offset, value, expected) in [
        (0x5128, 1 << 31 | 0x88b5, 0), // ETQF: a type, of one pool, with a priority
        (0x5128, 1 << 31 | 1 << 26 | 0x88b5, 1),
        (0x5128, 1 << 31 | 1 << 19 | 0x88b5, 1),
        (0x8900, 1 << 31 | 3 << 3, 0), // IPSTXIDX: an entry written, one read, the engine on
        (0x8900, 1 << 30 | 3 << 3, 1),
        (0x8900, 1, 1),
        (0x8e00, 1 << 31 | 3 << 3 | 2, 0), // IPSRXIDX
        (0x8e00, 1, 1),
        (0x4248, 0xffff, 0), // PAP: time of a pause, pace
        (0x4248, 1 << 16, 1),
        (0x4330, 1, 1),    // MACC: link by force
        (0x4208, 0x20, 1), // PCS1GLCTL: the same
        (0x498c, 1, 1),    // RTTBCNRD
        (0x50a0, 1, 1),    // RUPPBMR
        (0x581c, 1, 1),    // VMD_CTL
        (0xee78, 1, 1),    // FDIRSCTPM
    ] {
        driver.world.trace().clear();
        driver.write(offset, value);
        let noted = driver.world.trace().take();
        let noted = noted.iter().filter(|entry| entry.kind == Kind::LeftOut);
        assert_eq!(noted.count(), expected, "{offset:#x}: {value:#x}");
    }
}

#[test]
fn all_queue_pairs_pass_traffic_and_none_gets_anothers() {
    let driver = Driver::new(15);
    let mut queues: Vec<_> = (0..128)
        .map(|n| (driver.rx_queue(n), driver.tx_queue(n)))
        .collect();
    // One five-tuple filter for each queue: its destination port alone.
    for n in 0..128_u32 {
        let port = (5000 + n) as u16;
        driver.write(0xe400 + 4 * n as usize, u32::from(port.swap_bytes()) << 16);
        driver.write(0xe800 + 4 * n as usize, n << 21);
        driver.write(
            0xe600 + 4 * n as usize,
            0x8000_0001 | 0b00111 << 25 | 1 << 30,
        );
    }
    for (rx_queue, tx_queue) in &mut queues {
        let frame = udp([1, 5000 + rx_queue.n as u16], 30);
        driver.send(tx_queue, &frame);
        driver.wire.send(&driver.wire.take().unwrap());
    }
    driver.settle();
    for (rx_queue, _) in &mut queues {
        let received = driver.receive(rx_queue);
        assert_eq!(received.len(), 1, "{}", rx_queue.n);
        assert_eq!(received[0].bytes, udp([1, 5000 + rx_queue.n as u16], 30));
    }
    driver.world.trace().assert_clean();
}

#[test]
fn without_descriptors_a_queue_waits_or_drops() {
    let driver = Driver::new(16);
    let (mut first, mut second) = (driver.rx_queue(0), driver.rx_queue(1));
    driver.write(0xe800, 1 << 21);
    driver.write(0xe400, u32::from(53_u16.swap_bytes()) << 16);
    driver.write(0xe600, 0x8000_0001 | 0b00111 << 25 | 1 << 30);
    for _ in 0..RING + 4 {
        driver.wire.send(&udp([1, 53], 20));
    }
    driver.wire.send(&udp([1, 1], 20));
    driver.settle();
    // The full queue is first in line: the other one gets nothing.
    assert_eq!(driver.receive(&mut first).len(), 0);
    assert_eq!(driver.read(0x3fc0), 1);
    driver.write(rx(1) + 0x14, 0x1200_0002); // SRRCTL.Drop_En
    driver.settle();
    assert_eq!(driver.receive(&mut first).len(), 1);
    assert_eq!(driver.receive(&mut second).len(), RING - 1);
    assert_eq!(driver.read(0x1430), 5);
    driver.world.trace().assert_clean();
}

/// Two cards of two worlds, joined by a wire.
#[test]
fn what_one_card_sends_the_other_gets() {
    let (one, other) = (Driver::new(47), Driver::new(48));
    Wire::connect(&one.wire, &other.wire);
    assert!(!other.card.takes_frames());
    let (mut tx, mut rx) = (one.tx_queue(3), other.rx_queue(5));
    assert!(other.card.takes_frames());
    // The other card hashes nothing: all goes to queue 0.
    let mut first = other.rx_queue(0);
    for len in [60, 1514] {
        let frame = udp([7, 9], len - 42);
        one.send(&mut tx, &frame);
        other.settle();
        let got = other.receive(&mut first);
        assert_eq!(got.len(), 1);
        assert_eq!(got[0].bytes, frame);
    }
    assert!(other.receive(&mut rx).is_empty());
    assert_eq!(one.wire.take(), None);
}

#[test]
fn a_pause_is_kept_and_no_longer_than_asked_for() {
    let driver = Driver::new(26);
    let mut queue = driver.tx_queue(0);
    let pause = |quanta: u16| {
        let mut frame = vec![
            0x01, 0x80, 0xc2, 0, 0, 1, 2, 0, 0, 0, 0, 9, 0x88, 0x08, 0, 1,
        ];
        frame.extend(quanta.to_be_bytes());
        driver.wire.send(&frame);
        driver.settle();
    };
    driver.write(0x4294, 8); // MFLCN.RFCE
    pause(1000); // 51.2 us
    driver.send(&mut queue, &udp([1, 2], 60));
    assert!(driver.wire.take().is_none());
    driver.world.run_for(Duration::from_micros(52));
    assert!(driver.wire.take().is_some());
    pause(u16::MAX);
    pause(0);
    driver.send(&mut queue, &udp([1, 2], 60));
    assert!(driver.wire.take().is_some());
    assert_eq!((driver.read(0x41a8), driver.read(0x41a4)), (2, 1));
    driver.world.trace().assert_clean();
}

#[test]
fn with_flow_control_frames_wait_on_the_wire_while_the_buffer_is_full() {
    let driver = Driver::new(27);
    let mut queue = driver.rx_queue(0);
    driver.write(0x3220, 0x1000); // FCRTL
    driver.write(0x3260, 1 << 31 | 0x4000); // FCRTH
    driver.write(0x3d00, 8); // FCCFG
    for _ in 0..200 {
        driver.wire.send(&udp([1, 2], 1000));
    }
    driver.settle();
    assert!(driver.wire.waiting() > 100);
    let mut seen = 0;
    while seen < 200 {
        let received = driver.receive(&mut queue).len();
        assert_ne!(received, 0);
        seen += received;
        driver.settle();
    }
    assert_eq!(driver.read(0x3fa0), 0);
    assert!(driver.read(0x3f68) >= 1 && driver.read(0x3f60) >= 1);
    driver.world.trace().assert_clean();
}

#[test]
fn a_queue_that_stopped_writes_nothing_after_its_time() {
    let driver = Driver::new(17);
    let _queue = driver.rx_queue(0);
    driver.write(rx(0) + 0x28, 0);
    driver.wait(rx(0) + 0x28, |control| control & 1 << 25 == 0);
    driver.world.run_for(Duration::from_micros(100));
    driver.memory.end(LEASE);
    for _ in 0..10 {
        driver.wire.send(&udp([1, 2], 20));
    }
    driver.settle();
    assert!(driver.memory.escapes().is_empty());
    driver.world.trace().assert_clean();
}

#[test]
fn a_vector_is_moderated_and_masks_itself() {
    let driver = Driver::new(18);
    let mut queue = driver.rx_queue(0);
    let msix = driver.card.bar(4);
    driver.card.config_space().write16(0x72, 0x8000);
    msix.write32(16 * 5, 0xfee0_0000);
    msix.write32(16 * 5 + 8, 0x77);
    msix.write32(16 * 5 + 12, 0);
    driver.write(0x0900, 0x0000_0085); // IVAR: receive queue 0 to vector 5
    driver.write(0x0820 + 4 * 5, 100 << 3); // EITR: 204.8 us
    driver.write(0x0810, 0xffff); // EIAC
    driver.write(0x0aa0, 1 << 5); // EIMS_EX
    let interrupts = || driver.world.interrupts().take_all().len();
    driver.wire.send(&udp([1, 2], 20));
    driver.settle();
    assert_eq!(interrupts(), 1);
    driver.wire.send(&udp([1, 2], 20));
    driver.settle();
    assert_eq!(interrupts(), 0);
    driver.world.run_for(Duration::from_micros(210));
    assert_eq!(interrupts(), 1);
    // With EIAME each signal masks its vector.
    driver.write(0x0898, 0xc000_0030);
    driver.write(0x0ad0, 1 << 5);
    driver.world.run_for(Duration::from_micros(210));
    for expected in [1, 0] {
        driver.wire.send(&udp([1, 2], 20));
        driver.world.run_for(Duration::from_micros(300));
        assert_eq!(interrupts(), expected);
    }
    assert_eq!(driver.read(0x0aa0), 0);
    // Without EIAC a cause stays until it is cleared, and signals once.
    driver.write(0x0810, 0);
    driver.write(0x0898, 0x8000_0010);
    driver.write(0x0aa0, 1 << 5);
    driver.world.run_for(Duration::from_micros(300));
    assert_eq!(interrupts(), 1);
    for expected in [0, 1] {
        driver.wire.send(&udp([1, 2], 20));
        driver.world.run_for(Duration::from_micros(300));
        assert_eq!(interrupts(), expected);
        driver.write(0x0800, 1 << 5); // EICR
    }
    assert_eq!(driver.receive(&mut queue).len(), 6);
    driver.world.trace().assert_clean();
}

#[test]
fn flow_director_filters_steer_and_go() {
    let driver = Driver::new(19);
    let mut queues = [0, 9].map(|n| driver.rx_queue(n));
    driver.write(0xee68, 0x3dad_14e2); // FDIRHKEY
    driver.write(0xee6c, 0x174d_3614); // FDIRSKEY
    driver.write(0xee00, 0x4a00_7f31); // FDIRCTRL: perfect, 64 KiB
    assert_ne!(driver.read(0xee00) & 8, 0);
    driver.write(0xee70, 0x37); // FDIRM: without VLAN, pool and flexible bytes
    driver.write(0xee3c, u32::MAX);
    driver.write(0xee40, u32::MAX);
    driver.write(0xee48, 0x0000_ffff); // FDIRUDPM: destination ports only
    let free = driver.read(0xee38);
    driver.write(0xee20, 53 << 16); // FDIRPORT
    // The place in the table: the driver computes the hash of kind and port.
    driver.write(0xee28, 3 << 16 | u32::from(place(0x3dad_14e2, 1, 53)));
    driver.write(0xee2c, 0x0009_8829); // add: UDP, queue 9
    assert_eq!(driver.read(0xee2c) & 3, 0);
    assert_eq!(driver.read(0xee38), free - 1);
    driver.wire.send(&udp([1, 53], 20));
    driver.wire.send(&udp([1, 54], 20));
    driver.settle();
    let [other, found] = queues.each_mut().map(|queue| driver.receive(queue));
    assert_eq!((other.len(), found.len()), (1, 1));
    assert_eq!(found[0].high & 4, 4);
    assert_eq!((driver.read(0xee58), driver.read(0xee5c)), (1, 1));
    // Asked for and removed by hash and number alone, whatever flow the registers hold by then: drivers write no more.
    driver.write(0xee20, 54 << 16);
    driver.write(0xee28, 4 << 16 | u32::from(place(0x3dad_14e2, 1, 53)));
    driver.write(0xee2c, 3); // ask
    assert_eq!(driver.read(0xee2c) & 7, 0);
    driver.write(0xee28, 3 << 16 | u32::from(place(0x3dad_14e2, 1, 53)));
    driver.write(0xee2c, 3);
    assert_eq!(driver.read(0xee2c) & 7, 4);
    driver.write(0xee2c, 2); // remove
    assert_eq!(driver.read(0xee38), free);
    driver.wire.send(&udp([1, 53], 20));
    driver.settle();
    assert_eq!(
        queues.each_mut().map(|queue| driver.receive(queue).len()),
        [1, 0]
    );
    driver.world.trace().assert_clean();
}

#[test]
fn a_filter_of_sctp_matches_whatever_the_ports_are() {
    let driver = Driver::new(30);
    let mut queues = [0, 9].map(|n| driver.rx_queue(n));
    driver.write(0xee68, 0x3dad_14e2); // FDIRHKEY
    driver.write(0xee00, 0x4a00_7f31); // FDIRCTRL: perfect, 64 KiB
    driver.write(0xee70, 0x37); // FDIRM: without VLAN, pool and flexible bytes
    driver.write(0xee3c, u32::MAX);
    driver.write(0xee40, u32::MAX);
    driver.write(0xee28, 3 << 16 | u32::from(place(0x3dad_14e2, 3, 0)));
    driver.write(0xee2c, 0x0009_8869); // add: SCTP, queue 9
    let mut frame = udp([1, 53], 20);
    driver.wire.send(&frame);
    frame[23] = 132;
    driver.wire.send(&frame);
    driver.settle();
    let [other, found] = queues.each_mut().map(|queue| driver.receive(queue));
    assert_eq!((other.len(), found.len()), (1, 1));
    assert_eq!(found[0].bytes[23], 132);
    driver.world.trace().assert_clean();
}

/// The hash of a flow that has only a kind and a destination port, bit by bit as 7.1.2.7.16 has it: the key rotated by
/// the place of each bit that is set.
fn place(key: u32, kind: u32, port: u32) -> u16 {
    let (mut high, mut low) = (port, port << 16);
    let first = kind << 16;
    high ^= first ^ first >> 16;
    let mut hash = 0;
    for bit in 0..16 {
        if key >> bit & 1 == 1 {
            hash ^= low >> bit;
        }
        if key >> (bit + 16) & 1 == 1 {
            hash ^= high >> bit;
        }
        if bit == 0 {
            low ^= first ^ first << 16;
        }
    }
    (hash & 0x1fff) as u16
}

#[test]
fn rules_that_are_broken_are_noted_with_their_section() {
    let driver = Driver::new(20);
    let broken = |what: &dyn Fn(), section: &str| {
        driver.world.trace().clear();
        what();
        driver.settle();
        let noted = driver.world.trace().violations();
        let found = noted
            .iter()
            .any(|entry| format!("{:?}", entry.kind).contains(section));
        assert!(found, "{section}: {noted:?}");
    };
    broken(
        &|| {
            driver.write(0x4a80, 0x8100_0000);
            driver.write(tx(9) + 0x28, 1 << 25);
            driver.write(0x4a80, 0x8100_0001);
        },
        "4.6.8",
    );
    broken(&|| assert_eq!(driver.bar.read16(0x0000), 0xffff), "8.1.1");
    broken(
        &|| {
            let mut queue = driver.tx_queue(1);
            driver.send_with(&mut queue, &udp([1, 2], 60), 5, 3 << 40);
        },
        "7.2.4",
    );
    broken(
        &|| {
            let mut queue = driver.tx_queue(3);
            driver.send_with(&mut queue, &udp([1, 2], 60), 5, 0);
        },
        "7.2.4",
    );
    broken(
        &|| {
            let mut queue = driver.tx_queue(2);
            driver.put(&mut queue, 0, 0x2b30_0000);
            driver.ring(&queue);
        },
        "7.2.3.2.4",
    );
    broken(
        &|| {
            driver.write(0x0000, 1 << 26);
            driver.write(0x5080, 0);
        },
        "4.2.1.6.1",
    );
}

#[test]
fn faults_take_effect_and_are_counted() {
    let driver = Driver::new(21);
    let (mut rx_queue, mut tx_queue) = (driver.rx_queue(0), driver.tx_queue(0));
    let faults = driver.card.faults();
    faults.inject(Fault::StuckQueue(0), When::NEXT);
    driver.send(&mut tx_queue, &udp([1, 2], 60));
    assert!(driver.wire.take().is_none());
    driver.ring(&tx_queue);
    driver.settle();
    assert!(driver.wire.take().is_some());
    faults.inject(Fault::BadLength, When::NEXT);
    driver.wire.send(&udp([1, 2], 60));
    driver.settle();
    assert_eq!(driver.receive(&mut rx_queue).len(), 1);
    faults.inject(Fault::LinkFlap, When::NEXT);
    driver.settle();
    assert!(!driver.card.link_is_up());
    driver.world.run_for(Duration::from_millis(30));
    assert!(driver.card.link_is_up());
    faults.inject(Fault::Removal, When::NEXT);
    driver.settle();
    assert_eq!(driver.read(0x0008), u32::MAX);
    let total = faults.total();
    assert_eq!((total.injected, total.activated), (4, 4));
}

#[test]
fn a_function_level_reset_forgets_everything_but_the_address() {
    let driver = Driver::new(22);
    let _queue = driver.rx_queue(0);
    let config = driver.card.config_space();
    config.write16(0xa8, 0x8000);
    config.enable();
    assert_eq!(driver.read(rx(0) + 0x28), 0);
    assert_eq!(driver.read(0x5080), 0);
    assert_eq!(driver.read(0xa200).to_le_bytes(), HERE[..4]);
}

/// Pools 1 and 2 of 64, each with a queue pair, an address of its own and VLAN 5; replication and the switch on.
fn with_pools(driver: &Driver) -> [([u8; 6], driver::RxQueue, driver::TxQueue); 2] {
    let disable = |n: usize| driver.write(tx(n) + 0x28, 0);
    disable(2);
    disable(4);
    driver.write(0x51b0, 1 | 1 << 29 | 1 << 30); // PFVTCTL: pools, no default, replication
    driver.write(0x5818, 0x8); // MRQC: 64 pools
    driver.write(0x8120, 0x6); // MTQC: the same
    driver.write(0x51e0, 0b110); // PFVFRE
    driver.write(0x8110, 0b110); // PFVFTE
    driver.write(0x8220, 1); // PFDTXGSWC: the switch
    driver.write(0x8200, 0x0606); // PFVFSPOOF: addresses and VLANs of pools 1 and 2
    driver.write(0xf100, 1 << 31 | 5); // PFVLVF: VLAN 5
    driver.write(0xf200, 0b110);
    [1, 2].map(|pool: u8| {
        let address = [2, 0, 0, 0, 0, 0x10 + pool];
        let n = usize::from(pool);
        driver.write(0xa200 + 8 * n, 2);
        driver.write(0xa204 + 8 * n, 1 << 31 | u32::from(0x10 + pool) << 8);
        driver.write(0xa600 + 8 * n, 1 << pool);
        driver.write(0xa604 + 8 * n, 0);
        driver.write(0xf000 + 4 * n, 1 << 24 | 1 << 27); // PFVML2FLT: untagged and broadcast
        (address, driver.rx_queue(2 * n), driver.tx_queue(2 * n))
    })
}

fn between(from: [u8; 6], to: [u8; 6]) -> Vec<u8> {
    let mut frame = udp([1, 2], 40);
    frame[..6].copy_from_slice(&to);
    frame[6..12].copy_from_slice(&from);
    frame
}

#[test]
fn a_pool_gets_its_own_frames_and_broadcasts() {
    let driver = Driver::new(23);
    let [(one, mut rx_one, _), (two, mut rx_two, _)] = with_pools(&driver);
    driver.wire.send(&between(THERE, one));
    driver.wire.send(&between(THERE, two));
    driver.wire.send(&between(THERE, [0xff; 6]));
    driver.wire.send(&between(THERE, [2, 0, 0, 0, 0, 0x77]));
    driver.settle();
    let kept = |queue: &mut driver::RxQueue, own: [u8; 6]| {
        let frames = driver.receive(queue);
        assert!(
            frames
                .iter()
                .all(|part| part.bytes[..6] == own || part.bytes[..6] == [0xff; 6])
        );
        frames.len()
    };
    assert_eq!((kept(&mut rx_one, one), kept(&mut rx_two, two)), (2, 2));
    assert_eq!(driver.card.counts().filtered, 1);
    driver.world.trace().assert_clean();
}

#[test]
fn of_pools_of_four_queues_there_are_32() {
    let driver = Driver::new(27);
    let mut last = driver.rx_queue(124);
    driver.write(0x5818, 0xa); // MRQC: 32 pools of 4
    driver.write(0x51e0, u32::MAX);
    driver.write(0x51e4, u32::MAX);
    driver.write(0xe008, 2048); // SAQF, where a ring of queue 128 would be
    let frame = between(THERE, [2, 9, 9, 9, 9, 9]);
    let violations = || {
        driver.settle();
        let noted = driver.world.trace().violations().len();
        driver.world.trace().clear();
        noted
    };
    // PFVTCTL: pools, replication; the default pool is the last one, then one that is not there.
    for (pool, expected) in [(31, 0), (32, 1), (63, 1)] {
        driver.write(0x51b0, 1 | pool << 7 | 1 << 30);
        driver.wire.send(&frame);
        assert_eq!(violations() > 0, expected > 0, "{pool}");
    }
    assert_eq!(driver.receive(&mut last).len(), 1);
    assert_eq!(driver.card.counts().filtered, 2);
    // MPSAR of the address: the last pool, and one that is not there.
    driver.write(0xa208, 0x0909_0902);
    driver.write(0xa20c, 1 << 31 | 0x0909);
    driver.write(0xa608, 1 << 31);
    driver.write(0xa60c, 1);
    driver.write(0xf000 + 4 * 31, 1 << 24); // PFVML2FLT: untagged
    driver.write(0xf000 + 4 * 32, 1 << 24);
    driver.wire.send(&frame);
    assert!(violations() > 0);
    assert_eq!(driver.receive(&mut last).len(), 1);
    // The same from inside: MTQC, PFVFTE, the switch.
    let mut transmit = driver.tx_queue(0);
    driver.write(0x8120, 0xa);
    driver.write(0x8110, 1);
    driver.write(0x8220, 1);
    driver.send(&mut transmit, &frame);
    assert!(violations() > 0);
    assert_eq!(driver.receive(&mut last).len(), 1);
}

#[test]
fn pools_reach_each_other_inside_and_nobody_else_hears_it() {
    let driver = Driver::new(24);
    let [(one, mut rx_one, mut tx_one), (two, mut rx_two, _)] = with_pools(&driver);
    driver.send(&mut tx_one, &between(one, two));
    assert!(driver.wire.take().is_none());
    let received = driver.receive(&mut rx_two);
    assert_eq!(received.len(), 1);
    assert_eq!(received[0].high & 1 << 18, 1 << 18);
    // A broadcast goes both ways, and not back to its sender.
    driver.send(&mut tx_one, &between(one, [0xff; 6]));
    assert_eq!(driver.wire.take_all().len(), 1);
    assert_eq!(
        (
            driver.receive(&mut rx_two).len(),
            driver.receive(&mut rx_one).len()
        ),
        (1, 0)
    );
    driver.world.trace().assert_clean();
}

#[test]
fn a_frame_with_anothers_address_or_tag_is_not_sent_and_counted() {
    let driver = Driver::new(25);
    let [(one, _, mut tx_one), (two, mut rx_two, _)] = with_pools(&driver);
    let tagged = |id: u8| {
        let mut frame = between(one, THERE);
        frame.splice(12..12, [0x81, 0, 0, id]);
        frame
    };
    for spoofed in [between(two, THERE), between(THERE, two), tagged(6)] {
        driver.send(&mut tx_one, &spoofed);
    }
    assert!(driver.wire.take().is_none() && driver.receive(&mut rx_two).is_empty());
    assert_eq!(driver.read(0x8780), 3);
    driver.send(&mut tx_one, &tagged(5));
    assert_eq!(driver.wire.take_all(), [tagged(5)]);
    // A pool that may not send waits until it may.
    driver.write(0x8110, 0b100);
    driver.send(&mut tx_one, &between(one, THERE));
    assert!(driver.wire.take().is_none());
    driver.write(0x8110, 0b110);
    driver.settle();
    assert!(driver.wire.take().is_some());
    driver.world.trace().assert_clean();
}

#[test]
fn a_pool_may_have_a_tag_or_none_whatever_descriptors_say() {
    const VLE: u64 = 1 << 30;
    let driver = Driver::new(26);
    let [(one, _, mut tx_one), _] = with_pools(&driver);
    let plain = between(one, THERE);
    let mut tagged = plain.clone();
    tagged.splice(12..12, [0x81, 0, 0, 5]);
    let context = Context {
        lens: [14, 20, 0],
        tag: 5,
        ..Context::default()
    };
    driver.context(&mut tx_one, &context);
    // PFVMVIR of pool 1: what the descriptor says, always tag 5, never one.
    let cases = [
        (0, [&plain, &tagged]),
        (1 << 30 | 5, [&tagged, &tagged]),
        (2 << 30 | 5, [&plain, &plain]),
    ];
    for (insert, expected) in cases {
        driver.write(0x8004, insert);
        for (options, expected) in [0, VLE].into_iter().zip(expected) {
            driver.send_with(&mut tx_one, &plain, plain.len(), options);
            let sent = driver.wire.take_all();
            assert_eq!(sent, core::slice::from_ref(expected), "{insert:#x}");
        }
    }
    driver.world.trace().assert_clean();
}
