//! Multiple APIC Description Table: cores and interrupt controllers, ACPI 6.3 §5.2.12.

use parakernel_core::address::PhysAddr;
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use super::entries::{ByteHeader, Entries, RawEntry};
use super::{Error, Signature, Table};

/// The interrupt controllers of a machine, one local APIC per core among them.
#[derive(Clone, Copy, Debug)]
pub struct Madt<'a> {
    fixed: &'a Fixed,
    entries: &'a [u8],
}

/// One entry of the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum Entry {
    /// A core, by its local APIC or x2APIC.
    Processor(Processor),
    /// An I/O APIC.
    IoApic(IoApic),
    /// An ISA interrupt that is wired to another input than the one with its number.
    Override(InterruptOverride),
    /// An input that raises a non-maskable interrupt.
    NmiSource(NmiSource),
    /// A non-maskable interrupt that reaches cores directly.
    LocalNmi(LocalNmi),
    /// Where the local APICs' registers are, if not at the table's 32-bit address.
    LocalApicAddress(PhysAddr),
    /// A type that this crate has no use for.
    Other(u8),
}

/// A core, from a Processor Local APIC (§5.2.12.2) or Processor Local x2APIC structure (§5.2.12.12).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Processor {
    /// The identity that the ACPI namespace uses.
    pub uid: u32,
    /// The identity that interrupts are sent to; below 256 without x2APIC.
    pub apic_id: u32,
    /// Whether it can be started.
    pub state: ProcessorState,
}

/// Whether a core can be started, the local APIC flags of §5.2.12.2.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum ProcessorState {
    /// It is ready for use.
    Enabled,
    /// It may be plugged in later.
    OnlineCapable,
    /// It is not there.
    Unusable,
}

/// An I/O APIC, §5.2.12.3.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct IoApic {
    /// Its identity.
    pub id: u8,
    /// Where its registers are.
    pub address: PhysAddr,
    /// The number of its first input among all inputs of the machine.
    pub first_input: u32,
}

/// The wiring of one ISA interrupt, §5.2.12.5.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct InterruptOverride {
    /// The ISA interrupt, 0 to 15 on real machines.
    pub source: u8,
    /// The input that it is wired to.
    pub input: u32,
    /// How it signals.
    pub line: Line,
}

/// An input that raises a non-maskable interrupt, §5.2.12.6.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct NmiSource {
    /// The input.
    pub input: u32,
    /// How it signals.
    pub line: Line,
}

/// A pin of local APICs that carries a non-maskable interrupt, §5.2.12.7 and §5.2.12.13.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct LocalNmi {
    /// The core's [`uid`](Processor::uid), or `None` for all cores.
    pub uid: Option<u32>,
    /// The pin: LINT0 or LINT1.
    pub lint: u8,
    /// How it signals.
    pub line: Line,
}

/// How an interrupt line signals, the MPS INTI flags of §5.2.12.5.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Line {
    /// The level that counts as asserted.
    pub polarity: Polarity,
    /// Whether the level counts or its change.
    pub trigger: Trigger,
}

/// The level at which a line is asserted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Polarity {
    /// As is usual on its bus; high on ISA.
    Bus,
    /// High.
    High,
    /// Low.
    Low,
}

/// What counts as a signal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Trigger {
    /// As is usual on its bus; the edge on ISA.
    Bus,
    /// The change to asserted.
    Edge,
    /// Being asserted.
    Level,
}

