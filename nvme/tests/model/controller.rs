//! The control half against the model: what it does when all is well, and what when not.
use core::task::Poll;
use core::time::Duration;

use crate::rig::{Driver, Rig, Tables, queue, request};
use parakernel_core::{
    error::{Error, ErrorKind},
    queue::{BlockOperation, BlockQueue},
    time::Instant,
};
use parakernel_mock_hw::{
    fault::{Fault, When},
    nvme::{Config, Event as ModelEvent, NamespaceConfig, Status, StatusRule},
};
use parakernel_nvme::{
    admin::Strays,
    command::LogPage,
    controller::{AbortOutcome, Event, PairState},
    error::{AdminError, InitError, InitStep, NamespaceError},
    log::Warnings,
    queue::CommandTable,
};

#[test]
fn a_controller_comes_up_and_says_what_it_is() {
    let namespaces = vec![
        NamespaceConfig {
            blocks: 1000,
            block_len: 512,
        },
        NamespaceConfig {
            blocks: 77,
            block_len: 4096,
        },
    ];
    let rig = Rig::new(
        1,
        Config {
            namespaces,
            queue_pairs: 5,
            ..Config::default()
        },
    );
    let mut tables = Tables::new(8);
    let driver = rig.bring_up(&mut tables);
    assert_eq!(driver.version(), (1, 4, 0));
    let limits = driver.limits();
    assert_eq!(
        (limits.pairs, limits.entries, limits.doorbell_stride),
        (5, 1024, 4)
    );
    assert_eq!(limits.max_transfer, Some(128 << 10));
    let found: Vec<_> = driver
        .namespaces()
        .map(|found| (found.id.as_u32(), found.data.unwrap()))
        .collect();
    assert_eq!(
        (found[0].0, found[0].1.blocks, found[0].1.block_shift),
        (1, 1000, 9)
    );
    assert_eq!(
        (found[1].0, found[1].1.blocks, found[1].1.block_shift),
        (2, 77, 12)
    );
    assert_eq!(found.len(), 2);
    assert_eq!(driver.check(), Ok(()));
    rig.world.trace().assert_clean();
    assert_eq!(rig.memory.escapes(), []);
}

#[test]
fn more_namespaces_than_slots_are_counted() {
    let namespaces = vec![NamespaceConfig::default(); 7];
    let rig = Rig::new(
        2,
        Config {
            namespaces,
            ..Config::default()
        },
    );
    let mut tables = Tables::new(1);
    let driver = rig.bring_up(&mut tables);
    assert_eq!(
        (driver.namespaces().count(), driver.namespaces_left_out()),
        (4, 3)
    );
}

#[test]
fn nothing_is_lower_than_what_the_controller_reports() {
    for stride_exponent in [0, 3] {
        let config = Config {
            queue_pairs: 65_535,
            queue_entries: 65_536,
            stride_exponent,
            ..Config::default()
        };
        let rig = Rig::new(3, config);
        let mut tables = Tables::new(65_535);
        // The registers say before anything else how much memory is of use.
        assert_eq!(Driver::most_pairs(rig.nvme.bar0()), 65_535);
        let mut driver = rig.bring_up(&mut tables);
        assert_eq!(
            (driver.limits().pairs, driver.limits().entries),
            (65_535, 65_536)
        );
        for id in [1, 2, 40_000, 65_535] {
            rig.create(&mut driver, id);
        }
        assert_eq!(rig.nvme.counts().submission_queues, 5);
        rig.world.trace().assert_clean();
    }
}

