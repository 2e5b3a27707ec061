//! Which frame goes where: by five-tuples, by types of frames, by pools.

use parakernel_core::{
    device::QueueIndex,
    handle::RuleId,
    steering::{Change, IpPrefix, Ipv4Prefix, Mac, Matches, PortRange, Protocol, Vlan},
};
use parakernel_mock_hw::memory::Lease;
use parakernel_nic_ixgbe::{
    device::Pair,
    offload::Metadata,
    pool::PoolNames,
    steering::{Filter, Filters, set_ether_type},
};
use proptest::prelude::*;

use crate::rig::{Card, MAC, Machine, POOLS, QUEUES, claim, release, udp};

/// Terms of process `number`.
fn terms(number: u8) -> (Lease, Metadata) {
    (Lease(number.into()), Metadata::None)
}

fn host(last: u8) -> Matches {
    Matches::to(
        Mac(MAC),
        IpPrefix::V4(Ipv4Prefix::host([10, 0, 0, last].into())),
    )
}

fn add(number: u32, matches: Matches, queue: u32) -> Change {
    Change::Add {
        rule: RuleId::new(number, 0),
        matches,
        queue: QueueIndex::new(queue),
    }
}

/// Rules of four kinds, for queues 1 to 4: an address, another one, a port, a source; and one for a port that no frame
/// here is for.
fn rules() -> Vec<Change> {
    let mut port = host(3);
    port.protocol = Some(Protocol::Udp);
    port.ports = PortRange::new(2000, 2000).unwrap();
    let mut other_port = host(4);
    other_port.protocol = Some(Protocol::Udp);
    other_port.ports = PortRange::new(2001, 2001).unwrap();
    let mut source = host(5);
    source.source = Some(IpPrefix::V4(Ipv4Prefix::host([10, 9, 9, 9].into())));
    let rules = (0..).zip([host(1), host(2), port, source]);
    let rules = rules.map(|(number, matches)| add(number, matches, number));
    rules.chain([add(9, other_port, 0)]).collect()
}

/// Frames, and the queue where each is expected.
fn frames() -> Vec<(Vec<u8>, usize)> {
    let frame = |from, last, len| udp(MAC, from, [10, 0, 0, last], len);
    let some = [10, 0, 0, 99];
    let changed = |at: usize, bytes: &[u8]| {
        let mut frame = frame(some, if at == 12 { 1 } else { 3 }, 200);
        frame[at..at + bytes.len()].copy_from_slice(bytes);
        frame
    };
    // A broadcast to a process's address on the IP level is its own.
    let mut all = frame(some, 1, 64);
    all[..6].fill(0xFF);
    vec![
        (frame(some, 1, 100), 1),
        (frame(some, 2, 101), 2),
        (frame(some, 3, 102), 3),
        (frame(some, 4, 103), 0),
        (frame([10, 9, 9, 9], 5, 104), 4),
        (frame(some, 5, 105), 0),
        (frame(some, 6, 106), 0),
        // The first fragment, a later one, and ARP.
        (changed(20, &[0x20]), 0),
        (changed(21, &[8]), 0),
        (changed(12, &[8, 6]), 0),
        (frame(some, 1, 1514), 1),
        (all, 1),
    ]
}

#[test]
fn a_flow_goes_to_its_own_queue_and_all_else_to_the_kernel() {
    let machine = Machine::new(1);
    let mut pairs = [Pair::EMPTY; 8];
    let mut device = machine.with_link(QUEUES, &mut pairs);
    let mut memory = [Filter::UNUSED; 128];
    let mut filters = Filters::new(&mut memory, 1);
    let mut owners: Vec<_> = (0..5)
        .map(|pair| claim(&machine, &mut device, pair, terms(pair)).unwrap())
        .collect();
    for rule in rules() {
        filters.change(&device, rule).unwrap();
    }
    let frames = frames();
    for (frame, _) in &frames {
        machine.wire.send(frame);
    }
    machine.settle();
    for (number, owner) in owners.iter_mut().enumerate() {
        let expected = frames.iter().filter(|(_, queue)| *queue == number);
        let expected: Vec<_> = expected.map(|(frame, _)| frame.clone()).collect();
        assert_eq!(owner.receive().unwrap(), expected, "queue {number}");
    }
    machine.assert_clean();
}

