//! Time: the time-stamp counter, calibrated once against the interval timer that every PC has.
#![expect(unsafe_code, reason = "programs the interval timer's ports")]

use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

use embedded_hal::delay::DelayNs;
use parakernel_core::time::Instant;

use crate::arch::{apic, cpu};

/// A wait was longer than its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Expired;

/// Ticks of the time-stamp counter per second.
static HERTZ: AtomicU64 = AtomicU64::new(0);
/// The counter at nanosecond 0.
static START: AtomicU64 = AtomicU64::new(0);
/// Nanoseconds per tick and ticks per nanosecond, both times 2^32.
static NANOS_PER_TICK: AtomicU64 = AtomicU64::new(0);
static TICKS_PER_NANO: AtomicU64 = AtomicU64::new(0);

const NANOS: u64 = 1_000_000_000;
/// Frequency of the interval timer (Intel 8254).
const PIT_HERTZ: u64 = 1_193_182;
/// How often to compare at most, and the error to be content with: one part of so many.
const ATTEMPTS: u32 = 10;
const ERROR_PER_TICKS: u64 = 500;
const PIT_CHANNEL_0: u16 = 0x40;
const PIT_COMMAND: u16 = 0x43;
/// How long to compare, in ticks of the interval timer: about 20 ms.
const PIT_TICKS: u16 = 23_864;
/// Most polls of the interval timer. A port read takes 1 us on hardware and longer when emulated: more than a second.
const POLLS_MAX: u32 = 2_000_000;

/// A comparison of the counters, and how far it may be off.
#[derive(Clone, Copy, Debug)]
struct Measurement {
    start: u64,
    ticks: u64,
    timer: u32,
    error: u64,
}

/// Measures the time-stamp counter and this core's interrupt timer.
///
/// An emulator may be kept from its processor at any moment, so each comparison knows its own error, and the best of
/// a few counts.
///
/// # Errors
///
/// If there is no interval timer, or it does not run down, or it had run down each time before anyone could look.
pub(crate) fn calibrate() -> Result<(), Expired> {
    let mut best: Option<Measurement> = None;
    for _ in 0..ATTEMPTS {
        let Ok(next) = measure() else { continue };
        let best = best.get_or_insert(next);
        if next.error < best.error {
            *best = next;
        }
        if best.error < best.ticks / ERROR_PER_TICKS {
            break;
        }
    }
    let best = best.ok_or(Expired)?;
    let hertz = best.ticks.saturating_mul(PIT_HERTZ) / u64::from(PIT_TICKS);
    if hertz == 0 {
        return Err(Expired);
    }
    HERTZ.store(hertz, Ordering::Relaxed);
    START.store(best.start, Ordering::Relaxed);
    NANOS_PER_TICK.store((NANOS << 32) / hertz, Ordering::Relaxed);
    TICKS_PER_NANO.store(scale(hertz, u64::MAX / NANOS), Ordering::Relaxed);
    let rate = (u64::from(best.timer) << 32) / best.ticks;
    apic::set_timer_rate(u32::try_from(rate).unwrap_or(u32::MAX));
    Ok(())
}

/// Lets the interval timer run down once.
fn measure() -> Result<Measurement, Expired> {
    let before = cpu::timestamp();
    start_interval();
    apic::timer_start_counting();
    let start = cpu::timestamp();
    if interval_is_over() {
        return Err(Expired);
    }
    // The timer ran out between the beginning of the last poll but one and the end of the last.
    let (mut previous, mut last) = (before, start);
    for _ in 0..POLLS_MAX {
        let is_over = interval_is_over();
        let now = cpu::timestamp();
        if is_over {
            let timer = apic::timer_elapsed();
            apic::timer_stop();
            let error = (start - before) + (now - previous);
            return Ok(Measurement {
                start,
                ticks: (now - start).max(1),
                timer,
                error,
            });
        }
        (previous, last) = (last, now);
    }
    Err(Expired)
}

/// Ticks of the time-stamp counter per second.
pub(crate) fn hertz() -> u64 {
    HERTZ.load(Ordering::Relaxed)
}

/// The time-stamp counter at nanosecond 0.
pub(crate) fn start() -> u64 {
    START.load(Ordering::Relaxed)
}

/// Nanoseconds since the counter was measured.
pub(crate) fn now() -> Instant {
    let ticks = cpu::timestamp().wrapping_sub(start());
    Instant::from_nanos(scale(ticks, NANOS_PER_TICK.load(Ordering::Relaxed)))
}

/// Has this core's timer interrupt it at `instant`, or soon if that has passed.
pub(crate) fn wake_at(instant: Instant) {
    let nanos = instant.as_nanos().saturating_sub(now().as_nanos());
    apic::timer_arm(scale(nanos, TICKS_PER_NANO.load(Ordering::Relaxed)));
}

/// Polls `done` until it holds.
///
/// # Errors
///
/// If it does not within `limit`.
pub(crate) fn spin_until(limit: Duration, mut done: impl FnMut() -> bool) -> Result<(), Expired> {
    let end = now().saturating_add(limit);
    loop {
        if done() {
            return Ok(());
        }
        if now() > end {
            return Err(Expired);
        }
        core::hint::spin_loop();
    }
}

/// Lets `duration` pass.
pub(crate) fn spin(duration: Duration) {
    let _is_over = spin_until(duration, || false).is_err();
}

/// Delays by spinning, for drivers that bring a device up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spin;

impl DelayNs for Spin {
    fn delay_ns(&mut self, nanos: u32) {
        spin(Duration::from_nanos(u64::from(nanos)));
    }
}

/// `value * factor / 2^32`, or the largest number if that is larger.
fn scale(value: u64, factor: u64) -> u64 {
    u64::try_from((u128::from(value) * u128::from(factor)) >> 32).unwrap_or(u64::MAX)
}

/// Starts channel 0 of the interval timer in mode 0: its output is low until the count has run down. Its interrupt
/// goes nowhere, because local interrupt controllers mask it.
fn start_interval() {
    let [low, high] = PIT_TICKS.to_le_bytes();
    for (port, value) in [
        (PIT_COMMAND, 0x30),
        (PIT_CHANNEL_0, low),
        (PIT_CHANNEL_0, high),
    ] {
        // SAFETY: these are the timer's ports, which touch no memory.
        unsafe { cpu::write_port(port, value) };
    }
}

/// Whether the output is high: bit 7 of the status that the read-back command latches. So is everything where there
/// is no timer.
fn interval_is_over() -> bool {
    // SAFETY: this is the timer's command port; latching touches no memory.
    unsafe { cpu::write_port(PIT_COMMAND, 0xe2) };
    // SAFETY: this is the timer's data port, which now gives the status.
    let status = unsafe { cpu::read_port(PIT_CHANNEL_0) };
    status & 0x80 != 0
}
