//! How a virtio device is reached: over PCI or as memory-mapped registers.

use bitflags::bitflags;
use parakernel_core::{address::BusAddress, memory::DmaBlock, mmio::Registers};

pub mod mmio;
pub mod pci;

bitflags! {
    /// How far device and driver have got with each other, §2.1.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
    pub struct Status: u8 {
        /// The driver has seen the device.
        const ACKNOWLEDGE = 1;
        /// The driver knows how to drive it.
        const DRIVER = 2;
        /// The driver is ready: the device may use its queues.
        const DRIVER_OK = 4;
        /// Both agree on the features.
        const FEATURES_OK = 8;
        /// The device failed and must be reset.
        const DEVICE_NEEDS_RESET = 64;
        /// The driver has given up.
        const FAILED = 128;
    }
}

impl Status {
    /// Whether the register read as all ones, which no sequence of states leads to: the device is gone.
    pub(crate) const fn is_gone(self) -> bool {
        self.bits() == u8::MAX
    }
}

bitflags! {
    /// Why a device interrupted, where its interrupts do not tell by their number, §4.1.4.5 and §4.2.2.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
    pub struct Cause: u8 {
        /// A queue has used buffers.
        const QUEUE = 1;
        /// The configuration changed, or the device asks to be reset.
        const CONFIG = 2;
    }
}

/// Where the device finds the three areas of a queue, and how many entries it has.
///
/// Made from a [`DmaBlock`] only, which answers for the addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RingAddresses {
    entries: u16,
    areas: [BusAddress; 3],
}

impl RingAddresses {
    /// The ring of `entries` whose descriptor, driver and device areas lie at these offsets in `block`.
    pub(crate) const fn in_block(block: &DmaBlock<'_>, entries: u16, offsets: [usize; 3]) -> Self {
        let bus = block.bus_address().as_u64();
        let [descriptor, driver, device] = offsets;
        Self {
            entries,
            areas: [
                BusAddress::new(bus + descriptor as u64),
                BusAddress::new(bus + driver as u64),
                BusAddress::new(bus + device as u64),
            ],
        }
    }

    /// Number of entries.
    #[must_use]
    pub const fn entries(&self) -> u16 {
        self.entries
    }

    /// Low and high halves of the descriptor area (descriptor table, or packed ring), of the driver area (available
    /// ring, or the driver's event suppression) and of the device area (used ring, or the device's).
    pub(crate) fn halves(&self) -> [(u64, u64); 3] {
        self.areas
            .map(|area| (area.as_u64() & 0xFFFF_FFFF, area.as_u64() >> 32))
    }
}

/// Where a queue is notified: byte `offset` of the notification registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotifyAddress {
    /// Offset in the notification structure (PCI) or in the register file (MMIO), in bytes.
    pub offset: usize,
    /// Width of a notification without `NOTIFICATION_DATA`: 16 bits over PCI (§4.1.5.2), 32 over MMIO (§4.2.3.3).
    pub wide: bool,
}

/// The registers of a virtio device, whatever bus it sits on.
///
/// More methods than a trait of this family should have, because each is one register of the specification's list
/// (§4.1.4.3, §4.2.2), and a transport that lacked one would be none.
pub trait Transport {
    /// The register file.
    type Registers: Registers;

    /// The features that the device offers, less those that this transport cannot carry.
    fn device_features(&self) -> u64;

    /// Tells the device which features the driver accepts.
    fn accept_features(&self, features: u64);

    /// The device's status.
    fn status(&self) -> Status;

    /// Sets the device's status; empty to reset it.
    fn set_status(&self, status: Status);

    /// A number that changes when the configuration does.
    fn config_generation(&self) -> u32;

    /// The device's own configuration.
    fn config(&self) -> (&Self::Registers, usize);

    /// The most entries that `queue` may have, 0 where it does not exist. Valid before the queue is first enabled, and
    /// after it was reset.
    fn max_entries(&self, queue: u16) -> u32;

    /// Gives `queue` its memory and lets the device use it.
    fn enable_queue(&self, queue: u16, ring: &RingAddresses);

    /// Whether the device may use `queue`.
    fn is_queue_enabled(&self, queue: u16) -> bool;

    /// Starts the reset of `queue`; only with `RING_RESET`.
    fn start_queue_reset(&self, queue: u16);

    /// Whether the reset of `queue` is still under way.
    fn is_queue_resetting(&self, queue: u16) -> bool;

    /// Sends interrupts of `queue` (of configuration changes, where that is `None`) to `vector`, `None` for nowhere.
    /// Whether the device agreed; a transport without vectors agrees to `None` only.
    fn set_vector(&self, queue: Option<u16>, vector: Option<u16>) -> bool;

    /// Where `queue` is notified; `None` where that lies outside the notification registers.
    fn notify_address(&self, queue: u16) -> Option<NotifyAddress>;

    /// The registers that queues are notified through.
    fn notify_registers(&self) -> &Self::Registers;

    /// The least distance between the notification registers of two queues, in bytes; 0 where they share one.
    fn notify_stride(&self) -> usize;

    /// Why the device interrupted; reading it acknowledges the interrupt.
    fn take_cause(&self) -> Cause;
}
