//! Items in memory of the caller's: found by key, forgotten when they expire or when room is needed.
//!
//! An item's key and value lie in a chain of equal [`Chunk`]s, so that there is no fragmentation and a value may be as
//! long as all chunks together. Room is made by the CLOCK rule: a hand goes round the items and forgets the first that
//! nobody has asked for since it last came by.

use parakernel_core::time::Instant;

mod chain;
mod change;
mod index;
mod room;

pub use chain::Chunk;
use chain::{Chain, Chunks, Place};
use index::Index;
pub use room::Full;

/// The longest key in bytes.
pub const KEY_MAX: usize = 250;

/// No item, no chunk.
const NONE: u32 = u32::MAX;

/// When an item is forgotten.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expiry {
    /// When room is needed.
    Never,
    /// From that time on, or when room is needed before.
    At(Instant),
}

/// What a client stores along with a value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tags {
    /// An opaque number.
    pub flags: u32,
    /// When the item is forgotten.
    pub expiry: Expiry,
}

impl Expiry {
    fn has_come(self, now: Instant) -> bool {
        match self {
            Self::Never => false,
            Self::At(time) => time <= now,
        }
    }
}

/// What an item is to the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Nothing; in the list of free ones.
    Free,
    /// Being written, under no key yet.
    Draft,
    /// Under its key.
    Linked,
    /// Under no key any more, but still being read.
    Orphan,
}

/// The store's record of one item; memory for a [`Store`].
#[derive(Clone, Debug)]
pub struct Item {
    state: State,
    key_len: u8,
    /// Whether it was asked for since the hand came by.
    recent: bool,
    /// Readers.
    pins: u32,
    hash: u32,
    /// The next item in the bucket, or in the list of free ones.
    next: u32,
    chain: Chain,
    value_len: u32,
    tags: Tags,
    cas: u64,
}

impl Item {
    /// An unused record, to fill memory with: zeroes, as an unused [`Chunk`].
    pub const EMPTY: Self = Self {
        state: State::Free,
        key_len: 0,
        recent: false,
        pins: 0,
        hash: 0,
        next: 0,
        chain: Chain::UNUSED,
        value_len: 0,
        tags: Tags {
            flags: 0,
            expiry: Expiry::Never,
        },
        cas: 0,
    };
}

/// An item to be: its value is being written, and nobody finds it yet.
///
/// To be [committed](Store::commit) or [discarded](Store::discard); dropping it loses its memory.
#[derive(PartialEq, Eq, Debug)]
#[must_use = "dropping a draft loses its memory"]
pub struct Draft {
    item: u32,
    written: u32,
    place: Place,
}

/// An item that was found, and stays readable whatever happens to its key.
///
/// To be [released](Store::release); dropping it loses its memory.
#[derive(PartialEq, Eq, Debug)]
#[must_use = "dropping a reader loses its item's memory"]
pub struct Reader {
    item: u32,
    rest: Rest,
    /// Opaque number that the client stored with the value.
    pub flags: u32,
    /// Bytes of the value.
    pub len: u32,
    /// Changes whenever the value is stored anew.
    pub cas: u64,
}

impl Reader {
    /// Whether all of the value was read.
    #[must_use]
    pub const fn is_done(&self) -> bool {
        self.rest.len == 0
    }
}

/// What is still to be read of a value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Rest {
    place: Place,
    len: u32,
}

/// Under which condition a draft takes its key's place, and how.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Always.
    Set,
    /// If the key is not there.
    Add,
    /// If the key is there.
    Replace,
    /// If the key is there: behind the value that is there.
    Append,
    /// If the key is there: before the value that is there.
    Prepend,
    /// If the key is there and still has this number.
    CompareAndSwap(u64),
}

/// What became of a draft.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stored {
    /// It took its key's place.
    Stored,
    /// It did not: the key was there, or was not.
    NotStored,
    /// It did not: somebody else has stored the key in the meantime.
    Exists,
    /// It did not: the key was not there to compare with.
    NotFound,
    /// It did not: there was no room for old and new value together.
    Full(Full),
}

