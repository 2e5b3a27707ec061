//! Physical region pages: how a command tells the controller where its data lies (NVMe 1.4 §4.3).
//!
//! PRP 1 is the address of the first byte. Data on two pages has the second page's address as PRP 2. Data on more
//! pages has a *list* of the addresses of all pages but the first, and PRP 2 points to it; a list that does not end
//! on its page goes on elsewhere, which costs the controller another read and the driver a chain.
//!
//! No list is ever built for a command here. Two tables of all page addresses of a region are built once, when it is
//! registered ([`PageLists`]): any list of up to 256 entries lies inside one page of one of the two. Longer lists lie in
//! two more tables ([`ChainedTables`]), whose pages end in a link to the next.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parakernel_core::{
    address::BusAddress,
    memory::{DmaBlock, PAGE_SIZE, PageLists},
};

/// Bits of an address that count bytes in a page: memory is granted in pages of 4 KiB, so CC.MPS is 0.
pub(crate) const PAGE_MASK: u64 = PAGE_SIZE as u64 - 1;

/// Entries of a list that surely lies inside one page of one of the two tables: half of a page of them.
pub const MAX_LIST: u64 = PAGE_SIZE as u64 / 8 / 2;

/// The longest transfer without chained lists: with any offset into its first page it needs at most [`MAX_LIST`] more.
pub const MAX_TRANSFER: u64 = MAX_LIST * PAGE_SIZE as u64;

/// How many pages `len` bytes touch that begin `offset` bytes into a page.
#[inline]
#[must_use]
pub const fn pages(offset: u64, len: u64) -> u64 {
    (offset + len).div_ceil(PAGE_SIZE as u64)
}

/// The two tables of a region's page addresses, at numbers that the controller understands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ListTables {
    /// Where entry 0 of the first lies: at the beginning of a page.
    pub even: u64,
    /// Where entry 0 of the second lies: in the middle of a page.
    pub odd: u64,
}

impl ListTables {
    /// Where a list of up to [`MAX_LIST`] entries lies that begins with page `page` of the region.
    #[inline]
    #[must_use]
    pub const fn list(&self, page: u64) -> u64 {
        let table = if page & MAX_LIST == 0 {
            self.even
        } else {
            self.odd
        };
        table.wrapping_add(page * 8)
    }

    /// Bytes of memory for both tables of a region of `pages` pages, from the beginning of a page on.
    #[must_use]
    pub const fn bytes(pages: u64) -> u64 {
        2 * Self::table_bytes(pages)
    }

    /// One table, half a page of it unused in front or behind, in whole pages.
    const fn table_bytes(pages: u64) -> u64 {
        (pages * 8 + PAGE_SIZE as u64 / 2).next_multiple_of(PAGE_SIZE as u64)
    }

    /// The tables in memory that begins at `base`, aligned to a page and [`bytes`](Self::bytes) long.
    #[must_use]
    pub const fn at(base: u64, pages: u64) -> Self {
        Self {
            even: base,
            odd: base + Self::table_bytes(pages) + PAGE_SIZE as u64 / 2,
        }
    }
}

/// Two tables of a region's page addresses whose pages end in a link to the next page, for lists longer than
/// [`MAX_LIST`].
///
/// The controller takes the last entry of a page for a link exactly if it needs more than that entry (§4.3). So a list
/// whose last entry would come first on its page must not begin in this table: there the entry before, which is the link,
/// would be taken for an address. The second table holds everything one entry later, where that is not so.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChainedTables {
    first: u64,
    second: u64,
}

/// Addresses on a page that ends in a link.
const LINKED: u64 = PAGE_SIZE as u64 / 8 - 1;

impl ChainedTables {
    /// Where a list of `count` entries, at least one, lies that begins with page `page` of the region.
    #[must_use]
    pub const fn list(&self, page: u64, count: u64) -> u64 {
        if (page + count - 1).is_multiple_of(LINKED) {
            Self::place(self.second, page + 1)
        } else {
            Self::place(self.first, page)
        }
    }

