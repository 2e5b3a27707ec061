//! Heterogeneous Memory Attribute Table: latency, bandwidth and memory-side caches, ACPI 6.3 §5.2.27.

use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use super::entries::{Entries, RawEntry, WideHeader};
use super::{Error, Problem, Signature, Table};

/// How fast memory is for whom.
#[derive(Clone, Copy, Debug)]
pub struct Hmat<'a> {
    structures: &'a [u8],
}

/// One structure of the table.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Structure<'a> {
    /// Which initiators a memory is attached to.
    Memory(MemoryAttributes),
    /// A matrix of latencies or bandwidths.
    Locality(Locality<'a>),
    /// A cache in front of memory.
    Cache(MemorySideCache),
    /// A type that this crate has no use for.
    Other(u16),
}

/// Memory Proximity Domain Attributes, §5.2.27.3.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryAttributes {
    /// The proximity domain of the memory.
    pub memory: u32,
    /// The proximity domain of the cores or devices that it is attached to, if there is one.
    pub initiator: Option<u32>,
}

/// System Locality Latency and Bandwidth Information, §5.2.27.4.
#[derive(Clone, Copy, Debug)]
pub struct Locality<'a> {
    /// What the matrix measures.
    pub measure: Measure,
    /// What it measures it of.
    pub hierarchy: Hierarchy,
    base_unit: u64,
    initiators: &'a [U32],
    targets: &'a [U32],
    /// Row by row, one row per initiator.
    entries: &'a [U16],
}

/// What a [`Locality`] measures. Reading and writing alike, where neither is named.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Measure {
    /// Latency, in picoseconds.
    AccessLatency,
    /// Latency of reading, in picoseconds.
    ReadLatency,
    /// Latency of writing, in picoseconds.
    WriteLatency,
    /// Bandwidth, in MB/s.
    AccessBandwidth,
    /// Bandwidth of reading, in MB/s.
    ReadBandwidth,
    /// Bandwidth of writing, in MB/s.
    WriteBandwidth,
}

/// What a [`Locality`] is about: memory itself, or a level of the caches in front of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hierarchy {
    /// The memory, or the last level that has no own matrix.
    Memory,
    /// The memory-side cache of this level, 1 to 3.
    Cache(u8),
}

/// What a [`Locality`] says about one initiator and one target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Performance {
    /// Nothing.
    Unknown,
    /// That the one cannot reach the other.
    Unreachable,
    /// This many units, see [`Measure`].
    Known(u64),
}

/// Memory Side Cache Information, §5.2.27.5.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemorySideCache {
    /// The proximity domain of the memory.
    pub memory: u32,
    /// Bytes of the cache.
    pub size: u64,
    /// How many levels of cache the memory has, 0 to 3 (larger values are reserved).
    pub levels: u8,
    /// Which of them this is, 0 to 3 (larger values are reserved).
    pub level: u8,
    /// Bytes of a cache line.
    pub line: u16,
}

impl<'a> Hmat<'a> {
    /// Checks the table that starts with `bytes`.
    ///
    /// # Errors
    ///
    /// Any [`Problem`] of the table or of one of its structures; [`Problem::Revision`] for revision 1 (ACPI 6.2), whose
    /// units are different ones.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
        Self::new(Table::parse(bytes, Signature::HMAT)?)
    }

    pub(super) fn new(table: Table<'a>) -> Result<Self, Error> {
        if table.revision() < 2 {
            return Err(table.error(8, Problem::Revision(table.revision())));
        }
        let (_, structures) = table.body::<Reserved>()?;
        let hmat = Self { structures };
        hmat.checked_structures()
            .try_for_each(|structure| structure.map(drop))?;
        Ok(hmat)
    }

    /// All structures, in the order of the table.
    pub fn structures(&self) -> impl Iterator<Item = Structure<'a>> + Clone + use<'a> {
        self.checked_structures().map_while(Result::ok)
    }

    /// The matrices of latencies and bandwidths.
    pub fn localities(&self) -> impl Iterator<Item = Locality<'a>> + Clone + use<'a> {
        self.structures().filter_map(|structure| {
            if let Structure::Locality(locality) = structure {
                Some(locality)
            } else {
                None
            }
        })
    }

    /// What memory is attached to whom.
    pub fn memories(&self) -> impl Iterator<Item = MemoryAttributes> + Clone + use<'a> {
        self.structures().filter_map(|structure| {
            if let Structure::Memory(memory) = structure {
                Some(memory)
            } else {
                None
            }
        })
    }

    /// The caches in front of memory.
    pub fn caches(&self) -> impl Iterator<Item = MemorySideCache> + Clone + use<'a> {
        self.structures().filter_map(|structure| {
            if let Structure::Cache(cache) = structure {
                Some(cache)
            } else {
                None
            }
        })
    }

    fn checked_structures(
        &self,
    ) -> impl Iterator<Item = Result<Structure<'a>, Error>> + Clone + use<'a> {
        let offset = Table::HEADER_LEN + size_of::<Reserved>();
        Entries::<'a, WideHeader>::new(Signature::HMAT, offset, self.structures)
            .map(|entry| Structure::decode(&entry?))
    }
}

