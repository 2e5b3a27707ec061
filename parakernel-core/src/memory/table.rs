//! The region table of one process: may a device access this address, and where on the bus is it?
//!
//! The table is a software IOMMU. It covers an *aperture* of the process's I/O address space with one 32-bit entry for
//! each page, so that a look-up costs the same however many regions there are. The common case does not even look:
//! a [`RegionWindow`] on the largest extent is hoisted out of a batch and translates with one addition and one compare.

mod window;

use core::ops::RangeInclusive;

use super::region::{Extent, MSI_WINDOW, PageLists, Region, RegionError};
use crate::{
    address::{BusAddress, Direction, Iova},
    handle::{HandleTable, ProcessId, RegionId, Slot},
    validate::Violation,
};

pub use window::{PagedAccess, RegionWindow};

use window::translate;

/// [`memory::PAGE_SIZE`](super::PAGE_SIZE) in the width of addresses.
const PAGE_SIZE: u64 = super::PAGE_SIZE as u64;

/// The caller's memory that a [`RegionTable`] keeps its entries in.
#[derive(Debug)]
pub struct RegionStorage<'a> {
    /// One for each region.
    pub regions: &'a mut [Slot<RegionEntry>],
    /// One for each bus-contiguous part of a region: at least as many as regions.
    pub extents: &'a mut [ExtentSlot],
    /// One for each page of the aperture.
    pub pages: &'a mut [PageSlot],
}

/// A region and what the table knows of it.
#[derive(Clone, Copy, Debug)]
pub struct RegionEntry {
    region: Region,
    lists: Option<PageLists>,
}

/// Room for one extent.
#[derive(Clone, Copy, Debug)]
pub struct ExtentSlot {
    base: u64,
    /// 0 where the slot is unused, so that no access fits.
    len: u64,
    /// The bus address of its first byte.
    bus: u64,
    /// Index of the region.
    region: u32,
    allowed: u8,
}

impl ExtentSlot {
    /// An unused slot, to fill the table's memory with.
    pub const EMPTY: Self = Self {
        base: 0,
        len: 0,
        bus: 0,
        region: 0,
        allowed: 0,
    };

    /// The bus address of `len` bytes at `iova`, where they lie in the extent.
    #[inline]
    const fn translate(&self, iova: Iova, len: u64) -> Option<BusAddress> {
        translate(self.base, self.len, self.bus, iova, len)
    }

    const fn end(&self) -> u64 {
        self.base + self.len
    }
}

/// Room for what one page belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageSlot(u32);

impl PageSlot {
    /// A page that is not registered, to fill the table's memory with.
    pub const EMPTY: Self = Self(u32::MAX);
}

/// The regions of one process.
#[derive(Debug)]
pub struct RegionTable<'a> {
    owner: ProcessId,
    aperture: u64,
    regions: HandleTable<'a, RegionId, RegionEntry>,
    extents: &'a mut [ExtentSlot],
    pages: &'a mut [PageSlot],
    reserved: &'a [RangeInclusive<u64>],
    /// The largest extent that allows `ToDevice`, `FromDevice`, `Bidirectional`.
    largest: [RegionWindow; 3],
}

impl<'a> RegionTable<'a> {
    /// An empty table for `owner`, for I/O addresses from `aperture` on, as many pages as `storage` has entries for.
    ///
    /// No region will cover an address in `reserved`, on neither side of the translation: the platform names its BARs,
    /// controller memory buffers and firmware-reserved ranges there. The [MSI window](MSI_WINDOW) need not be named.
    ///
    /// # Errors
    ///
    /// [`RegionError::Unaligned`] or [`RegionError::Wraps`] where `aperture` is not at a page or reaches too far.
    pub fn new(
        owner: ProcessId,
        aperture: Iova,
        storage: RegionStorage<'a>,
        reserved: &'a [RangeInclusive<u64>],
    ) -> Result<Self, RegionError> {
        if !aperture.is_aligned(PAGE_SIZE) {
            return Err(RegionError::Unaligned);
        }
        let span = PAGE_SIZE.checked_mul(storage.pages.len() as u64);
        span.and_then(|span| aperture.checked_add(span))
            .ok_or(RegionError::Wraps)?;
        storage.extents.fill(ExtentSlot::EMPTY);
        storage.pages.fill(PageSlot::EMPTY);
        Ok(Self {
            owner,
            aperture: aperture.as_u64(),
            regions: HandleTable::new(storage.regions),
            extents: storage.extents,
            pages: storage.pages,
            reserved,
            largest: [RegionWindow::EMPTY; 3],
        })
    }

