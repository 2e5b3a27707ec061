//! An input as a string of choices.

/// What is left of an input. Where it is used up, every choice is 0, which targets make the harmless one.
#[derive(Clone, Debug)]
pub(crate) struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next byte.
    pub(crate) fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((&first, rest)) => {
                self.0 = rest;
                first
            }
            None => 0,
        }
    }

    /// The next `N` bytes.
    pub(crate) fn bytes<const N: usize>(&mut self) -> [u8; N] {
        core::array::from_fn(|_| self.byte())
    }

    pub(crate) fn word(&mut self) -> u64 {
        u64::from_le_bytes(self.bytes())
    }

    /// A number below `end`, which is at most 65,536; from one byte where that is enough.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        let number = if end <= 256 {
            u64::from(self.byte())
        } else {
            u64::from(u16::from_le_bytes(self.bytes()))
        };
        number % end.max(1)
    }

    /// `true` for one byte in `times`, of 256 at most; never for 0.
    pub(crate) fn one_in(&mut self, times: u8) -> bool {
        self.byte() % times == times - 1
    }

    /// One of `choices`, the first where the input is used up.
    pub(crate) fn choose<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[usize::from(self.byte()) % choices.len()]
    }
}
