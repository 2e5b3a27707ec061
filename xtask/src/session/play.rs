//! A boot with everybody on stage: requests, store clients, capture, the rogue process, and the disk afterwards.

use super::{
    Spec,
    scene::{Scene, service, store},
};
use crate::{
    attacks::Try,
    capture::Capture,
    cast::{BAIT, BLOCKBENCH, Cast, Network, Process, ROGUE},
    console::ProcessState,
    disk,
    observed::Observed,
    qemu::{machine::Wire, run::Ended},
    report::{NO_STOP, Outcome},
    store as store_clients,
    traffic::{Load, Pace, Tally, drive, pester},
};
use anyhow::{Result, anyhow};
use core::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};
use std::{
    collections::BTreeMap,
    sync::atomic::Ordering,
    thread::{self, Scope, ScopedJoinHandle},
    time::{SystemTime, UNIX_EPOCH},
};

/// Ten times what a process gets to end by itself.
const TOO_LONG: Duration = Duration::from_secs(5);

/// What is to happen in a boot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plot<'a> {
    /// Requests to each network process, at least.
    pub(crate) requests: u64,
    /// Whether the rogue process is let loose.
    pub(crate) rogue: bool,
    /// What has to come about before the end.
    pub(crate) goal: Goal<'a>,
}

/// What has to come about before the end of a boot.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Goal<'a> {
    /// Everybody in this cast has done the work: block processes verified what they wrote, and every attack was tried.
    Demo(&'a Cast),
    /// These attacks were tried.
    Attacks(&'a [Try]),
    /// The kernel still speaks of the attacker, so long after it began with an attack that nothing is to stop.
    Endless,
}

impl Goal<'_> {
    const fn about(self) -> &'static str {
        match self {
            Self::Demo(_) => "blocks were verified and every attack was tried",
            Self::Attacks(_) => "the attacks were tried",
            Self::Endless => "the attacker should have been stopped",
        }
    }

    fn is_reached(self, observed: &Observed) -> bool {
        match self {
            Self::Demo(cast) => {
                // It exits when it has nothing left to try.
                let attacked = cast.named(ROGUE).is_none() || observed.has_exited(ROGUE);
                attacked
                    && cast
                        .processes
                        .iter()
                        .all(|process| process.is_done(observed))
            }
            Self::Attacks(tries) => tries.iter().all(|it| it.told(observed).is_some()),
            Self::Endless => goes_on(observed).is_some(),
        }
    }
}

/// What the kernel says of the attacker [`TOO_LONG`] after an attack began that only an interrupt ends.
pub(super) fn goes_on(observed: &Observed) -> Option<&ProcessState> {
    let (attempt, since) = observed.attempt.as_ref()?;
    let is_late = observed
        .heard
        .get(ROGUE)
        .is_some_and(|at| at.duration_since(*since) >= TOO_LONG);
    let state = observed.processes.get(ROGUE);
    state.filter(|_| attempt.name == NO_STOP && is_late)
}

impl Process {
    /// Whether it has written and verified blocks, if it is there for that.
    fn is_done(&self, observed: &Observed) -> bool {
        let verified = (self.name.to_owned(), "verified".to_owned());
        self.program != BLOCKBENCH
            || observed
                .reports
                .get(&verified)
                .is_some_and(|count| *count > 0)
    }
}

