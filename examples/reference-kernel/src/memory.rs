//! Physical memory: which there is, and a frame allocator for each NUMA node. Core 0 owns all of it.
#![expect(unsafe_code, reason = "turns frames into memory")]

use core::mem::MaybeUninit;
use core::ops::Range;
use core::ptr::NonNull;

use heapless::Vec;
use parakernel_core::address::{BusAddress, NodeId, PhysAddr};
use parakernel_core::memory::{DmaBlock, SharedMemory};

use crate::arch::native;
use crate::arch::paging::{self, PageSize};

/// Size of a frame.
pub(crate) const FRAME: u64 = 4096;
/// Most ranges of memory that the kernel keeps apart; smaller ones beyond that are not used.
const RANGES_MAX: usize = 128;
/// Most NUMA nodes.
pub(crate) const NODES_MAX: usize = 16;

/// Ranges of physical memory, without overlap.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ranges(Vec<Range<u64>, RANGES_MAX>);

impl Ranges {
    /// Adds the whole frames of `range`.
    pub(crate) fn add(&mut self, range: Range<u64>) {
        let frames = range.start.next_multiple_of(FRAME)..range.end - range.end % FRAME;
        if frames.start < frames.end && self.0.push(frames).is_err() {
            crate::print!("memory: more than {RANGES_MAX} ranges; one is not used\n");
        }
    }

    /// Takes `range` (and what shares a frame with it) out.
    pub(crate) fn remove(&mut self, range: Range<u64>) {
        let gone = range.start - range.start % FRAME..range.end.next_multiple_of(FRAME);
        let mut left = Self::default();
        for old in &self.0 {
            left.add(old.start..old.end.min(gone.start));
            left.add(old.start.max(gone.end)..old.end);
        }
        *self = left;
    }

    /// What lies within `bounds`.
    pub(crate) fn within(&self, bounds: &Range<u64>) -> Self {
        let mut inside = Self::default();
        for range in &self.0 {
            inside.add(range.start.max(bounds.start)..range.end.min(bounds.end));
        }
        inside
    }

    /// The ranges.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Range<u64>> {
        self.0.iter()
    }
}

/// Frames given out at boot, before the nodes have allocators; never freed.
#[derive(Debug)]
pub(crate) struct EarlyFrames(Range<u64>);

impl EarlyFrames {
    /// Frames of `range`, which must be free memory below 4 GiB.
    pub(crate) const fn new(range: Range<u64>) -> Self {
        Self(range)
    }

    /// A zeroed frame.
    pub(crate) fn take(&mut self) -> Option<PhysAddr> {
        if self.0.is_empty() {
            return None;
        }
        let frame = PhysAddr::new(self.0.start);
        self.0.start += FRAME;
        zero(frame, 1);
        Some(frame)
    }

    /// What was not taken.
    pub(crate) fn rest(&self) -> Range<u64> {
        self.0.clone()
    }
}

/// The frames of one node: a bit for each frame between its first and its last, set where the frame is free.
#[derive(Debug)]
struct Node {
    id: NodeId,
    base: u64,
    bits: &'static mut [u64],
    free: usize,
    hint: usize,
}

/// All frames of the machine.
#[derive(Debug)]
pub(crate) struct Frames {
    nodes: Vec<Node, NODES_MAX>,
}

impl Frames {
    /// Allocators without frames.
    pub(crate) const fn new() -> Self {
        Self { nodes: Vec::new() }
    }

    /// Makes the free memory `ranges` that of node `id`.
    ///
    /// # Safety
    ///
    /// The memory must be mapped, and nobody may use it.
    pub(crate) unsafe fn add_node(&mut self, id: NodeId, ranges: &Ranges) {
        let (Some(base), Some(end)) = (
            ranges.iter().map(|r| r.start).min(),
            ranges.iter().map(|r| r.end).max(),
        ) else {
            return;
        };
        let words = usize::try_from((end - base) / FRAME)
            .unwrap_or(usize::MAX)
            .div_ceil(64);
        let needed = (words as u64 * 8).next_multiple_of(FRAME);
        let Some(home) = ranges
            .iter()
            .find(|r| r.end - r.start >= needed)
            .map(|r| r.start)
        else {
            return;
        };
        zero(PhysAddr::new(home), needed / FRAME);
        let words_at = paging::physical(PhysAddr::new(home)).cast::<u64>();
        // SAFETY: the caller vouches that the range is mapped and unused; it was just zeroed and is large enough.
        let bits = unsafe { core::slice::from_raw_parts_mut(words_at, words) };
        let mut node = Node {
            id,
            base,
            bits,
            free: 0,
            hint: 0,
        };
        let mut ranges = ranges.clone();
        ranges.remove(home..home + needed);
        for range in ranges.iter() {
            node.release(range.start, (range.end - range.start) / FRAME);
        }
        if self.nodes.push(node).is_err() {
            crate::print!(
                "memory: more than {NODES_MAX} nodes; node {} is not used\n",
                id.index()
            );
        }
    }

    /// `count` zeroed frames in a row on `node`, the first a multiple of `count` if that is 512 (a large page).
    pub(crate) fn take(&mut self, node: NodeId, count: usize) -> Option<PhysAddr> {
        let node = self.nodes.iter_mut().find(|n| n.id == node)?;
        let first = node.take(count, if count == 512 { 512 } else { 1 })?;
        zero(first, count as u64);
        Some(first)
    }

