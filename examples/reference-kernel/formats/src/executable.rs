//! Executables of processes: static ELF files for x86-64, checked before a byte of them is mapped.

use core::fmt;
use core::ops::Range;

use elf::abi::{EM_X86_64, ET_EXEC, PF_R, PF_W, PF_X, PT_LOAD};
use elf::endian::LittleEndian;
use elf::segment::ProgramHeader;
use elf::{ElfBytes, file::Class};

/// Size of the pages that segments are mapped in.
pub const PAGE: u64 = 4096;
/// Most segments that an executable may load.
pub const SEGMENTS_MAX: usize = 8;

/// What a process may do with a segment. Writable *and* executable does not exist.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Read.
    Read,
    /// Read and write.
    ReadWrite,
    /// Read and execute.
    ReadExecute,
}

/// A part of an executable that is to be in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment<'a> {
    /// Its first address.
    pub start: u64,
    /// Its length in bytes; not zero.
    pub len: u64,
    /// Its first bytes; the others are zero.
    pub bytes: &'a [u8],
    /// What the process may do with it.
    pub access: Access,
}

impl Segment<'_> {
    /// The pages that the segment touches.
    #[must_use]
    pub const fn pages(&self) -> Range<u64> {
        let end = self.start + self.len;
        self.start - self.start % PAGE..end.next_multiple_of(PAGE)
    }
}

/// A checked executable.
#[derive(Clone, Copy, Debug)]
pub struct Executable<'a> {
    entry: u64,
    segments: [Option<Segment<'a>>; SEGMENTS_MAX],
}

impl<'a> Executable<'a> {
    /// Checks `file`, whose segments must lie within `allowed` (page-aligned bounds).
    ///
    /// # Errors
    ///
    /// If `file` is not a static x86-64 executable whose segments are in bounds, ascending without a shared page,
    /// never both writable and executable, and whose entry lies in an executable one.
    pub fn parse(file: &'a [u8], allowed: Range<u64>) -> Result<Self, Error> {
        let elf = ElfBytes::<LittleEndian>::minimal_parse(file).map_err(|_| Error::NotElf)?;
        let header = elf.ehdr;
        if header.class != Class::ELF64 || header.e_type != ET_EXEC || header.e_machine != EM_X86_64
        {
            return Err(Error::NotElf);
        }
        let mut segments = [None; SEGMENTS_MAX];
        let mut free = allowed;
        let mut count = 0;
        for program_header in elf.segments().ok_or(Error::NotElf)? {
            if program_header.p_type != PT_LOAD || program_header.p_memsz == 0 {
                continue;
            }
            let segment = segment(file, &program_header, &free)?;
            free.start = segment.pages().end;
            *segments.get_mut(count).ok_or(Error::TooManySegments)? = Some(segment);
            count += 1;
        }
        let entry = header.e_entry;
        let enters = |s: &Segment<'_>| {
            s.access == Access::ReadExecute && (s.start..s.start + s.len).contains(&entry)
        };
        if !segments.iter().flatten().any(enters) {
            return Err(Error::Entry);
        }
        Ok(Self { entry, segments })
    }

    /// The address of the first instruction.
    #[must_use]
    pub const fn entry(&self) -> u64 {
        self.entry
    }

    /// The segments, in ascending order.
    pub fn segments(&self) -> impl Iterator<Item = &Segment<'a>> {
        self.segments.iter().flatten()
    }
}

/// Checks one program header; `free` is what earlier segments left of the address space.
fn segment<'a>(
    file: &'a [u8],
    header: &ProgramHeader,
    free: &Range<u64>,
) -> Result<Segment<'a>, Error> {
    let end = header
        .p_vaddr
        .checked_add(header.p_memsz)
        .ok_or(Error::OutOfBounds)?;
    let last_page = end
        .checked_next_multiple_of(PAGE)
        .ok_or(Error::OutOfBounds)?;
    if header.p_vaddr - header.p_vaddr % PAGE < free.start || last_page > free.end {
        return Err(Error::OutOfBounds);
    }
    if header.p_filesz > header.p_memsz {
        return Err(Error::Truncated);
    }
    let at = usize::try_from(header.p_offset).map_err(|_| Error::Truncated)?;
    let len = usize::try_from(header.p_filesz).map_err(|_| Error::Truncated)?;
    let bytes = at
        .checked_add(len)
        .and_then(|file_end| file.get(at..file_end))
        .ok_or(Error::Truncated)?;
    let access = match header.p_flags & (PF_R | PF_W | PF_X) {
        PF_R => Access::Read,
        flags if flags == PF_R | PF_W => Access::ReadWrite,
        flags if flags == PF_R | PF_X => Access::ReadExecute,
        _ => return Err(Error::Access),
    };
    Ok(Segment {
        start: header.p_vaddr,
        len: header.p_memsz,
        bytes,
        access,
    })
}

/// Why a file is not run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Error {
    /// Not a static ELF executable for x86-64.
    NotElf,
    /// More than [`SEGMENTS_MAX`] segments to load.
    TooManySegments,
    /// A segment lies outside the addresses allowed, shares a page with another, or comes before it.
    OutOfBounds,
    /// The file lacks bytes that a segment names.
    Truncated,
    /// A segment is not readable, or both writable and executable.
    Access,
    /// The entry point is not in an executable segment.
    Entry,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotElf => "not a static ELF executable for x86-64",
            Self::TooManySegments => "too many segments",
            Self::OutOfBounds => "a segment is out of bounds or overlaps another",
            Self::Truncated => "a segment's bytes are not in the file",
            Self::Access => "a segment is unreadable, or writable and executable",
            Self::Entry => "the entry point is not executable",
        })
    }
}

