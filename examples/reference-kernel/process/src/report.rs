//! Numbers that a process publishes about itself: by a call when they changed, not at each turn.

use core::{cell::Cell, time::Duration};

use parakernel_apps::runtime::{Metric, Runtime};
use parakernel_core::time::Instant;

use crate::{Process, system_call};

/// How often numbers are published while the process does not sleep.
const INTERVAL: Duration = Duration::from_millis(50);

/// Numbers, published or still to be.
#[derive(Debug)]
pub(crate) struct Numbers {
    values: [u64; Metric::ALL.len()],
    /// Which were not published yet, a bit each.
    pending: u32,
    next: Instant,
}

impl Numbers {
    pub(crate) const fn new() -> Self {
        Self {
            values: [0; _],
            pending: 0,
            next: Instant::from_nanos(0),
        }
    }

    /// Takes note of a number.
    pub(crate) fn set(&mut self, metric: Metric, value: u64) {
        let index = metric as usize;
        if let Some(known) = self.values.get_mut(index)
            && *known != value
        {
            *known = value;
            self.pending |= 1 << index;
        }
    }

    /// Publishes what changed, if it is time to.
    #[inline]
    pub(crate) fn publish_if_due(&mut self, now: impl FnOnce() -> Instant) {
        if self.pending == 0 {
            return;
        }
        let now = now();
        if now >= self.next {
            self.publish();
            self.next = now.saturating_add(INTERVAL);
        }
    }

    /// Publishes what changed.
    pub(crate) fn publish(&mut self) {
        for (index, metric) in Metric::ALL.into_iter().enumerate() {
            if self.pending & 1 << index != 0 {
                system_call::report(metric, self.values[index]);
            }
        }
        self.pending = 0;
    }
}

/// A process that also publishes how many strays its interface has counted.
#[derive(Debug)]
pub struct WithStrays<'p> {
    process: &'p mut Process,
    strays: &'p Cell<u64>,
}

impl<'p> WithStrays<'p> {
    /// `process`, whose interface counts in `strays`.
    pub const fn new(process: &'p mut Process, strays: &'p Cell<u64>) -> Self {
        Self { process, strays }
    }
}

impl Runtime for WithStrays<'_> {
    fn now(&mut self) -> Instant {
        self.process.now()
    }

    fn end_of_turn(&mut self) {
        self.process.report(Metric::Strays, self.strays.get());
        self.process.end_of_turn();
    }

    fn wait(&mut self, deadline: Option<Instant>) {
        self.process.wait(deadline);
    }

    fn log(&mut self, line: &str) {
        self.process.log(line);
    }

    fn report(&mut self, metric: Metric, value: u64) {
        self.process.report(metric, value);
    }
}
