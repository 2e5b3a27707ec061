//! Random lives of a controller: pairs come, work, are revoked, lost and revived, under any fault.
//!
//! Every operation ends in success or an error within its bound, and no transfer is made for a pair that is gone.

use core::time::Duration;

use parakernel_core::{
    memory::{BlockArena, BlockBuffer},
    queue::{BlockOperation, BlockQueue, BlockRequest},
};
use parakernel_mock_hw::{
    fault::{Fault, When},
    memory::Lease,
    nvme::Config,
};
use parakernel_nvme::{
    command::LogPage,
    controller::PairState,
    error::InitError,
    queue::{CommandTable, Rings},
};
use proptest::prelude::*;

use crate::rig::{DEVICE, Driver, ENTRIES, KernelQueue, Rig, Tables, queue, request};

/// One thing that happens.
#[derive(Clone, Debug)]
enum Step {
    Create,
    Submit(u8),
    Poll,
    Run(u64),
    Delete,
    Reset,
    Scan,
    Log,
    Abort(u16),
    Event,
    Fault(Fault, When),
}

fn step() -> impl Strategy<Value = Step> {
    let fault = prop::sample::select(&Fault::ALL[..]);
    let when = prop_oneof![
        Just(When::NEXT),
        (0..8_u64).prop_map(When::After),
        Just(When::Chance(20))
    ];
    prop_oneof![
        3 => Just(Step::Create),
        6 => (0..8_u8).prop_map(Step::Submit),
        4 => Just(Step::Poll),
        4 => (0..300_u64).prop_map(Step::Run),
        2 => Just(Step::Delete),
        1 => Just(Step::Reset),
        1 => Just(Step::Scan),
        1 => Just(Step::Log),
        1 => (0..16_u16).prop_map(Step::Abort),
        1 => Just(Step::Event),
        2 => (fault, when).prop_map(|(fault, when)| Step::Fault(fault, when)),
    ]
}

/// The pair in use, and whose lease it has.
struct Live<'m> {
    disk: KernelQueue<'m>,
    arena: BlockArena<'m>,
    spare: Vec<BlockBuffer>,
    lease: Lease,
}

/// A controller with at most one pair at a time.
struct World<'m> {
    rig: &'m Rig,
    driver: Driver<'m>,
    live: Option<Live<'m>>,
    leases: u64,
    dead: bool,
}

const PAIR: u16 = 1;