/// What became of a number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Counted {
    /// It is this now.
    Now(u64),
    /// The key was not there.
    NotFound,
    /// The value is no decimal number.
    NotNumeric,
    /// There was no room for the new value.
    Full(Full),
}

/// How often a key was there, and how often not.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Tally {
    /// It was.
    pub hits: u64,
    /// It was not.
    pub misses: u64,
}

impl Tally {
    const fn count(&mut self, hit: bool) {
        if hit {
            self.hits += 1;
        } else {
            self.misses += 1;
        }
    }
}

/// Counters of a store since its start, or since they were reset.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Totals {
    /// Items under their keys now, expired ones that nobody has asked for included.
    pub items: u32,
    /// Items ever put under their keys.
    pub stored: u64,
    /// Items forgotten to make room.
    pub evicted: u64,
    /// Keys read.
    pub get: Tally,
    /// Keys deleted.
    pub delete: Tally,
    /// Keys touched.
    pub touch: Tally,
    /// Values that clients wanted to store.
    pub writes: u64,
    /// Times that everything was flushed.
    pub flushes: u64,
    /// Bytes of chunks in use.
    pub bytes: u64,
    /// Bytes of all chunks.
    pub limit: u64,
}

impl Totals {
    const NONE: Self = {
        let tally = Tally { hits: 0, misses: 0 };
        Self {
            items: 0,
            stored: 0,
            evicted: 0,
            get: tally,
            delete: tally,
            touch: tally,
            writes: 0,
            flushes: 0,
            bytes: 0,
            limit: 0,
        }
    };
}

/// Memory of a [`Store`] with these numbers of items, buckets and chunks; fit for a `static`.
#[derive(Debug)]
pub struct Memory<const ITEMS: usize, const BUCKETS: usize, const CHUNKS: usize> {
    items: [Item; ITEMS],
    buckets: [u32; BUCKETS],
    chunks: [Chunk; CHUNKS],
}

impl<const ITEMS: usize, const BUCKETS: usize, const CHUNKS: usize> Memory<ITEMS, BUCKETS, CHUNKS> {
    /// Unused memory.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            items: [Item::EMPTY; ITEMS],
            buckets: [0; BUCKETS],
            chunks: [Chunk::EMPTY; CHUNKS],
        }
    }
}

impl<const ITEMS: usize, const BUCKETS: usize, const CHUNKS: usize> Default
    for Memory<ITEMS, BUCKETS, CHUNKS>
{
    fn default() -> Self {
        Self::new()
    }
}

/// One shard: all its items, for one core.
#[derive(Debug)]
pub struct Store<'a> {
    items: &'a mut [Item],
    index: Index<'a>,
    chunks: Chunks<'a>,
    free_items: u32,
    /// Where the hand of the clock points.
    hand: usize,
    last_cas: u64,
    /// Items up to this number were flushed.
    flushed: u64,
    /// When everything there is then will be flushed.
    flush_at: Option<Instant>,
    seed: u64,
    totals: Totals,
}

impl<'a> Store<'a> {
    /// An empty store; `seed`, which clients should not know, keeps them from choosing keys of one bucket.
    ///
    /// Of longer slices the first 2³² - 1 elements are used.
    #[must_use]
    pub fn new<const ITEMS: usize, const BUCKETS: usize, const CHUNKS: usize>(
        memory: &'a mut Memory<ITEMS, BUCKETS, CHUNKS>,
        seed: u64,
    ) -> Self {
        Self::in_slices(
            &mut memory.items,
            &mut memory.buckets,
            &mut memory.chunks,
            seed,
        )
    }

