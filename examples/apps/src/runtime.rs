//! What a process needs of its kernel, besides its queues.

pub use parakernel_core::abi::Metric;
use parakernel_core::time::Instant;

/// The calls of a process to its kernel.
pub trait Runtime {
    /// The time now.
    fn now(&mut self) -> Instant;

    /// Publishes what the process's queues were given since the last call: at most one system call per queue pair.
    fn end_of_turn(&mut self);

    /// Sleeps until a queue has news that no turn has looked at, or until `deadline`.
    ///
    /// Arms the queues' events first, and looks once more before it sleeps: where something arrived in the meantime, it
    /// returns at once. It may always return early.
    fn wait(&mut self, deadline: Option<Instant>);

    /// Writes a line to the kernel's log.
    fn log(&mut self, line: &str) {
        let _ = line;
    }

    /// Publishes a number; only the last value of each metric counts.
    fn report(&mut self, metric: Metric, value: u64) {
        let _ = (metric, value);
    }
}

impl<R: Runtime + ?Sized> Runtime for &mut R {
    fn now(&mut self) -> Instant {
        (**self).now()
    }

    fn end_of_turn(&mut self) {
        (**self).end_of_turn();
    }

    fn wait(&mut self, deadline: Option<Instant>) {
        (**self).wait(deadline);
    }

    fn log(&mut self, line: &str) {
        (**self).log(line);
    }

    fn report(&mut self, metric: Metric, value: u64) {
        (**self).report(metric, value);
    }
}
