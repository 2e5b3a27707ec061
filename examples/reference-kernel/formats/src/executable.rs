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
    /// If `file` is not a static x86-64 executable whose segments are in bounds, ascending without a shared page, never both writable
    /// and executable, and whose entry lies in an executable one.
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
