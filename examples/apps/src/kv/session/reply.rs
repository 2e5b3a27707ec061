//! The part of an answer that is waiting for room.

use crate::kv::{
    decimal::Decimal,
    store::{KEY_MAX, Reader},
};

/// The longest reply: the line before a value, with a key and three numbers.
const ROOM: usize = b"VALUE     \r\n".len() + KEY_MAX + 3 * Decimal::MAX_LEN;

/// Bytes that were not put out yet.
#[derive(Debug)]
pub(super) struct Reply {
    bytes: [u8; ROOM],
    start: usize,
    end: usize,
}

impl Reply {
    pub(super) const fn new() -> Self {
        Self {
            bytes: [0; ROOM],
            start: 0,
            end: 0,
        }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Appends `bytes`; all that a step replies has room.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        let end = self.end + bytes.len();
        if let Some(place) = self.bytes.get_mut(self.end..end) {
            place.copy_from_slice(bytes);
            self.end = end;
        }
    }

    pub(super) fn push_number(&mut self, number: u64) {
        self.push(Decimal::new(number).as_bytes());
    }

    /// The line before a value.
    pub(super) fn value(&mut self, key: &[u8], reader: &Reader, with_cas: bool) {
        self.push(b"VALUE ");
        self.push(key);
        self.push(b" ");
        self.push_number(reader.flags.into());
        self.push(b" ");
        self.push_number(reader.len.into());
        if with_cas {
            self.push(b" ");
            self.push_number(reader.cas);
        }
        self.push(b"\r\n");
    }

    /// Moves as much as fits to the front of `output`, and returns the rest of that.
    pub(super) fn drain<'o>(&mut self, output: &'o mut [u8]) -> &'o mut [u8] {
        let waiting = self.bytes.get(self.start..self.end).unwrap_or_default();
        let len = waiting.len().min(output.len());
        let (place, rest) = output.split_at_mut(len);
        place.copy_from_slice(waiting.get(..len).unwrap_or_default());
        self.start += len;
        if self.is_empty() {
            (self.start, self.end) = (0, 0);
        }
        rest
    }
}
