//! What a kernel looks at now and then: counters, registers, queues that stand still.

use core::time::Duration;

use parakernel_core::{
    address::NodeId,
    mmio::{Registers, Width},
    queue::TxQueue,
};
use parakernel_mock_hw::{
    fault::{Fault, When},
    memory::Lease,
    pci::Bar,
};
use parakernel_nic_ixgbe::{
    device::{Device, Pair, PairState, Setup},
    dump::LEFT_OUT,
    error::PairError,
    hang::{Remedy, STILL_LIMIT, Watch},
    id::Kind,
    offload::Metadata,
    pause::Pauses,
    stats::PortStatistics,
};

use crate::rig::{MAC, Machine, POOLS, QUEUES, claim, poll, release, udp};

const FROM: [u8; 4] = [10, 0, 0, 1];
const TO: [u8; 4] = [10, 0, 0, 2];

#[test]
fn the_port_counts_what_was_sent_and_received() {
    let machine = Machine::new(51);
    let mut pairs = [Pair::EMPTY; 2];
    let mut device = machine.with_link(QUEUES, &mut pairs);
    let mut owned = claim(&machine, &mut device, 0, (Lease(1), Metadata::None)).unwrap();
    let mut sum = PortStatistics::default();
    let mut bytes = 0;
    for round in 0..20_usize {
        let frame = udp(MAC, FROM, TO, 60 + 10 * round);
        bytes += frame.len() as u64 + 4;
        let mut all = frame.clone();
        all[..6].fill(0xFF);
        let mut foreign = frame.clone();
        foreign[5] ^= 0x55;
        for frame in [&frame, &all, &foreign] {
            machine.wire.send(frame);
        }
        machine.settle();
        assert_eq!(owned.receive().unwrap(), [frame.clone(), all]);
        assert!(owned.send(&frame, 2000).unwrap());
        machine.settle();
        owned.tx.reclaim(&mut owned.pool).unwrap();
        // Whenever it is looked at, the sum is the same.
        if round % 3 == 0 {
            device.add_port_statistics(&mut sum);
        }
    }
    device.add_port_statistics(&mut sum);
    assert_eq!((sum.arrived, sum.let_in, sum.received()), (60, 40, 40));
    assert_eq!((sum.broadcasts, sum.multicasts, sum.missed), (20, 0, 0));
    assert_eq!((sum.let_in_bytes, sum.sent_bytes), (2 * bytes, bytes));
    assert_eq!((sum.sent, sum.sent_broadcasts, sum.spoofed), (20, 0, 0));
    let errors = [sum.bad_crc, sum.bad_bytes, sum.bad_length, sum.pauses];
    assert_eq!(errors, [0; 4]);
    machine.assert_clean();
}

/// Good frames less those that found no packet buffer; however the two lie.
#[test]
fn missed_frames_are_not_received() {
    let mut sum = PortStatistics::default();
    (sum.let_in, sum.missed) = (10, 3);
    assert_eq!(sum.received(), 7);
    sum.missed = 11;
    assert_eq!(sum.received(), 0);
}

