//! Memory that more than one party touches: rings, buffers, and who may let a device at them.
//!
//! [`SharedMemory`] is memory that a device, a process or the kernel may change at any time, seen only through
//! atomics. [`DmaBlock`] is such memory with its address on the bus. An [`Arena`] cuts a region into frame buffers; a
//! [`Segment`] is the right to one of them. A [`BlockArena`] and its [`BlockBuffer`]s are the same for storage.

mod arena;
mod block;
mod pool;
mod region;
mod shared;
mod table;

pub use arena::{Arena, ArenaLayout, Segment};
pub use block::{BlockArena, BlockBuffer};
pub use pool::{Pool, SegmentList};
pub use region::{Extent, MSI_WINDOW, PageLists, Region, RegionError};
pub use shared::{DmaBlock, Shared, SharedMemory};
pub use table::{
    ExtentSlot, PageSlot, PagedAccess, RegionEntry, RegionStorage, RegionTable, RegionWindow,
};

/// The smallest unit that is granted, mapped and translated, in bytes.
pub const PAGE_SIZE: usize = 4096;
