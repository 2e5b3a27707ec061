//! From the root pointer to the tables: RSDP, RSDT and XSDT.

use parakernel_core::address::PhysAddr;
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use super::table::{Header, sum};
use super::{Dmar, Error, Hmat, Madt, Mcfg, Memory, Problem, Signature, Slit, Srat, Table};

/// Root System Description Pointer of ACPI 1.0, ACPI 6.3 §5.2.5.3.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Rsdp {
    signature: [u8; 8],
    checksum: u8,
    oem_id: [u8; 6],
    revision: u8,
    rsdt: U32,
}

/// What revision 2 appended to it.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct ExtendedRsdp {
    first: Rsdp,
    length: U32,
    xsdt: U64,
    checksum: u8,
    reserved: [u8; 3],
}

const _: () = assert!(size_of::<Rsdp>() == 20);
const _: () = assert!(size_of::<ExtendedRsdp>() == 36);

/// All tables that the root pointer leads to.
#[derive(Debug)]
pub struct Tables<'m, M: ?Sized> {
    memory: &'m M,
    root: Table<'m>,
}

impl<'m, M: Memory + ?Sized> Tables<'m, M> {
    /// Follows the root pointer (RSDP) at `rsdp` to the XSDT, or to the RSDT where there is none.
    ///
    /// # Errors
    ///
    /// Any [`Problem`] of the root pointer or of the table it leads to.
    pub fn new(memory: &'m M, rsdp: PhysAddr) -> Result<Self, Error> {
        let (signature, address) = root_address(memory, rsdp)?;
        let root = read_table(memory, address, signature)?;
        let len = root.as_bytes().len() - Table::HEADER_LEN;
        let element = address_width(signature);
        if !len.is_multiple_of(element) {
            let problem = Problem::Ragged { len, element };
            return Err(Error::new(signature, Table::HEADER_LEN, problem));
        }
        Ok(Self { memory, root })
    }

    /// Where the tables lie, in the order of the root table. Nothing there has been checked yet.
    pub fn addresses(&self) -> impl Iterator<Item = PhysAddr> + use<'m, M> {
        let list = self.root.as_bytes().get(Table::HEADER_LEN..);
        list.unwrap_or_default()
            .chunks_exact(address_width(self.root.signature()))
            .map(|bytes| {
                let wide = U64::read_from_bytes(bytes).map(U64::get);
                let narrow =
                    || U32::read_from_bytes(bytes).map_or(0, |address| address.get().into());
                PhysAddr::new(wide.unwrap_or_else(|_| narrow()))
            })
    }

    /// The first table named `signature`, or `None` where there is none.
    ///
    /// Damage to other tables does not matter, except that an unreadable one may have been the one sought.
    ///
    /// # Errors
    ///
    /// Any [`Problem`] of the table itself; [`Problem::Unreadable`] if the table was not found and the header of
    /// another one could not be read.
    pub fn find(&self, signature: Signature) -> Result<Option<Table<'m>>, Error> {
        let mut unreadable = None;
        for address in self.addresses() {
            match read_header(self.memory, address, signature) {
                Ok(header) if header.signature() == signature => {
                    return read_table(self.memory, address, signature).map(Some);
                }
                Ok(_) => {}
                Err(error) => unreadable = unreadable.or(Some(error)),
            }
        }
        unreadable.map_or(Ok(None), Err)
    }

    /// The interrupt controllers.
    ///
    /// # Errors
    ///
    /// As [`find`](Self::find) and [`Madt::parse`].
    pub fn madt(&self) -> Result<Option<Madt<'m>>, Error> {
        self.find(Signature::MADT)?.map(Madt::new).transpose()
    }

    /// What belongs to which proximity domain.
    ///
    /// # Errors
    ///
    /// As [`find`](Self::find) and [`Srat::parse`].
    pub fn srat(&self) -> Result<Option<Srat<'m>>, Error> {
        self.find(Signature::SRAT)?.map(Srat::new).transpose()
    }

    /// The distances between proximity domains.
    ///
    /// # Errors
    ///
    /// As [`find`](Self::find) and [`Slit::parse`].
    pub fn slit(&self) -> Result<Option<Slit<'m>>, Error> {
        self.find(Signature::SLIT)?.map(Slit::new).transpose()
    }

    /// Latency, bandwidth and memory-side caches.
    ///
    /// # Errors
    ///
    /// As [`find`](Self::find) and [`Hmat::parse`].
    pub fn hmat(&self) -> Result<Option<Hmat<'m>>, Error> {
        self.find(Signature::HMAT)?.map(Hmat::new).transpose()
    }

    /// Where PCI configuration space is mapped.
    ///
    /// # Errors
    ///
    /// As [`find`](Self::find) and [`Mcfg::parse`].
    pub fn mcfg(&self) -> Result<Option<Mcfg<'m>>, Error> {
        self.find(Signature::MCFG)?.map(Mcfg::new).transpose()
    }

    /// The DMA remapping units.
    ///
    /// # Errors
    ///
    /// As [`find`](Self::find) and [`Dmar::parse`].
    pub fn dmar(&self) -> Result<Option<Dmar<'m>>, Error> {
        self.find(Signature::DMAR)?.map(Dmar::new).transpose()
    }
}

