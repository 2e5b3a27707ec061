//! In which order a pass goes through a volume.

/// Numbers below a count, each exactly once: one after the other, or shuffled.
///
/// A linear congruential generator of full period: its modulus is a power of two, its multiplier one more than a
/// multiple of four, its increment odd (the theorem of Hull and Dobell). What is beyond the count is passed over.
#[derive(Clone, Debug)]
pub(super) struct Order {
    state: u64,
    multiplier: u64,
    mask: u64,
    count: u64,
    left: u64,
}

impl Order {
    /// 0, 1, 2 and so on, up to `count`.
    pub(super) const fn sequential(count: u64) -> Self {
        Self {
            state: 0,
            multiplier: 1,
            mask: u64::MAX,
            count,
            left: count,
        }
    }

    /// The numbers below `count`, at most 2⁶³, shuffled as `seed` says.
    pub(super) const fn shuffled(count: u64, seed: u64) -> Self {
        let period = count.next_power_of_two();
        Self {
            state: seed & (period - 1),
            multiplier: 0x5851_f42d_4c95_7f2d,
            mask: period - 1,
            count,
            left: period,
        }
    }
}

impl Iterator for Order {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        while self.left > 0 {
            self.left -= 1;
            let number = self.state;
            self.state = number.wrapping_mul(self.multiplier).wrapping_add(1) & self.mask;
            if number < self.count {
                return Some(number);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_comes_exactly_once() {
        for count in 0..200 {
            let sequential: Vec<_> = Order::sequential(count).collect();
            assert_eq!(sequential, (0..count).collect::<Vec<_>>());
            for seed in [0, 1, 77, u64::MAX] {
                let mut shuffled: Vec<_> = Order::shuffled(count, seed).collect();
                shuffled.sort_unstable();
                assert_eq!(shuffled, sequential, "{count} {seed}");
            }
        }
    }

    #[test]
    fn a_shuffled_order_jumps() {
        let order: Vec<_> = Order::shuffled(1000, 5).collect();
        let steps = order.windows(2).filter(|pair| pair[1] == pair[0] + 1);
        assert!(steps.count() < 50);
    }
}
