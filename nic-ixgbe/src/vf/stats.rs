//! Counters of a virtual function: they wrap, and reading leaves them alone, so what they had counted is kept.

use parakernel_core::mmio::{Register, Registers};

use super::Function;
use crate::regs::function::{VfgorcH, VfgorcL, VfgotcH, VfgotcL, Vfgprc, Vfgptc, Vfmprc};

/// Bits of the counters of frames, and of bytes.
const FRAMES: u64 = (1 << 32) - 1;
const BYTES: u64 = (1 << 36) - 1;

/// A sum of a counter that wraps.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
struct Sum {
    total: u64,
    last: u64,
}

impl Sum {
    fn add(&mut self, seen: u64, mask: u64) {
        let more = seen.wrapping_sub(self.last) & mask;
        self.total = self.total.saturating_add(more);
        self.last = seen & mask;
    }
}

/// What a virtual function has counted since the first look.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct FunctionStatistics {
    received: Sum,
    received_bytes: Sum,
    multicasts: Sum,
    transmitted: Sum,
    transmitted_bytes: Sum,
    has_begun: bool,
}

impl FunctionStatistics {
    /// Frames received.
    #[must_use]
    pub const fn received(&self) -> u64 {
        self.received.total
    }

    /// Their bytes, CRC included.
    #[must_use]
    pub const fn received_bytes(&self) -> u64 {
        self.received_bytes.total
    }

    /// Those of them that were for several.
    #[must_use]
    pub const fn multicasts(&self) -> u64 {
        self.multicasts.total
    }

    /// Frames sent.
    #[must_use]
    pub const fn transmitted(&self) -> u64 {
        self.transmitted.total
    }

    /// Their bytes, CRC included.
    #[must_use]
    pub const fn transmitted_bytes(&self) -> u64 {
        self.transmitted_bytes.total
    }
}

impl<R: Registers> Function<'_, R> {
    /// Adds what was counted since the last look to `sum`; the first look only begins. To be called before 2³² frames have
    /// passed, and again from a new sum after a reset.
    pub fn add_statistics(&self, sum: &mut FunctionStatistics) {
        let window = self.window();
        // The low part first: reading it holds the high one.
        let low = window.read::<VfgorcL>().bits();
        let received = window.read::<VfgorcH>().field(VfgorcH::HIGH) << 32 | low;
        let low = window.read::<VfgotcL>().bits();
        let transmitted = window.read::<VfgotcH>().field(VfgotcH::HIGH) << 32 | low;
        sum.received.add(window.read::<Vfgprc>().bits(), FRAMES);
        sum.multicasts.add(window.read::<Vfmprc>().bits(), FRAMES);
        sum.transmitted.add(window.read::<Vfgptc>().bits(), FRAMES);
        sum.received_bytes.add(received, BYTES);
        sum.transmitted_bytes.add(transmitted, BYTES);
        if !core::mem::replace(&mut sum.has_begun, true) {
            for it in [
                &mut sum.received,
                &mut sum.received_bytes,
                &mut sum.multicasts,
                &mut sum.transmitted,
                &mut sum.transmitted_bytes,
            ] {
                it.total = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_goes_on_across_the_wrap() {
        let mut sum = Sum::default();
        for (seen, total) in [
            (0xFFFF_FFF0, 0xFFFF_FFF0),
            (0x10, 0x1_0000_0010),
            (0x10, 0x1_0000_0010),
        ] {
            sum.add(seen, FRAMES);
            assert_eq!(sum.total, total);
        }
        let mut sum = Sum::default();
        sum.add(BYTES, BYTES);
        sum.add(4, BYTES);
        assert_eq!(sum.total, BYTES + 5);
    }
}
