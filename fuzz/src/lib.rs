//! The fuzz targets of the family: each a function from bytes to a [`Report`], whoever brings the bytes.
//!
//! `cargo xtask fuzz` runs them under libFuzzer (`fuzz_targets/`), which looks for new paths. The example `sample` runs
//! them with seeded random inputs and counts how many submissions of each shape were accepted, because a run that is
//! all refusals proves little. `docs/fuzzing.md` has the figures.
use core::fmt;
use std::collections::BTreeMap;

mod input;
mod memory;
mod regions;
pub mod targets;

/// What a target made of one input: for each shape that it contained, whether it was accepted.
#[derive(Clone, Debug, Default)]
pub struct Report(Vec<(&'static str, bool)>);

impl Report {
    /// Notes that something of `shape` was accepted, or refused.
    pub fn note(&mut self, shape: &'static str, accepted: bool) {
        self.0.push((shape, accepted));
    }
}

/// How often each shape was seen, and accepted.
#[derive(Clone, Debug, Default)]
pub struct Tally(BTreeMap<&'static str, Count>);

/// How often something was seen, and accepted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Count {
    /// How often it was in an input.
    pub seen: u64,
    /// How often it was accepted.
    pub accepted: u64,
}

impl Count {
    /// Whether at least 30 % were accepted.
    #[must_use]
    pub const fn is_enough(self) -> bool {
        self.accepted * 10 >= self.seen * 3
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = self.accepted * 100 / self.seen.max(1);
        write!(f, "{} of {}, {percent} %", self.accepted, self.seen)
    }
}

impl Tally {
    /// Adds one input's report.
    pub fn add(&mut self, report: &Report) {
        for &(shape, accepted) in &report.0 {
            let count = self.0.entry(shape).or_default();
            count.seen += 1;
            count.accepted += u64::from(accepted);
        }
    }

    /// Each shape with how often it was seen and accepted.
    pub fn shapes(&self) -> impl Iterator<Item = (&'static str, Count)> {
        self.0.iter().map(|(&shape, &count)| (shape, count))
    }
}

/// A fuzz target.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, also that of its file in `fuzz_targets/`.
    pub name: &'static str,
    /// Runs it on one input; panics on a finding.
    pub run: fn(&[u8]) -> Report,
    /// Whether at least 30 % of the submissions of each shape must be accepted for a run to count.
    pub is_validator: bool,
    /// The most bytes that an input is given.
    pub max_len: usize,
}

/// The target called `name`.
#[must_use]
pub fn target(name: &str) -> Option<&'static Target> {
    targets::ALL.iter().find(|target| target.name == name)
}

/// Runs the target called `name` on what libFuzzer made.
pub fn feed(name: &str, input: &[u8]) {
    let target = target(name).expect("a target of the list");
    drop((target.run)(&input[..input.len().min(target.max_len)]));
}
