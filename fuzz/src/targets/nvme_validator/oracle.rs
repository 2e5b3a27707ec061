//! What a process may tell an NVMe controller: a second statement, in the words of the NVM command set (NVMe 1.4 §4.2,
//! §4.3, §6.8, §6.9, §6.15, §6.16) and of ARCHITECTURE sections 4 and 5, slow and obvious.

use core::ops::Range;

use parakernel_core::address::Direction;

use crate::{
    input::Input,
    regions::{PAGE, Piece, Regions},
};

/// What one queue is confined to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Contract {
    pub(super) namespace: u32,
    pub(super) start: u64,
    pub(super) blocks: u64,
    pub(super) block_shift: u8,
    /// The most bytes of a transfer.
    pub(super) most: u64,
}

/// Bits of a word, as the specification's figures number them from dword 2n on.
pub(super) fn bits(word: u64, range: Range<u32>) -> u64 {
    (range.start..range.end)
        .filter(|bit| word >> bit & 1 == 1)
        .map(|bit| 1 << (bit - range.start))
        .sum()
}

/// What a command does, of those that processes may give.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Flush,
    Write,
    Read,
    WriteZeroes,
}

fn kind(words: &[u64; 8]) -> Option<Kind> {
    match bits(words[0], 0..8) {
        0x00 => Some(Kind::Flush),
        0x01 => Some(Kind::Write),
        0x02 => Some(Kind::Read),
        0x08 => Some(Kind::WriteZeroes),
        _ => None,
    }
}

/// The direction in which a command's data goes.
const fn direction(kind: Kind) -> Option<Direction> {
    match kind {
        Kind::Write => Some(Direction::ToDevice),
        Kind::Read => Some(Direction::FromDevice),
        Kind::Flush | Kind::WriteZeroes => None,
    }
}

/// NLB is zero-based (§6.9, figure "Command Dword 12").
fn block_count(words: &[u64; 8]) -> u64 {
    bits(words[6], 0..16) + 1
}

impl Contract {
    fn bytes(&self, words: &[u64; 8]) -> u64 {
        block_count(words) * (1 << self.block_shift)
    }

    /// Whether the controller may get this command, while `in_flight` are with it.
    pub(super) fn allows(
        &self,
        words: &[u64; 8],
        in_flight: &[u16],
        regions: &Regions<'_>,
    ) -> bool {
        let Some(kind) = kind(words) else {
            return false;
        };
        let id = bits(words[0], 16..32);
        // Ids are below the ring's length, and unique among commands in flight.
        id < super::ENTRIES as u64
            && in_flight.iter().all(|&busy| u64::from(busy) != id)
            && bits(words[0], 32..64) == u64::from(self.namespace)
            && self.has_only_allowed_bits(kind, words)
            && (kind == Kind::Flush || self.is_inside_volume(words) && self.is_short(words))
            && direction(kind).is_none_or(|direction| self.may_move(words, direction, regions))
    }

    /// Everything but opcode, id, namespace and the fields below is 0: fused operations, SGLs, metadata, protection
    /// information, hints.
    fn has_only_allowed_bits(&self, kind: Kind, words: &[u64; 8]) -> bool {
        let fuse_to_psdt = bits(words[0], 8..16);
        let beside_count_and_fua = [bits(words[6], 16..30), bits(words[6], 31..64)];
        let unused = [fuse_to_psdt, words[1], words[2], words[7]];
        let data = [words[3], words[4]];
        let place = [words[5], words[6]];
        unused
            .iter()
            .chain(&beside_count_and_fua)
            .all(|&word| word == 0)
            && match kind {
                Kind::Flush => data.iter().chain(&place).all(|&word| word == 0),
                Kind::WriteZeroes => data.iter().all(|&word| word == 0),
                Kind::Write | Kind::Read => true,
            }
    }

    /// One command may move, or fill with zeroes, at most so many bytes.
    fn is_short(&self, words: &[u64; 8]) -> bool {
        self.bytes(words) <= self.most
    }

    /// Each block is one of the volume's.
    fn is_inside_volume(&self, words: &[u64; 8]) -> bool {
        let (first, end) = (
            u128::from(self.start),
            u128::from(self.start) + u128::from(self.blocks),
        );
        let lba = u128::from(words[5]);
        (0..block_count(words)).all(|n| (first..end).contains(&(lba + u128::from(n))))
    }

    /// The data may be moved: all of it in one region, named by PRPs as a process names them.
    fn may_move(&self, words: &[u64; 8], direction: Direction, regions: &Regions<'_>) -> bool {
        let (address, second) = (words[3], words[4]);
        let bytes = self.bytes(words);
        // The lowest two bits of an address are reserved (§4.3).
        if address % 4 != 0 {
            return false;
        }
        let Some(pieces) = regions.pieces(address, bytes, direction) else {
            return false;
        };
        match pieces.len() {
            1 => second == 0,
            2 => second == (address / PAGE + 1) * PAGE,
            // The kernel puts the list in, where it has one.
            _ => second == 0 && regions.has_lists(address),
        }
    }

