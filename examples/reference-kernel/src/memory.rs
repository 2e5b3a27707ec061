//! Physical memory: frames of each NUMA node, each with one owner. Core 0 owns all books.
#![expect(unsafe_code, reason = "turns frames into memory")]

use core::mem::MaybeUninit;
use core::num::NonZeroU32;
use core::ops::Range;
use core::ptr::NonNull;

use parakernel_core::address::{BusAddress, NodeId, PhysAddr};
use parakernel_core::memory::{DmaBlock, SharedMemory};
use parakernel_core::steering::FrameMemory;
use parakernel_numa::frames::{FrameAllocator, FrameError, FrameSize, Run, Zone, ZoneStorage};
use parakernel_numa::topology::{MemoryRange, Topology};

use crate::arch::native;
use crate::arch::paging;
use crate::poison::{Found, Poison};
use crate::ranges::Ranges;

/// Size of a frame.
pub(crate) const FRAME: u64 = parakernel_numa::frames::FRAME_LEN;

/// Who a frame belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Owner(NonZeroU32);

impl Owner {
    /// The kernel itself.
    pub(crate) const KERNEL: Self = Self(NonZeroU32::MIN);

    /// The process of run number `run`.
    pub(crate) const fn process(run: u32) -> Self {
        Self(NonZeroU32::MIN.saturating_add(run))
    }
}

/// Frames given out at boot, before nodes have allocators; never taken back.
#[derive(Debug)]
pub(crate) struct EarlyFrames(Range<u64>);

impl EarlyFrames {
    /// Frames of `range`, which must be free memory below 4 GiB.
    pub(crate) const fn new(range: Range<u64>) -> Self {
        Self(range)
    }

    /// A zeroed frame.
    pub(crate) fn take(&mut self) -> Option<PhysAddr> {
        self.take_run(1)
    }

    /// Room for `len` values, all of them `value` at first, for ever.
    pub(crate) fn slice<T: Copy>(&mut self, len: usize, value: T) -> Option<&'static mut [T]> {
        self.slice_with(len, || value)
    }

    /// Room for `len` values, made by `make`, for ever.
    pub(crate) fn slice_with<T>(
        &mut self,
        len: usize,
        make: impl FnMut() -> T,
    ) -> Option<&'static mut [T]> {
        let first = self.take_run(frames_for::<T>(len)?)?;
        // SAFETY: as many fresh frames as the values need, which nobody else has.
        Some(unsafe { fill_frames(first, len, make) })
    }

    /// What was not taken.
    pub(crate) fn rest(&self) -> Range<u64> {
        self.0.clone()
    }

    fn take_run(&mut self, count: usize) -> Option<PhysAddr> {
        let end = self.0.start.checked_add(count as u64 * FRAME)?;
        if end > self.0.end {
            return None;
        }
        let first = PhysAddr::new(core::mem::replace(&mut self.0.start, end));
        zero(first, count);
        Some(first)
    }
}

/// A part of the memory of one node.
pub(crate) type FrameZone = Zone<'static, Owner>;

/// All frames of the machine.
#[derive(Debug)]
pub(crate) struct Frames {
    allocator: FrameAllocator<'static, 'static, Owner>,
    nodes: u32,
    poison: Poison,
}

impl Frames {
    /// Makes the free memory `ranges` allocatable, each part on its node, in `zones`: at least one for each of the
    /// [`parts`].
    ///
    /// `None` if these are too few.
    ///
    /// # Safety
    ///
    /// The memory must be mapped, and nobody may use it.
    pub(crate) unsafe fn new(
        ranges: &Ranges,
        topology: &Topology<'_>,
        zones: &'static mut [FrameZone],
    ) -> Option<Self> {
        let mut slots = zones.iter_mut();
        for part in parts(ranges, topology) {
            // SAFETY: the caller vouches that the memory is mapped and unused.
            let zone = unsafe { zone(part.node, part.base, native(part.len / FRAME)) };
            // Where there is no room even for books, there is nothing worth keeping them of.
            *slots.next()? = zone.unwrap_or_default();
        }
        let nodes = u32::try_from(topology.nodes().len()).ok()?;
        let mut frames = Self {
            allocator: FrameAllocator::new(zones).ok()?,
            nodes,
            poison: Poison::new(&mut []),
        };
        let end = ranges.iter().map(|range| range.end).max()?;
        let node = frames.node_with_memory(NodeId::new(0));
        let marks = frames.place_slice(node, Poison::words(PhysAddr::new(end)), 0)?;
        frames.poison = Poison::new(marks);
        Some(frames)
    }

