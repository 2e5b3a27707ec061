//! VLAN tags: kept or stripped by queue, and inserted.

use parakernel_core::steering::{Mac, Vlan};
use parakernel_mock_hw::memory::Lease;
use parakernel_nic_ixgbe::{
    descriptor::{Headers, Ip, L4},
    device::{Pair, Tags},
    offload::{Metadata, Received, Request},
    pool::PoolNames,
};

use crate::rig::{Card, Machine, POOLS, claim_with_tags, receive, udp};

const ONE: [u8; 6] = [2, 0, 0, 0, 1, 1];
const TWO: [u8; 6] = [2, 0, 0, 0, 1, 2];

fn tagged(frame: &[u8], tag: u16) -> Vec<u8> {
    let tag = [[0x81, 0], tag.to_be_bytes()].concat();
    [&frame[..12], &tag, &frame[12..]].concat()
}

/// Of two queues in the same VLAN one has its tags stripped, and both say which tag there was.
#[test]
fn tags_are_stripped_where_a_queue_asks_for_it() {
    let machine = Machine::new(41);
    let mut pairs = [Pair::EMPTY; 8];
    let mut device = machine.with_link(POOLS, &mut pairs);
    let mut open = |number, mac, tags| {
        let vlan = Vlan::new(100);
        let names = PoolNames {
            mac: Mac(mac),
            vlan,
        };
        device.open_pool(number, names).unwrap();
        let [queue, _] = Card::queues_of(number);
        let terms = (Lease(number.into()), Metadata::Header);
        claim_with_tags(&machine, &mut device, queue, (terms, tags)).unwrap()
    };
    let mut strips = open(1, ONE, Tags::Stripped);
    let mut keeps = open(2, TWO, Tags::Kept);
    for len in [60, 61, 333, 1500] {
        let frames = [ONE, TWO].map(|to| udp(to, [10, 0, 0, 1], [10, 0, 0, 2], len));
        for frame in &frames {
            machine.wire.send(&tagged(frame, 0xA064));
        }
        machine.settle();
        let arrived = receive(&mut strips.rx, &mut strips.pool).unwrap();
        let [(frame, header)] = arrived.as_slice() else {
            panic!("{} frames", arrived.len());
        };
        assert_eq!(frame, &frames[0]);
        let said = Received::from_bytes(header).completion;
        assert_eq!(said.vlan(), Some(0xA064));
        let arrived = receive(&mut keeps.rx, &mut keeps.pool).unwrap();
        let [(frame, _)] = arrived.as_slice() else {
            panic!("{} frames", arrived.len());
        };
        assert_eq!(frame, &tagged(&frames[1], 0xA064));
    }
    machine.assert_clean();
}

/// A tag that a descriptor asks for is inserted, without pools: those insert none.
#[test]
fn a_tag_is_inserted_where_it_is_asked_for() {
    let machine = Machine::new(42);
    let mut pairs = [Pair::EMPTY; 2];
    let mut device = machine.with_link(crate::rig::QUEUES, &mut pairs);
    let terms = (Lease(1), Metadata::Header);
    let mut owned = claim_with_tags(&machine, &mut device, 0, (terms, Tags::Kept)).unwrap();
    let headers = Headers {
        mac_len: 14,
        ip: Ip::V4,
        ip_len: 20,
        l4: L4::Udp,
        l4_len: 8,
    };
    let frame = udp(ONE, [10, 0, 0, 1], [10, 0, 0, 2], 300);
    for tag in [1, 0x0FFE, 0xE005] {
        let request = Request::checksums(headers).with_vlan(tag);
        assert!(owned.send_with(&frame, 200, request.to_bytes()).unwrap());
        machine.settle();
        let sent = machine.wire.take_all();
        assert_eq!(sent.len(), 1);
        assert_eq!(sent[0][12..16], [[0x81, 0], tag.to_be_bytes()].concat());
        assert_eq!(sent[0][..12], frame[..12]);
        assert_eq!(sent[0].len(), frame.len() + 4);
    }
    machine.assert_clean();
}