#[test]
fn a_dump_reads_every_register_and_changes_none() {
    for terms in [QUEUES, POOLS] {
        let machine = Machine::new(52);
        let mut pairs = [Pair::EMPTY; 4];
        let mut device = machine.with_link(terms, &mut pairs);
        let _owned = claim(&machine, &mut device, 2, (Lease(1), Metadata::None)).unwrap();
        machine.wire.send(&udp(MAC, FROM, TO, 100));
        machine.settle();
        let first: Vec<_> = device.dump().collect();
        assert_eq!(device.dump().collect::<Vec<_>>(), first);
        assert!(first.len() > 4000, "{}", first.len());
        let one = |name, index| {
            let found = first.iter().find(|it| (it.name, it.index) == (name, index));
            let found = found.unwrap();
            (found.offset, found.value)
        };
        assert_eq!(one("Ral", 0), (0xA200, 0x0021_1b02));
        assert_eq!(one("Rxdctl", 2).0, 0x10A8);
        assert_eq!(one("Rxdctl", 2).1 >> 25 & 1, 1);
        assert_eq!(one("Rxdctl", 127).0, 0xDFE8);
        assert_eq!(one("Txdctl", 127).0, 0x7FE8);
        assert_eq!(one("Vfta", 127).0, 0xA1FC);
        // Of what clears itself nothing was taken.
        let mut sum = PortStatistics::default();
        device.add_port_statistics(&mut sum);
        assert_eq!(sum.arrived, 1);
        let mut offsets: Vec<_> = first.iter().map(|it| it.offset).collect();
        offsets.sort_unstable();
        assert!(
            offsets.windows(2).all(|pair| pair[0] < pair[1]),
            "one twice"
        );
        // Eicr, Swsm, a counter of the port and of a queue, the mailbox.
        for offset in [0x800, 0x1_0140, 0x4074, 0x1030, 0x1_3000] {
            assert!(offsets.binary_search(&offset).is_err(), "{offset:#x}");
        }
        assert!(!LEFT_OUT.is_empty());
        machine.assert_clean();
    }
}