    /// `count` zeroed frames in a row on `node`, for `owner`; the first is aligned as `size` says.
    pub(crate) fn take(
        &mut self,
        node: NodeId,
        count: usize,
        size: FrameSize,
        owner: Owner,
    ) -> Option<PhysAddr> {
        let run = self.allocator.allocate(node, count, size, owner).ok()?;
        self.poison.lift(run);
        zero(run.base, run.frames);
        Some(run.base)
    }

    /// A zeroed frame of `node`, for `owner`.
    pub(crate) fn take_one(&mut self, node: NodeId, owner: Owner) -> Option<PhysAddr> {
        self.take(node, 1, FrameSize::Small, owner)
    }

    /// Takes back `count` frames of `owner` from `base` on.
    ///
    /// # Errors
    ///
    /// If they are not all the owner's; nothing has changed then.
    pub(crate) fn give_back(
        &mut self,
        base: PhysAddr,
        count: usize,
        owner: Owner,
    ) -> Result<(), FrameError> {
        let run = Run {
            base,
            frames: count,
        };
        self.allocator.free(run, owner)?;
        self.poison.fill(run);
        Ok(())
    }

    /// Compares all free frames that were in use with what they were filled with; what was found since the boot.
    pub(crate) fn inspect(&mut self) -> Found {
        self.poison.inspect()
    }

    /// Passes frames from one owner to another.
    ///
    /// # Errors
    ///
    /// If they are not all `from`'s; nothing has changed then.
    pub(crate) fn pass_on(&mut self, run: Run, from: Owner, to: Owner) -> Result<(), FrameError> {
        self.allocator.transfer(run, from, to)
    }

    /// Zeroes frames of `owner` that it still has; whether they are all its own, else nothing is done. No process may see
    /// them any more.
    pub(crate) fn wipe(&mut self, run: Run, owner: Owner) -> bool {
        let is_own = run
            .addresses()
            .all(|frame| self.allocator.owner(frame) == Some(owner));
        if is_own {
            zero(run.base, run.frames);
        }
        is_own
    }

    /// How many frames of `node` are free.
    pub(crate) fn free(&self, node: NodeId) -> usize {
        self.allocator.free_frames(node)
    }

    /// How many frames are free on all nodes.
    pub(crate) fn free_total(&self) -> usize {
        self.nodes().map(|node| self.free(node)).sum()
    }

    /// The nodes.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = NodeId> + use<> {
        (0..self.nodes).map(NodeId::new)
    }

    /// `node` if it has free memory, else the first that has.
    pub(crate) fn node_with_memory(&self, node: NodeId) -> NodeId {
        let has_some = |node: &NodeId| self.free(*node) > 0;
        core::iter::once(node)
            .chain(self.nodes())
            .find(has_some)
            .unwrap_or(node)
    }

    /// Puts `value` into memory of `node`, for ever.
    pub(crate) fn place<T>(&mut self, node: NodeId, value: T) -> Option<&'static mut T> {
        let count = frames_for::<T>(1)?;
        let first = self.take(node, count, FrameSize::Small, Owner::KERNEL)?;
        let memory = paging::physical(first).cast::<MaybeUninit<T>>();
        // SAFETY: the frames are mapped, large and aligned enough, and belong to nobody else.
        let memory = unsafe { &mut *memory };
        Some(memory.write(value))
    }

    /// Room on `node` for `len` values, all of them `value` at first, for ever.
    pub(crate) fn place_slice<T: Copy>(
        &mut self,
        node: NodeId,
        len: usize,
        value: T,
    ) -> Option<&'static mut [T]> {
        self.place_with(node, len, || value)
    }

    /// Room on `node` for `len` values made by `make`, for ever.
    pub(crate) fn place_with<T>(
        &mut self,
        node: NodeId,
        len: usize,
        make: impl FnMut() -> T,
    ) -> Option<&'static mut [T]> {
        let first = self.take(node, frames_for::<T>(len)?, FrameSize::Small, Owner::KERNEL)?;
        // SAFETY: as many fresh frames as the values need, which nobody else has.
        Some(unsafe { fill_frames(first, len, make) })
    }

    /// `len` zeroed bytes of `node` in a row, for a device and the kernel to share.
    pub(crate) fn dma_block(
        &mut self,
        node: NodeId,
        len: usize,
        owner: Owner,
    ) -> Option<DmaBlock<'static>> {
        let first = self.take(node, frames_for::<u8>(len)?, FrameSize::Small, owner)?;
        let base = NonNull::new(paging::physical(first))?;
        // SAFETY: fresh, zeroed frames in a row, mapped with all memory, that nobody else has.
        let memory = unsafe { SharedMemory::new(base, len) };
        // SAFETY: without an IOMMU a device finds memory at its physical address; the frames are this block's alone.
        Some(unsafe { DmaBlock::new(memory, BusAddress::new(first.as_u64())) })
    }
}

