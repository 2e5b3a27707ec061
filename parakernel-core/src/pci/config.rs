//! A function's configuration space: identity, base addresses, and the bits that let it at the bus.

use super::{Capabilities, Capability, ExtendedCapabilities, PciError};
use crate::{
    mmio::{Register, Registers, Window},
    registers,
};

/// The type 0 header, PCI 3.0 section 6.1.
#[derive(Debug)]
struct Header;

registers! {
    in Header;

    /// Vendor and device.
    Ids: u32 @ 0x00, read_only {
        VENDOR: bits 0..=15,
        DEVICE: bits 16..=31,
    }

    /// What the function may do.
    Command: u16 @ 0x04, read_write {
        /// Answers at its memory base addresses.
        MEMORY: bit 1,
        /// May start transactions: DMA and message-signalled interrupts.
        BUS_MASTER: bit 2,
        /// May not assert its interrupt pin.
        NO_INTX: bit 10,
    }

    /// What the function has.
    Status: u16 @ 0x06, read_only {
        CAPABILITIES: bit 4,
    }

    /// Revision and class.
    Class: u32 @ 0x08, read_only {
        REVISION: bits 0..=7,
        CLASS: bits 8..=31,
    }

    /// Which header this is.
    HeaderType: u8 @ 0x0e, read_only {
        LAYOUT: bits 0..=6,
        MULTI_FUNCTION: bit 7,
    }

    /// Subsystem.
    Subsystem: u32 @ 0x2c, read_only {
        VENDOR: bits 0..=15,
        DEVICE: bits 16..=31,
    }
}

/// MSI-X, PCI 3.0 section 6.8.2.
#[derive(Debug)]
struct MsiXBlock;

registers! {
    in MsiXBlock;

    /// Message control.
    MessageControl: u16 @ 0x02, read_write {
        /// Number of vectors, minus one.
        TABLE_SIZE: bits 0..=10,
        MASK_ALL: bit 14,
        ENABLE: bit 15,
    }

    /// Where the table is.
    TableOffset: u32 @ 0x04, read_only {
        BAR: bits 0..=2,
        /// In units of 8 bytes.
        OFFSET: bits 3..=31,
    }

    /// Where the pending bits are.
    PendingOffset: u32 @ 0x08, read_only {
        BAR: bits 0..=2,
        /// In units of 8 bytes.
        OFFSET: bits 3..=31,
    }
}

/// PCI Express, PCI Express 5.0 section 7.5.3.
#[derive(Debug)]
struct ExpressBlock;

registers! {
    in ExpressBlock;

    /// Device Capabilities.
    DeviceCapabilities: u32 @ 0x04, read_only {
        FUNCTION_RESET: bit 28,
    }

    /// Device Control.
    DeviceControl: u16 @ 0x08, read_write {
        RELAXED_ORDERING: bit 4,
        NO_SNOOP: bit 11,
        START_FUNCTION_RESET: bit 15,
    }

    /// Device Status.
    DeviceStatus: u16 @ 0x0a, read_only {
        TRANSACTIONS_PENDING: bit 5,
    }
}

/// What a function says it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Identity {
    /// Vendor.
    pub vendor: u16,
    /// Device, in the vendor's numbering.
    pub device: u16,
    /// Base class, subclass and programming interface, in this order from bit 23 down.
    pub class: u32,
    /// Revision.
    pub revision: u8,
    /// Vendor of the card.
    pub subsystem_vendor: u16,
    /// The card, in its vendor's numbering.
    pub subsystem: u16,
    /// Whether the device has functions other than 0.
    pub is_multi_function: bool,
}

/// A memory base address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Bar {
    /// Where it is in the machine's address space.
    pub address: u64,
    /// Length in bytes, a power of two.
    pub len: u64,
    /// Whether reads have no side effects.
    pub is_prefetchable: bool,
}

/// The configuration space of one function with a type 0 header.
#[derive(Debug)]
pub struct Config<R> {
    header: Window<R, Header>,
}

impl<R: Registers> Config<R> {
    /// The function behind `registers`: 256 bytes of configuration space, or 4,096.
    ///
    /// # Errors
    ///
    /// [`PciError::Removed`] where nobody answers, or only a bridge does.
    pub fn new(registers: R) -> Result<Self, PciError> {
        let header = Window::new(registers, 0);
        let is_absent = header.read::<Ids>().field(Ids::VENDOR) == 0xffff;
        if is_absent || header.read::<HeaderType>().field(HeaderType::LAYOUT) != 0 {
            return Err(PciError::Removed);
        }
        Ok(Self { header })
    }

