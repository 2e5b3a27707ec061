//! Virtio over PCI, §4.1: capabilities, and the structures that they point to.
#![expect(unsafe_code, reason = "tells the device where its queues lie")]

use parakernel_core::{
    mmio::{Address, Readable, Registers, Window, Writable},
    pci::{Capability, Config, Identity, PciError},
};

use super::{Cause, NotifyAddress, RingAddresses, Status, Transport};
use crate::{
    error::{InitError, Structure},
    regs,
};

/// PCI vendor of all virtio devices, §4.1.2.
const VENDOR: u16 = 0x1AF4;
/// PCI device of a network card: 0x1040 plus the device type, §4.1.2.1.
const DEVICE: u16 = 0x1041;
/// PCI device of a transitional network card, which is driven as a modern one where it can be, §4.1.2.1.
const DEVICE_TRANSITIONAL: u16 = 0x1000;

/// Bytes of a virtio capability, and of the one for notifications, which has the multiplier behind it.
const CAPABILITY_LEN: u8 = 16;
const NOTIFY_CAPABILITY_LEN: u8 = 20;
/// Bytes of configuration space in which conventional capabilities lie.
const SPACE_LEN: u16 = 0x100;
/// A BAR number above this is reserved, §4.1.4.
const MAX_BAR: u8 = 5;

/// A piece of a BAR.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BarRange {
    /// Number of the BAR, 0 to 5.
    pub bar: u8,
    /// First byte.
    pub offset: u32,
    /// Length in bytes.
    pub len: u32,
}

/// Where a virtio device has its structures, as its capabilities say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    /// Common configuration.
    pub common: BarRange,
    /// Notification registers.
    pub notify: BarRange,
    /// Interrupt status.
    pub isr: BarRange,
    /// The network device's own configuration.
    pub device: BarRange,
    /// Distance between the notification registers of queues with successive offsets, in bytes.
    pub notify_multiplier: u32,
}

impl Layout {
    /// Reads the capabilities of the function whose configuration space is `config`.
    ///
    /// Of several capabilities for one structure the first is taken, as §4.1.4 wants; such as lie in a reserved BAR
    /// are passed over. Every offset and length is checked, and the list ends after as many entries as fit.
    ///
    /// # Errors
    ///
    /// Where this is no virtio network device, the list is broken, or a structure is missing or too small.
    pub fn parse<R: Registers>(config: &Config<R>) -> Result<Self, InitError> {
        let Identity { vendor, device, .. } = config.identity();
        if vendor != VENDOR || !matches!(device, DEVICE | DEVICE_TRANSITIONAL) {
            let found = u32::from(device) << 16 | u32::from(vendor);
            return Err(InitError::NotVirtioNet(found));
        }
        let mut found = Found::default();
        for capability in config.capabilities() {
            let Capability { id, offset } = capability.map_err(InitError::Pci)?;
            if id == Capability::VENDOR {
                found.take(config.registers(), offset)?;
            }
        }
        found.finish()
    }
}

/// Structures found so far.
#[derive(Default)]
struct Found {
    common: Option<BarRange>,
    notify: Option<(BarRange, u32)>,
    isr: Option<BarRange>,
    device: Option<BarRange>,
}

impl Found {
    /// Takes the virtio capability at `offset`, §4.1.4: length at byte 2, type at 3, BAR at 4, offset at 8, length at
    /// 12, and, for notifications, the multiplier at 16.
    fn take(&mut self, space: &impl Registers, offset: u16) -> Result<(), InitError> {
        let at = usize::from(offset);
        let len = space.read8(at + 2);
        let kind = space.read8(at + 3);
        let needed = if kind == 2 {
            NOTIFY_CAPABILITY_LEN
        } else {
            CAPABILITY_LEN
        };
        let end = offset + u16::from(len);
        if !(1..=4).contains(&kind) {
            return Ok(());
        }
        if len < needed || end > SPACE_LEN {
            return Err(InitError::Pci(PciError::Short { offset }));
        }
        let range = BarRange {
            bar: space.read8(at + 4),
            offset: space.read32(at + 8),
            len: space.read32(at + 12),
        };
        if range.bar > MAX_BAR || range.offset.checked_add(range.len).is_none() {
            return Ok(());
        }
        match kind {
            1 => _ = self.common.get_or_insert(range),
            2 => _ = self.notify.get_or_insert((range, space.read32(at + 16))),
            3 => _ = self.isr.get_or_insert(range),
            _ => _ = self.device.get_or_insert(range),
        }
        Ok(())
    }

