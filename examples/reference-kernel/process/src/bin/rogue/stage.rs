//! What all attacks need: announcement, patience, a last word.

use core::{
    fmt::{self, Write},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use heapless::String;
use parakernel_apps::runtime::{Metric, Runtime};
use parakernel_core::{abi::LOG_MAX, control::Request, handle::LeaseId};
use parakernel_process::{Arguments, Process, system_call};

use crate::plan::{Attack, Target};

/// What the process writes where it should not.
const PATTERN: [u8; 5] = *b"ROGUE";

/// How long the process stays around after an attack, for the kernel to end it.
const PATIENCE: Duration = Duration::from_millis(2500);

/// How often it looks meanwhile.
const LOOK_INTERVAL: Duration = Duration::from_millis(1);

/// What the process sees of its attack, if it lives to see it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Seen {
    /// The kernel said no to all of it.
    Refusal,
    /// It had the effect that it must not have.
    Effect(&'static str),
    /// Neither.
    Nothing,
}

impl Seen {
    /// `what`, where that was seen.
    pub(crate) const fn effect(is_seen: bool, what: &'static str) -> Self {
        if is_seen {
            Self::Effect(what)
        } else {
            Self::Nothing
        }
    }
}

/// The attack of this life.
#[derive(Debug)]
pub(crate) struct Stage {
    /// The way to the kernel.
    pub(crate) process: Process,
    attack: Attack,
    target: Target,
}

impl Stage {
    pub(crate) const fn new(process: Process, attack: Attack, target: Target) -> Self {
        Self {
            process,
            attack,
            target,
        }
    }

    const fn arguments(&self) -> Arguments {
        self.process.arguments()
    }

    /// The address to aim at that the argument `key` gives.
    pub(crate) fn aim(&self, key: &str) -> Result<u64, &'static str> {
        let address = self.arguments().number(key);
        address
            .filter(|address| *address != 0)
            .ok_or("nothing to aim at")
    }

    /// Says what comes next.
    pub(crate) fn announce_only(&mut self) {
        self.say("attack", "");
    }

    /// The same, and waits until the kernel has looked at what there is to see before: it answers requests in order.
    pub(crate) fn announce(&mut self) {
        self.announce_only();
        let nothing = LeaseId::new(u32::MAX, u32::MAX);
        // Whatever the answer is, there is one.
        let _refused = self.process.ask(&Request::Release(nothing)).is_err();
    }

    /// Stays around, still calling the kernel, for it to end the process or for `look` to say yes; whether that did.
    pub(crate) fn linger(&mut self, mut look: impl FnMut(&mut Process) -> bool) -> bool {
        let end = self.process.now().saturating_add(PATIENCE);
        while self.process.now() < end {
            system_call::submit_all();
            if look(&mut self.process) {
                return true;
            }
            let next = self.process.now().saturating_add(LOOK_INTERVAL);
            system_call::wait(next);
        }
        false
    }

    /// The same without a call in between, but those that `look` makes.
    pub(crate) fn linger_without_calls(
        &mut self,
        mut look: impl FnMut(&mut Process) -> bool,
    ) -> bool {
        let end = self.process.now().saturating_add(PATIENCE);
        while self.process.now() < end {
            if look(&mut self.process) {
                return true;
            }
        }
        false
    }

    /// The last word, and the exit code.
    pub(crate) fn conclude(mut self, tried: Result<Seen, &'static str>) -> u64 {
        match tried {
            Ok(Seen::Refusal) => 0,
            Ok(Seen::Effect(what)) => {
                self.say("survived", what);
                self.process.report(Metric::Survived, 1);
                3
            }
            Ok(Seen::Nothing) => {
                self.say("survived", "it sees no effect");
                self.process.report(Metric::Survived, 1);
                2
            }
            Err(reason) => {
                self.say("cannot try", reason);
                1
            }
        }
    }

    fn say(&mut self, what: &str, more: &str) {
        let mut line: String<LOG_MAX> = String::new();
        // What does not fit is left out.
        let _cut = self.write(&mut line, what, more).is_err();
        self.process.log(&line);
    }

    fn write(&self, line: &mut String<LOG_MAX>, what: &str, more: &str) -> fmt::Result {
        write!(line, "{what} {} {}", self.attack.name(), self.target.name())?;
        if more.is_empty() {
            return Ok(());
        }
        write!(line, " {more}")
    }
}

/// The pattern's first eight bytes as a number, for fields that hold one.
pub(crate) const MARK: u64 = u64::from_le_bytes(*b"ROGUEROG");

/// The eight bytes at `index` of memory that is full of the pattern.
pub(crate) fn pattern(index: usize) -> u64 {
    let byte = |at: usize| PATTERN[(index * 8 + at) % PATTERN.len()];
    u64::from_le_bytes(core::array::from_fn(byte))
}

/// Fills `words` with the pattern.
pub(crate) fn deface(words: &[AtomicU64]) {
    for (index, word) in words.iter().enumerate() {
        word.store(pattern(index), Relaxed);
    }
}
