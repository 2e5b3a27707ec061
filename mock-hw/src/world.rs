//! Time and order: a seed decides which device does its next step, and when.
//!
//! Nothing in a model happens by itself. A register write leaves work behind; the world lets one device do one step of
//! its work, in an order that the seed decides, and time passes with each step. So the same seed replays the same
//! run, and many seeds explore many interleavings.

use alloc::sync::Arc;
use core::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};
use std::sync::Mutex;

use embedded_hal::delay::DelayNs;
use parakernel_core::time::Instant;

use crate::{
    Memory, interrupt::Interrupts, memory::HostMemory, random::Random, sync::lock, trace::Trace,
};

/// What a device did with its turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Activity {
    /// It did one step, and may have more to do.
    Worked,
    /// It has nothing to do until a driver or a peer acts.
    Idle,
    /// It has nothing to do before this instant.
    Waiting(Instant),
}

/// A device's turn: the time, and the source of its choices.
#[derive(Debug)]
pub struct Turn<'a> {
    /// The time of this step.
    pub now: Instant,
    /// Decides which of several possible steps the device does.
    pub random: &'a mut Random,
}

/// Something that does its work in steps.
pub trait Device: Send {
    /// Does the next step, if there is any: one command fetched, one transfer, one completion.
    fn step(&mut self, turn: &mut Turn<'_>) -> Activity;
}

/// Model time, readable without the world's lock.
#[derive(Clone, Debug, Default)]
pub struct Clock(Arc<AtomicU64>);

impl Clock {
    /// The time.
    #[must_use]
    pub fn now(&self) -> Instant {
        Instant::from_nanos(self.0.load(Ordering::Relaxed))
    }

    /// Brings the time up to `now`, where it is behind.
    fn catch_up(&self, now: Instant) {
        self.0.fetch_max(now.as_nanos(), Ordering::Relaxed);
    }

    fn advance(&self, nanoseconds: u64) {
        self.0.fetch_add(nanoseconds, Ordering::Relaxed);
    }
}

/// The devices of one machine, their time and their order. Clones are the same world.
///
/// It is also the drivers' [`DelayNs`]: while a driver waits, the devices work.
///
/// ```
/// use core::time::Duration;
/// use parakernel_mock_hw::World;
///
/// let world = World::new(1);
/// world.run_for(Duration::from_micros(5));
/// assert_eq!(world.now().as_nanos(), 5_000);
/// ```
#[derive(Clone)]
pub struct World {
    shared: Arc<Mutex<State>>,
    clock: Clock,
    trace: Trace,
    interrupts: Interrupts,
    seed: u64,
}

struct State {
    devices: Vec<Arc<Mutex<dyn Device>>>,
    random: Random,
    steps: u64,
}

/// How a world stands after [`World::follow`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Followed {
    /// There was more to do than the limit allowed.
    Busy,
    /// Nobody has anything to do now.
    Quiet {
        /// The earliest instant at which a timer of a device ends.
        next: Option<Instant>,
    },
}

/// What became of one call of [`State::step`].
enum Outcome {
    Worked,
    /// Nobody had anything to do; the earliest instant at which somebody has.
    Quiet(Option<Instant>),
}

