//! The Flow Director: rules that five-tuple filters cannot say or have no room for, and flows by two bytes of a frame.

use core::{net::Ipv4Addr, task::Poll};

use parakernel_core::{
    device::QueueIndex,
    handle::RuleId,
    steering::{Change, IpPrefix, Ipv4Prefix, Mac, Matches, PortRange, Protocol, Vlan},
};
use parakernel_mock_hw::{memory::Lease, pci::Bar};
use parakernel_nic_ixgbe::{
    device::{Device, Pair, Setup, Sharing},
    director::{Capacity, Config, Director, DirectorStatistics, Entry, Field, Flow, L4, Masks},
    doorbell::Tail,
    error::{InitError, SteerError},
    id::Kind,
    offload::Metadata,
    steering::{Filter, Filters},
};
use proptest::prelude::*;

use crate::rig::{Card, MAC, Machine, Owned, claim, poll, udp};

/// Masks of a rule for one address and one UDP port.
const ONE_PORT: Masks = Masks {
    source_bits: 0,
    source_port: Field::Ignored,
    ..Masks::CONNECTION
};

/// A port with a Flow Director, and its link.
fn directed<'a>(machine: &Machine, masks: Masks, pairs: &'a mut [Pair]) -> Card<'a> {
    let capacity = Capacity::Small;
    let setup = Setup {
        director: Some(Config { capacity, masks }),
        ..Setup::new(Kind::Sfp, pairs)
    };
    let mut clock = machine.world.clone();
    let device = Device::bring_up(machine.card.bar0(), &mut clock, setup).unwrap();
    poll(machine, |_| match device.link().is_up {
        true => Poll::Ready(()),
        false => Poll::Pending,
    });
    device
}

/// The kernel's pair, which is the first, and those of processes.
fn owners<'a>(machine: &'a Machine, device: &mut Card<'_>, count: u8) -> Vec<Owned<'a, Tail<Bar>>> {
    let terms = |pair: u8| (Lease(pair.into()), Metadata::None);
    (0..count)
        .map(|pair| claim(machine, device, pair, terms(pair)).unwrap())
        .collect()
}

fn change(
    machine: &Machine,
    (device, filters): (&Card<'_>, &mut Filters<'_>),
    change: Change,
) -> Result<(), SteerError> {
    filters.change(device, change)?;
    poll(machine, |now| filters.poll(device, now))
}

fn add(number: u32, matches: Matches, queue: u32) -> Change {
    Change::Add {
        rule: RuleId::new(number, 0),
        matches,
        queue: QueueIndex::new(queue),
    }
}

const fn remove(number: u32) -> Change {
    let rule = RuleId::new(number, 0);
    Change::Remove { rule }
}

fn to(address: [u8; 4], bits: u8) -> Matches {
    let prefix = Ipv4Prefix::new(address.into(), bits).unwrap();
    Matches::to(Mac(MAC), IpPrefix::V4(prefix))
}

fn port(address: [u8; 4], port: u16) -> Matches {
    Matches {
        protocol: Some(Protocol::Udp),
        ports: PortRange::one(port),
        ..to(address, 32)
    }
}

/// A packet for this address and port.
fn packet(address: [u8; 4], port: u16) -> Vec<u8> {
    let mut frame = udp(MAC, [10, 9, 9, 9], address, 100);
    frame[36..38].copy_from_slice(&port.to_be_bytes());
    frame
}

fn tagged(frame: &[u8], vlan: u16) -> Vec<u8> {
    let tag = [[0x81, 0], vlan.to_be_bytes()].concat();
    [&frame[..12], &tag, &frame[12..]].concat()
}