    /// Empties the table for another process. Handles of the last one name nothing.
    ///
    /// Only where no active lease may reference a region.
    pub fn reassign(&mut self, owner: ProcessId) {
        for index in 0..self.regions.capacity() {
            if let Some((id, _)) = self.regions.at(index) {
                self.remove(id);
            }
        }
        self.owner = owner;
    }

    /// Whose regions these are.
    #[must_use]
    pub const fn owner(&self) -> ProcessId {
        self.owner
    }

    /// The bus address of the access, which must lie in one extent that allows it.
    ///
    /// # Errors
    ///
    /// [`Violation`] names the rule that the access breaks.
    #[inline]
    pub fn translate(
        &self,
        iova: Iova,
        len: u64,
        wanted: Direction,
    ) -> Result<BusAddress, Violation> {
        if let Some(extent) = self.extent_at(iova)
            && extent.allowed & bits(wanted) == bits(wanted)
            && let Some(bus) = extent.translate(iova, len)
        {
            return Ok(bus);
        }
        Err(self.reason(iova, len, wanted))
    }

    /// The access as a device makes it that addresses pages one by one: it must lie in one region that allows it, but may
    /// cross its extents.
    ///
    /// # Errors
    ///
    /// [`Violation`] names the rule that the access breaks.
    pub fn translate_paged(
        &self,
        iova: Iova,
        len: u64,
        wanted: Direction,
    ) -> Result<PagedAccess, Violation> {
        if let Some(extent) = self.extent_at(iova)
            && extent.allowed & bits(wanted) == bits(wanted)
            && let Some(bus) = extent.translate(iova, 1)
            && let Some(entry) = self.region_around(extent, iova, len)
        {
            return Ok(PagedAccess {
                bus,
                page: (iova.as_u64() - entry.region.iova.as_u64()) / PAGE_SIZE,
                lists: entry.lists,
            });
        }
        Err(self.reason(iova, len, wanted))
    }

    /// Where each page that the access touches lies on the bus; the first address keeps its offset into its page.
    ///
    /// # Errors
    ///
    /// As [`translate_paged`](Self::translate_paged).
    pub fn translate_pages(
        &self,
        iova: Iova,
        len: u64,
        wanted: Direction,
    ) -> Result<impl Iterator<Item = BusAddress>, Violation> {
        self.translate_paged(iova, len, wanted)?;
        let first = iova.as_u64();
        let pages = (first % PAGE_SIZE + len).div_ceil(PAGE_SIZE);
        Ok((0..pages).filter_map(move |page| {
            let start = if page == 0 {
                first
            } else {
                (first / PAGE_SIZE + page) * PAGE_SIZE
            };
            self.extent_at(Iova::new(start))?
                .translate(Iova::new(start), 1)
        }))
    }

    /// The largest extent that allows `wanted`, to try first; [`RegionWindow::EMPTY`] where there is none.
    #[inline]
    #[must_use]
    pub const fn window(&self, wanted: Direction) -> RegionWindow {
        self.largest[wanted as usize]
    }

    /// The same in its place, for validators with more to keep in registers than one window.
    #[inline]
    #[must_use]
    pub const fn window_ref(&self, wanted: Direction) -> &RegionWindow {
        &self.largest[wanted as usize]
    }

    /// Registers `region`, whose pages lie in `extents`, in order. Extents that follow each other on the bus become one.
    ///
    /// # Errors
    ///
    /// [`RegionError`]; the table is then as before.
    pub fn insert(&mut self, region: Region, extents: &[Extent]) -> Result<RegionId, RegionError> {
        self.check_range(&region)?;
        check_extents(&region, extents, self.reserved)?;
        let pages = self.page_range(&region);
        if self.pages[pages]
            .iter()
            .any(|page| *page != PageSlot::EMPTY)
        {
            return Err(RegionError::Overlap);
        }
        let room = self.extents.iter().filter(|slot| slot.len == 0).count();
        if merged(extents).count() > room {
            return Err(RegionError::Full);
        }
        let entry = RegionEntry {
            region,
            lists: None,
        };
        let id = self.regions.insert(entry).map_err(|_| RegionError::Full)?;
        self.place(id, &region, extents);
        self.find_largest();
        Ok(id)
    }

