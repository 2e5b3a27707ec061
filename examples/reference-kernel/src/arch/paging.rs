//! Page tables. Only core 0 changes them; every core may look things up in them while it does.
#![expect(
    unsafe_code,
    reason = "reaches page tables through the map of all memory"
)]

use core::ops::Range;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};

use super::native;

use parakernel_core::address::PhysAddr;
use x86_64::registers::control::{Cr3, Cr3Flags};
use x86_64::structures::paging::{PageTableFlags, PhysFrame};

/// Where all physical memory is mapped.
pub(crate) const PHYS_OFFSET: u64 = 0xffff_8000_0000_0000;
/// Addresses that a process may have: the low half but for its last page, after which `sysret` could not return safely.
pub(crate) const USER: Range<u64> = 0x1_0000..0x7fff_ffff_f000;
/// First entry of a top-level table that belongs to the kernel.
const KERNEL_ENTRIES: Range<usize> = 256..512;
/// Bits of an entry that hold an address.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// What an entry allows; [`OWNED`] says that the frame goes with the address space.
pub(crate) type Flags = PageTableFlags;
/// Set on frames that belong to the address space and are freed with it.
pub(crate) const OWNED: Flags = PageTableFlags::BIT_9;

/// Size of a page.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum PageSize {
    /// 4 KiB.
    Small = 0,
    /// 2 MiB.
    Large = 1,
    /// 1 GiB; the kernel's map of memory only.
    Giant = 2,
}

impl PageSize {
    /// In bytes.
    pub(crate) const fn bytes(self) -> u64 {
        4096 << (9 * self as u32)
    }

    /// In frames of 4 KiB.
    pub(crate) const fn frames(self) -> usize {
        1 << (9 * self as u32)
    }
}

/// Why a page was not mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum MapError {
    /// Something is mapped there already.
    Occupied,
    /// No frame for a table.
    OutOfFrames,
}

/// A mapped page.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mapping {
    /// First byte of its frame.
    pub(crate) frame: PhysAddr,
    /// Its size.
    pub(crate) size: PageSize,
    /// What it allows.
    pub(crate) flags: Flags,
}

/// Physical memory to be mapped.
#[derive(Clone, Debug)]
pub(crate) struct Backing {
    /// Where it is.
    pub(crate) physical: Range<u64>,
    /// The largest pages to use.
    pub(crate) largest: PageSize,
    /// What they allow.
    pub(crate) flags: Flags,
}

/// A hierarchy of page tables, named by its root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tables {
    root: PhysAddr,
}

/// Where a physical address is mapped.
pub(crate) const fn physical(address: PhysAddr) -> *mut u8 {
    core::ptr::with_exposed_provenance_mut(native(PHYS_OFFSET + address.as_u64()))
}

/// Forgets this core's translations of ring 3's addresses.
pub(crate) fn flush() {
    x86_64::instructions::tlb::flush_all();
}

impl Tables {
    /// Empty tables rooted in `root`.
    ///
    /// # Safety
    ///
    /// `root` must be a zeroed frame that nothing else uses.
    pub(crate) const unsafe fn new(root: PhysAddr) -> Self {
        Self { root }
    }

    /// The root's frame.
    pub(crate) const fn root(self) -> PhysAddr {
        self.root
    }

    /// Takes over the kernel's half of `kernel`, by sharing its second-level tables.
    pub(crate) fn share_kernel_half(self, kernel: Self) {
        for index in KERNEL_ENTRIES {
            let value = entry(kernel.root, index).load(Ordering::Relaxed);
            entry(self.root, index).store(value, Ordering::Relaxed);
        }
    }

    /// Gives each top-level entry in `range` of addresses a table, so that address spaces made later share what is
    /// mapped there.
    pub(crate) fn prepare(
        self,
        range: Range<u64>,
        frames: &mut impl FnMut() -> Option<PhysAddr>,
    ) -> Result<(), MapError> {
        for index in slot(range.start, 3)..=slot(range.end - 1, 3) {
            next_table(entry(self.root, index), frames)?;
        }
        Ok(())
    }

