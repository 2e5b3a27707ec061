//! The header that all tables share, ACPI 6.3 §5.2.6.

use core::fmt;

use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use super::{Error, Problem};

/// The four characters that name a table.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Signature([u8; 4]);

impl Signature {
    /// Stands for the root pointer, whose own signature has eight characters.
    pub const RSDP: Self = Self(*b"RSDP");
    /// Root System Description Table.
    pub const RSDT: Self = Self(*b"RSDT");
    /// Extended System Description Table.
    pub const XSDT: Self = Self(*b"XSDT");
    /// Multiple APIC Description Table; its signature is not its name.
    pub const MADT: Self = Self(*b"APIC");
    /// System Resource Affinity Table.
    pub const SRAT: Self = Self(*b"SRAT");
    /// System Locality Information Table.
    pub const SLIT: Self = Self(*b"SLIT");
    /// Heterogeneous Memory Attribute Table.
    pub const HMAT: Self = Self(*b"HMAT");
    /// PCI Express Memory-mapped Configuration Space Base Address Description Table.
    pub const MCFG: Self = Self(*b"MCFG");
    /// DMA Remapping Reporting Table.
    pub const DMAR: Self = Self(*b"DMAR");

    /// The signature with these characters.
    #[must_use]
    pub const fn new(characters: [u8; 4]) -> Self {
        Self(characters)
    }

    /// Its four characters.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 4] {
        &self.0
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

/// System Description Table Header, ACPI 6.3 §5.2.6.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned, Debug)]
#[repr(C)]
pub(crate) struct Header {
    signature: [u8; 4],
    length: U32,
    revision: u8,
    checksum: u8,
    oem_id: [u8; 6],
    oem_table_id: [u8; 8],
    oem_revision: U32,
    creator: U64,
}

const _: () = assert!(size_of::<Header>() == 36);

impl Header {
    pub(crate) fn signature(&self) -> Signature {
        Signature(self.signature)
    }

    pub(crate) fn length(&self) -> usize {
        // A `usize` too small for the length cannot index the bytes either: the maximum fails the bound checks.
        usize::try_from(self.length.get()).unwrap_or(usize::MAX)
    }
}

/// Any table, with its length and its checksum verified.
#[derive(Clone, Copy, Debug)]
pub struct Table<'a> {
    header: &'a Header,
    bytes: &'a [u8],
}

impl<'a> Table<'a> {
    /// Bytes of the header.
    pub const HEADER_LEN: usize = size_of::<Header>();

    /// Checks the table named `signature` that starts with `bytes`.
    ///
    /// Bytes beyond the table's length are ignored.
    ///
    /// # Errors
    ///
    /// [`Problem::TooShort`], [`Problem::Signature`], [`Problem::Overrun`] or [`Problem::Checksum`].
    pub fn parse(bytes: &'a [u8], signature: Signature) -> Result<Self, Error> {
        let error = |offset, problem| Error::new(signature, offset, problem);
        let too_short = |offset, len| {
            let needed = size_of::<Header>();
            error(offset, Problem::TooShort { len, needed })
        };
        let (header, _) = Header::ref_from_prefix(bytes).map_err(|_| too_short(0, bytes.len()))?;
        if header.signature() != signature {
            let found = header.signature;
            return Err(error(0, Problem::Signature { found }));
        }
        let len = header.length();
        if len < size_of::<Header>() {
            return Err(too_short(4, len));
        }
        let available = bytes.len();
        let bytes = bytes
            .get(..len)
            .ok_or_else(|| error(4, Problem::Overrun { len, available }))?;
        match sum(bytes) {
            0 => Ok(Self { header, bytes }),
            sum => Err(error(9, Problem::Checksum { sum })),
        }
    }

    /// The name of the table.
    #[must_use]
    pub fn signature(&self) -> Signature {
        self.header.signature()
    }

    /// The revision of the table's layout.
    #[must_use]
    pub const fn revision(&self) -> u8 {
        self.header.revision
    }

    /// All bytes of the table, header included.
    #[must_use]
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Bytes 36 and on as a `T`, and what follows it.
    pub(crate) fn body<T>(&self) -> Result<(&'a T, &'a [u8]), Error>
    where
        T: FromBytes + Immutable + KnownLayout + Unaligned,
    {
        let body = self.bytes.get(Self::HEADER_LEN..).unwrap_or_default();
        T::ref_from_prefix(body).map_err(|_| {
            let problem = Problem::TooShort {
                len: body.len(),
                needed: size_of::<T>(),
            };
            self.error(Self::HEADER_LEN, problem)
        })
    }

    pub(crate) fn error(&self, offset: usize, problem: Problem) -> Error {
        Error::new(self.signature(), offset, problem)
    }
}

/// The sum of all bytes, which is zero modulo 256 in a sound table.
pub(crate) fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}