/// All memory, by the addresses that devices have for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AllMemory;

impl FrameMemory for AllMemory {
    unsafe fn read(&self, from: BusAddress, into: &mut [u8]) -> bool {
        let from = paging::physical(PhysAddr::new(from.as_u64())).cast_const();
        // SAFETY: the caller answers for the address being one of a process's frames. All frames are
        // mapped. The process and devices may write them meanwhile, so they are copied from without a reference.
        unsafe { core::ptr::copy_nonoverlapping(from, into.as_mut_ptr(), into.len()) };
        true
    }
}

/// The parts of `ranges` that lie on one node each.
pub(crate) fn parts(ranges: &Ranges, topology: &Topology<'_>) -> impl Iterator<Item = MemoryRange> {
    let cut =
        |range: &Range<u64>| topology.split(PhysAddr::new(range.start), range.end - range.start);
    ranges.iter().flat_map(cut)
}

/// A zone of the `frames` frames from `base` on, all free but for the first few, which hold its books.
///
/// # Safety
///
/// The memory must be mapped, and nobody may use it.
unsafe fn zone(node: NodeId, base: PhysAddr, frames: usize) -> Option<FrameZone> {
    let owner_frames = frames_for::<Option<Owner>>(frames)?;
    let word_frames = frames_for::<u64>(FrameZone::words(frames))?;
    let rest = frames.checked_sub(owner_frames + word_frames)?;
    let words_at = base.checked_add(owner_frames as u64 * FRAME)?;
    let first = words_at.checked_add(word_frames as u64 * FRAME)?;
    // SAFETY: the caller vouches for the memory, and the books' parts do not overlap.
    let owners = unsafe { fill_frames(base, rest, || None) };
    // SAFETY: as above.
    let free = unsafe { fill_frames(words_at, FrameZone::words(rest), || 0) };
    let mut zone = Zone::new(node, first, ZoneStorage { free, owners }).ok()?;
    zone.offer(first, rest as u64 * FRAME).ok()?;
    Some(zone)
}

/// Puts `len` values made by `make` into the frames from `first` on.
///
/// # Safety
///
/// There must be [`frames_for`] so many, mapped, and nobody else may ever use them.
unsafe fn fill_frames<T>(
    first: PhysAddr,
    len: usize,
    mut make: impl FnMut() -> T,
) -> &'static mut [T] {
    let memory = paging::physical(first).cast::<T>();
    for index in 0..len {
        // SAFETY: the caller vouches for frames that `len` values fit into; frames are aligned enough.
        unsafe { memory.wrapping_add(index).write(make()) };
    }
    // SAFETY: as above, and all `len` values are there now.
    unsafe { core::slice::from_raw_parts_mut(memory, len) }
}

/// How many frames hold `len` values; at least one.
fn frames_for<T>(len: usize) -> Option<usize> {
    const {
        assert!(
            align_of::<T>() <= native(FRAME),
            "frames are aligned to their size"
        );
    };
    let bytes = size_of::<T>().checked_mul(len)?;
    Some(bytes.div_ceil(native(FRAME)).max(1))
}

/// Zeroes `count` frames from `first` on.
fn zero(first: PhysAddr, count: usize) {
    // SAFETY: all memory is mapped, and callers own the frames.
    unsafe { paging::physical(first).write_bytes(0, count * native(FRAME)) };
}