    /// Makes this the address space of the core.
    ///
    /// # Safety
    ///
    /// The kernel's half must map the kernel as the current tables do, and the tables must not be freed while a core
    /// uses them.
    pub(crate) unsafe fn activate(self) {
        let address = x86_64::PhysAddr::new(self.root.as_u64());
        let frame = PhysFrame::containing_address(address);
        // SAFETY: the caller vouches that the kernel stays mapped.
        unsafe { Cr3::write(frame, Cr3Flags::empty()) };
    }

    /// Maps the page at `at` as `page` says.
    ///
    /// # Errors
    ///
    /// If something is mapped there, or `frames` has none for a table.
    pub(crate) fn map(
        self,
        at: u64,
        page: Mapping,
        frames: &mut impl FnMut() -> Option<PhysAddr>,
    ) -> Result<(), MapError> {
        let leaf = self.vacancy(at, page.size, frames)?;
        let mut flags = page.flags | Flags::PRESENT;
        flags.set(Flags::HUGE_PAGE, page.size != PageSize::Small);
        leaf.store(page.frame.as_u64() | flags.bits(), Ordering::Release);
        Ok(())
    }

    /// The empty entry for a page of `size` at `at`, and all tables above it.
    fn vacancy(
        self,
        at: u64,
        size: PageSize,
        frames: &mut impl FnMut() -> Option<PhysAddr>,
    ) -> Result<&'static AtomicU64, MapError> {
        let last = size as u32;
        let mut table = self.root;
        for level in (last + 1..=3).rev() {
            table = next_table(entry(table, slot(at, level)), frames)?;
        }
        let leaf = entry(table, slot(at, last));
        if leaf.load(Ordering::Relaxed) == 0 {
            Ok(leaf)
        } else {
            Err(MapError::Occupied)
        }
    }

    /// Maps `backing` from `at` on, with the largest pages that fit; all are multiples of 4 KiB.
    ///
    /// # Errors
    ///
    /// As for [`map`](Self::map). Nothing is mapped then, not even for a moment, so no core has to forget anything: all tables
    /// are made before the first page is mapped. They stay, for what is mapped there later.
    pub(crate) fn map_range(
        self,
        at: u64,
        backing: &Backing,
        frames: &mut impl FnMut() -> Option<PhysAddr>,
    ) -> Result<(), MapError> {
        let Backing {
            physical,
            largest,
            flags,
        } = backing;
        let pages = || {
            let mut from = physical.start;
            core::iter::from_fn(move || {
                let to = at + (from - physical.start);
                let fits = |size: &PageSize| {
                    size <= largest
                        && (from | to).is_multiple_of(size.bytes())
                        && from + size.bytes() <= physical.end
                        && !self.has_table(to, *size)
                };
                let large = [PageSize::Giant, PageSize::Large].into_iter().find(fits);
                let size = large.unwrap_or(PageSize::Small);
                let frame = PhysAddr::new(from);
                let flags = *flags;
                let is_inside = from < physical.end;
                from += size.bytes();
                is_inside.then_some((to, Mapping { frame, size, flags }))
            })
        };
        for (to, page) in pages() {
            self.vacancy(to, page.size, frames)?;
        }
        for (to, page) in pages() {
            self.map(to, page, frames)?;
        }
        Ok(())
    }

    /// Whether smaller pages are or were mapped where a page of `size` would be.
    fn has_table(self, at: u64, size: PageSize) -> bool {
        let mut table = self.root;
        for level in (size as u32..=3).rev() {
            let value = entry(table, slot(at, level)).load(Ordering::Relaxed);
            let flags = Flags::from_bits_truncate(value);
            if !flags.contains(Flags::PRESENT) || flags.contains(Flags::HUGE_PAGE) {
                return false;
            }
            table = PhysAddr::new(value & ADDRESS);
        }
        true
    }

    /// Has the small page at `at` lead elsewhere, from one moment to the next; whether one is mapped there. Cores that use the
    /// tables may go by the old one until they forget their translations.
    pub(crate) fn redirect(self, at: u64, frame: PhysAddr, flags: Flags) -> bool {
        match self.leaf(at) {
            Some((leaf, page)) if page.size == PageSize::Small => {
                let flags = flags | Flags::PRESENT;
                leaf.store(frame.as_u64() | flags.bits(), Ordering::Release);
                true
            }
            Some(_) | None => false,
        }
    }

    /// Removes the page that holds `at`. Cores that use the tables must then forget their translations.
    pub(crate) fn unmap(self, at: u64) -> Option<Mapping> {
        let (leaf, mapping) = self.leaf(at)?;
        leaf.store(0, Ordering::Release);
        Some(mapping)
    }

    /// The page that holds `at`.
    pub(crate) fn lookup(self, at: u64) -> Option<Mapping> {
        self.leaf(at).map(|(_, mapping)| mapping)
    }

    /// Removes everything from the process's half, and hands each owned frame and each table to `free`, the root last.
    ///
    /// No core may use the tables any more.
    pub(crate) fn free(self, free: &mut impl FnMut(PhysAddr, PageSize)) {
        for index in 0..KERNEL_ENTRIES.start {
            free_below(entry(self.root, index), 3, free);
        }
        free(self.root, PageSize::Small);
    }

    fn leaf(self, at: u64) -> Option<(&'static AtomicU64, Mapping)> {
        let mut table = self.root;
        for level in (0..=3).rev() {
            let entry = entry(table, slot(at, level));
            let value = entry.load(Ordering::Acquire);
            let flags = Flags::from_bits_truncate(value);
            if !flags.contains(Flags::PRESENT) {
                return None;
            }
            let frame = PhysAddr::new(value & ADDRESS);
            let size = match level {
                0 => PageSize::Small,
                1 if flags.contains(Flags::HUGE_PAGE) => PageSize::Large,
                2 if flags.contains(Flags::HUGE_PAGE) => PageSize::Giant,
                _ => {
                    table = frame;
                    continue;
                }
            };
            return Some((entry, Mapping { frame, size, flags }));
        }
        None
    }
}

