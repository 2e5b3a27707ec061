//! Virtio over memory-mapped registers, §4.2: what machines without PCI have, such as QEMU's `microvm`.
#![expect(unsafe_code, reason = "tells the device where its queues lie")]

use parakernel_core::mmio::{Address, Readable, Register, Registers, Window, Writable};

use super::{Cause, NotifyAddress, RingAddresses, Status, Transport};
use crate::{
    error::{InitError, Structure},
    features::Features,
    regs,
};

/// The letters "virt", as `MmioMagic` reads.
const MAGIC: u32 = u32::from_le_bytes(*b"virt");
/// The layout of virtio 1.0 and later.
const VERSION: u32 = 2;
/// The device type of a network card, §5.
const NETWORK: u32 = 1;

/// A virtio device in memory-mapped registers.
#[derive(Debug)]
pub struct MmioTransport<R> {
    registers: Window<R, regs::Mmio>,
    /// Features that are not let through, whatever the device offers.
    withheld: Features,
}

impl<R: Registers> MmioTransport<R> {
    /// The network device whose control registers and configuration are `registers`.
    ///
    /// # Errors
    ///
    /// Where that is no network device ([`NotVirtioNet`](InitError::NotVirtioNet)), one with the legacy layout
    /// ([`Legacy`](InitError::Legacy)), or where the configuration lies outside `registers`.
    pub fn new(registers: R) -> Result<Self, InitError> {
        if registers.len() <= regs::MMIO_CONFIG {
            return Err(InitError::Structure(Structure::Device));
        }
        let transport = Self {
            registers: Window::new(registers, 0),
            withheld: Features::RING_RESET,
        };
        let magic = transport.get::<regs::MmioMagic>();
        let device = transport.get::<regs::MmioDeviceId>();
        if magic != MAGIC {
            return Err(InitError::NotVirtioNet(magic));
        }
        if device != NETWORK {
            return Err(InitError::NotVirtioNet(device));
        }
        if transport.get::<regs::MmioVersion>() != VERSION {
            return Err(InitError::Legacy);
        }
        Ok(transport)
    }

    /// The same transport, which believes the device where it offers `RING_RESET`.
    ///
    /// INTERPRETATION(contradiction): §4.2.2 has `QueueReset`, but QEMU offers the feature on every bus and its
    /// `hw/virtio/virtio-mmio.c`, as far as read, lacks the register: a reset would seem done at once while the queue
    /// runs on. So the feature is withheld unless the caller knows better; the check after each reset, that the queue
    /// is no longer enabled, still stands.
    #[must_use]
    pub fn with_queue_reset(mut self) -> Self {
        self.withheld = Features::empty();
        self
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "all registers have 32 bits"
    )]
    fn get<T: Readable<Block = regs::Mmio>>(&self) -> u32 {
        self.registers.read::<T>().bits() as u32
    }

    fn set<T: Writable<Block = regs::Mmio>>(&self, value: u32) {
        self.registers.write(T::from_bits(value.into()));
    }

    fn set_address<T: Address<Block = regs::Mmio>>(&self, half: u64) {
        // SAFETY: the address is one of a `DmaBlock`, which its owner takes back only after the device has let go.
        unsafe { self.registers.write_address(T::from_bits(half)) };
    }

    fn select(&self, queue: u16) {
        self.set::<regs::MmioQueueSel>(queue.into());
    }
}

impl<R: Registers> Transport for MmioTransport<R> {
    type Registers = R;

    fn device_features(&self) -> u64 {
        self.set::<regs::MmioDeviceFeaturesSel>(0);
        let low = self.get::<regs::MmioDeviceFeatures>();
        self.set::<regs::MmioDeviceFeaturesSel>(1);
        let high = self.get::<regs::MmioDeviceFeatures>();
        (u64::from(high) << 32 | u64::from(low)) & !self.withheld.bits()
    }

    fn accept_features(&self, features: u64) {
        let [low, high] = [features, features >> 32].map(|half| half & 0xFFFF_FFFF);
        self.registers
            .write(regs::MmioDriverFeaturesSel::from_bits(0));
        self.registers
            .write(regs::MmioDriverFeatures::from_bits(low));
        self.registers
            .write(regs::MmioDriverFeaturesSel::from_bits(1));
        self.registers
            .write(regs::MmioDriverFeatures::from_bits(high));
    }

    fn status(&self) -> Status {
        #[expect(clippy::cast_possible_truncation, reason = "status bits are 8, §2.1")]
        Status::from_bits_retain(self.get::<regs::MmioStatus>() as u8)
    }

    fn set_status(&self, status: Status) {
        self.set::<regs::MmioStatus>(status.bits().into());
    }

    fn config_generation(&self) -> u32 {
        self.get::<regs::MmioConfigGeneration>()
    }

    fn config(&self) -> (&R, usize) {
        (self.registers.registers(), regs::MMIO_CONFIG)
    }

    fn max_entries(&self, queue: u16) -> u32 {
        self.select(queue);
        self.get::<regs::MmioQueueSizeMax>()
    }

    fn enable_queue(&self, queue: u16, ring: &RingAddresses) {
        self.select(queue);
        self.set::<regs::MmioQueueSize>(ring.entries().into());
        let [descriptor, driver, device] = ring.halves();
        self.set_address::<regs::MmioQueueDescLow>(descriptor.0);
        self.set_address::<regs::MmioQueueDescHigh>(descriptor.1);
        self.set_address::<regs::MmioQueueDriverLow>(driver.0);
        self.set_address::<regs::MmioQueueDriverHigh>(driver.1);
        self.set_address::<regs::MmioQueueDeviceLow>(device.0);
        self.set_address::<regs::MmioQueueDeviceHigh>(device.1);
        self.set::<regs::MmioQueueReady>(1);
    }

    fn is_queue_enabled(&self, queue: u16) -> bool {
        self.select(queue);
        self.get::<regs::MmioQueueReady>() == 1
    }

    fn start_queue_reset(&self, queue: u16) {
        self.select(queue);
        self.set::<regs::MmioQueueReset>(1);
    }

    fn is_queue_resetting(&self, queue: u16) -> bool {
        self.select(queue);
        self.get::<regs::MmioQueueReset>() != 0
    }

    fn set_vector(&self, _queue: Option<u16>, vector: Option<u16>) -> bool {
        vector.is_none()
    }

    fn notify_address(&self, _queue: u16) -> Option<NotifyAddress> {
        Some(NotifyAddress {
            offset: regs::MMIO_QUEUE_NOTIFY,
            wide: true,
        })
    }

    fn notify_registers(&self) -> &R {
        self.registers.registers()
    }

    fn notify_stride(&self) -> usize {
        0
    }

    fn take_cause(&self) -> Cause {
        let status = self.get::<regs::MmioInterruptStatus>();
        self.set::<regs::MmioInterruptAck>(status);
        #[expect(
            clippy::cast_possible_truncation,
            reason = "two bits are defined, §4.2.2"
        )]
        Cause::from_bits_truncate(status as u8)
    }
}
