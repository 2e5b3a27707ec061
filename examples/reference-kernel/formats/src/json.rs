//! Text in JSON.

use core::fmt::{self, Write};

/// Shows a text as a JSON string, with its quotes.
#[derive(Clone, Copy, Debug)]
pub struct Quoted<'a>(pub &'a str);

impl fmt::Display for Quoted<'_> {
    /// Escapes what RFC 8259 section 7 says must be escaped.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for character in self.0.chars() {
            match character {
                '"' | '\\' => write!(f, "\\{character}")?,
                '\0'..' ' => write!(f, "\\u{:04x}", u32::from(character))?,
                _ => f.write_char(character)?,
            }
        }
        f.write_char('"')
    }
}

#[cfg(test)]
mod tests {
    extern crate alloc;

    use alloc::format;

    use super::Quoted;

    #[test]
    fn what_would_end_or_break_a_string_is_escaped() {
        assert_eq!(
            format!("{}", Quoted("a\"b\\c\n\u{e9}")),
            "\"a\\\"b\\\\c\\u000a\u{e9}\""
        );
    }
}