impl<'a> Madt<'a> {
    /// Checks the table that starts with `bytes`.
    ///
    /// # Errors
    ///
    /// Any [`Problem`](super::Problem) of the table or of one of its entries.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
        Self::new(Table::parse(bytes, Signature::MADT)?)
    }

    pub(super) fn new(table: Table<'a>) -> Result<Self, Error> {
        let (fixed, entries) = table.body()?;
        let madt = Self { fixed, entries };
        madt.checked_entries()
            .try_for_each(|entry| entry.map(drop))?;
        Ok(madt)
    }

    /// Where the local APICs' registers are: the 64-bit address where one is given, else the 32-bit one.
    #[must_use]
    pub fn local_apic_address(&self) -> PhysAddr {
        let overridden = self.entries().find_map(|entry| {
            if let Entry::LocalApicAddress(address) = entry {
                Some(address)
            } else {
                None
            }
        });
        overridden.unwrap_or_else(|| PhysAddr::new(self.fixed.local_apic_address.get().into()))
    }

    /// Whether the machine also has a pair of 8259 interrupt controllers, which must be masked.
    #[must_use]
    pub fn has_legacy_controllers(&self) -> bool {
        self.fixed.flags.get() & 1 != 0
    }

    /// All entries, in the order of the table.
    pub fn entries(&self) -> impl Iterator<Item = Entry> + Clone + use<'a> {
        self.checked_entries().map_while(Result::ok)
    }

    /// The cores, in the order of the table: the first is the one that booted (§5.2.12.1).
    pub fn processors(&self) -> impl Iterator<Item = Processor> + Clone + use<'a> {
        self.entries().filter_map(|entry| {
            if let Entry::Processor(processor) = entry {
                Some(processor)
            } else {
                None
            }
        })
    }

    /// The I/O APICs, in the order of the table.
    pub fn io_apics(&self) -> impl Iterator<Item = IoApic> + Clone + use<'a> {
        self.entries().filter_map(|entry| {
            if let Entry::IoApic(io_apic) = entry {
                Some(io_apic)
            } else {
                None
            }
        })
    }

    /// The ISA interrupts that are wired differently, in the order of the table.
    pub fn overrides(&self) -> impl Iterator<Item = InterruptOverride> + Clone + use<'a> {
        self.entries().filter_map(|entry| {
            if let Entry::Override(wiring) = entry {
                Some(wiring)
            } else {
                None
            }
        })
    }

    fn checked_entries(&self) -> impl Iterator<Item = Result<Entry, Error>> + Clone + use<'a> {
        let offset = Table::HEADER_LEN + size_of::<Fixed>();
        Entries::<'a, ByteHeader>::new(Signature::MADT, offset, self.entries)
            .map(|entry| Entry::decode(&entry?))
    }
}

/// What follows the header.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned, Debug)]
#[repr(C)]
struct Fixed {
    local_apic_address: U32,
    flags: U32,
}

/// Type 0, §5.2.12.2.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawLocalApic {
    header: ByteHeader,
    uid: u8,
    apic_id: u8,
    flags: U32,
}

/// Type 1, §5.2.12.3.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawIoApic {
    header: ByteHeader,
    id: u8,
    reserved: u8,
    address: U32,
    first_input: U32,
}

/// Type 2, §5.2.12.5.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawOverride {
    header: ByteHeader,
    bus: u8,
    source: u8,
    input: U32,
    flags: U16,
}

/// Type 3, §5.2.12.6.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawNmiSource {
    header: ByteHeader,
    flags: U16,
    input: U32,
}

/// Type 4, §5.2.12.7.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawLocalApicNmi {
    header: ByteHeader,
    uid: u8,
    flags: U16,
    lint: u8,
}

/// Type 5, §5.2.12.8.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawLocalApicAddress {
    header: ByteHeader,
    reserved: U16,
    address: U64,
}

/// Type 9, §5.2.12.12.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawLocalX2Apic {
    header: ByteHeader,
    reserved: U16,
    apic_id: U32,
    flags: U32,
    uid: U32,
}

/// Type 10, §5.2.12.13.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawLocalX2ApicNmi {
    header: ByteHeader,
    flags: U16,
    uid: U32,
    lint: u8,
    reserved: [u8; 3],
}

const _: () = assert!(size_of::<RawLocalApic>() == 8);
const _: () = assert!(size_of::<RawIoApic>() == 12);
const _: () = assert!(size_of::<RawOverride>() == 10);
const _: () = assert!(size_of::<RawNmiSource>() == 8);
const _: () = assert!(size_of::<RawLocalApicNmi>() == 6);
const _: () = assert!(size_of::<RawLocalApicAddress>() == 12);
const _: () = assert!(size_of::<RawLocalX2Apic>() == 16);
const _: () = assert!(size_of::<RawLocalX2ApicNmi>() == 12);

