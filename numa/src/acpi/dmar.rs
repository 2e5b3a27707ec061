//! DMA Remapping Reporting Table: the machine's IOMMUs, Intel VT-d 3.3 §8.

use bitflags::bitflags;
use parakernel_core::address::PhysAddr;
use parakernel_core::pci;
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use super::entries::{ByteHeader, Entries, RawEntry, WordHeader};
use super::{Error, Problem, Signature, Table};

/// The DMA remapping units and what they are responsible for.
#[derive(Clone, Copy, Debug)]
pub struct Dmar<'a> {
    fixed: &'a Fixed,
    structures: &'a [u8],
}

bitflags! {
    /// What the platform supports, and what it asks for, §8.1.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Flags: u8 {
        /// Interrupts can be remapped.
        const INTERRUPT_REMAPPING = 1 << 0;
        /// Firmware asks not to turn x2APIC on.
        const X2APIC_OPT_OUT = 1 << 1;
        /// Firmware keeps devices from DMA outside reserved regions until the hand-over.
        const DMA_CONTROL_OPT_IN = 1 << 2;
    }
}

/// One structure of the table.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Structure<'a> {
    /// A remapping unit.
    Unit(Unit<'a>),
    /// Memory that devices access on behalf of firmware.
    Reserved(ReservedRegion<'a>),
    /// Root ports that translate for the caches of the devices below them.
    Ats(AtsPorts<'a>),
    /// The proximity domain of a remapping unit.
    Affinity(UnitAffinity),
    /// A type that this crate has no use for.
    Other(u16),
}

/// A DMA Remapping Hardware Unit Definition (DRHD), §8.3.
#[derive(Clone, Copy, Debug)]
pub struct Unit<'a> {
    /// The PCI segment group that it serves.
    pub segment: u16,
    /// Where its registers are; a multiple of 4 KiB.
    pub registers: PhysAddr,
    /// Whether it serves all functions of the segment that no other unit names.
    pub serves_rest: bool,
    /// The devices that it serves. If it serves the rest, only I/O APICs and HPETs count.
    pub scopes: Scopes<'a>,
}

/// A Reserved Memory Region Reporting structure (RMRR), §8.4.
#[derive(Clone, Copy, Debug)]
pub struct ReservedRegion<'a> {
    /// The PCI segment group of the devices.
    pub segment: u16,
    /// Its first byte; a multiple of 4 KiB.
    pub base: PhysAddr,
    /// Its last byte, no lower than the first.
    pub last: PhysAddr,
    /// The devices that must reach it.
    pub scopes: Scopes<'a>,
}

/// A Root Port ATS Capability structure (ATSR), §8.5.
#[derive(Clone, Copy, Debug)]
pub struct AtsPorts<'a> {
    /// The PCI segment group.
    pub segment: u16,
    /// Whether all root ports of the segment support ATS.
    pub all: bool,
    /// Otherwise, those that do.
    pub scopes: Scopes<'a>,
}

/// A Remapping Hardware Static Affinity structure (RHSA), §8.6.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UnitAffinity {
    /// The [`registers`](Unit::registers) of the unit.
    pub registers: PhysAddr,
    /// Its proximity domain.
    pub domain: u32,
}

/// The devices that a structure is about, §8.3.1.
#[derive(Clone, Copy, Debug)]
pub struct Scopes<'a> {
    /// Of the first scope, from the start of the table.
    offset: usize,
    bytes: &'a [u8],
}

/// A device or a tree of devices, by the way from its host bridge.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scope<'a> {
    /// What it is.
    pub kind: ScopeKind,
    /// The I/O APIC's id, or the number of the HPET block or namespace device.
    pub enumeration_id: u8,
    /// The bus below the host bridge, where the path starts.
    pub start_bus: u8,
    path: &'a [RawHop],
}

/// What a [`Scope`] describes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ScopeKind {
    /// One PCI function.
    Endpoint,
    /// A PCI bridge and all that is below it.
    SubHierarchy,
    /// An I/O APIC.
    IoApic,
    /// A timer block that signals by messages.
    Hpet,
    /// A device of the ACPI namespace.
    Namespace,
    /// A type that this crate does not know.
    Other(u8),
}

/// One step of a path: a function, and if the path goes on, the bridge to the next bus.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hop {
    /// The device, 0 to 31.
    pub device: u8,
    /// The function, 0 to 7.
    pub function: u8,
}

