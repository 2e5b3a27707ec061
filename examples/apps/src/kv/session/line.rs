//! The line that a client is sending.

/// The longest line that is no `get`; each of the latter's keys is shorter.
const ROOM: usize = 1024;

/// The part of a line that has come and is not done with.
#[derive(Debug)]
pub(super) struct Line {
    bytes: [u8; ROOM],
    len: usize,
}

/// Some of a line's bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) start: usize,
    pub(super) end: usize,
    /// Whether the line ends with them.
    pub(super) last: bool,
}

/// How far a line has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Extent {
    /// To its end, which is not among its bytes.
    Whole,
    /// As far as the input went.
    Part,
    /// As far as there is room.
    Full,
}

impl Line {
    pub(super) const fn new() -> Self {
        Self {
            bytes: [0; ROOM],
            len: 0,
        }
    }

    /// What has come of the line.
    pub(super) fn text(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    pub(super) fn part(&self, span: Span) -> &[u8] {
        self.bytes.get(span.start..span.end).unwrap_or_default()
    }

    /// All that has come of a line that is whole, from `start` on.
    pub(super) const fn whole(&self, start: usize) -> Span {
        Span {
            start,
            end: self.len,
            last: true,
        }
    }

    /// The words from `start` on of which the end has come; `None` where there is none.
    pub(super) fn words(&self, start: usize) -> Option<Span> {
        let end = self.text().iter().rposition(|&byte| byte == b' ')?;
        // A space right at the start ends no word; taking it for one would never get on.
        (end > start).then_some(Span {
            start,
            end,
            last: false,
        })
    }

    /// Takes more of the line from `input`.
    pub(super) fn take(&mut self, input: &mut &[u8]) -> Extent {
        let room = self.bytes.get_mut(self.len..).unwrap_or_default();
        let window = input.get(..room.len()).unwrap_or(input);
        let end = window.iter().position(|&byte| byte == b'\n');
        let (bytes, rest) = window.split_at(end.unwrap_or(window.len()));
        for (place, byte) in room.iter_mut().zip(bytes) {
            *place = *byte;
        }
        self.len += bytes.len();
        // The line feed is done with too.
        let consumed = bytes.len() + usize::from(!rest.is_empty());
        *input = input.get(consumed..).unwrap_or_default();
        if end.is_some() {
            let returned = self.text().last() == Some(&b'\r');
            self.len -= usize::from(returned);
            Extent::Whole
        } else if self.len == ROOM {
            Extent::Full
        } else {
            Extent::Part
        }
    }

    /// Forgets the line's first `len` bytes.
    pub(super) fn forget(&mut self, len: usize) {
        let len = len.min(self.len);
        self.bytes.copy_within(len..self.len, 0);
        self.len -= len;
    }

    pub(super) const fn clear(&mut self) {
        self.len = 0;
    }
}
