//! Time: instants that the platform hands in, and waits that end.
//!
//! Bring-up may wait for hardware, through [`wait_until`]. After bring-up nothing in a control half waits: operations
//! that need the device's consent are polled with an [`Instant`], and carry a [`Deadline`].

use core::{fmt, time::Duration};

use embedded_hal::delay::DelayNs;

/// A point in time: nanoseconds since an arbitrary start, never going back.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Instant(u64);

impl Instant {
    /// The instant `nanoseconds` after the start.
    #[inline]
    #[must_use]
    pub const fn from_nanos(nanoseconds: u64) -> Self {
        Self(nanoseconds)
    }

    /// Nanoseconds since the start.
    #[inline]
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The instant `duration` later; the last one there is where that would overflow.
    #[must_use]
    pub fn saturating_add(self, duration: Duration) -> Self {
        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(nanoseconds))
    }
}

/// The end of the time that an operation was given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Deadline {
    at: Instant,
    limit_ns: u64,
}

impl Deadline {
    /// The deadline `limit` after `now`.
    #[must_use]
    pub fn after(now: Instant, limit: Duration) -> Self {
        let at = now.saturating_add(limit);
        Self {
            at,
            limit_ns: at.0 - now.0,
        }
    }

    /// Fails from the deadline on.
    ///
    /// # Errors
    ///
    /// [`Timeout`], with the time that the operation was given.
    pub fn check(&self, now: Instant) -> Result<(), Timeout> {
        if now < self.at {
            Ok(())
        } else {
            Err(Timeout {
                limit: Duration::from_nanos(self.limit_ns),
            })
        }
    }

    /// When the time is up.
    #[must_use]
    pub const fn at(&self) -> Instant {
        self.at
    }
}

/// The device did not do in time what its specification says it does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timeout {
    /// How long the device was given.
    pub limit: Duration,
}

impl fmt::Display for Timeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no answer within {:?}", self.limit)
    }
}

impl core::error::Error for Timeout {}

impl crate::error::Error for Timeout {
    fn kind(&self) -> crate::error::ErrorKind {
        crate::error::ErrorKind::Timeout
    }
}

#[cfg(feature = "defmt")]
impl defmt::Format for Timeout {
    fn format(&self, f: defmt::Formatter<'_>) {
        let limit_us = u64::try_from(self.limit.as_micros()).unwrap_or(u64::MAX);
        defmt::write!(f, "no answer within {=u64} us", limit_us);
    }
}

/// Waits until `condition` holds, looking every `interval`, for `limit` in all.
///
/// The bound is a count of delays, so it holds however the platform keeps time; `condition` is looked at once more
/// after the last delay.
///
/// ```
/// use core::time::Duration;
/// use parakernel_core::time::wait_until;
/// # struct Clock; impl embedded_hal::delay::DelayNs for Clock { fn delay_ns(&mut self, _: u32) {} }
///
/// let mut looks = 0;
/// let ready = || { looks += 1; looks == 3 };
/// assert!(wait_until(&mut Clock, Duration::from_millis(1), Duration::from_micros(10), ready).is_ok());
/// ```
///
/// # Errors
///
/// [`Timeout`] where `condition` still does not hold after `limit`.
pub fn wait_until(
    delay: &mut impl DelayNs,
    limit: Duration,
    interval: Duration,
    mut condition: impl FnMut() -> bool,
) -> Result<(), Timeout> {
    let interval_ns = u32::try_from(interval.as_nanos())
        .unwrap_or(u32::MAX)
        .max(1);
    let looks = limit.as_nanos().div_ceil(u128::from(interval_ns));
    let mut looked = 0;
    loop {
        if condition() {
            return Ok(());
        }
        if looked == looks {
            return Err(Timeout { limit });
        }
        delay.delay_ns(interval_ns);
        looked += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Counted(u64);

    impl DelayNs for Counted {
        fn delay_ns(&mut self, ns: u32) {
            self.0 += u64::from(ns);
        }
    }

    #[test]
    fn a_wait_ends_after_its_limit_and_not_before() {
        let mut clock = Counted::default();
        let limit = Duration::from_micros(100);
        let never = wait_until(&mut clock, limit, Duration::from_micros(7), || false);
        assert_eq!(never, Err(Timeout { limit }));
        assert!(clock.0 >= 100_000 && clock.0 < 107_000);
    }

    #[test]
    fn a_condition_that_holds_costs_no_delay() {
        let mut clock = Counted::default();
        wait_until(&mut clock, Duration::ZERO, Duration::from_micros(1), || {
            true
        })
        .unwrap();
        assert_eq!(clock.0, 0);
    }

    #[test]
    fn a_deadline_fails_from_its_instant_on() {
        let deadline = Deadline::after(Instant::from_nanos(5), Duration::from_nanos(10));
        assert!(deadline.check(Instant::from_nanos(14)).is_ok());
        assert!(deadline.check(Instant::from_nanos(15)).is_err());
    }
}
