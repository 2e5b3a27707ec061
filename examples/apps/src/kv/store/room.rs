//! Where new items get their room from.

use core::fmt;

use parakernel_core::time::Instant;

use super::{Chunks, Draft, Item, KEY_MAX, NONE, Rest, State, Store, Tags, chain::Chain};

/// Why there is no room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Full {
    /// The item is larger than the whole store.
    TooLarge,
    /// All that could be forgotten is being read or written.
    Busy,
}

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLarge => "object too large for cache",
            Self::Busy => "out of memory storing object",
        })
    }
}

impl core::error::Error for Full {}

impl Store<'_> {
    /// An item for `key` and a value of `len` bytes, to be written; other items may be forgotten for it.
    ///
    /// A key longer than [`KEY_MAX`] bytes is cut.
    ///
    /// # Errors
    ///
    /// Why there is no room.
    pub fn reserve(
        &mut self,
        key: &[u8],
        len: u32,
        tags: Tags,
        now: Instant,
    ) -> Result<Draft, Full> {
        self.settle(now);
        let key = key.get(..KEY_MAX).unwrap_or(key);
        let (item, chain) = self.allocate(key.len() + len as usize, now)?;
        let mut place = Chunks::place(chain, 0);
        self.chunks.write(&mut place, key);
        let hash = self.hash(key);
        if let Some(record) = self.items.get_mut(item as usize) {
            *record = Item {
                state: State::Draft,
                // Cut to KEY_MAX above.
                key_len: u8::try_from(key.len()).unwrap_or(u8::MAX),
                hash,
                chain,
                value_len: len,
                tags,
                ..Item::EMPTY
            };
        }
        Ok(Draft {
            item,
            written: 0,
            place,
        })
    }

    /// A free record and a chain for `len` bytes.
    fn allocate(&mut self, len: usize, now: Instant) -> Result<(u32, Chain), Full> {
        // An empty key with an empty value takes a chunk too.
        let len = len.max(1);
        if Chunks::needed(len) > self.chunks.count() {
            return Err(Full::TooLarge);
        }
        while self.free_items == NONE || self.chunks.free() < Chunks::needed(len) {
            if !self.evict(now) {
                return Err(Full::Busy);
            }
        }
        let item = self.free_items;
        let record = self.items.get(item as usize).ok_or(Full::Busy)?;
        let next = record.next;
        let chain = self.chunks.take(len).ok_or(Full::Busy)?;
        self.free_items = next;
        Ok((item, chain))
    }

    /// Forgets one item; returns whether there was one to forget.
    fn evict(&mut self, now: Instant) -> bool {
        // The first time round the hand may find but items that were asked for.
        for _ in 0..2 * self.items.len() {
            let index = self.hand;
            self.hand = (self.hand + 1) % self.items.len();
            let live = self.is_live(index, now);
            let Some(item) = self.items.get_mut(index) else {
                continue;
            };
            if item.state != State::Linked || item.pins > 0 {
                continue;
            }
            if live && core::mem::take(&mut item.recent) {
                continue;
            }
            self.totals.evicted += u64::from(live);
            self.remove(index);
            return true;
        }
        false
    }

    /// Frees a record that is under no key, and its chunks.
    pub(super) fn free(&mut self, index: usize) {
        if let Some(item) = self.items.get_mut(index)
            && let Ok(number) = u32::try_from(index)
        {
            let chain = item.chain;
            *item = Item {
                next: self.free_items,
                ..Item::EMPTY
            };
            self.free_items = number;
            self.chunks.give(chain);
        }
    }

    /// The value of an item, from its first byte on.
    pub(super) fn value(&self, index: u32) -> Rest {
        let item = self.items.get(index as usize).unwrap_or(&Item::EMPTY);
        Rest {
            place: Chunks::place(item.chain, item.key_len.into()),
            len: item.value_len,
        }
    }
}
