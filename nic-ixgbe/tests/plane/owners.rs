//! Every pair of the card is somebody's: the kernel's, or one of 127 processes'.

use parakernel_core::{
    access::AccessMode,
    control::{Outcome, Request},
    device::Vector,
};

use super::bench::{Bench, Process, frame};

/// Processes beside the kernel.
const PROCESSES: u8 = 127;
/// Vectors for them: the card has 64, and the first is the port's own.
const VECTORS: usize = 63;
/// A host that is nobody's, so the kernel's.
const NOBODY: u8 = 200;

/// What is to come to each process, and to the kernel, in this order.
struct Expected {
    processes: Vec<Vec<Vec<u8>>>,
    kernel: Vec<Vec<u8>>,
}

impl Expected {
    fn new() -> Self {
        Self {
            processes: vec![Vec::new(); usize::from(PROCESSES) + 1],
            kernel: Vec::new(),
        }
    }

    /// Everybody has got all that was to come, and nothing else.
    fn check(&mut self, bench: &mut Bench, owners: &mut [Process]) {
        for owner in owners {
            let expected = core::mem::take(&mut self.processes[usize::from(owner.number)]);
            let came = owner.receive();
            assert!(
                came == expected,
                "process {}: {} frames, not {}",
                owner.number,
                came.len(),
                expected.len()
            );
        }
        let (own, expected) = (
            bench.machine().card.take_own(),
            core::mem::take(&mut self.kernel),
        );
        let is_right = own == expected;
        assert!(
            is_right,
            "the kernel: {} frames, not {} {:?}",
            own.len(),
            expected.len(),
            bench.machine().card.model.counts()
        );
    }
}

fn turns(bench: &mut Bench, count: usize) {
    for _ in 0..count {
        bench.turn();
    }
}

/// A claim says whether its vector is its own: all but one are, and the last wakes the rest.
fn check_vectors(owners: &[Process]) {
    let mut own: Vec<u32> = Vec::new();
    let mut shared: Vec<u32> = Vec::new();
    for owner in owners {
        match owner.vector {
            Vector::Own(number) => own.push(number),
            Vector::Shared(number) => shared.push(number),
            Vector::None => panic!("process {} has no vector", owner.number),
        }
    }
    own.sort_unstable();
    own.dedup();
    assert_eq!(
        (own.len(), shared.len()),
        (VECTORS - 1, owners.len() + 1 - VECTORS)
    );
    shared.dedup();
    assert!(shared.len() == 1 && !own.contains(&shared[0]), "{shared:?}");
    assert!(own.iter().all(|&number| (number as usize) < VECTORS));
}

/// A frame for one wakes it and whoever shares its vector, and nobody else.
fn check_wakes(bench: &mut Bench, owners: &mut [Process], expected: &mut Expected) {
    for (at, owner) in owners.iter().enumerate() {
        let (number, queue, vector) = (owner.number, owner.queue, owner.vector);
        bench.machine().card.arm(queue);
        drop(bench.machine().card.take_messages());
        let comes = frame(NOBODY, number, 60 + at, number);
        bench.arrives(&comes);
        expected.processes[usize::from(number)].push(comes);
        turns(bench, 20);
        let messages = bench.machine().card.take_messages();
        assert_eq!(messages, [vector.number().unwrap()], "process {number}");
    }
    expected.check(bench, owners);
}