    /// Takes back `count` frames from `first` on.
    pub(crate) fn give_back(&mut self, first: PhysAddr, count: usize) {
        let address = first.as_u64();
        let holds =
            |n: &&mut Node| (n.base..n.base + n.bits.len() as u64 * 64 * FRAME).contains(&address);
        if let Some(node) = self.nodes.iter_mut().find(holds) {
            node.release(address, count as u64);
        }
    }

    /// Takes back a page.
    pub(crate) fn give_back_page(&mut self, first: PhysAddr, size: PageSize) {
        self.give_back(first, size.frames());
    }

    /// How many frames of `node` are free.
    pub(crate) fn free(&self, node: NodeId) -> usize {
        self.nodes
            .iter()
            .find(|n| n.id == node)
            .map_or(0, |n| n.free)
    }

    /// How many frames are free on all nodes.
    pub(crate) fn free_total(&self) -> usize {
        self.nodes.iter().map(|n| n.free).sum()
    }

    /// The nodes that have memory.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = NodeId> {
        self.nodes.iter().map(|n| n.id)
    }

    /// Memory of `node` for `len` values, all of them `value` at first, for ever.
    pub(crate) fn place_slice<T: Copy>(
        &mut self,
        node: NodeId,
        len: usize,
        value: T,
    ) -> Option<&'static mut [T]> {
        const {
            assert!(
                align_of::<T>() <= native(FRAME),
                "frames are aligned to their size"
            );
        };
        let bytes = size_of::<T>().checked_mul(len)? as u64;
        let count = native(bytes.div_ceil(FRAME).max(1));
        let memory = paging::physical(self.take(node, count)?).cast::<T>();
        for index in 0..len {
            // SAFETY: the frames are mapped, large and aligned enough for `len` values, and belong to nobody else.
            unsafe { memory.wrapping_add(index).write(value) };
        }
        // SAFETY: as above, and all `len` values are there now.
        Some(unsafe { core::slice::from_raw_parts_mut(memory, len) })
    }

    /// `len` zeroed bytes of `node` in a row, for a device and the kernel to share.
    pub(crate) fn dma_block(&mut self, node: NodeId, len: usize) -> Option<DmaBlock<'static>> {
        let count = len.div_ceil(native(FRAME)).max(1);
        let first = self.take(node, count)?;
        let base = NonNull::new(paging::physical(first))?;
        // SAFETY: fresh, zeroed frames in a row, mapped with all memory, that nobody else has.
        let memory = unsafe { SharedMemory::new(base, len) };
        // SAFETY: without an IOMMU a device finds memory at its physical address; the frames are this block's alone.
        Some(unsafe { DmaBlock::new(memory, BusAddress::new(first.as_u64())) })
    }

    /// Puts `value` into memory of `node`, for ever.
    pub(crate) fn place<T>(&mut self, node: NodeId, value: T) -> Option<&'static mut T> {
        let count = size_of::<T>().div_ceil(native(FRAME)).max(1);
        const {
            assert!(
                align_of::<T>() <= native(FRAME),
                "frames are aligned to their size"
            );
        };
        let memory = paging::physical(self.take(node, count)?).cast::<MaybeUninit<T>>();
        // SAFETY: the frames are mapped, large and aligned enough, and belong to nobody else.
        Some(unsafe { &mut *memory }.write(value))
    }
}

impl Node {
    fn take(&mut self, count: usize, align: usize) -> Option<PhysAddr> {
        let total = self.bits.len() * 64;
        let from = self.hint.next_multiple_of(align);
        let first = self
            .find(from..total, count, align)
            .or_else(|| self.find(0..total, count, align))?;
        for frame in first..first + count {
            self.bits[frame / 64] &= !(1 << (frame % 64));
        }
        self.free -= count;
        if count == 1 {
            self.hint = first + 1;
        }
        Some(PhysAddr::new(self.base + first as u64 * FRAME))
    }

    /// The first of `count` free frames in a row within `range`, aligned by address.
    fn find(&self, range: Range<usize>, count: usize, align: usize) -> Option<usize> {
        let skew = native(self.base / FRAME);
        let mut first = range.start;
        while first + count <= range.end {
            first = (first + skew).next_multiple_of(align) - skew;
            let taken = (first..first + count).rev().find(|&f| !self.is_free(f));
            match taken {
                None => return Some(first),
                Some(frame) => first = frame + 1,
            }
        }
        None
    }

    fn is_free(&self, frame: usize) -> bool {
        self.bits
            .get(frame / 64)
            .is_some_and(|word| word & 1 << (frame % 64) != 0)
    }

    fn release(&mut self, address: u64, count: u64) {
        let first = native((address - self.base) / FRAME);
        for frame in first..first + native(count) {
            debug_assert!(!self.is_free(frame), "freed twice");
            self.bits[frame / 64] |= 1 << (frame % 64);
        }
        self.free += native(count);
        self.hint = self.hint.min(first);
    }
}

/// Zeroes `count` frames from `first` on.
fn zero(first: PhysAddr, count: u64) {
    let bytes = native(count * FRAME);
    // SAFETY: all memory is mapped, and callers own the frames.
    unsafe { paging::physical(first).write_bytes(0, bytes) };
}