/// A rule that is removed leads nowhere, before and after the queue is gone, until it comes back with another queue.
#[test]
fn a_flow_without_its_rule_goes_nowhere() {
    let machine = Machine::new(6);
    let mut pairs = [Pair::EMPTY; 8];
    let mut device = machine.with_link(QUEUES, &mut pairs);
    let mut memory = [Filter::UNUSED; 128];
    let mut filters = Filters::new(&mut memory, 1);
    let mut owners: Vec<_> = (0..3)
        .map(|pair| claim(&machine, &mut device, pair, terms(pair)).unwrap())
        .collect();
    filters.change(&device, add(0, host(1), 0)).unwrap();
    let rule = RuleId::new(0, 0);
    filters.change(&device, Change::Remove { rule }).unwrap();
    let frame = udp(MAC, [10, 0, 0, 99], [10, 0, 0, 1], 100);
    machine.wire.send(&frame);
    machine.settle();
    release(&machine, &mut device, 1).unwrap();
    machine.memory.end(Lease(1));
    machine.wire.send(&frame);
    machine.settle();
    let mut received = owners.iter_mut().map(|owner| owner.receive().unwrap());
    assert!(received.all(|frames| frames.is_empty()));
    filters.change(&device, add(0, host(1), 1)).unwrap();
    machine.wire.send(&frame);
    machine.settle();
    assert_eq!(owners[2].receive().unwrap(), [frame]);
    machine.assert_clean();
}

#[test]
fn an_ether_type_goes_to_its_queue() {
    let machine = Machine::new(2);
    let mut pairs = [Pair::EMPTY; 4];
    let mut device = machine.with_link(QUEUES, &mut pairs);
    let mut owners: Vec<_> = (0..3)
        .map(|pair| claim(&machine, &mut device, pair, terms(pair)).unwrap())
        .collect();
    set_ether_type(&device, 3, Some((0x88B5, 2))).unwrap();
    let mut frame = udp(MAC, [1; 4], [2; 4], 90);
    frame[12..14].copy_from_slice(&0x88B5_u16.to_be_bytes());
    machine.wire.send(&frame);
    machine.settle();
    assert_eq!(owners[2].receive().unwrap(), [frame.clone()]);
    set_ether_type(&device, 3, None).unwrap();
    machine.wire.send(&frame);
    machine.settle();
    assert_eq!(owners[0].receive().unwrap(), [frame]);
    machine.assert_clean();
}

/// The address of pool `number`.
fn pool_mac(number: u8) -> [u8; 6] {
    [2, 0, 0, 0, 1, number]
}

fn from_pool(number: u8, to: u8, len: usize) -> Vec<u8> {
    let mut frame = udp(pool_mac(to), [10, 0, 0, number], [10, 0, 0, to], len);
    frame[6..12].copy_from_slice(&pool_mac(number));
    frame
}

/// Opens pool `number` and claims its first queue.
fn open<'a>(
    machine: &'a Machine,
    device: &mut Card<'_>,
    number: u8,
    vlan: Option<Vlan>,
) -> crate::rig::Owned<'a, parakernel_nic_ixgbe::doorbell::Tail<parakernel_mock_hw::pci::Bar>> {
    let names = PoolNames {
        mac: Mac(pool_mac(number)),
        vlan,
    };
    device.open_pool(number, names).unwrap();
    let [queue, _] = Card::queues_of(number);
    claim(machine, device, queue, terms(number)).unwrap()
}

#[test]
fn a_pool_gets_its_own_and_sends_only_its_own() {
    let machine = Machine::new(3);
    let mut pairs = [Pair::EMPTY; 16];
    let mut device = machine.with_link(POOLS, &mut pairs);
    let mut kernel = claim(&machine, &mut device, 0, terms(9)).unwrap();
    let mut one = open(&machine, &mut device, 1, None);
    let mut two = open(&machine, &mut device, 2, None);
    let outside = |to| {
        let mut frame = from_pool(9, to, 100);
        frame[6..12].copy_from_slice(&[6; 6]);
        frame
    };
    for to in [1, 2] {
        machine.wire.send(&outside(to));
    }
    let mut all = outside(1);
    all[..6].fill(0xFF);
    machine.wire.send(&all);
    machine.settle();
    assert_eq!(one.receive().unwrap(), [outside(1)]);
    assert_eq!(two.receive().unwrap(), [outside(2)]);
    assert_eq!(kernel.receive().unwrap(), [all]);
    // Its own address leaves; another's does not.
    let mut spoofed = from_pool(1, 9, 100);
    spoofed[6..12].copy_from_slice(&pool_mac(2));
    assert!(one.send(&spoofed, 200).unwrap());
    assert!(one.send(&from_pool(1, 9, 101), 200).unwrap());
    machine.settle();
    assert_eq!(machine.wire.take_all(), [from_pool(1, 9, 101)]);
    device.close_pool(1).unwrap();
    machine.wire.send(&outside(1));
    machine.settle();
    assert!(one.receive().unwrap().is_empty());
    machine.assert_clean();
}

