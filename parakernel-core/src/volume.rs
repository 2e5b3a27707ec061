//! Volumes: ranges of blocks that outlive their user.
//!
//! Memory and queues go back when a process ends; what it stored does not. A [`Volume`] is a persistent grant of blocks
//! to an [`Identity`], which a process is given when it is created. A lease borrows the volume; only deleting the
//! volume erases what is on it.

use core::fmt;

use crate::{
    device::DeviceId,
    error::{Error, ErrorKind},
    handle::{HandleTable, Slot, VolumeId},
    queue::Lba,
    validate::Violation,
};

/// Who a volume belongs to: the same number for every process that runs for the same owner, over restarts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Identity(pub u64);

/// A range of blocks of one namespace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Volume {
    /// The storage device.
    pub device: DeviceId,
    /// The namespace, in the device's numbering.
    pub namespace: u32,
    /// First block.
    pub start: Lba,
    /// Number of blocks, at least 1.
    pub blocks: u64,
    /// Who it belongs to.
    pub owner: Identity,
}

impl Volume {
    /// Checks that `blocks` blocks from `lba` on, at least one, lie in the volume.
    ///
    /// # Errors
    ///
    /// [`Violation::OutsideVolume`].
    #[inline]
    pub const fn check(&self, lba: Lba, blocks: u64) -> Result<(), Violation> {
        // A block before the start becomes a huge offset, and so does the last block of an empty range.
        let offset = lba.as_u64().wrapping_sub(self.start.as_u64());
        if offset.saturating_add(blocks.wrapping_sub(1)) < self.blocks {
            Ok(())
        } else {
            Err(Violation::OutsideVolume { lba, blocks })
        }
    }

    /// The block behind the last one.
    const fn end(&self) -> Option<u64> {
        self.start.as_u64().checked_add(self.blocks)
    }

    fn overlaps(&self, other: &Self) -> bool {
        let same_medium = self.device == other.device && self.namespace == other.namespace;
        let starts_before = |a: &Self, b: &Self| b.end().is_none_or(|end| a.start.as_u64() < end);
        same_medium && starts_before(self, other) && starts_before(other, self)
    }
}

/// Why a volume was not created.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum VolumeError {
    /// It has no block, or its end would wrap.
    Range,
    /// It shares blocks with a volume.
    Overlap {
        /// That volume.
        other: VolumeId,
    },
    /// The table is full.
    Full,
}

impl fmt::Display for VolumeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Range => f.write_str("the range is empty or wraps"),
            Self::Overlap { other } => write!(f, "the range shares blocks with volume {other}"),
            Self::Full => f.write_str("the volume table is full"),
        }
    }
}

impl core::error::Error for VolumeError {}

impl Error for VolumeError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Range => ErrorKind::InvalidArgument,
            Self::Overlap { .. } => ErrorKind::Denied,
            Self::Full => ErrorKind::Exhausted,
        }
    }
}

/// All volumes, no two of which share a block.
#[derive(Debug)]
pub struct VolumeTable<'a> {
    volumes: HandleTable<'a, VolumeId, Volume>,
}

impl<'a> VolumeTable<'a> {
    /// An empty table in the caller's memory.
    #[must_use]
    pub fn new(slots: &'a mut [Slot<Volume>]) -> Self {
        Self {
            volumes: HandleTable::new(slots),
        }
    }

    /// Takes a volume in.
    ///
    /// # Errors
    ///
    /// [`VolumeError`]; the table is then as before.
    pub fn insert(&mut self, volume: Volume) -> Result<VolumeId, VolumeError> {
        if volume.blocks == 0 || volume.end().is_none() {
            return Err(VolumeError::Range);
        }
        if let Some((other, _)) = self.iter().find(|(_, other)| other.overlaps(&volume)) {
            return Err(VolumeError::Overlap { other });
        }
        self.volumes.insert(volume).map_err(|_| VolumeError::Full)
    }

    /// Takes a volume out. Whoever calls has erased it, and lets no lease borrow it any more.
    pub fn remove(&mut self, id: VolumeId) -> Option<Volume> {
        self.volumes.remove(id)
    }

    /// The volume, unless the handle is stale.
    #[must_use]
    pub fn get(&self, id: VolumeId) -> Option<&Volume> {
        self.volumes.get(id)
    }

    /// All volumes.
    pub fn iter(&self) -> impl Iterator<Item = (VolumeId, &Volume)> {
        self.volumes.iter()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn volume(namespace: u32, start: u64, blocks: u64) -> Volume {
        Volume {
            device: DeviceId::new(0),
            namespace,
            start: Lba::new(start),
            blocks,
            owner: Identity(7),
        }
    }

    #[test]
    fn ranges_that_are_none_are_refused() {
        let mut slots = [const { Slot::EMPTY }; 1];
        let mut table = VolumeTable::new(&mut slots);
        assert_eq!(table.insert(volume(1, 0, 0)), Err(VolumeError::Range));
        assert_eq!(
            table.insert(volume(1, u64::MAX, 1)),
            Err(VolumeError::Range)
        );
        let first = table.insert(volume(1, 0, 8)).unwrap();
        let overlap = Err(VolumeError::Overlap { other: first });
        assert_eq!(table.insert(volume(1, 7, 1)), overlap);
        assert_eq!(table.insert(volume(2, 7, 1)), Err(VolumeError::Full));
        assert_eq!(table.remove(first), Some(volume(1, 0, 8)));
        assert!(table.insert(volume(1, 7, 1)).is_ok());
        assert_eq!(table.get(first), None);
    }

    proptest! {
        /// An access is allowed exactly when each of its blocks is one of the volume's.
        #[test]
        fn a_check_agrees_with_looking_at_every_block(
            start in 0_u64..8, blocks in 1_u64..8, lba in 0_u64..20, count in 0_u64..10, high: bool,
        ) {
            // The same at the upper end of the space, where sums wrap.
            let base = if high { u64::MAX - 19 } else { 0 };
            let volume = volume(1, base + start, blocks);
            let inside = |block: u64| (0..blocks).any(|n| base + start + n == block);
            let expected = count > 0
                && (0..count).all(|n| (base + lba).checked_add(n).is_some_and(inside));
            prop_assert_eq!(volume.check(Lba::new(base + lba), count).is_ok(), expected);
            prop_assert!(volume.check(Lba::new(base + lba), u64::MAX).is_err());
        }

        /// No two volumes in the table share a block.
        #[test]
        fn overlap_agrees_with_counting(ranges in prop::collection::vec((0_u32..2, 0_u64..16, 1_u64..6), 0..8)) {
            let mut slots = [const { Slot::EMPTY }; 8];
            let mut table = VolumeTable::new(&mut slots);
            let mut owned = std::collections::HashSet::new();
            for (namespace, start, blocks) in ranges {
                let wanted: Vec<_> = (start..start + blocks).map(|block| (namespace, block)).collect();
                let free = wanted.iter().all(|block| !owned.contains(block));
                prop_assert_eq!(table.insert(volume(namespace, start, blocks)).is_ok(), free);
                if free {
                    owned.extend(wanted);
                }
            }
        }
    }
}
