//! Feature bits and what they need (virtio 1.3, 5.1.3 and 6).

bitflags::bitflags! {
    /// The features of virtio-net and of virtio that the model knows, by their numbers in virtio 1.3.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Features: u64 {
        /// The device completes checksums of frames that it sends.
        const CSUM = 1 << 0;
        /// The driver takes frames whose checksum is partial or already checked.
        const GUEST_CSUM = 1 << 1;
        /// The device tells the largest frame.
        const MTU = 1 << 3;
        /// The device has a MAC address.
        const MAC = 1 << 5;
        /// A received frame may span several buffers.
        const MRG_RXBUF = 1 << 15;
        /// The link's state can be read.
        const STATUS = 1 << 16;
        /// There is a control queue.
        const CTRL_VQ = 1 << 17;
        /// The control queue takes receive modes.
        const CTRL_RX = 1 << 18;
        /// The control queue takes VLAN filters.
        const CTRL_VLAN = 1 << 19;
        /// The control queue takes more receive modes.
        const CTRL_RX_EXTRA = 1 << 20;
        /// There are several queue pairs.
        const MQ = 1 << 22;
        /// The control queue takes a MAC address.
        const CTRL_MAC_ADDR = 1 << 23;
        /// A descriptor may point at a table of descriptors.
        const INDIRECT_DESC = 1 << 28;
        /// Notifications are suppressed by an index.
        const EVENT_IDX = 1 << 29;
        /// Virtio 1.0 or later.
        const VERSION_1 = 1 << 32;
        /// Addresses are those of the platform, an IOMMU included.
        const ACCESS_PLATFORM = 1 << 33;
        /// Rings are packed.
        const RING_PACKED = 1 << 34;
        /// Buffers are used in the order in which they were made available.
        const IN_ORDER = 1 << 35;
        /// Memory is ordered as the platform orders it.
        const ORDER_PLATFORM = 1 << 36;
        /// Notifications carry the position in the ring.
        const NOTIFICATION_DATA = 1 << 38;
        /// One queue can be reset.
        const RING_RESET = 1 << 40;
        /// A received frame's hash is reported.
        const HASH_REPORT = 1 << 57;
        /// Frames are steered by their hash.
        const RSS = 1 << 60;
    }
}

impl Features {
    /// What is wrong with accepting `self` of `offered`, if anything: the reason to refuse `FEATURES_OK`.
    pub(super) fn objection(self, accepted: u64, offered: Self) -> Option<&'static str> {
        if accepted & !offered.bits() != 0 {
            return Some("a feature that was not offered");
        }
        if !self.contains(Self::VERSION_1) {
            return Some("no VERSION_1: this is no legacy device");
        }
        if offered.contains(Self::ACCESS_PLATFORM) && !self.contains(Self::ACCESS_PLATFORM) {
            return Some("no ACCESS_PLATFORM, which the device needs");
        }
        let needs_control = Self::CTRL_RX
            | Self::CTRL_VLAN
            | Self::CTRL_RX_EXTRA
            | Self::MQ
            | Self::CTRL_MAC_ADDR
            | Self::RSS
            | Self::HASH_REPORT;
        if self.intersects(needs_control) && !self.contains(Self::CTRL_VQ) {
            return Some("a feature that needs the control queue, without CTRL_VQ");
        }
        if self.contains(Self::CTRL_RX_EXTRA) && !self.contains(Self::CTRL_RX) {
            return Some("CTRL_RX_EXTRA without CTRL_RX");
        }
        None
    }

    /// Bytes of the header before each frame (5.1.6).
    pub(super) fn header_len(self) -> usize {
        if self.contains(Self::HASH_REPORT) {
            20
        } else {
            12
        }
    }
}