/// Tags lie in the frames, both ways: only the pool's own gets in, and only that leaves.
#[test]
fn a_pool_in_a_vlan_gets_and_sends_its_own_tag_only() {
    let machine = Machine::new(4);
    let mut pairs = [Pair::EMPTY; 16];
    let mut device = machine.with_link(POOLS, &mut pairs);
    let mut one = open(&machine, &mut device, 1, Vlan::new(100));
    let tagged = |frame: &[u8], vlan: u16| {
        let mut tagged = frame[..12].to_vec();
        tagged.extend([0x81, 0]);
        tagged.extend(vlan.to_be_bytes());
        tagged.extend(&frame[12..]);
        tagged
    };
    let plain = from_pool(9, 1, 100);
    for frame in [plain.clone(), tagged(&plain, 101), tagged(&plain, 100)] {
        machine.wire.send(&frame);
    }
    machine.settle();
    assert_eq!(one.receive().unwrap(), [tagged(&plain, 100)]);
    let own = from_pool(1, 9, 100);
    for vlan in [101, 100] {
        assert!(one.send(&tagged(&own, vlan), 200).unwrap());
    }
    machine.settle();
    assert_eq!(machine.wire.take_all(), [tagged(&own, 100)]);
    machine.assert_clean();
}

/// What a rule of the property test says.
#[derive(Clone, Copy, Debug)]
enum Step {
    Add(u8, u8),
    Remove(u8),
    Arrive(u8),
}

/// How a flow stands there.
#[derive(Clone, Copy, PartialEq)]
enum Flow {
    New,
    To(u8),
    Removed,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0..6_u8, 0..3_u8).prop_map(|(flow, queue)| Step::Add(flow, queue)),
        1 => (0..6_u8).prop_map(Step::Remove),
        4 => (0..6_u8).prop_map(Step::Arrive),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// A frame goes to the queue that the last rule of its flow says; nowhere after that was removed; to the kernel
    /// before there was one.
    #[test]
    fn flows_go_where_the_last_rule_says(steps in prop::collection::vec(step(), 1..60)) {
        let machine = Machine::new(5);
        let mut pairs = [Pair::EMPTY; 8];
        let mut device = machine.with_link(QUEUES, &mut pairs);
        let mut memory = [Filter::UNUSED; 128];
        let mut filters = Filters::new(&mut memory, 1);
        let mut owners: Vec<_> = (0..4)
            .map(|pair| claim(&machine, &mut device, pair, terms(pair)).unwrap())
            .collect();
        let mut flows = [Flow::New; 6];
        for step in steps {
            match step {
                Step::Add(flow, queue) => {
                    if let Flow::To(_) = flows[usize::from(flow)] {
                        let rule = RuleId::new(flow.into(), 0);
                        filters.change(&device, Change::Remove { rule }).unwrap();
                    }
                    filters.change(&device, add(flow.into(), host(flow), queue.into())).unwrap();
                    flows[usize::from(flow)] = Flow::To(queue + 1);
                }
                Step::Remove(flow) => {
                    let rule = RuleId::new(flow.into(), 0);
                    filters.change(&device, Change::Remove { rule }).unwrap();
                    if let Flow::To(_) = flows[usize::from(flow)] {
                        flows[usize::from(flow)] = Flow::Removed;
                    }
                }
                Step::Arrive(flow) => {
                    let frame = udp(MAC, [10, 0, 0, 99], [10, 0, 0, flow], 100);
                    machine.wire.send(&frame);
                    machine.settle();
                    let expected = match flows[usize::from(flow)] {
                        Flow::New => Some(0),
                        Flow::To(queue) => Some(usize::from(queue)),
                        Flow::Removed => None,
                    };
                    for (number, owner) in owners.iter_mut().enumerate() {
                        let frames = owner.receive().unwrap();
                        prop_assert_eq!(frames.len(), usize::from(expected == Some(number)));
                    }
                }
            }
        }
        machine.assert_clean();
    }
}