/// Bytes of an address in the root table named `signature`.
fn address_width(signature: Signature) -> usize {
    if signature == Signature::XSDT { 8 } else { 4 }
}

/// The name and the address of the root table: the XSDT of a revision 2 pointer, unless it has none.
fn root_address<M: Memory + ?Sized>(
    memory: &M,
    rsdp: PhysAddr,
) -> Result<(Signature, PhysAddr), Error> {
    let first: &Rsdp = read(memory, rsdp, Signature::RSDP)?;
    if first.signature != *b"RSD PTR " {
        let [a, b, c, d, ..] = first.signature;
        let found = [a, b, c, d];
        return Err(rsdp_error(0, Problem::Signature { found }));
    }
    checked_sum(memory, rsdp, size_of::<Rsdp>(), 8)?;
    let rsdt = (Signature::RSDT, PhysAddr::new(first.rsdt.get().into()));
    if first.revision < 2 {
        return Ok(rsdt);
    }
    let extended: &ExtendedRsdp = read(memory, rsdp, Signature::RSDP)?;
    let len = usize::try_from(extended.length.get()).unwrap_or(usize::MAX);
    let needed = size_of::<ExtendedRsdp>();
    if len < needed {
        return Err(rsdp_error(20, Problem::TooShort { len, needed }));
    }
    checked_sum(memory, rsdp, len, 32)?;
    match extended.xsdt.get() {
        0 => Ok(rsdt),
        xsdt => Ok((Signature::XSDT, PhysAddr::new(xsdt))),
    }
}

/// Verifies that the `len` bytes of the root pointer add up to zero; their checksum lies at `offset`.
fn checked_sum<M: Memory + ?Sized>(
    memory: &M,
    rsdp: PhysAddr,
    len: usize,
    offset: usize,
) -> Result<(), Error> {
    match sum(read_bytes(memory, rsdp, len, Signature::RSDP)?) {
        0 => Ok(()),
        sum => Err(rsdp_error(offset, Problem::Checksum { sum })),
    }
}

const fn rsdp_error(offset: usize, problem: Problem) -> Error {
    Error::new(Signature::RSDP, offset, problem)
}

fn read_table<M: Memory + ?Sized>(
    memory: &M,
    address: PhysAddr,
    signature: Signature,
) -> Result<Table<'_>, Error> {
    let len = read_header(memory, address, signature)?.length();
    // Whatever length is claimed, `Table::parse` gets to see at least a header, and says what is wrong.
    let len = len.max(Table::HEADER_LEN);
    Table::parse(read_bytes(memory, address, len, signature)?, signature)
}

fn read_header<M: Memory + ?Sized>(
    memory: &M,
    address: PhysAddr,
    signature: Signature,
) -> Result<&Header, Error> {
    read(memory, address, signature)
}

fn read<T, M>(memory: &M, address: PhysAddr, table: Signature) -> Result<&T, Error>
where
    T: FromBytes + Immutable + KnownLayout + Unaligned,
    M: Memory + ?Sized,
{
    let len = size_of::<T>();
    let bytes = read_bytes(memory, address, len, table)?;
    T::ref_from_bytes(bytes).map_err(|_| unreadable(table, address, len))
}

fn read_bytes<M: Memory + ?Sized>(
    memory: &M,
    address: PhysAddr,
    len: usize,
    table: Signature,
) -> Result<&[u8], Error> {
    memory
        .bytes(address, len)
        // A `Memory` that returns another length than was asked for is not trusted either.
        .filter(|bytes| bytes.len() == len)
        .ok_or_else(|| unreadable(table, address, len))
}

const fn unreadable(table: Signature, address: PhysAddr, len: usize) -> Error {
    Error::new(table, 0, Problem::Unreadable { address, len })
}
