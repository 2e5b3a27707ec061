//! Memory that devices may reach, cut into buffers.
#![expect(
    unsafe_code,
    reason = "cuts memory that the kernel mapped into buffers"
)]

use core::ptr::{self, NonNull};

use parakernel_core::{
    address::{Direction, Iova},
    control::{MemoryWish, Outcome, PageSize, Request},
    memory::{Arena, ArenaLayout, BlockArena, PAGE_SIZE, SharedMemory},
};

use crate::{AskError, Process, process::address};

impl Process {
    /// Node-local memory of `len` bytes, never swapped, that devices may reach in `direction`: its address, which is
    /// also that in the process's I/O address space, and its length in bytes.
    ///
    /// # Errors
    ///
    /// As [`ask`](Self::ask).
    pub fn memory(&mut self, len: usize, direction: Direction) -> Result<(Iova, usize), AskError> {
        let pages = len.div_ceil(PAGE_SIZE) as u64;
        let is_huge = pages.is_multiple_of(PageSize::Huge.pages());
        let wish = MemoryWish {
            pages,
            page_size: if is_huge {
                PageSize::Huge
            } else {
                PageSize::Base
            },
            direction,
            node: None,
        };
        let outcome = self.ask(&Request::RegisterMemory(wish))?;
        let Outcome::Registered { iova, pages, .. } = outcome else {
            return Err(AskError::Unexpected);
        };
        Ok((iova, address(pages) * PAGE_SIZE))
    }

    /// The same, to be viewed as atomics.
    ///
    /// # Errors
    ///
    /// As [`ask`](Self::ask).
    pub fn shared_memory(
        &mut self,
        len: usize,
        direction: Direction,
    ) -> Result<(SharedMemory<'static>, Iova), AskError> {
        let (iova, len) = self.memory(len, direction)?;
        let base = base(iova).ok_or(AskError::Unexpected)?;
        // SAFETY: the kernel has just mapped this memory, writable, for as long as the process lives.
        Ok((unsafe { SharedMemory::new(base, len) }, iova))
    }

    /// An arena of frame buffers. A process has one: its queues exchange segments.
    ///
    /// # Errors
    ///
    /// As [`ask`](Self::ask).
    pub fn arena(&mut self, layout: ArenaLayout) -> Result<Arena<'static>, AskError> {
        let (iova, _) = self.memory(layout.bytes(), Direction::Bidirectional)?;
        let base = base(iova).ok_or(AskError::Unexpected)?;
        // SAFETY: the kernel has just mapped this memory, for as long as the process lives, and nobody else uses it.
        unsafe { Arena::new(base, iova, layout) }.ok_or(AskError::Unexpected)
    }

    /// An arena of `count` block buffers of `buffer_len` bytes, a multiple of the page size.
    ///
    /// # Errors
    ///
    /// As [`ask`](Self::ask).
    pub fn block_arena(
        &mut self,
        count: usize,
        buffer_len: usize,
    ) -> Result<BlockArena<'static>, AskError> {
        let (iova, len) = self.memory(count * buffer_len, Direction::Bidirectional)?;
        let base = base(iova).ok_or(AskError::Unexpected)?;
        // SAFETY: as above.
        unsafe { BlockArena::new(base, len, iova, buffer_len) }.ok_or(AskError::Unexpected)
    }
}

fn base(iova: Iova) -> Option<NonNull<u8>> {
    NonNull::new(ptr::with_exposed_provenance_mut(address(iova.as_u64())))
}
