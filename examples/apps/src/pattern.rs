//! What a block on disk looks like, so that anyone who reads it can tell who wrote it.
//!
//! A block begins with a 64-byte header, all numbers little-endian:
//!
//! | bytes | holds |
//! |---|---|
//! | 0..8 | the magic `PKBLOCK1` |
//! | 8..16 | owner: the identity of the volume's owner |
//! | 16..24 | LBA, counted in the namespace, not in the volume |
//! | 24..32 | generation: how often the owner has written this block, from 1 |
//! | 32..36 | namespace |
//! | 36..40 | block length in bytes |
//! | 40..56 | zero |
//! | 56..64 | checksum of bytes 0..56 |
//!
//! The rest is a stream of 64-bit numbers that follows from the checksum, so a block with a byte of another block,
//! another generation or another owner in it does not verify.

/// Bytes of the header.
pub const HEADER_LEN: usize = 64;

const MAGIC: u64 = u64::from_le_bytes(*b"PKBLOCK1");

/// The step of the `SplitMix64` generator: 2⁶⁴ divided by the golden ratio, made odd.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// Who wrote a block, where, and for the how-many-th time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Identity of the volume's owner; 0 is the host, which fills a disk before the boot.
    pub owner: u64,
    /// NVMe namespace, from 1.
    pub namespace: u32,
    /// Address in the namespace, in blocks.
    pub lba: u64,
    /// How often the owner has written this block, from 1.
    pub generation: u64,
}

/// Why a block is not what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BadBlock {
    /// Shorter than a header, or the length in the header is not the block's.
    Length,
    /// No magic: nobody stamped this block.
    Unstamped,
    /// The header's checksum does not fit the header.
    Header,
    /// The byte at `offset` does not follow from the header.
    Fill {
        /// First wrong eight bytes, counted from the block's start.
        offset: usize,
    },
}

impl core::fmt::Display for BadBlock {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Length => f.write_str("the length is not the block's"),
            Self::Unstamped => f.write_str("no stamp"),
            Self::Header => f.write_str("the header's checksum is wrong"),
            Self::Fill { offset } => write!(f, "wrong content at byte {offset}"),
        }
    }
}

impl core::error::Error for BadBlock {}

impl Stamp {
    /// Fills `block` with this stamp.
    ///
    /// # Errors
    ///
    /// [`BadBlock::Length`] if `block` is shorter than a header, no multiple of 8, or longer than 4 GiB.
    pub fn write(&self, block: &mut [u8]) -> Result<(), BadBlock> {
        let len = block_len(block)?;
        let header = self.header(len);
        let (head, fill) = block.split_at_mut(HEADER_LEN);
        for (bytes, word) in head.chunks_exact_mut(8).zip(header) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        for (bytes, word) in fill.chunks_exact_mut(8).zip(Stream(header[7])) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        Ok(())
    }

    /// Reads the stamp of `block` and checks every byte of it.
    ///
    /// Whether it is the stamp that was expected is the caller's comparison.
    ///
    /// # Errors
    ///
    /// What is wrong with the block.
    pub fn check(block: &[u8]) -> Result<Self, BadBlock> {
        let len = block_len(block)?;
        let (head, fill) = block.split_at(HEADER_LEN);
        let mut header = [0; HEADER_LEN / 8];
        for (word, bytes) in header.iter_mut().zip(words(head)) {
            *word = bytes;
        }
        if header[0] != MAGIC {
            return Err(BadBlock::Unstamped);
        }
        let (namespace, stamped_len) = halves(header[4]);
        if stamped_len != len {
            return Err(BadBlock::Length);
        }
        let stamp = Self {
            owner: header[1],
            namespace,
            lba: header[2],
            generation: header[3],
        };
        if stamp.header(len) != header {
            return Err(BadBlock::Header);
        }
        match words(fill)
            .zip(Stream(header[7]))
            .position(|(is, should)| is != should)
        {
            Some(index) => Err(BadBlock::Fill {
                offset: HEADER_LEN + index * 8,
            }),
            None => Ok(stamp),
        }
    }

    fn header(&self, len: u32) -> [u64; HEADER_LEN / 8] {
        let place = u64::from(self.namespace) | u64::from(len) << 32;
        let mut header = [MAGIC, self.owner, self.lba, self.generation, place, 0, 0, 0];
        header[7] = header[..7].iter().fold(GOLDEN, |sum, word| mix(sum ^ word));
        header
    }
}

fn block_len(block: &[u8]) -> Result<u32, BadBlock> {
    if block.len() < HEADER_LEN || !block.len().is_multiple_of(8) {
        return Err(BadBlock::Length);
    }
    u32::try_from(block.len()).map_err(|_| BadBlock::Length)
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u64> + '_ {
    bytes.chunks_exact(8).map(|chunk| {
        chunk
            .iter()
            .rev()
            .fold(0, |word, byte| word << 8 | u64::from(*byte))
    })
}

/// Low and high half of a word.
fn halves(word: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = word.to_le_bytes();
    (
        u32::from_le_bytes([a, b, c, d]),
        u32::from_le_bytes([e, f, g, h]),
    )
}

/// The finalizer of `SplitMix64`: every input bit reaches every output bit.
pub(crate) const fn mix(mut word: u64) -> u64 {
    word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ word >> 31
}

/// The numbers that fill a block.
struct Stream(u64);

impl Iterator for Stream {
    type Item = u64;

    #[inline]
    fn next(&mut self) -> Option<u64> {
        self.0 = self.0.wrapping_add(GOLDEN);
        Some(mix(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp {
        owner: 0x51,
        namespace: 2,
        lba: 8192,
        generation: 3,
    };

    #[test]
    fn what_was_written_checks() {
        for len in [64, 512, 4096] {
            let mut block = [0_u8; 4096];
            STAMP.write(&mut block[..len]).unwrap();
            assert_eq!(Stamp::check(&block[..len]), Ok(STAMP));
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let mut block = [0_u8; 512];
        STAMP.write(&mut block).unwrap();
        for bit in 0..block.len() * 8 {
            block[bit / 8] ^= 1 << (bit % 8);
            assert!(Stamp::check(&block).is_err(), "bit {bit}");
            block[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn a_block_of_another_place_does_not_fit() {
        let mut here = [0_u8; 512];
        let mut there = [0_u8; 512];
        STAMP.write(&mut here).unwrap();
        Stamp { lba: 8193, ..STAMP }.write(&mut there).unwrap();
        here[256..].copy_from_slice(&there[256..]);
        assert_eq!(Stamp::check(&here), Err(BadBlock::Fill { offset: 256 }));
    }

    #[test]
    fn unusable_lengths_are_refused() {
        assert_eq!(STAMP.write(&mut [0; 63]), Err(BadBlock::Length));
        assert_eq!(STAMP.write(&mut [0; 65]), Err(BadBlock::Length));
        assert_eq!(Stamp::check(&[0; 512]), Err(BadBlock::Unstamped));
    }
}
