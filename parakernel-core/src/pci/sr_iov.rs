//! Single root I/O virtualization: functions that a device makes on request, PCI Express 5.0 section 9.3.3.

use super::{Address, Bar, Capability, Config, PciError};
use crate::{
    mmio::{Register, Registers, Window},
    registers,
};

/// The capability's registers.
#[derive(Debug)]
struct SrIovBlock;

/// Bytes of the capability up to its last base address.
const LEN: u16 = 0x3C;

/// Byte offset of the first base address of the virtual functions.
const BARS: usize = 0x24;

registers! {
    in SrIovBlock;

    /// SR-IOV Control.
    Control: u16 @ 0x08, read_write {
        ENABLE: bit 0,
        MEMORY: bit 3,
    }

    /// How many there can be.
    TotalVfs: u16 @ 0x0E, read_only {}

    /// How many there are to be.
    NumVfs: u16 @ 0x10, read_write {}

    /// Where the first one is, from the physical function on.
    FirstOffset: u16 @ 0x14, read_only {}

    /// How far each is from the one before.
    Stride: u16 @ 0x16, read_only {}

    /// Their device id.
    DeviceId: u16 @ 0x1A, read_only {}

    /// Page sizes that are supported: bit n is 2^(n+12).
    PageSizes: u32 @ 0x1C, read_only {}

    /// The one in use.
    PageSize: u32 @ 0x20, read_write {}
}

/// The virtual functions of a physical one; made by [`Config::sr_iov`].
#[derive(Debug)]
pub struct SrIov<'c, R> {
    registers: &'c R,
    offset: u16,
}

impl<R: Registers> Config<R> {
    /// The function's SR-IOV capability, if it has one.
    ///
    /// # Errors
    ///
    /// Where the list of extended capabilities is broken, or the capability does not fit into the space.
    pub fn sr_iov(&self) -> Result<Option<SrIov<'_, R>>, PciError> {
        let found = self
            .extended_capabilities()
            .find(|found| !matches!(found, Ok(other) if other.id != Capability::SR_IOV));
        let Some(found) = found.transpose()? else {
            return Ok(None);
        };
        if found.offset > 0x1000 - LEN {
            return Err(PciError::Short {
                offset: found.offset,
            });
        }
        Ok(Some(SrIov {
            registers: self.registers(),
            offset: found.offset,
        }))
    }
}

impl<'c, R: Registers> SrIov<'c, R> {
    fn block(&self) -> Window<&'c R, SrIovBlock> {
        Window::new(self.registers, usize::from(self.offset))
    }

    /// How many virtual functions there can be.
    #[must_use]
    pub fn total(&self) -> u16 {
        u16::try_from(self.block().read::<TotalVfs>().bits()).unwrap_or(0)
    }

    /// How many virtual functions there are.
    #[must_use]
    pub fn enabled(&self) -> u16 {
        let is_on = self.block().read::<Control>().is_set(Control::ENABLE);
        let count = self.block().read::<NumVfs>().bits();
        u16::try_from(count).ok().filter(|_| is_on).unwrap_or(0)
    }

    /// Their device id; the vendor is that of the physical function.
    #[must_use]
    pub fn device_id(&self) -> u16 {
        u16::try_from(self.block().read::<DeviceId>().bits()).unwrap_or(u16::MAX)
    }

    /// Makes `count` virtual functions, with pages of 4 KiB; none with 0. What was there before ends first. They may not be
    /// looked at for 100 ms (section 9.3.3.3.1).
    ///
    /// # Errors
    ///
    /// [`PciError::TooMany`] where there cannot be as many, [`PciError::Removed`] where nobody answers, or not with pages of
    /// 4 KiB.
    pub fn enable(&self, count: u16) -> Result<(), PciError> {
        let block = self.block();
        if block.read::<PageSizes>().bits() == u64::from(u32::MAX) {
            return Err(PciError::Removed);
        }
        if count > self.total() {
            return Err(PciError::TooMany {
                wanted: count,
                total: self.total(),
            });
        }
        block.modify(|it: Control| it.with(Control::ENABLE, 0).with(Control::MEMORY, 0));
        if count == 0 {
            return Ok(());
        }
        block.write(PageSize::from_bits(1));
        block.write(NumVfs::from_bits(count.into()));
        block.modify(|it: Control| it.with(Control::ENABLE, 1).with(Control::MEMORY, 1));
        Ok(())
    }

    /// Where virtual function `number` sits, below [`enabled`](Self::enabled), of the physical function at `physical`. `None`
    /// where there is none, or the device puts it where no function can be.
    #[must_use]
    pub fn address(&self, physical: Address, number: u16) -> Option<Address> {
        let block = self.block();
        let first = u16::try_from(block.read::<FirstOffset>().bits()).ok()?;
        let stride = u16::try_from(block.read::<Stride>().bits()).ok()?;
        let far = stride.checked_mul(number)?.checked_add(first)?;
        let requester = physical.requester().checked_add(far)?;
        (number < self.enabled() && far > 0)
            .then(|| Address::from_requester(physical.segment(), requester))
    }

    /// The memory of base address `index` of virtual function 0, each function's as long as it; the others follow in order.
    /// `None` where the register is unused, or not one of 0 to 5. Its length is found by writing ones: only while there are
    /// no virtual functions.
    #[must_use]
    pub fn bar(&self, index: u8) -> Option<Bar> {
        let offset = usize::from(self.offset) + BARS + 4 * usize::from(index);
        if index > 5 || self.enabled() > 0 {
            return None;
        }
        super::config::probe(self.registers, offset, index < 5)
    }
}

