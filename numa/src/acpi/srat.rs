//! System Resource Affinity Table: what belongs to which proximity domain, ACPI 6.3 §5.2.16.

use bitflags::bitflags;
use parakernel_core::address::PhysAddr;
use parakernel_core::pci;
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use super::entries::{ByteHeader, Entries, RawEntry};
use super::{Error, Signature, Table};

/// Which core, memory and device belongs to which proximity domain.
#[derive(Clone, Copy, Debug)]
pub struct Srat<'a> {
    revision: u8,
    entries: &'a [u8],
}

/// One entry of the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Entry {
    /// A core.
    Processor(ProcessorAffinity),
    /// A range of memory.
    Memory(MemoryAffinity),
    /// A device that accesses memory on its own account.
    Initiator(InitiatorAffinity),
    /// A type that this crate has no use for.
    Other(u8),
}

/// Where a core belongs: Processor Local APIC (§5.2.16.1) or x2APIC affinity structure (§5.2.16.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProcessorAffinity {
    /// The identity of its local APIC.
    pub apic_id: u32,
    /// The proximity domain.
    pub domain: u32,
    /// Whether the entry counts.
    pub is_enabled: bool,
}

/// Where a range of memory belongs, §5.2.16.2.
///
/// The range says where memory of the domain may be, not that memory is there: that is for the memory map to say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryAffinity {
    /// Its first byte.
    pub base: PhysAddr,
    /// How many bytes. For entries that are enabled, `base + len` fits.
    pub len: u64,
    /// The proximity domain.
    pub domain: u32,
    /// What kind of memory it is, and whether the entry counts.
    pub flags: MemoryFlags,
}

bitflags! {
    /// What kind of memory a range holds, §5.2.16.2.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct MemoryFlags: u32 {
        /// The entry counts.
        const ENABLED = 1 << 0;
        /// Memory may be plugged in here later.
        const HOT_PLUGGABLE = 1 << 1;
        /// The memory keeps its contents without power.
        const NON_VOLATILE = 1 << 2;
    }
}

/// Where a device belongs that accesses memory on its own account, §5.2.16.6.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InitiatorAffinity {
    /// The device.
    pub device: DeviceHandle,
    /// The proximity domain.
    pub domain: u32,
    /// Whether the entry counts.
    pub is_enabled: bool,
}

/// How an [`InitiatorAffinity`] names its device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum DeviceHandle {
    /// By its place in the ACPI namespace.
    Acpi {
        /// Its `_HID`.
        hid: [u8; 8],
        /// Its `_UID`.
        uid: [u8; 4],
    },
    /// By its place on PCI.
    Pci(pci::Address),
    /// In a way that this crate does not know.
    Other(u8),
}

impl<'a> Srat<'a> {
    /// Checks the table that starts with `bytes`.
    ///
    /// # Errors
    ///
    /// Any [`Problem`](super::Problem) of the table or of one of its entries.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
        Self::new(Table::parse(bytes, Signature::SRAT)?)
    }

    pub(super) fn new(table: Table<'a>) -> Result<Self, Error> {
        let (_, entries) = table.body::<Fixed>()?;
        let revision = table.revision();
        let srat = Self { revision, entries };
        srat.checked_entries()
            .try_for_each(|entry| entry.map(drop))?;
        Ok(srat)
    }

    /// All entries, in the order of the table.
    pub fn entries(&self) -> impl Iterator<Item = Entry> + Clone + use<'a> {
        self.checked_entries().map_while(Result::ok)
    }

    /// The cores whose entries are enabled.
    pub fn processors(&self) -> impl Iterator<Item = ProcessorAffinity> + Clone + use<'a> {
        self.entries().filter_map(|entry| match entry {
            Entry::Processor(core) if core.is_enabled => Some(core),
            Entry::Processor(_) | Entry::Memory(_) | Entry::Initiator(_) | Entry::Other(_) => None,
        })
    }

    /// The memory ranges that are enabled and not empty.
    pub fn memory(&self) -> impl Iterator<Item = MemoryAffinity> + Clone + use<'a> {
        self.entries().filter_map(|entry| match entry {
            Entry::Memory(memory) if memory.is_enabled() && memory.len > 0 => Some(memory),
            Entry::Processor(_) | Entry::Memory(_) | Entry::Initiator(_) | Entry::Other(_) => None,
        })
    }

    /// The devices whose entries are enabled.
    pub fn initiators(&self) -> impl Iterator<Item = InitiatorAffinity> + Clone + use<'a> {
        self.entries().filter_map(|entry| match entry {
            Entry::Initiator(device) if device.is_enabled => Some(device),
            Entry::Processor(_) | Entry::Memory(_) | Entry::Initiator(_) | Entry::Other(_) => None,
        })
    }

    fn checked_entries(&self) -> impl Iterator<Item = Result<Entry, Error>> + Clone + use<'a> {
        let offset = Table::HEADER_LEN + size_of::<Fixed>();
        let domains = Domains::of_revision(self.revision);
        Entries::<'a, ByteHeader>::new(Signature::SRAT, offset, self.entries)
            .map(move |entry| Entry::decode(&entry?, domains))
    }
}

