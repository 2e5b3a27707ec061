//! Memory that the control plane sets aside: for regions of processes, and for rings of leases.
#![expect(unsafe_code, reason = "views memory that processes and devices write")]

use core::ptr::NonNull;
use core::task::Poll;

use parakernel_core::address::{BusAddress, PhysAddr};
use parakernel_core::control::{Frames, Memory, PageSize, Purpose};
use parakernel_core::handle::ProcessId;
use parakernel_core::memory::{DmaBlock, SharedMemory};
use parakernel_numa::frames::{FrameSize, Run};
use parakernel_nvme::prp::ListTables;
use parakernel_nvme::validate::BusyMark;

use super::{
    Machine,
    layout::{Layout, Part},
};
use crate::arch::{native, paging};
use crate::memory::{FRAME, Frames as Allocator, Owner};

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
}

impl Block {
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
        self.blocks.0[index] = Some(Block {
            base,
            frames,
            owner,
            lists,
            zeroed: 0,
        });
        let pages = frames + lists.map_or(0, |(_, count)| count);
        Some(Memory {
            id: u32::try_from(index).ok()?,
            pages: pages as u64,
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
        let Some(block) = slot.and_then(Option::take) else {
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
    pub(super) fn marks(
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
        // SAFETY: the part is mapped with all memory, holds zeroes, and is for the kernel's end of the one queue that the lease
        // has, which goes before the lease does.
        Some(unsafe { &mut *marks.as_ptr() })
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
