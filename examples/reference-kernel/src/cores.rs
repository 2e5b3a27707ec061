//! The machine's cores, and what one may say to another.

use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use parakernel_core::abi::Metric;
use parakernel_core::address::{CoreId, NodeId};

use crate::arch::{apic, traps};
use crate::interrupts::Interrupt;
use crate::once::Once;
use crate::vectors::{self, VECTORS};

/// Most cores that the kernel uses; others stay stopped, and the boot log says so.
pub(crate) const CORES_MAX: usize = 256;

/// That a core was asked to forget translations: see [`Core::ask_to_flush`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Flush(u64);

/// How many system calls were answered that name memory or a lease: carried out, and refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Calls {
    pub(crate) taken: u64,
    pub(crate) refused: u64,
}

impl Calls {
    /// How many came after `earlier`.
    pub(crate) const fn since(self, earlier: Self) -> Self {
        Self {
            taken: self.taken.saturating_sub(earlier.taken),
            refused: self.refused.saturating_sub(earlier.refused),
        }
    }
}

/// The event that says: another core has news.
pub(crate) const EVENT_KERNEL: u64 = 1;

/// What every core may know of each.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Core {
    /// For the assembly, which expects it first.
    pub(crate) anchor: traps::Anchor,
    /// Its index; 0 is the core that boots the others and runs the event loop.
    pub(crate) id: CoreId,
    /// The number by which interrupts reach it.
    pub(crate) apic_id: u32,
    /// Its NUMA node.
    pub(crate) node: NodeId,
    /// What the vectors of devices stand for.
    pub(crate) vectors: vectors::Table,
    /// Events that happened and that nobody has taken yet: [`EVENT_KERNEL`] and those of devices.
    events: AtomicU64,
    /// The run that is to be stopped: 0 for none.
    stop: AtomicU32,
    /// What its process says of itself, by [`Metric`].
    pub(crate) metrics: [AtomicU64; Metric::ALL.len()],
    /// Calls of its processes that were carried out, and refused.
    calls: [AtomicU64; 2],
    /// How often this core was asked to forget translations.
    flushes_asked: AtomicU64,
    /// How many of those it has done.
    flushes_done: AtomicU64,
}

impl Core {
    /// The record of a core that has not started.
    pub(crate) const fn new(id: CoreId, apic_id: u32, node: NodeId) -> Self {
        Self {
            anchor: traps::Anchor::new(),
            id,
            apic_id,
            node,
            vectors: [const { AtomicU64::new(0) }; VECTORS],
            events: AtomicU64::new(0),
            stop: AtomicU32::new(0),
            metrics: [const { AtomicU64::new(0) }; _],
            calls: [const { AtomicU64::new(0) }; 2],
            flushes_asked: AtomicU64::new(0),
            flushes_done: AtomicU64::new(0),
        }
    }

    /// The core that executes this.
    pub(crate) fn this() -> &'static Self {
        traps::this_core()
    }

    /// What its process says of itself.
    pub(crate) fn metric(&self, metric: Metric) -> u64 {
        self.metrics[metric as usize].load(Ordering::Relaxed)
    }

    /// Counts a call.
    pub(crate) fn count_call(&self, is_refused: bool) {
        self.calls[usize::from(is_refused)].fetch_add(1, Ordering::Relaxed);
    }

    /// The calls so far.
    pub(crate) fn calls(&self) -> Calls {
        let [taken, refused] = &self.calls;
        Calls {
            taken: taken.load(Ordering::Relaxed),
            refused: refused.load(Ordering::Relaxed),
        }
    }

    /// Marks `events` and wakes the core if it sleeps.
    pub(crate) fn post(&self, events: u64) {
        self.mark(events);
        self.kick(Interrupt::Wake);
    }

    /// Marks `events`, for code that runs on the core itself.
    pub(crate) fn mark(&self, events: u64) {
        self.events.fetch_or(events, Ordering::AcqRel);
    }

    /// Whether events have happened that nobody has taken.
    pub(crate) fn has_events(&self) -> bool {
        self.events.load(Ordering::Acquire) != 0
    }

    /// Takes the events that happened since the last call.
    pub(crate) fn take_events(&self) -> u64 {
        self.events.swap(0, Ordering::AcqRel)
    }

    /// Has the core leave its process if that is still run number `run`, whatever it does.
    pub(crate) fn stop(&self, run: u32) {
        self.stop.store(run, Ordering::Release);
        self.kick(Interrupt::Wake);
    }

    /// Whether [`stop`](Self::stop) was called for `run`.
    pub(crate) fn is_stopped(&self, run: u32) -> bool {
        self.stop.load(Ordering::Acquire) == run
    }

    /// Has the core forget all translations of its process. It does so between two instructions of ring 3 or while it
    /// sleeps, never within a system call, and has taken all earlier interrupts by then.
    pub(crate) fn ask_to_flush(&self) -> Flush {
        let asked = self.flushes_asked.fetch_add(1, Ordering::AcqRel) + 1;
        self.kick(Interrupt::Flush);
        Flush(asked)
    }

    /// The flush that the core has not been asked for yet: only that one and later ones forget what is unmapped now.
    pub(crate) fn next_flush(&self) -> Flush {
        Flush(self.flushes_asked() + 1)
    }

    /// Whether the core has done what it was asked for.
    pub(crate) fn has_flushed(&self, flush: Flush) -> bool {
        self.flushes_done() >= flush.0
    }

    /// Says that translations have been forgotten, for all who asked before `asked` was read.
    pub(crate) fn flushed(&self, asked: u64) {
        self.flushes_done.store(asked, Ordering::Release);
    }

    /// How many flushes the core has done, of those that it was asked for.
    pub(crate) fn flushes_done(&self) -> u64 {
        self.flushes_done.load(Ordering::Acquire)
    }

    /// How often the core was asked to forget translations.
    pub(crate) fn flushes_asked(&self) -> u64 {
        self.flushes_asked.load(Ordering::Acquire)
    }

    /// Interrupts the core.
    fn kick(&self, interrupt: Interrupt) {
        apic::send(self.apic_id, interrupt.vector());
    }
}

static CORES: [Once<&'static Core>; CORES_MAX] = [const { Once::new() }; CORES_MAX];
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// Adds a core to the table; core 0 does this for each core that runs.
pub(crate) fn add(core: &'static Core) {
    let index = core.id.index();
    if CORES.get(index).is_some_and(|cell| cell.set(core).is_ok()) {
        COUNT.fetch_max(index + 1, Ordering::Release);
    }
}

/// The core with this index, if it runs.
pub(crate) fn by_id(id: CoreId) -> Option<&'static Core> {
    CORES.get(id.index())?.get().copied()
}

/// Wakes core 0's event loop.
pub(crate) fn wake_kernel() {
    if let Some(core) = by_id(CoreId::new(0)) {
        core.post(EVENT_KERNEL);
    }
}

/// All cores that run.
pub(crate) fn all() -> impl Iterator<Item = &'static Core> {
    CORES[..COUNT.load(Ordering::Acquire)]
        .iter()
        .filter_map(|cell| cell.get().copied())
}
