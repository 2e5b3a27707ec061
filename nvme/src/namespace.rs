//! Namespaces: the units of storage that a controller offers.

use core::num::NonZeroU32;

use crate::{error::NamespaceError, identify::NamespaceData};

/// The id of a namespace (NSID): neither 0 nor the broadcast value.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct NamespaceId(NonZeroU32);

impl NamespaceId {
    /// The namespace with this number; `None` for 0 and for the two highest, which are reserved or stand for all
    /// (NVMe 1.4 §6.1.2).
    #[must_use]
    pub const fn new(id: u32) -> Option<Self> {
        match NonZeroU32::new(id) {
            Some(id) if id.get() < 0xffff_fffe => Some(Self(id)),
            _ => None,
        }
    }

    /// The number.
    #[inline]
    #[must_use]
    pub const fn as_u32(self) -> u32 {
        self.0.get()
    }
}

/// A namespace that is attached to the controller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Namespace {
    /// Its id.
    pub id: NamespaceId,
    /// Its size and block format, or why it cannot be used.
    pub data: Result<NamespaceData, NamespaceError>,
}

/// Room for one namespace in the caller's table.
pub type NamespaceSlot = Option<Namespace>;

/// The namespaces found by the last scan, in the caller's table.
#[derive(Debug)]
pub(crate) struct Namespaces<'m> {
    slots: &'m mut [NamespaceSlot],
    count: usize,
    left_out: u32,
}

impl<'m> Namespaces<'m> {
    pub(crate) fn new(slots: &'m mut [NamespaceSlot]) -> Self {
        Self {
            slots,
            count: 0,
            left_out: 0,
        }
    }

    pub(crate) fn clear(&mut self) {
        self.slots.fill(None);
        self.count = 0;
        self.left_out = 0;
    }

    /// Adds a namespace, or counts it where the caller's table is full.
    pub(crate) fn add(&mut self, namespace: Namespace) {
        match self.slots.get_mut(self.count) {
            Some(slot) => {
                *slot = Some(namespace);
                self.count += 1;
            }
            None => self.left_out = self.left_out.saturating_add(1),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Namespace> {
        self.slots.iter().take(self.count).flatten()
    }

    pub(crate) const fn left_out(&self) -> u32 {
        self.left_out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_ids_name_no_namespace() {
        assert_eq!(NamespaceId::new(0), None);
        assert_eq!(NamespaceId::new(u32::MAX), None);
        assert_eq!(NamespaceId::new(u32::MAX - 1), None);
        assert_eq!(NamespaceId::new(7).unwrap().as_u32(), 7);
    }
}
