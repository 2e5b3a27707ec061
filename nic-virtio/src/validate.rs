//! What a process's rings may make the device do: the validators of receive and transmit rings.
//!
//! They hold everything that decides, and never look at shared memory: entries reach them as copies. A slot is *busy*
//! from the moment its entry was accepted until the device has returned it, whatever the process says meanwhile.

use parakernel_core::validate::Violation;

mod receive;
mod transmit;

pub use receive::{ReceiveBuffer, ReceiveValidator};
pub use transmit::{FramePart, MAX_SEGMENTS, TransmitValidator};

/// What only this module can make: the proof that a validator accepted something.
#[derive(Debug)]
pub struct Seal(());

/// Which slots the device has.
///
/// As long as the device returns entries in order, those are the ones between two positions, and nothing needs to be
/// looked up. From the first one out of order on, each slot has a mark.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Tracking {
    /// In order, and each frame has one part; not used for receive rings.
    Single,
    InOrder,
    Marked,
}

#[cold]
fn busy(index: usize) -> Violation {
    Violation::Busy {
        id: id(index).into(),
    }
}

#[inline]
#[expect(clippy::cast_possible_truncation, reason = "slots are below 32768")]
const fn id(index: usize) -> u16 {
    index as u16
}
