//! The kernel's command line: words separated by spaces, each `key` or `key=value`.

/// The value of `key` in `line`: the text after `key=`, empty for a bare `key`. The first one counts.
///
/// ```
/// use kernel_formats::command_line::value;
/// assert_eq!(value("selftest policy=integrity", "policy"), Some("integrity"));
/// assert_eq!(value("selftest policy=integrity", "selftest"), Some(""));
/// assert_eq!(value("selftest", "self"), None);
/// ```
#[must_use]
pub fn value<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    line.split_ascii_whitespace().find_map(|word| {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        (name == key).then_some(value)
    })
}