impl World {
    /// A world without devices, in the order that `seed` names.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let state = State {
            devices: Vec::new(),
            random: Random::new(seed),
            steps: 0,
        };
        Self {
            shared: Arc::new(Mutex::new(state)),
            clock: Clock::default(),
            trace: Trace::default(),
            interrupts: Interrupts::default(),
            seed,
        }
    }

    /// The memory of this machine: `len` bytes, rounded up to whole pages.
    #[must_use]
    pub fn memory(&self, len: usize) -> Memory {
        Memory::new(len, self.clock.clone())
    }

    /// The memory of a machine outside of this world, such as that of a virtual machine whose device a model is.
    #[must_use]
    pub fn host_memory(&self, host: Arc<dyn HostMemory>) -> Memory {
        Memory::hosted(self.clock.clone(), host)
    }

    /// Lets `device` take turns from now on.
    pub fn attach(&self, device: Arc<Mutex<dyn Device>>) {
        lock(&self.shared).devices.push(device);
    }

    /// The time.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.clock.now()
    }

    /// The clock, for those who only read the time.
    #[must_use]
    pub fn clock(&self) -> Clock {
        self.clock.clone()
    }

    /// The record of what happened.
    #[must_use]
    pub fn trace(&self) -> Trace {
        self.trace.clone()
    }

    /// The interrupts that arrived.
    #[must_use]
    pub fn interrupts(&self) -> Interrupts {
        self.interrupts.clone()
    }

    /// The seed that replays this run.
    #[must_use]
    pub const fn seed(&self) -> u64 {
        self.seed
    }

    /// How many steps the devices have done.
    #[must_use]
    pub fn steps(&self) -> u64 {
        lock(&self.shared).steps
    }

    /// Lets one device do one step; whether there was one to do. Does not skip ahead to timers.
    #[expect(clippy::must_use_candidate, reason = "called for what it does")]
    pub fn step(&self) -> bool {
        matches!(lock(&self.shared).step(&self.clock), Outcome::Worked)
    }

    /// Lets the devices work until nobody has anything to do now, or `limit` steps were done; how many were done.
    ///
    /// Timers that are still running stay so: only [`run_for`](Self::run_for) and delays skip ahead.
    #[expect(clippy::must_use_candidate, reason = "called for what it does")]
    pub fn settle(&self, limit: u64) -> u64 {
        let mut state = lock(&self.shared);
        (0..limit)
            .take_while(|_| matches!(state.step(&self.clock), Outcome::Worked))
            .map(|_| 1)
            .sum()
    }

    /// For a world that follows a clock outside: brings its time up to `now` and lets the devices do up to `limit`
    /// steps. Timers that ended before `now` fire together.
    #[must_use]
    pub fn follow(&self, now: Instant, limit: u64) -> Followed {
        self.clock.catch_up(now);
        let mut state = lock(&self.shared);
        for _ in 0..limit {
            if let Outcome::Quiet(next) = state.step(&self.clock) {
                return Followed::Quiet { next };
            }
        }
        Followed::Busy
    }

    /// Lets the devices work for `duration` of model time.
    pub fn run_for(&self, duration: Duration) {
        let end = self.now().saturating_add(duration);
        let mut state = lock(&self.shared);
        while self.now() < end {
            if let Outcome::Quiet(next) = state.step(&self.clock) {
                let until = next.unwrap_or(end).min(end);
                self.clock.advance(
                    until
                        .as_nanos()
                        .saturating_sub(self.now().as_nanos())
                        .max(1),
                );
            }
        }
    }
}

impl State {
    /// Between two steps pass 1 to 200 ns: less than a DMA takes on a real bus, so that thousands fit in a millisecond.
    const STEP_NS: u64 = 200;

    fn step(&mut self, clock: &Clock) -> Outcome {
        let mut earliest = None;
        let first = self.random.index(self.devices.len());
        for n in 0..self.devices.len() {
            let device = &self.devices[(first + n) % self.devices.len()];
            let mut turn = Turn {
                now: clock.now(),
                random: &mut self.random,
            };
            let activity = lock(device).step(&mut turn);
            match activity {
                Activity::Worked => {
                    clock.advance(1 + self.random.below(Self::STEP_NS));
                    self.steps += 1;
                    return Outcome::Worked;
                }
                Activity::Waiting(until) => {
                    earliest = Some(earliest.map_or(until, |other: Instant| other.min(until)));
                }
                Activity::Idle => {}
            }
        }
        Outcome::Quiet(earliest)
    }
}

impl DelayNs for World {
    fn delay_ns(&mut self, ns: u32) {
        self.run_for(Duration::from_nanos(u64::from(ns)));
    }
}

impl DelayNs for &World {
    fn delay_ns(&mut self, ns: u32) {
        self.run_for(Duration::from_nanos(u64::from(ns)));
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World")
            .field("now", &self.now())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Does `left` steps, noting each in a shared list; then waits for `timer` once.
    struct Counter {
        name: u8,
        left: u32,
        timer: Option<Instant>,
        log: Arc<Mutex<Vec<u8>>>,
    }

    impl Device for Counter {
        fn step(&mut self, turn: &mut Turn<'_>) -> Activity {
            if self.left > 0 {
                self.left -= 1;
            } else {
                match self.timer {
                    None => return Activity::Idle,
                    Some(at) if turn.now < at => return Activity::Waiting(at),
                    Some(_) => self.timer = None,
                }
            }
            lock(&self.log).push(self.name);
            Activity::Worked
        }
    }

    fn run(seed: u64) -> (Vec<u8>, World) {
        let world = World::new(seed);
        let log = Arc::new(Mutex::new(Vec::new()));
        for name in 0..3 {
            let timer = (name == 0).then_some(Instant::from_nanos(1_000_000));
            let counter = Counter {
                name,
                left: 20,
                timer,
                log: log.clone(),
            };
            world.attach(Arc::new(Mutex::new(counter)));
        }
        assert_eq!(world.settle(1000), 60);
        let order = lock(&log).clone();
        (order, world)
    }

    #[test]
    fn a_seed_replays_and_another_differs() {
        assert_eq!(run(1).0, run(1).0);
        assert_ne!(run(1).0, run(2).0);
    }

    #[test]
    fn a_delay_runs_timers_that_end_in_it() {
        let (_, mut world) = run(3);
        assert!(!world.step());
        let start = world.now().as_nanos();
        world.delay_ns(2_000_000);
        assert_eq!(world.steps(), 61);
        assert!(world.now().as_nanos() >= start + 2_000_000);
    }
}
