//! Memory that the control plane sets aside: for regions of processes, and for rings of leases.
#![expect(unsafe_code, reason = "views memory that processes and devices write")]

use core::ptr::NonNull;
use core::task::Poll;

use parakernel_core::address::{BusAddress, PhysAddr};
use parakernel_core::control::{Frames, Memory, PageSize, Purpose};
use parakernel_core::handle::{ProcessId, RegionId};
use parakernel_core::memory::{DmaBlock, SharedMemory};
use parakernel_numa::frames::{FrameSize, Run};
use parakernel_nvme::prp::ListTables;
use parakernel_nvme::validate::BusyMark;

use super::{
    Machine,
    layout::{Layout, Part},
};
use crate::arch::{native, paging};
use crate::cores::{Core, Flush};
use crate::memory::{FRAME, Frames as Allocator, Owner};
use crate::print;

/// Bytes of books for each piece of memory.
pub(super) const BOOKS: usize = size_of::<Option<Block>>();
/// How many frames are overwritten in one step.
const ZERO_STEP: usize = 16;

/// A run of frames.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block {
    /// The first frame.
    pub(super) base: PhysAddr,
    /// How many.
    pub(super) frames: usize,
    /// Whose they are.
    pub(super) owner: Owner,
    /// Where the tables of the region's page addresses are, and how many frames they take. They stay the kernel's.
    pub(super) lists: Option<(PhysAddr, usize)>,
    /// How many frames have been overwritten since it was last in use.
    zeroed: usize,
    /// Who may reach it, once a process has seen it.
    seen: Option<Seen>,
    /// The region that it is.
    region: Option<(ProcessId, RegionId)>,
}

/// That a process sees a block, or did.
///
/// Kept beside the control plane's own steps, so that one that is left out there is noticed here.
#[derive(Clone, Copy, Debug)]
struct Seen {
    /// Where the process runs.
    core: &'static Core,
    /// The flush that forgets the block; `None` while it is mapped.
    forgotten: Option<Flush>,
}

impl Block {
    /// Whether no core can reach it through the mappings of a process.
    fn is_out_of_reach(&self) -> bool {
        self.seen.is_none_or(|seen| {
            seen.forgotten
                .is_some_and(|flush| seen.core.has_flushed(flush))
        })
    }

    /// Takes note that it is mapped nowhere any more: a flush that the core is asked for from now on forgets it.
    fn unmapped(&mut self) {
        if let Some(seen) = &mut self.seen {
            seen.forgotten = Some(seen.core.next_flush());
        }
    }

    /// How many frames it takes, with its tables.
    fn pages(&self) -> u64 {
        (self.frames + self.lists.map_or(0, |(_, count)| count)) as u64
    }

    /// The kernel's view of `len` bytes from `offset` on, which lie in the block.
    fn view(&self, offset: usize, len: usize) -> Option<SharedMemory<'static>> {
        let base = self.base.checked_add(offset as u64)?;
        let is_inside = offset.checked_add(len)? <= self.frames * native(FRAME);
        let base = NonNull::new(paging::physical(base)).filter(|_| is_inside)?;
        // SAFETY: the frames are mapped with all memory, for ever. They were set aside for this block, and the kernel looks at
        // them through such views alone; those of a lease or a region that has ended are gone with it.
        Some(unsafe { SharedMemory::new(base, len) })
    }
}

