//! Memory for drivers in the forms that they take: allocated, granted and mapped in one call.
#![expect(unsafe_code, reason = "makes the driver's views of lent memory")]

use parakernel_core::{
    address::{BusAddress, Direction, Iova},
    memory::{Arena, ArenaLayout, BlockArena, DmaBlock, SharedMemory},
};

use super::{Lease, Memory, Range, RequesterId, Translation};
use crate::sync::lock;

/// Memory for drivers. It is granted both ways under `lease` and, where the device's translation is
/// [`Translation::Mapped`], mapped at a bus address that differs from the physical one. It is never given back.
impl Memory {
    /// A zeroed block of `len` bytes, rounded up to whole pages, for rings and tables; `None` where memory is used up.
    #[must_use]
    pub fn lend(&self, device: RequesterId, len: usize, lease: Lease) -> Option<DmaBlock<'_>> {
        let (range, bus) = self.lend_range(device, len, lease)?;
        let memory = self.shared(range)?;
        // SAFETY: the device finds `range` at `bus`: mapped there, or passing the IOMMU. The range is freshly
        // allocated and lent once.
        Some(unsafe { DmaBlock::new(memory, bus) })
    }

    /// Frame buffers cut as `layout` says; `None` where memory is used up or the layout is not valid.
    #[must_use]
    pub fn lend_arena(
        &self,
        device: RequesterId,
        layout: ArenaLayout,
        lease: Lease,
    ) -> Option<Arena<'_>> {
        let (range, bus) = self.lend_range(device, layout.bytes(), lease)?;
        let base = self.pointer(range)?;
        // SAFETY: freshly allocated, initialised, alive as long as `self`, and lent to this arena only.
        unsafe { Arena::new(base, Iova::new(bus.as_u64()), layout) }
    }

    /// `count` block buffers of `buffer_len` bytes; `None` where memory is used up or the length is no whole page.
    #[must_use]
    pub fn lend_blocks(
        &self,
        device: RequesterId,
        buffer_len: usize,
        count: usize,
        lease: Lease,
    ) -> Option<BlockArena<'_>> {
        let (range, bus) = self.lend_range(device, buffer_len.checked_mul(count)?, lease)?;
        let base = self.pointer(range)?;
        // SAFETY: as in `lend_arena`.
        unsafe { BlockArena::new(base, range.len, Iova::new(bus.as_u64()), buffer_len) }
    }

    /// The CPU's view of `range` through atomics, or `None` where it does not lie in the memory.
    #[must_use]
    pub fn shared(&self, range: Range) -> Option<SharedMemory<'_>> {
        let base = self.pointer(range)?;
        // SAFETY: inside the allocation, which lives as long as `self` and is initialised. The range is shared with
        // models and other views, which use atomics, too; frame and block buffers never appear in a view, as what is
        // lent is never allocated again.
        Some(unsafe { SharedMemory::new(base, range.len) })
    }

    fn lend_range(
        &self,
        device: RequesterId,
        len: usize,
        lease: Lease,
    ) -> Option<(Range, BusAddress)> {
        /// Turns a physical address into a bus address that no driver can mistake for one.
        const SHIFT: u64 = 0x70_0000_0000;

        let range = self.allocate(len)?;
        self.grant(device, range, Direction::Bidirectional, lease);
        let translation = {
            let mut state = lock(&self.0.state);
            state.lent.push(range);
            state.iommu.translation(device)
        };
        if translation == Translation::Identity {
            return Some((range, BusAddress::new(range.start.as_u64())));
        }
        let bus = BusAddress::new(range.start.as_u64() + SHIFT);
        self.map(device, bus, range, Direction::Bidirectional);
        Some((range, bus))
    }
}
