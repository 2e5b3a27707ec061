//! What comes of each fault of the model, and that it stays with whom it hit.

use core::time::Duration;

use parakernel_core::{
    device::QueueIndex,
    handle::RuleId,
    queue::TxQueue,
    steering::{Change, IpPrefix, Ipv4Prefix, Mac, Matches},
};
use parakernel_mock_hw::{
    fault::{Fault, When},
    memory::Lease,
    pci::Bar,
};
use parakernel_nic_ixgbe::{
    device::{Pair, PairState, Vector},
    doorbell::Tail,
    error::{InitError, PairError, RingError},
    offload::Metadata,
    steering::{Filter, Filters},
};

use crate::faults::FAULTS;
use crate::rig::{Card, MAC, Machine, N, Owned, QUEUES, claim, poll, release, udp};

/// Whose pair is hit, where a fault hits one.
const VICTIM: u8 = 0;
const OTHER: u8 = 1;

/// A port with two owners: pair 1 has a rule, pair 0 gets the rest.
struct Scene<'a> {
    machine: &'a Machine,
    device: Card<'a>,
    owners: [Owned<'a, Tail<Bar>>; 2],
    filters: Filters<'a>,
}

/// What is to come of a fault.
type Outcome = fn(&mut Scene<'_>);

/// The frame of `len` bytes for `pair`.
fn frame(pair: u8, len: usize) -> Vec<u8> {
    udp(MAC, [10, 0, 0, 99], [10, 0, 0, pair], len)
}

impl<'a> Scene<'a> {
    fn new(machine: &'a Machine) -> Self {
        machine.enable_interrupts(4);
        let pairs = vec![Pair::EMPTY; 4].leak();
        let mut device = machine.with_link(QUEUES, pairs);
        let mut filters = Filters::new(vec![Filter::UNUSED; 8].leak(), 0);
        filters.change(&device, rule()).unwrap();
        let owners = [VICTIM, OTHER].map(|pair| {
            let terms = (Lease(pair.into()), Metadata::None);
            claim(machine, &mut device, pair, terms).unwrap()
        });
        Self {
            machine,
            device,
            owners,
            filters,
        }
    }

    fn inject(&self, fault: Fault, when: When) {
        self.machine.card.faults().inject(fault, when);
    }

    fn clear(&self) {
        self.machine.card.faults().clear_all();
    }

    /// A frame comes to `pair`, and it finds nothing but that.
    fn passes(&mut self, pair: u8, len: usize) {
        let owner = &mut self.owners[usize::from(pair)];
        self.machine.wire.send(&frame(pair, len));
        assert!(owner.send(&frame(9, len), 64).unwrap());
        self.machine.settle();
        assert_eq!(owner.receive().unwrap(), [frame(pair, len)]);
        assert_eq!(self.machine.wire.take_all(), [frame(9, len)]);
        owner.tx.reclaim(&mut owner.pool).unwrap();
    }

    /// Resets the port; all begins anew.
    fn reset(&mut self) {
        self.clear();
        let device = &mut self.device;
        device.begin_reset(self.machine.world.now());
        poll(self.machine, |now| device.poll_reset(now)).unwrap();
        self.filters.restore(device);
        self.filters.change(device, rule()).unwrap();
        self.machine.world.run_for(Duration::from_millis(100));
        for (pair, owner) in (0..).zip(&mut self.owners) {
            let lease = Lease(pair.into());
            self.machine.memory.end(lease);
            *owner = claim(self.machine, device, pair, (lease, Metadata::None)).unwrap();
        }
        self.passes(VICTIM, 300);
        self.passes(OTHER, 301);
    }

    /// Messages of the next millisecond.
    fn messages(&self) -> Vec<u32> {
        self.machine.world.run_for(Duration::from_millis(1));
        let messages = self.machine.world.interrupts().take_all();
        messages.into_iter().map(|message| message.data).collect()
    }
}

fn rule() -> Change {
    Change::Add {
        rule: RuleId::new(0, 0),
        matches: Matches::to(
            Mac(MAC),
            IpPrefix::V4(Ipv4Prefix::host([10, 0, 0, OTHER].into())),
        ),
        queue: QueueIndex::new(OTHER.into()),
    }
}

/// The link is seen to go and to come, and what waits passes then.
fn link_flap(scene: &mut Scene<'_>) {
    scene.device.watch_port();
    scene.inject(Fault::LinkFlap, When::NEXT);
    scene.machine.wire.send(&frame(VICTIM, 100));
    scene.machine.settle();
    let machine = scene.machine;
    let device = &scene.device;
    assert!(device.take_cause().is_link());
    poll(machine, |_| {
        if device.link().is_up {
            core::task::Poll::Ready(())
        } else {
            core::task::Poll::Pending
        }
    });
    machine.settle();
    let came = scene.owners[0].receive().unwrap();
    assert_eq!(came, [frame(VICTIM, 100)]);
    scene.passes(OTHER, 200);
}

/// The queue drops what is for it and sends nothing; it does not stop, so its pair is quarantined until the reset.
fn stuck_queue(scene: &mut Scene<'_>) {
    scene.inject(Fault::StuckQueue(VICTIM.into()), When::Always);
    scene.machine.wire.send(&frame(VICTIM, 100));
    let victim = &mut scene.owners[usize::from(VICTIM)];
    assert!(victim.send(&frame(9, 100), 64).unwrap());
    scene.machine.settle();
    assert!(victim.receive().unwrap().is_empty());
    assert_eq!(victim.tx.reclaim(&mut victim.pool), Ok(0));
    scene.passes(OTHER, 200);
    let started = scene.machine.world.now().as_nanos();
    let released = release(scene.machine, &mut scene.device, VICTIM);
    assert!(
        matches!(released, Err(PairError::Quarantined(_))),
        "{released:?}"
    );
    let took = scene.machine.world.now().as_nanos() - started;
    assert!(took <= 102_000_000, "{took} ns");
    assert_eq!(
        scene.device.pair_state(VICTIM),
        Some(PairState::Quarantined)
    );
    scene.passes(OTHER, 201);
    // Another pair whose queue does not start.
    scene.inject(Fault::StuckQueue(2), When::Always);
    let terms = (Lease(2), Metadata::None);
    let claimed = claim(scene.machine, &mut scene.device, 2, terms).map(|_| ());
    assert!(
        matches!(claimed, Err(PairError::Quarantined(_))),
        "{claimed:?}"
    );
    scene.reset();
}

/// A frame whose "done" bit is not written is not seen, nor what comes behind it; the pair is given back as ever.
fn stuck_done(scene: &mut Scene<'_>) {
    scene.passes(VICTIM, 90);
    scene.inject(Fault::StuckDone, When::NEXT);
    scene.machine.wire.send(&frame(VICTIM, 100));
    scene.machine.settle();
    scene.machine.wire.send(&frame(VICTIM, 101));
    scene.machine.settle();
    assert!(scene.owners[0].receive().unwrap().is_empty());
    scene.passes(OTHER, 200);
    release(scene.machine, &mut scene.device, VICTIM).unwrap();
    // A report of the transmit head that is not written is made up for by the next.
    scene.inject(Fault::StuckDone, When::NEXT);
    let other = &mut scene.owners[usize::from(OTHER)];
    assert!(other.send(&frame(9, 100), 1514).unwrap());
    scene.machine.settle();
    assert_eq!(other.tx.reclaim(&mut other.pool), Ok(0));
    assert!(other.send(&frame(9, 101), 1514).unwrap());
    scene.machine.settle();
    assert_eq!(other.tx.reclaim(&mut other.pool), Ok(2));
}

/// Whoever looks finds the frame, and is told of the next one after it was armed again.
fn lost_interrupt(scene: &mut Scene<'_>) {
    let vector = Vector::new(1 + VICTIM).unwrap();
    drop(scene.messages());
    scene.device.arm(vector);
    scene.inject(Fault::LostInterrupt, When::NEXT);
    scene.machine.wire.send(&frame(VICTIM, 100));
    assert!(scene.messages().is_empty());
    assert_eq!(scene.owners[0].receive().unwrap().len(), 1);
    scene.device.arm(vector);
    scene.machine.wire.send(&frame(VICTIM, 101));
    assert_eq!(scene.messages(), [0x40 + u32::from(vector.number())]);
    assert_eq!(scene.owners[0].receive().unwrap().len(), 1);
}

/// Every operation says that the port is gone; nothing waits for it.
fn removal(scene: &mut Scene<'_>) {
    scene
        .device
        .begin_release(OTHER, scene.machine.world.now())
        .unwrap();
    scene.inject(Fault::Removal, When::NEXT);
    scene.machine.settle();
    let (machine, device) = (scene.machine, &mut scene.device);
    let started = machine.world.now().as_nanos();
    assert!(device.is_gone() && device.take_cause().is_gone() && !device.link().is_up);
    let removed = Err(PairError::Removed);
    assert_eq!(
        poll(machine, |now| device.poll_release(OTHER, now)),
        removed
    );
    assert_eq!(poll(machine, |_| device.poll_drain(VICTIM)), removed);
    assert_eq!(release(machine, device, VICTIM), removed);
    device.begin_reset(machine.world.now());
    let reset = poll(machine, |now| device.poll_reset(now));
    assert_eq!(reset, Err(InitError::Removed));
    let again = machine.bring_up(QUEUES, &mut [Pair::EMPTY; 1]).map(|_| ());
    assert_eq!(again, Err(InitError::Removed));
    assert!(machine.world.now().as_nanos() - started < 3_000_000_000);
    // The rings of both are quiet.
    assert!(scene.owners[0].receive().unwrap().is_empty());
}

/// A length beyond the buffer is an error of that queue; one inside it cannot be told from a true one.
fn bad_length(scene: &mut Scene<'_>) {
    let (mut errors, mut wrong) = (0, 0);
    for round in 0..40 {
        scene.inject(Fault::BadLength, When::NEXT);
        scene.machine.wire.send(&frame(VICTIM, 100 + round));
        scene.machine.settle();
        match scene.owners[0].receive() {
            Err(RingError::Length { len, posted }) => {
                assert!((len == 0 || len > posted) && posted == 2048);
                errors += 1;
                scene.passes(OTHER, 200);
                // The queue has ended for its owner; the pair begins anew.
                release(scene.machine, &mut scene.device, VICTIM).unwrap();
                let terms = (Lease(VICTIM.into()), Metadata::None);
                scene.machine.memory.end(Lease(VICTIM.into()));
                let again = claim(scene.machine, &mut scene.device, VICTIM, terms);
                scene.owners[0] = again.unwrap();
            }
            Ok(frames) => {
                assert!(frames.len() == 1 && frames[0].len() <= 2048);
                wrong += 1;
            }
            Err(other) => panic!("{other:?}"),
        }
    }
    assert!(errors > 20 && errors + wrong == 40, "{errors} and {wrong}");
    scene.passes(VICTIM, 99);
}

/// A head beyond what was sent is an error of that queue, and frees no buffer.
fn index_jump(scene: &mut Scene<'_>) {
    let mut errors = 0;
    for _ in 0..20 {
        scene.inject(Fault::IndexJump, When::NEXT);
        let victim = &mut scene.owners[usize::from(VICTIM)];
        assert!(victim.send(&frame(9, 100), 64).unwrap());
        scene.machine.settle();
        assert_eq!(scene.machine.wire.take_all().len(), 1);
        match victim.tx.reclaim(&mut victim.pool) {
            Err(RingError::Head { outstanding, .. }) => {
                assert_eq!(outstanding, victim.tx.in_flight());
                errors += 1;
            }
            other => assert!(other.is_ok_and(|count| count <= N), "{other:?}"),
        }
        scene.passes(OTHER, 200);
        release(scene.machine, &mut scene.device, VICTIM).unwrap();
        scene.machine.memory.end(Lease(VICTIM.into()));
        let terms = (Lease(VICTIM.into()), Metadata::None);
        scene.owners[0] = claim(scene.machine, &mut scene.device, VICTIM, terms).unwrap();
    }
    assert!(errors > 5, "{errors}");
    scene.passes(VICTIM, 99);
}

/// A reset that takes too long is an error in time, until another one succeeds.
fn slow_ready(scene: &mut Scene<'_>) {
    scene.inject(Fault::SlowReady, When::NEXT);
    let (machine, device) = (scene.machine, &mut scene.device);
    let started = machine.world.now().as_nanos();
    device.begin_reset(machine.world.now());
    let reset = poll(machine, |now| device.poll_reset(now));
    assert!(matches!(reset, Err(InitError::Reset(_))), "{reset:?}");
    assert!(machine.world.now().as_nanos() - started < 3_000_000_000);
    let rings = crate::rig::Rings::new(machine, [N, N], Lease(5)).of_card(2048);
    let claimed = device.begin_claim(2, rings, None, machine.world.now());
    assert_eq!(claimed, Err(PairError::WrongState), "not in service");
    // 30 s later the port may be asked again.
    machine.world.run_for(Duration::from_secs(31));
    scene.reset();
}

/// A transfer that the IOMMU refuses loses a frame of that queue; what is sent hangs, and the pair is given back.
fn iommu_fault(scene: &mut Scene<'_>) {
    scene.inject(Fault::IommuFault, When::NEXT);
    scene.machine.wire.send(&frame(VICTIM, 100));
    scene.machine.settle();
    assert!(scene.owners[0].receive().unwrap().is_empty());
    scene.passes(VICTIM, 101);
    scene.inject(Fault::IommuFault, When::NEXT);
    let victim = &mut scene.owners[usize::from(VICTIM)];
    assert!(victim.send(&frame(9, 100), 1514).unwrap());
    scene.machine.settle();
    assert!(scene.machine.wire.take_all().is_empty());
    assert!(scene.device.poll_drain(VICTIM).is_pending());
    scene.passes(OTHER, 200);
    release(scene.machine, &mut scene.device, VICTIM).unwrap();
}

#[test]
fn each_fault_has_its_outcome_and_stays_with_whom_it_hit() {
    let outcomes: [(Fault, Outcome); 9] = [
        (Fault::LinkFlap, link_flap),
        (Fault::StuckQueue(0), stuck_queue),
        (Fault::StuckDone, stuck_done),
        (Fault::LostInterrupt, lost_interrupt),
        (Fault::Removal, removal),
        (Fault::BadLength, bad_length),
        (Fault::IndexJump, index_jump),
        (Fault::SlowReady, slow_ready),
        (Fault::IommuFault, iommu_fault),
    ];
    assert_eq!(outcomes.map(|(fault, _)| fault), FAULTS);
    for (fault, outcome) in outcomes {
        for seed in 0..4 {
            let machine = Machine::new(seed);
            let mut scene = Scene::new(&machine);
            scene.passes(VICTIM, 1000);
            scene.passes(OTHER, 1001);
            outcome(&mut scene);
            assert!(
                machine.card.faults().count(fault).activated > 0,
                "{fault:?}"
            );
            assert_eq!(machine.memory.escapes(), [], "{fault:?}");
            machine.world.trace().assert_clean();
        }
    }
}