impl<'a> Dmar<'a> {
    /// Checks the table that starts with `bytes`.
    ///
    /// # Errors
    ///
    /// Any [`Problem`] of the table, of one of its structures, or of a device scope in it.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
        Self::new(Table::parse(bytes, Signature::DMAR)?)
    }

    pub(super) fn new(table: Table<'a>) -> Result<Self, Error> {
        let (fixed, structures) = table.body()?;
        let dmar = Self { fixed, structures };
        dmar.checked_structures()
            .try_for_each(|structure| structure.map(drop))?;
        Ok(dmar)
    }

    /// Bits of a physical address that DMA can reach, 1 to 256.
    #[must_use]
    pub fn address_width(&self) -> u16 {
        u16::from(self.fixed.address_width) + 1
    }

    /// What the platform supports, and what it asks for.
    #[must_use]
    pub const fn flags(&self) -> Flags {
        Flags::from_bits_retain(self.fixed.flags)
    }

    /// All structures, in the order of the table.
    pub fn structures(&self) -> impl Iterator<Item = Structure<'a>> + Clone + use<'a> {
        self.checked_structures().map_while(Result::ok)
    }

    /// The remapping units. One that serves the rest comes last of its segment (§8.3).
    pub fn units(&self) -> impl Iterator<Item = Unit<'a>> + Clone + use<'a> {
        self.structures().filter_map(|structure| {
            if let Structure::Unit(unit) = structure {
                Some(unit)
            } else {
                None
            }
        })
    }

    /// The regions that some devices must be able to reach.
    pub fn reserved_regions(&self) -> impl Iterator<Item = ReservedRegion<'a>> + Clone + use<'a> {
        self.structures().filter_map(|structure| {
            if let Structure::Reserved(region) = structure {
                Some(region)
            } else {
                None
            }
        })
    }

    /// The root ports that support ATS.
    pub fn ats_ports(&self) -> impl Iterator<Item = AtsPorts<'a>> + Clone + use<'a> {
        self.structures().filter_map(|structure| {
            if let Structure::Ats(ports) = structure {
                Some(ports)
            } else {
                None
            }
        })
    }

    /// The proximity domains of remapping units.
    pub fn affinities(&self) -> impl Iterator<Item = UnitAffinity> + Clone + use<'a> {
        self.structures().filter_map(|structure| {
            if let Structure::Affinity(affinity) = structure {
                Some(affinity)
            } else {
                None
            }
        })
    }

    fn checked_structures(
        &self,
    ) -> impl Iterator<Item = Result<Structure<'a>, Error>> + Clone + use<'a> {
        let offset = Table::HEADER_LEN + size_of::<Fixed>();
        Entries::<'a, WordHeader>::new(Signature::DMAR, offset, self.structures)
            .map(|entry| Structure::decode(&entry?))
    }
}

impl<'a> Scopes<'a> {
    /// The scopes that are `bytes`, all of which follow the fixed part of `entry`.
    fn parse(entry: &RawEntry<'_>, bytes: &'a [u8]) -> Result<Self, Error> {
        let offset = entry.offset + (entry.bytes.len() - bytes.len());
        let scopes = Self { offset, bytes };
        scopes
            .checked_iter()
            .try_for_each(|scope| scope.map(drop))?;
        Ok(scopes)
    }

    /// The scopes, in the order of the table.
    pub fn iter(&self) -> impl Iterator<Item = Scope<'a>> + Clone + use<'a> {
        self.checked_iter().map_while(Result::ok)
    }

    fn checked_iter(&self) -> impl Iterator<Item = Result<Scope<'a>, Error>> + Clone + use<'a> {
        Entries::<'a, ByteHeader>::new(Signature::DMAR, self.offset, self.bytes)
            .map(|entry| Scope::decode(&entry?))
    }
}

impl<'a> Scope<'a> {
    /// The way from the start bus to the device: at least one hop.
    pub fn path(&self) -> impl Iterator<Item = Hop> + Clone + use<'a> {
        self.path.iter().map(RawHop::decode)
    }

    /// The function in PCI segment `segment`, if it is on the start bus.
    ///
    /// Longer paths lead over bridges whose secondary buses only configuration space knows.
    #[must_use]
    pub fn function(&self, segment: u16) -> Option<pci::Address> {
        match self.path {
            [hop] => pci::Address::new(segment, self.start_bus, hop.device, hop.function),
            _ => None,
        }
    }
}

/// What follows the header, §8.1.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned, Debug)]
#[repr(C)]
struct Fixed {
    address_width: u8,
    flags: u8,
    reserved: [u8; 10],
}

/// Type 0, §8.3.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawUnit {
    header: WordHeader,
    flags: u8,
    size: u8,
    segment: U16,
    registers: U64,
}

/// Type 1, §8.4.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawReservedRegion {
    header: WordHeader,
    reserved: U16,
    segment: U16,
    base: U64,
    last: U64,
}

/// Type 2, §8.5.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawAtsPorts {
    header: WordHeader,
    flags: u8,
    reserved: u8,
    segment: U16,
}

/// Type 3, §8.6.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawAffinity {
    header: WordHeader,
    reserved: U32,
    registers: U64,
    domain: U32,
}

/// §8.3.1; the path follows.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawScope {
    header: ByteHeader,
    flags: u8,
    reserved: u8,
    enumeration_id: u8,
    start_bus: u8,
}