#[test]
fn pairs_come_and_go_a_thousand_times() {
    let rig = Rig::new(
        4,
        Config {
            queue_pairs: 2,
            ready_delay: Duration::from_micros(1),
            ..Config::default()
        },
    );
    let mut tables = Tables::new(2);
    let mut driver = rig.bring_up(&mut tables);
    let mut memory = Some(rig.pair_memory());
    for _ in 0..1000 {
        driver
            .begin_create(queue(2), memory.take().unwrap(), rig.now())
            .unwrap();
        assert_eq!(
            rig.wait(|now| driver.poll_pair(queue(2), now)),
            Some(PairState::Live)
        );
        assert_eq!(driver.take_back(queue(2)).unwrap_err(), AdminError::Pair);
        driver.begin_delete(queue(2), rig.now()).unwrap();
        assert_eq!(
            rig.wait(|now| driver.poll_pair(queue(2), now)),
            Some(PairState::Gone(None))
        );
        memory = driver.take_back(queue(2)).ok();
    }
    let counts = rig.nvme.counts();
    assert_eq!(
        (
            counts.submission_queues,
            counts.completion_queues,
            counts.failed
        ),
        (1, 1, 0)
    );
    rig.world.trace().assert_clean();
}

/// The step that fails is named, within the time that the specification gives.
#[test]
fn bring_up_ends_under_every_fault() {
    for (seed, fault) in (0..).zip(Fault::ALL) {
        for when in [When::NEXT, When::After(2), When::Always] {
            let rig = Rig::new(
                seed,
                Config {
                    timeout: Duration::from_millis(500),
                    ..Config::default()
                },
            );
            rig.nvme.faults().inject(fault, when);
            let mut tables = Tables::new(4);
            let started = rig.now();
            let outcome = rig.try_bring_up(&mut tables).map(|_| ());
            let took = Duration::from_nanos(rig.now().as_nanos() - started.as_nanos());
            assert!(
                took < Duration::from_secs(5),
                "{fault:?} {when:?}: {took:?}"
            );
            if rig.nvme.faults().count(fault).activated == 0 {
                assert_eq!(outcome, Ok(()), "{fault:?} {when:?}");
            }
        }
    }
}

