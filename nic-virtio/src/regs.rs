//! The registers that the driver uses, in the specification's order.
//!
//! Virtio's registers are the same over PCI ([`Common`]) and MMIO ([`Mmio`]); only offsets and widths differ.

use parakernel_core::registers;

/// The common configuration structure of a PCI device, §4.1.4.3.
#[derive(Debug)]
pub struct Common;

registers! {
    in Common;

    /// Which 32 feature bits `DeviceFeature` shows: 0 for bits 0 to 31, 1 for bits 32 to 63.
    pub DeviceFeatureSelect: u32 @ 0x00, read_write {}

    /// Features that the device offers.
    pub DeviceFeature: u32 @ 0x04, read_only {}

    /// Which 32 feature bits `DriverFeature` shows.
    pub DriverFeatureSelect: u32 @ 0x08, read_write {}

    /// Features that the driver accepts.
    pub DriverFeature: u32 @ 0x0C, read_write {}

    /// MSI-X vector of configuration changes; `0xFFFF` for none. Reads back `0xFFFF` where the device refused it.
    pub ConfigMsixVector: u16 @ 0x10, read_write {}

    /// Number of virtqueues.
    pub NumQueues: u16 @ 0x12, read_only {}

    /// Device status, §2.1; writing 0 resets the device.
    pub DeviceStatus: u8 @ 0x14, read_write {}

    /// Changes whenever the device's configuration does.
    pub ConfigGeneration: u8 @ 0x15, read_only {}

    /// Which queue the registers below show.
    pub QueueSelect: u16 @ 0x16, read_write {}

    /// Entries of the queue: at reset the most that the device allows, 0 where the queue does not exist.
    pub QueueSize: u16 @ 0x18, read_write {}

    /// MSI-X vector of the queue; as `ConfigMsixVector`.
    pub QueueMsixVector: u16 @ 0x1A, read_write {}

    /// 1 while the device may use the queue. A driver never writes 0.
    pub QueueEnable: u16 @ 0x1C, read_write {}

    /// Where the queue's notification register lies, in units of the capability's multiplier.
    pub QueueNotifyOff: u16 @ 0x1E, read_only {}

    /// Descriptor area, bits 0 to 31. "The driver may access the high and low 32 bits independently", §4.1.3.1.
    pub QueueDescLow: u32 @ 0x20, address {}

    /// Descriptor area, bits 32 to 63.
    pub QueueDescHigh: u32 @ 0x24, address {}

    /// Driver area (available ring, or driver event suppression), bits 0 to 31.
    pub QueueDriverLow: u32 @ 0x28, address {}

    /// Driver area, bits 32 to 63.
    pub QueueDriverHigh: u32 @ 0x2C, address {}

    /// Device area (used ring, or device event suppression), bits 0 to 31.
    pub QueueDeviceLow: u32 @ 0x30, address {}

    /// Device area, bits 32 to 63.
    pub QueueDeviceHigh: u32 @ 0x34, address {}

    /// Writing 1 resets the queue; reads 1 until that is done. Only with `RING_RESET`.
    pub QueueReset: u16 @ 0x3A, read_write {}
}

/// Bytes of the common configuration structure up to and including `QueueReset`.
pub const COMMON_LEN: usize = 0x3C;

/// Bytes of the common configuration structure that every device of virtio 1.0 has: up to `QueueDeviceHigh`.
pub const COMMON_LEN_MIN: usize = 0x38;

/// The control registers of an MMIO device, §4.2.2.
#[derive(Debug)]
pub struct Mmio;

