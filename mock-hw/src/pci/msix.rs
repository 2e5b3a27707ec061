//! MSI-X: a table of messages, and the bits of those that wait (PCIe 4.0, 7.7.2).

use crate::bytes::{extract, merge};

/// One table entry: address, data, and the mask bit of its vector control.
#[derive(Clone, Copy, Debug)]
struct Entry {
    address: u64,
    /// Data in the low half, vector control in the high half.
    data_and_control: u64,
    pending: bool,
}

impl Entry {
    const INITIAL: Self = Self {
        address: 0,
        data_and_control: 1 << 32,
        pending: false,
    };

    const fn is_masked(&self) -> bool {
        self.data_and_control & (1 << 32) != 0
    }
}

/// Table and pending bits, in one BAR.
#[derive(Clone, Debug)]
pub(super) struct Msix {
    entries: Vec<Entry>,
    pub(super) bar: usize,
    pub(super) table: usize,
    pub(super) pending: usize,
    /// The two bits of message control that the driver sets.
    pub(super) enabled: bool,
    pub(super) function_masked: bool,
}

impl Msix {
    pub(super) fn new(count: u16, bar: usize, table: usize, pending: usize) -> Self {
        Self {
            entries: vec![Entry::INITIAL; usize::from(count)],
            bar,
            table,
            pending,
            enabled: false,
            function_masked: false,
        }
    }

    pub(super) fn reset(&mut self) {
        self.entries.fill(Entry::INITIAL);
        self.enabled = false;
        self.function_masked = false;
    }

    pub(super) fn read(&self, bar: usize, offset: usize, width: usize) -> Option<u64> {
        let (word, at) = self.place(bar, offset)?;
        let value = match word {
            Word::Address(index) => self.entries[index].address,
            Word::Data(index) => self.entries[index].data_and_control,
            Word::Pending(first) => (0..64).fold(0, |bits, n| {
                let pending = self
                    .entries
                    .get(first + n)
                    .is_some_and(|entry| entry.pending);
                bits | (u64::from(pending) << n)
            }),
        };
        Some(extract(value, at, width))
    }

    /// Whether the write was one to the table or the pending bits.
    pub(super) fn write(&mut self, bar: usize, offset: usize, width: usize, value: u64) -> bool {
        let Some((word, at)) = self.place(bar, offset) else {
            return false;
        };
        match word {
            Word::Address(index) => {
                let address = &mut self.entries[index].address;
                *address = merge(*address, at, width, value) & !3;
            }
            Word::Data(index) => {
                let word = &mut self.entries[index].data_and_control;
                *word = merge(*word, at, width, value) & 0x1_ffff_ffff;
            }
            Word::Pending(_) => {}
        }
        true
    }

    pub(super) const fn count(&self) -> u16 {
        // `new` got the number as 16 bits.
        #[expect(clippy::cast_possible_truncation, reason = "`new` got it as 16 bits")]
        {
            self.entries.len() as u16
        }
    }

    pub(super) const fn is_valid(&self, vector: u16) -> bool {
        (vector as usize) < self.entries.len()
    }

    /// Marks `vector` as waiting to be sent.
    pub(super) fn raise(&mut self, vector: u16) {
        if let Some(entry) = self.entries.get_mut(usize::from(vector)) {
            entry.pending = true;
        }
    }

    /// Takes the next message that waits and is not masked: vector, address, data.
    pub(super) fn take(&mut self) -> Option<(u16, u64, u32)> {
        if !self.enabled || self.function_masked {
            return None;
        }
        let index = self
            .entries
            .iter()
            .position(|entry| entry.pending && !entry.is_masked())?;
        let entry = &mut self.entries[index];
        entry.pending = false;
        let data = entry.data_and_control & 0xffff_ffff;
        Some((
            u16::try_from(index).ok()?,
            entry.address,
            u32::try_from(data).ok()?,
        ))
    }

    fn place(&self, bar: usize, offset: usize) -> Option<(Word, usize)> {
        if bar != self.bar || self.entries.is_empty() {
            return None;
        }
        let at = offset % 8;
        if let Some(inside) = offset.checked_sub(self.table)
            && inside / 16 < self.entries.len()
        {
            let index = inside / 16;
            let word = if inside % 16 < 8 {
                Word::Address(index)
            } else {
                Word::Data(index)
            };
            return Some((word, at));
        }
        let inside = offset.checked_sub(self.pending)?;
        (inside / 8 < self.entries.len().div_ceil(64))
            .then_some((Word::Pending(inside / 8 * 64), at))
    }
}

enum Word {
    Address(usize),
    Data(usize),
    Pending(usize),
}
