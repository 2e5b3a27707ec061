//! Virtual functions: this driver on both sides of the mailbox, and each side against literal words of the other.

use core::{cell::RefCell, task::Poll, time::Duration};

use embedded_hal::delay::DelayNs;
use parakernel_core::{
    memory::Pool,
    mmio::Registers,
    queue::RxQueue,
    steering::{Mac, Vlan},
};
use parakernel_mock_hw::{
    ixgbe::Config,
    memory::{Lease, RequesterId, Translation},
    pci::{Bar, Endpoint},
};
use parakernel_nic_ixgbe::{
    device::{Device, Pair, Setup, Sharing, Vector},
    doorbell::Tail,
    error::{InitError, PairError, PoolError, VfError},
    functions::{Event, Function, Functions, Grant, Groups},
    id::Kind,
    offload::Metadata,
    rx::Receiver,
    tx::Sender,
    vf::{self, FunctionStatistics, Request},
};

use crate::rig::{Card, DEVICE, LAYOUT, MAC, Machine, N, Owned, Rings, claim, poll, udp};

const COUNT: u8 = 4;

fn mac(number: u8) -> Mac {
    Mac([2, 0, 0, 0, 2, number])
}

/// What function `number` is granted.
fn grant(number: u8) -> Grant {
    Grant {
        mac: mac(number),
        vlan: None,
        groups: Groups::Multicasts,
    }
}

fn machine(seed: u64) -> Machine {
    let config = Config {
        virtual_functions: COUNT,
        ..Config::default()
    };
    let machine = Machine::with(seed, config);
    // What a kernel writes into the SR-IOV capability: how many there are, then that they are there.
    let space = machine.card.config_space();
    space.write16(0x170, COUNT.into());
    space.write16(0x168, 0x19);
    for number in 0..COUNT {
        machine
            .memory
            .translate(requester(number), Translation::Mapped);
    }
    machine
}

/// Function n sits 128 + 2n after the port.
fn requester(number: u8) -> RequesterId {
    RequesterId(DEVICE.0 + 128 + 2 * u16::from(number))
}

fn endpoint(machine: &Machine, number: u8) -> Endpoint {
    let endpoint = machine.card.virtual_function(number.into()).unwrap();
    endpoint.config_space().enable();
    endpoint
}

/// The port's driver, with its functions granted.
struct Host<'m, 'p> {
    machine: &'m Machine,
    device: Card<'p>,
    functions: Functions<'p>,
    events: Vec<(u8, Event)>,
}

impl<'m> Host<'m, '_> {
    fn new(machine: &'m Machine) -> Self {
        let setup = Setup {
            sharing: Sharing::Pools,
            functions: COUNT,
            ..Setup::new(Kind::Sfp, vec![Pair::EMPTY; 128].leak())
        };
        let mut clock = machine.world.clone();
        let device = Device::bring_up(machine.card.bar0(), &mut clock, setup).unwrap();
        let mut functions = Functions::new(vec![Function::EMPTY; COUNT.into()].leak());
        for number in 0..COUNT {
            functions.grant(&device, number, grant(number)).unwrap();
        }
        // One's own again, and what another is granted, though neither has begun.
        functions.grant(&device, 1, grant(1)).unwrap();
        for mac in [mac(2), device.mac()] {
            let terms = Grant { mac, ..grant(1) };
            let granted = functions.grant(&device, 1, terms);
            assert_eq!(granted, Err(PoolError::Taken(mac)));
        }
        let beyond = functions.grant(&device, u8::MAX, grant(9));
        assert_eq!(beyond, Err(PoolError::NoSuchPool(u8::MAX)));
        poll(machine, |_| match device.link().is_up {
            true => Poll::Ready(()),
            false => Poll::Pending,
        });
        Self {
            machine,
            device,
            functions,
            events: Vec::new(),
        }
    }

    fn serve(&mut self) {
        let events = &mut self.events;
        self.functions
            .serve(&self.device, |number, event| events.push((number, event)));
    }
}

/// A process's time: while it waits, the port's driver works.
struct Clock<'h, 'm, 'p>(&'h RefCell<Host<'m, 'p>>);

impl DelayNs for Clock<'_, '_, '_> {
    fn delay_ns(&mut self, ns: u32) {
        let mut host = self.0.borrow_mut();
        host.machine.world.run_for(Duration::from_nanos(ns.into()));
        host.serve();
    }
}