/// Sends the frame, and says which of the owners received it.
fn arrives_at(
    machine: &Machine,
    owners: &mut [Owned<'_, Tail<Bar>>],
    frame: &[u8],
) -> Option<usize> {
    machine.wire.send(frame);
    machine.settle();
    let received: Vec<_> = owners.iter_mut().map(|it| it.receive().unwrap()).collect();
    let count: usize = received.iter().map(Vec::len).sum();
    assert!(count <= 1, "one frame went to several");
    received.iter().position(|frames| frames == &[frame])
}

#[test]
fn a_rule_beyond_the_five_tuple_filters_is_led_by_the_director() {
    let machine = Machine::new(1);
    let mut pairs = [Pair::EMPTY; 8];
    let mut device = directed(&machine, ONE_PORT, &mut pairs);
    let (mut memory, mut entries) = ([Filter::UNUSED; 2], [Entry::UNUSED; 300]);
    let mut filters = Filters::new(&mut memory, 1).with_director(&mut entries);
    let mut owners = owners(&machine, &mut device, 4);
    // Two go to the filters there are, all others to the Flow Director.
    for number in 0..300_u16 {
        let matches = port([10, 0, 0, 1], 2000 + number);
        let added = add(number.into(), matches, u32::from(number % 3));
        change(&machine, (&device, &mut filters), added).unwrap();
    }
    let room = Capacity::Small.filters();
    assert_eq!(device.director_room(), room - 298);
    for number in (0..300).step_by(7).chain([1, 2, 299]) {
        let frame = packet([10, 0, 0, 1], 2000 + number);
        let queue = usize::from(number % 3) + 1;
        assert_eq!(
            arrives_at(&machine, &mut owners, &frame),
            Some(queue),
            "{number}"
        );
    }
    // Another address, another port, another protocol, a fragment: the kernel's.
    let mut tcp = packet([10, 0, 0, 1], 2200);
    tcp[23] = 6;
    let mut fragment = packet([10, 0, 0, 1], 2200);
    fragment[20] = 0x20;
    let others = [
        packet([10, 0, 0, 2], 2200),
        packet([10, 0, 0, 1], 2300),
        tcp,
        fragment,
    ];
    for frame in others {
        assert_eq!(arrives_at(&machine, &mut owners, &frame), Some(0));
    }
    let mut seen = DirectorStatistics::default();
    device.add_director_statistics(&mut seen);
    assert_eq!((seen.added, seen.removed, seen.not_added), (298, 0, 0));
    assert_eq!(seen.led, 44);
    machine.assert_clean();
}

/// Removed, a flow goes nowhere; added again, to its new queue.
#[test]
fn a_flow_without_its_rule_goes_nowhere() {
    let machine = Machine::new(2);
    let mut pairs = [Pair::EMPTY; 8];
    let mut device = directed(&machine, ONE_PORT, &mut pairs);
    let mut entries = [Entry::UNUSED; 4];
    let mut filters = Filters::new(&mut [], 1).with_director(&mut entries);
    let mut owners = owners(&machine, &mut device, 3);
    let (matches, frame) = (port([10, 0, 0, 1], 80), packet([10, 0, 0, 1], 80));
    let other = packet([10, 0, 0, 1], 81);
    for round in 0..3 {
        change(
            &machine,
            (&device, &mut filters),
            add(round, matches, round % 2),
        )
        .unwrap();
        let queue = Some(round as usize % 2 + 1);
        assert_eq!(arrives_at(&machine, &mut owners, &frame), queue);
        change(&machine, (&device, &mut filters), remove(round)).unwrap();
        assert_eq!(arrives_at(&machine, &mut owners, &frame), None);
        assert_eq!(arrives_at(&machine, &mut owners, &other), Some(0));
    }
    // One that is not known is out already.
    change(&machine, (&device, &mut filters), remove(9)).unwrap();
    // The place of a rule that was removed is used when it is needed: then its frames go to the kernel.
    for number in 0..4_u16 {
        let added = add(20 + u32::from(number), port([10, 0, 0, 2], number), 0);
        change(&machine, (&device, &mut filters), added).unwrap();
    }
    assert_eq!(arrives_at(&machine, &mut owners, &frame), Some(0));
    let more = add(30, port([10, 0, 0, 2], 9), 0);
    let full = change(&machine, (&device, &mut filters), more);
    assert_eq!(full, Err(SteerError::Full));
    assert_eq!(device.director_room(), Capacity::Small.filters() - 4);
    machine.assert_clean();
}

/// Without a queue to drop in, a removed flow is nobody's.
#[test]
fn with_all_pairs_claimable_a_removed_flow_is_the_kernels() {
    let machine = Machine::new(3);
    let mut pairs = [Pair::EMPTY; 128];
    let mut device = directed(&machine, ONE_PORT, &mut pairs);
    let mut entries = [Entry::UNUSED; 4];
    let mut filters = Filters::new(&mut [], 1).with_director(&mut entries);
    let mut owners = owners(&machine, &mut device, 2);
    let (matches, frame) = (port([10, 0, 0, 1], 80), packet([10, 0, 0, 1], 80));
    for round in 0..3 {
        change(&machine, (&device, &mut filters), add(round, matches, 0)).unwrap();
        assert_eq!(arrives_at(&machine, &mut owners, &frame), Some(1));
        change(&machine, (&device, &mut filters), remove(round)).unwrap();
        assert_eq!(arrives_at(&machine, &mut owners, &frame), Some(0));
        assert_eq!(device.director_room(), Capacity::Small.filters());
    }
    machine.assert_clean();
}

#[test]
fn a_prefix_and_a_vlan_are_led_exactly() {
    let machine = Machine::new(4);
    let masks = Masks {
        vlan: Field::Compared,
        destination_bits: 24,
        ..Masks::DESTINATION
    };
    let mut pairs = [Pair::EMPTY; 8];
    let mut device = directed(&machine, masks, &mut pairs);
    let (mut memory, mut entries) = ([Filter::UNUSED; 8], [Entry::UNUSED; 8]);
    let mut filters = Filters::new(&mut memory, 1).with_director(&mut entries);
    let mut owners = owners(&machine, &mut device, 4);
    for vlan in [5, 6] {
        device.set_vlan(Vlan::new(vlan).unwrap(), true).unwrap();
    }
    let within = |vlan| Matches {
        vlan: Vlan::new(vlan),
        ..to([10, 0, 3, 0], 24)
    };
    // Under VLAN 0, which is none, the rule is for untagged frames.
    for (number, vlan) in [(0, 0), (1, 5)] {
        change(
            &machine,
            (&device, &mut filters),
            add(number, within(vlan), number),
        )
        .unwrap();
    }
    let frame = |last| packet([10, 0, 3, last], 7);
    let outside = packet([10, 0, 4, 1], 7);
    for last in [0, 1, 200, 255] {
        let plain = frame(last);
        assert_eq!(arrives_at(&machine, &mut owners, &plain), Some(1));
        assert_eq!(
            arrives_at(&machine, &mut owners, &tagged(&plain, 5)),
            Some(2)
        );
        // Of the tag, its priority does not count.
        assert_eq!(
            arrives_at(&machine, &mut owners, &tagged(&plain, 0xE005)),
            Some(2)
        );
        assert_eq!(
            arrives_at(&machine, &mut owners, &tagged(&plain, 6)),
            Some(0)
        );
        assert_eq!(arrives_at(&machine, &mut owners, &tagged(&plain, 7)), None);
    }
    assert_eq!(arrives_at(&machine, &mut owners, &outside), Some(0));
    assert_eq!(
        arrives_at(&machine, &mut owners, &tagged(&outside, 5)),
        Some(0)
    );
    device.set_vlan(Vlan::new(6).unwrap(), false).unwrap();
    assert_eq!(
        arrives_at(&machine, &mut owners, &tagged(&frame(1), 6)),
        None
    );
    machine.assert_clean();
}

#[test]
fn bytes_of_a_frame_lead_and_drop() {
    let machine = Machine::new(5);
    // The first bytes of what UDP carries.
    let masks = Masks {
        protocol: Field::Compared,
        destination_bits: 0,
        flex: Some(42),
        ..Masks::DESTINATION
    };
    let mut pairs = [Pair::EMPTY; 8];
    let mut device = directed(&machine, masks, &mut pairs);
    let mut entries = [Entry::UNUSED; 8];
    let mut director = Director::new(&mut entries);
    let mut owners = owners(&machine, &mut device, 3);
    let flow = |flex| Flow {
        vlan: 0,
        protocol: Some(L4::Udp),
        destination: Ipv4Addr::UNSPECIFIED,
        source: Ipv4Addr::UNSPECIFIED,
        port: 0,
        source_port: 0,
        flex,
    };
    let lead = |director: &mut Director<'_>, number, flex, queue| {
        let rule = (RuleId::new(number, 0), flow(flex));
        director.begin_add(&device, rule, queue)?;
        poll(&machine, |now| director.poll(&device, now))
    };
    lead(&mut director, 1, [0xAB, 0xCD], Some(2)).unwrap();
    lead(&mut director, 2, [0xCD, 0xAB], None).unwrap();
    let frame = |flex: [u8; 2]| {
        let mut frame = packet([10, 0, 0, 1], 80);
        frame[42..44].copy_from_slice(&flex);
        frame
    };
    assert_eq!(
        arrives_at(&machine, &mut owners, &frame([0xAB, 0xCD])),
        Some(2)
    );
    assert_eq!(
        arrives_at(&machine, &mut owners, &frame([0xCD, 0xAB])),
        None
    );
    assert_eq!(
        arrives_at(&machine, &mut owners, &frame([0xAB, 0xAB])),
        Some(0)
    );
    let drop_queue = Some(127);
    assert_eq!(
        lead(&mut director, 3, [1, 1], drop_queue),
        Err(SteerError::NoSuchQueue)
    );
    let mut unmasked = flow([1, 1]);
    unmasked.port = 80;
    let rule = (RuleId::new(4, 0), unmasked);
    assert_eq!(
        director.begin_add(&device, rule, Some(1)),
        Err(SteerError::Masks)
    );
    machine.assert_clean();
}