#[test]
fn the_failing_step_is_named() {
    let fails = |fault, when| {
        let rig = Rig::new(
            9,
            Config {
                timeout: Duration::from_millis(500),
                ..Config::default()
            },
        );
        rig.nvme.faults().inject(fault, when);
        rig.try_bring_up(&mut Tables::new(4))
            .map(|_| ())
            .unwrap_err()
    };
    assert!(matches!(
        fails(Fault::SlowReady, When::Always),
        InitError::Enable(_)
    ));
    assert_eq!(
        fails(Fault::FatalStatus, When::NEXT).kind(),
        ErrorKind::Device
    );
    assert_eq!(fails(Fault::Removal, When::NEXT).kind(), ErrorKind::Removed);
    let error = fails(Fault::AdminTimeout, When::NEXT);
    assert!(
        matches!(
            error,
            InitError::Command {
                step: InitStep::IdentifyController,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(error.kind(), ErrorKind::Timeout);
}

#[test]
fn a_late_completion_is_told_from_others_and_frees_its_slot() {
    let rig = Rig::new(10, Config::default());
    let mut tables = Tables::new(4);
    let mut driver = rig.bring_up(&mut tables);
    driver.begin_log(LogPage::Health, rig.now()).unwrap();
    let late = Instant::from_nanos(rig.now().as_nanos() + 3_000_000_000);
    // Nobody looked while the completion came: for the caller the time is up.
    let outcome = driver.poll_log(late).map(|log| log.map(|_| ()));
    assert!(
        matches!(outcome, Poll::Ready(Err(AdminError::Timeout(_)))),
        "{outcome:?}"
    );
    assert_eq!(
        driver.begin_log(LogPage::Health, rig.now()),
        Err(AdminError::Busy)
    );
    rig.world.run_for(Duration::from_millis(1));
    assert_eq!(driver.poll_event(rig.now()), Ok(None));
    assert_eq!(
        driver.strays(),
        Strays {
            late: 1,
            unknown: 0
        }
    );
    driver.begin_log(LogPage::Health, rig.now()).unwrap();
    let health = rig.wait(|now| {
        driver
            .poll_log(now)
            .map(|log| log.unwrap().health().unwrap())
    });
    assert_eq!(health.unwrap().warnings, Warnings::empty());
}

#[test]
fn a_pair_whose_creation_is_never_answered_is_quarantined_until_a_reset() {
    let rig = Rig::new(11, Config::default());
    let mut tables = Tables::new(4);
    let mut driver = rig.bring_up(&mut tables);
    let (live, _) = rig.create(&mut driver, 1);
    rig.nvme.faults().inject(Fault::AdminTimeout, When::NEXT);
    driver
        .begin_create(queue(2), rig.pair_memory(), rig.now())
        .unwrap();
    let state = rig.wait(|now| driver.poll_pair(queue(2), now));
    assert!(
        matches!(state, Some(PairState::Quarantined(AdminError::Timeout(_)))),
        "{state:?}"
    );
    assert_eq!(driver.take_back(queue(2)).unwrap_err(), AdminError::Pair);
    assert_eq!(
        driver.poll_pair(live.queue, rig.now()),
        Poll::Ready(PairState::Live)
    );
    driver.begin_reset(rig.now());
    assert_eq!(
        driver.begin_delete(live.queue, rig.now()),
        Err(AdminError::Reset)
    );
    assert_eq!(rig.wait(|now| driver.poll_reset(now)), Some(Ok(())));
    assert!(driver.take_back(queue(2)).is_ok());
    assert_eq!(
        driver.poll_pair(live.queue, rig.now()),
        Poll::Ready(PairState::Lost)
    );
    driver.begin_revive(live.queue, rig.now()).unwrap();
    assert_eq!(
        rig.wait(|now| driver.poll_pair(live.queue, now)),
        Some(PairState::Live)
    );
    rig.world.trace().assert_clean();
}

#[test]
fn a_refused_submission_queue_takes_its_completion_queue_with_it() {
    let rig = Rig::new(12, Config::default());
    let mut tables = Tables::new(4);
    let mut driver = rig.bring_up(&mut tables);
    rig.nvme.fail_next(StatusRule {
        queue: Some(0),
        opcode: Some(0x01),
        status: Status {
            kind: 0,
            code: 0x06,
            do_not_retry: false,
        },
        count: 1,
    });
    driver
        .begin_create(queue(1), rig.pair_memory(), rig.now())
        .unwrap();
    let state = rig.wait(|now| driver.poll_pair(queue(1), now));
    assert!(
        matches!(state, Some(PairState::Gone(Some(AdminError::Status(_))))),
        "{state:?}"
    );
    assert_eq!(rig.nvme.counts().completion_queues, 1);
    assert!(driver.take_back(queue(1)).is_ok());
}

#[test]
fn a_removed_controller_is_an_error_everywhere() {
    let rig = Rig::new(13, Config::default());
    let mut tables = Tables::new(4);
    let mut driver = rig.bring_up(&mut tables);
    rig.create(&mut driver, 1);
    rig.nvme.remove();
    assert_eq!(driver.check(), Err(AdminError::Removed));
    driver.begin_delete(queue(1), rig.now()).unwrap();
    let state = rig.wait(|now| driver.poll_pair(queue(1), now));
    assert_eq!(state, Some(PairState::Quarantined(AdminError::Removed)));
    driver.begin_reset(rig.now());
    assert_eq!(
        rig.wait(|now| driver.poll_reset(now)),
        Some(Err(InitError::Removed))
    );
    driver.begin_shutdown(rig.now());
    assert_eq!(
        rig.wait(|now| driver.poll_shutdown(now)),
        Some(Err(AdminError::Removed))
    );
}

#[test]
fn events_are_reported_once_and_go_on() {
    let rig = Rig::new(
        14,
        Config {
            namespace_limit: 8,
            ..Config::default()
        },
    );
    let mut tables = Tables::new(4);
    let mut driver = rig.bring_up(&mut tables);
    for round in 0..20 {
        rig.nvme.raise(ModelEvent::Temperature);
        let event = rig.wait(|now| {
            driver
                .poll_event(now)
                .unwrap()
                .map_or(Poll::Pending, Poll::Ready)
        });
        assert_eq!(event, Some(Event::Health { info: 1 }), "{round}");
        rig.nvme
            .change_namespace(2, (round % 2 == 0).then_some(NamespaceConfig::default()));
        let event = rig.wait(|now| {
            driver
                .poll_event(now)
                .unwrap()
                .map_or(Poll::Pending, Poll::Ready)
        });
        assert_eq!(event, Some(Event::NamespacesChanged));
        driver.begin_scan(rig.now()).unwrap();
        assert_eq!(rig.wait(|now| driver.poll_scan(now)), Some(Ok(())));
        assert_eq!(
            driver.namespaces().count(),
            if round % 2 == 0 { 2 } else { 1 }
        );
    }
    rig.world.trace().assert_clean();
}

#[test]
fn a_command_that_hangs_is_aborted_or_ends_with_its_queue() {
    let rig = Rig::new(15, Config::default());
    let mut tables = Tables::new(4);
    let mut commands = CommandTable::new();
    let mut driver = rig.bring_up(&mut tables);
    let mut arena = rig.arena(2, 4096);
    let mut disk = rig.kernel_queue(&mut driver, &mut commands, &arena);
    rig.nvme.faults().inject(Fault::StuckQueue(1), When::Always);
    let mut read = request(BlockOperation::Read, 0, 8, 77);
    read.buffer = arena.take();
    assert_eq!(disk.submit([read]), Ok(1));
    rig.world.run_for(Duration::from_millis(10));
    let in_flight: Vec<_> = disk.in_flight().collect();
    assert_eq!(in_flight, [(0, 77)]);
    driver
        .begin_abort(queue(1), in_flight[0].0, rig.now())
        .unwrap();
    assert_eq!(
        driver.begin_abort(queue(1), 0, rig.now()),
        Err(AdminError::Busy)
    );
    let outcome = rig.wait(|now| driver.poll_abort(now)).unwrap().unwrap();
    assert!(matches!(
        outcome,
        AbortOutcome::Aborted | AbortOutcome::NotAborted
    ));
    driver.begin_delete(queue(1), rig.now()).unwrap();
    assert_eq!(
        rig.wait(|now| driver.poll_pair(queue(1), now)),
        Some(PairState::Gone(None))
    );
    let mut lost = Vec::new();
    // SAFETY: the pair is gone.
    #[expect(unsafe_code, reason = "the test's own promise")]
    unsafe {
        disk.abandon(|user, buffer| lost.push((user, buffer.is_some())));
    }
    assert_eq!(lost, [(77, true)]);
}

#[test]
fn a_shutdown_is_waited_for() {
    let rig = Rig::new(16, Config::default());
    let mut tables = Tables::new(4);
    let mut driver = rig.bring_up(&mut tables);
    assert_eq!(
        driver.poll_shutdown(rig.now()),
        Poll::Ready(Err(AdminError::Argument))
    );
    driver.begin_shutdown(rig.now());
    assert_eq!(driver.poll_shutdown(rig.now()), Poll::Pending);
    assert_eq!(rig.wait(|now| driver.poll_shutdown(now)), Some(Ok(())));
    assert_eq!(driver.begin_scan(rig.now()), Err(AdminError::Reset));
}

#[test]
fn errors_say_what_the_hardware_failed_to_do() {
    let error = InitError::Command {
        step: InitStep::NumberOfQueues,
        error: AdminError::Removed,
    };
    assert_eq!(error.to_string(), "NumberOfQueues: the controller is gone");
    assert_eq!(
        NamespaceError::Metadata { bytes: 8 }.to_string(),
        "blocks carry 8 bytes of metadata"
    );
}
