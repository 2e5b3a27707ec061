//! What a process's rings may make the device do: the validators of receive and transmit rings.
//!
//! They hold everything that decides, and never look at shared memory: entries reach them as copies. A slot is *busy*
//! from the moment its entry was accepted until the device has returned it, whatever the process says meanwhile. Each
//! queue has its own.

mod receive;
mod transmit;

pub use receive::{ReceiveBuffer, ReceiveValidator};
pub use transmit::{Entry, Limits, MAX_SEGMENTED, MIN_SEGMENT, TransmitValidator};

/// What only this module can make: the proof that a validator accepted something.
#[derive(Debug)]
pub struct Seal(());
