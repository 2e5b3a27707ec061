//! Bytes in chains of equal chunks.

use super::NONE;

/// Bytes that a chunk holds besides its link.
const ROOM: usize = 252;

/// A piece of an item's key and value; memory for a [`Store`](super::Store).
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub struct Chunk {
    next: u32,
    bytes: [u8; ROOM],
}

impl Chunk {
    /// An unused chunk, to fill memory with: zeroes, so that a `static` of many takes no room in a program's file.
    pub const EMPTY: Self = Self {
        next: 0,
        bytes: [0; ROOM],
    };
}

const _: () = assert!(size_of::<Chunk>() == 256);
const _: () = assert!(
    super::KEY_MAX < ROOM,
    "a key lies in its chain's first chunk"
);

/// A chain of chunks, by its first one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Chain(u32);

impl Chain {
    /// A chain of a record that is not in use.
    pub(super) const UNUSED: Self = Self(0);
}

/// A place in a chain: the next byte to read or write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place {
    chunk: u32,
    at: usize,
}

/// All chunks, and which are free.
#[derive(Debug)]
pub(super) struct Chunks<'a> {
    chunks: &'a mut [Chunk],
    first_free: u32,
    free: usize,
}

impl<'a> Chunks<'a> {
    pub(super) fn new(chunks: &'a mut [Chunk]) -> Self {
        let (mut first_free, mut free) = (NONE, 0);
        for (index, chunk) in (0..NONE).zip(chunks.iter_mut()) {
            chunk.next = first_free;
            first_free = index;
            free += 1;
        }
        Self {
            chunks,
            first_free,
            free,
        }
    }

    /// Chunks that `len` bytes take.
    pub(super) fn needed(len: usize) -> usize {
        len.div_ceil(ROOM)
    }

    pub(super) const fn free(&self) -> usize {
        self.free
    }

    pub(super) const fn count(&self) -> usize {
        self.chunks.len()
    }

    /// Bytes of all chunks.
    pub(super) const fn bytes(&self) -> u64 {
        size_of_val(self.chunks) as u64
    }

    /// Bytes of the chunks that are not free.
    pub(super) const fn used(&self) -> u64 {
        self.bytes() - self.free as u64 * size_of::<Chunk>() as u64
    }

    /// A chain for `len` bytes, 1 and up, whose contents are whatever was in it.
    pub(super) fn take(&mut self, len: usize) -> Option<Chain> {
        let needed = Self::needed(len);
        if needed == 0 || needed > self.free {
            return None;
        }
        let first = self.first_free;
        let mut last = first;
        for _ in 1..needed {
            last = self.chunk(last)?.next;
        }
        let last = self.chunk_mut(last)?;
        let rest = core::mem::replace(&mut last.next, NONE);
        self.first_free = rest;
        self.free -= needed;
        Some(Chain(first))
    }

    /// Takes a chain back.
    pub(super) fn give(&mut self, chain: Chain) {
        let (mut last, mut count) = (chain.0, 0);
        while let Some(chunk) = self.chunk(last) {
            count += 1;
            if chunk.next == NONE {
                break;
            }
            last = chunk.next;
        }
        let free = self.first_free;
        if let Some(chunk) = self.chunk_mut(last) {
            chunk.next = free;
            self.first_free = chain.0;
            self.free += count;
        }
    }

    /// The first `len` bytes of a chain, at most those of one chunk.
    pub(super) fn start(&self, chain: Chain, len: usize) -> &[u8] {
        let chunk = self.chunk(chain.0);
        let bytes = chunk.and_then(|chunk| chunk.bytes.get(..len));
        bytes.unwrap_or_default()
    }

    /// The place behind the first `offset` bytes of a chain, which lie in its first chunk.
    pub(super) const fn place(chain: Chain, offset: usize) -> Place {
        Place {
            chunk: chain.0,
            at: offset,
        }
    }

    /// Writes as many of `bytes` as there are before the chain's end.
    pub(super) fn write(&mut self, place: &mut Place, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let Some(run) = self.run(place, bytes.len()) else {
                return;
            };
            let (now, later) = bytes.split_at(run.len());
            run.copy_from_slice(now);
            place.at += now.len();
            bytes = later;
        }
    }

    /// Fills `buffer` with what comes next; it must not ask for more than the chain has.
    pub(super) fn read(&mut self, place: &mut Place, mut buffer: &mut [u8]) {
        while !buffer.is_empty() {
            let Some(run) = self.run(place, buffer.len()) else {
                return;
            };
            let (now, later) = buffer.split_at_mut(run.len());
            now.copy_from_slice(run);
            place.at += now.len();
            buffer = later;
        }
    }

    /// The next bytes at `place`, up to `len` and the end of their chunk.
    fn run(&mut self, place: &mut Place, len: usize) -> Option<&mut [u8]> {
        if place.at == ROOM {
            let next = self.chunk(place.chunk)?.next;
            *place = Place { chunk: next, at: 0 };
        }
        let end = ROOM.min(place.at.saturating_add(len));
        self.chunk_mut(place.chunk)?.bytes.get_mut(place.at..end)
    }

    fn chunk(&self, index: u32) -> Option<&Chunk> {
        self.chunks.get(index as usize)
    }

    fn chunk_mut(&mut self, index: u32) -> Option<&mut Chunk> {
        self.chunks.get_mut(index as usize)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_in_pieces_is_read_in_others(
            bytes in prop::collection::vec(any::<u8>(), 1..2000),
            offset in 0..250_usize,
            writes in 1..600_usize,
            reads in 1..600_usize,
        ) {
            let mut memory = [Chunk::EMPTY; 12];
            let mut chunks = Chunks::new(&mut memory);
            let other = chunks.take(300).unwrap();
            let chain = chunks.take(offset + bytes.len()).unwrap();
            let mut place = Chunks::place(chain, offset);
            bytes.chunks(writes).for_each(|piece| chunks.write(&mut place, piece));
            let mut read = vec![0; bytes.len()];
            let mut place = Chunks::place(chain, offset);
            read.chunks_mut(reads).for_each(|piece| chunks.read(&mut place, piece));
            prop_assert_eq!(read, bytes);
            chunks.give(chain);
            chunks.give(other);
            prop_assert_eq!(chunks.free(), 12);
            prop_assert!(chunks.take(12 * ROOM).is_some());
        }
    }

    #[test]
    fn more_than_there_is_cannot_be_taken() {
        let mut memory = [Chunk::EMPTY; 2];
        let mut chunks = Chunks::new(&mut memory);
        assert!(chunks.take(2 * ROOM + 1).is_none());
        assert!(chunks.take(0).is_none());
        assert!(chunks.take(ROOM).is_some());
        assert!(chunks.take(ROOM + 1).is_none());
        assert_eq!(chunks.used(), 256);
    }
}
