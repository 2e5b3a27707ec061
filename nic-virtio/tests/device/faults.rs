//! Every fault of the model, at every stage: each operation ends in success or in an error, within its bound; nothing
//! panics, no buffer is lost by the driver, and no queue of another lease is touched.

use parakernel_core::queue::{RxQueue, TxQueue};
use parakernel_mock_hw::{
    fault::{Fault, When},
    memory::Lease,
    virtio_net::VirtioNet,
};
use parakernel_nic_virtio::{
    control::Command,
    device::Pair,
    features::Features,
    virtqueue::{packed::Packed, split::Split},
};

use super::rig::{Bus, MAC, Machine, N, Ring, claim, command, everything, poll, udp};

/// Where a fault begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    BringUp,
    Claim,
    Load,
    Release,
}

const STAGES: [Stage; 4] = [Stage::BringUp, Stage::Claim, Stage::Load, Stage::Release];

/// A life of a device with one fault; what the operations return is checked only for not being a panic or a hang.
fn lives<'a, F: Ring<'a>>(
    machine: &'a Machine,
    wanted: Features,
    (words, pairs): (&'a mut [u32], &'a mut [Pair]),
    begins: impl Fn(Stage, &VirtioNet),
) {
    begins(Stage::BringUp, &machine.net);
    let Ok(transport) = machine.pci() else { return };
    let Ok(mut device) = machine.bring_up(transport, wanted | F::FEATURES, pairs) else {
        return;
    };
    begins(Stage::Claim, &machine.net);
    let claimed = claim::<F, _>(machine, &mut device, 0, Lease(1), words);
    if let Ok(mut owned) = claimed {
        begins(Stage::Load, &machine.net);
        let mut alive = true;
        for round in 0..60_usize {
            let frame = udp(MAC, [10, 0, 0, 1], [10, 0, 0, 2], 60 + round * 9);
            machine.net.wire().send(&frame);
            alive = alive && owned.send(&frame, 300).is_ok();
            machine.world.settle(20);
            alive = alive && owned.receive().is_ok() && owned.tx.reclaim(&mut owned.pool).is_ok();
            if alive {
                owned.rx.arm(&mut owned.pool);
            }
        }
        let _answer = command(machine, &mut device, &Command::Promiscuous(true));
        begins(Stage::Release, &machine.net);
        if device.begin_release(0, machine.world.now()).is_ok()
            && poll(machine, |now| device.poll_release(0, now)).is_ok()
        {
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
    let mut activated = std::collections::BTreeMap::new();
    for fault in Fault::ALL {
        for stage in STAGES {
            for seed in 0..6 {
                let machine = Machine::new(seed, Bus::Pci, everything());
                let when = if seed % 2 == 0 {
                    When::Chance(150)
                } else {
                    When::After(seed)
                };
                let begins = |now, net: &VirtioNet| {
                    if now == stage {
                        net.faults().inject(fault, when);
                    }
                };
                let more = if seed % 3 == 0 {
                    Features::IN_ORDER
                } else {
                    Features::MRG_RXBUF
                };
                let wanted = Features::PARTITION | more;
                let (mut words, mut pairs) = ([0; 96], [Pair::EMPTY; 2]);
                let room: (&mut [u32], &mut [Pair]) = (&mut words, &mut pairs);
                if seed < 3 {
                    lives::<Split<'_, N>>(&machine, wanted, room, begins);
                } else {
                    lives::<Packed<'_, N>>(&machine, wanted, room, begins);
                }
                *activated.entry(fault).or_insert(0) += machine.net.faults().count(fault).activated;
                assert!(
                    machine.memory.escapes().is_empty(),
                    "{fault:?} at {stage:?}"
                );
                assert!(
                    machine.world.now().as_nanos() < 10_000_000_000,
                    "{fault:?} at {stage:?}"
                );
            }
        }
    }
    for fault in Fault::ALL {
        assert!(activated[&fault] > 0, "{fault:?} never took effect");
    }
}

/// A device that lies in every register and ring it writes: bytes say how.
#[test]
fn no_lie_makes_the_driver_panic_or_hang() {
    for seed in 0..200_u64 {
        let machine = Machine::new(seed, Bus::Pci, everything());
        let lies: Vec<u8> = (0..4096_u64)
            .map(|n| (n.wrapping_add(seed).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8)
            .collect();
        let stage = STAGES[seed as usize % 4];
        let begins = |now, net: &VirtioNet| {
            if now == stage {
                net.faults().lie(lies.clone());
            }
        };
        let (mut words, mut pairs) = ([0; 96], [Pair::EMPTY; 2]);
        let room: (&mut [u32], &mut [Pair]) = (&mut words, &mut pairs);
        let wanted = Features::PARTITION | Features::MRG_RXBUF;
        if seed % 2 == 0 {
            lives::<Split<'_, N>>(&machine, wanted, room, begins);
        } else {
            lives::<Packed<'_, N>>(&machine, wanted, room, begins);
        }
        assert!(machine.world.now().as_nanos() < 10_000_000_000, "{seed}");
    }
}