    /// The whole space, for capabilities that a driver reads itself.
    pub const fn registers(&self) -> &R {
        self.header.registers()
    }

    /// What the function says it is.
    #[expect(clippy::cast_possible_truncation, reason = "each field is that wide")]
    pub fn identity(&self) -> Identity {
        let ids = self.header.read::<Ids>();
        let class = self.header.read::<Class>();
        let subsystem = self.header.read::<Subsystem>();
        let kind = self.header.read::<HeaderType>();
        Identity {
            vendor: ids.field(Ids::VENDOR) as u16,
            device: ids.field(Ids::DEVICE) as u16,
            class: class.field(Class::CLASS) as u32,
            revision: class.field(Class::REVISION) as u8,
            subsystem_vendor: subsystem.field(Subsystem::VENDOR) as u16,
            subsystem: subsystem.field(Subsystem::DEVICE) as u16,
            is_multi_function: kind.is_set(HeaderType::MULTI_FUNCTION),
        }
    }

    /// Lets the function answer at its memory base addresses, and keeps its interrupt pin silent.
    pub fn enable_memory(&self) {
        self.header
            .modify(|command: Command| command.with(Command::MEMORY, 1).with(Command::NO_INTX, 1));
    }

    /// Lets the function start DMA and message-signalled interrupts, or no longer.
    ///
    /// Relaxed ordering and no-snoop are switched off first: the family's rings rely on order and coherence.
    ///
    /// # Errors
    ///
    /// Where the capability list is broken; the function then stays off the bus.
    pub fn set_bus_master(&self, allowed: bool) -> Result<(), PciError> {
        if allowed && let Some(express) = self.express()? {
            express.modify(|control: DeviceControl| {
                control
                    .with(DeviceControl::RELAXED_ORDERING, 0)
                    .with(DeviceControl::NO_SNOOP, 0)
            });
        }
        self.header
            .modify(|command: Command| command.with(Command::BUS_MASTER, u64::from(allowed)));
        Ok(())
    }

    /// Memory base address `index`, 0 to 5; `None` where the register is unused, for ports, or the upper half of a pair.
    ///
    /// Its length is found by writing ones, with the function off the bus meanwhile: only before the function is used.
    #[must_use]
    pub fn bar(&self, index: u8) -> Option<Bar> {
        let offset = 0x10 + 4 * usize::from(index);
        if index > 5 || self.is_upper_half(index) {
            return None;
        }
        let command = self.header.read::<Command>();
        self.header.write(
            command
                .with(Command::MEMORY, 0)
                .with(Command::BUS_MASTER, 0),
        );
        let bar = probe(self.registers(), offset, index < 5);
        self.header.write(command);
        bar
    }

    /// The conventional capabilities.
    pub fn capabilities(&self) -> Capabilities<&R> {
        if self.header.read::<Status>().is_set(Status::CAPABILITIES) {
            Capabilities::new(self.registers())
        } else {
            Capabilities::none(self.registers())
        }
    }

    /// The extended capabilities; none where the space ends at 256 bytes.
    pub fn extended_capabilities(&self) -> ExtendedCapabilities<&R> {
        ExtendedCapabilities::new(self.registers())
    }

    /// The first conventional capability with this id.
    ///
    /// # Errors
    ///
    /// Where the list is broken before one is found.
    pub fn capability(&self, id: u16) -> Result<Option<Capability>, PciError> {
        let found = self
            .capabilities()
            .find(|found| !matches!(found, Ok(other) if other.id != id));
        found.transpose()
    }

    /// The function's MSI-X capability, if it has one.
    ///
    /// # Errors
    ///
    /// Where the list of capabilities is broken, or the table lies where there is no base address register.
    pub fn msi_x(&self) -> Result<Option<MsiX<&R>>, PciError> {
        let Some(found) = self.capability(Capability::MSI_X)? else {
            return Ok(None);
        };
        if found.offset > 0x100 - 12 {
            return Err(PciError::Short {
                offset: found.offset,
            });
        }
        let block = Window::new(self.registers(), usize::from(found.offset));
        let msi_x = MsiX { block };
        msi_x.check()?;
        Ok(Some(msi_x))
    }