    /// As [`new`](Self::new), in memory whose size is known at run time only.
    #[must_use]
    pub fn in_slices(
        items: &'a mut [Item],
        buckets: &'a mut [u32],
        chunks: &'a mut [Chunk],
        seed: u64,
    ) -> Self {
        let mut free_items = NONE;
        for (index, item) in (0..NONE).zip(items.iter_mut()) {
            *item = Item {
                next: free_items,
                ..Item::EMPTY
            };
            free_items = index;
        }
        let chunks = Chunks::new(chunks);
        let totals = Totals {
            limit: chunks.bytes(),
            ..Totals::NONE
        };
        Self {
            items,
            index: Index::new(buckets),
            chunks,
            free_items,
            hand: 0,
            last_cas: 0,
            flushed: 0,
            flush_at: None,
            seed,
            totals,
        }
    }

    /// The item under `key`, to be read.
    pub fn get(&mut self, key: &[u8], now: Instant) -> Option<Reader> {
        self.settle(now);
        let found = self.find(key, now);
        self.totals.get.count(found.is_some());
        let index = found?;
        let number = u32::try_from(index).ok()?;
        let rest = self.value(number);
        let item = self.items.get_mut(index)?;
        item.recent = true;
        item.pins += 1;
        Some(Reader {
            item: number,
            rest,
            flags: item.tags.flags,
            len: item.value_len,
            cas: item.cas,
        })
    }

    /// Fills as much of `buffer` as the rest of the value does, and returns how much that is.
    pub fn read(&mut self, reader: &mut Reader, buffer: &mut [u8]) -> usize {
        self.take(&mut reader.rest, buffer)
    }

    fn take(&mut self, rest: &mut Rest, buffer: &mut [u8]) -> usize {
        let len = buffer.len().min(rest.len as usize);
        let buffer = buffer.get_mut(..len).unwrap_or_default();
        self.chunks.read(&mut rest.place, buffer);
        // At most the rest's length, which is a u32.
        rest.len -= u32::try_from(len).unwrap_or(0);
        len
    }

    /// Ends the reading of an item.
    pub fn release(&mut self, reader: Reader) {
        let index = reader.item as usize;
        if let Some(item) = self.items.get_mut(index) {
            item.pins -= 1;
            if item.pins == 0 && item.state == State::Orphan {
                self.free(index);
            }
        }
    }

    /// Forgets what is under `key`, and returns whether there was something.
    pub fn delete(&mut self, key: &[u8], now: Instant) -> bool {
        self.settle(now);
        let found = self.find(key, now);
        self.totals.delete.count(found.is_some());
        if let Some(index) = found {
            self.remove(index);
        }
        found.is_some()
    }

    /// Changes when `key` is forgotten, and returns whether it was there.
    pub fn touch(&mut self, key: &[u8], expiry: Expiry, now: Instant) -> bool {
        self.settle(now);
        let found = self.find(key, now);
        self.totals.touch.count(found.is_some());
        if let Some(item) = found.and_then(|index| self.items.get_mut(index)) {
            item.tags.expiry = expiry;
            item.recent = true;
        }
        found.is_some()
    }

    /// Forgets all that is there at the time `at`; a later call takes the place of an earlier one.
    pub fn flush(&mut self, at: Instant, now: Instant) {
        self.settle(now);
        self.totals.flushes += 1;
        self.flush_at = Some(at);
        self.settle(now);
    }

    /// Counters.
    #[must_use]
    pub const fn totals(&self) -> Totals {
        Totals {
            bytes: self.chunks.used(),
            ..self.totals
        }
    }

    /// Starts the counters of requests anew.
    pub const fn reset_totals(&mut self) {
        self.totals = Totals {
            items: self.totals.items,
            limit: self.totals.limit,
            ..Totals::NONE
        };
    }

    /// Flushes, if the time for it has come: everything that is there now was there then.
    fn settle(&mut self, now: Instant) {
        if self.flush_at.is_some_and(|at| at <= now) {
            self.flush_at = None;
            self.flushed = self.last_cas;
        }
    }

    fn is_live(&self, index: usize, now: Instant) -> bool {
        self.items.get(index).is_some_and(|item| {
            item.state == State::Linked
                && item.cas > self.flushed
                && !item.tags.expiry.has_come(now)
        })
    }

    fn cas(&self, index: usize) -> u64 {
        self.items.get(index).map_or(0, |item| item.cas)
    }
}