    /// Gives a region its tables of page addresses; `None` where the handle is stale.
    ///
    /// Whoever calls answers for the contents of the tables and for their staying as they are until the region is gone.
    pub fn attach_lists(&mut self, id: RegionId, lists: PageLists) -> Option<()> {
        self.regions.get_mut(id)?.lists = Some(lists);
        self.find_largest();
        Some(())
    }

    /// Removes a region; `None` where the handle is stale.
    ///
    /// Only for regions that no active lease may reference: entries that a device already has are not called back.
    pub fn remove(&mut self, id: RegionId) -> Option<Region> {
        let RegionEntry { region, .. } = self.regions.remove(id)?;
        let pages = self.page_range(&region);
        for page in &mut self.pages[pages] {
            if let Some(extent) = self.extents.get_mut(page.0 as usize) {
                *extent = ExtentSlot::EMPTY;
            }
            *page = PageSlot::EMPTY;
        }
        self.find_largest();
        Some(region)
    }

    /// The region that `id` names, unless it is stale.
    #[must_use]
    pub fn region(&self, id: RegionId) -> Option<&Region> {
        self.regions.get(id).map(|entry| &entry.region)
    }

    /// All regions.
    pub fn regions(&self) -> impl Iterator<Item = (RegionId, &Region)> {
        self.regions.iter().map(|(id, entry)| (id, &entry.region))
    }

    /// The extents of a region, in order.
    pub fn extents(&self, id: RegionId) -> impl Iterator<Item = Extent> {
        let region = self.region(id).copied();
        let mut next = region.map(|region| region.iova.as_u64());
        core::iter::from_fn(move || {
            let region = region?;
            let extent = self.extent_at(Iova::new(next?))?;
            next = Some(extent.end()).filter(|&end| end - region.iova.as_u64() < region.len);
            Some(Extent {
                bus: BusAddress::new(extent.bus),
                len: extent.len,
            })
        })
    }

    /// The lowest address where `len` bytes could be registered, or `None` where there is no such room.
    #[must_use]
    pub fn vacancy(&self, len: u64) -> Option<Iova> {
        let wanted = usize::try_from(len.div_ceil(PAGE_SIZE))
            .ok()
            .filter(|&pages| pages > 0)?;
        let mut run = 0;
        for (index, page) in self.pages.iter().enumerate() {
            let address = self.aperture + index as u64 * PAGE_SIZE;
            let usable = *page == PageSlot::EMPTY && !self.is_reserved(address, PAGE_SIZE);
            run = if usable { run + 1 } else { 0 };
            if run == wanted {
                return Some(Iova::new(address - (wanted as u64 - 1) * PAGE_SIZE));
            }
        }
        None
    }

    /// The extent that the page of `iova` belongs to.
    #[inline]
    fn extent_at(&self, iova: Iova) -> Option<&ExtentSlot> {
        let page = iova.as_u64().wrapping_sub(self.aperture) / PAGE_SIZE;
        let slot = self.pages.get(usize::try_from(page).ok()?)?;
        self.extents.get(slot.0 as usize)
    }

    /// The region of `extent`, where all of an access lies in it.
    fn region_around(&self, extent: &ExtentSlot, iova: Iova, len: u64) -> Option<&RegionEntry> {
        let (_, entry) = self.regions.at(extent.region as usize)?;
        let Region {
            iova: base,
            len: span,
            ..
        } = entry.region;
        translate(base.as_u64(), span, 0, iova, len).map(|_| entry)
    }

    /// The rule that an access breaks which was refused.
    #[cold]
    fn reason(&self, iova: Iova, len: u64, wanted: Direction) -> Violation {
        let extent = self.extent_at(iova);
        match extent.filter(|_| len > 0 && iova.checked_add(len - 1).is_some()) {
            None => Violation::OutsideRegions { iova, len },
            Some(extent) if extent.allowed & bits(wanted) != bits(wanted) => {
                Violation::Direction { iova, wanted }
            }
            Some(extent) if self.region_around(extent, iova, len).is_none() => {
                Violation::OutsideRegions { iova, len }
            }
            Some(_) => Violation::AcrossExtents { iova, len },
        }
    }