    fn finish(self) -> Result<Layout, InitError> {
        let missing = |structure| InitError::Structure(structure);
        let (notify, notify_multiplier) = self.notify.ok_or(missing(Structure::Notify))?;
        let layout = Layout {
            common: self.common.ok_or(InitError::Legacy)?,
            notify,
            isr: self.isr.ok_or(missing(Structure::Isr))?,
            device: self.device.ok_or(missing(Structure::Device))?,
            notify_multiplier,
        };
        let long_enough = |range: BarRange, len: usize| range.len as usize >= len;
        if !long_enough(layout.common, regs::COMMON_LEN_MIN)
            || !layout.common.offset.is_multiple_of(4)
        {
            return Err(missing(Structure::Common));
        }
        if !long_enough(layout.notify, 2) || !layout.notify.offset.is_multiple_of(2) {
            return Err(missing(Structure::Notify));
        }
        if layout.isr.len == 0 {
            return Err(missing(Structure::Isr));
        }
        Ok(layout)
    }
}

/// A virtio device on PCI.
#[derive(Debug)]
pub struct PciTransport<R> {
    common: Window<R, regs::Common>,
    notify: R,
    isr: R,
    device: R,
    notify_multiplier: u32,
}

/// The four structures of a device, mapped.
#[derive(Debug)]
pub struct Mapped<R> {
    /// Common configuration.
    pub common: R,
    /// Notification registers.
    pub notify: R,
    /// Interrupt status.
    pub isr: R,
    /// The network device's own configuration.
    pub device: R,
}

impl<R: Registers> PciTransport<R> {
    /// The device whose structures lie at `layout`; `map` maps a range of a BAR, or returns `None` where the BAR is
    /// too small for it or does not exist.
    ///
    /// The function must have memory accesses and bus mastering enabled.
    ///
    /// # Errors
    ///
    /// [`InitError::Structure`] where a structure could not be mapped, or its mapping is shorter than the capability
    /// says.
    pub fn new(
        layout: &Layout,
        mut map: impl FnMut(BarRange) -> Option<R>,
    ) -> Result<Self, InitError> {
        let mut mapped = |range: BarRange, structure| {
            let registers = map(range).ok_or(InitError::Structure(structure))?;
            if registers.len() < range.len as usize {
                return Err(InitError::Structure(structure));
            }
            Ok(registers)
        };
        Ok(Self {
            common: Window::new(mapped(layout.common, Structure::Common)?, 0),
            notify: mapped(layout.notify, Structure::Notify)?,
            isr: mapped(layout.isr, Structure::Isr)?,
            device: mapped(layout.device, Structure::Device)?,
            notify_multiplier: layout.notify_multiplier,
        })
    }

    fn get<T: Readable<Block = regs::Common>>(&self) -> u64 {
        self.common.read::<T>().bits()
    }

    fn set<T: Writable<Block = regs::Common>>(&self, value: u64) {
        self.common.write(T::from_bits(value));
    }

    fn set_address<T: Address<Block = regs::Common>>(&self, half: u64) {
        // SAFETY: the address is one of a `DmaBlock`, which its owner takes back only after the device has let go.
        unsafe { self.common.write_address(T::from_bits(half)) };
    }

    fn select(&self, queue: u16) {
        self.set::<regs::QueueSelect>(queue.into());
    }
}

impl<R: Registers> Transport for PciTransport<R> {
    type Registers = R;

