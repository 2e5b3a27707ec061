//! Time: the time-stamp counter, calibrated once against the interval timer that every PC has.
#![expect(unsafe_code, reason = "programs the interval timer's ports")]

use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

use crate::arch::{apic, cpu};

/// Longest time that something may take.
pub(crate) type Limit = Duration;

/// A wait was longer than its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Expired;

/// Ticks of the time-stamp counter per second.
static HERTZ: AtomicU64 = AtomicU64::new(0);

/// Frequency of the interval timer (Intel 8254).
const PIT_HERTZ: u64 = 1_193_182;
/// How long to compare, in ticks of the interval timer: about 20 ms.
const PIT_TICKS: u16 = 23_864;
/// Most polls of the interval timer: port reads take about 1 us on hardware and longer when emulated, so this is more than a second.
const POLLS_MAX: u32 = 2_000_000;

/// Measures the time-stamp counter and this core's interrupt timer.
///
/// # Errors
///
/// If the interval timer does not run down.
pub(crate) fn calibrate() -> Result<(), Expired> {
    start_interval();
    apic::timer_start_counting();
    let start = cpu::timestamp();
    let expired = (0..POLLS_MAX).any(|_| interval_is_over());
    let (end, timer) = (cpu::timestamp(), apic::timer_elapsed());
    if !expired || end <= start {
        return Err(Expired);
    }
    let ticks = end - start;
    HERTZ.store(ticks * PIT_HERTZ / u64::from(PIT_TICKS), Ordering::Relaxed);
    let rate = (u64::from(timer) << 32) / ticks;
    apic::set_timer_rate(u32::try_from(rate).unwrap_or(u32::MAX));
    apic::timer_stop();
    Ok(())
}

/// Ticks of the time-stamp counter per second.
pub(crate) fn hertz() -> u64 {
    HERTZ.load(Ordering::Relaxed)
}

/// `duration` in ticks of the time-stamp counter.
pub(crate) fn ticks(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos() * u128::from(hertz()) / 1_000_000_000).unwrap_or(u64::MAX)
}

/// Microseconds since the counter started.
pub(crate) fn micros() -> u64 {
    let hertz = u128::from(hertz().max(1));
    u64::try_from(u128::from(cpu::timestamp()) * 1_000_000 / hertz).unwrap_or(u64::MAX)
}

/// Polls `done` until it holds.
///
/// # Errors
///
/// If it does not within `limit`.
pub(crate) fn spin_until(limit: Limit, mut done: impl FnMut() -> bool) -> Result<(), Expired> {
    let (start, limit) = (cpu::timestamp(), ticks(limit));
    loop {
        if done() {
            return Ok(());
        }
        if cpu::timestamp().wrapping_sub(start) > limit {
            return Err(Expired);
        }
        core::hint::spin_loop();
    }
}

/// Lets `duration` pass.
pub(crate) fn spin(duration: Duration) {
    let _over = spin_until(duration, || false).is_err();
}

/// Starts channel 2 of the interval timer, whose output can be read without an interrupt.
fn start_interval() {
    let [low, high] = PIT_TICKS.to_le_bytes();
    // Gate on, speaker off; channel 2, low byte then high byte, one shot; the count.
    for (port, value) in [(0x61, 0x01), (0x43, 0xb0), (0x42, low), (0x42, high)] {
        // SAFETY: these are the timer's and the speaker's ports, which touch no memory.
        unsafe { cpu::write_port(port, value) };
    }
}

fn interval_is_over() -> bool {
    // SAFETY: bit 5 of the speaker's port shows the output of channel 2; reading changes nothing.
    (unsafe { cpu::read_port(0x61) }) & 0x20 != 0
}
