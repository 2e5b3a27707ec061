//! What a process may send: a second statement (virtio 1.3 §2.7, §2.8, §5.1.6; ARCHITECTURE section 4; ATTACKS A1, A6,
//! A12, A27, A28, A51), slow and obvious.

use parakernel_core::{address::Direction, steering::SOURCE_HEADERS};

use super::{
    super::virtqueue::{AVAIL, INDIRECT, Layout, NEXT, Posted, USED, WRITE},
    TABLES, content,
};
use crate::{
    memory::Pages,
    regions::{Piece, Regions},
};

/// Bytes of the header before each frame.
pub(super) const HEADER: u32 = 12;
/// The most parts of a frame.
const MOST_PARTS: usize = 16;
/// An Ethernet header.
const SHORTEST: u32 = 14;

/// What frames are confined to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Contract {
    pub(super) max_frame: u32,
    pub(super) entries: usize,
}

/// The process's ring as the kernel finds it.
pub(super) struct Ring<'a> {
    pub(super) process: &'a Pages,
    pub(super) layout: Layout,
    /// Slots of frames that the device has.
    pub(super) busy: Vec<usize>,
    /// The position that no frame may reach, where tails count descriptors.
    pub(super) end: Option<u32>,
}

impl Ring<'_> {
    /// What the process wrote for descriptor `at`; marks of a packed ring mean nothing to the kernel.
    pub(super) fn entry(&self, contract: &Contract, at: u32) -> Posted {
        let slot = at as usize % contract.entries;
        let (address, rest) = (self.process.load(2 * slot), self.process.load(2 * slot + 1));
        let entry = Posted::decode(self.layout, address, rest);
        let marks = match self.layout {
            Layout::Split => 0,
            Layout::Packed => AVAIL | USED,
        };
        Posted {
            flags: entry.flags & !marks,
            ..entry
        }
    }
}

/// A frame that may be sent.
#[derive(Debug)]
pub(super) struct Frame {
    /// The slots of its descriptors, in order.
    pub(super) slots: Vec<usize>,
    /// Its bytes, behind the process's header.
    pub(super) pieces: Vec<Piece>,
    /// Whether it has several parts.
    pub(super) is_long: bool,
}

impl Contract {
    /// The frame that begins with descriptor `first`, if it may be sent.
    pub(super) fn frame(
        &self,
        ring: &Ring<'_>,
        first: u32,
        regions: &Regions<'_>,
    ) -> Option<Frame> {
        let (mut slots, mut pieces) = (Vec::new(), Vec::new());
        let mut at = first;
        loop {
            let entry = ring.entry(self, at);
            let slot = at as usize % self.entries;
            let goes_on = entry.flags & NEXT != 0;
            let is_taken = ring.busy.contains(&slot) || slots.contains(&slot);
            // Indirect tables, buffers to be written and unknown flags are refused.
            if entry.flags & !NEXT != 0 || is_taken {
                return None;
            }
            slots.push(slot);
            let header = if at == first { HEADER } else { 0 };
            let len = entry.len.checked_sub(header)?;
            // Nobody reads the process's header, so only the frame behind it must lie in a region.
            let address = entry.address.wrapping_add(header.into());
            let bus = regions.contiguous(address, len.into(), Direction::ToDevice)?;
            pieces.push(Piece {
                bus,
                len: len.into(),
            });
            at += 1;
            if !goes_on {
                break;
            }
            if slots.len() == MOST_PARTS || ring.end == Some(at) {
                return None;
            }
        }
        let bytes: u64 = pieces.iter().map(|piece| piece.len).sum();
        let is_frame = (u64::from(SHORTEST)..=u64::from(self.max_frame)).contains(&bytes);
        let is_long = slots.len() > 1;
        is_frame.then_some(Frame {
            slots,
            pieces,
            is_long,
        })
    }

    /// How many descriptors say that they belong together from `first` on.
    pub(super) fn count_parts(&self, ring: &Ring<'_>, first: u32) -> usize {
        let goes_on = |n: &u32| ring.entry(self, first + n).flags & NEXT != 0;
        1 + (0..32).take_while(goes_on).count()
    }
}

impl Frame {
    /// What the device was given is a header of zeroes, and then this frame; `looks` where its first bytes are a copy.
    pub(super) fn check(&self, tables: &Pages, layout: Layout, (posted, looks): (&Posted, bool)) {
        assert_eq!(posted.flags, INDIRECT, "not a table of the kernel's");
        let mut given = table(tables, layout, posted);
        let head = given.remove(0);
        let bytes: u64 = self.pieces.iter().map(|piece| piece.len).sum();
        let copied = if looks {
            bytes.min(SOURCE_HEADERS as u64)
        } else {
            0
        };
        assert_eq!(head.len, u64::from(HEADER) + copied);
        let own = TABLES..TABLES + 0x10_0000;
        assert!(
            own.contains(&head.bus),
            "a header outside the kernel's memory"
        );
        let byte = |at: u64| {
            let word = tables
                .at_bus((head.bus + at) & !7)
                .expect("inside the tables");
            word.to_le_bytes()[usize::try_from((head.bus + at) % 8).expect("below 8")]
        };
        assert!(
            (0..u64::from(HEADER)).all(|at| byte(at) == 0),
            "an offload was asked for"
        );
        let (first, rest) = self.split(copied);
        let wanted = first
            .iter()
            .flat_map(|piece| piece.bus..piece.bus + piece.len);
        for (at, address) in (u64::from(HEADER)..).zip(wanted) {
            assert_eq!(byte(at), content(address), "the copy differs");
        }
        assert_eq!(given, rest, "the device sends other bytes");
    }

    /// The first `len` bytes, and the others.
    fn split(&self, len: u64) -> (Vec<Piece>, Vec<Piece>) {
        let mut left = len;
        let (mut first, mut rest) = (Vec::new(), Vec::new());
        for piece in &self.pieces {
            let taken = piece.len.min(left);
            left -= taken;
            first.push(Piece {
                len: taken,
                ..*piece
            });
            rest.push(Piece {
                bus: piece.bus + taken,
                len: piece.len - taken,
            });
        }
        rest.retain(|piece| piece.len > 0);
        (first, rest)
    }
}

/// The buffers of an indirect table, none of which the device may write (§2.7.5.3, §2.8.8).
fn table(tables: &Pages, layout: Layout, posted: &Posted) -> Vec<Piece> {
    assert_eq!(posted.len % 16, 0, "half a descriptor");
    let count = u64::from(posted.len / 16);
    let mut index = 0;
    let mut pieces = Vec::new();
    for _ in 0..count {
        let at = posted.address + 16 * index;
        let word = |at| {
            tables
                .at_bus(at)
                .expect("a table outside the kernel's memory")
        };
        let entry = Posted::decode(layout, word(at), word(at + 8));
        assert_eq!(
            entry.flags & (WRITE | INDIRECT),
            0,
            "a buffer that the device writes"
        );
        pieces.push(Piece {
            bus: entry.address,
            len: entry.len.into(),
        });
        match layout {
            Layout::Split if entry.flags & NEXT == 0 => break,
            Layout::Split => index = entry.id.into(),
            Layout::Packed => index += 1,
        }
        assert!(index <= count, "an index outside the table");
    }
    pieces
}
