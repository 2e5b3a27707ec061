//! The kernel's address space: what is where, with which rights.
#![expect(unsafe_code, reason = "builds and activates the kernel's page tables")]

use core::ops::Range;
use core::ptr::NonNull;

use parakernel_core::address::{NodeId, PhysAddr};

use super::cpu;
use super::paging::{Backing, Flags, MapError, Mapping, PHYS_OFFSET, PageSize, Tables};
use crate::arch::native;
use crate::memory::{EarlyFrames, FRAME, Frames, Owner};
use crate::ranges::Ranges;

/// Where the image is loaded (kernel.ld).
pub(crate) const LOAD_ADDRESS: u64 = 0x10_0000;
/// Where addresses of the image begin (kernel.ld).
const KERNEL_BASE: u64 = 0xffff_ffff_8000_0000;
/// Device registers are mapped here.
const DEVICES: Range<u64> = 0xffff_c000_0000_0000..0xffff_c080_0000_0000;
/// Stacks are mapped here, each with a page below it that is not.
const STACKS: Range<u64> = 0xffff_d000_0000_0000..0xffff_d080_0000_0000;

unsafe extern "C" {
    static __text_start: u8;
    static __text_end: u8;
    static __rodata_start: u8;
    static __rodata_end: u8;
    static __data_start: u8;
    static __data_end: u8;
}

/// Where the image is in physical memory.
pub(crate) fn image() -> Range<u64> {
    LOAD_ADDRESS..(&raw const __data_end).addr() as u64 - KERNEL_BASE
}

/// Where the image's code is mapped.
pub(crate) fn code_start() -> *mut u8 {
    (&raw const __text_start).cast_mut()
}

/// The kernel's half of every address space.
#[derive(Debug)]
pub(crate) struct KernelTables {
    tables: Tables,
    /// Where the next device goes.
    devices: u64,
    /// Where the next stack goes.
    stacks: u64,
}

impl KernelTables {
    /// Tables that map the image with the rights of its segments, and `memory` at [`PHYS_OFFSET`].
    ///
    /// # Errors
    ///
    /// If there are not enough frames.
    pub(crate) fn build(memory: &Ranges, early: &mut EarlyFrames) -> Result<Self, MapError> {
        let root = early.take().ok_or(MapError::OutOfFrames)?;
        // SAFETY: a fresh, zeroed frame.
        let tables = unsafe { Tables::new(root) };
        let mut frames = || early.take();
        let data = Flags::WRITABLE | Flags::NO_EXECUTE;
        for (start, end, flags) in [
            (
                &raw const __text_start,
                &raw const __text_end,
                Flags::empty(),
            ),
            (
                &raw const __rodata_start,
                &raw const __rodata_end,
                Flags::NO_EXECUTE,
            ),
            (&raw const __data_start, &raw const __data_end, data),
        ] {
            let (start, end) = (start.addr() as u64, end.addr() as u64);
            let physical = start - KERNEL_BASE..end.next_multiple_of(FRAME) - KERNEL_BASE;
            let backing = Backing {
                physical,
                largest: PageSize::Small,
                flags,
            };
            tables.map_range(start, &backing, &mut frames)?;
        }
        let largest = if cpu::has_gigabyte_pages() {
            PageSize::Giant
        } else {
            PageSize::Large
        };
        for range in memory.iter() {
            let backing = Backing {
                physical: range.clone(),
                largest,
                flags: data,
            };
            tables.map_range(PHYS_OFFSET + range.start, &backing, &mut frames)?;
        }
        tables.prepare(DEVICES, &mut frames)?;
        tables.prepare(STACKS, &mut frames)?;
        Ok(Self {
            tables,
            devices: DEVICES.start,
            stacks: STACKS.start,
        })
    }

    /// Makes these the tables of this core.
    ///
    /// # Safety
    ///
    /// What the core uses now must be mapped in them at the same addresses.
    pub(crate) unsafe fn activate(&self) {
        // SAFETY: the caller vouches for the mappings; the tables are never freed.
        unsafe { self.tables.activate() };
    }

    /// The tables, for address spaces to share.
    pub(crate) const fn tables(&self) -> Tables {
        self.tables
    }

    /// Maps the device registers at `start`, uncached, for ever.
    ///
    /// # Errors
    ///
    /// If there are not enough frames or addresses.
    pub(crate) fn map_device(
        &mut self,
        frames: &mut Frames,
        start: PhysAddr,
        len: u64,
    ) -> Result<NonNull<u8>, MapError> {
        let offset = start.as_u64() % FRAME;
        let physical = start.as_u64() - offset..(start.as_u64() + len).next_multiple_of(FRAME);
        let size = physical.end - physical.start;
        let at = self.devices;
        if DEVICES.end - at < size {
            return Err(MapError::OutOfFrames);
        }
        self.devices += size;
        let flags = Flags::WRITABLE | Flags::NO_EXECUTE | Flags::NO_CACHE | Flags::WRITE_THROUGH;
        let backing = Backing {
            physical,
            largest: PageSize::Small,
            flags,
        };
        let node = frames.nodes().next().ok_or(MapError::OutOfFrames)?;
        self.tables
            .map_range(at, &backing, &mut || frames.take_one(node, Owner::KERNEL))?;
        let address = core::ptr::with_exposed_provenance_mut(native(at + offset));
        NonNull::new(address).ok_or(MapError::Occupied)
    }

    /// A stack of `pages` pages in memory of `node`, with an unmapped page below; returns its end.
    ///
    /// # Errors
    ///
    /// If there are not enough frames or addresses.
    pub(crate) fn map_stack(
        &mut self,
        frames: &mut Frames,
        node: NodeId,
        pages: u64,
    ) -> Result<u64, MapError> {
        let bottom = self.stacks + FRAME;
        let top = bottom + pages * FRAME;
        if top > STACKS.end {
            return Err(MapError::OutOfFrames);
        }
        self.stacks = top;
        for at in (bottom..top).step_by(native(FRAME)) {
            let frame = frames
                .take_one(node, Owner::KERNEL)
                .ok_or(MapError::OutOfFrames)?;
            let flags = Flags::WRITABLE | Flags::NO_EXECUTE;
            let page = Mapping {
                frame,
                size: PageSize::Small,
                flags,
            };
            self.tables
                .map(at, page, &mut || frames.take_one(node, Owner::KERNEL))?;
        }
        Ok(top)
    }
}