    /// What the controller got for a command that it may get.
    pub(super) fn check(&self, words: &[u64; 8], hardware: &[u64; 8], regions: &Regions<'_>) {
        for index in [0, 1, 2, 5, 6, 7] {
            assert_eq!(words[index], hardware[index], "word {index} was changed");
        }
        let Some(direction) = kind(words).and_then(direction) else {
            assert_eq!(
                (hardware[3], hardware[4]),
                (0, 0),
                "data where there is none"
            );
            return;
        };
        let bytes = self.bytes(words);
        let pieces = regions.pieces(words[3], bytes, direction).expect("allowed");
        let walked = walk(hardware, bytes, regions);
        assert_eq!(
            walked, pieces,
            "the controller moves other data than {words:x?} says"
        );
    }

    /// A range of blocks in the volume, often at its end, of a length that makes lists likely.
    pub(super) fn blocks(&self, input: &mut Input<'_>) -> (u64, u64) {
        let most = (self.most >> self.block_shift)
            .clamp(1, self.blocks)
            .min(65_536);
        let few = most.min(((4 * PAGE) >> self.block_shift).max(1));
        let many = most.min(((64 * PAGE) >> self.block_shift).max(1));
        let range = input.choose(&[few, few, few, 1, many, most]);
        let blocks = 1 + input.below(range);
        let lba = match input.byte() & 3 {
            0 => self.start + (self.blocks - blocks),
            1 => self.start,
            _ => self.start + input.below((self.blocks - blocks + 1).min(65_536)),
        };
        (lba, blocks)
    }

    /// Makes something of a command wrong, or nearly so.
    pub(super) fn spoil(&self, input: &mut Input<'_>, words: &mut [u64; 8]) {
        let bit = |input: &mut Input<'_>| 1 << input.below(64);
        match input.byte() % 13 {
            0 => words[usize::from(input.byte()) % 8] ^= bit(input),
            1 => words[0] = words[0] & !0xff | u64::from(input.byte()),
            2 => words[0] ^= input.choose(&[1 << 32, 2 << 32, 0xff << 56]),
            3 => words[0] = words[0] & !(0xffff << 16) | input.below(10) << 16,
            4 => words[5] = words[5].wrapping_add(1),
            5 => words[5] = words[5].wrapping_sub(1 + u64::from(input.byte())),
            6 => words[6] = words[6].wrapping_add(1),
            7 => words[6] |= 0xffff,
            8 => words[3] = words[3].wrapping_add(input.choose(&[4, 512, PAGE, 2, 1])),
            9 => words[3] = input.choose(&[0, !4095, !3, 0xfee0_0000]),
            10 => {
                words[4] = input.choose(&[
                    words[3],
                    words[3] & !(PAGE - 1),
                    words[4].wrapping_add(PAGE),
                    8,
                ]);
            }
            11 => words[3] = words[3].wrapping_sub(4 * (1 + input.below(PAGE / 4))),
            _ => words[5] = input.word(),
        }
    }

    /// The shapes that a command has; none where it is no command.
    pub(super) fn shapes(&self, words: &[u64; 8]) -> Vec<&'static str> {
        let mut shapes = vec!["any command"];
        match kind(words) {
            None => {}
            Some(Kind::Flush) => shapes.push("flush"),
            Some(Kind::WriteZeroes) => shapes.push("write zeroes"),
            Some(Kind::Write | Kind::Read) => {
                let pages = (words[3] % PAGE + self.bytes(words)).div_ceil(PAGE);
                shapes.push(match pages {
                    1 => "data on one page",
                    2 => "data on two pages",
                    3..=17 => "PRP list of 2 to 16 pages",
                    _ => "PRP list of more than 16 pages",
                });
                if bits(words[6], 30..31) == 1 {
                    shapes.push("forced unit access");
                }
            }
        }
        shapes
    }
}

/// The pieces of memory that a controller moves `bytes` bytes to or from, as §4.3 says.
fn walk(hardware: &[u64; 8], bytes: u64, regions: &Regions<'_>) -> Vec<Piece> {
    let (first, second) = (hardware[3], hardware[4]);
    let len = bytes.min(PAGE - first % PAGE);
    let mut pieces = vec![Piece { bus: first, len }];
    let mut left = bytes - len;
    if left == 0 {
        assert_eq!(second, 0, "PRP 2 is reserved here");
    } else if left <= PAGE {
        assert_eq!(second % PAGE, 0, "PRP 2 is not at a page");
        pieces.push(Piece {
            bus: second,
            len: left,
        });
    } else {
        let mut entry = second;
        while left > 0 {
            // The last entry of a page of the list would be a pointer to the next one.
            let is_pointer = entry % PAGE == PAGE - 8 && left > PAGE;
            assert!(!is_pointer, "the list crosses a page");
            let bus = regions
                .list_entry(entry)
                .expect("a list outside the kernel's tables");
            assert_eq!(bus % PAGE, 0, "a list entry is not at a page");
            let len = left.min(PAGE);
            pieces.push(Piece { bus, len });
            left -= len;
            entry += 8;
        }
    }
    pieces
}