/// Plays it.
pub(crate) fn play(spec: &Spec, cast: &Cast, plot: Plot<'_>) -> Result<Outcome> {
    let mut failures = Vec::new();
    let by_tap = matches!(spec.wire, Wire::Tap(_));
    let capture = if by_tap {
        begin_capture(spec, &mut failures)
    } else {
        None
    };
    let mut scene = Scene::open(spec, cast, false)?;
    let mut tallies = BTreeMap::new();
    let performed = perform(spec, &mut scene, cast, plot, &mut tallies);
    let performed = performed.and_then(|()| match &capture {
        Some(capture) => catch_up(&mut scene, capture),
        None => Ok(()),
    });
    if let Err(error) = performed {
        failures.push(format!("{error:#}"));
    }
    let (observed, ended) = if matches!(plot.goal, Goal::Endless) {
        scene.abandon()?
    } else {
        scene.say("stop");
        scene.close()?
    };
    let capture = match capture.map(|capture| capture.finish(cast)).transpose() {
        Ok(analysis) => analysis,
        Err(error) => {
            failures.push(format!("{error:#}"));
            None
        }
    };
    let disk = disk::verify(&spec.folder, cast)?;
    Ok(Outcome {
        observed,
        ended,
        tallies,
        capture,
        disk,
        failures,
    })
}

/// Plays a boot whose processes come and go under requests that nobody counts. `act` goes on until the machine has ended.
pub(crate) fn pestered(
    spec: &Spec,
    cast: &Cast,
    act: impl FnOnce(&mut Scene) -> Result<()>,
) -> Result<(Observed, Ended)> {
    let by_tap = matches!(spec.wire, Wire::Tap(_));
    let services = cast.processes.iter().filter_map(Process::service);
    let targets: Vec<_> = services
        .map(|network| service(network.address, by_tap))
        .collect();
    let mut scene = Scene::open(spec, cast, false)?;
    let pace = Pace::default();
    pace.company.store(true, Ordering::Relaxed);
    let (heard, sent) = thread::scope(|scope| {
        let sender = scope.spawn(|| pester(&targets, &pace));
        let heard = act(&mut scene);
        pace.company.store(false, Ordering::Relaxed);
        (heard, joined(sender))
    });
    heard.and(sent)?;
    scene.close()
}

/// Waits until the capture has what was on the wire so far: on a busy machine it comes seconds late, and what it has not
/// read when it ends is lost.
fn catch_up(scene: &mut Scene, capture: &Capture) -> Result<()> {
    capture.mark()?;
    scene.until("the capture had caught up", |_| capture.has_mark())
}

fn begin_capture(spec: &Spec, failures: &mut Vec<String>) -> Option<Capture> {
    match Capture::start(&spec.folder) {
        Ok(capture) => Some(capture),
        Err(error) if rustix::process::geteuid().is_root() && !spec.script.is_forgiving() => {
            failures.push(format!("{error:#}"));
            None
        }
        Err(error) => {
            println!("no capture, so no second opinion about the traffic: {error:#}");
            None
        }
    }
}

/// From the machine's start to the moment when all that was wanted has come about.
fn perform(
    spec: &Spec,
    scene: &mut Scene,
    cast: &Cast,
    plot: Plot<'_>,
    tallies: &mut BTreeMap<Ipv4Addr, Tally>,
) -> Result<()> {
    scene.until("its processes were ready", |observed| observed.ready)?;
    if cast.named(BAIT).is_some() {
        let laid = format!("[{BAIT}] the bait is laid");
        scene.until("the bait was laid", |observed| {
            observed.said.contains(&laid)
        })?;
    }
    let pace = Pace::default();
    pace.company.store(true, Ordering::Relaxed);
    thread::scope(|scope| {
        let senders = start_senders(scope, spec, cast, plot.requests, &pace);
        let clients = start_clients(scope, spec, cast);
        let result = unfold(scene, plot, &pace, &senders, clients.as_ref());
        let result = result.and_then(|()| match plot.goal {
            Goal::Demo(cast) => {
                welcome(scope, scene, store_of(spec, cast))?;
                dismiss(scene, cast)
            }
            Goal::Attacks(_) | Goal::Endless => Ok(()),
        });
        pace.company.store(false, Ordering::Relaxed);
        let mut results = vec![result];
        for (address, sender) in senders {
            match joined(sender) {
                Ok(tally) => drop(tallies.insert(address, tally)),
                Err(error) => results.push(Err(error)),
            }
        }
        results.extend(clients.map(joined));
        results.into_iter().collect()
    })
}

