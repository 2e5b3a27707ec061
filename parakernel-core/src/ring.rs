//! The only wrap-around arithmetic: free-running positions, ring sizes, slots.

/// Number of entries of a ring: a power of two, 1 to 2³¹.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct RingSize(u32);

impl RingSize {
    /// A ring of one entry.
    pub const ONE: Self = Self(1);

    /// A ring of `entries`; `None` unless that is a power of two.
    #[inline]
    #[must_use]
    pub const fn new(entries: u32) -> Option<Self> {
        if entries.is_power_of_two() {
            Some(Self(entries))
        } else {
            None
        }
    }

    /// The largest size that is at most `entries`; `None` for 0.
    #[must_use]
    pub const fn at_most(entries: u32) -> Option<Self> {
        match entries.checked_ilog2() {
            Some(log2) => Some(Self(1 << log2)),
            None => None,
        }
    }

    /// Number of entries.
    #[inline]
    #[must_use]
    pub const fn entries(self) -> u32 {
        self.0
    }

    /// The slot that holds the entry at `position`.
    #[inline]
    #[must_use]
    pub const fn slot(self, position: Position) -> Slot {
        Slot(position.0 & (self.0 - 1))
    }

    /// How many times a ring of this size has been gone through at `position`, modulo 2: odd rounds have it set.
    #[inline]
    #[must_use]
    pub const fn is_odd_round(self, position: Position) -> bool {
        position.0 & self.0 != 0
    }
}

/// A count of entries since the ring was made: free-running, wrapping at 2³².
///
/// Two positions of one ring are never further apart than the ring is long, so their difference is exact.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[repr(transparent)]
pub struct Position(u32);

impl Position {
    /// Where every ring starts.
    pub const START: Self = Self(0);

    /// The position with this count.
    #[inline]
    #[must_use]
    pub const fn new(count: u32) -> Self {
        Self(count)
    }

    /// The count, to write it into shared memory.
    #[inline]
    #[must_use]
    pub const fn as_u32(self) -> u32 {
        self.0
    }

    /// The position `entries` further on.
    #[inline]
    #[must_use]
    pub const fn advanced(self, entries: u32) -> Self {
        Self(self.0.wrapping_add(entries))
    }

    /// The next position.
    #[inline]
    #[must_use]
    pub const fn after(self) -> Self {
        self.advanced(1)
    }

    /// How many entries lie between `earlier` and here.
    #[inline]
    #[must_use]
    pub const fn since(self, earlier: Self) -> u32 {
        self.0.wrapping_sub(earlier.0)
    }

    /// The first position at or after this one whose low 16 bits are `low`, which is all that a virtio index tells.
    #[inline]
    #[must_use]
    pub const fn next_with_low16(self, low: u16) -> Self {
        let ahead = low.wrapping_sub((self.0 & 0xffff) as u16);
        self.advanced(ahead as u32)
    }
}

/// An index into a ring, always smaller than the ring it was made for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Slot(u32);

impl Slot {
    /// The index.
    #[inline]
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_slot_of_every_small_ring_follows_the_one_before() {
        for entries in [1, 2, 4, 8, 256] {
            let size = RingSize::new(entries).unwrap();
            let mut position = Position::new(0_u32.wrapping_sub(2 * entries));
            for count in 0..4 * entries {
                assert_eq!(size.slot(position).index(), (count % entries) as usize);
                assert_eq!(size.is_odd_round(position), (count / entries) % 2 == 1);
                position = position.after();
            }
        }
    }

    #[test]
    fn only_powers_of_two_are_sizes() {
        for entries in 0..=70_000 {
            assert_eq!(RingSize::new(entries).is_some(), entries.count_ones() == 1);
        }
        assert_eq!(RingSize::at_most(0), None);
        assert_eq!(RingSize::at_most(1023).unwrap().entries(), 512);
        assert_eq!(RingSize::at_most(u32::MAX).unwrap().entries(), 1 << 31);
    }

    proptest! {
        #[test]
        fn a_difference_counts_steps(start: u32, steps in 0..2000_u32) {
            let mut position = Position::new(start);
            for _ in 0..steps {
                position = position.after();
            }
            prop_assert_eq!(position.since(Position::new(start)), steps);
        }

        #[test]
        fn low_bits_are_completed_forwards(start: u32, steps in 0..=u16::MAX) {
            let start = Position::new(start);
            let end = start.advanced(u32::from(steps));
            prop_assert_eq!(start.next_with_low16((end.as_u32() & 0xffff) as u16), end);
        }
    }
}
