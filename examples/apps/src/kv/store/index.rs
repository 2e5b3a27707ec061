//! From a key to its item.

use parakernel_core::time::Instant;

use super::{Item, NONE, State, Store};
use crate::pattern::mix;

/// Heads of lists of items, by hash.
#[derive(Debug)]
pub(super) struct Index<'a>(&'a mut [u32]);

impl<'a> Index<'a> {
    pub(super) fn new(buckets: &'a mut [u32]) -> Self {
        buckets.fill(NONE);
        Self(buckets)
    }

    /// The head of the list that `hash` belongs to.
    fn head(&mut self, hash: u32) -> Option<&mut u32> {
        let count = self.0.len() as u64;
        // The upper half of the product is below the count.
        let bucket = (u64::from(hash) * count) >> 32;
        self.0.get_mut(usize::try_from(bucket).ok()?)
    }
}

impl Store<'_> {
    /// A hash that clients who do not know the seed cannot steer.
    pub(super) fn hash(&self, key: &[u8]) -> u32 {
        let words = key.chunks(8).map(|chunk| {
            chunk
                .iter()
                .fold(1, |word, byte| word << 8 | u64::from(*byte))
        });
        let hash = words.fold(self.seed, |hash, word| mix(hash ^ word).wrapping_add(hash));
        let [a, b, c, d, ..] = mix(hash).to_le_bytes();
        u32::from_le_bytes([a, b, c, d])
    }

    /// The item under `key`; one whose time has come is removed.
    pub(super) fn find(&mut self, key: &[u8], now: Instant) -> Option<usize> {
        let hash = self.hash(key);
        let mut next = *self.index.head(hash)?;
        while let Some(item) = self.items.get(next as usize) {
            let index = next as usize;
            if item.hash == hash && self.key(item) == key {
                if self.is_live(index, now) {
                    return Some(index);
                }
                self.remove(index);
                return None;
            }
            next = item.next;
        }
        None
    }

    pub(super) fn key(&self, item: &Item) -> &[u8] {
        self.chunks.start(item.chain, item.key_len.into())
    }

    /// Puts an item under its key, where no other is.
    pub(super) fn link(&mut self, index: usize) {
        self.last_cas += 1;
        self.totals.items += 1;
        self.totals.stored += 1;
        if let Some(item) = self.items.get_mut(index)
            && let Some(head) = self.index.head(item.hash)
            && let Ok(number) = u32::try_from(index)
        {
            item.state = State::Linked;
            item.recent = true;
            item.cas = self.last_cas;
            item.next = core::mem::replace(head, number);
        }
    }

    /// Takes an item from under its key, and frees it, now or when its last reader is done.
    pub(super) fn remove(&mut self, index: usize) {
        self.unlink(index);
        self.totals.items -= 1;
        if let Some(item) = self.items.get_mut(index) {
            item.state = State::Orphan;
            if item.pins == 0 {
                self.free(index);
            }
        }
    }

    fn unlink(&mut self, index: usize) {
        let Some(item) = self.items.get(index) else {
            return;
        };
        let (hash, after) = (item.hash, item.next);
        let Some(head) = self.index.head(hash) else {
            return;
        };
        if *head as usize == index {
            *head = after;
            return;
        }
        let mut before = *head;
        while let Some(item) = self.items.get_mut(before as usize) {
            if item.next as usize == index {
                item.next = after;
                return;
            }
            before = item.next;
        }
    }
}