/// After a reset all rules drop, until they are added again.
#[test]
fn rules_come_back_after_a_reset() {
    let machine = Machine::new(6);
    let mut pairs = [Pair::EMPTY; 8];
    let mut device = directed(&machine, ONE_PORT, &mut pairs);
    let mut entries = [Entry::UNUSED; 200];
    let mut filters = Filters::new(&mut [], 1).with_director(&mut entries);
    for number in 0..100_u16 {
        let added = add(number.into(), port([10, 0, 0, 1], number), 0);
        change(&machine, (&device, &mut filters), added).unwrap();
    }
    for _ in 0..3 {
        device.begin_reset(machine.world.now());
        poll(&machine, |now| device.poll_reset(now)).unwrap();
        filters.restore(&device);
        let early = add(200, port([10, 0, 0, 1], 500), 0);
        assert_eq!(filters.change(&device, early), Err(SteerError::Busy));
        poll(&machine, |now| filters.poll(&device, now)).unwrap();
        assert_eq!(device.director_room(), Capacity::Small.filters() - 100);
    }
    poll(&machine, |_| match device.link().is_up {
        true => Poll::Ready(()),
        false => Poll::Pending,
    });
    let mut owners = owners(&machine, &mut device, 2);
    let frame = |number| packet([10, 0, 0, 1], number);
    assert_eq!(arrives_at(&machine, &mut owners, &frame(7)), None);
    assert_eq!(arrives_at(&machine, &mut owners, &frame(100)), Some(0));
    let again = add(7, port([10, 0, 0, 1], 7), 0);
    change(&machine, (&device, &mut filters), again).unwrap();
    assert_eq!(arrives_at(&machine, &mut owners, &frame(7)), Some(1));
    machine.assert_clean();
}