/// Time goes on by a second, with looks; what the last one says.
fn watch(
    machine: &Machine,
    (device, watch): (&Device<'_, Bar>, &mut Watch),
    seconds: u64,
) -> Option<Remedy> {
    let mut remedy = None;
    for _ in 0..seconds {
        machine.world.run_for(Duration::from_secs(1));
        let paused = device.take_pauses() > 0;
        remedy = remedy.or(watch.look(device, (0, paused), machine.world.now()));
    }
    remedy
}

#[test]
fn a_queue_that_stands_still_is_seen_and_nothing_else_is() {
    let machine = Machine::new(53);
    let mut pairs = [Pair::EMPTY; 2];
    let mut device = machine.with_link(QUEUES, &mut pairs);
    let mut owned = claim(&machine, &mut device, 0, (Lease(1), Metadata::None)).unwrap();
    let mut state = Watch::NEW;
    let frame = udp(MAC, FROM, TO, 100);
    let second = STILL_LIMIT.as_secs();
    // Nothing to do, and something done now and then, is no hang.
    assert_eq!(watch(&machine, (&device, &mut state), 3 * second), None);
    for _ in 0..10 {
        assert!(owned.send(&frame, 200).unwrap());
        assert_eq!(watch(&machine, (&device, &mut state), 2), None);
        owned.tx.reclaim(&mut owned.pool).unwrap();
    }
    // Nor is waiting for a link.
    machine.card.set_link(false);
    assert!(owned.send(&frame, 200).unwrap());
    assert_eq!(watch(&machine, (&device, &mut state), 3 * second), None);
    machine.card.set_link(true);
    assert_eq!(watch(&machine, (&device, &mut state), 3 * second), None);
    assert_eq!(machine.wire.take_all().len(), 11);
}

/// One queue first, and its neighbour goes on; then the port.
#[test]
fn a_hang_is_mended_by_the_queue_then_by_the_port() {
    let machine = Machine::new(54);
    let mut pairs = [Pair::EMPTY; 2];
    let mut device = machine.with_link(QUEUES, &mut pairs);
    let mut owned = claim(&machine, &mut device, 0, (Lease(1), Metadata::None)).unwrap();
    let mut other = claim(&machine, &mut device, 1, (Lease(2), Metadata::None)).unwrap();
    let mut state = Watch::NEW;
    let frame = udp(MAC, FROM, TO, 100);
    machine
        .card
        .faults()
        .inject(Fault::StuckQueue(0), When::Always);
    assert!(owned.send(&frame, 200).unwrap());
    let remedy = watch(&machine, (&device, &mut state), STILL_LIMIT.as_secs() + 2);
    assert_eq!(remedy, Some(Remedy::Queue));
    assert!(other.send(&frame, 200).unwrap());
    machine.settle();
    assert_eq!(machine.wire.take_all(), core::slice::from_ref(&frame));
    // It does not even stop: then only the port's reset helps.
    let stuck = release(&machine, &mut device, 0);
    assert!(matches!(stuck, Err(PairError::Quarantined(_))), "{stuck:?}");
    assert_eq!(device.pair_state(0), Some(PairState::Quarantined));
    let remedy = watch(&machine, (&device, &mut state), 1);
    assert_eq!(remedy, Some(Remedy::Port));
    machine.card.faults().clear_all();
    device.begin_reset(machine.world.now());
    poll(&machine, |now| device.poll_reset(now)).unwrap();
    machine.world.run_for(Duration::from_millis(200));
    let mut again = claim(&machine, &mut device, 0, (Lease(3), Metadata::None)).unwrap();
    assert!(again.send(&frame, 200).unwrap());
    machine.settle();
    assert_eq!(machine.wire.take_all(), [frame]);
    assert_eq!(watch(&machine, (&device, &mut state), 10), None);
}

/// One that stops and works again is the queue's trouble; the same once more within a minute is the port's.
#[test]
fn a_queue_that_hangs_again_soon_is_the_ports_trouble() {
    let machine = Machine::new(55);
    let mut pairs = [Pair::EMPTY; 1];
    let mut device = machine.with_link(QUEUES, &mut pairs);
    let mut state = Watch::NEW;
    let frame = udp(MAC, FROM, TO, 100);
    for (round, expected) in [(0, Remedy::Queue), (1, Remedy::Port), (2, Remedy::Queue)] {
        let lease = (Lease(round), Metadata::None);
        let mut owned = claim(&machine, &mut device, 0, lease).unwrap();
        machine
            .card
            .faults()
            .inject(Fault::StuckQueue(0), When::Always);
        assert!(owned.send(&frame, 200).unwrap());
        let remedy = watch(&machine, (&device, &mut state), STILL_LIMIT.as_secs() + 2);
        assert_eq!(remedy, Some(expected), "{round}");
        machine.card.faults().clear_all();
        release(&machine, &mut device, 0).unwrap();
    }
}

#[test]
fn a_port_says_which_node_it_hangs_on() {
    let machine = Machine::new(56);
    let setup = Setup {
        node: NodeId::new(3),
        ..Setup::new(Kind::Sfp, &mut [])
    };
    let device = Device::bring_up(machine.card.bar0(), &mut machine.world.clone(), setup).unwrap();
    assert_eq!(device.node(), NodeId::new(3));
    assert_eq!(device.registers().read(0x8, Width::U32) >> 2 & 3, 0);
}

/// A pause holds back what is sent, where pauses are obeyed; and no frame of it reaches a queue.
#[test]
fn a_pause_is_obeyed_where_it_is_wanted() {
    for pauses in [Pauses::None, Pauses::Obeyed] {
        let machine = Machine::new(57);
        let setup = Setup {
            pauses,
            ..Setup::new(Kind::Sfp, vec![Pair::EMPTY; 1].leak())
        };
        let mut device =
            Device::bring_up(machine.card.bar0(), &mut machine.world.clone(), setup).unwrap();
        machine.world.run_for(Duration::from_millis(200));
        let mut owned = claim(&machine, &mut device, 0, (Lease(1), Metadata::None)).unwrap();
        let mut pause = vec![0; 60];
        pause[..6].copy_from_slice(&[0x01, 0x80, 0xC2, 0, 0, 1]);
        pause[12..18].copy_from_slice(&[0x88, 0x08, 0, 1, 0xFF, 0xFF]);
        machine.wire.send(&pause);
        machine.world.run_for(Duration::from_micros(100));
        let frame = udp(MAC, FROM, TO, 100);
        assert!(owned.send(&frame, 200).unwrap());
        machine.world.run_for(Duration::from_micros(500));
        let sent = machine.wire.take_all().len();
        machine.world.run_for(Duration::from_millis(5));
        let later = machine.wire.take_all().len();
        let expected = if pauses.are_obeyed() { (0, 1) } else { (1, 0) };
        assert_eq!((sent, later), expected);
        assert_eq!(device.take_pauses(), u64::from(pauses.are_obeyed()));
        assert_eq!(owned.receive().unwrap(), Vec::<Vec<u8>>::new());
        machine.assert_clean();
    }
}
