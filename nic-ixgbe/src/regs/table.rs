//! The registers that come in rows: vectors, addresses, filters, pools, counters.

use parakernel_core::registers;

/// Declares a row of equal blocks: how many there are, and where each begins.
macro_rules! row {
    ($(#[$meta:meta])* $name:ident, $count:literal blocks of $stride:literal bytes) => {
        $(#[$meta])*
        #[derive(Debug)]
        pub struct $name;

        impl $name {
            /// How many there are.
            pub const COUNT: u8 = $count;

            #[doc = concat!("What is to be added to the registers' offsets for number `index`, below ", $count, "; `None` beyond.")]
            #[must_use]
            pub const fn base(index: u8) -> Option<usize> {
                if index < $count { Some($stride * index as usize) } else { None }
            }
        }
    };
}

row! {
    /// Interrupt Vector Allocation, §8.2.3.5.16: one for two queues.
    IvarBlock, 64 blocks of 4 bytes
}
row! {
    /// The masks of the 64 vectors, 32 in each, §8.2.3.5.
    VectorMaskBlock, 2 blocks of 4 bytes
}
row! {
    /// Packet buffers and flow control thresholds: one for each traffic class.
    TrafficClassBlock, 8 blocks of 4 bytes
}
row! {
    /// Pause times: of two traffic classes in each, §8.2.3.3.2.
    PauseTimeBlock, 4 blocks of 4 bytes
}
row! {
    /// Receive addresses and the pools that get their frames.
    ReceiveAddressBlock, 128 blocks of 8 bytes
}
row! {
    /// Five-tuple filters, §7.1.2.5.
    FiveTupleBlock, 128 blocks of 4 bytes
}
row! {
    /// `EtherType` filters, §7.1.2.3.
    EtherTypeBlock, 8 blocks of 4 bytes
}
row! {
    /// Tables of 4096 bits, and others of 128 words.
    BitTableBlock, 128 blocks of 4 bytes
}
row! {
    /// RSS redirection table: four queues in each, §8.2.3.7.15.
    RetaBlock, 32 blocks of 4 bytes
}
row! {
    /// RSS key, §8.2.3.7.14.
    RssrkBlock, 10 blocks of 4 bytes
}
row! {
    /// Pools, §8.2.3.27.
    PoolBlock, 64 blocks of 4 bytes
}
row! {
    /// Pools, 32 in each; 64 VLAN filters with their pools use pairs of these.
    PoolMaskBlock, 128 blocks of 4 bytes
}
row! {
    /// Anti-spoofing of eight pools each, §8.2.3.27.
    SpoofBlock, 8 blocks of 4 bytes
}
row! {
    /// Which of the 16 counters a queue counts in: four queues in each.
    CounterMapBlock, 32 blocks of 4 bytes
}
row! {
    /// The 16 counters of queues, receive and transmit, §8.2.3.23.
    CounterBlock, 16 blocks of 64 bytes
}

/// Extended Interrupt Throttle, §8.2.3.5.12: one for each vector, in two banks.
#[derive(Debug)]
pub struct EitrBlock;

impl EitrBlock {
    /// How many vectors there are.
    pub const COUNT: u8 = 64;

    /// Where the register of vector `index` lies: 24 at 0x820, the others at 0x12300. `None` beyond 64.
    #[must_use]
    pub const fn base(index: u8) -> Option<usize> {
        match index {
            0..24 => Some(0x820 + 4 * index as usize),
            24..64 => Some(0x1_2300 + 4 * (index as usize - 24)),
            _ => None,
        }
    }
}

registers! {
    in EitrBlock;

    /// Extended Interrupt Throttle, §8.2.3.5.12.
    pub Eitr: u32 @ 0x0, read_write {
        /// The least time between two interrupts, in units of 2 µs at 10 Gb/s.
        ITR_INTERVAL: bits 3..=11,
        /// The running counter is left alone by the write.
        CNT_WDIS: bit 31,
    }
}

registers! {
    in IvarBlock;

    /// Vectors of two queues, §8.2.3.5.16.
    pub Ivar: u32 @ 0x900, read_write {
        /// Receive queue 2n.
        INT_ALLOC_0: bits 0..=6,
        /// It has a vector.
        INT_ALLOC_VAL_0: bit 7,
        /// Transmit queue 2n.
        INT_ALLOC_1: bits 8..=14,
        /// It has a vector.
        INT_ALLOC_VAL_1: bit 15,
        /// Receive queue 2n + 1.
        INT_ALLOC_2: bits 16..=22,
        /// It has a vector.
        INT_ALLOC_VAL_2: bit 23,
        /// Transmit queue 2n + 1.
        INT_ALLOC_3: bits 24..=30,
        /// It has a vector.
        INT_ALLOC_VAL_3: bit 31,
    }
}

registers! {
    in VectorMaskBlock;

    /// Set, §8.2.3.5.8: unmasks vectors.
    pub EimsEx: u32 @ 0xAA0, read_write {}

    /// Clear, §8.2.3.5.9: masks vectors.
    pub EimcEx: u32 @ 0xAB0, write_only {}

    /// Auto mask, §8.2.3.5.10: a vector whose message was sent is masked.
    pub EiamEx: u32 @ 0xAD0, read_write {}
}

registers! {
    in TrafficClassBlock;

    /// Flow Control Receive Threshold Low, §8.2.3.3.3.
    pub Fcrtl: u32 @ 0x3220, read_write {
        /// Low water mark, in units of 32 bytes.
        RTL: bits 5..=18,
        /// Tell the peer when it is reached.
        XONE: bit 31,
    }

    /// Flow Control Receive Threshold High, §8.2.3.3.4.
    pub Fcrth: u32 @ 0x3260, read_write {
        /// High water mark, in units of 32 bytes.
        RTH: bits 5..=18,
        /// Send pause frames.
        FCEN: bit 31,
    }

    /// Missed Packets Count, §8.2.3.23: for want of packet buffer; cleared by reading.
    pub Rxmpc: u32 @ 0x3FA0, read_only {}

    /// Receive Packet Buffer Size, §8.2.3.8.9.
    pub Rxpbsize: u32 @ 0x3C00, read_write {
        /// In units of 1 KiB.
        SIZE: bits 10..=19,
    }

    /// Tx Packet Buffer Threshold, §8.2.3.9.16.
    pub Txpbthresh: u32 @ 0x4950, read_write {
        /// In units of 1 KiB.
        THRESH: bits 0..=9,
    }

    /// Transmit Packet Buffer Size, §8.2.3.9.13.
    pub Txpbsize: u32 @ 0xCC00, read_write {
        /// In units of 1 KiB.
        SIZE: bits 10..=19,
    }
}

registers! {
    in PauseTimeBlock;

    /// Flow Control Transmit Timer Value, §8.2.3.3.2: how long a pause is, in units of 512 bits.
    pub Fcttv: u32 @ 0x3200, read_write {
        /// Of class 2n.
        TTV_0: bits 0..=15,
        /// Of class 2n + 1.
        TTV_1: bits 16..=31,
    }
}

registers! {
    in ReceiveAddressBlock;

    /// Receive Address Low, §8.2.3.7.8: the first four bytes, the first one lowest.
    pub Ral: u32 @ 0xA200, read_write {}

    /// Receive Address High, §8.2.3.7.9.
    pub Rah: u32 @ 0xA204, read_write {
        /// The last two bytes.
        RAH: bits 0..=15,
        /// Address Valid.
        AV: bit 31,
    }

    /// MAC Pool Select Array, §8.2.3.7.10: pools 0 to 31.
    pub MpsarLow: u32 @ 0xA600, read_write {}

    /// Pools 32 to 63.
    pub MpsarHigh: u32 @ 0xA604, read_write {}
}

registers! {
    in FiveTupleBlock;

    /// Source Address Queue Filter, §8.2.3.7.16: the first byte of the address lowest.
    pub Saqf: u32 @ 0xE000, read_write {}

    /// Destination Address Queue Filter, §8.2.3.7.17: the first byte of the address lowest.
    pub Daqf: u32 @ 0xE200, read_write {}

    /// Source Destination Port Queue Filter, §8.2.3.7.18: each port's first byte lowest.
    pub Sdpqf: u32 @ 0xE400, read_write {
        /// Source port.
        SOURCE_PORT: bits 0..=15,
        /// Destination port.
        DESTINATION_PORT: bits 16..=31,
    }

    /// Five tuple Queue Filter, §8.2.3.7.19.
    pub Ftqf: u32 @ 0xE600, read_write {
        /// 0 TCP, 1 UDP, 2 SCTP, 3 another.
        PROTOCOL: bits 0..=1,
        /// Of several filters that match, the one with the highest wins; 1 to 7.
        PRIORITY: bits 2..=4,
        /// The pool, unless masked.
        POOL: bits 8..=13,
        /// The source address does not count.
        MASK_SOURCE_ADDRESS: bit 25,
        /// The destination address does not count.
        MASK_DESTINATION_ADDRESS: bit 26,
        /// The source port does not count.
        MASK_SOURCE_PORT: bit 27,
        /// The destination port does not count.
        MASK_DESTINATION_PORT: bit 28,
        /// The protocol does not count.
        MASK_PROTOCOL: bit 29,
        /// The pool does not count.
        POOL_MASK: bit 30,
        /// The filter is on.
        QUEUE_ENABLE: bit 31,
    }

    /// L3 L4 Tuples Immediate Interrupt Rx, §8.2.3.5.13.
    pub L34timir: u32 @ 0xE800, read_write {
        /// To be 1000000b.
        RESERVED_13: bits 13..=19,
        /// The queue.
        RX_QUEUE: bits 21..=27,
    }
}

registers! {
    in EtherTypeBlock;

    /// EType Queue Filter, §8.2.3.7.21.
    pub Etqf: u32 @ 0x5128, read_write {
        /// The type.
        ETYPE: bits 0..=15,
        /// Filter Enable.
        FILTER_ENABLE: bit 31,
    }

    /// EType Queue Select, §8.2.3.7.22.
    pub Etqs: u32 @ 0xEC00, read_write {
        /// The queue.
        RX_QUEUE: bits 16..=22,
        /// The filter leads to it.
        QUEUE_ENABLE: bit 31,
    }
}

registers! {
    in BitTableBlock;

    /// Multicast Table Array, §8.2.3.7.7.
    pub Mta: u32 @ 0x5200, read_write {}

    /// VLAN Filter Table Array, §8.2.3.7.11: bit *v* mod 32 of word *v* / 32.
    pub Vfta: u32 @ 0xA000, read_write {}

    /// PF Unicast Table Array, §8.2.3.27.17.
    pub Pfuta: u32 @ 0xF400, read_write {}
}

registers! {
    in RetaBlock;

    /// Redirection Table, §8.2.3.7.15: a byte each, of which four bits are a queue.
    pub Reta: u32 @ 0x5C00, read_write {}
}

registers! {
    in RssrkBlock;

    /// RSS Random Key, §8.2.3.7.14: the first byte lowest.
    pub Rssrk: u32 @ 0x5C80, read_write {}
}

registers! {
    in PoolBlock;

    /// PF VM VLAN Insert, §8.2.3.27.
    pub Pfvmvir: u32 @ 0x8000, read_write {
        /// The tag.
        PORT_VLAN_ID: bits 0..=15,
        /// 0 the descriptor's tag, 1 always this one, 2 never any.
        VLANA: bits 30..=31,
    }

    /// PF VM L2 Control, §8.2.3.27: what a pool gets beyond its addresses.
    pub Pfvml2flt: u32 @ 0xF000, read_write {
        /// Untagged frames.
        AUPE: bit 24,
        /// Multicast frames in the table.
        ROMPE: bit 25,
        /// Unicast frames in the table.
        ROPE: bit 26,
        /// Broadcast frames.
        BAM: bit 27,
        /// All multicast frames.
        MPE: bit 28,
    }

    /// PF VM VLAN Pool Filter, §8.2.3.27.15.
    pub Pfvlvf: u32 @ 0xF100, read_write {
        /// The VLAN.
        VLAN_ID: bits 0..=11,
        /// The filter is on.
        VI_EN: bit 31,
    }
}

registers! {
    in PoolMaskBlock;

    /// PF VF Receive Enable, §8.2.3.27: pools 0 to 31, then 32 to 63.
    pub Pfvfre: u32 @ 0x51E0, read_write {}

    /// PF VF Transmit Enable, §8.2.3.27.
    pub Pfvfte: u32 @ 0x8110, read_write {}

    /// PF VM VLAN Pool Filter Bitmap, §8.2.3.27.16: two words for each filter.
    pub Pfvlvfb: u32 @ 0xF200, read_write {}
}

registers! {
    in SpoofBlock;

    /// PF VF Anti Spoof Control, §8.2.3.27: one bit for each of eight pools.
    pub Pfvfspoof: u32 @ 0x8200, read_write {
        /// MAC anti-spoofing.
        MACAS: bits 0..=7,
        /// VLAN anti-spoofing.
        VLANAS: bits 8..=15,
    }
}

registers! {
    in CounterMapBlock;

    /// Receive Queue Statistic Mapping, §8.2.3.23: a byte for each queue, four bits used.
    pub Rqsmr: u32 @ 0x2300, read_write {}

    /// Transmit Queue Statistic Mapping, §8.2.3.23.
    pub Tqsm: u32 @ 0x8600, read_write {}
}

registers! {
    in CounterBlock;

    /// Queue Packets Received Count, §8.2.3.23; cleared by reading.
    pub Qprc: u32 @ 0x1030, read_only {}

    /// Queue Bytes Received Count Low, §8.2.3.23: to be read before the high part.
    pub QbrcL: u32 @ 0x1034, read_only {}

    /// Queue Bytes Received Count High, §8.2.3.23.
    pub QbrcH: u32 @ 0x1038, read_only {
        /// Four bits.
        HIGH: bits 0..=3,
    }

    /// Queue Packets Received Drop Count, §8.2.3.23: for want of descriptors; cleared by reading.
    pub Qprdc: u32 @ 0x1430, read_only {}

    /// Queue Packets Transmitted Count, §8.2.3.23; cleared by reading.
    pub Qptc: u32 @ 0x6030, read_only {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vectors_lie_in_two_banks() {
        let figures = [(0, 0x820), (23, 0x87C), (24, 0x1_2300), (63, 0x1_239C)];
        for (vector, place) in figures {
            assert_eq!(EitrBlock::base(vector), Some(place));
        }
        assert_eq!(EitrBlock::base(64), None);
    }

    #[test]
    fn a_row_ends() {
        assert_eq!(FiveTupleBlock::base(127), Some(508));
        assert_eq!(FiveTupleBlock::base(128), None);
        assert_eq!(ReceiveAddressBlock::base(127), Some(1016));
        assert_eq!(CounterBlock::base(15), Some(0x3C0));
        assert_eq!(CounterBlock::base(16), None);
    }
}