impl World<'_> {
    fn create(&mut self) {
        if self.live.is_some() {
            return;
        }
        let memory = self.rig.pair_memory();
        let rings = Rings::new(memory.submission.memory(), memory.completion.memory()).unwrap();
        if self
            .driver
            .begin_create(queue(PAIR), memory, self.rig.now())
            .is_err()
        {
            return;
        }
        let state = self.rig.wait(|now| self.driver.poll_pair(queue(PAIR), now));
        let state = state.expect("a pair is made, refused or quarantined in time");
        if state != PairState::Live {
            let _back = self.driver.take_back(queue(PAIR));
            return;
        }
        self.leases += 1;
        let lease = Lease(100 + self.leases);
        let mut arena = self
            .rig
            .memory
            .lend_blocks(DEVICE, 4096, ENTRIES, lease)
            .unwrap();
        let spare = core::iter::from_fn(|| arena.take()).collect();
        // Once for each pair; a test's process ends soon.
        let commands = Box::leak(Box::new(CommandTable::new()));
        let disk = self.rig.queue_over(&self.driver, rings, commands, &arena);
        self.live = disk.map(|disk| Live {
            disk,
            arena,
            spare,
            lease,
        });
    }

    /// Revokes the pair: it is deleted, or a reset made sure of it. Then nothing moves for its lease.
    fn delete(&mut self) {
        let Some(live) = self.live.take() else {
            return;
        };
        let _begun = self.driver.begin_delete(queue(PAIR), self.rig.now());
        let state = self.rig.wait(|now| self.driver.poll_pair(queue(PAIR), now));
        let state = state.expect("a pair goes, or is quarantined in time");
        // What is quarantined keeps its memory.
        if matches!(state, PairState::Gone(_) | PairState::Lost) {
            self.end(&live);
        }
        let _back = self.driver.take_back(queue(PAIR));
    }

    fn end(&self, live: &Live<'_>) {
        let before = self.rig.memory.allowed(live.lease).transfers;
        self.rig.world.settle(2000);
        assert_eq!(
            self.rig.memory.allowed(live.lease).transfers,
            before,
            "a transfer after the end"
        );
        self.rig.memory.end(live.lease);
    }

    fn reset(&mut self) {
        self.driver.begin_reset(self.rig.now());
        let reset = self.rig.wait(|now| self.driver.poll_reset(now));
        match reset.expect("a reset ends in time") {
            Ok(()) => {
                if let Some(live) = self.live.take() {
                    self.end(&live);
                }
                let _back = self.driver.take_back(queue(PAIR));
            }
            Err(InitError::Removed) => self.dead = true,
            // The next one may help.
            Err(_) => self.live = None,
        }
    }

    fn submit(&mut self, count: u8) {
        let Some(live) = &mut self.live else { return };
        let Live {
            disk, arena, spare, ..
        } = live;
        let requests = (0..count).map_while(|n| {
            let mut buffer = spare.pop()?;
            arena.bytes_mut(&mut buffer).fill(n);
            let write = request(BlockOperation::Write, n.into(), 8, n.into());
            Some(BlockRequest {
                buffer: Some(buffer),
                ..write
            })
        });
        let taken = requests.take(disk.room());
        disk.submit(taken.collect::<Vec<_>>()).unwrap();
    }

    fn poll(&mut self) {
        let Some(live) = &mut self.live else { return };
        let Live { disk, spare, .. } = live;
        if disk
            .poll(ENTRIES, |done| spare.extend(done.buffer))
            .is_err()
        {
            // The controller lies about this queue: it has to go.
            self.delete();
        }
    }

    fn scan(&mut self) {
        let Self { rig, driver, .. } = self;
        if driver.begin_scan(rig.now()).is_ok() {
            let found = rig.wait(|now| driver.poll_scan(now));
            assert!(found.is_some(), "a scan ends in time");
        }
    }

    fn log(&mut self) {
        let Self { rig, driver, .. } = self;
        if driver.begin_log(LogPage::Health, rig.now()).is_ok() {
            let read = rig.wait(|now| driver.poll_log(now).map(|log| log.is_ok()));
            assert!(read.is_some(), "a log page comes in time, or an error");
        }
    }

    fn abort(&mut self, id: u16) {
        let Self { rig, driver, .. } = self;
        if driver.begin_abort(queue(PAIR), id, rig.now()).is_ok() {
            let aborted = rig.wait(|now| driver.poll_abort(now));
            assert!(aborted.is_some(), "an abort ends in time");
        }
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Create => self.create(),
            Step::Submit(count) => self.submit(*count),
            Step::Poll => self.poll(),
            Step::Run(count) => {
                self.rig.world.settle(*count);
            }
            Step::Delete => self.delete(),
            Step::Reset => self.reset(),
            Step::Fault(fault, when) => self.rig.nvme.faults().inject(*fault, *when),
            Step::Scan => self.scan(),
            Step::Log => self.log(),
            Step::Abort(id) => self.abort(*id),
            Step::Event => {
                let _event = self.driver.poll_event(self.rig.now());
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn every_operation_ends_and_nothing_moves_after_a_revocation(
        seed: u64,
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let rig = Rig::new(seed, Config { timeout: Duration::from_millis(500), ..Config::default() });
        let mut tables = Tables::new(2);
        let driver = rig.bring_up(&mut tables);
        let mut world = World { rig: &rig, driver, live: None, leases: 0, dead: false };
        for step in &steps {
            world.take(step);
            if world.dead {
                break;
            }
        }
        rig.nvme.faults().clear_all();
        if !world.dead {
            world.reset();
        }
        if !world.dead {
            // With the faults gone, a reset and a scan bring everything back.
            world.scan();
            world.create();
            prop_assert!(world.live.is_some() || world.driver.check().is_err());
        }
    }
}
