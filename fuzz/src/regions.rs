//! The regions of a process twice: in the table under test, and as a list of pages that anybody can read.
//!
//! The second is the statement of ARCHITECTURE section 5: an access is allowed if every byte of it lies on a page that
//! was registered for its direction, all in one region; a device that is given one address needs them to follow each
//! other on the bus too.

use parakernel_core::{
    address::{BusAddress, Direction, Iova, NodeId},
    handle::{ProcessId, RegionId, Slot},
    memory::{
        Extent, ExtentSlot, PageLists, PageSlot, Region, RegionEntry, RegionStorage, RegionTable,
    },
};

use crate::input::Input;

/// Where the process's I/O addresses begin.
pub(crate) const APERTURE: u64 = 0x4000_0000;
/// Pages that the table covers.
pub(crate) const PAGES: usize = 640;
pub(crate) const PAGE: u64 = 4096;
/// Where the process's memory lies on the bus; far from everything else.
const BUS: u64 = 0x12_0000_0000;
/// Where the kernel's tables of page addresses lie, those of each region at a multiple of `LISTS_EACH`.
const LISTS: u64 = 0x7000_0000_0000;
const LISTS_EACH: u64 = 0x100_0000;
/// Where the second table of a region begins: in the middle of a page.
const ODD: u64 = 0x80_0800;
/// Writing here is an interrupt (Intel SDM volume 3, "Message Address Register Format").
const INTERRUPTS: core::ops::Range<u64> = 0xfee0_0000..0xfef0_0000;
/// The most regions, and the most extents.
const MAX_REGIONS: usize = 6;
const MAX_EXTENTS: usize = 12;

/// What is known of a registered page.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Page {
    /// Which region, counted from the first ever registered.
    region: usize,
    /// Where it lies.
    bus: u64,
}

#[derive(Debug)]
struct Registered {
    id: RegionId,
    first: usize,
    direction: Direction,
    buses: Vec<u64>,
    has_lists: bool,
    is_removed: bool,
}

/// The memory that the table under test keeps its entries in.
#[derive(Debug)]
pub(crate) struct Storage {
    regions: [Slot<RegionEntry>; MAX_REGIONS],
    extents: [ExtentSlot; MAX_EXTENTS],
    pages: [PageSlot; PAGES],
}

impl Storage {
    pub(crate) const fn new() -> Self {
        Self {
            regions: [const { Slot::EMPTY }; MAX_REGIONS],
            extents: [ExtentSlot::EMPTY; MAX_EXTENTS],
            pages: [PageSlot::EMPTY; PAGES],
        }
    }
}

/// The regions of one process, twice.
#[derive(Debug)]
pub(crate) struct Regions<'s> {
    pub(crate) table: RegionTable<'s>,
    pages: [Option<Page>; PAGES],
    registered: Vec<Registered>,
    next_bus: u64,
}

impl<'s> Regions<'s> {
    pub(crate) fn new(storage: &'s mut Storage) -> Self {
        let storage = RegionStorage {
            regions: &mut storage.regions,
            extents: &mut storage.extents,
            pages: &mut storage.pages,
        };
        let table = RegionTable::new(ProcessId::new(1, 1), Iova::new(APERTURE), storage, &[]);
        Self {
            table: table.expect("an aperture at a page"),
            pages: [None; PAGES],
            registered: Vec::with_capacity(MAX_REGIONS),
            next_bus: BUS,
        }
    }

    /// Registers a region that `input` chooses, of up to `most` pages; the two tables must agree on whether it is one.
    pub(crate) fn insert(&mut self, input: &mut Input<'_>, direction: Direction, most: u64) {
        let len = 1 + input.below(most);
        let gap = input.below(3);
        let first = if input.one_in(8) {
            input.below(PAGES as u64 + 8)
        } else {
            self.first_free(len + gap) + gap
        };
        let extents = self.extents(input, len);
        let iova = APERTURE + first * PAGE + if input.one_in(32) { 8 } else { 0 };
        let region = Region {
            iova: Iova::new(iova),
            len: len * PAGE,
            direction,
            node: NodeId::new(0),
        };
        let expected =
            iova.is_multiple_of(PAGE) && self.is_free(first, len) && are_memory(&extents);
        let result = self.table.insert(region, &extents);
        // A full table refuses what would be right.
        assert!(
            expected || result.is_err(),
            "{region:?} in {extents:?} was registered"
        );
        if let Ok(id) = result {
            let has_lists = !input.one_in(16);
            self.enter(id, (first, direction), &extents, has_lists);
        } else {
            let is_full =
                self.count() == MAX_REGIONS || self.extent_count() + extents.len() > MAX_EXTENTS;
            assert!(
                !expected || is_full,
                "{region:?} in {extents:?} was refused: {result:?}"
            );
        }
    }

