//! Processes that die in full flight, and resets under them, beside one that goes on.

use parakernel_core::{
    control::{Event, Failure, Outcome, Request},
    device::{QueueIndex, Vector},
};
use parakernel_mock_hw::memory::Range;

use super::bench::{Bench, NIC, Process, frame};
use super::card::N;
use super::machine::{DEVICE, Early};

/// The process that goes on, and the one that dies.
const STAYS: u8 = 9;
const DIES: u8 = 2;
const PEER: u8 = 77;

/// What a life was given.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Resources {
    region: Range,
    queue: QueueIndex,
    vector: Vector,
}

/// Frames come and go at a process until all have, and are found to be right.
fn work(bench: &mut Bench, process: &mut Process, fill: u8) {
    let (coming, going) = (1 + bench.below(5), 1 + bench.below(5));
    let arrives = |n: usize| frame(PEER, process.number, 60 + 300 * n, fill);
    let leaves = |n: usize| frame(process.number, PEER, 64 + 200 * n, fill);
    let [arriving, leaving] = [
        (0..coming).map(arrives).collect::<Vec<_>>(),
        (0..going).map(leaves).collect(),
    ];
    arriving.iter().for_each(|frame| bench.arrives(frame));
    leaving.iter().for_each(|frame| process.send(frame));
    let (mut came, mut went) = (Vec::new(), Vec::new());
    for _ in 0..1000 {
        bench.turn();
        came.extend(process.receive());
        went.extend(bench.machine().card.wire.take_all());
        if (came.len(), went.len()) == (coming, going) {
            break;
        }
    }
    assert!(came == arriving, "{} of {} came", came.len(), coming);
    assert!(went == leaving, "{} of {} went", went.len(), going);
}

/// Frames for both, which the card has not looked at; returns those for the process that stays.
fn arrivals(bench: &mut Bench) -> Vec<Vec<u8>> {
    let mut stay = Vec::new();
    for n in 0..1 + bench.below(6) {
        bench.arrives(&frame(PEER, DIES, 60 + 200 * n, 0xee));
        if bench.below(2) == 0 {
            let frame = frame(PEER, STAYS, 61 + 200 * n, 0xed);
            bench.arrives(&frame);
            stay.push(frame);
        }
    }
    stay
}

struct Lives {
    bench: Bench,
    stays: Process,
    /// How many lives ended with frames to be sent in the card's hands, and with frames on their way in.
    in_flight: [usize; 2],
}

impl Lives {
    fn new(seed: u64) -> Self {
        let mut bench = Bench::new(seed, 4, 2);
        let stays = bench.start(STAYS);
        Self {
            bench,
            stays,
            in_flight: [0; 2],
        }
    }

    /// One that works, and dies with frames on their way in both directions, some time after its lease was taken where the
    /// life's number says so.
    fn life(&mut self, number: usize) -> Resources {
        let fill = u8::try_from(number % 251).unwrap();
        let mut process = self.bench.start(DIES);
        let given = Resources {
            region: self.bench.machine().range_of(process.id),
            queue: process.queue,
            vector: process.vector,
        };
        let bench = &mut self.bench;
        work(bench, &mut process, fill);
        work(bench, &mut self.stays, fill);
        for n in 0..bench.below(8) {
            process.send(&frame(DIES, PEER, 64 + 150 * n, fill));
        }
        bench.machine().turn();
        let mut expected = arrivals(bench);
        let steps = bench.below(40) as u64;
        bench.machine().world.settle(steps);
        let sending = bench.machine().card.outstanding(process.queue);
        let waiting = bench.machine().card.wire.waiting();
        self.in_flight[0] += usize::from(sending > 0);
        self.in_flight[1] += usize::from(waiting > 0);
        bench.machine().card.is_hasty = number.is_multiple_of(2);
        if number & 4 == 0 {
            bench.control.revoke_all(process.id);
            let lease = process.lease;
            bench.turn_until(|event| {
                let Event::Deliver {
                    outcome: Outcome::Revoked { lease: of },
                    ..
                } = event
                else {
                    return None;
                };
                (*of == lease).then_some(())
            });
        }
        bench.kill(process.id);
        expected.extend(arrivals(bench));
        bench.machine().world.settle(5000);
        bench.turn();
        assert!(self.stays.receive() == expected, "life {number}");
        let strays = bench.machine().card.take_own();
        assert!(
            strays.is_empty(),
            "life {number}: frames of a flow that is nobody's"
        );
        drop(bench.machine().card.wire.take_all());
        given
    }
}

