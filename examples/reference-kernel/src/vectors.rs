//! Interrupt vectors of devices: which events each stands for, on each core.
//!
//! Only core 0 gives vectors away; the core that a vector belongs to reads what it stands for when it fires. A vector
//! that must serve processes on several cores passes the news on.

use core::sync::atomic::{AtomicU64, Ordering};

use parakernel_core::address::CoreId;

use crate::arch::idt::FIRST_INTERRUPT;
use crate::cores::{self, Core};

/// Number of vectors that devices may have on each core: those between exceptions and the kernel's own.
pub(crate) const VECTORS: usize = 0xf0 - FIRST_INTERRUPT as usize;
/// Largest event that a device may post; event 0 is the kernel's.
pub(crate) const EVENT_MAX: u8 = 62;
/// Set in the events of a vector that is also passed on.
const PASSED_ON: u64 = 1 << 63;
/// Most passings-on at a time.
const LINKS: usize = 64;

/// What the vectors of a core stand for: sets of events; 0 if the vector is free.
pub(crate) type Table = [AtomicU64; VECTORS];

/// Who else is to hear of a vector: valid 1, vector 8, from 16, to 16, event 8 bits; 0 if free.
static LINK_TABLE: [AtomicU64; LINKS] = [const { AtomicU64::new(0) }; LINKS];

/// A vector of a core.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Vector {
    /// The core that it interrupts.
    pub(crate) core: CoreId,
    /// Its number there.
    pub(crate) number: u8,
}

/// An event of the process on a core.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Event {
    /// The core.
    pub(crate) core: CoreId,
    /// The event's number, 1 to [`EVENT_MAX`].
    pub(crate) number: u8,
}

impl Event {
    const fn mask(self) -> u64 {
        if self.number <= EVENT_MAX {
            1 << self.number
        } else {
            0
        }
    }

    fn link(self, vector: Vector) -> u64 {
        let (from, to) = (vector.core.index() as u64, self.core.index() as u64);
        1 << 63 | u64::from(vector.number) << 40 | from << 24 | to << 8 | u64::from(self.number)
    }
}

impl Vector {
    /// A free vector of the event's core, from now on standing for `event`.
    pub(crate) fn claim(event: Event) -> Option<Self> {
        let core = cores::by_id(event.core)?;
        let (slot, number) = core
            .vectors
            .iter()
            .zip(FIRST_INTERRUPT..)
            .find(|(slot, _)| is_free(slot))?;
        slot.store(event.mask(), Ordering::Release);
        Some(Self {
            core: event.core,
            number,
        })
    }

    /// Has the vector stand for `event` too, which may be another core's; whether there was room for it.
    pub(crate) fn share(self, event: Event) -> bool {
        let Some(slot) = self.slot() else {
            return false;
        };
        if event.core == self.core {
            slot.fetch_or(event.mask(), Ordering::AcqRel);
            return true;
        }
        let Some(link) = LINK_TABLE.iter().find(|link| is_free(link)) else {
            return false;
        };
        link.store(event.link(self), Ordering::Release);
        slot.fetch_or(PASSED_ON, Ordering::AcqRel);
        true
    }

    /// Has the vector stand for `event` no more; it is free again when nothing is left.
    pub(crate) fn release(self, event: Event) {
        let Some(slot) = self.slot() else {
            return;
        };
        if event.core == self.core {
            slot.fetch_and(!event.mask(), Ordering::AcqRel);
            return;
        }
        let is_gone = |link: &&AtomicU64| link.load(Ordering::Relaxed) == event.link(self);
        if let Some(link) = LINK_TABLE.iter().find(is_gone) {
            link.store(0, Ordering::Release);
        }
        if links(self).next().is_none() {
            slot.fetch_and(!PASSED_ON, Ordering::AcqRel);
        }
    }

    fn slot(self) -> Option<&'static AtomicU64> {
        let index = self.number.checked_sub(FIRST_INTERRUPT)?;
        cores::by_id(self.core)?.vectors.get(usize::from(index))
    }
}

/// Notes that device vector `number` fired on this core.
pub(crate) fn fire(number: u8) {
    let core = Core::this();
    let vector = Vector {
        core: core.id,
        number,
    };
    let events = vector.slot().map_or(0, |slot| slot.load(Ordering::Acquire));
    core.mark(events & !PASSED_ON);
    if events & PASSED_ON != 0 {
        for event in links(vector) {
            if let Some(core) = cores::by_id(event.core) {
                core.post(event.mask());
            }
        }
    }
}

/// How many vectors of `core` are in use.
pub(crate) fn in_use(core: &Core) -> usize {
    core.vectors.iter().filter(|slot| !is_free(slot)).count()
}

/// The events that `vector` is passed on as.
fn links(vector: Vector) -> impl Iterator<Item = Event> {
    LINK_TABLE.iter().filter_map(move |link| {
        let [number, to_low, to_high, ..] = link.load(Ordering::Acquire).to_le_bytes();
        let core = CoreId::new(u32::from(u16::from_le_bytes([to_low, to_high])));
        let event = Event { core, number };
        (link.load(Ordering::Acquire) == event.link(vector)).then_some(event)
    })
}

fn is_free(word: &AtomicU64) -> bool {
    word.load(Ordering::Relaxed) == 0
}