type Vf<'p> = vf::Function<'p, Bar>;

fn bring_up<'p>(host: &RefCell<Host<'_, '_>>, number: u8) -> Result<Vf<'p>, VfError> {
    let bar = endpoint(host.borrow().machine, number).bar(0);
    let pairs = vec![Pair::EMPTY; 8].leak();
    vf::Function::bring_up(bar, &mut Clock(host), pairs)
}

fn ask(
    host: &RefCell<Host<'_, '_>>,
    function: &mut Vf<'_>,
    request: Request<'_>,
) -> Result<(), VfError> {
    let machine = host.borrow().machine;
    function.begin_request(request, machine.world.now())?;
    poll(machine, |now| {
        host.borrow_mut().serve();
        function.poll_request(now)
    })
}

/// Claims a pair of a function for a process.
fn claim_of<'m>(
    machine: &'m Machine,
    function: &mut Vf<'_>,
    (number, pair): (u8, u8),
) -> Result<Owned<'m, Tail<Bar>>, PairError> {
    let lease = Lease(100 + u64::from(number));
    let (requester, metadata) = (requester(number), Metadata::None);
    let arena = machine.memory.lend_arena(requester, LAYOUT, lease).unwrap();
    let mut pool = Pool::new(arena, vec![0; LAYOUT.count.into()].leak());
    let rings = Rings::of(machine, requester, ([N, N], lease));
    let bell = |offset: Option<usize>| {
        let size = parakernel_core::ring::RingSize::new(N as u32).unwrap();
        Tail::new(endpoint(machine, number).bar(0), offset.unwrap(), size)
    };
    let ring = rings.receive.memory();
    let rx_bell = bell(Vf::receive_tail(pair));
    let mut rx = Receiver::new(ring, ring, rx_bell, &LAYOUT, metadata).unwrap();
    let (ring, head) = (rings.transmit.memory(), rings.head.memory());
    let tx_bell = bell(Vf::transmit_tail(pair));
    let tx = Sender::new(ring, head, tx_bell, pool.arena().again(), metadata).unwrap();
    let now = machine.world.now();
    function.begin_claim(pair, rings.of_card(rx.posted()), Vector::new(pair), now)?;
    poll(machine, |now| function.poll_claim(pair, now))?;
    rx.arm(&mut pool);
    machine.settle();
    Ok(Owned { rx, tx, pool })
}

fn frame(from: Mac, to: Mac, len: usize) -> Vec<u8> {
    let mut frame = udp(to.0, [10, 0, 0, 1], [10, 0, 0, 2], len);
    frame[6..12].copy_from_slice(&from.0);
    frame
}

const OUTSIDE: Mac = Mac([6; 6]);

#[test]
fn functions_come_up_and_get_their_own_frames_only() {
    let machine = machine(61);
    let host = RefCell::new(Host::new(&machine));
    let mut kernel = {
        let terms = (Lease(9), Metadata::None);
        claim(&machine, &mut host.borrow_mut().device, 2 * COUNT, terms).unwrap()
    };
    let mut owners: Vec<_> = (0..COUNT)
        .map(|number| {
            let mut function = bring_up(&host, number).unwrap();
            let speed = function.link().speed_mbps;
            let said = (function.mac(), function.pairs(), speed);
            assert_eq!(said, (mac(number), 2, Some(10_000)));
            claim_of(&machine, &mut function, (number, 0)).unwrap()
        })
        .collect();
    let begun: Vec<_> = (0..COUNT).map(|n| (n, Event::Begun)).collect();
    assert_eq!(host.borrow().events, begun);
    let own = |number: u8| frame(OUTSIDE, mac(number), 100 + usize::from(number));
    for number in 0..COUNT {
        machine.wire.send(&own(number));
    }
    machine.wire.send(&frame(OUTSIDE, Mac(MAC), 90));
    machine.settle();
    for (number, owner) in (0..COUNT).zip(&mut owners) {
        assert_eq!(owner.receive().unwrap(), [own(number)], "{number}");
    }
    assert_eq!(kernel.receive().unwrap(), [frame(OUTSIDE, Mac(MAC), 90)]);
    // The pairs of functions are not the kernel's to claim.
    assert_eq!(host.borrow().device.pair_state(1), None);
    machine.assert_clean();
}