    fn check_range(&self, region: &Region) -> Result<(), RegionError> {
        if !region.iova.is_aligned(PAGE_SIZE) || !is_whole_pages(region.len) {
            return Err(RegionError::Unaligned);
        }
        let end = region
            .iova
            .checked_add(region.len)
            .ok_or(RegionError::Wraps)?;
        let last = self.aperture + self.pages.len() as u64 * PAGE_SIZE;
        if region.iova.as_u64() < self.aperture || end.as_u64() > last {
            return Err(RegionError::Aperture);
        }
        if self.is_reserved(region.iova.as_u64(), region.len) {
            return Err(RegionError::Reserved);
        }
        Ok(())
    }

    fn is_reserved(&self, start: u64, len: u64) -> bool {
        is_reserved(self.reserved, start, len)
    }

    /// The entries of the region's pages, which lie in the aperture.
    fn page_range(&self, region: &Region) -> core::ops::Range<usize> {
        let first = (region.iova.as_u64() - self.aperture) / PAGE_SIZE;
        let end = first + region.len / PAGE_SIZE;
        // Both are at most `pages.len()`, a `usize`.
        usize::try_from(first).unwrap_or(0)..usize::try_from(end).unwrap_or(0)
    }

    /// Enters the extents of a region that was checked.
    fn place(&mut self, id: RegionId, region: &Region, extents: &[Extent]) {
        let mut iova = region.iova.as_u64();
        let mut slots = (0_u32..)
            .zip(self.extents.iter_mut())
            .filter(|(_, slot)| slot.len == 0);
        for extent in merged(extents) {
            let Some((index, slot)) = slots.next() else {
                return;
            };
            *slot = ExtentSlot {
                base: iova,
                len: extent.len,
                bus: extent.bus.as_u64(),
                region: u32::try_from(id.index()).unwrap_or(u32::MAX),
                allowed: bits(region.direction),
            };
            let first = (iova - self.aperture) / PAGE_SIZE;
            let pages = self
                .pages
                .iter_mut()
                .skip(usize::try_from(first).unwrap_or(usize::MAX));
            for (_, page) in (0..extent.len / PAGE_SIZE).zip(pages) {
                *page = PageSlot(index);
            }
            iova += extent.len;
        }
    }

    fn find_largest(&mut self) {
        for wanted in [
            Direction::ToDevice,
            Direction::FromDevice,
            Direction::Bidirectional,
        ] {
            let usable = self
                .extents
                .iter()
                .filter(|slot| slot.len > 0 && slot.allowed & bits(wanted) == bits(wanted));
            self.largest[wanted as usize] = usable
                .max_by_key(|slot| slot.len)
                .map_or(RegionWindow::EMPTY, |slot| self.window_of(slot));
        }
    }

    fn window_of(&self, slot: &ExtentSlot) -> RegionWindow {
        let entry = self
            .regions
            .at(slot.region as usize)
            .map(|(_, entry)| entry);
        let start = entry.map_or(slot.base, |entry| entry.region.iova.as_u64());
        RegionWindow {
            base: slot.base,
            len: slot.len,
            bus: slot.bus,
            first_page: (slot.base - start) / PAGE_SIZE,
            lists: entry.and_then(|entry| entry.lists),
        }
    }
}

/// The directions as a set: bit 0 to the device, bit 1 from the device.
#[inline]
const fn bits(direction: Direction) -> u8 {
    match direction {
        Direction::ToDevice => 1,
        Direction::FromDevice => 2,
        Direction::Bidirectional => 3,
    }
}

const fn is_whole_pages(len: u64) -> bool {
    len != 0 && len.is_multiple_of(PAGE_SIZE)
}

/// Whether `len` bytes from `start`, at least one and not wrapping, touch the MSI window or a reserved range.
fn is_reserved(reserved: &[RangeInclusive<u64>], start: u64, len: u64) -> bool {
    let touches =
        |range: &RangeInclusive<u64>| start <= *range.end() && *range.start() <= start + (len - 1);
    touches(&MSI_WINDOW) || reserved.iter().any(touches)
}

