//! The NVMe model against the slow and obvious: two maps of blocks, one of which survives a loss of power.

use alloc::collections::BTreeMap;
use core::time::Duration;

use parakernel_core::mmio::Registers;
use parakernel_mock_hw::{
    fault::{Fault, When},
    strategy::{BlockStep, block_step, lies},
};
use proptest::{collection::vec, prelude::*};

use super::{pattern, ready};
use crate::host::{self, Host};

extern crate alloc;

/// What the blocks must hold. `None` reads as zeros.
#[derive(Default)]
struct Expected {
    durable: BTreeMap<u64, u8>,
    cached: BTreeMap<u64, Option<u8>>,
}

impl Expected {
    fn put(&mut self, lba: u64, blocks: u64, seed: Option<u8>) {
        for n in 0..blocks {
            self.cached
                .insert(lba + n, seed.map(|seed| seed.wrapping_add(n as u8)));
        }
    }

    fn flush(&mut self) {
        for (lba, seed) in core::mem::take(&mut self.cached) {
            match seed {
                Some(seed) => self.durable.insert(lba, seed),
                None => self.durable.remove(&lba),
            };
        }
    }

    fn read(&self, lba: u64, blocks: u64) -> Vec<u8> {
        let block = |lba| {
            let seed = match self.cached.get(&lba) {
                Some(cached) => *cached,
                None => self.durable.get(&lba).copied(),
            };
            seed.map_or(vec![0; 512], |seed| pattern(seed, 512))
        };
        (lba..lba + blocks).flat_map(block).collect()
    }
}

fn run(host: &mut Host, expected: &mut Expected, step: &BlockStep, offset: usize) {
    match *step {
        BlockStep::Write { lba, blocks, seed } => {
            let bytes: Vec<u8> = (0..blocks)
                .flat_map(|n| pattern(seed.wrapping_add(n as u8), 512))
                .collect();
            assert_eq!(host.write(1, lba, &bytes, offset), 0);
            expected.put(lba, blocks, Some(seed));
        }
        BlockStep::Read { lba, blocks } => {
            let (status, bytes) = host.read(1, lba, 512 * blocks as usize, offset);
            assert_eq!(status, 0);
            assert!(bytes == expected.read(lba, blocks), "{step:?}");
        }
        BlockStep::Zero { lba, blocks } => {
            let status = host.io(0x08, 1, |command| {
                (command[10], command[12]) = (lba as u32, blocks as u32 - 1);
            });
            assert_eq!(status, 0);
            expected.put(lba, blocks, None);
        }
        BlockStep::Flush => {
            assert_eq!(host.io(0x00, 1, |_| {}), 0);
            expected.flush();
        }
        BlockStep::PowerCycle => {
            host.nvme.power_cycle();
            host.nvme.config_space().enable();
            expected.cached.clear();
            host.enable_again();
            assert_eq!(host.create_pair(1, 16), (0, 0));
        }
    }
}

/// How a queue with commands in flight is stopped.
#[derive(Clone, Copy, Debug)]
enum Stop {
    Disable,
    DeleteQueue,
    FunctionReset,
    Removal,
}

