//! Decimal numbers as the protocol writes them.

/// The number that `digits` are, without sign or anything else around them.
#[must_use]
pub fn parse(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, digit| {
        let digit = digit.checked_sub(b'0').filter(|&digit| digit < 10)?;
        number.checked_mul(10)?.checked_add(digit.into())
    })
}

/// The number that `text` is, with or without a minus sign.
#[must_use]
pub fn parse_signed(text: &[u8]) -> Option<i64> {
    match text.strip_prefix(b"-") {
        Some(digits) => 0_i64.checked_sub_unsigned(parse(digits)?),
        None => parse(text)?.try_into().ok(),
    }
}

/// The digits of a number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Decimal {
    /// Right-aligned.
    digits: [u8; Self::MAX_LEN],
    start: usize,
}

impl Decimal {
    /// Digits of the largest number.
    pub const MAX_LEN: usize = 20;

    /// The digits of `number`.
    #[must_use]
    pub fn new(number: u64) -> Self {
        let mut decimal = Self {
            digits: [b'0'; Self::MAX_LEN],
            start: Self::MAX_LEN,
        };
        let mut rest = number;
        for digit in decimal.digits.iter_mut().rev() {
            let [last, ..] = (rest % 10).to_le_bytes();
            *digit = b'0' + last;
            rest /= 10;
            decimal.start -= 1;
            if rest == 0 {
                break;
            }
        }
        decimal
    }

    /// The digits, most significant first.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.digits.get(self.start..).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_are_written_and_read_as_std_does(number: u64, signed: i64) {
            let text = number.to_string();
            prop_assert!(Decimal::new(number).as_bytes() == text.as_bytes());
            prop_assert_eq!(parse(text.as_bytes()), Some(number));
            prop_assert_eq!(parse_signed(signed.to_string().as_bytes()), Some(signed));
        }

        #[test]
        fn what_std_refuses_is_refused(text in "[-+0-9 a]{0,22}") {
            let plain = !text.starts_with('+');
            let expected = text.parse::<u64>().ok().filter(|_| plain);
            prop_assert_eq!(parse(text.as_bytes()), expected);
            let expected = text.parse::<i64>().ok().filter(|_| plain);
            prop_assert_eq!(parse_signed(text.as_bytes()), expected);
        }
    }

    #[test]
    fn the_ends_of_the_range() {
        assert_eq!(Decimal::new(0).as_bytes(), b"0");
        assert_eq!(parse(b"18446744073709551616"), None);
        assert_eq!(parse_signed(b"-9223372036854775808"), Some(i64::MIN));
    }
}
