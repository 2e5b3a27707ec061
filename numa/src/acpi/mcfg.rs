//! Where PCI configuration space is mapped, PCI Firmware 3.2 §4.1.2.

use parakernel_core::address::PhysAddr;
use parakernel_core::pci;
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use super::{Error, Problem, Signature, Table};

/// The enhanced configuration access mechanism (ECAM): one mapped range per PCI segment or part of one.
#[derive(Clone, Copy, Debug)]
pub struct Mcfg<'a> {
    segments: &'a [RawSegment],
}

/// The buses of one segment group whose configuration space is mapped together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Segment {
    /// The segment group.
    pub segment: u16,
    /// Where bus 0 of the segment would be, even if the range starts with a later bus.
    pub base: PhysAddr,
    /// The first bus that is mapped.
    pub first_bus: u8,
    /// The last bus that is mapped, no less than the first.
    pub last_bus: u8,
}

/// Bytes of configuration space per function.
const FUNCTION_LEN: u64 = 1 << 12;
/// Bytes of configuration space per bus: 32 devices of 8 functions each.
const BUS_LEN: u64 = 32 * 8 * FUNCTION_LEN;

impl<'a> Mcfg<'a> {
    /// Checks the table that starts with `bytes`.
    ///
    /// # Errors
    ///
    /// Any [`Problem`] of the table; [`Problem::Value`] for buses out of order, or beyond the last address.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
        Self::new(Table::parse(bytes, Signature::MCFG)?)
    }

    pub(super) fn new(table: Table<'a>) -> Result<Self, Error> {
        let (_, list) = table.body::<Reserved>()?;
        let offset = Table::HEADER_LEN + size_of::<Reserved>();
        let element = size_of::<RawSegment>();
        // Some firmware counts bytes beyond the last whole element (rust-osdev/acpi issue 58): they are ignored.
        let len = list.len();
        let needed = element;
        let (segments, _) = <[RawSegment]>::ref_from_prefix_with_elems(list, len / element)
            .map_err(|_| table.error(offset, Problem::TooShort { len, needed }))?;
        for (index, segment) in segments.iter().enumerate() {
            if let Some((at, problem)) = segment.first_problem() {
                return Err(table.error(offset + index * element + at, problem));
            }
        }
        Ok(Self { segments })
    }

    /// The mapped ranges, in the order of the table.
    pub fn segments(&self) -> impl Iterator<Item = Segment> + Clone + use<'a> {
        self.segments.iter().map(RawSegment::decode)
    }

    /// Where the 4 KiB of configuration space of a function are, or `None` where they are not mapped.
    #[must_use]
    pub fn function(&self, function: pci::Address) -> Option<PhysAddr> {
        self.segments().find_map(|range| range.function(function))
    }
}

impl Segment {
    /// Where the mapped range starts.
    #[must_use]
    pub fn start(&self) -> PhysAddr {
        // Does not saturate: `parse` refuses a range that would.
        let offset = u64::from(self.first_bus) * BUS_LEN;
        PhysAddr::new(self.base.as_u64().saturating_add(offset))
    }

    /// Bytes of the mapped range.
    #[must_use]
    pub fn mapped_len(&self) -> u64 {
        let buses = u64::from(self.last_bus.saturating_sub(self.first_bus)) + 1;
        buses * BUS_LEN
    }

    /// Where the 4 KiB of configuration space of a function are, or `None` where they are not mapped.
    #[must_use]
    pub fn function(&self, function: pci::Address) -> Option<PhysAddr> {
        let is_mapped = function.segment() == self.segment
            && (self.first_bus..=self.last_bus).contains(&function.bus());
        let offset = u64::from(function.requester()) * FUNCTION_LEN;
        is_mapped.then(|| self.base.checked_add(offset))?
    }
}

/// What follows the header.
type Reserved = U64;

#[derive(FromBytes, Immutable, KnownLayout, Unaligned, Debug)]
#[repr(C)]
struct RawSegment {
    base: U64,
    segment: U16,
    first_bus: u8,
    last_bus: u8,
    reserved: U32,
}

const _: () = assert!(size_of::<RawSegment>() == 16);

impl RawSegment {
    fn decode(&self) -> Segment {
        Segment {
            segment: self.segment.get(),
            base: PhysAddr::new(self.base.get()),
            first_bus: self.first_bus,
            last_bus: self.last_bus,
        }
    }

    /// What is wrong with the range, and where in it.
    fn first_problem(&self) -> Option<(usize, Problem)> {
        let problem = |offset, field, value| Some((offset, Problem::Value { field, value }));
        if self.first_bus > self.last_bus {
            return problem(11, "the last bus before the first", self.last_bus.into());
        }
        let len = (u64::from(self.last_bus) + 1) * BUS_LEN;
        if !self.base.get().is_multiple_of(BUS_LEN) || self.base.get().checked_add(len).is_none() {
            return problem(0, "the base of configuration space", self.base.get());
        }
        None
    }
}