/// All blocks; [`Memory::id`] is an index.
#[derive(Debug)]
pub(super) struct Blocks(&'static mut [Option<Block>]);

impl Blocks {
    /// Room for `count` blocks.
    pub(super) fn place(frames: &mut Allocator, count: usize) -> Option<Self> {
        let node = frames.nodes().next()?;
        frames.place_slice(node, count, None).map(Self)
    }

    /// The block behind the number.
    pub(super) fn get(&self, memory: Memory) -> Option<&Block> {
        self.0.get(memory.id as usize)?.as_ref()
    }

    fn get_mut(&mut self, memory: Memory) -> Option<&mut Block> {
        self.0.get_mut(memory.id as usize)?.as_mut()
    }

    /// Takes note of the region that a block has become.
    pub(super) fn set_region(&mut self, memory: Memory, process: ProcessId, region: RegionId) {
        if let Some(block) = self.get_mut(memory) {
            block.region = Some((process, region));
        }
    }

    /// Takes note that a region is mapped nowhere any more, and is none.
    pub(super) fn unmapped_region(&mut self, process: ProcessId, region: RegionId) {
        let mut blocks = self.0.iter_mut().flatten();
        if let Some(block) = blocks.find(|block| block.region == Some((process, region))) {
            block.region = None;
            block.unmapped();
        }
    }
}

impl Frames for Machine {
    fn allocate(&mut self, purpose: Purpose) -> Option<Memory> {
        let (node, frames, size, has_lists) = match purpose {
            Purpose::Region {
                pages,
                page_size,
                node,
            } => {
                let size = match page_size {
                    PageSize::Base => FrameSize::Small,
                    PageSize::Huge => FrameSize::Huge,
                };
                (node, usize::try_from(pages).ok()?, size, true)
            }
            Purpose::Lease(spec) => {
                let device = self.devices.get(spec.device.index())?;
                let layout = Layout::of(device, &spec);
                if !layout.fits() {
                    return None;
                }
                (device.node(), layout.frames(), FrameSize::Small, false)
            }
        };
        // Rings stay the kernel's; a region is passed on when it is registered.
        let owner = Owner::KERNEL;
        let index = self.blocks.0.iter().position(Option::is_none)?;
        let allocator = &mut self.kernel.frames;
        let base = allocator.take(node, frames, size, owner)?;
        let lists = if has_lists {
            let count = usize::try_from(ListTables::bytes(frames as u64) / FRAME).ok()?;
            match allocator.take(node, count, FrameSize::Small, owner) {
                Some(lists) => Some((lists, count)),
                None => {
                    let _kept = allocator.give_back(base, frames, owner).is_err();
                    return None;
                }
            }
        } else {
            None
        };
        let block = Block {
            base,
            frames,
            owner,
            lists,
            zeroed: 0,
            seen: None,
            region: None,
        };
        self.blocks.0[index] = Some(block);
        Some(Memory {
            id: u32::try_from(index).ok()?,
            pages: block.pages(),
        })
    }

    fn zero(&mut self, memory: Memory) -> Poll<()> {
        let Some(block) = self.blocks.get_mut(memory) else {
            return Poll::Ready(());
        };
        let step = Run {
            base: PhysAddr::new(block.base.as_u64() + block.zeroed as u64 * FRAME),
            frames: (block.frames - block.zeroed).min(ZERO_STEP),
        };
        block.zeroed += step.frames;
        let (owner, is_done) = (block.owner, block.zeroed == block.frames);
        // Frames that are not the owner's are not given back either, so nobody sees what is in them.
        let _is_own = self.kernel.frames.wipe(step, owner);
        if is_done {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    fn free(&mut self, memory: Memory) {
        let slot = self.blocks.0.get_mut(memory.id as usize);
        let Some(slot) = slot.filter(|slot| slot.is_some()) else {
            return;
        };
        let Some(block) = slot.take_if(|block| block.is_out_of_reach()) else {
            self.freed_early += 1;
            print!("{memory:?} was to be freed, but a core may still reach it\n");
            return;
        };
        let allocator = &mut self.kernel.frames;
        // Frames that are not the owner's stay out of use, and the count of free ones tells.
        let _kept = allocator
            .give_back(block.base, block.frames, block.owner)
            .is_err();
        if let Some((base, count)) = block.lists {
            let _kept = allocator.give_back(base, count, Owner::KERNEL).is_err();
        }
    }
}

impl Machine {
    /// The kernel's view of a part of a lease.
    pub(super) fn view(&self, memory: Memory, part: &Part) -> Option<SharedMemory<'static>> {
        self.blocks.get(memory)?.view(part.offset, part.len)
    }

    /// A part of a lease, for a device.
    pub(super) fn dma(&self, memory: Memory, part: &Part) -> Option<DmaBlock<'static>> {
        let view = self.view(memory, part)?;
        let start = self
            .blocks
            .get(memory)?
            .base
            .checked_add(part.offset as u64)?;
        // SAFETY: without an IOMMU a device finds memory at its physical address. Parts do not overlap, and one is handed to the
        // device once for each time that its queue is made.
        Some(unsafe { DmaBlock::new(view, BusAddress::new(start.as_u64())) })
    }

    /// The marks of command ids in a lease's notes.
    ///
    /// # Safety
    ///
    /// What was taken of this part before must be gone, and the marks must go before the lease's memory does.
    pub(super) unsafe fn marks(
        &self,
        memory: Memory,
        part: &Part,
        count: usize,
    ) -> Option<&'static mut [BusyMark]> {
        const {
            assert!(
                size_of::<BusyMark>() == 1,
                "a mark is a byte, and 0 is a free one"
            );
        };
        let start = self
            .blocks
            .get(memory)?
            .base
            .checked_add(part.offset as u64)?;
        let start = NonNull::new(paging::physical(start).cast::<BusyMark>())?;
        let marks = NonNull::slice_from_raw_parts(start, count.min(part.len));
        // SAFETY: the part is mapped with all memory, and holds marks or zeroes, which are free ones; the caller answers for there being
        // no other reference to it, and for it outliving this one.
        Some(unsafe { &mut *marks.as_ptr() })
    }

    /// Takes note that the process on `core` is about to see a block.
    pub(crate) fn mapped(&mut self, memory: Memory, core: &'static Core) {
        if let Some(block) = self.blocks.get_mut(memory) {
            block.seen = Some(Seen {
                core,
                forgotten: None,
            });
        }
    }

    /// Takes note that a block is mapped nowhere any more.
    pub(crate) fn unmapped(&mut self, memory: Memory) {
        if let Some(block) = self.blocks.get_mut(memory) {
            block.unmapped();
        }
    }

    /// Passes a region's frames on to the process that it is for, so that the books say whose they are.
    pub(super) fn pass_on(&mut self, memory: Memory, to: Owner) -> bool {
        let Some(block) = self.blocks.get_mut(memory) else {
            return false;
        };
        let run = Run {
            base: block.base,
            frames: block.frames,
        };
        let passed = self.kernel.frames.pass_on(run, block.owner, to);
        if passed.is_ok() {
            block.owner = to;
        }
        passed.is_ok()
    }

    /// Who the frames of a process belong to.
    pub(super) fn owner_of(&mut self, process: ProcessId) -> Option<Owner> {
        let core = self.core_of(process)?;
        let seat = self.kernel.seats.at(core)?;
        Some(seat.process.as_ref()?.space.owner())
    }
}
