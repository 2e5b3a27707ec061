//! What happened: rules that a driver broke, things a model leaves out, faults, and resets.

use alloc::sync::Arc;
use core::fmt;
use std::sync::Mutex;

use parakernel_core::time::Instant;

use crate::{memory::RequesterId, sync::lock};

/// What an [`Entry`] reports.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Kind {
    /// The driver did what the device's specification forbids; `section` says where.
    Violation {
        /// The specification and section that was broken, such as "virtio 1.3, 3.1.1".
        section: &'static str,
    },
    /// The driver used something that a real device has and the model leaves out.
    LeftOut,
    /// An injected fault took effect.
    Fault,
    /// Something worth knowing that is no fault: a reset, a link change.
    Note,
}

/// One thing that happened.
#[derive(Clone, Debug)]
pub struct Entry {
    /// When, in model time.
    pub at: Instant,
    /// The device that reports it.
    pub device: RequesterId,
    /// What it is.
    pub kind: Kind,
    /// The details, for a reader.
    pub text: String,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>12} ns {} ", self.at.as_nanos(), self.device)?;
        match self.kind {
            Kind::Violation { section } => write!(f, "violation ({section}): {}", self.text),
            Kind::LeftOut => write!(f, "left out of the model: {}", self.text),
            Kind::Fault => write!(f, "fault: {}", self.text),
            Kind::Note => write!(f, "note: {}", self.text),
        }
    }
}

/// The record of one [`World`](crate::World), shared by all its devices. Clones are the same record.
///
/// At most [`Trace::LIMIT`] entries are kept; later ones are only counted, so that a long run stays in bounds.
#[derive(Clone, Debug, Default)]
pub struct Trace(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    entries: Vec<Entry>,
    dropped: u64,
}

impl Trace {
    /// How many entries are kept.
    pub const LIMIT: usize = 100_000;

    /// Adds an entry.
    pub fn record(&self, entry: Entry) {
        let mut state = lock(&self.0);
        if state.entries.len() < Self::LIMIT {
            state.entries.push(entry);
        } else {
            state.dropped += 1;
        }
    }

    /// All entries so far, oldest first.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        lock(&self.0).entries.clone()
    }

    /// How many entries came after the record was full.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        lock(&self.0).dropped
    }

    /// The rules that drivers broke.
    #[must_use]
    pub fn violations(&self) -> Vec<Entry> {
        self.of_kind(|kind| matches!(kind, Kind::Violation { .. }))
    }

    /// The uses of something that a model leaves out.
    #[must_use]
    pub fn left_out(&self) -> Vec<Entry> {
        self.of_kind(|kind| matches!(kind, Kind::LeftOut))
    }

    /// Takes all entries so far, oldest first; they are forgotten here.
    #[must_use]
    pub fn take(&self) -> Vec<Entry> {
        core::mem::take(&mut lock(&self.0).entries)
    }

    /// Forgets all entries.
    pub fn clear(&self) {
        *lock(&self.0) = State::default();
    }

    /// Asserts that no driver broke a rule or used what is left out.
    ///
    /// # Panics
    ///
    /// Where one did, with the list of what it did.
    #[expect(clippy::panic, reason = "an assertion for tests")]
    #[track_caller]
    pub fn assert_clean(&self) {
        let bad = self.of_kind(|kind| matches!(kind, Kind::Violation { .. } | Kind::LeftOut));
        if !bad.is_empty() {
            let lines: Vec<String> = bad.iter().map(Entry::to_string).collect();
            panic!("the driver broke the rules:\n{}", lines.join("\n"));
        }
    }

    fn of_kind(&self, wanted: impl Fn(Kind) -> bool) -> Vec<Entry> {
        let state = lock(&self.0);
        state
            .entries
            .iter()
            .filter(|entry| wanted(entry.kind))
            .cloned()
            .collect()
    }
}