    fn device_features(&self) -> u64 {
        self.set::<regs::DeviceFeatureSelect>(0);
        let low = self.get::<regs::DeviceFeature>();
        self.set::<regs::DeviceFeatureSelect>(1);
        let features = self.get::<regs::DeviceFeature>() << 32 | low;
        // A device whose common configuration ends before `QueueReset` cannot mean it.
        let has_reset = self.common.registers().len() >= regs::COMMON_LEN;
        let reset = crate::features::Features::RING_RESET.bits();
        if has_reset {
            features
        } else {
            features & !reset
        }
    }

    fn accept_features(&self, features: u64) {
        self.set::<regs::DriverFeatureSelect>(0);
        self.set::<regs::DriverFeature>(features & 0xFFFF_FFFF);
        self.set::<regs::DriverFeatureSelect>(1);
        self.set::<regs::DriverFeature>(features >> 32);
    }

    fn status(&self) -> Status {
        #[expect(clippy::cast_possible_truncation, reason = "an 8-bit register")]
        Status::from_bits_retain(self.get::<regs::DeviceStatus>() as u8)
    }

    fn set_status(&self, status: Status) {
        self.set::<regs::DeviceStatus>(status.bits().into());
    }

    fn config_generation(&self) -> u32 {
        #[expect(clippy::cast_possible_truncation, reason = "an 8-bit register")]
        let generation = self.get::<regs::ConfigGeneration>() as u32;
        generation
    }

    fn config(&self) -> (&R, usize) {
        (&self.device, 0)
    }

    fn max_entries(&self, queue: u16) -> u32 {
        self.select(queue);
        #[expect(clippy::cast_possible_truncation, reason = "a 16-bit register")]
        let entries = self.get::<regs::QueueSize>() as u32;
        entries
    }

    fn enable_queue(&self, queue: u16, ring: &RingAddresses) {
        self.select(queue);
        self.set::<regs::QueueSize>(ring.entries().into());
        let [descriptor, driver, device] = ring.halves();
        self.set_address::<regs::QueueDescLow>(descriptor.0);
        self.set_address::<regs::QueueDescHigh>(descriptor.1);
        self.set_address::<regs::QueueDriverLow>(driver.0);
        self.set_address::<regs::QueueDriverHigh>(driver.1);
        self.set_address::<regs::QueueDeviceLow>(device.0);
        self.set_address::<regs::QueueDeviceHigh>(device.1);
        self.set::<regs::QueueEnable>(1);
    }

    fn is_queue_enabled(&self, queue: u16) -> bool {
        self.select(queue);
        self.get::<regs::QueueEnable>() == 1
    }

    fn start_queue_reset(&self, queue: u16) {
        self.select(queue);
        self.set::<regs::QueueReset>(1);
    }

    fn is_queue_resetting(&self, queue: u16) -> bool {
        self.select(queue);
        self.get::<regs::QueueReset>() != 0
    }

    fn set_vector(&self, queue: Option<u16>, vector: Option<u16>) -> bool {
        /// "Writing a valid vector number, or 0xffff to unmap", §4.1.5.1.2.
        const NO_VECTOR: u64 = 0xFFFF;
        let number = vector.map_or(NO_VECTOR, u64::from);
        let agreed = if let Some(queue) = queue {
            self.select(queue);
            self.set::<regs::QueueMsixVector>(number);
            self.get::<regs::QueueMsixVector>()
        } else {
            self.set::<regs::ConfigMsixVector>(number);
            self.get::<regs::ConfigMsixVector>()
        };
        agreed == number
    }

    fn notify_address(&self, queue: u16) -> Option<NotifyAddress> {
        self.select(queue);
        let units = usize::try_from(self.get::<regs::QueueNotifyOff>()).ok()?;
        let offset = units.checked_mul(self.notify_multiplier as usize)?;
        let end = offset.checked_add(2)?;
        (end <= self.notify.len()).then_some(NotifyAddress {
            offset,
            wide: false,
        })
    }

    fn notify_registers(&self) -> &R {
        &self.notify
    }

    fn notify_stride(&self) -> usize {
        self.notify_multiplier as usize
    }

    fn take_cause(&self) -> Cause {
        Cause::from_bits_truncate(self.isr.read8(0))
    }
}