/// Frees what the entry of a table at `level` leads to.
fn free_below(entry_here: &AtomicU64, level: u32, free: &mut impl FnMut(PhysAddr, PageSize)) {
    let value = entry_here.swap(0, Ordering::AcqRel);
    let flags = Flags::from_bits_truncate(value);
    let frame = PhysAddr::new(value & ADDRESS);
    if !flags.contains(Flags::PRESENT) {
        return;
    }
    if level > 0 && !flags.contains(Flags::HUGE_PAGE) {
        for index in 0..512 {
            free_below(entry(frame, index), level - 1, free);
        }
        free(frame, PageSize::Small);
    } else if flags.contains(OWNED) {
        let size = if level == 0 {
            PageSize::Small
        } else {
            PageSize::Large
        };
        free(frame, size);
    }
}

/// The table that `entry` leads to; a new one if there is none.
fn next_table(
    entry: &AtomicU64,
    frames: &mut impl FnMut() -> Option<PhysAddr>,
) -> Result<PhysAddr, MapError> {
    let value = entry.load(Ordering::Relaxed);
    let flags = Flags::from_bits_truncate(value);
    if flags.contains(Flags::HUGE_PAGE) {
        return Err(MapError::Occupied);
    }
    if flags.contains(Flags::PRESENT) {
        return Ok(PhysAddr::new(value & ADDRESS));
    }
    let table = frames().ok_or(MapError::OutOfFrames)?;
    // Rights are decided by the last level alone.
    let all = Flags::PRESENT | Flags::WRITABLE | Flags::USER_ACCESSIBLE;
    entry.store(table.as_u64() | all.bits(), Ordering::Release);
    Ok(table)
}

/// Index into the table at `level` (0 the last) for address `at`.
const fn slot(at: u64, level: u32) -> usize {
    native(at >> (12 + 9 * level) & 511)
}

/// Entry `index` (below 512) of the table in frame `table`.
fn entry(table: PhysAddr, index: usize) -> &'static AtomicU64 {
    let entries = NonNull::new(physical(table).cast::<[AtomicU64; 512]>());
    debug_assert!(
        entries.is_some(),
        "the map of memory does not start at zero"
    );
    let entries = entries.unwrap_or(NonNull::dangling());
    // SAFETY: tables are frames of page-table entries and mapped with all memory; they are only ever accessed as
    // atomics.
    let entries = unsafe { entries.as_ref() };
    &entries[index]
}