type Sender<'scope> = (Ipv4Addr, ScopedJoinHandle<'scope, Result<Tally>>);
type Client<'scope> = ScopedJoinHandle<'scope, Result<()>>;

/// Lets the rogue process loose among the others at work, and waits for all that is wanted.
fn unfold(
    scene: &mut Scene,
    plot: Plot<'_>,
    pace: &Pace,
    senders: &[Sender<'_>],
    client: Option<&Client<'_>>,
) -> Result<()> {
    let somebody_gave_up = || senders.iter().any(|(_, sender)| sender.is_finished());
    scene.until("the first requests were answered", |observed| {
        senders.is_empty()
            || somebody_gave_up()
            || observed
                .processes
                .values()
                .any(|process| process.tx_frames > 0)
    })?;
    if plot.rogue {
        scene.say(&format!("start {ROGUE}"));
    }
    scene.until(plot.goal.about(), |observed| plot.goal.is_reached(observed))?;
    scene.until(
        "all requests were sent and the store's clients done",
        |_| {
            let all_sent = pace.satisfied.load(Ordering::Relaxed) == senders.len();
            (all_sent || somebody_gave_up()) && client.is_none_or(ScopedJoinHandle::is_finished)
        },
    )
}

fn start_senders<'scope>(
    scope: &'scope Scope<'scope, '_>,
    spec: &Spec,
    cast: &Cast,
    requests: u64,
    pace: &'scope Pace,
) -> Vec<Sender<'scope>> {
    let by_tap = matches!(spec.wire, Wire::Tap(_));
    let seed = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(1, |time| time.as_secs());
    let serving = cast.processes.iter().filter_map(Process::service);
    serving
        .map(|Network { address, key, .. }| {
            let load = Load {
                target: service(address, by_tap),
                key,
                requests,
                seed,
            };
            (address, scope.spawn(move || drive(&load, pace)))
        })
        .collect()
}

/// The clients of the store, if there is one in the cast.
fn start_clients<'scope>(
    scope: &'scope Scope<'scope, '_>,
    spec: &Spec,
    cast: &Cast,
) -> Option<Client<'scope>> {
    let address = store_of(spec, cast)?;
    let folder = spec.folder.clone();
    Some(scope.spawn(move || {
        store_clients::converse(address)?;
        store_clients::stock_clients(address, &folder)
    }))
}

/// Where the store is reached, if there is one in the cast.
fn store_of(spec: &Spec, cast: &Cast) -> Option<SocketAddr> {
    let mut processes = cast.processes.iter();
    let holder = processes.find(|process| process.program == "kv")?;
    let by_tap = matches!(spec.wire, Wire::Tap(_));
    Some(store(holder.network?.address, by_tap))
}

/// Takes the queues of the block processes back, each of which has to see that and to end by itself.
fn dismiss(scene: &mut Scene, cast: &Cast) -> Result<()> {
    let processes = cast.processes.iter();
    for Process { name, .. } in processes.filter(|process| process.program == BLOCKBENCH) {
        scene.say(&format!("revoke {name}"));
        scene.until("a process whose queues were taken back ended", |observed| {
            observed.has_ended(name)
        })?;
    }
    Ok(())
}

/// Makes new connections to the store, where there is one, now that some pairs of the card are nobody's.
fn welcome<'scope>(
    scope: &'scope Scope<'scope, '_>,
    scene: &mut Scene,
    address: Option<SocketAddr>,
) -> Result<()> {
    let Some(address) = address else {
        return Ok(());
    };
    let guests = scope.spawn(move || store_clients::newcomers(address));
    scene.until("new connections were served", |_| guests.is_finished())?;
    joined(guests)
}

pub(super) fn joined<T>(thread: ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread
        .join()
        .unwrap_or_else(|_| Err(anyhow!("a thread of this program panicked")))
}