registers! {
    in Mmio;

    /// The letters "virt", little-endian.
    pub MmioMagic: u32 @ 0x000, read_only {}

    /// Version of the register layout: 2, or 1 for a legacy device.
    pub MmioVersion: u32 @ 0x004, read_only {}

    /// Device type: 1 for a network card, 0 where there is no device.
    pub MmioDeviceId: u32 @ 0x008, read_only {}

    /// Features that the device offers, 32 at a time.
    pub MmioDeviceFeatures: u32 @ 0x010, read_only {}

    /// Which 32 feature bits `MmioDeviceFeatures` shows.
    pub MmioDeviceFeaturesSel: u32 @ 0x014, write_only {}

    /// Features that the driver accepts, 32 at a time.
    pub MmioDriverFeatures: u32 @ 0x020, write_only {}

    /// Which 32 feature bits `MmioDriverFeatures` sets.
    pub MmioDriverFeaturesSel: u32 @ 0x024, write_only {}

    /// Which queue the registers below show.
    pub MmioQueueSel: u32 @ 0x030, write_only {}

    /// The most entries that the queue may have; 0 where it does not exist.
    pub MmioQueueSizeMax: u32 @ 0x034, read_only {}

    /// Entries of the queue.
    pub MmioQueueSize: u32 @ 0x038, write_only {}

    /// 1 while the device may use the queue.
    pub MmioQueueReady: u32 @ 0x044, read_write {}

    /// Why the device interrupted.
    pub MmioInterruptStatus: u32 @ 0x060, read_only {
        /// A buffer was used.
        USED: bit 0,
        /// The configuration changed.
        CONFIG: bit 1,
    }

    /// Bits of `MmioInterruptStatus` that were seen to.
    pub MmioInterruptAck: u32 @ 0x064, write_only {}

    /// Device status, §2.1; writing 0 resets the device.
    pub MmioStatus: u32 @ 0x070, read_write {}

    /// Descriptor area, bits 0 to 31.
    pub MmioQueueDescLow: u32 @ 0x080, address {}

    /// Descriptor area, bits 32 to 63.
    pub MmioQueueDescHigh: u32 @ 0x084, address {}

    /// Driver area, bits 0 to 31.
    pub MmioQueueDriverLow: u32 @ 0x090, address {}

    /// Driver area, bits 32 to 63.
    pub MmioQueueDriverHigh: u32 @ 0x094, address {}

    /// Device area, bits 0 to 31.
    pub MmioQueueDeviceLow: u32 @ 0x0A0, address {}

    /// Device area, bits 32 to 63.
    pub MmioQueueDeviceHigh: u32 @ 0x0A4, address {}

    /// Writing 1 resets the queue; reads 1 until that is done.
    pub MmioQueueReset: u32 @ 0x0C0, read_write {}

    /// Changes whenever the device's configuration does.
    pub MmioConfigGeneration: u32 @ 0x0FC, read_only {}
}

/// Where queues of an MMIO device are notified: `QueueNotify`, §4.2.2.
pub const MMIO_QUEUE_NOTIFY: usize = 0x050;

/// Where the device's own configuration begins in an MMIO device, §4.2.2.
pub const MMIO_CONFIG: usize = 0x100;

/// Where the MAC address begins in the configuration of a network device, §5.1.4: six registers of 8 bits; `MAC`.
pub const MAC: usize = 0x00;

/// The configuration of a network device, §5.1.4. A field exists where its feature is offered.
#[derive(Debug)]
pub struct Net;

registers! {
    in Net;

    /// State of the link; `STATUS`.
    pub NetStatus: u16 @ 0x06, read_only {
        /// The link is up.
        LINK_UP: bit 0,
        /// The device asks that addresses be announced; only with `GUEST_ANNOUNCE`.
        ANNOUNCE: bit 1,
    }

    /// Most pairs of queues, 1 to 0x8000; `MQ` or `RSS`.
    pub MaxVirtqueuePairs: u16 @ 0x08, read_only {}

    /// Largest frame payload that the device takes, 68 and up; `MTU`.
    pub Mtu: u16 @ 0x0A, read_only {}

    /// Link speed in Mbit/s, `0xFFFF_FFFF` where unknown; `SPEED_DUPLEX`.
    pub Speed: u32 @ 0x0C, read_only {}

    /// 1 for full duplex, 0 for half, `0xFF` where unknown; `SPEED_DUPLEX`.
    pub Duplex: u8 @ 0x10, read_only {}

    /// Longest RSS key in bytes, at least 40; `RSS` or `HASH_REPORT`.
    pub RssMaxKeySize: u8 @ 0x11, read_only {}

    /// Most entries of the RSS table, at least 128; `RSS`.
    pub RssMaxTableLength: u16 @ 0x12, read_only {}

    /// What the device can hash, as `HashTypes`; `RSS` or `HASH_REPORT`.
    pub SupportedHashTypes: u32 @ 0x14, read_only {}
}
