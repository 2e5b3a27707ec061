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

/// Where the registers of a device are that nothing else tells of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Physical address of the first.
    pub start: u64,
    /// How many bytes.
    pub len: u64,
}

/// The places in words `key=LEN@START` of `line`, in the form that Linux has for `virtio_mmio.device`; what follows a further
/// colon is left out, and so is a word that is malformed.
///
/// ```
/// use kernel_formats::command_line::{Place, devices};
/// let line = "a virtio_mmio.device=512@0xfeb00e00:12 virtio_mmio.device=1K@4096 virtio_mmio.device=x@1";
/// let places: Vec<_> = devices(line, "virtio_mmio.device").collect();
/// assert_eq!(places, [Place { start: 0xfeb0_0e00, len: 512 }, Place { start: 4096, len: 1024 }]);
/// ```
pub fn devices<'a>(line: &'a str, key: &'a str) -> impl Iterator<Item = Place> + use<'a> {
    line.split_ascii_whitespace().filter_map(move |word| {
        let (name, value) = word.split_once('=')?;
        if name != key {
            return None;
        }
        let (len, rest) = value.split_once('@')?;
        let start = rest.split(':').next()?;
        Some(Place {
            start: number(start)?,
            len: number(len)?,
        })
    })
}

/// A number, decimal or with `0x`, in units of 1024 where a `K` follows.
fn number(text: &str) -> Option<u64> {
    let (digits, unit) = match text.strip_suffix('K') {
        Some(digits) => (digits, 1024),
        None => (text, 1),
    };
    let number = match digits.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok()?,
        None => digits.parse().ok()?,
    };
    number.checked_mul(unit)
}