    /// Removes a region, if there is one.
    pub(crate) fn remove(&mut self, input: &mut Input<'_>) {
        if self.registered.is_empty() {
            return;
        }
        let number = usize::from(input.byte()) % self.registered.len();
        let region = &mut self.registered[number];
        let was_there = !core::mem::replace(&mut region.is_removed, true);
        let removed = self.table.remove(region.id);
        assert_eq!(removed.is_some(), was_there, "a stale handle");
        if was_there {
            let end = region.first + region.buses.len();
            self.pages[region.first..end].fill(None);
        }
    }

    /// An address in a region that is registered, if there is one: `back` bytes before its end, or in its first half.
    pub(crate) fn address(&self, input: &mut Input<'_>, direction: Direction, back: u64) -> u64 {
        let choice = usize::from(input.byte());
        let fitting = |region: &&Registered| {
            !region.is_removed
                && allows(region.direction, direction)
                && region.buses.len() as u64 * PAGE >= back
        };
        let count = self.registered.iter().filter(fitting).count();
        let Some(region) = self
            .registered
            .iter()
            .filter(fitting)
            .nth(choice % count.max(1))
        else {
            return APERTURE;
        };
        let base = APERTURE + region.first as u64 * PAGE;
        let room = region.buses.len() as u64 * PAGE - back;
        match input.byte() & 3 {
            0 => base + room,
            1 => base + input.below(room / PAGE + 1) * PAGE,
            _ => base + (input.below(65_536) * 4) % (room + 1) / 4 * 4,
        }
    }

    /// The page that byte `iova` lies on, if a device may do there what `wanted` says.
    fn page(&self, iova: u128, wanted: Direction) -> Option<Page> {
        let page = iova.checked_sub(u128::from(APERTURE))? / u128::from(PAGE);
        let page = (*self.pages.get(usize::try_from(page).ok()?)?)?;
        allows(self.registered[page.region].direction, wanted).then_some(page)
    }

    /// The pieces of memory, page by page, that an access means; `None` where it is not allowed.
    pub(crate) fn pieces(&self, iova: u64, len: u64, wanted: Direction) -> Option<Vec<Piece>> {
        let (mut at, end) = (u128::from(iova), u128::from(iova) + u128::from(len));
        let first = self.page(at, wanted)?;
        let mut pieces = Vec::new();
        while at < end {
            let page = self.page(at, wanted)?;
            if page.region != first.region {
                return None;
            }
            let page_end = (at / u128::from(PAGE) + 1) * u128::from(PAGE);
            let piece = Piece {
                bus: page.bus + low(at % u128::from(PAGE)),
                len: low(page_end.min(end) - at),
            };
            pieces.push(piece);
            at = page_end;
        }
        (!pieces.is_empty()).then_some(pieces)
    }

    /// Where an access lies on the bus that must be in one piece; `None` where it is not allowed.
    pub(crate) fn contiguous(&self, iova: u64, len: u64, wanted: Direction) -> Option<u64> {
        let pieces = self.pieces(iova, len, wanted)?;
        let follows = |pair: &[Piece]| pair[0].bus + pair[0].len == pair[1].bus;
        pieces.windows(2).all(follows).then(|| pieces[0].bus)
    }

    /// Whether the process's memory is at `bus`.
    pub(crate) fn holds_bus(&self, bus: u64) -> bool {
        let mut pages = self.pages.iter().flatten();
        pages.any(|page| (page.bus..page.bus + PAGE).contains(&bus))
    }

    /// Whether the kernel made tables of the pages of the region at `iova`.
    pub(crate) fn has_lists(&self, iova: u64) -> bool {
        self.page(iova.into(), Direction::ToDevice)
            .or_else(|| self.page(iova.into(), Direction::FromDevice))
            .is_some_and(|page| self.registered[page.region].has_lists)
    }

