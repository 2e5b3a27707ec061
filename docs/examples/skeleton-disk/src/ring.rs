//! Commands and answers, §2 and §3.

use core::sync::atomic::{AtomicU64, Ordering};

use parakernel_core::{memory::Shared, queue::Lba, ring::Position};

/// Bytes of a block.
pub const BLOCK: u64 = 512;
/// Most blocks of a command.
pub const MAX_BLOCKS: u8 = 8;

/// What a command asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    /// Blocks to memory.
    Read = 1,
    /// Memory to blocks.
    Write = 2,
    /// Answered writes to the medium.
    Flush = 3,
}

impl Opcode {
    /// The opcode with this number.
    #[must_use]
    pub const fn new(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Read),
            2 => Some(Self::Write),
            3 => Some(Self::Flush),
            _ => None,
        }
    }
}

/// A command as a value: nobody can change it any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Words(pub [u64; 4]);

impl Words {
    /// The bits of word 0 that have a meaning.
    const USED: u64 = 0x0000_00ff_ffff_00ff;

    /// A command with data at `address`: an `Iova` or a bus address, as its reader expects.
    #[must_use]
    pub fn new(opcode: Opcode, id: u16, lba: Lba, blocks: u8, address: u64) -> Self {
        let head = u64::from(opcode as u8) | u64::from(id) << 16 | u64::from(blocks) << 32;
        Self([head, lba.as_u64(), address, 0])
    }

    /// The same command with its data at `address`.
    #[must_use]
    pub const fn with_address(self, address: u64) -> Self {
        let [head, lba, _, rest] = self.0;
        Self([head, lba, address, rest])
    }

    /// The opcode's number.
    #[must_use]
    pub const fn opcode(self) -> u8 {
        self.0[0].to_le_bytes()[0]
    }

    /// The id.
    #[must_use]
    pub const fn id(self) -> u16 {
        let bytes = self.0[0].to_le_bytes();
        u16::from_le_bytes([bytes[2], bytes[3]])
    }

    /// Number of blocks.
    #[must_use]
    pub const fn blocks(self) -> u8 {
        self.0[0].to_le_bytes()[4]
    }

    /// The first block.
    #[must_use]
    pub const fn lba(self) -> Lba {
        Lba::new(self.0[1])
    }

    /// Where the data is.
    #[must_use]
    pub const fn address(self) -> u64 {
        self.0[2]
    }

    /// Whatever is set among the bits that have no meaning.
    #[must_use]
    pub const fn reserved(self) -> u64 {
        (self.0[0] & !Self::USED) | self.0[3]
    }
}

/// An entry of the command ring.
#[derive(Debug)]
#[repr(C, align(32))]
pub struct Command([AtomicU64; 4]);

const _: () = assert!(size_of::<Command>() == 32);

#[expect(unsafe_code, reason = "lets shared memory be viewed as commands")]
// SAFETY: four atomics without padding; every bit pattern is valid, nothing is dropped.
unsafe impl Shared for Command {}

impl Command {
    /// Writes the command; whoever reads it is told by a doorbell later.
    pub fn put(&self, words: Words) {
        for (word, value) in self.0.iter().zip(words.0) {
            word.store(value.to_le(), Ordering::Relaxed);
        }
    }

    /// Loads each word once.
    #[must_use]
    pub fn copy(&self) -> Words {
        Words(core::array::from_fn(|word| {
            u64::from_le(self.0[word].load(Ordering::Relaxed))
        }))
    }
}

/// What an answer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Id of the command.
    pub id: u16,
    /// Its status, 0 for success.
    pub status: u8,
}

/// An entry of the answer ring.
#[derive(Debug)]
#[repr(transparent)]
pub struct Answer(AtomicU64);

const _: () = assert!(size_of::<Answer>() == 8);

#[expect(unsafe_code, reason = "lets shared memory be viewed as answers")]
// SAFETY: one atomic; every bit pattern is valid, nothing is dropped.
unsafe impl Shared for Answer {}

impl Answer {
    /// The answer at `position`, or `None` where the entry holds an older one.
    ///
    /// A relaxed load: an acquire fence has to follow before the data is looked at.
    #[must_use]
    pub fn at(&self, position: Position) -> Option<Ended> {
        let bytes = u64::from_le(self.0.load(Ordering::Relaxed)).to_le_bytes();
        let [id0, id1, status, _, number @ ..] = bytes;
        (u32::from_le_bytes(number) == position.after().as_u32()).then(|| Ended {
            id: u16::from_le_bytes([id0, id1]),
            status,
        })
    }

    /// Forgets what an earlier queue left here.
    pub fn clear(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}
