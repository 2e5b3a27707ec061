use parakernel_core::mmio::Width;

/// A source of lies: bends values as a string of bytes says, which a fuzzer may have chosen.
///
/// Each value costs one byte that says how it is bent, and more for the kinds that need them. When the bytes are used
/// up, it tells the truth. One byte in four bends at all, so that a fuzzer's string gets past bring-up.
///
/// ```
/// use parakernel_core::mmio::Width;
/// use parakernel_mock_hw::fault::Liar;
///
/// let mut liar = Liar::new(vec![0, 0xc0, 0xc1]);
/// assert_eq!(liar.bend(5, Width::U16), 5);
/// assert_eq!(liar.bend(5, Width::U16), 0xffff);
/// assert_eq!(liar.bend(5, Width::U16), 0);
/// assert_eq!(liar.bend(5, Width::U16), 5);
/// ```
#[derive(Clone, Debug)]
pub struct Liar {
    bytes: Vec<u8>,
    next: usize,
}

impl Liar {
    /// The liar that `bytes` drive.
    #[must_use]
    pub const fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, next: 0 }
    }

    /// `truth`, or what the bytes make of it.
    pub fn bend(&mut self, truth: u64, width: Width) -> u64 {
        let bits = 8 * width.bytes();
        let mask = u64::MAX >> (64 - bits);
        let Some(how) = self.byte() else { return truth };
        if how < 0xc0 {
            return truth;
        }
        let bent = match how & 7 {
            0 => u64::MAX,
            1 => 0,
            2 => truth.wrapping_add(1),
            3 => truth.wrapping_sub(1),
            4 => truth ^ (1 << (usize::from(self.byte().unwrap_or(0)) % bits)),
            5 => 1 << (bits - 1),
            6 => u64::from(self.byte().unwrap_or(0)),
            _ => (0..8).fold(0, |value, _| {
                value << 8 | u64::from(self.byte().unwrap_or(0))
            }),
        };
        bent & mask
    }

    /// Changes up to seven bytes: a byte says how many, then three each say where and to what.
    pub fn corrupt(&mut self, truth: &mut [u8]) {
        let Some(how) = self.byte() else { return };
        for _ in 0..how & 7 {
            let (low, high) = (self.byte(), self.byte());
            let (Some(low), Some(high), Some(value)) = (low, high, self.byte()) else {
                return;
            };
            let len = truth.len();
            if let Some(byte) =
                truth.get_mut(usize::from(u16::from_le_bytes([low, high])) % len.max(1))
            {
                *byte = value;
            }
        }
    }

    /// Whether all bytes are used up: from here on it tells the truth.
    #[must_use]
    pub const fn is_spent(&self) -> bool {
        self.next >= self.bytes.len()
    }

    fn byte(&mut self) -> Option<u8> {
        let byte = self.bytes.get(self.next).copied();
        self.next += 1;
        byte
    }
}