#[cfg(test)]
mod tests {
    use core::cell::RefCell;

    use super::*;
    use crate::mmio::Width;

    /// Configuration space of a function with the capability at 0x160: 64 functions from 128 on, two apart.
    #[derive(Debug)]
    struct Space(RefCell<Vec<u8>>);

    impl Space {
        fn new() -> Self {
            let mut bytes = vec![0; 4096];
            let mut put = |at: usize, some: &[u8]| bytes[at..at + some.len()].copy_from_slice(some);
            put(0, &[0x86, 0x80, 0xFB, 0x10]);
            put(0x100, &[0x01, 0, 0x01, 0x16]);
            put(0x160, &[0x10, 0, 0x01, 0]);
            put(0x16C, &[64, 0, 64, 0]);
            put(0x174, &[128, 0, 2, 0]);
            put(0x17A, &[0xED, 0x10]);
            put(0x17C, &[0x53, 5]);
            put(0x184, &[0x04, 0, 0x20, 0xFE]);
            Self(RefCell::new(bytes))
        }
    }

    impl Registers for Space {
        fn read(&self, offset: usize, width: Width) -> u64 {
            let mut word = [0; 8];
            let bytes = self.0.borrow();
            word[..width.bytes()].copy_from_slice(&bytes[offset..offset + width.bytes()]);
            u64::from_le_bytes(word)
        }

        fn write(&self, offset: usize, width: Width, value: u64) {
            // Each function's memory is 16 KiB.
            let value = match offset {
                0x184 => value & 0xFFFF_C000 | 4,
                _ => value,
            };
            let mut bytes = self.0.borrow_mut();
            bytes[offset..offset + width.bytes()]
                .copy_from_slice(&value.to_le_bytes()[..width.bytes()]);
        }

        fn len(&self) -> usize {
            4096
        }
    }

    #[test]
    fn functions_are_made_and_found() {
        let config = Config::new(Space::new()).unwrap();
        let sr_iov = config.sr_iov().unwrap().unwrap();
        assert_eq!((sr_iov.total(), sr_iov.enabled()), (64, 0));
        assert_eq!(sr_iov.device_id(), 0x10ED);
        let physical: Address = "0000:01:00.0".parse().unwrap();
        assert_eq!(sr_iov.address(physical, 0), None);
        let bar = sr_iov.bar(0).unwrap();
        assert_eq!((bar.address, bar.len), (0xFE20_0000, 16 << 10));
        sr_iov.enable(4).unwrap();
        assert_eq!(config.registers().read16(0x168), 0b1001);
        assert_eq!(config.registers().read32(0x180), 1);
        assert_eq!((sr_iov.enabled(), sr_iov.bar(0)), (4, None));
        let [first, third] = [0, 2].map(|number| sr_iov.address(physical, number));
        assert_eq!(first.unwrap().to_string(), "0000:01:10.0");
        assert_eq!(third.unwrap().to_string(), "0000:01:10.4");
        assert_eq!(sr_iov.address(physical, 4), None);
        sr_iov.enable(0).unwrap();
        assert_eq!((sr_iov.enabled(), config.registers().read16(0x168)), (0, 0));
        let (wanted, total) = (65, 64);
        assert_eq!(sr_iov.enable(65), Err(PciError::TooMany { wanted, total }));
    }

    #[test]
    fn what_a_device_says_of_places_is_checked() {
        let config = Config::new(Space::new()).unwrap();
        let sr_iov = config.sr_iov().unwrap().unwrap();
        sr_iov.enable(64).unwrap();
        config.registers().write16(0x176, 0xFFFF);
        let physical: Address = "0000:01:00.0".parse().unwrap();
        assert_eq!(sr_iov.address(physical, 1), None);
        // A list that ends before it.
        config.registers().write32(0x100, 0x0001_0001);
        assert!(config.sr_iov().unwrap().is_none());
        // One that begins where it does not fit.
        config.registers().write32(0x100, 0xFE01_0001);
        config.registers().write32(0xFE0, 0x0001_0010);
        let short = PciError::Short { offset: 0xFE0 };
        assert_eq!(config.sr_iov().unwrap_err(), short);
    }
}
