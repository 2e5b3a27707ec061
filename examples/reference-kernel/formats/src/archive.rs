//! cpio archives in the `newc` format, as initial RAM disks have it.
//!
//! The format is described in the Linux kernel's `Documentation/driver-api/early-userspace/buffer-format.rst`.

/// One file of an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct File<'a> {
    /// Its path.
    pub name: &'a str,
    /// Its content.
    pub bytes: &'a [u8],
}

/// The files of `archive`, in its order; ends at the trailer, or at the first entry that is malformed.
#[derive(Clone, Debug)]
pub struct Files<'a> {
    archive: &'a [u8],
    at: usize,
}

/// The files of `archive`.
#[must_use]
pub fn files(archive: &[u8]) -> Files<'_> {
    Files { archive, at: 0 }
}

/// The content of the file named `name`.
#[must_use]
pub fn find<'a>(archive: &'a [u8], name: &str) -> Option<&'a [u8]> {
    files(archive)
        .find(|file| file.name == name)
        .map(|file| file.bytes)
}

impl<'a> Iterator for Files<'a> {
    type Item = File<'a>;

    fn next(&mut self) -> Option<File<'a>> {
        let (file, next) = entry(self.archive, self.at)?;
        self.at = next;
        (file.name != TRAILER).then_some(file)
    }
}

/// Length of an entry's header.
const HEADER: usize = 110;
/// Name of the entry that ends an archive.
const TRAILER: &str = "TRAILER!!!";

/// The entry at offset `at`, and the offset of the next.
fn entry(archive: &[u8], at: usize) -> Option<(File<'_>, usize)> {
    let header = archive.get(at..at.checked_add(HEADER)?)?;
    if !header.starts_with(b"070701") {
        return None;
    }
    // Fields of eight hexadecimal digits follow the magic: the sixth is the file's length, the eleventh its name's
    // with the final NUL.
    let file_len = field(header, 6)?;
    let name_len = field(header, 11)?;
    let name_at = at.checked_add(HEADER)?;
    let name_end = name_at.checked_add(name_len)?;
    let name = archive.get(name_at..name_end)?.strip_suffix(b"\0")?;
    let file_at = name_end.checked_next_multiple_of(4)?;
    let file_end = file_at.checked_add(file_len)?;
    let file = File {
        name: core::str::from_utf8(name).ok()?,
        bytes: archive.get(file_at..file_end)?,
    };
    Some((file, file_end.checked_next_multiple_of(4)?))
}

/// The header's field number `index`.
fn field(header: &[u8], index: usize) -> Option<usize> {
    let start = 6 + 8 * index;
    let digits = core::str::from_utf8(header.get(start..start + 8)?).ok()?;
    if digits.starts_with('+') {
        return None;
    }
    usize::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    extern crate alloc;

    use alloc::{format, vec::Vec};

    use proptest::prelude::*;

    use super::{File, files, find};

    fn append(archive: &mut Vec<u8>, name: &str, bytes: &[u8]) {
        let (zero, file_len, name_len) = (0, bytes.len(), name.len() + 1);
        archive.extend(
            format!("070701{zero:048X}{file_len:08X}{zero:032X}{name_len:08X}{zero:08X}").bytes(),
        );
        archive.extend(name.bytes().chain([0]));
        archive.resize(archive.len().next_multiple_of(4), 0);
        archive.extend(bytes);
        archive.resize(archive.len().next_multiple_of(4), 0);
    }

    proptest! {
        #[test]
        fn what_was_packed_is_found(
            contents in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..6),
        ) {
            let mut archive = Vec::new();
            for (index, bytes) in contents.iter().enumerate() {
                append(&mut archive, &format!("file{index}"), bytes);
            }
            append(&mut archive, "TRAILER!!!", b"");
            append(&mut archive, "behind", b"the trailer");
            prop_assert_eq!(files(&archive).count(), contents.len());
            for (index, bytes) in contents.iter().enumerate() {
                prop_assert_eq!(find(&archive, &format!("file{index}")), Some(bytes.as_slice()));
            }
        }

        #[test]
        fn a_damaged_archive_yields_only_what_lies_inside(
            damage in prop::collection::vec((0..300_usize, any::<u8>()), 0..6),
            cut in 0..300_usize,
        ) {
            let mut archive = Vec::new();
            append(&mut archive, "one", &[1; 33]);
            append(&mut archive, "two", &[2; 5]);
            for (at, value) in damage {
                if let Some(byte) = archive.get_mut(at) {
                    *byte = value;
                }
            }
            archive.truncate(cut);
            let whole = archive.as_ptr_range();
            for File { bytes, .. } in files(&archive) {
                prop_assert!(whole.start <= bytes.as_ptr() && bytes.as_ptr_range().end <= whole.end);
            }
        }
    }
}