/// Frames to and from everybody, in any order.
fn check_traffic(bench: &mut Bench, owners: &mut [Process], expected: &mut Expected) {
    let mut left: Vec<(usize, usize)> = (0..=owners.len())
        .flat_map(|owner| (0..4).map(move |round| (owner, round)))
        .collect();
    let mut sent = vec![Vec::new(); 256];
    while !left.is_empty() {
        let (at, round) = left.swap_remove(bench.below(left.len()));
        let len = 60 + 7 * at + 100 * round;
        let Some(owner) = owners.get_mut(at) else {
            let comes = frame(1, NOBODY, len, 0xEE);
            bench.arrives(&comes);
            expected.kernel.push(comes);
            let goes = frame(NOBODY, 1, len, 0xEF);
            bench.machine().card.send_own(&goes);
            sent[usize::from(NOBODY)].push(goes);
            continue;
        };
        let number = owner.number;
        let goes = frame(number, NOBODY, len, number);
        owner.send(&goes);
        sent[usize::from(number)].push(goes);
        let comes = frame(NOBODY, number, len + 1, number);
        bench.arrives(&comes);
        expected.processes[usize::from(number)].push(comes);
        if bench.below(4) == 0 {
            bench.turn();
        }
    }
    turns(bench, 100);
    expected.check(bench, owners);
    let mut went = vec![Vec::new(); 256];
    for frame in bench.machine().card.wire.take_all() {
        went[usize::from(frame[29])].push(frame);
    }
    assert!(went == sent, "what left is not what was sent");
}

/// Gives a pair back while frames for it come. What comes for it afterwards is the kernel's: there is no queue left that drops.
fn give_back(bench: &mut Bench, owner: Process, expected: &mut Expected) {
    let (id, number, lease) = (owner.id, owner.number, owner.lease);
    (0..3).for_each(|n| bench.arrives(&frame(NOBODY, number, 400 + n, number)));
    let revoked = bench.ask(id, Request::Release(lease));
    assert_eq!(revoked, Outcome::Revoked { lease });
    assert_eq!(owner.dismantle(), usize::from(super::card::LAYOUT.count));
    // Between the rule's end and the queue's these may have come to the kernel.
    let stray = bench.machine().card.take_own();
    assert!(stray.iter().all(|frame| frame[33] == number));
    let comes = frame(NOBODY, number, 500, number);
    bench.arrives(&comes);
    expected.kernel.push(comes);
    turns(bench, 4);
    bench.kill(id);
}

#[test]
fn all_128_pairs_have_owners_who_know_whom_their_vector_wakes() {
    let mut bench = Bench::new(5, 128, 129);
    let before = bench.counts();
    let mut owners: Vec<Process> = (1..=PROCESSES).map(|number| bench.start(number)).collect();
    check_vectors(&owners);
    // Whoever comes too late shares what is multiplexed in software.
    let late = bench.spawn(201);
    let outcome = bench.claim(late);
    let Outcome::Claimed {
        first_mode: AccessMode::Virtual,
        second_mode: AccessMode::Virtual,
        vector: Vector::None,
        ..
    } = outcome
    else {
        panic!("{outcome:?}")
    };
    bench.kill(late);
    let mut expected = Expected::new();
    check_wakes(&mut bench, &mut owners, &mut expected);
    check_traffic(&mut bench, &mut owners, &mut expected);
    while owners.len() > usize::from(PROCESSES) / 2 {
        let at = bench.below(owners.len());
        let owner = owners.swap_remove(at);
        give_back(&mut bench, owner, &mut expected);
        expected.check(&mut bench, &mut owners);
    }
    // Others may have what was given back, and those that stayed are where they were.
    let free: Vec<u8> = (1..=PROCESSES)
        .filter(|number| owners.iter().all(|owner| owner.number != *number))
        .collect();
    owners.extend(free.iter().map(|&number| bench.start(number)));
    check_vectors_again(&owners);
    check_traffic(&mut bench, &mut owners, &mut expected);
    for owner in owners.drain(..) {
        give_back(&mut bench, owner, &mut expected);
        expected.check(&mut bench, &mut []);
    }
    assert_eq!(bench.counts(), before);
    assert!(bench.machine().is_vacant());
    bench.assert_clean();
}

/// A vector that is somebody's own is nobody else's.
fn check_vectors_again(owners: &[Process]) {
    for owner in owners {
        if let Vector::Own(number) = owner.vector {
            let users = owners
                .iter()
                .filter(|other| other.vector.number() == Some(number));
            assert_eq!(users.count(), 1, "vector {number}");
        }
    }
}