    /// Bytes of memory for both tables of a region of `pages` pages, from the beginning of a page on.
    #[must_use]
    pub const fn bytes(pages: u64) -> u64 {
        2 * Self::table_bytes(pages)
    }

    /// Room for one more address than pages, as the second table begins one later.
    const fn table_bytes(pages: u64) -> u64 {
        (pages + 1).div_ceil(LINKED) * PAGE_SIZE as u64
    }

    /// Where address number `entry` lies in the table at `base`.
    const fn place(base: u64, entry: u64) -> u64 {
        base + entry / LINKED * PAGE_SIZE as u64 + entry % LINKED * 8
    }

    /// Writes both tables of a region's `pages`, in order, into `block`, which only the kernel may write; `None` where
    /// the block is not aligned to a page or shorter than [`bytes`](Self::bytes) says.
    pub fn write(
        block: &DmaBlock<'_>,
        pages: impl ExactSizeIterator<Item = BusAddress>,
    ) -> Option<Self> {
        let (base, count) = (block.bus_address().as_u64(), pages.len() as u64);
        let is_aligned = block.bus_address().is_aligned(PAGE_SIZE as u64);
        if !is_aligned || (block.len() as u64) < Self::bytes(count) {
            return None;
        }
        let len = Self::table_bytes(count);
        let tables = Self {
            first: base,
            second: base + len,
        };
        let word = |at: u64| {
            block
                .memory()
                .view::<AtomicU64>(usize::try_from(at - base).ok()?)
        };
        // Every page but the last of each table links to the page behind it.
        for page in (base..base + 2 * len).step_by(PAGE_SIZE) {
            word(page + LINKED * 8)?.store((page + PAGE_SIZE as u64).to_le(), Relaxed);
        }
        for (entry, page) in (0..).zip(pages) {
            word(Self::place(tables.first, entry))?.store(page.as_u64().to_le(), Relaxed);
            word(Self::place(tables.second, entry + 1))?.store(page.as_u64().to_le(), Relaxed);
        }
        Some(tables)
    }
}

impl From<PageLists> for ListTables {
    fn from(lists: PageLists) -> Self {
        let [even, odd] = [lists.even, lists.odd].map(BusAddress::as_u64);
        Self { even, odd }
    }
}

/// Writes both tables of a region's `pages`, in order, into `block`, which only the kernel may write.
///
/// For [`RegionTable::attach_lists`](parakernel_core::memory::RegionTable::attach_lists); `None` where the block is not
/// aligned to a page or shorter than [`ListTables::bytes`] says.
pub fn write_tables(
    block: &DmaBlock<'_>,
    pages: impl ExactSizeIterator<Item = BusAddress>,
) -> Option<PageLists> {
    let (base, count) = (block.bus_address(), pages.len());
    if !base.is_aligned(PAGE_SIZE as u64) {
        return None;
    }
    let tables = ListTables::at(base.as_u64(), count as u64);
    let table = |at: u64| {
        let offset = usize::try_from(at - base.as_u64()).ok()?;
        block.memory().slice::<AtomicU64>(offset, count)
    };
    let entries = table(tables.even)?.iter().zip(table(tables.odd)?);
    for ((even, odd), page) in entries.zip(pages) {
        even.store(page.as_u64().to_le(), Relaxed);
        odd.store(page.as_u64().to_le(), Relaxed);
    }
    Some(PageLists {
        even: BusAddress::new(tables.even),
        odd: BusAddress::new(tables.odd),
    })
}

#[cfg(test)]
mod tests {
    use core::ptr::NonNull;

    use parakernel_core::memory::SharedMemory;

    use super::*;

