//! What the kernel does on an interrupt: note what happened, and go on.

use crate::arch::{apic, paging};
use crate::cores::Core;
use crate::vectors;

/// Interrupts that the kernel itself uses. Devices have the vectors below these (see [`vectors`]).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Interrupt {
    /// The core's timer has run down.
    Timer = 0xf0,
    /// Another core has something to say.
    Wake = 0xf1,
    /// Translations are to be forgotten.
    Flush = 0xf2,
    /// The APIC withdrew an interrupt; it wants no acknowledgement.
    Spurious = 0xff,
}

impl Interrupt {
    /// Its vector.
    pub(crate) const fn vector(self) -> u8 {
        self as u8
    }

    const fn from_vector(vector: u8) -> Option<Self> {
        Some(match vector {
            0xf0 => Self::Timer,
            0xf1 => Self::Wake,
            0xf2 => Self::Flush,
            0xff => Self::Spurious,
            _ => return None,
        })
    }
}

/// Handles `vector` on this core. Interrupts are off.
pub(crate) fn handle(vector: u8) {
    match Interrupt::from_vector(vector) {
        // That the core is awake is all that is wanted: it looks for work by itself.
        Some(Interrupt::Timer | Interrupt::Wake) => {}
        Some(Interrupt::Flush) => {
            let asked = Core::this().flushes_asked();
            paging::flush();
            Core::this().flushed(asked);
        }
        Some(Interrupt::Spurious) => return,
        None => vectors::fire(vector),
    }
    apic::end_of_interrupt();
}