/// Its own address leaves; another's, and the port's own, do not. Counters go on from the first look.
#[test]
fn a_function_sends_from_its_own_address_only() {
    let machine = machine(70);
    let host = RefCell::new(Host::new(&machine));
    let mut one = bring_up(&host, 1).unwrap();
    let _two = bring_up(&host, 2).unwrap();
    let mut owner = claim_of(&machine, &mut one, (1, 0)).unwrap();
    for from in [mac(2), OUTSIDE, Mac(MAC), mac(1)] {
        assert!(owner.send(&frame(from, OUTSIDE, 80), 200).unwrap());
    }
    machine.settle();
    assert_eq!(machine.wire.take_all(), [frame(mac(1), OUTSIDE, 80)]);
    let mut sum = FunctionStatistics::default();
    one.add_statistics(&mut sum);
    assert!(owner.send(&frame(mac(1), OUTSIDE, 80), 200).unwrap());
    machine.wire.send(&frame(OUTSIDE, mac(1), 100));
    machine.settle();
    one.add_statistics(&mut sum);
    assert_eq!((sum.received(), sum.transmitted()), (1, 1));
    assert_eq!((sum.received_bytes(), sum.transmitted_bytes()), (104, 84));
    // Taken back, a pair leaves its memory alone.
    one.begin_release(0, machine.world.now()).unwrap();
    poll(&machine, |now| one.poll_release(0, now)).unwrap();
    machine.memory.end(Lease(101));
    machine.wire.send(&frame(OUTSIDE, mac(1), 100));
    machine.settle();
    machine.assert_clean();
}

#[test]
fn what_a_function_asks_for_is_held_against_its_grant() {
    let machine = machine(62);
    let host = RefCell::new(Host::new(&machine));
    {
        // In a VLAN, with nothing for several.
        let Host {
            device, functions, ..
        } = &mut *host.borrow_mut();
        let (vlan, groups) = (Vlan::new(7), Groups::None);
        let terms = Grant {
            vlan,
            groups,
            ..grant(2)
        };
        functions.grant(device, 2, terms).unwrap();
    }
    let mut one = bring_up(&host, 1).unwrap();
    let mut two = bring_up(&host, 2).unwrap();
    let group = |last| Mac([1, 0, 0x5E, 0, 0, last]);
    let [seven, eight] = [7, 8].map(|id| Vlan::new(id).unwrap());
    let refused = Err(VfError::Refused);
    let groups = Err(VfError::Groups);
    for (request, expected) in [
        (Request::Mac(mac(1)), Ok(())),
        (Request::Mac(mac(2)), refused),
        (Request::Mac(Mac(MAC)), refused),
        (Request::Join(seven), refused),
        (Request::MaxFrame(1514), Ok(())),
        (Request::MaxFrame(1515), refused),
        (Request::Groups(&[group(1), group(2), group(3)]), Ok(())),
        (Request::Groups(&[mac(1)]), groups),
        (Request::Groups(&[group(1); 31]), groups),
    ] {
        assert_eq!(ask(&host, &mut one, request), expected, "{request:?}");
    }
    for (request, expected) in [
        (Request::Join(seven), Ok(())),
        (Request::Join(eight), refused),
        (Request::Groups(&[group(1)]), refused),
    ] {
        assert_eq!(ask(&host, &mut two, request), expected, "{request:?}");
    }
    let is_refused = |(_, event): &&(u8, Event)| matches!(event, Event::Refused { .. });
    assert_eq!(host.borrow().events.iter().filter(is_refused).count(), 6);
    let mut first = claim_of(&machine, &mut one, (1, 0)).unwrap();
    let mut second = claim_of(&machine, &mut two, (2, 0)).unwrap();
    let all = Mac([0xFF; 6]);
    for to in [all, group(1), group(3), group(9), mac(2)] {
        machine.wire.send(&frame(OUTSIDE, to, 100));
    }
    let plain = frame(OUTSIDE, mac(2), 100);
    let tagged = |vlan| [&plain[..12], &[0x81, 0, 0, vlan], &plain[12..]].concat();
    machine.wire.send(&tagged(7));
    machine.wire.send(&tagged(8));
    machine.settle();
    let expected = [all, group(1), group(3)].map(|to| frame(OUTSIDE, to, 100));
    assert_eq!(first.receive().unwrap(), expected);
    assert_eq!(second.receive().unwrap(), [tagged(7)]);
    machine.assert_clean();
}

