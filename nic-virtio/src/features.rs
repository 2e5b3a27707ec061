//! What device and driver agree on.

use bitflags::bitflags;

use crate::error::InitError;

bitflags! {
    /// Feature bits that this driver knows, §5.1.3 and §6.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
    pub struct Features: u64 {
        /// Transmitted frames may leave their checksum to the device.
        const CSUM = 1 << 0;
        /// Received frames may have a checksum that is only partly computed.
        const GUEST_CSUM = 1 << 1;
        /// The device states the largest payload it takes.
        const MTU = 1 << 3;
        /// The device has a MAC address.
        const MAC = 1 << 5;
        /// A received frame may span several buffers.
        const MRG_RXBUF = 1 << 15;
        /// The device tells whether the link is up.
        const STATUS = 1 << 16;
        /// There is a control queue.
        const CTRL_VQ = 1 << 17;
        /// Promiscuous mode and the MAC table can be set.
        const CTRL_RX = 1 << 18;
        /// VLAN identifiers can be filtered.
        const CTRL_VLAN = 1 << 19;
        /// There may be more than one pair of queues.
        const MQ = 1 << 22;
        /// The MAC address can be set.
        const CTRL_MAC_ADDR = 1 << 23;
        /// A descriptor may refer to a table of descriptors.
        const INDIRECT_DESC = 1 << 28;
        /// Each side says at which entry it wants to be notified.
        const EVENT_IDX = 1 << 29;
        /// The device is not a legacy one.
        const VERSION_1 = 1 << 32;
        /// The device reaches memory through the platform's IOMMU, and is limited by it.
        const ACCESS_PLATFORM = 1 << 33;
        /// Rings have the packed layout.
        const RING_PACKED = 1 << 34;
        /// The device uses buffers in the order in which they were made available, and may tell of several at once.
        ///
        /// Not to be wanted by a kernel that checks queues: its side takes each completion for one buffer's.
        const IN_ORDER = 1 << 35;
        /// Ring accesses are ordered as on the platform, not only among CPUs.
        const ORDER_PLATFORM = 1 << 36;
        /// Notifications carry how far the ring was filled.
        const NOTIFICATION_DATA = 1 << 38;
        /// Each queue can be reset alone.
        const RING_RESET = 1 << 40;
        /// The device tells speed and duplex of the link.
        const SPEED_DUPLEX = 1 << 63;
        /// Frames are steered by a hash, with a key and a table of the driver's.
        const RSS = 1 << 60;
    }
}

/// Each feature, and those without which it may not be accepted (§5.1.3.1), in an order in which one pass finds all.
const REQUIRES: [(Features, Features); 7] = [
    (Features::CTRL_RX, Features::CTRL_VQ),
    (Features::CTRL_VLAN, Features::CTRL_VQ),
    (Features::MQ, Features::CTRL_VQ),
    (Features::CTRL_MAC_ADDR, Features::CTRL_VQ),
    (Features::RSS, Features::CTRL_VQ),
    // Not the specification's rule but ours: what follows is of use only with what precedes.
    (Features::ORDER_PLATFORM, Features::ACCESS_PLATFORM),
    (Features::SPEED_DUPLEX, Features::STATUS),
];

impl Features {
    /// What a kernel wants that gives queue pairs to processes: everything that partitioning, steering and revocation
    /// use, with split rings.
    ///
    /// Left out, to be added by who uses it: [`RING_PACKED`](Self::RING_PACKED), [`IN_ORDER`](Self::IN_ORDER),
    /// [`NOTIFICATION_DATA`](Self::NOTIFICATION_DATA), [`MRG_RXBUF`](Self::MRG_RXBUF), [`CSUM`](Self::CSUM) and
    /// [`GUEST_CSUM`](Self::GUEST_CSUM).
    pub const PARTITION: Self = Self::MTU
        .union(Self::MAC)
        .union(Self::STATUS)
        .union(Self::SPEED_DUPLEX)
        .union(Self::CTRL_VQ)
        .union(Self::CTRL_RX)
        .union(Self::CTRL_VLAN)
        .union(Self::CTRL_MAC_ADDR)
        .union(Self::MQ)
        .union(Self::RSS)
        .union(Self::INDIRECT_DESC)
        .union(Self::EVENT_IDX)
        .union(Self::VERSION_1)
        .union(Self::ACCESS_PLATFORM)
        .union(Self::ORDER_PLATFORM)
        .union(Self::RING_RESET);

    /// What the driver accepts of `offered`, where it wants `wanted`.
    ///
    /// [`VERSION_1`](Self::VERSION_1) is always wanted, and so is [`ACCESS_PLATFORM`](Self::ACCESS_PLATFORM) with
    /// [`ORDER_PLATFORM`](Self::ORDER_PLATFORM): a device that offers them may refuse to work otherwise (§6.1).
    ///
    /// # Errors
    ///
    /// [`InitError::Legacy`] where the device does not offer `VERSION_1`.
    pub(crate) fn choose(offered: Self, wanted: Self) -> Result<Self, InitError> {
        if !offered.contains(Self::VERSION_1) {
            return Err(InitError::Legacy);
        }
        let platform = Self::VERSION_1 | Self::ACCESS_PLATFORM | Self::ORDER_PLATFORM;
        let mut accepted = offered & (wanted | platform);
        for (feature, needed) in REQUIRES {
            if !accepted.contains(needed) {
                accepted.remove(feature);
            }
        }
        Ok(accepted)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn only_what_was_offered_and_can_be_used_is_accepted(offered: u64, wanted: u64) {
            let offered = Features::from_bits_truncate(offered) | Features::VERSION_1;
            let wanted = Features::from_bits_truncate(wanted);
            let accepted = Features::choose(offered, wanted).unwrap();
            prop_assert!(offered.contains(accepted));
            let platform = Features::VERSION_1 | Features::ACCESS_PLATFORM | Features::ORDER_PLATFORM;
            prop_assert!((wanted | platform).contains(accepted));
            for (feature, needed) in REQUIRES {
                prop_assert!(!accepted.contains(feature) || accepted.contains(needed));
            }
        }
    }

    #[test]
    fn a_legacy_device_is_refused() {
        let offered = Features::all() - Features::VERSION_1;
        assert_eq!(
            Features::choose(offered, Features::all()),
            Err(InitError::Legacy)
        );
    }
}
