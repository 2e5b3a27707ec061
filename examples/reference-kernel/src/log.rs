//! `defmt` frames on COM2, for `defmt-print` or `cargo xtask` on the host.
#![expect(unsafe_code, reason = "implements defmt's logger")]

use core::cell::UnsafeCell;

use defmt::Encoder;

use crate::serial::COM2;
use crate::time;

#[defmt::global_logger]
struct Logger;

defmt::timestamp!("{=u64:us}", time::now().as_nanos() / 1000);

/// The encoder. It belongs to the core that holds COM2, which makes it safe to share.
struct Shared(UnsafeCell<Encoder>);

// SAFETY: only used between `acquire` and `release` of COM2.
unsafe impl Sync for Shared {}

static ENCODER: Shared = Shared(UnsafeCell::new(Encoder::new()));

// SAFETY: COM2's lock makes frames whole. Interrupts are off while the kernel logs, so no frame is begun within
// another on one core.
unsafe impl defmt::Logger for Logger {
    fn acquire() {
        COM2.acquire();
        // SAFETY: this core holds COM2.
        let encoder = unsafe { &mut *ENCODER.0.get() };
        encoder.start_frame(|bytes| COM2.send(bytes));
    }

    unsafe fn flush() {
        // `send` returns when the bytes are gone.
    }

    unsafe fn release() {
        // SAFETY: defmt calls this after `acquire`, on the core that holds COM2.
        let encoder = unsafe { &mut *ENCODER.0.get() };
        encoder.end_frame(|bytes| COM2.send(bytes));
        COM2.release();
    }

    unsafe fn write(bytes: &[u8]) {
        // SAFETY: defmt calls this between `acquire` and `release`, on the core that holds COM2.
        let encoder = unsafe { &mut *ENCODER.0.get() };
        encoder.write(bytes, |bytes| COM2.send(bytes));
    }
}