proptest! {
    #[test]
    fn blocks_hold_what_was_written_last_and_flushed_ones_survive(
        seed in any::<u64>(),
        steps in vec((block_step(0..64, 40), 0..1024_usize), 1..40),
    ) {
        let mut host = ready(seed, host::config());
        let mut expected = Expected::default();
        for (step, offset) in steps {
            run(&mut host, &mut expected, &step, 4 * offset);
        }
        host.trace().assert_clean();
        assert!(host.memory.escapes().is_empty());
    }

    /// However and whenever the queue is stopped: once that is confirmed, its memory is not touched any more.
    #[test]
    fn a_stopped_queue_makes_no_transfer(
        seed in any::<u64>(),
        commands in 1..15_u16,
        steps in 0..120_u32,
        stop in prop_oneof![
            Just(Stop::Disable), Just(Stop::DeleteQueue), Just(Stop::FunctionReset), Just(Stop::Removal)
        ],
    ) {
        let mut host = ready(seed, host::config());
        host.submit_reads(1, commands);
        for _ in 0..steps {
            host.world.step();
        }
        match stop {
            Stop::Disable => {
                host.bar.write32(0x14, 0);
                while host.bar.read32(0x1c) & 1 == 1 {
                    host.world.run_for(Duration::from_micros(1));
                }
            }
            Stop::DeleteQueue => prop_assert_eq!(host.admin(0, |command| command[10] = 1), 0),
            // Device control of the PCI Express capability, which follows power management.
            Stop::FunctionReset => host.nvme.config_space().write16(0x48 + 8, 0x8000),
            Stop::Removal => host.nvme.remove(),
        }
        host.end_lease();
        host.settle();
        if matches!(stop, Stop::Disable | Stop::FunctionReset) {
            // Nor does anything come back with the controller.
            host.nvme.config_space().enable();
            host.enable_again();
            host.settle();
        }
        prop_assert!(host.memory.escapes().is_empty());
    }

    /// A device that lies, or fails, still only reaches what it was lent, and its model never panics.
    #[test]
    fn lies_and_faults_do_not_reach_beyond_the_lease(
        seed in any::<u64>(),
        lies in lies(),
        faults in vec((0..Fault::ALL.len(), 0..60_u64), 0..4),
        commands in 1..15_u16,
    ) {
        let mut host = ready(seed, host::config());
        let device = host.nvme.faults();
        device.lie(lies);
        for (fault, after) in faults {
            device.inject(Fault::ALL[fault], When::After(after));
        }
        host.submit_reads(1, commands);
        host.settle();
        for offset in (0..0x40).step_by(4) {
            host.bar.read32(offset);
        }
        host.settle();
        prop_assert!(host.memory.escapes().is_empty());
    }
}

/// Where drivers write, and anywhere else.
fn register() -> impl Strategy<Value = (usize, u64, bool)> {
    let known = prop_oneof![
        Just(0x14_usize),
        Just(0x24),
        Just(0x28),
        Just(0x30),
        Just(0x0c),
        (0x1000..0x1040_usize),
        (0..0x5000_usize)
    ];
    let value = prop_oneof![
        Just(0x0046_0001_u64),
        Just(0),
        Just(0x0046_4001),
        0..20_u64,
        (0..64_u64).prop_map(|page| BASE + page * 4096),
        any::<u64>()
    ];
    (known, value, any::<bool>())
}

const BASE: u64 = 0x4_0000_0000;

/// A command whose opcode and fields are sometimes sound.
fn command() -> impl Strategy<Value = Vec<u8>> {
    let dword = prop_oneof![
        Just(0_u32),
        0..300_u32,
        any::<u32>(),
        (0..64_u32).prop_map(|page| page * 4096)
    ];
    (0..16_u8, any::<u16>(), vec(dword, 15), any::<bool>()).prop_map(|(opcode, id, dwords, sgl)| {
        let mut bytes = vec![opcode, u8::from(sgl) << 6];
        bytes.extend(id.to_le_bytes());
        bytes.extend(dwords.iter().flat_map(|dword| dword.to_le_bytes()));
        // Most addresses lie above 4 GiB, where the memory is.
        bytes[28] = 4;
        bytes[36] = 4;
        bytes
    })
}

proptest! {
    /// Whatever a driver writes, into registers, doorbells and rings: no panic, and no transfer beyond its memory
    /// that goes unnoticed.
    #[test]
    fn no_driver_makes_the_model_panic(
        seed in any::<u64>(),
        commands in vec(command(), 16),
        writes in vec((register(), 0..40_u32), 1..60),
    ) {
        let mut host = ready(seed, host::config());
        let victim = host.memory.allocate(4096).unwrap();
        host.memory.fill(victim, 0x5a);
        host.put_commands(&commands);
        for ((offset, value, wide), steps) in writes {
            if wide {
                host.bar.write64(offset & !7, value);
            } else {
                host.bar.write32(offset & !3, value as u32);
            }
            host.bar.read32(offset & !3);
            for _ in 0..steps {
                host.world.step();
            }
        }
        host.world.settle(2_000);
        prop_assert!(host.peek(victim.start.as_u64(), 4096).iter().all(|byte| *byte == 0x5a));
    }
}