impl MemoryAffinity {
    /// Whether the entry counts.
    #[must_use]
    pub const fn is_enabled(&self) -> bool {
        self.flags.contains(MemoryFlags::ENABLED)
    }
}

/// How wide a proximity domain is in the oldest two structures.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Domains {
    /// ACPI 1.0 and 2.0: 8 bits, what is now the rest was reserved.
    Narrow,
    /// Since ACPI 3.0: 32 bits.
    Wide,
}

impl Domains {
    const fn of_revision(revision: u8) -> Self {
        if revision < 2 {
            Self::Narrow
        } else {
            Self::Wide
        }
    }

    const fn mask(self, domain: u32) -> u32 {
        match self {
            Self::Narrow => domain & 0xFF,
            Self::Wide => domain,
        }
    }
}

/// What follows the header: "reserved to be 1" for compatibility, and eight more reserved bytes.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Fixed {
    revision: U32,
    reserved: U64,
}

/// Type 0, §5.2.16.1.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawProcessor {
    header: ByteHeader,
    domain_low: u8,
    apic_id: u8,
    flags: U32,
    sapic_eid: u8,
    domain_high: [u8; 3],
    clock_domain: U32,
}

/// Type 1, §5.2.16.2.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawMemory {
    header: ByteHeader,
    domain: U32,
    reserved1: U16,
    base: U64,
    len: U64,
    reserved2: U32,
    flags: U32,
    reserved3: U64,
}

/// Type 2, §5.2.16.3.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawX2Apic {
    header: ByteHeader,
    reserved1: U16,
    domain: U32,
    apic_id: U32,
    flags: U32,
    clock_domain: U32,
    reserved2: U32,
}

/// Type 5, §5.2.16.6.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawInitiator {
    header: ByteHeader,
    reserved1: u8,
    handle_type: u8,
    domain: U32,
    handle: [u8; 16],
    flags: U32,
    reserved2: U32,
}

const _: () = assert!(size_of::<Fixed>() == 12);
const _: () = assert!(size_of::<RawProcessor>() == 16);
const _: () = assert!(size_of::<RawMemory>() == 40);
const _: () = assert!(size_of::<RawX2Apic>() == 24);
const _: () = assert!(size_of::<RawInitiator>() == 32);

/// Bit 0 of the flags of processors and initiators.
const ENABLED: u32 = 1;

impl Entry {
    fn decode(entry: &RawEntry<'_>, domains: Domains) -> Result<Self, Error> {
        Ok(match entry.kind {
            0 => Self::Processor(entry.view::<RawProcessor>()?.decode(domains)),
            1 => Self::Memory(entry.view::<RawMemory>()?.decode(entry, domains)?),
            2 => Self::Processor(entry.view::<RawX2Apic>()?.decode()),
            5 => Self::Initiator(entry.view::<RawInitiator>()?.decode()),
            // The header of these entries has one byte for the type.
            other => Self::Other(other.to_le_bytes()[0]),
        })
    }
}

impl RawProcessor {
    fn decode(&self, domains: Domains) -> ProcessorAffinity {
        let [second, third, fourth] = self.domain_high;
        let domain = u32::from_le_bytes([self.domain_low, second, third, fourth]);
        ProcessorAffinity {
            apic_id: self.apic_id.into(),
            domain: domains.mask(domain),
            is_enabled: self.flags.get() & ENABLED != 0,
        }
    }
}

impl RawX2Apic {
    fn decode(&self) -> ProcessorAffinity {
        ProcessorAffinity {
            apic_id: self.apic_id.get(),
            domain: self.domain.get(),
            is_enabled: self.flags.get() & ENABLED != 0,
        }
    }
}

impl RawMemory {
    fn decode(&self, entry: &RawEntry<'_>, domains: Domains) -> Result<MemoryAffinity, Error> {
        let memory = MemoryAffinity {
            base: PhysAddr::new(self.base.get()),
            len: self.len.get(),
            domain: domains.mask(self.domain.get()),
            flags: MemoryFlags::from_bits_retain(self.flags.get()),
        };
        if memory.is_enabled() && memory.base.checked_add(memory.len).is_none() {
            return Err(entry.value(
                16,
                "the length of memory up to the last address",
                memory.len,
            ));
        }
        Ok(memory)
    }
}

impl RawInitiator {
    fn decode(&self) -> InitiatorAffinity {
        let [a, b, c, d, e, f, g, h, i, j, k, l, ..] = self.handle;
        let device = match self.handle_type {
            0 => DeviceHandle::Acpi {
                hid: [a, b, c, d, e, f, g, h],
                uid: [i, j, k, l],
            },
            // Segment, then bus, then device and function in one byte.
            1 => {
                let segment = u16::from_le_bytes([a, b]);
                let requester = u16::from_be_bytes([c, d]);
                DeviceHandle::Pci(pci::Address::from_requester(segment, requester))
            }
            other => DeviceHandle::Other(other),
        };
        InitiatorAffinity {
            device,
            domain: self.domain.get(),
            is_enabled: self.flags.get() & ENABLED != 0,
        }
    }
}