#[test]
fn what_cannot_be_led_is_refused_by_name() {
    let machine = Machine::new(7);
    let mut pairs = [Pair::EMPTY; 4];
    let device = directed(&machine, Masks::DESTINATION, &mut pairs);
    let mut entries = [Entry::UNUSED; 4];
    let mut filters = Filters::new(&mut [], 1).with_director(&mut entries);
    let mut refused = |matches| filters.change(&device, add(1, matches, 0)).unwrap_err();
    let with = |change: &dyn Fn(&mut Matches)| {
        let mut matches = to([10, 0, 0, 1], 32);
        change(&mut matches);
        matches
    };
    // Under other masks they could be.
    assert_eq!(refused(to([10, 0, 0, 0], 24)), SteerError::Masks);
    assert_eq!(
        refused(with(&|it| it.vlan = Vlan::new(3))),
        SteerError::Masks
    );
    // Never.
    let range = PortRange::new(1, 2).unwrap();
    let other = Mac([2, 0, 0, 0, 0, 9]);
    assert_eq!(
        refused(with(&|it| it.ports = range)),
        SteerError::Unsupported
    );
    assert_eq!(refused(with(&|it| it.mac = other)), SteerError::Unsupported);
    assert_eq!(
        refused(with(&|it| it.address = None)),
        SteerError::Unsupported
    );
    assert!(Filters::can_express(&device, &to([10, 0, 0, 1], 32)));
    assert!(!Filters::can_express(&device, &to([10, 0, 0, 0], 24)));
    assert_eq!(
        device.set_vlan(Vlan::new(3).unwrap(), true),
        Err(SteerError::Masks)
    );
    let unfit = Masks {
        protocol: Field::Ignored,
        ..Masks::CONNECTION
    };
    for (masks, sharing) in [
        (unfit, Sharing::Queues),
        (Masks::DESTINATION, Sharing::Pools),
    ] {
        let capacity = Capacity::Large;
        let setup = Setup {
            sharing,
            director: Some(Config { capacity, masks }),
            ..Setup::new(Kind::Sfp, &mut [])
        };
        let result = Device::bring_up(machine.card.bar0(), &mut machine.world.clone(), setup);
        assert_eq!(result.unwrap_err(), InitError::Masks);
    }
}