    /// Whether the function can be reset by itself.
    ///
    /// # Errors
    ///
    /// Where the list of capabilities is broken.
    pub fn can_reset(&self) -> Result<bool, PciError> {
        let capabilities = |express: Window<&R, ExpressBlock>| express.read::<DeviceCapabilities>();
        let capabilities = self.express()?.map(capabilities);
        Ok(capabilities.is_some_and(|it| it.is_set(DeviceCapabilities::FUNCTION_RESET)))
    }

    /// Starts a function level reset. The function may take 100 ms, and needs its configuration again then.
    ///
    /// # Errors
    ///
    /// Where the list of capabilities is broken.
    pub fn start_reset(&self) -> Result<(), PciError> {
        if let Some(express) = self.express()? {
            let start = DeviceControl::START_FUNCTION_RESET;
            express.modify(|control: DeviceControl| control.with(start, 1));
        }
        Ok(())
    }

    /// Whether the function still waits for an answer to a read of its own.
    ///
    /// # Errors
    ///
    /// Where the list of capabilities is broken.
    pub fn has_transactions_pending(&self) -> Result<bool, PciError> {
        let status = |express: Window<&R, ExpressBlock>| express.read::<DeviceStatus>();
        let status = self.express()?.map(status);
        Ok(status.is_some_and(|it| it.is_set(DeviceStatus::TRANSACTIONS_PENDING)))
    }

    fn express(&self) -> Result<Option<Window<&R, ExpressBlock>>, PciError> {
        match self.capability(Capability::PCI_EXPRESS)? {
            Some(found) if found.offset > 0x100 - 12 => Err(PciError::Short {
                offset: found.offset,
            }),
            found => {
                Ok(found.map(|found| Window::new(self.registers(), usize::from(found.offset))))
            }
        }
    }

    /// Whether register `index` holds the upper half of the 64-bit address before it.
    fn is_upper_half(&self, index: u8) -> bool {
        let mut below = 0;
        while below < index {
            let is_wide = self.registers().read32(0x10 + 4 * usize::from(below)) & 7 == 4;
            if is_wide && below + 1 == index {
                return true;
            }
            below += if is_wide { 2 } else { 1 };
        }
        false
    }
}

/// The base address at `offset`, measured by writing ones; PCI 3.0 section 6.2.5.1.
pub(super) fn probe(registers: &impl Registers, offset: usize, may_be_wide: bool) -> Option<Bar> {
    let old = registers.read32(offset);
    let is_port = old & 1 != 0;
    let is_wide = old & 6 == 4;
    if is_port || (is_wide && !may_be_wide) {
        return None;
    }
    let measure = |offset| {
        let old = registers.read32(offset);
        registers.write32(offset, u32::MAX);
        let mask = registers.read32(offset);
        registers.write32(offset, old);
        (u64::from(old), u64::from(mask))
    };
    let (low, low_mask) = measure(offset);
    // A narrow register decodes the lower 4 GiB only.
    let (high, high_mask) = if is_wide {
        measure(offset + 4)
    } else {
        (0, 0xffff_ffff)
    };
    let mask = high_mask << 32 | (low_mask & !0xf);
    let implemented = if is_wide {
        mask != 0
    } else {
        low_mask & !0xf != 0
    };
    implemented.then(|| Bar {
        address: high << 32 | (low & !0xf),
        len: 1 << mask.trailing_zeros(),
        is_prefetchable: low & 8 != 0,
    })
}

/// Where in a base address register something of MSI-X lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct MsiXTable {
    /// Which base address register, 0 to 5.
    pub bar: u8,
    /// Byte offset there; a multiple of 8.
    pub offset: u64,
    /// Length in bytes.
    pub len: u64,
}

impl MsiXTable {
    /// The part as a range of a register of `bar_len` bytes.
    ///
    /// # Errors
    ///
    /// [`PciError::OutsideBar`] where it does not fit.
    pub fn check(&self, bar_len: u64) -> Result<(), PciError> {
        if self
            .offset
            .checked_add(self.len)
            .is_none_or(|end| end > bar_len)
        {
            return Err(PciError::OutsideBar {
                offset: self.offset,
            });
        }
        Ok(())
    }
}

/// The MSI-X capability of a function.
#[derive(Debug)]
pub struct MsiX<R> {
    block: Window<R, MsiXBlock>,
}

impl<R: Registers> MsiX<R> {
    /// Number of vectors, 1 to 2,048.
    #[must_use]
    pub fn vectors(&self) -> u32 {
        let control = self.block.read::<MessageControl>();
        u32::try_from(control.field(MessageControl::TABLE_SIZE)).unwrap_or(0) + 1
    }