#[derive(FromBytes, Immutable, KnownLayout, Unaligned, Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
struct RawHop {
    device: u8,
    function: u8,
}

const _: () = assert!(size_of::<Fixed>() == 12);
const _: () = assert!(size_of::<RawUnit>() == 16);
const _: () = assert!(size_of::<RawReservedRegion>() == 24);
const _: () = assert!(size_of::<RawAtsPorts>() == 8);
const _: () = assert!(size_of::<RawAffinity>() == 20);
const _: () = assert!(size_of::<RawScope>() == 6);

/// Bit 0 of the flags of a unit (`INCLUDE_PCI_ALL`) and of ATS ports (`ALL_PORTS`).
const ALL: u8 = 1;
/// What registers and reserved regions are aligned to.
const PAGE: u64 = 4096;

impl<'a> Structure<'a> {
    fn decode(entry: &RawEntry<'a>) -> Result<Self, Error> {
        Ok(match entry.kind {
            0 => Self::Unit(Unit::decode(entry)?),
            1 => Self::Reserved(ReservedRegion::decode(entry)?),
            2 => Self::Ats(AtsPorts::decode(entry)?),
            3 => Self::Affinity(entry.view::<RawAffinity>()?.decode()),
            other => Self::Other(other),
        })
    }
}

impl<'a> Unit<'a> {
    fn decode(entry: &RawEntry<'a>) -> Result<Self, Error> {
        let (raw, scopes) = entry.split::<RawUnit>()?;
        let registers = PhysAddr::new(raw.registers.get());
        if !registers.is_aligned(PAGE) || registers.checked_add(PAGE).is_none() {
            return Err(entry.value(8, "the register base", registers.as_u64()));
        }
        Ok(Self {
            segment: raw.segment.get(),
            registers,
            serves_rest: raw.flags & ALL != 0,
            scopes: Scopes::parse(entry, scopes)?,
        })
    }
}

impl<'a> ReservedRegion<'a> {
    fn decode(entry: &RawEntry<'a>) -> Result<Self, Error> {
        let (raw, scopes) = entry.split::<RawReservedRegion>()?;
        let (base, last) = (raw.base.get(), raw.last.get());
        if !base.is_multiple_of(PAGE) {
            return Err(entry.value(8, "the base of reserved memory", base));
        }
        if last < base {
            return Err(entry.value(16, "the limit of reserved memory", last));
        }
        Ok(Self {
            segment: raw.segment.get(),
            base: PhysAddr::new(base),
            last: PhysAddr::new(last),
            scopes: Scopes::parse(entry, scopes)?,
        })
    }
}

impl<'a> AtsPorts<'a> {
    fn decode(entry: &RawEntry<'a>) -> Result<Self, Error> {
        let (raw, scopes) = entry.split::<RawAtsPorts>()?;
        Ok(Self {
            segment: raw.segment.get(),
            all: raw.flags & ALL != 0,
            scopes: Scopes::parse(entry, scopes)?,
        })
    }
}

impl RawAffinity {
    fn decode(&self) -> UnitAffinity {
        UnitAffinity {
            registers: PhysAddr::new(self.registers.get()),
            domain: self.domain.get(),
        }
    }
}

impl<'a> Scope<'a> {
    fn decode(entry: &RawEntry<'a>) -> Result<Self, Error> {
        let (raw, hops) = entry.split::<RawScope>()?;
        let offset = size_of::<RawScope>();
        let len = hops.len();
        let element = size_of::<RawHop>();
        let path = <[RawHop]>::ref_from_bytes(hops)
            .map_err(|_| entry.error(offset, Problem::Ragged { len, element }))?;
        if path.is_empty() {
            let needed = element;
            return Err(entry.error(offset, Problem::TooShort { len, needed }));
        }
        for (index, hop) in path.iter().enumerate() {
            let at = offset + index * element;
            if hop.device > 31 {
                return Err(entry.value(at, "the device of a path", hop.device.into()));
            }
            if hop.function > 7 {
                return Err(entry.value(at + 1, "the function of a path", hop.function.into()));
            }
        }
        Ok(Self {
            kind: ScopeKind::decode(entry.kind),
            enumeration_id: raw.enumeration_id,
            start_bus: raw.start_bus,
            path,
        })
    }
}

impl ScopeKind {
    const fn decode(kind: u16) -> Self {
        match kind {
            1 => Self::Endpoint,
            2 => Self::SubHierarchy,
            3 => Self::IoApic,
            4 => Self::Hpet,
            5 => Self::Namespace,
            // The header of scopes has one byte for the type.
            other => Self::Other(other.to_le_bytes()[0]),
        }
    }
}

impl RawHop {
    const fn decode(&self) -> Hop {
        Hop {
            device: self.device,
            function: self.function,
        }
    }
}