fn field() -> impl Strategy<Value = Field> {
    prop::sample::select(&[Field::Ignored, Field::Compared][..])
}

fn masks() -> impl Strategy<Value = Masks> {
    let bits = || prop::sample::select(&[0, 8, 13, 24, 31, 32][..]);
    let ports = prop::option::of((field(), field()));
    (field(), ports, bits(), bits()).prop_map(|(vlan, ports, destination_bits, source_bits)| {
        let (port, source_port) = ports.unwrap_or((Field::Ignored, Field::Ignored));
        Masks {
            vlan,
            protocol: if ports.is_some() {
                Field::Compared
            } else {
                Field::Ignored
            },
            destination_bits,
            source_bits,
            port,
            source_port,
            flex: None,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Under any masks, packets of a flow go to its queue, and those that differ in what is compared, and only they, elsewhere.
    #[test]
    fn a_flow_is_what_the_masks_compare(masks in masks(), address: [u8; 4], ports: [u16; 2], vlan in 1..4095_u16, flip in 0..128_usize) {
        let machine = Machine::new(8);
        let mut pairs = [Pair::EMPTY; 4];
        let mut device = directed(&machine, masks, &mut pairs);
        let mut entries = [Entry::UNUSED; 4];
        let mut director = Director::new(&mut entries);
        let mut owners = owners(&machine, &mut device, 2);
        let compared = |field: Field, value: u16| if field == Field::Compared { value } else { 0 };
        let cut = |address: [u8; 4], bits| Ipv4Prefix::new(address.into(), bits);
        let within = |address: [u8; 4], bits: u8| {
            let bits = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            Ipv4Addr::from_bits(u32::from_be_bytes(address) & bits)
        };
        prop_assume!(cut(within(address, masks.destination_bits).octets(), masks.destination_bits).is_some());
        let source = [10, 9, 9, 9];
        let flow = Flow {
            vlan: compared(masks.vlan, vlan),
            protocol: (masks.protocol == Field::Compared).then_some(L4::Udp),
            destination: within(address, masks.destination_bits),
            source: within(source, masks.source_bits),
            port: compared(masks.port, ports[0]),
            source_port: compared(masks.source_port, ports[1]),
            flex: [0; 2],
        };
        if masks.vlan == Field::Compared {
            device.set_vlan(Vlan::new(vlan).unwrap(), true).unwrap();
        }
        director.begin_add(&device, (RuleId::new(1, 0), flow), Some(1)).unwrap();
        poll(&machine, |now| director.poll(&device, now)).unwrap();
        let mut frame = packet(address, ports[0]);
        frame[34..36].copy_from_slice(&ports[1].to_be_bytes());
        let dress = |frame: &[u8]| match masks.vlan {
            Field::Compared => tagged(frame, vlan),
            Field::Ignored => frame.to_vec(),
        };
        prop_assert_eq!(arrives_at(&machine, &mut owners, &dress(&frame)), Some(1));
        // One bit of the addresses or the ports differs.
        let (byte, bit) = match flip {
            0..64 => (26 + flip / 8, flip % 8),
            _ => (34 + (flip - 64) % 32 / 8, flip % 8),
        };
        frame[byte] ^= 0x80 >> bit;
        let is_compared = match byte {
            26..30 => (byte - 26) * 8 + bit < usize::from(masks.source_bits),
            30..34 => (byte - 30) * 8 + bit < usize::from(masks.destination_bits),
            34..36 => masks.source_port == Field::Compared,
            _ => masks.port == Field::Compared,
        };
        let expected = usize::from(!is_compared);
        prop_assert_eq!(arrives_at(&machine, &mut owners, &dress(&frame)), Some(expected));
        machine.assert_clean();
    }
}