fn check_extents(
    region: &Region,
    extents: &[Extent],
    reserved: &[RangeInclusive<u64>],
) -> Result<(), RegionError> {
    let mut total = 0_u64;
    for extent in extents {
        if !extent.bus.is_aligned(PAGE_SIZE) || !is_whole_pages(extent.len) {
            return Err(RegionError::Unaligned);
        }
        extent
            .bus
            .checked_add(extent.len)
            .ok_or(RegionError::Wraps)?;
        if is_reserved(reserved, extent.bus.as_u64(), extent.len) {
            return Err(RegionError::Reserved);
        }
        total = total.checked_add(extent.len).ok_or(RegionError::Length)?;
    }
    if total == region.len {
        Ok(())
    } else {
        Err(RegionError::Length)
    }
}

/// The extents, those that follow each other on the bus joined.
fn merged(extents: &[Extent]) -> impl Iterator<Item = Extent> {
    let follows = |a: &Extent, b: &Extent| a.bus.checked_add(a.len) == Some(b.bus);
    extents.chunk_by(follows).filter_map(|run| {
        Some(Extent {
            bus: run.first()?.bus,
            len: run.iter().map(|extent| extent.len).sum(),
        })
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::address::NodeId;

    const APERTURE: u64 = 0xfedf_8000;
    const PAGES: usize = 32;
    const OWNER: ProcessId = ProcessId::new(1, 2);
    const RESERVED: [RangeInclusive<u64>; 3] = [0x9000..=0x9fff, 0xbfff..=0xbfff, 0xd000..=0xd000];

    struct Memory {
        regions: [Slot<RegionEntry>; 4],
        extents: [ExtentSlot; 6],
        pages: [PageSlot; PAGES],
    }

    impl Memory {
        fn new() -> Self {
            Self {
                regions: [const { Slot::EMPTY }; 4],
                extents: [ExtentSlot::EMPTY; 6],
                pages: [PageSlot::EMPTY; PAGES],
            }
        }

        fn table(&mut self, aperture: u64) -> RegionTable<'_> {
            let storage = RegionStorage {
                regions: &mut self.regions,
                extents: &mut self.extents,
                pages: &mut self.pages,
            };
            RegionTable::new(OWNER, Iova::new(aperture), storage, &RESERVED).unwrap()
        }
    }

    fn region(iova: u64, pages: u64, direction: Direction) -> Region {
        Region {
            iova: Iova::new(iova),
            len: pages * PAGE_SIZE,
            direction,
            node: NodeId::new(0),
        }
    }

    fn extent(bus: u64, pages: u64) -> Extent {
        Extent {
            bus: BusAddress::new(bus),
            len: pages * PAGE_SIZE,
        }
    }

    #[test]
    fn a_region_translates_from_its_first_byte_to_its_last() {
        let mut memory = Memory::new();
        let mut table = memory.table(0x1_0000);
        let two_pages = region(0x1_1000, 2, Direction::Bidirectional);
        let id = table.insert(two_pages, &[extent(0x7_0000, 2)]).unwrap();
        let translate = |iova, len| table.translate(Iova::new(iova), len, Direction::FromDevice);
        assert_eq!(translate(0x1_1000, 0x2000), Ok(BusAddress::new(0x7_0000)));
        assert_eq!(translate(0x1_2fff, 1), Ok(BusAddress::new(0x7_1fff)));
        let nowhere = [
            (0x1_0fff, 1),
            // Begins in the region and leaves it.
            (0x1_2fff, 2),
            (0x1_1000, 0x2001),
            (0x1_3000, 1),
            (0x1_1000, 0),
            (0x1_1000, u64::MAX),
            (u64::MAX, 1),
        ];
        for (iova, len) in nowhere {
            let outside = Violation::OutsideRegions {
                iova: Iova::new(iova),
                len,
            };
            assert_eq!(translate(iova, len), Err(outside));
        }
        assert_eq!(table.remove(id), Some(two_pages));
        assert_eq!(table.remove(id), None);
        let gone = table.translate(Iova::new(0x1_1000), 1, Direction::FromDevice);
        assert!(gone.is_err());
    }

    #[test]
    fn an_access_from_one_region_into_the_next_is_outside_of_both() {
        let mut memory = Memory::new();
        let mut table = memory.table(0x1_0000);
        let shape = |iova| region(iova, 1, Direction::ToDevice);
        table
            .insert(shape(0x1_0000), &[extent(0x7_0000, 1)])
            .unwrap();
        table
            .insert(shape(0x1_1000), &[extent(0x7_1000, 1)])
            .unwrap();
        let (iova, len) = (Iova::new(0x1_0800), 0x1000);
        let outside = Violation::OutsideRegions { iova, len };
        let wanted = Direction::ToDevice;
        assert_eq!(table.translate(iova, len, wanted), Err(outside));
        let paged = table.translate_paged(iova, len, wanted);
        assert_eq!(paged, Err(outside));
    }

    #[test]
    fn an_access_across_extents_is_refused_but_its_pages_are_not() {
        let mut memory = Memory::new();
        let mut table = memory.table(0x1_0000);
        let parts = [
            extent(0x8_0000, 1),
            extent(0x8_1000, 1),
            extent(0x5_0000, 1),
        ];
        let id = table
            .insert(region(0x1_0000, 3, Direction::ToDevice), &parts)
            .unwrap();
        let (iova, wanted) = (Iova::new(0x1_1800), Direction::ToDevice);
        let across = Violation::AcrossExtents { iova, len: 0x1000 };
        assert_eq!(table.translate(iova, 0x1000, wanted), Err(across));
        let wanted_back = Direction::FromDevice;
        let forbidden = Violation::Direction {
            iova,
            wanted: wanted_back,
        };
        assert_eq!(table.translate(iova, 1, wanted_back), Err(forbidden));
        let pages: Vec<_> = table
            .translate_pages(iova, 0x1000, wanted)
            .unwrap()
            .collect();
        assert_eq!(
            pages,
            [BusAddress::new(0x8_1800), BusAddress::new(0x5_0000)]
        );
        let joined: Vec<_> = table.extents(id).collect();
        assert_eq!(joined, [extent(0x8_0000, 2), extent(0x5_0000, 1)]);
    }

    #[test]
    fn a_table_is_empty_for_its_next_process() {
        let mut memory = Memory::new();
        let mut table = memory.table(0x1_0000);
        let shape = region(0x1_0000, 2, Direction::ToDevice);
        let old = table.insert(shape, &[extent(0x7_0000, 2)]).unwrap();
        let next = ProcessId::new(7, 8);
        table.reassign(next);
        assert_eq!(table.owner(), next);
        assert!(
            table
                .translate(Iova::new(0x1_0000), 1, Direction::ToDevice)
                .is_err()
        );
        assert!(
            table
                .window(Direction::ToDevice)
                .translate(Iova::new(0x1_0000), 1)
                .is_none()
        );
        let new = table.insert(shape, &[extent(0x7_0000, 2)]).unwrap();
        assert_ne!(old, new);
    }

    #[test]
    fn page_lists_are_found_through_the_window_and_the_table() {
        let mut memory = Memory::new();
        let mut table = memory.table(0x1_0000);
        let id = table
            .insert(
                region(0x1_0000, 4, Direction::Bidirectional),
                &[extent(0x8_0000, 4)],
            )
            .unwrap();
        let lists = PageLists {
            even: BusAddress::new(0x2_0000),
            odd: BusAddress::new(0x3_0800),
        };
        table.attach_lists(id, lists).unwrap();
        let expected = PagedAccess {
            bus: BusAddress::new(0x8_2010),
            page: 2,
            lists: Some(lists),
        };
        let iova = Iova::new(0x1_2010);
        assert_eq!(
            table.translate_paged(iova, 0x1ff0, Direction::ToDevice),
            Ok(expected)
        );
        assert_eq!(
            table
                .window(Direction::ToDevice)
                .translate_paged(iova, 0x1ff0),
            Some(expected)
        );
        assert_eq!(
            table
                .window(Direction::ToDevice)
                .translate_paged(iova, 0x1ff1),
            None
        );
    }

    #[test]
    fn no_region_covers_a_reserved_address() {
        let mut memory = Memory::new();
        let mut table = memory.table(APERTURE);
        let attempts = [
            (0xfee0_0000, 1),
            (0xfedf_f000, 2),
            (0xfeef_f000, 1),
            (0x8000, 2),
            (0x9000, 1),
            (0xb000, 1),
            (0xd000, 1),
        ];
        for (bus, pages) in attempts {
            let shape = region(APERTURE, pages, Direction::ToDevice);
            let refused = table.insert(shape, &[extent(bus, pages)]);
            assert_eq!(refused, Err(RegionError::Reserved), "{bus:#x}");
        }
        let window = region(0xfedf_f000, 2, Direction::ToDevice);
        assert_eq!(
            table.insert(window, &[extent(0, 2)]),
            Err(RegionError::Reserved)
        );
        assert!(
            table
                .insert(
                    region(APERTURE, 1, Direction::ToDevice),
                    &[extent(0xfef0_0000, 1)]
                )
                .is_ok()
        );
        assert_eq!(
            table.vacancy(7 * PAGE_SIZE),
            Some(Iova::new(APERTURE + PAGE_SIZE))
        );
        assert_eq!(table.vacancy(8 * PAGE_SIZE), None);
    }

    #[test]
    fn a_malformed_region_is_refused() {
        let mut memory = Memory::new();
        let mut table = memory.table(0x1_0000);
        let mut insert = |iova, len, bus, bus_len| {
            let shape = Region {
                len,
                ..region(iova, 1, Direction::ToDevice)
            };
            let bus = BusAddress::new(bus);
            table.insert(shape, &[Extent { bus, len: bus_len }]).err()
        };
        let last_page = 0_u64.wrapping_sub(PAGE_SIZE);
        let refused = [
            (0x1_0010, 0x1000, 0x5000, 0x1000, RegionError::Unaligned),
            (0x1_0000, 0x0800, 0x5000, 0x0800, RegionError::Unaligned),
            (0x1_0000, 0, 0x5000, 0x1000, RegionError::Unaligned),
            (0x1_0000, 0x1000, 0x5010, 0x1000, RegionError::Unaligned),
            (0x1_0000, 0x1000, 0x5000, 0, RegionError::Unaligned),
            (0x1_0000, 0x1000, 0x5000, 0x2000, RegionError::Length),
            (0x1_0000, 0x2000, 0x5000, 0x1000, RegionError::Length),
            (last_page, 0x1000, 0x5000, 0x1000, RegionError::Wraps),
            (0x1_0000, 0x1000, last_page, 0x1000, RegionError::Wraps),
            (0xf000, 0x1000, 0x5000, 0x1000, RegionError::Aperture),
            (0x3_0000, 0x1000, 0x5000, 0x1000, RegionError::Aperture),
            (0x2_f000, 0x2000, 0x5000, 0x2000, RegionError::Aperture),
        ];
        for (iova, len, bus, bus_len, why) in refused {
            assert_eq!(
                insert(iova, len, bus, bus_len),
                Some(why),
                "{iova:#x} {bus:#x}"
            );
        }
        assert_eq!(insert(0x1_0000, 0x1000, 0x5000, 0x1000), None);
        let twice = insert(0x1_0000, 0x1000, 0x5000, 0x1000);
        assert_eq!(twice, Some(RegionError::Overlap));
    }

    /// A region as the oracle keeps it: one bus page for each page.
    #[derive(Clone)]
    struct Known {
        id: RegionId,
        region: Region,
        bus_pages: Vec<u64>,
    }

    /// Where one byte lies, found by looking at every region in turn.
    fn byte(known: &[Known], iova: u64, wanted: Direction) -> Option<(RegionId, u64)> {
        known.iter().find_map(|known| {
            let offset = iova.checked_sub(known.region.iova.as_u64())?;
            let bus_page = known
                .bus_pages
                .get(usize::try_from(offset / PAGE_SIZE).ok()?)?;
            known
                .region
                .direction
                .allows(wanted)
                .then_some((known.id, bus_page + offset % PAGE_SIZE))
        })
    }

    /// The access, byte by byte: each allowed, in one region, and following the one before on the bus.
    fn obvious(known: &[Known], iova: u64, len: u64, wanted: Direction) -> Option<u64> {
        let first = byte(known, iova, wanted)?;
        let follows = |n: u64| {
            let next = iova
                .checked_add(n)
                .and_then(|iova| byte(known, iova, wanted));
            next == Some((first.0, first.1 + n))
        };
        (len > 0 && (0..len).all(follows)).then_some(first.1)
    }

    fn direction() -> impl Strategy<Value = Direction> {
        prop::sample::select(
            &[
                Direction::ToDevice,
                Direction::FromDevice,
                Direction::Bidirectional,
            ][..],
        )
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u64, Vec<u64>, Direction),
        Remove(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (0_u64..PAGES as u64, prop::collection::vec(16_u64..24, 1..5), direction())
                .prop_map(|(page, bus, direction)| Step::Insert(page, bus, direction)),
            1 => (0_usize..4).prop_map(Step::Remove),
        ]
    }

    fn apply(table: &mut RegionTable<'_>, known: &mut Vec<Known>, aperture: u64, step: Step) {
        match step {
            Step::Insert(page, bus, direction) => {
                let shape = region(aperture + page * PAGE_SIZE, bus.len() as u64, direction);
                let bus_pages: Vec<_> = bus.iter().map(|page| page * PAGE_SIZE).collect();
                let extents: Vec<_> = bus_pages.iter().map(|&page| extent(page, 1)).collect();
                if let Ok(id) = table.insert(shape, &extents) {
                    known.push(Known {
                        id,
                        region: shape,
                        bus_pages,
                    });
                }
            }
            Step::Remove(index) if index < known.len() => {
                let gone = known.remove(index);
                assert_eq!(table.remove(gone.id), Some(gone.region));
            }
            Step::Remove(_) => {}
        }
    }

    proptest! {
        /// An access is translated exactly when each of its bytes is, to consecutive addresses, in one region.
        #[test]
        fn translation_agrees_with_looking_at_every_byte(
            aperture in prop::sample::select(&[0_u64, 0x1_0000, 0xff_ffff_0000][..]),
            steps in prop::collection::vec(step(), 1..12),
            accesses in prop::collection::vec((0_u64..34 * PAGE_SIZE, 0_u64..3 * PAGE_SIZE, direction()), 24),
        ) {
            let mut memory = Memory::new();
            let mut table = memory.table(aperture);
            let mut known = Vec::new();
            for step in steps {
                apply(&mut table, &mut known, aperture, step);
            }
            for (offset, len, wanted) in accesses {
                let iova = (aperture + offset).saturating_sub(PAGE_SIZE);
                let expected = obvious(&known, iova, len, wanted).map(BusAddress::new);
                prop_assert_eq!(table.translate(Iova::new(iova), len, wanted).ok(), expected);
                let windowed = table.window(wanted).translate(Iova::new(iova), len);
                prop_assert!(windowed.is_none() || windowed == expected);
            }
        }

        /// Page by page, an access is translated exactly when each of its bytes lies in one region.
        #[test]
        fn pages_agree_with_looking_at_every_page(
            steps in prop::collection::vec(step(), 1..12),
            offset in 0_u64..32 * PAGE_SIZE,
            len in 1_u64..5 * PAGE_SIZE,
            wanted in direction(),
        ) {
            let mut memory = Memory::new();
            let mut table = memory.table(0x1_0000);
            let mut known = Vec::new();
            for step in steps {
                apply(&mut table, &mut known, 0x1_0000, step);
            }
            let first = 0x1_0000 + offset;
            let starts = (first..first + len).filter(|&iova| iova == first || iova % PAGE_SIZE == 0);
            let owner = byte(&known, first, wanted).map(|(id, _)| id);
            let pages = starts.map(|iova| byte(&known, iova, wanted).filter(|(id, _)| Some(*id) == owner));
            let expected: Option<Vec<_>> = pages.map(|page| page.map(|(_, bus)| BusAddress::new(bus))).collect();
            let found = table.translate_pages(Iova::new(first), len, wanted).map(Iterator::collect::<Vec<_>>);
            prop_assert_eq!(found.ok(), expected);
        }

        /// Overlap is found exactly when a page would have two owners, and what was removed leaves no trace.
        #[test]
        fn no_page_has_two_owners(steps in prop::collection::vec(step(), 1..40)) {
            let mut memory = Memory::new();
            let mut table = memory.table(0x1_0000);
            let mut known: Vec<Known> = Vec::new();
            for step in steps {
                apply(&mut table, &mut known, 0x1_0000, step);
                let mut pages: Vec<_> = known
                    .iter()
                    .flat_map(|known| (0..known.bus_pages.len() as u64).map(|n| known.region.iova.as_u64() + n * PAGE_SIZE))
                    .collect();
                let count = pages.len();
                pages.sort_unstable();
                pages.dedup();
                prop_assert_eq!(pages.len(), count);
            }
            for known in known.drain(..) {
                table.remove(known.id);
            }
            prop_assert_eq!(table.regions().count(), 0);
            prop_assert!(table.extents.iter().all(|slot| slot.len == 0));
            prop_assert_eq!(table.vacancy(PAGES as u64 * PAGE_SIZE), Some(Iova::new(0x1_0000)));
        }
    }
}
