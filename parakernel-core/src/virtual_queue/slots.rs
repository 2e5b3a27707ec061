//! Frames in shared memory, copied word by word.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use super::VirtualLayout;
use crate::ring::Slot;

/// The slots of one direction.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slots<'a> {
    pub(super) lengths: &'a [AtomicU32],
    pub(super) words: &'a [AtomicU64],
    pub(super) words_per_slot: usize,
}

impl<'a> Slots<'a> {
    /// The longest frame, in bytes.
    pub(super) const fn capacity(&self) -> usize {
        self.words_per_slot * 8
    }

    /// The length of the frame in a slot, as its writer says; `None` where that is longer than the slot.
    pub(super) fn len(&self, slot: Slot) -> Result<usize, u32> {
        let len = self
            .lengths
            .get(slot.index())
            .map_or(u32::MAX, |len| len.load(Relaxed));
        let fits = usize::try_from(len).is_ok_and(|len| len <= self.capacity());
        if fits { Ok(len as usize) } else { Err(len) }
    }

    /// Writes a frame into a slot.
    pub(super) fn writer(&self, slot: Slot) -> Writer<'a> {
        Writer {
            words: self.of(slot),
            partial: 0,
            filled: 0,
        }
    }

    /// Says how long the frame in a slot is.
    pub(super) fn set_len(&self, slot: Slot, len: usize) {
        if let Some(place) = self.lengths.get(slot.index()) {
            place.store(u32::try_from(len).unwrap_or(u32::MAX), Relaxed);
        }
    }

    /// Reads the frame in a slot.
    pub(super) fn reader(&self, slot: Slot) -> Reader<'a> {
        Reader {
            words: self.of(slot),
            partial: 0,
            left: 0,
        }
    }

    fn of(&self, slot: Slot) -> &'a [AtomicU64] {
        let first = VirtualLayout::first_word(slot, self.words_per_slot);
        self.words
            .get(first..first + self.words_per_slot)
            .unwrap_or_default()
    }
}

/// Appends pieces of a frame to a slot; what is beyond its end is dropped.
#[derive(Debug)]
pub(super) struct Writer<'a> {
    words: &'a [AtomicU64],
    /// A word that is not full yet, and how many of its bytes are.
    partial: u64,
    filled: u32,
}

impl Writer<'_> {
    pub(super) fn write(&mut self, bytes: &[u8]) {
        let missing = (8 - self.filled as usize) % 8;
        let (first, rest) = bytes.split_at(missing.min(bytes.len()));
        for byte in first {
            self.push(*byte);
        }
        let (chunks, rest) = rest.as_chunks::<8>();
        for chunk in chunks {
            self.store(u64::from_le_bytes(*chunk));
        }
        for byte in rest {
            self.push(*byte);
        }
    }

    /// Writes the word that is not full.
    pub(super) fn finish(mut self) {
        if self.filled != 0 {
            self.store(self.partial);
        }
    }

    fn push(&mut self, byte: u8) {
        self.partial |= u64::from(byte) << (8 * self.filled);
        self.filled += 1;
        if self.filled == 8 {
            self.store(self.partial);
            (self.partial, self.filled) = (0, 0);
        }
    }

    fn store(&mut self, word: u64) {
        if let Some((place, rest)) = self.words.split_first() {
            place.store(word, Relaxed);
            self.words = rest;
        }
    }
}

/// Takes pieces of a frame from a slot; each word is read once. What is beyond its end reads as zeroes.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    words: &'a [AtomicU64],
    /// A word that is not used up yet, and how many bytes are left of it.
    partial: u64,
    left: u32,
}

impl Reader<'_> {
    pub(super) fn read(&mut self, bytes: &mut [u8]) {
        let (first, rest) = bytes.split_at_mut(bytes.len().min(self.left as usize));
        for byte in first {
            *byte = self.next_byte();
        }
        let (chunks, rest) = rest.as_chunks_mut::<8>();
        for chunk in chunks {
            *chunk = self.load().to_le_bytes();
        }
        for byte in rest {
            *byte = self.next_byte();
        }
    }

    fn next_byte(&mut self) -> u8 {
        if self.left == 0 {
            (self.partial, self.left) = (self.load(), 8);
        }
        let [byte, ..] = self.partial.to_le_bytes();
        self.partial >>= 8;
        self.left -= 1;
        byte
    }

    fn load(&mut self) -> u64 {
        let Some((place, rest)) = self.words.split_first() else {
            return 0;
        };
        self.words = rest;
        place.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// However a frame is cut on either side, it comes out as it went in.
        #[test]
        fn pieces_make_a_whole(
            frame in prop::collection::vec(any::<u8>(), 0..64),
            cuts_in in prop::collection::vec(1_usize..20, 8),
            cuts_out in prop::collection::vec(1_usize..20, 8),
        ) {
            let words: [AtomicU64; 8] = Default::default();
            let mut writer = Writer { words: &words, partial: 0, filled: 0 };
            let mut rest = &frame[..];
            for cut in cuts_in.into_iter().chain([64]) {
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                writer.write(piece);
                rest = after;
            }
            writer.finish();
            let mut reader = Reader { words: &words, partial: 0, left: 0 };
            let mut copy = vec![0xff; frame.len()];
            let mut rest = &mut copy[..];
            for cut in cuts_out.into_iter().chain([64]) {
                let (piece, after) = rest.split_at_mut(cut.min(rest.len()));
                reader.read(piece);
                rest = after;
            }
            prop_assert_eq!(copy, frame);
        }
    }
}
