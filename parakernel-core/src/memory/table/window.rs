//! A piece of a region table, to hold in registers.

use super::{PAGE_SIZE, PageLists};
use crate::address::{BusAddress, Iova};

/// One extent, copied out of the table for the length of a batch.
///
/// It stays right as long as its region is registered. A region is removed only after every lease that may use it has
/// been stopped, so a window taken at the start of a batch is right until its end.
#[derive(Clone, Copy, Debug)]
pub struct RegionWindow {
    pub(super) base: u64,
    pub(super) len: u64,
    pub(super) bus: u64,
    pub(super) first_page: u64,
    pub(super) lists: Option<PageLists>,
}

impl RegionWindow {
    /// A window that nothing is in.
    pub const EMPTY: Self = Self {
        base: 0,
        len: 0,
        bus: 0,
        first_page: 0,
        lists: None,
    };

    /// The bus address of `len` bytes at `iova`, or `None` where they do not lie in the window: then ask the table.
    #[inline]
    #[must_use]
    pub const fn translate(&self, iova: Iova, len: u64) -> Option<BusAddress> {
        translate(self.base, self.len, self.bus, iova, len)
    }

    /// The addresses where an access of `len` bytes may begin: what [`translate`](Self::translate) says of one byte there
    /// holds for `len` bytes in this window. Checks a batch of accesses of equal length with one compare less for each.
    #[inline]
    #[must_use]
    pub const fn narrowed(&self, len: u64) -> Self {
        Self {
            len: self.len.saturating_sub(len.saturating_sub(1)),
            ..*self
        }
    }

    /// The same as an access by pages; see [`RegionTable::translate_paged`](super::RegionTable::translate_paged).
    #[inline]
    #[must_use]
    pub const fn translate_paged(&self, iova: Iova, len: u64) -> Option<PagedAccess> {
        match self.translate(iova, len) {
            Some(bus) => Some(PagedAccess {
                bus,
                page: self.first_page + (iova.as_u64() - self.base) / PAGE_SIZE,
                lists: self.lists,
            }),
            None => None,
        }
    }
}

/// The bus address of `iova` where `len` bytes, at least one, lie in `base..base + span`, which the bus has from `bus` on;
/// in one compare.
#[inline]
pub(super) const fn translate(
    base: u64,
    span: u64,
    bus: u64,
    iova: Iova,
    len: u64,
) -> Option<BusAddress> {
    // An address below `base` becomes a huge offset, and so does the last byte of an empty access.
    let offset = iova.as_u64().wrapping_sub(base);
    match offset.checked_add(len.wrapping_sub(1)) {
        Some(last) if last < span => Some(BusAddress::new(bus.wrapping_add(offset))),
        _ => None,
    }
}

/// An access that a device makes page by page, so that it may cross extents of its region.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PagedAccess {
    /// Where the first byte lies on the bus.
    pub bus: BusAddress,
    /// Which page of its region the first byte lies in, from 0.
    pub page: u64,
    /// The region's tables of page addresses, where it has them.
    pub lists: Option<PageLists>,
}