impl Entry {
    fn decode(entry: &RawEntry<'_>) -> Result<Self, Error> {
        Ok(match entry.kind {
            0 => Self::Processor(entry.view::<RawLocalApic>()?.decode()),
            1 => Self::IoApic(entry.view::<RawIoApic>()?.decode()),
            2 => Self::Override(entry.view::<RawOverride>()?.decode(entry)?),
            3 => Self::NmiSource(entry.view::<RawNmiSource>()?.decode(entry)?),
            4 => Self::LocalNmi(entry.view::<RawLocalApicNmi>()?.decode(entry)?),
            5 => {
                let raw = entry.view::<RawLocalApicAddress>()?;
                Self::LocalApicAddress(PhysAddr::new(raw.address.get()))
            }
            9 => Self::Processor(entry.view::<RawLocalX2Apic>()?.decode()),
            10 => Self::LocalNmi(entry.view::<RawLocalX2ApicNmi>()?.decode(entry)?),
            // The header of these entries has one byte for the type.
            other => Self::Other(other.to_le_bytes()[0]),
        })
    }
}

impl RawLocalApic {
    fn decode(&self) -> Processor {
        Processor {
            uid: self.uid.into(),
            apic_id: self.apic_id.into(),
            state: ProcessorState::decode(self.flags.get()),
        }
    }
}

impl RawLocalX2Apic {
    fn decode(&self) -> Processor {
        Processor {
            uid: self.uid.get(),
            apic_id: self.apic_id.get(),
            state: ProcessorState::decode(self.flags.get()),
        }
    }
}

impl ProcessorState {
    const fn decode(flags: u32) -> Self {
        match flags & 0b11 {
            0b00 => Self::Unusable,
            0b10 => Self::OnlineCapable,
            _ => Self::Enabled,
        }
    }
}

impl RawIoApic {
    fn decode(&self) -> IoApic {
        IoApic {
            id: self.id,
            address: PhysAddr::new(self.address.get().into()),
            first_input: self.first_input.get(),
        }
    }
}

impl RawOverride {
    fn decode(&self, entry: &RawEntry<'_>) -> Result<InterruptOverride, Error> {
        if self.bus != 0 {
            return Err(entry.value(2, "the bus of an override", self.bus.into()));
        }
        Ok(InterruptOverride {
            source: self.source,
            input: self.input.get(),
            line: Line::decode(self.flags.get(), entry, 8)?,
        })
    }
}

impl RawNmiSource {
    fn decode(&self, entry: &RawEntry<'_>) -> Result<NmiSource, Error> {
        Ok(NmiSource {
            input: self.input.get(),
            line: Line::decode(self.flags.get(), entry, 2)?,
        })
    }
}

impl RawLocalApicNmi {
    fn decode(&self, entry: &RawEntry<'_>) -> Result<LocalNmi, Error> {
        Ok(LocalNmi {
            uid: (self.uid != u8::MAX).then_some(self.uid.into()),
            lint: self.lint,
            line: Line::decode(self.flags.get(), entry, 3)?,
        })
    }
}

impl RawLocalX2ApicNmi {
    fn decode(&self, entry: &RawEntry<'_>) -> Result<LocalNmi, Error> {
        let uid = self.uid.get();
        Ok(LocalNmi {
            uid: (uid != u32::MAX).then_some(uid),
            lint: self.lint,
            line: Line::decode(self.flags.get(), entry, 2)?,
        })
    }
}

impl Line {
    /// Decodes the flags that lie `offset` bytes into `entry`.
    fn decode(flags: u16, entry: &RawEntry<'_>, offset: usize) -> Result<Self, Error> {
        let polarity = match flags & 0b11 {
            0b00 => Polarity::Bus,
            0b01 => Polarity::High,
            0b11 => Polarity::Low,
            _ => return Err(entry.value(offset, "the polarity", flags.into())),
        };
        let trigger = match flags >> 2 & 0b11 {
            0b00 => Trigger::Bus,
            0b01 => Trigger::Edge,
            0b11 => Trigger::Level,
            _ => return Err(entry.value(offset, "the trigger mode", flags.into())),
        };
        Ok(Self { polarity, trigger })
    }
}
