//! Memory for drivers in the forms that they take: allocated, granted and mapped in one call.
#![expect(unsafe_code, reason = "makes the driver's views of lent memory")]

use parakernel_core::{
    address::{BusAddress, Direction, Iova},
    memory::{Arena, ArenaLayout, BlockArena, DmaBlock, SharedMemory},
};

use super::{Lease, Memory, PAGE, Range, RequesterId, Translation};
use crate::sync::lock;

/// Memory that a driver has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lent {
    pub(super) range: Range,
    bus: BusAddress,
    device: RequesterId,
}

/// Memory for drivers. It is granted both ways under `lease` and, where the device's translation is
/// [`Translation::Mapped`], mapped at a bus address that differs from the physical one. Arenas
/// stay lent: their buffers are plain bytes, which nobody else may ever see.
impl Memory {
    /// A zeroed block of `len` bytes, rounded up to whole pages, for rings and tables; `None` where memory is used up.
    #[must_use]
    pub fn lend(&self, device: RequesterId, len: usize, lease: Lease) -> Option<DmaBlock<'_>> {
        let range = self.find(len)?;
        let bus = self.lend_range(device, range, lease);
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
        let range = self.allocate(layout.bytes())?;
        let bus = self.lend_range(device, range, lease);
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
        let range = self.allocate(buffer_len.checked_mul(count)?)?;
        let bus = self.lend_range(device, range, lease);
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

    /// Takes a whole block back that was lent under `lease`; whether it was one, not a part.
    ///
    /// Its grant ends and, behind an IOMMU, its mapping; the memory is lent again, zeroed, to the next who wants that
    /// much. A caller that does this before the device has let go finds escapes in the audit.
    #[must_use]
    pub fn take_back(&self, device: RequesterId, block: DmaBlock<'_>, lease: Lease) -> bool {
        let mut state = lock(&self.0.state);
        let same = |lent: &Lent| lent.device == device && lent.bus == block.bus_address();
        let Some(index) = state.lent.iter().position(same) else {
            return false;
        };
        let Lent { range, bus, .. } = state.lent[index];
        if range.len != block.len() {
            return false;
        }
        state.lent.swap_remove(index);
        state.returned.push(range);
        state.audit.end_range(lease, range);
        state.iommu.unmap(device, bus, range.len);
        state.iommu.invalidate(device);
        true
    }

    /// Memory that was taken back and has this length, or fresh one.
    fn find(&self, len: usize) -> Option<Range> {
        let len = len.next_multiple_of(PAGE).max(PAGE);
        let returned = {
            let mut state = lock(&self.0.state);
            let index = state.returned.iter().position(|range| range.len == len);
            index.map(|index| state.returned.swap_remove(index))
        };
        match returned {
            Some(range) => {
                self.fill(range, 0);
                Some(range)
            }
            None => self.allocate(len),
        }
    }

    /// Grants `range` and finds out where the device will find it.
    fn lend_range(&self, device: RequesterId, range: Range, lease: Lease) -> BusAddress {
        /// Turns a physical address into a bus address that no driver can mistake for one.
        const SHIFT: u64 = 0x70_0000_0000;

        self.grant(device, range, Direction::Bidirectional, lease);
        let mut state = lock(&self.0.state);
        let mut bus = BusAddress::new(range.start.as_u64());
        if state.iommu.translation(device) != Translation::Identity {
            bus = BusAddress::new(range.start.as_u64() + SHIFT);
            state
                .iommu
                .map(device, bus, range, Direction::Bidirectional);
        }
        state.lent.push(Lent { range, bus, device });
        bus
    }
}
