//! The boot in which devices are reset under everybody, and everybody has to go on.

use super::{
    Spec,
    play::{joined, pestered},
    scene::{Scene, service},
};
use crate::{
    cast::{Cast, Process},
    console::State,
    disk,
    observed::Observed,
    qemu::machine::Wire,
    traffic::{Load, Pace, Tally, drive},
};
use anyhow::{Context, Result, ensure};
use std::{
    process::ExitCode,
    thread::{self, ScopedJoinHandle},
};

/// How often each device is reset.
const ROUNDS: u64 = 2;
/// Requests to each network process after each reset.
const REQUESTS: u64 = 200;
/// Blocks that each block process has to verify after each reset.
const BLOCKS: u64 = 2000;

/// A device, and how the processes that have queues of it are told from the others.
struct Target {
    /// Its number with QEMU's own card, and with a model for a card. The kernel numbers devices in the order of their slots, and
    /// QEMU gives the SSD its slot before it comes to the model.
    numbers: [u32; 2],
    name: &'static str,
    /// What such a process says when it has its queues back.
    back: &'static str,
    has: fn(&Process) -> bool,
}

const TARGETS: [Target; 2] = [
    Target {
        numbers: [0, 1],
        name: "card",
        back: "the card was reset, and works again",
        has: |process| process.network.is_some(),
    },
    Target {
        numbers: [1, 0],
        name: "SSD",
        back: "the SSD was reset, and works again",
        has: |process| process.block_queues > 0,
    },
];

/// Resets the devices in turn, and judges how the processes took it.
pub(super) fn play(spec: &Spec, cast: &Cast) -> Result<ExitCode> {
    ensure!(
        matches!(spec.wire, Wire::Tap(_)),
        "without queues of the card's own a reset concerns nobody: this needs a multi-queue tap, so root or user namespaces"
    );
    let (observed, ended) = pestered(spec, cast, |scene| {
        scene.until("its processes were ready", |observed| observed.ready)?;
        all_work(scene, cast, 0)?;
        for round in 1..=ROUNDS {
            for target in &TARGETS {
                let number = target.numbers[usize::from(spec.model.is_some())];
                reset(scene, cast, (target, number), round)?;
                all_work(scene, cast, round)?;
            }
        }
        scene.say("stop");
        scene.until_end()
    })?;
    ended.require_clean()?;
    let failures = observed.verdict.clone().unwrap_or_default().failures;
    ensure!(failures.is_empty(), "the kernel says: {failures:?}");
    let leaks = observed.leaks.unwrap_or_default();
    ensure!(leaks.is_nothing(), "something is left behind: {leaks:?}");
    ensure!(observed.reported("bad") == 0, "blocks were bad");
    let disk = disk::verify(&spec.folder, cast)?;
    ensure!(
        disk.failures.is_empty() && disk.trespasses.is_empty(),
        "on the disk: {:?} {:?}",
        disk.failures,
        disk.trespasses
    );
    println!("card and SSD were reset {ROUNDS} times each under traffic, and everybody went on");
    Ok(ExitCode::SUCCESS)
}

/// Resets a device, and waits until all who have queues of it have them back.
fn reset(
    scene: &mut Scene,
    cast: &Cast,
    (target, number): (&Target, u32),
    round: u64,
) -> Result<()> {
    scene.say(&format!("reset {number}"));
    let users = cast
        .processes
        .iter()
        .filter(|process| (target.has)(process));
    for process in users {
        let line = format!("[{}] {}", process.name, target.back);
        let what = format!("{} had the {} back", process.name, target.name);
        watch(scene, &what, |observed| {
            let said = observed.said.iter().filter(|said| **said == line);
            u64::try_from(said.count()).is_ok_and(|count| count >= round)
        })?;
    }
    Ok(())
}

/// Has every process do some of its work, and looks that nothing of it goes wrong.
fn all_work(scene: &mut Scene, cast: &Cast, round: u64) -> Result<()> {
    let services = cast.processes.iter().filter_map(Process::service);
    let loads = services.map(|network| Load {
        target: service(network.address, true),
        key: network.key,
        requests: REQUESTS,
        seed: round,
    });
    let loads: Vec<_> = loads.collect();
    let tallies: Vec<Tally> = thread::scope(|scope| {
        let senders: Vec<_> = loads
            .iter()
            .map(|load| scope.spawn(|| drive(load, &Pace::default())))
            .collect();
        let listened = watch(scene, "the requests were answered", |_| {
            senders.iter().all(ScopedJoinHandle::is_finished)
        });
        let tallies = senders.into_iter().map(joined).collect::<Result<_>>();
        listened.and(tallies)
    })?;
    for (tally, load) in tallies.iter().zip(&loads) {
        ensure!(
            tally.verified == tally.sent && tally.wrong == 0,
            "{}: of {} requests {} were answered, and {} wrongly",
            load.target,
            tally.sent,
            tally.verified,
            tally.wrong
        );
    }
    for process in &cast.processes {
        if process.block_queues > 0 {
            let before = verified(&scene.observed, process);
            let what = format!("{} had verified blocks", process.name);
            watch(scene, &what, |observed| {
                verified(observed, process) >= before + BLOCKS
            })?;
        }
    }
    Ok(())
}

/// How many blocks a process has verified.
fn verified(observed: &Observed, process: &Process) -> u64 {
    let key = (process.name.to_owned(), "verified".to_owned());
    observed.reports.get(&key).copied().unwrap_or(0)
}

/// Listens until `done`; fails at once where a process ends.
fn watch(scene: &mut Scene, what: &str, done: impl Fn(&Observed) -> bool) -> Result<()> {
    let ended = |observed: &Observed| {
        let mut processes = observed.processes.values();
        let ended = processes.find(|process| process.state != State::Running);
        ended.map(|process| format!("{} ended: {}", process.name, process.reason))
    };
    scene.until(what, |observed| done(observed) || ended(observed).is_some())?;
    match ended(&scene.observed) {
        Some(ended) => Err(anyhow::Error::msg(ended)).with_context(|| format!("before {what}")),
        None => Ok(()),
    }
}
