//! Every fault of the model, at every stage: each operation ends in success or in an error, within its bound; nothing
//! panics, and what was given back is left alone.

use parakernel_core::queue::{RxQueue, TxQueue};
use parakernel_mock_hw::{
    Ixgbe,
    fault::{Fault, When},
    memory::Lease,
};
use parakernel_nic_ixgbe::{
    device::{Pair, Vector},
    offload::Metadata,
    stats::QueueStatistics,
};

use crate::rig::{MAC, Machine, QUEUES, claim, poll, release, udp};

/// Where a fault begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    BringUp,
    Claim,
    Load,
    Release,
}

const STAGES: [Stage; 4] = [Stage::BringUp, Stage::Claim, Stage::Load, Stage::Release];

/// The faults that the model of this card has, but for an EEPROM read that never ends, with which nothing begins.
pub(crate) const FAULTS: [Fault; 9] = [
    Fault::LinkFlap,
    Fault::StuckQueue(0),
    Fault::StuckDone,
    Fault::LostInterrupt,
    Fault::Removal,
    Fault::BadLength,
    Fault::IndexJump,
    Fault::SlowReady,
    Fault::IommuFault,
];

/// A life of a card with one fault; what the operations return is checked only for not being a panic or a hang.
fn lives(machine: &Machine, begins: impl Fn(Stage, &Ixgbe)) {
    machine.enable_interrupts(3);
    begins(Stage::BringUp, &machine.card);
    let mut pairs = [Pair::EMPTY; 2];
    let Ok(mut device) = machine.bring_up(QUEUES, &mut pairs) else {
        return;
    };
    begins(Stage::Claim, &machine.card);
    machine
        .world
        .run_for(core::time::Duration::from_millis(100));
    if let Ok(mut owned) = claim(machine, &mut device, 0, (Lease(1), Metadata::Header)) {
        begins(Stage::Load, &machine.card);
        let mut is_alive = true;
        for round in 0..60_usize {
            let frame = udp(MAC, [10, 0, 0, 1], [10, 0, 0, 2], 60 + round * 9);
            machine.wire.send(&frame);
            is_alive = is_alive && owned.send(&frame, 300).is_ok();
            machine.world.settle(20);
            is_alive =
                is_alive && owned.receive().is_ok() && owned.tx.reclaim(&mut owned.pool).is_ok();
            if is_alive {
                owned.rx.arm(&mut owned.pool);
            }
            device.arm(Vector::new(1).unwrap());
        }
        device.add_statistics(0, &mut QueueStatistics::default());
        begins(Stage::Release, &machine.card);
        if release(machine, &mut device, 0).is_ok() {
            machine.memory.end(Lease(1));
            machine.settle();
        }
    }
    let _link = device.link();
    device.begin_reset(machine.world.now());
    let _result = poll(machine, |now| device.poll_reset(now));
}

#[test]
fn no_fault_makes_the_driver_panic_or_hang() {
    let mut activated = alloc::collections::BTreeMap::new();
    for fault in FAULTS {
        for stage in STAGES {
            for seed in 0..4 {
                let machine = Machine::new(seed);
                let when = match seed % 2 {
                    0 => When::Chance(150),
                    _ => When::After(seed),
                };
                lives(&machine, |now, card| {
                    if now == stage {
                        card.faults().inject(fault, when);
                    }
                });
                *activated.entry(fault).or_insert(0) +=
                    machine.card.faults().count(fault).activated;
                let escapes = machine.memory.escapes();
                assert!(escapes.is_empty(), "{fault:?} at {stage:?}: {escapes:?}");
                let now = machine.world.now().as_nanos();
                assert!(now < 10_000_000_000, "{fault:?} at {stage:?}");
            }
        }
    }
    let idle: Vec<_> = activated.iter().filter(|(_, count)| **count == 0).collect();
    assert!(idle.is_empty(), "never took effect: {idle:?}");
}

/// A card that lies in every register and descriptor that it gives: bytes say how.
#[test]
fn no_lie_makes_the_driver_panic_or_hang() {
    for seed in 0..120_u64 {
        let machine = Machine::new(seed);
        let lies: Vec<u8> = (0..4096_u64)
            .map(|n| (n.wrapping_add(seed).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8)
            .collect();
        let stage = STAGES[seed as usize % 4];
        lives(&machine, |now, card| {
            if now == stage {
                card.faults().lie(lies.clone());
            }
        });
        assert!(machine.world.now().as_nanos() < 10_000_000_000, "{seed}");
    }
}
