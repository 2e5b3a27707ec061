//! What a benchmark has done, for its kernel and its user.

use core::{
    cell::Cell,
    fmt::{self, Write as _},
};

use super::pass::Pass;
use crate::runtime::{Metric, Runtime};

/// Counters of all jobs of a process.
#[derive(Debug, Default)]
pub struct Statistics {
    pub(super) written: Cell<u64>,
    pub(super) verified: Cell<u64>,
    pub(super) bad: Cell<u64>,
    pub(super) failed: Cell<u64>,
    pub(super) requests: Cell<u64>,
    finished: Cell<Option<Summary>>,
}

impl Statistics {
    /// All at zero.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Blocks written.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.written.get()
    }

    /// Blocks read that were what they had to be.
    #[must_use]
    pub fn verified(&self) -> u64 {
        self.verified.get()
    }

    /// Blocks read that were something else.
    #[must_use]
    pub fn bad(&self) -> u64 {
        self.bad.get()
    }

    /// Requests that the device did not carry out.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.failed.get()
    }

    /// Requests in all, failed ones included.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests.get()
    }

    /// Counts a block that was read.
    pub(super) fn verify(&self, good: bool) {
        let counter = if good { &self.verified } else { &self.bad };
        counter.set(counter.get() + 1);
    }

    pub(super) fn finish(&self, summary: Summary) {
        self.finished.set(Some(summary));
    }

    /// Publishes the counters, and a line on the pass that ended last, if one did since the last call.
    ///
    /// A request that failed counts as bad: the kernel, and who looks at its report, has one word for both.
    pub(super) fn report(&self, runtime: &mut impl Runtime) {
        runtime.report(Metric::Written, self.written());
        runtime.report(Metric::Verified, self.verified());
        runtime.report(Metric::Bad, self.bad() + self.failed());
        if let Some(summary) = self.finished.take() {
            let mut line = Line::default();
            // A line that does not fit is cut short.
            let _ = write!(line, "{summary}");
            runtime.log(line.as_str());
        }
    }
}

/// One pass over a volume: everything written, flushed, and read back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Summary {
    pub(super) generation: u64,
    pub(super) blocks: u64,
    pub(super) write: Pass,
    pub(super) read: Pass,
    pub(super) nanoseconds: u64,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            generation,
            blocks,
            write,
            read,
            nanoseconds,
        } = self;
        let requests = write.requests(*blocks) + read.requests(*blocks);
        let per_second = u128::from(requests) * 1_000_000_000 / u128::from(*nanoseconds).max(1);
        write!(
            f,
            "generation {generation}: {blocks} blocks written {write}, read {read}, {} us, {per_second} requests/s",
            nanoseconds / 1000,
        )
    }
}

/// A line of text, without allocation.
struct Line {
    bytes: [u8; 160],
    len: usize,
}

impl Default for Line {
    fn default() -> Self {
        Self {
            bytes: [0; 160],
            len: 0,
        }
    }
}

impl Line {
    fn as_str(&self) -> &str {
        let bytes = self.bytes.get(..self.len).unwrap_or_default();
        str::from_utf8(bytes).unwrap_or_default()
    }
}

impl fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.len + text.len();
        let place = self.bytes.get_mut(self.len..end).ok_or(fmt::Error)?;
        place.copy_from_slice(text.as_bytes());
        self.len = end;
        Ok(())
    }
}
