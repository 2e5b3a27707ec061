//! Times as clients say them.

use core::time::Duration;

use parakernel_core::time::Instant;

use crate::kv::store::Expiry;

/// Longer times than 30 days are seconds since 1970, not from now.
const LONGEST_RELATIVE: i64 = 60 * 60 * 24 * 30;

/// The time of day at the clock's start, in seconds since 1970; 0 where nobody knows it, and then absolute times lie
/// in a far future.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct UnixTime(pub u64);

impl UnixTime {
    /// The time of day at `now`, in seconds since 1970.
    pub(super) const fn at(self, now: Instant) -> u64 {
        self.0.saturating_add(seconds(now))
    }

    /// The instant that a client means by `time`, and `now` where that is past.
    pub(super) fn instant(self, time: i64, now: Instant) -> Instant {
        let Ok(seconds) = u64::try_from(time) else {
            return now;
        };
        if time <= LONGEST_RELATIVE {
            return now.saturating_add(Duration::from_secs(seconds));
        }
        let since_start = Duration::from_secs(seconds.saturating_sub(self.0));
        Instant::default().saturating_add(since_start).max(now)
    }

    /// When an item expires for which a client says `time`.
    pub(super) fn expiry(self, time: i64, now: Instant) -> Expiry {
        if time == 0 {
            Expiry::Never
        } else {
            Expiry::At(self.instant(time, now))
        }
    }
}

/// Whole seconds since the clock's start.
pub(super) const fn seconds(now: Instant) -> u64 {
    now.as_nanos() / 1_000_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_relative_or_absolute_or_past() {
        const SECOND: u64 = 1_000_000_000;
        let started = UnixTime(1_700_000_000);
        let now = Instant::from_nanos(50 * SECOND);
        let at = |seconds| Instant::from_nanos(seconds * SECOND);
        assert_eq!(started.at(now), 1_700_000_050);
        assert_eq!(started.instant(0, now), now);
        assert_eq!(started.instant(-1, now), now);
        assert_eq!(started.instant(10, now), at(60));
        assert_eq!(started.instant(LONGEST_RELATIVE, now), at(2_592_050));
        assert_eq!(started.instant(LONGEST_RELATIVE + 1, now), now, "in 1970");
        assert_eq!(started.instant(1_700_000_100, now), at(100));
        assert_eq!(started.expiry(0, now), Expiry::Never);
        assert_eq!(started.expiry(-1, now), Expiry::At(now));
    }
}
