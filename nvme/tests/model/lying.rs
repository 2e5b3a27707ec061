//! A controller that lies about everything it says: registers, descriptions, completions.
//!
//! The driver may fail; it may not panic, go on for ever, or let the controller reach memory that was not lent to it.

use core::time::Duration;

use parakernel_core::queue::{BlockOperation, BlockQueue, BlockRequest};
use parakernel_mock_hw::nvme::Config;
use parakernel_nvme::{
    command::LogPage,
    queue::{CommandTable, Rings},
};
use proptest::prelude::*;

use crate::rig::{Driver, ENTRIES, Rig, Tables, queue, request};

/// Brings up a controller whose lies `lies` decide, uses it for all that there is, and resets it in between.
/// Whether it came up.
fn use_liar(seed: u64, lies: &[u8]) -> bool {
    let rig = Rig::new(
        seed,
        Config {
            timeout: Duration::from_millis(500),
            ..Config::default()
        },
    );
    let (first, rest) = lies.split_at(lies.len() / 2);
    rig.nvme.faults().lie(first.to_vec());
    let mut tables = Tables::new(3);
    let Ok(mut driver) = rig.try_bring_up(&mut tables) else {
        return false;
    };
    rig.nvme.faults().lie(rest.to_vec());
    use_admin(&rig, &mut driver);
    use_queue(&rig, &mut driver);
    driver.begin_reset(rig.now());
    let reset = rig.wait(|now| driver.poll_reset(now));
    assert!(reset.is_some(), "a reset ends");
    driver.begin_shutdown(rig.now());
    assert!(
        rig.wait(|now| driver.poll_shutdown(now)).is_some(),
        "a shutdown ends"
    );
    true
}

fn use_admin(rig: &Rig, driver: &mut Driver<'_>) {
    for page in [LogPage::Errors, LogPage::Health, LogPage::ChangedNamespaces] {
        if driver.begin_log(page, rig.now()).is_ok() {
            let read = rig.wait(|now| {
                driver.poll_log(now).map(|log| {
                    log.map(|log| {
                        (
                            log.errors().count(),
                            log.changed_namespaces().count(),
                            log.health(),
                        )
                    })
                    .is_ok()
                })
            });
            assert!(read.is_some(), "a log page comes, or an error");
        }
    }
    if driver.begin_scan(rig.now()).is_ok() {
        assert!(
            rig.wait(|now| driver.poll_scan(now)).is_some(),
            "a scan ends"
        );
    }
    for _ in 0..10 {
        let _event = driver.poll_event(rig.now());
    }
}

fn use_queue<'m>(rig: &'m Rig, driver: &mut Driver<'m>) {
    let memory = rig.pair_memory();
    let rings = Rings::new(memory.submission.memory(), memory.completion.memory()).unwrap();
    if driver.begin_create(queue(1), memory, rig.now()).is_err() {
        return;
    }
    let state = rig.wait(|now| driver.poll_pair(queue(1), now));
    assert!(state.is_some(), "a pair is made, or not");
    let mut commands = CommandTable::new();
    let mut arena = rig.arena(ENTRIES, 4096);
    let Some(mut disk) = rig.queue_over(driver, rings, &mut commands, &arena) else {
        return;
    };
    let mut spare: Vec<_> = core::iter::from_fn(|| arena.take()).collect();
    for round in 0..20 {
        let reads = spare
            .drain(..spare.len().min(4))
            .map(|buffer| BlockRequest {
                buffer: Some(buffer),
                ..request(BlockOperation::Read, round, 1, round)
            });
        if disk.submit(reads).is_err() {
            break;
        }
        rig.world.settle(500);
        if disk.poll(16, |done| spare.extend(done.buffer)).is_err() {
            break;
        }
    }
    let _begun = driver.begin_delete(queue(1), rig.now());
    let ended = rig.wait(|now| driver.poll_pair(queue(1), now));
    assert!(ended.is_some(), "a pair goes, or is quarantined");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_lying_controller_gets_an_error_and_nothing_else(
        seed: u64,
        lies in prop::collection::vec(any::<u8>(), 0..600),
    ) {
        use_liar(seed, &lies);
    }

    /// Few lies, far apart: bring-up and most commands succeed.
    #[test]
    fn a_controller_that_lies_rarely_gets_no_further(
        seed: u64,
        lies in prop::collection::vec(prop_oneof![20 => Just(0_u8), 1 => any::<u8>()], 0..2000),
    ) {
        use_liar(seed, &lies);
    }
}

/// The lies reach the driver: some keep it from coming up, and some do not.
#[test]
fn lies_matter() {
    let lies =
        |seed: u64| (0..300_u64).map(move |n| (n.wrapping_mul(seed * 2 + 1) >> 3).to_le_bytes()[0]);
    let up = (0..100)
        .filter(|&seed| use_liar(seed, &lies(seed).collect::<Vec<_>>()))
        .count();
    assert!((5..=95).contains(&up), "{up} of 100 came up");
}
