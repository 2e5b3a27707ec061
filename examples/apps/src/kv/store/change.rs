//! Values that are written, joined and counted.

use parakernel_core::time::Instant;

use super::{Counted, Draft, Full, Item, KEY_MAX, Mode, Rest, Store, Stored};
use crate::kv::decimal::{self, Decimal};

impl Store<'_> {
    /// Appends to a draft's value; what goes beyond its length is left out.
    pub fn write(&mut self, draft: &mut Draft, bytes: &[u8]) {
        let item = self.items.get(draft.item as usize);
        let left = item.map_or(0, |item| item.value_len - draft.written) as usize;
        let bytes = bytes.get(..left).unwrap_or(bytes);
        self.chunks.write(&mut draft.place, bytes);
        // At most `left`, which came from a u32.
        draft.written += u32::try_from(bytes.len()).unwrap_or(0);
    }

    /// Puts a draft under its key, if `mode` allows it.
    ///
    /// A value that was not written to its length is as long as what was written.
    pub fn commit(&mut self, draft: Draft, mode: Mode, now: Instant) -> Stored {
        self.settle(now);
        self.totals.writes += 1;
        if let Some(item) = self.items.get_mut(draft.item as usize) {
            item.value_len = draft.written;
        }
        self.put(draft, mode, now)
    }

    fn put(&mut self, draft: Draft, mode: Mode, now: Instant) -> Stored {
        let (key, len) = self.key_of(draft.item);
        let found = self.find(key.get(..len).unwrap_or_default(), now);
        match (mode, found) {
            (Mode::Append | Mode::Prepend, Some(old)) => self.join(old, draft, mode, now),
            (Mode::CompareAndSwap(cas), Some(old)) if self.cas(old) != cas => {
                self.discard(draft);
                Stored::Exists
            }
            (Mode::CompareAndSwap(_), None) => {
                self.discard(draft);
                Stored::NotFound
            }
            (Mode::Add, Some(_)) | (Mode::Replace | Mode::Append | Mode::Prepend, None) => {
                self.discard(draft);
                Stored::NotStored
            }
            (Mode::Set | Mode::Replace | Mode::CompareAndSwap(_), Some(old)) => {
                self.remove(old);
                self.link(draft.item as usize);
                Stored::Stored
            }
            (Mode::Set | Mode::Add, None) => {
                self.link(draft.item as usize);
                Stored::Stored
            }
        }
    }

    /// Gives a draft's memory back.
    pub fn discard(&mut self, draft: Draft) {
        self.free(draft.item as usize);
    }

    /// Replaces the decimal number under `key` by what `change` makes of it.
    pub fn count(&mut self, key: &[u8], change: impl Fn(u64) -> u64, now: Instant) -> Counted {
        self.settle(now);
        let Some((item, mut rest)) = self.find(key, now).and_then(|index| {
            let number = u32::try_from(index).ok()?;
            Some((self.items.get(index)?.clone(), self.value(number)))
        }) else {
            return Counted::NotFound;
        };
        let mut digits = [0; Decimal::MAX_LEN];
        let len = self.take(&mut rest, &mut digits);
        let digits = digits.get(..len).filter(|_| rest.len == 0);
        let Some(number) = digits.and_then(decimal::parse).map(change) else {
            return Counted::NotNumeric;
        };
        let digits = Decimal::new(number);
        let len = u32::try_from(digits.as_bytes().len()).unwrap_or(0);
        match self.reserve(key, len, item.tags, now) {
            Ok(mut draft) => {
                self.write(&mut draft, digits.as_bytes());
                let _always = self.put(draft, Mode::Set, now);
                Counted::Now(number)
            }
            Err(full) => Counted::Full(full),
        }
    }

    /// A copy of an item's key, and its length.
    fn key_of(&self, item: u32) -> ([u8; KEY_MAX], usize) {
        let mut copy = [0; KEY_MAX];
        let item = self.items.get(item as usize);
        let key = item.map_or(&[][..], |item| self.key(item));
        for (to, from) in copy.iter_mut().zip(key) {
            *to = *from;
        }
        (copy, key.len())
    }

    /// Puts the values of `old` and of a draft together, under their key.
    fn join(&mut self, old: usize, draft: Draft, mode: Mode, now: Instant) -> Stored {
        let (key, len) = self.key_of(draft.item);
        let key = key.get(..len).unwrap_or_default();
        // Found so it stays, whatever is forgotten to make room.
        let Some(reader) = self.get(key, now) else {
            self.discard(draft);
            return Stored::NotStored;
        };
        let added = self.value(draft.item);
        let tags = self
            .items
            .get(old)
            .map_or(Item::EMPTY.tags, |item| item.tags);
        let joined = match reader.len.checked_add(added.len) {
            Some(len) => self.reserve(key, len, tags, now),
            None => Err(Full::TooLarge),
        };
        let joined = joined.map(|mut joined| {
            let parts = if mode == Mode::Prepend {
                [added, reader.rest]
            } else {
                [reader.rest, added]
            };
            for part in parts {
                self.copy(part, &mut joined);
            }
            joined
        });
        self.release(reader);
        self.discard(draft);
        match joined {
            Ok(joined) => self.put(joined, Mode::Set, now),
            Err(full) => Stored::Full(full),
        }
    }

    fn copy(&mut self, mut from: Rest, to: &mut Draft) {
        let mut buffer = [0; 256];
        while from.len > 0 {
            let len = self.take(&mut from, &mut buffer);
            self.write(to, buffer.get(..len).unwrap_or_default());
        }
    }
}