#[test]
fn a_function_without_a_grant_gets_nothing() {
    let machine = machine(63);
    let host = RefCell::new(Host::new(&machine));
    {
        let Host {
            device, functions, ..
        } = &mut *host.borrow_mut();
        functions.revoke(device, 3).unwrap();
        assert!(functions.revoke(device, COUNT).is_err());
    }
    assert_eq!(bring_up(&host, 3).unwrap_err(), VfError::Refused);
    // Revoked while it works: nothing is led to it, nothing leaves it, and it gets no answer but no.
    let mut one = bring_up(&host, 1).unwrap();
    let mut owner = claim_of(&machine, &mut one, (1, 0)).unwrap();
    {
        let Host {
            device, functions, ..
        } = &mut *host.borrow_mut();
        functions.revoke(device, 1).unwrap();
    }
    machine.wire.send(&frame(OUTSIDE, mac(1), 100));
    assert!(owner.send(&frame(mac(1), OUTSIDE, 80), 200).unwrap());
    machine.settle();
    assert_eq!(owner.receive().unwrap(), Vec::<Vec<u8>>::new());
    assert_eq!(machine.wire.take_all(), Vec::<Vec<u8>>::new());
    assert_eq!(
        ask(&host, &mut one, Request::Mac(mac(1))),
        Err(VfError::Refused)
    );
}

#[test]
fn a_reset_of_the_port_is_a_reset_of_its_functions() {
    let machine = machine(64);
    let host = RefCell::new(Host::new(&machine));
    let mut one = bring_up(&host, 1).unwrap();
    assert!(!one.was_reset());
    {
        let Host {
            device, functions, ..
        } = &mut *host.borrow_mut();
        device.begin_reset(machine.world.now());
        poll(&machine, |now| device.poll_reset(now)).unwrap();
        functions.restore(device);
    }
    assert!(one.was_reset());
    let now = machine.world.now();
    one.begin_request(Request::MaxFrame(1000), now).unwrap();
    let ended = poll(&machine, |now| one.poll_request(now));
    assert_eq!(ended, Err(VfError::Reset));
    one.begin_reset(machine.world.now());
    poll(&machine, |now| {
        host.borrow_mut().serve();
        one.poll_reset(now)
    })
    .unwrap();
    assert_eq!((one.was_reset(), one.mac()), (false, mac(1)));
    machine.wire.send(&frame(OUTSIDE, mac(1), 99));
    machine.settle();
    machine.assert_clean();
}

#[test]
fn a_function_level_reset_closes_the_function_only() {
    let machine = machine(65);
    let host = RefCell::new(Host::new(&machine));
    let mut one = bring_up(&host, 1).unwrap();
    let mut two = bring_up(&host, 2).unwrap();
    let mut second = claim_of(&machine, &mut two, (2, 0)).unwrap();
    let _first = claim_of(&machine, &mut one, (1, 0)).unwrap();
    host.borrow_mut().events.clear();
    endpoint(&machine, 1).config_space().write16(0xA8, 0x8000);
    host.borrow_mut().serve();
    assert_eq!(host.borrow().events, [(1, Event::Reset)]);
    machine.memory.end(Lease(101));
    machine.wire.send(&frame(OUTSIDE, mac(1), 100));
    machine.wire.send(&frame(OUTSIDE, mac(2), 101));
    machine.settle();
    assert_eq!(second.receive().unwrap(), [frame(OUTSIDE, mac(2), 101)]);
    machine.assert_clean();
}

/// Writes words as a function does, and takes the answer.
fn say(host: &RefCell<Host<'_, '_>>, bar: &Bar, words: &[u32]) -> [u32; 5] {
    bar.write32(0x2FC, 4);
    for (index, word) in words.iter().enumerate() {
        bar.write32(0x200 + 4 * index, *word);
    }
    bar.write32(0x2FC, 1);
    host.borrow_mut().serve();
    let state = bar.read32(0x2FC);
    assert_eq!(state & 0x3C, 0x30, "answered, acknowledged, given back");
    core::array::from_fn(|index| bar.read32(0x200 + 4 * index))
}

