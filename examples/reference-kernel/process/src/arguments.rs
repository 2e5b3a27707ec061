//! The words `key=value` that a process is started with.

use core::str::FromStr;

/// A process's arguments.
#[derive(Clone, Copy, Debug)]
pub struct Arguments(pub(crate) &'static str);

impl Arguments {
    /// All of them.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.0
    }

    /// The value of `key`, if it is given.
    #[must_use]
    pub fn value(self, key: &str) -> Option<&'static str> {
        let mut words = self.0.split(' ').filter_map(|word| word.split_once('='));
        words.find(|(name, _)| *name == key).map(|(_, value)| value)
    }

    /// The value of `key` as a `T`, if it is given and is one.
    #[must_use]
    pub fn parse<T: FromStr>(self, key: &str) -> Option<T> {
        self.value(key)?.parse().ok()
    }

    /// The value of `key` as a number, decimal or with `0x`.
    #[must_use]
    pub fn number(self, key: &str) -> Option<u64> {
        number(self.value(key)?)
    }

    /// The values of `key`, separated by commas, as numbers.
    pub fn numbers(self, key: &str) -> impl Iterator<Item = u64> {
        let values = self.value(key).unwrap_or("").split(',');
        values.filter_map(number)
    }
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARGUMENTS: Arguments =
        Arguments("name=echo0 key=0x1f ip=10.0.0.2 volumes=0x10,7,x,18 flag depth=8 key=2");

    #[test]
    fn a_key_has_its_first_value() {
        assert_eq!(ARGUMENTS.value("name"), Some("echo0"));
        assert_eq!(ARGUMENTS.number("key"), Some(0x1f));
        assert_eq!(ARGUMENTS.parse("depth"), Some(8_u8));
        assert_eq!(
            ARGUMENTS.parse("ip"),
            Some(core::net::Ipv4Addr::new(10, 0, 0, 2))
        );
    }

    #[test]
    fn what_is_missing_or_no_number_is_none() {
        assert_eq!(ARGUMENTS.value("flag"), None);
        assert_eq!(ARGUMENTS.value("nam"), None);
        assert_eq!(ARGUMENTS.number("name"), None);
        assert_eq!(ARGUMENTS.numbers("gateway").count(), 0);
    }

    #[test]
    fn a_list_has_its_numbers() {
        let numbers: Vec<u64> = ARGUMENTS.numbers("volumes").collect();
        assert_eq!(numbers, [16, 7, 18]);
    }
}