    /// The table: 16 bytes for each vector. Never mapped where a process could reach it.
    #[must_use]
    pub fn table(&self) -> MsiXTable {
        let place = self.block.read::<TableOffset>();
        MsiXTable {
            bar: u8::try_from(place.field(TableOffset::BAR)).unwrap_or(0),
            offset: place.field(TableOffset::OFFSET) << 3,
            len: u64::from(self.vectors()) * 16,
        }
    }

    /// The pending bits: one for each vector, in words of 64. Never mapped where a process could reach them.
    #[must_use]
    pub fn pending(&self) -> MsiXTable {
        let place = self.block.read::<PendingOffset>();
        MsiXTable {
            bar: u8::try_from(place.field(PendingOffset::BAR)).unwrap_or(0),
            offset: place.field(PendingOffset::OFFSET) << 3,
            len: u64::from(self.vectors().div_ceil(64)) * 8,
        }
    }

    /// Switches MSI-X on, with the masks of single vectors in force, or off.
    pub fn set_enabled(&self, enabled: bool) {
        self.block.modify(|control: MessageControl| {
            control
                .with(MessageControl::ENABLE, u64::from(enabled))
                .with(MessageControl::MASK_ALL, 0)
        });
    }

    fn check(&self) -> Result<(), PciError> {
        for MsiXTable { bar, .. } in [self.table(), self.pending()] {
            if bar > 5 {
                return Err(PciError::BadBar { index: bar });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use core::cell::RefCell;

    use proptest::prelude::*;

    use super::*;
    use crate::mmio::Width;

    /// Configuration space as bytes, with base address registers that keep their low bits.
    struct Space {
        bytes: RefCell<Vec<u8>>,
        /// Which bits of each base address register can be written.
        writable: [u32; 6],
    }

    impl Space {
        fn new(bytes: Vec<u8>, writable: [u32; 6]) -> Self {
            Self {
                bytes: RefCell::new(bytes),
                writable,
            }
        }
    }

    impl Registers for Space {
        fn read(&self, offset: usize, width: Width) -> u64 {
            let mut word = [0; 8];
            let bytes = self.bytes.borrow();
            match bytes.get(offset..offset + width.bytes()) {
                Some(bytes) => word[..bytes.len()].copy_from_slice(bytes),
                None => word[..width.bytes()].fill(0xff),
            }
            u64::from_le_bytes(word)
        }

        fn write(&self, offset: usize, width: Width, value: u64) {
            let mut value = value.to_le_bytes();
            if (0x10..0x28).contains(&offset) {
                let mask = self.writable[(offset - 0x10) / 4];
                let old = self.read32(offset);
                let new = u32::from_le_bytes([value[0], value[1], value[2], value[3]]);
                value[..4].copy_from_slice(&(old & !mask | new & mask).to_le_bytes());
            }
            let mut bytes = self.bytes.borrow_mut();
            bytes[offset..offset + width.bytes()].copy_from_slice(&value[..width.bytes()]);
        }

        fn len(&self) -> usize {
            self.bytes.borrow().len()
        }
    }

    fn function(patches: &[(usize, &[u8])]) -> Vec<u8> {
        let mut bytes = vec![0; 256];
        bytes[..8].copy_from_slice(&[0xf4, 0x1a, 0x41, 0x10, 0, 0, 0x10, 0]);
        for (offset, patch) in patches {
            bytes[*offset..*offset + patch.len()].copy_from_slice(patch);
        }
        bytes
    }

    #[test]
    fn capabilities_are_found_in_order() {
        let bytes = function(&[
            (0x34, &[0x40]),
            (
                0x40,
                &[0x11, 0x50, 0x03, 0x80, 0x01, 0, 0, 0, 0x01, 0x08, 0, 0],
            ),
            (0x50, &[0x09, 0x00]),
        ]);
        let config = Config::new(Space::new(bytes, [0; 6])).unwrap();
        let ids: Vec<_> = config.capabilities().map(|it| it.unwrap().id).collect();
        assert_eq!(ids, [Capability::MSI_X, Capability::VENDOR]);
        let msi_x = config.msi_x().unwrap().unwrap();
        let (bar, table) = (1, msi_x.table());
        assert_eq!(msi_x.vectors(), 4);
        assert_eq!(
            table,
            MsiXTable {
                bar,
                offset: 0,
                len: 64
            }
        );
        assert_eq!(
            msi_x.pending(),
            MsiXTable {
                bar,
                offset: 0x800,
                len: 8
            }
        );
        assert_eq!(table.check(64), Ok(()));
        assert_eq!(table.check(63), Err(PciError::OutsideBar { offset: 0 }));
        msi_x.set_enabled(false);
        assert_eq!(config.registers().read16(0x42), 0x0003);
    }

    #[test]
    fn a_looping_list_ends() {
        let bytes = function(&[
            (0x34, &[0x40]),
            (0x40, &[0x05, 0x44]),
            (0x44, &[0x05, 0x40]),
        ]);
        let config = Config::new(Space::new(bytes, [0; 6])).unwrap();
        assert_eq!(config.capabilities().count(), 49);
        assert_eq!(config.capability(0x11), Err(PciError::Loop));
    }

    #[test]
    fn base_addresses_are_measured_and_restored() {
        let bytes = function(&[
            (0x04, &[0x06]),
            (0x10, &[0x0c, 0, 0, 0xfe, 0x01, 0, 0, 0]), // 64 bits, prefetchable
            (0x18, &[0x00, 0x10, 0, 0xfd]),
            (0x1c, &[0x01, 0xc0]), // ports
            (0x24, &[0x04]),       // claims a partner that cannot be
        ]);
        let writable = [0xffff_c000, u32::MAX, 0xffff_f000, 0, 0, 0];
        let config = Config::new(Space::new(bytes.clone(), writable)).unwrap();
        let wide = Bar {
            address: 0x1_fe00_0000,
            len: 0x4000,
            is_prefetchable: true,
        };
        let narrow = Bar {
            address: 0xfd00_1000,
            len: 0x1000,
            is_prefetchable: false,
        };
        let found: Vec<_> = (0..8).map(|index| config.bar(index)).collect();
        assert_eq!(
            found,
            [Some(wide), None, Some(narrow), None, None, None, None, None]
        );
        assert_eq!(*config.registers().bytes.borrow(), bytes);
    }

    #[test]
    fn bus_mastering_goes_with_order_and_coherence() {
        let bytes = function(&[(0x34, &[0x40]), (0x40, &[0x10, 0]), (0x48, &[0x10, 0x28])]);
        let config = Config::new(Space::new(bytes, [0; 6])).unwrap();
        config.enable_memory();
        config.set_bus_master(true).unwrap();
        assert_eq!(config.registers().read16(0x04), 0x0406);
        assert_eq!(config.registers().read16(0x48), 0x2000);
        config.set_bus_master(false).unwrap();
        assert_eq!(config.registers().read16(0x04), 0x0402);
        assert_eq!(
            (config.can_reset(), config.has_transactions_pending()),
            (Ok(false), Ok(false))
        );
    }

    #[test]
    fn nobody_is_told_from_somebody() {
        assert_eq!(
            Config::new(Space::new(vec![], [0; 6])).err(),
            Some(PciError::Removed)
        );
        assert_eq!(
            Config::new(Space::new(vec![0xff; 256], [0; 6])).err(),
            Some(PciError::Removed)
        );
    }

    proptest! {
        /// Whatever a device says, every walk ends within its bound and every offset lies inside.
        #[test]
        fn any_space_is_walked_in_bounded_time(
            mut bytes in prop::collection::vec(any::<u8>(), 4096),
            is_short: bool,
        ) {
            if is_short {
                bytes.truncate(256);
            }
            bytes[0] = 0;
            bytes[0x0e] = 0;
            let config = Config::new(Space::new(bytes, [0xffff_f000; 6])).unwrap();
            prop_assert!(config.capabilities().count() <= 49);
            prop_assert!(config.extended_capabilities().count() <= 481);
            prop_assert!(config.capabilities().flatten().all(|it| (0x40..0x100).contains(&it.offset)));
            let extended = config.extended_capabilities().flatten();
            prop_assert!(extended.into_iter().all(|it| (0x100..0x1000).contains(&it.offset)));
            for index in 0..=7 {
                if let Some(bar) = config.bar(index) {
                    prop_assert!(bar.len >= 16);
                }
            }
            if let Ok(Some(msi_x)) = config.msi_x() {
                prop_assert!(msi_x.table().bar <= 5 && msi_x.vectors() <= 2048);
            }
        }
    }
}