/// The port's side against literal words of a function.
#[test]
fn the_port_answers_in_the_words_that_all_drivers_use() {
    let machine = machine(66);
    let host = RefCell::new(Host::new(&machine));
    let bar = endpoint(&machine, 1).bar(0);
    let _reset_done = bar.read32(0x2FC);
    let conversation: [(&[u32], u32); 16] = [
        // Before it began it gets a no to everything, without "clear to send".
        (&[2, 2, 0x0102], 0x4000_0002),
        (&[1], 0x8000_0001),
        (&[8, 2], 0xA000_0008),
        (&[8, 9], 0x6000_0008),
        (&[2, 2, 0x0102], 0xA000_0002),
        (&[2, 2, 0x0202], 0x6000_0002),
        (&[1 << 16 | 4, 0], 0xA001_0004),
        (&[1 << 16 | 4, 5], 0x6001_0004),
        (&[5, 1518], 0xA000_0005),
        (&[5, 1519], 0x6000_0005),
        (&[5, 63], 0x6000_0005),
        (&[1 << 16 | 6], 0x6001_0006),
        (&[0xA], 0x6000_000A),
        (&[0xFFFF], 0x6000_FFFF),
        // Groups 01:00:5e:00:00:01 and :02, whose bits 47 to 36 are 0x010 and 0x020.
        (&[2 << 16 | 3, 0x20 << 16 | 0x10], 0xA002_0003),
        (&[0], 0x6000_0000),
    ];
    for (words, expected) in conversation {
        assert_eq!(say(&host, &bar, words)[0], expected, "{words:x?}");
    }
    let table = [0x5200, 0x5204].map(|offset| machine.card.bar0().read32(offset));
    assert_eq!(table, [1 << 16, 1]);
    let queues = say(&host, &bar, &[9, 0, 0, 0, 0]);
    assert_eq!(queues, [0xA000_0009, 2, 2, 0, 0]);
    // Version 1.0 knows of none.
    assert_eq!(say(&host, &bar, &[8, 0])[0], 0xA000_0008);
    assert_eq!(say(&host, &bar, &[9, 0, 0, 0, 0])[0], 0x6000_0009);
    assert_eq!(say(&host, &bar, &[1])[..4], [0x8000_0001, 2, 0x0102, 0]);
}

#[test]
fn a_function_cannot_keep_its_mailbox_from_the_port() {
    let machine = machine(71);
    let host = RefCell::new(Host::new(&machine));
    let bar = endpoint(&machine, 1).bar(0);
    assert_eq!(say(&host, &bar, &[1])[0], 0x8000_0001);
    bar.write32(0x200, 9);
    bar.write32(0x2FC, 4 | 1);
    host.borrow_mut().serve();
    assert_eq!(bar.read32(0x2FC) & 0x3C, 0x30);
    // What looks like an answer gets none.
    bar.write32(0x2FC, 4);
    bar.write32(0x200, 0x8000_0001);
    bar.write32(0x2FC, 1);
    host.borrow_mut().serve();
    assert_eq!(bar.read32(0x2FC) & 0x3C, 0);
    // News come unasked.
    host.borrow().functions.tell_all(&host.borrow().device);
    assert_eq!(bar.read32(0x2FC) & 0x10, 0x10);
    assert_eq!(bar.read32(0x200), 0x2000_0100);
}

const FIRST: &[u32] = &[0x8000_0001, 2, 3];
const YES: &[u32] = &[0xA000_0008];

/// The function's side against literal words of a port, and a port that does not behave.
#[test]
fn a_function_believes_its_port_nothing() {
    type Answers = &'static [&'static [u32]];
    let queues = |transmit, receive| Err(VfError::Queues { transmit, receive });
    let group = Mac([1, 0, 0, 0, 0, 0]);
    let cases: [(Answers, Result<u8, VfError>); 9] = [
        (&[FIRST, YES, &[0xA000_0009, 2, 2, 0, 0]], Ok(2)),
        (&[FIRST, YES, &[0xA000_0009, 8, 4, 0, 0]], Ok(4)),
        // An old driver.
        (&[FIRST, &[0x6000_0008], &[0x6000_0008]], Ok(1)),
        (&[&[0x4000_0001]], Err(VfError::Refused)),
        (&[&[0xC000_0001, 2, 3]], Err(VfError::Refused)),
        (&[&[0x8000_0001, 0, 0]], Err(VfError::Mac(Mac([0; 6])))),
        (&[&[0x8000_0001, 1, 0]], Err(VfError::Mac(group))),
        (&[FIRST, YES, &[0xA000_0009, 0, 2, 0, 0]], queues(0, 2)),
        (&[FIRST, YES, &[0xA000_0009, 9, 99, 0, 0]], queues(9, 99)),
    ];
    for (answers, expected) in cases {
        let machine = machine(67);
        let _port = Host::new(&machine);
        let port = machine.card.bar0();
        let mut clock = Scripted {
            machine: &machine,
            answers: answers.iter(),
        };
        // News in between are no answer.
        port.write32(0x1_3040, 0x2000_0100);
        let bar = endpoint(&machine, 1).bar(0);
        let pairs = vec![Pair::EMPTY; 8].leak();
        let result = vf::Function::bring_up(bar, &mut clock, pairs);
        assert_eq!(result.map(|function| function.pairs()), expected);
    }
}

