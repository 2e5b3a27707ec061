//! Memory for phases: rings, arenas, regions, for good.
#![expect(unsafe_code, reason = "lends leaked memory to rings and arenas")]
#![expect(
    clippy::unwrap_used,
    reason = "a bench that cannot be set up has nothing to say"
)]

use core::{
    alloc::{GlobalAlloc, Layout},
    ptr::NonNull,
};
use std::alloc::System;

use parakernel_core::{
    address::{BusAddress, Direction, Iova, NodeId},
    handle::{ProcessId, Slot},
    memory::{
        Arena, ArenaLayout, DmaBlock, Extent, ExtentSlot, PAGE_SIZE, PageSlot, Pool, Region,
        RegionStorage, RegionTable, SharedMemory,
    },
};

/// Bytes of a cache line.
const LINE: usize = 64;

/// The system's memory by whole cache lines: what two partitions allocate never lies in one line, as their pages never are
/// the same.
struct Lines;

#[global_allocator]
static LINES: Lines = Lines;

impl Lines {
    fn whole(layout: Layout) -> Layout {
        let aligned = layout.align_to(LINE).unwrap_or(layout);
        aligned.pad_to_align()
    }
}

// SAFETY: the system's allocator does the work, for a layout that depends on nothing but the one that is asked for.
unsafe impl GlobalAlloc for Lines {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise; padding makes no layout empty.
        unsafe { System.alloc(Self::whole(layout)) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise; this is the layout that `alloc` had.
        unsafe { System.dealloc(memory, Self::whole(layout)) }
    }
}

/// Where processes know their buffers.
pub(crate) const IOVA: Iova = Iova::new(0x10_0000);

/// Memory for good, aligned to a page and zeroed.
pub(crate) fn leak(bytes: usize) -> (SharedMemory<'static>, NonNull<u8>) {
    #[repr(align(4096))]
    #[derive(Clone)]
    struct Page([u8; PAGE_SIZE]);
    let pages = vec![Page([0; PAGE_SIZE]); bytes.div_ceil(PAGE_SIZE)].leak();
    assert_eq!(pages[0].0[0], 0);
    let base = NonNull::from(pages).cast();
    // SAFETY: leaked, so it stays; whoever gets the pointer too uses either of the two.
    (unsafe { SharedMemory::new(base, bytes) }, base)
}

/// Whoever reads this ring finds it where the CPU does.
pub(crate) fn block(memory: SharedMemory<'static>, base: NonNull<u8>) -> DmaBlock<'static> {
    // SAFETY: no device; the addresses are only compared.
    unsafe { DmaBlock::new(memory, BusAddress::new(base.addr().get() as u64)) }
}

/// All buffers of `layout`, which devices know by `iova`.
pub(crate) fn pool(iova: Iova, layout: ArenaLayout) -> Pool<'static> {
    let (_, base) = leak(layout.bytes());
    // SAFETY: leaked, and used through this arena only.
    let arena = unsafe { Arena::new(base, iova, layout) }.unwrap();
    let words = vec![0; usize::from(layout.count)].leak();
    Pool::new(arena, words)
}

/// The regions of a process whose buffers all lie in one extent.
pub(crate) fn regions(iova: Iova, bytes: usize) -> RegionTable<'static> {
    let len = bytes.next_multiple_of(PAGE_SIZE);
    let storage = RegionStorage {
        regions: (0..4).map(|_| Slot::EMPTY).collect::<Vec<_>>().leak(),
        extents: vec![ExtentSlot::EMPTY; 4].leak(),
        pages: vec![PageSlot::EMPTY; len / PAGE_SIZE].leak(),
    };
    let mut table = RegionTable::new(ProcessId::new(1, 1), iova, storage, &[]).unwrap();
    let region = Region {
        iova,
        len: len as u64,
        direction: Direction::Bidirectional,
        node: NodeId::new(0),
    };
    let extent = Extent {
        bus: BusAddress::new(0x4000_0000),
        len: len as u64,
    };
    table.insert(region, &[extent]).unwrap();
    table
}
