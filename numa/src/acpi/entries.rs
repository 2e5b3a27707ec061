//! Walking lists of entries that state their own type and length.

use core::marker::PhantomData;

use zerocopy::byteorder::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use super::{Error, Problem, Signature};

/// How the entries of a table announce type and length.
pub(crate) trait EntryHeader: FromBytes + Immutable + KnownLayout + Unaligned {
    fn kind(&self) -> u16;
    fn length(&self) -> usize;
}

/// One byte each: MADT, SRAT and the device scopes of DMAR.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct ByteHeader {
    kind: u8,
    length: u8,
}

impl EntryHeader for ByteHeader {
    fn kind(&self) -> u16 {
        self.kind.into()
    }

    fn length(&self) -> usize {
        self.length.into()
    }
}

/// Two bytes each: DMAR.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct WordHeader {
    kind: U16,
    length: U16,
}

impl EntryHeader for WordHeader {
    fn kind(&self) -> u16 {
        self.kind.get()
    }

    fn length(&self) -> usize {
        self.length.get().into()
    }
}

/// Two bytes of type, two reserved, four of length: HMAT.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct WideHeader {
    kind: U16,
    reserved: U16,
    length: U32,
}

impl EntryHeader for WideHeader {
    fn kind(&self) -> u16 {
        self.kind.get()
    }

    fn length(&self) -> usize {
        // As in `Header::length`: the maximum fails the bound checks.
        usize::try_from(self.length.get()).unwrap_or(usize::MAX)
    }
}

/// One entry of a list: its type, and its bytes including the entry's header.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RawEntry<'a> {
    pub(crate) table: Signature,
    /// From the start of the table.
    pub(crate) offset: usize,
    pub(crate) kind: u16,
    pub(crate) bytes: &'a [u8],
}

impl<'a> RawEntry<'a> {
    /// The entry as a `T`, which starts with the entry's header, and what follows it.
    ///
    /// Entries may be longer than `T`: later revisions of the specifications append fields.
    pub(crate) fn split<T>(&self) -> Result<(&'a T, &'a [u8]), Error>
    where
        T: FromBytes + Immutable + KnownLayout + Unaligned,
    {
        T::ref_from_prefix(self.bytes).map_err(|_| {
            let problem = Problem::TooShort {
                len: self.bytes.len(),
                needed: size_of::<T>(),
            };
            self.error(0, problem)
        })
    }

    /// The entry as a `T`, which starts with the entry's header.
    pub(crate) fn view<T>(&self) -> Result<&'a T, Error>
    where
        T: FromBytes + Immutable + KnownLayout + Unaligned,
    {
        Ok(self.split()?.0)
    }

    /// `problem`, which lies `offset` bytes into the entry.
    pub(crate) const fn error(&self, offset: usize, problem: Problem) -> Error {
        Error::new(self.table, self.offset.saturating_add(offset), problem)
    }

    /// The error of a `field`, `offset` bytes into the entry, that holds a `value` it must not.
    pub(crate) const fn value(&self, offset: usize, field: &'static str, value: u64) -> Error {
        self.error(offset, Problem::Value { field, value })
    }
}

/// The entries of one list; ends after the first error.
#[derive(Clone, Debug)]
pub(crate) struct Entries<'a, H> {
    table: Signature,
    /// Of the next entry, from the start of the table.
    offset: usize,
    /// What has not been walked yet.
    rest: &'a [u8],
    header: PhantomData<H>,
}

impl<'a, H: EntryHeader> Entries<'a, H> {
    /// The entries in `bytes`, which lie at `offset` of the table.
    pub(crate) const fn new(table: Signature, offset: usize, bytes: &'a [u8]) -> Self {
        Self {
            table,
            offset,
            rest: bytes,
            header: PhantomData,
        }
    }

    /// Splits the next entry off `rest`. An entry is never empty, so a walk always ends.
    fn step(&mut self) -> Result<RawEntry<'a>, Error> {
        let available = self.rest.len();
        let error = |problem| Error::new(self.table, self.offset, problem);
        let too_short = |len| {
            let needed = size_of::<H>();
            error(Problem::TooShort { len, needed })
        };
        let (header, _) = H::ref_from_prefix(self.rest).map_err(|_| too_short(available))?;
        let len = header.length();
        if len < size_of::<H>() {
            return Err(too_short(len));
        }
        let (bytes, rest) = self
            .rest
            .split_at_checked(len)
            .ok_or_else(|| error(Problem::Overrun { len, available }))?;
        let entry = RawEntry {
            table: self.table,
            offset: self.offset,
            kind: header.kind(),
            bytes,
        };
        self.rest = rest;
        self.offset += len;
        Ok(entry)
    }
}

impl<'a, H: EntryHeader> Iterator for Entries<'a, H> {
    type Item = Result<RawEntry<'a>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let entry = self.step();
        if entry.is_err() {
            self.rest = &[];
        }
        Some(entry)
    }
}
