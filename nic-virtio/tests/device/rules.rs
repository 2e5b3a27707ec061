//! Flow rules as classes of addresses, and a device that comes back from its reset.

use core::net::Ipv4Addr;

use parakernel_core::{
    device::QueueIndex,
    handle::RuleId,
    steering::{Change, IpPrefix, Ipv4Prefix, Mac, Matches, Protocol},
};
use parakernel_mock_hw::{
    fault::{Fault, When},
    memory::Lease,
    virtio_net::Features as Offered,
};
use parakernel_nic_virtio::{
    device::{Device, Pair, PairState},
    error::{CommandError, InitError},
    features::Features,
    steering::ClassRules,
    transport::{Transport, pci::PciTransport},
    virtqueue::split::Split,
};

use super::rig::{Bus, KERNEL, MAC, Machine, N, Owned, PciRegisters, claim, everything, poll, udp};

fn to(last: u8) -> Matches {
    let prefix = Ipv4Prefix::host(Ipv4Addr::new(10, 0, 0, last));
    Matches::to(Mac(MAC), IpPrefix::V4(prefix))
}

fn change<T: Transport>(
    machine: &Machine,
    device: &mut Device<'_, T>,
    rules: &mut ClassRules<'_>,
    change: Change,
) -> Result<(), CommandError> {
    rules.begin_change(device, change, machine.world.now())?;
    poll(machine, |now| rules.poll_change(device, now))
}

type Pci = PciTransport<PciRegisters>;
type Process<'a> = Owned<'a, Split<'a, N>, PciRegisters>;

/// A device whose pair 0 is the kernel's, whose pair 2, queue 1, is a process's, and that has room for two rules.
fn with_rules(
    test: impl for<'a> FnOnce(&'a Machine, &mut Device<'a, Pci>, &mut ClassRules<'_>, [Process<'a>; 2]),
) {
    let machine = Machine::new(5, Bus::Pci, everything());
    let mut slots = [Pair::EMPTY; 4];
    let transport = machine.pci().unwrap();
    let mut device = machine
        .bring_up(transport, Features::PARTITION, &mut slots)
        .unwrap();
    let (mut words, mut others) = ([0; 96], [0; 96]);
    let home = claim(&machine, &mut device, 0, KERNEL, &mut words).unwrap();
    let owned = claim(&machine, &mut device, 2, Lease(1), &mut others).unwrap();
    let mut room = [None; 2];
    let mut rules = ClassRules::new(&mut room, 0, 1);
    rules.begin(&mut device, machine.world.now()).unwrap();
    poll(&machine, |now| rules.poll_change(&mut device, now)).unwrap();
    test(&machine, &mut device, &mut rules, [home, owned]);
    machine.world.trace().assert_clean();
}

const ONE: RuleId = RuleId::new(1, 1);
const TWO: RuleId = RuleId::new(2, 1);

fn add(rule: RuleId, matches: Matches) -> Change {
    let queue = QueueIndex::new(1);
    Change::Add {
        rule,
        matches,
        queue,
    }
}

#[test]
fn only_whole_addresses_of_classes_that_are_free_can_be_expressed() {
    with_rules(|machine, device, rules, _| {
        let refused = Err(CommandError::Unsupported);
        assert_eq!(change(machine, device, rules, add(ONE, to(2))), Ok(()));
        assert!(!rules.can_express(device, &to(130)), "of the same class");
        assert_eq!(change(machine, device, rules, add(TWO, to(130))), refused);
        let protocol = Some(Protocol::Tcp);
        let tcp = Matches { protocol, ..to(3) };
        assert_eq!(change(machine, device, rules, add(TWO, tcp)), refused);
        assert_eq!(change(machine, device, rules, add(TWO, to(3))), Ok(()));
        let three = RuleId::new(3, 1);
        assert_eq!(
            change(machine, device, rules, add(three, to(4))),
            refused,
            "no room"
        );
    });
}

#[test]
fn rules_lead_frames_until_they_are_removed() {
    with_rules(|machine, device, rules, [mut home, mut owned]| {
        let frame = |last| udp(MAC, [10, 0, 0, 9], [10, 0, 0, last], 60);
        let arrives = |last| {
            machine.net.wire().send(&frame(last));
            machine.settle();
        };
        change(machine, device, rules, add(ONE, to(2))).unwrap();
        arrives(2);
        arrives(4);
        assert_eq!(owned.receive().unwrap(), [frame(2)]);
        assert_eq!(home.receive().unwrap(), [frame(4)]);
        let remove = Change::Remove { rule: ONE };
        assert_eq!(change(machine, device, rules, remove), Ok(()));
        arrives(2);
        assert_eq!(home.receive().unwrap(), [frame(2)]);
        let unknown = Err(CommandError::Argument);
        assert_eq!(change(machine, device, rules, remove), unknown);
    });
}

#[test]
fn a_change_that_fails_leaves_the_rules_as_they_were() {
    with_rules(|machine, device, rules, _| {
        machine.net.faults().inject(Fault::AdminWrongId, When::NEXT);
        let result = change(machine, device, rules, add(ONE, to(2)));
        assert!(
            matches!(result, Err(CommandError::Refused(_))),
            "{result:?}"
        );
        assert_eq!(poll(machine, |now| rules.poll_change(device, now)), result);
        assert!(rules.classes().pairs.iter().all(|&pair| pair == 0));
        assert_eq!(change(machine, device, rules, add(TWO, to(2))), Ok(()));
    });
}

#[test]
fn a_device_without_rss_expresses_no_rule() {
    let mut config = everything();
    config.features.remove(Offered::RSS);
    let machine = Machine::new(5, Bus::Pci, config);
    let mut slots = [Pair::EMPTY; 2];
    let transport = machine.pci().unwrap();
    let device = machine
        .bring_up(transport, Features::PARTITION, &mut slots)
        .unwrap();
    let mut room = [None; 2];
    assert!(!ClassRules::new(&mut room, 0, 1).can_express(&device, &to(2)));
}

#[test]
fn a_device_comes_back_from_its_reset() {
    let machine = Machine::new(6, Bus::Pci, everything());
    let mut slots = [Pair::EMPTY; 2];
    let transport = machine.pci().unwrap();
    let mut device = machine
        .bring_up(transport, Features::PARTITION, &mut slots)
        .unwrap();
    for lease in 1..4 {
        let words = vec![0; 96].leak();
        let mut owned =
            claim::<Split<'_, N>, _>(&machine, &mut device, 1, Lease(lease), words).unwrap();
        owned
            .send(&udp(MAC, [10, 0, 0, 1], [10, 0, 0, 2], 80), 4000)
            .unwrap();
        machine.net.need_reset();
        assert!(device.needs_reset());
        device.begin_reset(machine.world.now());
        assert_eq!(device.pair_state(1), Some(PairState::Free));
        poll(&machine, |now| device.poll_reset(now)).unwrap();
        machine.memory.end(Lease(lease));
        machine.settle();
        assert!(!device.needs_reset());
    }
    assert!(machine.memory.escapes().is_empty());
    machine.world.trace().assert_clean();
    machine.net.faults().inject(Fault::SlowReady, When::Always);
    device.begin_reset(machine.world.now());
    let result = poll(&machine, |now| device.poll_reset(now));
    assert!(matches!(result, Err(InitError::Reset(_))));
}
