//! What a process registered: an IOVA range, and where on the bus its pages lie.

use core::{fmt, ops::RangeInclusive};

use crate::{
    address::{BusAddress, Direction, Iova, NodeId},
    error::{Error, ErrorKind},
};

/// Addresses where a write is an interrupt, not memory: `0xFEE0_0000` to `0xFEEF_FFFF`.
///
/// Intel SDM volume 3, "Message Address Register Format"; an access there may forge an interrupt, so no region covers it.
pub const MSI_WINDOW: RangeInclusive<u64> = 0xfee0_0000..=0xfeef_ffff;

/// A range of a process's I/O address space that devices may reach.
///
/// Its memory stays where it is (pinned) while the region is registered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Region {
    /// First address; a multiple of [`PAGE_SIZE`](super::PAGE_SIZE).
    pub iova: Iova,
    /// Length in bytes; a multiple of [`PAGE_SIZE`](super::PAGE_SIZE), not 0.
    pub len: u64,
    /// What devices may do there.
    pub direction: Direction,
    /// The node that the memory is on.
    pub node: NodeId,
}

/// A part of a region whose pages follow each other on the bus too.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Extent {
    /// First address; a multiple of [`PAGE_SIZE`](super::PAGE_SIZE).
    pub bus: BusAddress,
    /// Length in bytes; a multiple of [`PAGE_SIZE`](super::PAGE_SIZE), not 0.
    pub len: u64,
}

/// Two tables of the bus addresses of a region's pages, in kernel memory, for devices that fetch such lists (NVMe's
/// PRP lists).
///
/// Both hold the little-endian 64-bit address of page *k* of the region as their entry *k*, and no process can write
/// them. They are never changed while the region is registered, so any number of commands may point into them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct PageLists {
    /// Where entry 0 of the first lies: at the beginning of a page.
    pub even: BusAddress,
    /// Where entry 0 of the second lies: in the middle of a page.
    ///
    /// A run of entries that crosses a page boundary in one table and fits half a page does not cross one in the other.
    pub odd: BusAddress,
}

/// Why a region was not registered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum RegionError {
    /// An address or length is not a multiple of [`PAGE_SIZE`](super::PAGE_SIZE), or a length is 0.
    Unaligned,
    /// The end of the range would wrap.
    Wraps,
    /// The extents together are shorter or longer than the region.
    Length,
    /// The range lies outside the I/O address space that the table covers.
    Aperture,
    /// The range, or an extent, covers the MSI window or a range that the platform reserved.
    Reserved,
    /// The range overlaps a region.
    Overlap,
    /// The table is full.
    Full,
}

impl fmt::Display for RegionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unaligned => "an address or length is not a whole number of pages",
            Self::Wraps => "the range wraps around the address space",
            Self::Length => "the extents do not add up to the region",
            Self::Aperture => "the range lies outside the I/O address space",
            Self::Reserved => "the range covers reserved addresses",
            Self::Overlap => "the range overlaps a region",
            Self::Full => "the region table is full",
        })
    }
}

impl core::error::Error for RegionError {}

impl Error for RegionError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Unaligned | Self::Wraps | Self::Length | Self::Aperture => {
                ErrorKind::InvalidArgument
            }
            Self::Reserved | Self::Overlap => ErrorKind::Denied,
            Self::Full => ErrorKind::Exhausted,
        }
    }
}