#[test]
fn a_thousand_processes_die_in_full_flight_and_leave_nothing() {
    let mut lives = Lives::new(17);
    let before = lives.bench.counts();
    let mut first = None;
    for number in 0..1000 {
        let given = lives.life(number);
        assert_eq!(
            *first.get_or_insert_with(|| given.clone()),
            given,
            "life {number}"
        );
        assert_eq!(lives.bench.counts(), before, "life {number}");
        assert_eq!(lives.bench.machine().ram.escapes(), [], "life {number}");
    }
    let [sending, arriving] = lives.in_flight;
    assert!(sending > 250 && arriving > 250, "{sending} and {arriving}");
    lives.bench.assert_clean();
}

/// A process dies with frames on their way, on a platform that frees `early`; whether the audit caught the card at it.
fn is_caught(early: Option<Early>) -> bool {
    let mut bench = Bench::new(18, 4, 2);
    let mut stays = bench.start(STAYS);
    let mut process = bench.start(DIES);
    work(&mut bench, &mut process, 1);
    bench.machine().early = early;
    (0..8).for_each(|n| process.send(&frame(DIES, PEER, 64 + 100 * n, 2)));
    bench.machine().turn();
    drop(arrivals(&mut bench));
    bench.kill(process.id);
    let escapes = bench.machine().ram.escapes();
    assert!(escapes.iter().all(|dma| dma.requester == DEVICE));
    bench.machine().world.settle(5000);
    drop((stays.receive(), bench.machine().card.wire.take_all()));
    bench.machine().early = None;
    work(&mut bench, &mut stays, 3);
    !escapes.is_empty()
}

#[test]
fn memory_that_is_freed_when_its_process_dies_is_caught() {
    assert!(!is_caught(None));
    assert!(is_caught(Some(Early::Regions)));
    assert!(is_caught(Some(Early::Leases)));
}

/// The port is reset with everybody's frames on their way: both leases are lost, told, acknowledged, and work again with the
/// rules that they had; a third process that comes later is not disturbed by what was.
#[test]
fn after_a_reset_in_full_flight_all_goes_on() {
    for seed in 0..20 {
        let mut bench = Bench::new(seed, 8, 2);
        let mut processes = [bench.start(STAYS), bench.start(DIES)];
        for process in &mut processes {
            work(&mut bench, process, 1);
        }
        for process in &mut processes {
            (0..N / 2).for_each(|n| process.send(&frame(process.number, PEER, 64 + 100 * n, 2)));
        }
        drop(arrivals(&mut bench));
        bench.machine().turn();
        let steps = bench.below(60) as u64;
        bench.machine().world.settle(steps);
        let now = bench.machine().world.now();
        bench.control.device_failed(NIC, Failure::NeedsReset, now);
        let mut lost = Vec::new();
        bench.turn_until(|event| {
            if let Event::Deliver {
                outcome: Outcome::Lost { lease, epoch },
                ..
            } = event
            {
                lost.push((*lease, *epoch));
            }
            (lost.len() == 2).then_some(())
        });
        wait_for_link(&mut bench);
        let mut again = Vec::new();
        for process in processes {
            let (lease, epoch) = *lost
                .iter()
                .find(|(lease, _)| *lease == process.lease)
                .unwrap();
            // What comes for a lease that is lost is dropped.
            bench.arrives(&frame(PEER, process.number, 300, 9));
            (0..4).for_each(|_| drop(bench.turn()));
            let rearmed = bench.ask(process.id, Request::Acknowledge { lease, epoch });
            assert_eq!(rearmed, Outcome::Rearmed { lease });
            again.push(bench.renew(process));
        }
        let strays = bench.machine().card.take_own();
        assert!(strays.is_empty(), "seed {seed}: frames of lost leases");
        drop(bench.machine().card.wire.take_all());
        for process in &mut again {
            work(&mut bench, process, 3);
        }
        for process in again {
            let id = process.id;
            bench.kill(id);
        }
        assert!(bench.machine().is_vacant(), "seed {seed}");
        bench.assert_clean();
    }
}

fn wait_for_link(bench: &mut Bench) {
    for _ in 0..20_000 {
        bench.turn();
        if bench.machine().card.model.link_is_up() {
            return;
        }
    }
    panic!("the link does not come back");
}
