//! Memory of processes that devices may reach.
#![expect(unsafe_code, reason = "writes the tables of a region's page addresses")]

use core::task::Poll;

use parakernel_core::address::{BusAddress, Direction, Iova, PhysAddr};
use parakernel_core::control::{Memory, Regions};
use parakernel_core::handle::{ProcessId, RegionId};
use parakernel_core::memory::{Extent, PageLists, Region, RegionError, RegionTable};
use parakernel_nvme::prp::ListTables;

use super::{Machine, memory::Block};
use crate::address_space::{Access, Caching, Foreign};
use crate::arch::paging::{self, PageSize};
use crate::memory::FRAME;

impl Regions for Machine {
    fn register(
        &mut self,
        process: ProcessId,
        memory: Memory,
        direction: Direction,
    ) -> Result<(RegionId, Iova), RegionError> {
        let owner = self.owner_of(process).ok_or(RegionError::Full)?;
        let core = self.core_of(process).ok_or(RegionError::Full)?;
        if !self.pass_on(memory, owner) {
            return Err(RegionError::Full);
        }
        let block = *self.blocks.get(memory).ok_or(RegionError::Full)?;
        let kernel = &mut self.kernel;
        let seat = kernel.seats.at(core).ok_or(RegionError::Full)?;
        let on = seat.core;
        let node = on.node;
        let len = block.frames as u64 * FRAME;
        let mut queues = seat.queues.pass();
        let iova = place(&queues.regions, &block).ok_or(RegionError::Aperture)?;
        let region = Region {
            iova,
            len,
            direction,
            node,
        };
        let bus = BusAddress::new(block.base.as_u64());
        let id = queues.regions.insert(region, &[Extent { bus, len }])?;
        if let Some(lists) = page_lists(&block) {
            let _attached = queues.regions.attach_lists(id, lists);
        }
        let space = seat.process.as_mut().map(|process| &mut process.space);
        let foreign = Foreign {
            physical: block.base.as_u64()..block.base.as_u64() + len,
            access: Access::ReadWrite,
            caching: Caching::Memory,
        };
        let mapped = space.map(|space| space.map(&mut kernel.frames, iova.as_u64(), &foreign));
        if let Some(Ok(())) = mapped {
            self.mapped(memory, on);
            self.blocks.set_region(memory, process, id);
            return Ok((id, iova));
        }
        // Nothing was mapped, so the process has seen nothing of it, and its core has nothing to forget.
        queues.regions.remove(id);
        Err(RegionError::Full)
    }

    fn begin_unregister(&mut self, process: ProcessId, region: RegionId) {
        let Some(seat) = self
            .core_of(process)
            .and_then(|core| self.kernel.seats.at(core))
        else {
            return;
        };
        let removed = seat.queues.pass().regions.remove(region);
        let Some(Region { iova, len, .. }) = removed else {
            return;
        };
        if let Some(process) = &mut seat.process {
            let range = iova.as_u64()..iova.as_u64() + len;
            process.space.unmap(range, |_, _| {});
        }
        self.blocks.unmapped_region(process, region);
        seat.flush = Some(seat.core.ask_to_flush());
    }

    fn poll_unregister(&mut self, process: ProcessId, _region: RegionId) -> Poll<()> {
        let seat = self
            .core_of(process)
            .and_then(|core| self.kernel.seats.at(core));
        // The last flush asked for comes after all earlier ones.
        let is_done =
            seat.is_none_or(|seat| seat.flush.is_none_or(|flush| seat.core.has_flushed(flush)));
        if is_done {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}

/// Where a block goes in the process's I/O address space: in large pages where it is made of them.
fn place(regions: &RegionTable<'_>, block: &Block) -> Option<Iova> {
    let len = block.frames as u64 * FRAME;
    let huge = PageSize::Large.bytes();
    if !block.base.is_aligned(huge) || len < huge {
        return regions.vacancy(len);
    }
    let vacancy = regions.vacancy(len + huge)?.as_u64();
    Some(Iova::new(vacancy.next_multiple_of(huge)))
}

/// Fills the tables of a region's page addresses.
fn page_lists(block: &Block) -> Option<PageLists> {
    let (base, _) = block.lists?;
    let tables = ListTables::at(base.as_u64(), block.frames as u64);
    for page in 0..block.frames as u64 {
        let address = (block.base.as_u64() + page * FRAME).to_le();
        for table in [tables.even, tables.odd] {
            let place = paging::physical(PhysAddr::new(table + page * 8)).cast::<u64>();
            // SAFETY: the frames of the tables were taken for them, are large enough (`ListTables::bytes`), and no device
            // knows them before the region is registered.
            unsafe { place.write(address) };
        }
    }
    Some(PageLists {
        even: BusAddress::new(tables.even),
        odd: BusAddress::new(tables.odd),
    })
}