impl core::error::Error for Error {}

#[cfg(test)]
mod tests {
    extern crate alloc;

    use alloc::vec;
    use alloc::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    const ALLOWED: Range<u64> = 0x1_0000..0x1000_0000;
    const HEADER: usize = 64;
    const PROGRAM_HEADER: usize = 56;

    /// A program header as the ELF specification lays it out, by hand.
    #[derive(Clone, Copy, Debug)]
    struct Load {
        flags: u32,
        offset: u64,
        at: u64,
        file_len: u64,
        memory_len: u64,
    }

    const TEXT: Load = Load {
        flags: 5,
        offset: 0,
        at: 0x40_0000,
        file_len: 64,
        memory_len: 64,
    };
    const DATA: Load = Load {
        flags: 6,
        offset: 16,
        at: 0x40_1000,
        file_len: 16,
        memory_len: 0x3000,
    };

    fn file(entry: u64, loads: &[Load]) -> Vec<u8> {
        let mut file = vec![0; HEADER];
        file[..7].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1]);
        file[16..20].copy_from_slice(&[2, 0, 62, 0]);
        file[20] = 1;
        file[24..32].copy_from_slice(&entry.to_le_bytes());
        file[32..40].copy_from_slice(&64_u64.to_le_bytes());
        file[52..58].copy_from_slice(&[64, 0, 56, 0, u8::try_from(loads.len()).unwrap(), 0]);
        for load in loads {
            file.extend(1_u32.to_le_bytes());
            file.extend(load.flags.to_le_bytes());
            for word in [
                load.offset,
                load.at,
                load.at,
                load.file_len,
                load.memory_len,
                4096,
            ] {
                file.extend(word.to_le_bytes());
            }
        }
        file
    }

    fn refusal(loads: &[Load]) -> Option<Error> {
        Executable::parse(&file(0x40_0000, loads), ALLOWED).err()
    }

    #[test]
    fn a_plain_executable_is_taken_as_it_is() {
        let file = file(0x40_0010, &[TEXT, DATA]);
        let executable = Executable::parse(&file, ALLOWED).unwrap();
        assert_eq!(executable.entry(), 0x40_0010);
        let segments: Vec<_> = executable.segments().collect();
        assert_eq!(segments[0].bytes, &file[..64]);
        assert_eq!(
            (segments[1].access, segments[1].pages()),
            (Access::ReadWrite, 0x40_1000..0x40_4000)
        );
    }

    /// `TEXT` and a changed `DATA`.
    fn refusal_of_data(change: impl FnOnce(&mut Load)) -> Option<Error> {
        let mut data = DATA;
        change(&mut data);
        refusal(&[TEXT, data])
    }

    #[test]
    fn nothing_is_writable_and_executable_and_the_entry_is_code() {
        assert_eq!(refusal(&[TEXT, DATA]), None);
        assert_eq!(refusal(&[Load { flags: 7, ..TEXT }]), Some(Error::Access));
        assert_eq!(refusal(&[Load { flags: 4, ..TEXT }]), Some(Error::Entry));
        assert_eq!(refusal_of_data(|data| data.flags = 2), Some(Error::Access));
    }

    #[test]
    fn segments_ascend_within_bounds_and_share_no_page() {
        let bad = Some(Error::OutOfBounds);
        assert_eq!(refusal(&[DATA, TEXT]), bad);
        assert_eq!(refusal(&[Load { at: 0xf000, ..TEXT }]), bad);
        assert_eq!(refusal_of_data(|data| data.at = 0x40_0800), bad);
        assert_eq!(refusal_of_data(|data| data.at = 0xfff_f000), bad);
        assert_eq!(refusal_of_data(|data| data.at = u64::MAX - 8), bad);
        assert_eq!(refusal_of_data(|data| data.memory_len = u64::MAX), bad);
    }

    #[test]
    fn bytes_come_from_the_file_and_segments_are_few() {
        let bad = Some(Error::Truncated);
        assert_eq!(refusal_of_data(|data| data.file_len = 0x4000), bad);
        assert_eq!(refusal_of_data(|data| data.offset = u64::MAX), bad);
        let moved = |n| Load {
            at: TEXT.at + n * PAGE,
            ..TEXT
        };
        let many: Vec<_> = (0..9).map(moved).collect();
        assert_eq!(refusal(&many), Some(Error::TooManySegments));
    }

    proptest! {
        #[test]
        fn whatever_is_accepted_keeps_the_rules(
            damage in prop::collection::vec((0..HEADER + 2 * PROGRAM_HEADER, any::<u8>()), 0..4),
            cut in 0..HEADER + 2 * PROGRAM_HEADER + 40,
        ) {
            let mut file = file(0x40_0010, &[TEXT, DATA]);
            for (at, value) in damage {
                file[at] = value;
            }
            file.truncate(file.len().min(cut + 8));
            let Ok(executable) = Executable::parse(&file, ALLOWED) else {
                return Ok(());
            };
            let mut free = ALLOWED.start;
            for segment in executable.segments() {
                prop_assert!(free <= segment.pages().start && segment.pages().end <= ALLOWED.end);
                prop_assert!(segment.bytes.len() as u64 <= segment.len);
                free = segment.pages().end;
            }
            let entered = executable.segments().find(|s| (s.start..s.start + s.len).contains(&executable.entry()));
            prop_assert_eq!(entered.map(|segment| segment.access), Some(Access::ReadExecute));
        }
    }
}