impl<'a> Locality<'a> {
    /// The proximity domains that access memory: the rows of the matrix.
    pub fn initiators(&self) -> impl Iterator<Item = u32> + Clone + use<'a> {
        self.initiators.iter().map(|domain| domain.get())
    }

    /// The proximity domains of memory: the columns of the matrix.
    pub fn targets(&self) -> impl Iterator<Item = u32> + Clone + use<'a> {
        self.targets.iter().map(|domain| domain.get())
    }

    /// What domain `initiator` can expect of the memory of domain `target`.
    #[must_use]
    pub fn performance(&self, initiator: u32, target: u32) -> Performance {
        let row = self.initiators().position(|domain| domain == initiator);
        let column = self.targets().position(|domain| domain == target);
        let entry = row
            .zip(column)
            .and_then(|(row, column)| self.entries.get(row * self.targets.len() + column));
        match entry.map(|entry| entry.get()) {
            None | Some(0) => Performance::Unknown,
            Some(u16::MAX) => Performance::Unreachable,
            // Does not overflow: `parse` refuses larger units.
            Some(entry) => Performance::Known(u64::from(entry) * self.base_unit),
        }
    }

    fn decode(entry: &RawEntry<'a>) -> Result<Self, Error> {
        let (raw, lists) = entry.split::<RawLocality>()?;
        let base_unit = raw.base_unit.get();
        if base_unit > u64::MAX / u64::from(u16::MAX) {
            return Err(entry.value(24, "the base unit", base_unit));
        }
        let (initiators, rest) = list::<U32>(entry, lists, raw.initiators.get())?;
        let (targets, rest) = list::<U32>(entry, rest, raw.targets.get())?;
        // A product beyond 32 bits cannot be right: the entry's length has no more.
        let cells = raw.initiators.get().saturating_mul(raw.targets.get());
        let (entries, _) = list::<U16>(entry, rest, cells)?;
        Ok(Self {
            measure: Measure::decode(raw.measure)
                .ok_or_else(|| entry.value(9, "the data type", raw.measure.into()))?,
            hierarchy: Hierarchy::decode(raw.flags)
                .ok_or_else(|| entry.value(8, "the memory hierarchy", raw.flags.into()))?,
            base_unit,
            initiators,
            targets,
            entries,
        })
    }
}

/// The `count` elements that `bytes` start with, which end `entry`, and what follows them.
fn list<'a, T>(
    entry: &RawEntry<'_>,
    bytes: &'a [u8],
    count: u32,
) -> Result<(&'a [T], &'a [u8]), Error>
where
    T: FromBytes + Immutable + Unaligned,
{
    let len = bytes.len();
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    <[T]>::ref_from_prefix_with_elems(bytes, count).map_err(|_| {
        let needed = count.saturating_mul(size_of::<T>());
        let problem = Problem::TooShort { len, needed };
        entry.error(entry.bytes.len() - len, problem)
    })
}

/// What follows the header.
type Reserved = U32;

/// Type 0, §5.2.27.3.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawMemory {
    header: WideHeader,
    flags: U16,
    reserved1: U16,
    initiator: U32,
    memory: U32,
    reserved2: [u8; 20],
}

/// Type 1, §5.2.27.4; the lists of initiators and of targets and the matrix follow.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawLocality {
    header: WideHeader,
    flags: u8,
    measure: u8,
    min_transfer: u8,
    reserved1: u8,
    initiators: U32,
    targets: U32,
    reserved2: U32,
    base_unit: U64,
}

/// Type 2, §5.2.27.5; a list of SMBIOS handles follows.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawCache {
    header: WideHeader,
    memory: U32,
    reserved1: U32,
    size: U64,
    attributes: U32,
    reserved2: U16,
    handles: U16,
}

const _: () = assert!(size_of::<RawMemory>() == 40);
const _: () = assert!(size_of::<RawLocality>() == 32);
const _: () = assert!(size_of::<RawCache>() == 32);

impl<'a> Structure<'a> {
    fn decode(entry: &RawEntry<'a>) -> Result<Self, Error> {
        Ok(match entry.kind {
            0 => Self::Memory(entry.view::<RawMemory>()?.decode()),
            1 => Self::Locality(Locality::decode(entry)?),
            2 => Self::Cache(entry.view::<RawCache>()?.decode()),
            other => Self::Other(other),
        })
    }
}

impl RawMemory {
    fn decode(&self) -> MemoryAttributes {
        MemoryAttributes {
            memory: self.memory.get(),
            initiator: (self.flags.get() & 1 != 0).then_some(self.initiator.get()),
        }
    }
}

impl RawCache {
    fn decode(&self) -> MemorySideCache {
        let [levels, _, line_low, line_high] = self.attributes.get().to_le_bytes();
        MemorySideCache {
            memory: self.memory.get(),
            size: self.size.get(),
            levels: levels & 0xF,
            level: levels >> 4,
            line: u16::from_le_bytes([line_low, line_high]),
        }
    }
}

impl Measure {
    const fn decode(data_type: u8) -> Option<Self> {
        Some(match data_type {
            0 => Self::AccessLatency,
            1 => Self::ReadLatency,
            2 => Self::WriteLatency,
            3 => Self::AccessBandwidth,
            4 => Self::ReadBandwidth,
            5 => Self::WriteBandwidth,
            _ => return None,
        })
    }
}

impl Hierarchy {
    const fn decode(flags: u8) -> Option<Self> {
        match flags & 0xF {
            0 => Some(Self::Memory),
            level @ 1..=3 => Some(Self::Cache(level)),
            _ => None,
        }
    }
}