    /// The entry of a kernel-owned table that a device finds at `address`; `None` where there is none.
    pub(crate) fn list_entry(&self, address: u64) -> Option<u64> {
        let offset = address.checked_sub(LISTS)?;
        let region = &self
            .registered
            .get(usize::try_from(offset / LISTS_EACH).ok()?)?;
        let offset = offset % LISTS_EACH;
        let offset = offset.checked_sub(ODD).unwrap_or(offset);
        let index = usize::try_from(offset / 8).ok()?;
        let is_readable = !region.is_removed && region.has_lists && offset.is_multiple_of(8);
        region.buses.get(index).copied().filter(|_| is_readable)
    }

    fn count(&self) -> usize {
        self.registered
            .iter()
            .filter(|region| !region.is_removed)
            .count()
    }

    /// At least as many as the table needs, which joins neighbours.
    fn extent_count(&self) -> usize {
        let jumps = |buses: &[u64]| {
            buses
                .windows(2)
                .filter(|pair| pair[0] + PAGE != pair[1])
                .count()
        };
        let live = self.registered.iter().filter(|region| !region.is_removed);
        live.map(|region| 1 + jumps(&region.buses)).sum()
    }

    fn first_free(&self, len: u64) -> u64 {
        let mut run = 0;
        for (page, entry) in (0..).zip(&self.pages) {
            run = if entry.is_none() { run + 1 } else { 0 };
            if run == len {
                return page + 1 - len;
            }
        }
        0
    }

    fn is_free(&self, first: u64, len: u64) -> bool {
        (first..first + len).all(|page| {
            usize::try_from(page)
                .is_ok_and(|page| self.pages.get(page).is_some_and(Option::is_none))
        })
    }

    /// `len` pages of the bus in one to three parts, some of which follow each other.
    fn extents(&mut self, input: &mut Input<'_>, len: u64) -> Vec<Extent> {
        let parts = 1 + (input.byte() % 6).saturating_sub(3);
        let mut left = len;
        let mut extents = Vec::with_capacity(3);
        for part in 0..parts {
            let pages = if part + 1 == parts {
                left
            } else {
                left.min(1 + input.below(len))
            };
            left -= pages;
            self.next_bus += input.choose(&[PAGE, 0, 3 * PAGE]);
            let bus = match input.byte() {
                0xff => 0xfede_f000,
                0xfe => u64::MAX - PAGE + 1,
                _ => self.next_bus,
            };
            if bus == self.next_bus {
                self.next_bus += pages * PAGE;
            }
            if pages > 0 {
                extents.push(Extent {
                    bus: BusAddress::new(bus),
                    len: pages * PAGE,
                });
            }
        }
        extents
    }

    fn enter(
        &mut self,
        id: RegionId,
        (first, direction): (u64, Direction),
        extents: &[Extent],
        has_lists: bool,
    ) {
        let number = self.registered.len();
        let first = usize::try_from(first).expect("inside the table");
        let buses: Vec<u64> = extents
            .iter()
            .flat_map(|extent| {
                let pages = extent.len / PAGE;
                (0..pages).map(move |page| extent.bus.as_u64() + page * PAGE)
            })
            .collect();
        for (index, &bus) in buses.iter().enumerate() {
            let page = Page {
                region: number,
                bus,
            };
            self.pages[first + index] = Some(page);
        }
        if has_lists {
            let even = LISTS + number as u64 * LISTS_EACH;
            let lists = PageLists {
                even: BusAddress::new(even),
                odd: BusAddress::new(even + ODD),
            };
            self.table
                .attach_lists(id, lists)
                .expect("a region just registered");
        }
        self.registered.push(Registered {
            id,
            first,
            direction,
            buses,
            has_lists,
            is_removed: false,
        });
    }
}

/// Bytes that follow each other on the bus.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Piece {
    /// The first.
    pub(crate) bus: u64,
    /// Their number.
    pub(crate) len: u64,
}

const fn allows(region: Direction, wanted: Direction) -> bool {
    match region {
        Direction::Bidirectional => true,
        Direction::ToDevice => matches!(wanted, Direction::ToDevice),
        Direction::FromDevice => matches!(wanted, Direction::FromDevice),
    }
}

/// Whether all extents are memory that may be registered.
fn are_memory(extents: &[Extent]) -> bool {
    extents.iter().all(|extent| {
        let (start, end) = (
            u128::from(extent.bus.as_u64()),
            u128::from(extent.bus.as_u64()) + u128::from(extent.len),
        );
        end < 1 << 64 && (end <= INTERRUPTS.start.into() || start >= INTERRUPTS.end.into())
    })
}

fn low(number: u128) -> u64 {
    u64::try_from(number).expect("a number that is small")
}
