//! The registers of the Flow Director, §8.2.3.21.

use parakernel_core::registers;

use super::PortBlock;

registers! {
    in PortBlock;

    /// Flow Director Filters Control, §8.2.3.21: writing it sets the tables up.
    pub Fdirctrl: u32 @ 0x0_EE00, read_write {
        /// How much of the receive packet buffer the tables have: 1 is 64 KiB, 2 is 128 KiB, 3 is 256 KiB.
        PBALLOC: bits 0..=1,
        /// The tables are set up.
        INIT_DONE: bit 3,
        /// Filters compare what they are about, not a signature of it.
        PERFECT_MATCH: bit 4,
        /// The queue of filters that drop.
        DROP_Q: bits 8..=14,
        /// Where the two bytes lie that filters may look at, in units of two bytes from the frame's beginning.
        FLEX_OFFSET: bits 16..=20,
        /// How long the list of a hash may become until it is reported as long.
        MAX_LENGTH: bits 24..=27,
        /// With how few filters left, in units of 16, the port interrupts.
        FULL_THRESH: bits 28..=31,
    }

    /// Flow Director Source IPv6, §8.2.3.21: the first of three words; 0 for IPv4.
    pub Fdirsipv6A: u32 @ 0x0_EE0C, read_write {}

    /// The second word.
    pub Fdirsipv6B: u32 @ 0x0_EE10, read_write {}

    /// The third word.
    pub Fdirsipv6C: u32 @ 0x0_EE14, read_write {}

    /// Flow Director IP Source Address, §8.2.3.21: its first byte lowest.
    pub Fdiripsa: u32 @ 0x0_EE18, read_write {}

    /// Flow Director IP Destination Address, §8.2.3.21: its first byte lowest.
    pub Fdiripda: u32 @ 0x0_EE1C, read_write {}

    /// Flow Director Port, §8.2.3.21: numbers, not bytes of a frame.
    pub Fdirport: u32 @ 0x0_EE20, read_write {
        /// Source port.
        SOURCE: bits 0..=15,
        /// Destination port.
        DESTINATION: bits 16..=31,
    }

    /// Flow Director VLAN and Flexible Bytes, §8.2.3.21.
    pub Fdirvlan: u32 @ 0x0_EE24, read_write {
        /// The tag; 0 for none.
        VLAN: bits 0..=15,
        /// The two bytes, the first one lowest.
        FLEX: bits 16..=31,
    }

    /// Flow Director Hash, §8.2.3.21.
    pub Fdirhash: u32 @ 0x0_EE28, read_write {
        /// The bucket: the hash of what the filter compares.
        HASH: bits 0..=14,
        /// The number that software gives a perfect filter.
        SW_INDEX: bits 16..=30,
    }

    /// Flow Director Command, §8.2.3.21; to be written last.
    pub Fdircmd: u32 @ 0x0_EE2C, read_write {
        /// 0 none under way, 1 add, 2 remove, 3 ask.
        CMD: bits 0..=1,
        /// The filter that was asked for is there.
        FILTER_VALID: bit 2,
        /// A filter that is there already is changed.
        FILTER_UPDATE: bit 3,
        /// 0 none of these, 1 UDP, 2 TCP, 3 SCTP. Erratum: its high bit may read wrong.
        L4TYPE: bits 5..=6,
        /// Clears the table of buckets while set.
        CLEARHT: bit 8,
        /// Frames go to the queue that drops.
        DROP: bit 9,
        /// The last filter of its list; to be set.
        LAST: bit 11,
        /// The filter leads to a queue.
        QUEUE_EN: bit 15,
        /// The queue.
        RX_QUEUE: bits 16..=22,
    }

    /// Flow Director Free, §8.2.3.21.
    pub Fdirfree: u32 @ 0x0_EE38, read_write {
        /// How many filters there is still room for.
        FREE: bits 0..=15,
    }

    /// Flow Director Destination IPv4 Mask, §8.2.3.21: bits that do not count, those of the first byte lowest.
    pub Fdirdip4m: u32 @ 0x0_EE3C, read_write {}

    /// Flow Director Source IPv4 Mask, §8.2.3.21: bits that do not count, those of the first byte lowest.
    pub Fdirsip4m: u32 @ 0x0_EE40, read_write {}

    /// Flow Director TCP Mask, §8.2.3.21: bits that do not count, of each port its highest bit lowest.
    pub Fdirtcpm: u32 @ 0x0_EE44, read_write {
        /// Source port.
        SOURCE: bits 0..=15,
        /// Destination port.
        DESTINATION: bits 16..=31,
    }

    /// Flow Director UDP Mask, §8.2.3.21; as [`Fdirtcpm`].
    pub Fdirudpm: u32 @ 0x0_EE48, read_write {
        /// Source port.
        SOURCE: bits 0..=15,
        /// Destination port.
        DESTINATION: bits 16..=31,
    }

    /// Flow Director Usage Statistics, §8.2.3.21; cleared by reading.
    pub Fdirustat: u32 @ 0x0_EE50, read_only {
        /// Filters added.
        ADD: bits 0..=15,
        /// Filters removed.
        REMOVE: bits 16..=31,
    }

    /// Flow Director Failed Usage Statistics, §8.2.3.21; cleared by reading.
    pub Fdirfstat: u32 @ 0x0_EE54, read_only {
        /// Filters not added, for want of room.
        FADD: bits 0..=7,
        /// Filters not removed, as they were not there.
        FREMOVE: bits 8..=15,
    }

    /// Flow Director Match, §8.2.3.21: frames that a filter led; cleared by reading.
    pub Fdirmatch: u32 @ 0x0_EE58, read_only {}

    /// Flow Director Miss, §8.2.3.21: frames that were looked at and not led; cleared by reading.
    pub Fdirmiss: u32 @ 0x0_EE5C, read_only {}

    /// Flow Director Hash Key of buckets, §8.2.3.21.
    pub Fdirhkey: u32 @ 0x0_EE68, read_write {}

    /// Flow Director Mask, §8.2.3.21: what does not count.
    pub Fdirm: u32 @ 0x0_EE70, read_write {
        /// The VLAN.
        VLANID: bit 0,
        /// The tag's priority.
        VLANP: bit 1,
        /// The pool.
        POOL: bit 2,
        /// The protocol, and with it ports.
        L4P: bit 3,
        /// The two bytes.
        FLEX: bit 4,
        /// The destination's IPv6 address.
        DIPV6: bit 5,
    }

    /// Flow Director IPv6 Mask, §8.2.3.21: bytes that do not count.
    pub Fdirip6m: u32 @ 0x0_EE74, read_write {}
}