/// A port that answers whatever is asked with the next of these.
struct Scripted<'m, I> {
    machine: &'m Machine,
    answers: I,
}

impl<'a, I: Iterator<Item = &'a &'static [u32]>> DelayNs for Scripted<'_, I> {
    fn delay_ns(&mut self, ns: u32) {
        self.machine.world.run_for(Duration::from_nanos(ns.into()));
        let port = self.machine.card.bar0();
        if port.read32(0x710) & 2 == 0 {
            return;
        }
        port.write32(0x710, 2);
        let Some(answer) = self.answers.next() else {
            return;
        };
        for (index, word) in answer.iter().enumerate() {
            port.write32(0x1_3040 + 4 * index, *word);
        }
        port.write32(0x4B04, 3);
    }
}

#[test]
fn a_port_that_is_not_there_or_silent_is_said() {
    // No driver of the port at all.
    let machine = machine(68);
    let bar = endpoint(&machine, 1).bar(0);
    let pairs = vec![Pair::EMPTY; 1].leak();
    let error = vf::Function::bring_up(bar, &mut machine.world.clone(), pairs).unwrap_err();
    assert!(matches!(error, VfError::NotReady(_)), "{error:?}");
    // One that never answers.
    let _port = Host::new(&machine);
    let bar = endpoint(&machine, 1).bar(0);
    let pairs = vec![Pair::EMPTY; 1].leak();
    let error = vf::Function::bring_up(bar, &mut machine.world.clone(), pairs).unwrap_err();
    assert!(matches!(error, VfError::NoAnswer(_)), "{error:?}");
    assert!(machine.world.now().as_nanos() < 6_000_000_000);
    for (sharing, functions) in [(Sharing::Queues, 1), (Sharing::Pools, 64)] {
        let setup = Setup {
            sharing,
            functions,
            ..Setup::new(Kind::Sfp, &mut [])
        };
        let result = Device::bring_up(machine.card.bar0(), &mut machine.world.clone(), setup);
        assert_eq!(result.unwrap_err(), InitError::Functions(functions));
    }
}

#[test]
fn a_functions_vectors_are_its_own() {
    let machine = machine(69);
    let host = RefCell::new(Host::new(&machine));
    let endpoint = endpoint(&machine, 1);
    let mut one = bring_up(&host, 1).unwrap();
    endpoint.config_space().write16(0x72, 0x8000);
    for vector in 0..3 {
        endpoint.bar(3).write32(16 * vector, 0xFEE0_0000);
        endpoint
            .bar(3)
            .write32(16 * vector + 8, 0x50 + vector as u32);
        endpoint.bar(3).write32(16 * vector + 12, 0);
    }
    let mut owner = claim_of(&machine, &mut one, (1, 1)).unwrap();
    let taken = || {
        machine.world.run_for(Duration::from_millis(1));
        let messages = machine.world.interrupts().take_all();
        let own = messages.iter().filter(|it| it.requester == requester(1));
        own.map(|it| it.data).collect::<Vec<_>>()
    };
    assert!(taken().is_empty());
    // Not armed, not told; armed, once, also of what came before.
    assert!(owner.send(&frame(mac(1), OUTSIDE, 80), 200).unwrap());
    machine.settle();
    assert!(taken().is_empty());
    one.arm(Vector::new(1).unwrap());
    assert_eq!(taken(), [0x51]);
    assert!(owner.send(&frame(mac(1), OUTSIDE, 81), 200).unwrap());
    assert!(taken().is_empty());
    one.arm(Vector::new(1).unwrap());
    assert_eq!(taken(), [0x51]);
    // The mailbox has the third.
    one.watch_port(Vector::new(2));
    one.arm(Vector::new(2).unwrap());
    host.borrow().functions.tell_all(&host.borrow().device);
    assert_eq!(taken(), [0x52]);
}