    /// Follows the list as §4.3 says, over the tables themselves; entries are page numbers.
    fn walk(tables: &[u64], lists: ListTables, first_page: u64, count: u64) -> Vec<u64> {
        let mut at = lists.list(first_page);
        let mut found = Vec::new();
        for _ in 0..count {
            found.push(tables[usize::try_from(at / 8).unwrap()]);
            at += 8;
            let ends_page = at.is_multiple_of(PAGE_SIZE as u64);
            assert!(
                !ends_page || found.len() as u64 == count,
                "the list crosses a page"
            );
        }
        found
    }

    #[test]
    fn every_list_of_every_length_lies_inside_one_page() {
        let region = 1500;
        let lists = ListTables::at(0, region);
        let mut memory = vec![u64::MAX; usize::try_from(ListTables::bytes(region) / 8).unwrap()];
        for page in 0..region {
            memory[usize::try_from(lists.even / 8 + page).unwrap()] = page;
            memory[usize::try_from(lists.odd / 8 + page).unwrap()] = page;
        }
        for first in 0..region {
            for count in [1, 2, 3, 127, 255, 256] {
                let count = count.min(region - first);
                let expected: Vec<_> = (first..first + count).collect();
                assert_eq!(walk(&memory, lists, first, count), expected);
            }
        }
    }

    /// Follows a chained list as §4.3 says: the last entry of a page is a link if more is needed than that entry.
    fn walk_chain(words: &[AtomicU64], at: u64, count: u64) -> Vec<u64> {
        let read = |at: u64| u64::from_le(words[usize::try_from(at / 8).unwrap()].load(Relaxed));
        let (mut at, mut found) = (at, Vec::new());
        while (found.len() as u64) < count {
            let is_last_of_page = (at + 8).is_multiple_of(PAGE_SIZE as u64);
            if is_last_of_page && found.len() as u64 + 1 < count {
                at = read(at);
            } else {
                found.push(read(at));
                at += 8;
            }
        }
        found
    }

    #[test]
    #[expect(unsafe_code, reason = "a block for the tables")]
    fn every_chained_list_is_found_entry_by_entry() {
        #[repr(align(4096))]
        struct Memory([AtomicU64; 512 * 10]);
        let (memory, region) = (Memory([const { AtomicU64::new(0) }; _]), 2100_u64);
        // SAFETY: atomics that outlive the block.
        let shared =
            unsafe { SharedMemory::new(NonNull::from(&memory.0).cast(), size_of_val(&memory)) };
        // SAFETY: no device; the addresses are only compared.
        let block = unsafe { DmaBlock::new(shared, BusAddress::new(0)) };
        assert_eq!(ChainedTables::bytes(region), 10 * PAGE_SIZE as u64);
        let pages: Vec<_> = (0..region)
            .map(|page| BusAddress::new(page << 20))
            .collect();
        let tables = ChainedTables::write(&block, pages.into_iter()).unwrap();
        // All that begin near a link, and others.
        let near = |first: &u64| !(3..508).contains(&(first % LINKED)) || first.is_multiple_of(37);
        for first in (0..region).filter(near) {
            for count in [
                1, 2, 257, 510, 511, 512, 513, 1021, 1022, 1023, 1024, 1533, 2000,
            ] {
                let count = count.min(region - first);
                let found = walk_chain(&memory.0, tables.list(first, count), count);
                let expected: Vec<_> = (first..first + count).map(|page| page << 20).collect();
                assert!(found == expected, "{count} from {first}");
            }
        }
    }

    #[test]
    fn pages_are_counted_for_every_offset() {
        for offset in 0..PAGE_SIZE as u64 {
            for whole in 0..34 {
                let len = whole * PAGE_SIZE as u64 + 512;
                let touched = (offset + len - 1) / PAGE_SIZE as u64 + 1;
                assert_eq!(pages(offset, len), touched);
            }
        }
        assert_eq!(pages(PAGE_SIZE as u64 - 4, MAX_TRANSFER), MAX_LIST + 1);
    }
}
