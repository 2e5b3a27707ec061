//! A device's end of a virtqueue, as virtio 1.3 §2.7 and §2.8 describe the memory; with no line of the driver's.

use parakernel_nic_virtio::virtqueue::{packed::Packed, split::Split};

use crate::memory::Pages;

/// Descriptor flags, §2.7.5 and §2.8.1.
pub(super) const NEXT: u16 = 1 << 0;
pub(super) const WRITE: u16 = 1 << 1;
pub(super) const INDIRECT: u16 = 1 << 2;
pub(super) const AVAIL: u16 = 1 << 7;
pub(super) const USED: u16 = 1 << 15;

/// Which of the two layouts a ring has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Layout {
    Split,
    Packed,
}

/// A descriptor as the device reads it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Posted {
    pub(super) address: u64,
    pub(super) len: u32,
    pub(super) flags: u16,
    /// Split: its place in the table. Packed: its buffer id.
    pub(super) id: u16,
}

impl Posted {
    /// The second word of a descriptor of `layout`, which a process wrote.
    pub(super) fn encode(self, layout: Layout) -> u64 {
        let (id, flags) = (u64::from(self.id), u64::from(self.flags));
        match layout {
            Layout::Split => u64::from(self.len) | flags << 32 | id << 48,
            Layout::Packed => u64::from(self.len) | id << 32 | flags << 48,
        }
    }

    /// The descriptor with these two words; for `Split`, `id` is what follows it.
    pub(super) fn decode(layout: Layout, address: u64, rest: u64) -> Self {
        let [.., a, b, c, d] = rest.to_le_bytes();
        let (first, second) = (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]));
        let (id, flags) = match layout {
            Layout::Split => (second, first),
            Layout::Packed => (first, second),
        };
        Self {
            address,
            len: u32::try_from(rest & 0xffff_ffff).expect("32 bits"),
            flags,
            id,
        }
    }
}

/// The device's end of a ring in `pages`, laid out as the driver's `in_block` expects it.
#[derive(Debug)]
pub(super) struct Wire<'p> {
    pages: &'p Pages,
    layout: Layout,
    entries: usize,
    /// Where the available and the used ring begin.
    available: usize,
    used: usize,
    /// How many buffers were used.
    count: u32,
    /// How many chains, or descriptors of a packed ring, were taken.
    taken: u32,
}

impl<'p> Wire<'p> {
    /// Bytes of a ring of `N` entries in either layout.
    pub(super) const fn bytes<const N: usize>() -> usize {
        if Split::<'_, N>::BYTES > Packed::<'_, N>::BYTES {
            Split::<'_, N>::BYTES
        } else {
            Packed::<'_, N>::BYTES
        }
    }

    pub(super) const fn new<const N: usize>(pages: &'p Pages, layout: Layout) -> Self {
        Self {
            pages,
            layout,
            entries: N,
            available: Split::<'_, N>::AVAILABLE,
            // The ring begins behind four bytes that keep its elements aligned.
            used: Split::<'_, N>::USED + 4,
            count: 0,
            taken: 0,
        }
    }

    /// What was made available as number `at`, or `None` where nothing was.
    pub(super) fn posted(&self, at: u32) -> Option<Posted> {
        let slot = at as usize % self.entries;
        match self.layout {
            Layout::Split => {
                let index = self.pages.load16(self.available + 2);
                let ahead = index.wrapping_sub(low16(at));
                if ahead == 0 || usize::from(ahead) > self.entries {
                    return None;
                }
                let head = self.pages.load16(self.available + 4 + 2 * slot);
                assert!(usize::from(head) < self.entries, "a head outside the table");
                let id = head;
                Some(Posted {
                    id,
                    ..self.descriptor(head.into())
                })
            }
            Layout::Packed => {
                let posted = self.descriptor(slot);
                let round = (at as usize / self.entries).is_multiple_of(2);
                let is_available =
                    (posted.flags & AVAIL != 0) == round && (posted.flags & USED != 0) != round;
                let flags = posted.flags & !(AVAIL | USED);
                is_available.then_some(Posted { flags, ..posted })
            }
        }
    }

    /// Takes the next chain that was made available: its first descriptor with the chain's id, and by how much more than
    /// one place the used ring moves on when the chain is used.
    pub(super) fn next(&mut self) -> Option<(Posted, u32)> {
        let posted = self.posted(self.taken)?;
        self.taken += 1;
        let first = self.taken;
        if self.layout == Layout::Packed {
            let mut last = posted;
            while last.flags & NEXT != 0 && self.taken < self.count + 2 * small(self.entries) {
                last = self.descriptor(self.taken as usize % self.entries);
                self.taken += 1;
            }
            // The id of a chain is in its last descriptor (§2.8.6).
            let chain = Posted {
                id: last.id,
                ..posted
            };
            return Some((chain, self.taken - first));
        }
        Some((posted, 0))
    }

    /// Moves on in the used ring.
    pub(super) fn skip(&mut self, places: u32) {
        self.count += places;
    }

    /// Makes the used ring say that `ahead` more buffers were used.
    pub(super) fn jump(&mut self, ahead: u32) {
        self.count += ahead;
        if self.layout == Layout::Split {
            self.pages.store16(self.used + 2, low16(self.count));
        }
    }

    /// Entry `index` of the descriptor table, or of the packed ring.
    fn descriptor(&self, index: usize) -> Posted {
        let (address, rest) = (self.pages.load(2 * index), self.pages.load(2 * index + 1));
        Posted::decode(self.layout, address, rest)
    }

    /// Says that buffer `id` was used, `len` bytes of it written.
    pub(super) fn complete(&mut self, id: u32, len: u32) {
        let slot = self.count as usize % self.entries;
        let len = u64::from(len);
        match self.layout {
            Layout::Split => {
                let element = u64::from(id) | len << 32;
                self.pages.store((self.used + 4) / 8 + slot, element);
                self.count += 1;
                self.pages.store16(self.used + 2, low16(self.count));
            }
            Layout::Packed => {
                let round = (self.count as usize / self.entries).is_multiple_of(2);
                let flags = if round {
                    u64::from(AVAIL | USED) << 48
                } else {
                    0
                };
                self.pages
                    .store(2 * slot + 1, len | u64::from(id & 0xffff) << 32 | flags);
                self.count += 1;
            }
        }
    }
}

/// The second word of the completion of buffer `id` that is the one at `at` of a packed ring of `entries`; a packed
/// ring's length of a buffer that was only read is reserved.
pub(super) fn used_word(at: u32, id: u16, entries: usize) -> u64 {
    let round = (at as usize / entries).is_multiple_of(2);
    let flags = if round {
        u64::from(AVAIL | USED) << 48
    } else {
        0
    };
    u64::from(id) << 32 | flags
}

fn small(number: usize) -> u32 {
    number.try_into().expect("a small ring")
}

pub(super) fn low16(at: u32) -> u16 {
    u16::try_from(at & 0xffff).expect("16 bits")
}

/// A doorbell that nobody listens to: the rings are looked at.
#[derive(Debug)]
pub(super) struct Silent;

impl parakernel_core::queue::Doorbell for Silent {
    fn ring(&mut self, _tail: parakernel_core::ring::Position) {}

    fn accepted(&self, rung: parakernel_core::ring::Position) -> parakernel_core::ring::Position {
        rung
    }
}
