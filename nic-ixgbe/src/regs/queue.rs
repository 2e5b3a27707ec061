//! The registers that every queue has.

use parakernel_core::registers;

use super::{QUEUES, function::FUNCTION_QUEUES};

/// The registers of a receive queue, §8.2.3.8.
#[derive(Debug)]
pub struct RxQueueBlock;

impl RxQueueBlock {
    /// Where the block of receive queue `queue` begins: 64 in a page at 0x1000, and 64 in one at 0xD000. `None` beyond
    /// [`QUEUES`].
    #[must_use]
    pub const fn base(queue: u8) -> Option<usize> {
        match queue {
            0..64 => Some(0x1000 + 0x40 * queue as usize),
            64..QUEUES => Some(0xD000 + 0x40 * (queue as usize - 64)),
            _ => None,
        }
    }
}

/// The registers of a transmit queue, §8.2.3.9.
#[derive(Debug)]
pub struct TxQueueBlock;

impl RxQueueBlock {
    /// Where the block of receive queue `queue` of a virtual function begins, §8.3.5. `None` beyond 8.
    #[must_use]
    pub const fn function_base(queue: u8) -> Option<usize> {
        match queue {
            0..FUNCTION_QUEUES => Some(0x1000 + 0x40 * queue as usize),
            _ => None,
        }
    }
}

impl TxQueueBlock {
    /// Where the block of transmit queue `queue` of a virtual function begins, §8.3.5. `None` beyond 8.
    #[must_use]
    pub const fn function_base(queue: u8) -> Option<usize> {
        match queue {
            0..FUNCTION_QUEUES => Some(0x2000 + 0x40 * queue as usize),
            _ => None,
        }
    }

    /// Where the block of transmit queue `queue` begins: 128 in two pages. `None` beyond [`QUEUES`].
    #[must_use]
    pub const fn base(queue: u8) -> Option<usize> {
        match queue {
            0..QUEUES => Some(0x6000 + 0x40 * queue as usize),
            _ => None,
        }
    }
}

registers! {
    in RxQueueBlock;

    /// Receive Descriptor Base Address Low, §8.2.3.8.1; aligned to 128 bytes.
    pub Rdbal: u32 @ 0x00, address {}

    /// Receive Descriptor Base Address High, §8.2.3.8.2.
    pub Rdbah: u32 @ 0x04, address {}

    /// Receive Descriptor Length, §8.2.3.8.3: bytes of the ring, a multiple of 128.
    pub Rdlen: u32 @ 0x08, read_write {}

    /// Rx DCA Control, §8.2.3.11.1.
    pub DcaRxctrl: u32 @ 0x0C, read_write {
        /// Relaxed ordering of descriptor reads.
        RX_DESC_READ_RO_EN: bit 9,
        /// To be 0, as opposed to its value after reset.
        RESERVED_12: bit 12,
        /// Relaxed ordering of data writes.
        RX_DATA_WRITE_RO_EN: bit 13,
        /// Relaxed ordering of header writes.
        RX_REP_HEADER_RO_EN: bit 15,
    }

    /// Receive Descriptor Head, §8.2.3.8.4.
    pub Rdh: u32 @ 0x10, read_write {}

    /// Split Receive Control, §8.2.3.8.7.
    pub Srrctl: u32 @ 0x14, read_write {
        /// Bytes of each packet buffer, in units of 1 KiB, 1 to 16.
        BSIZEPACKET: bits 0..=4,
        /// Format: 1 is advanced with one buffer.
        DESCTYPE: bits 25..=27,
        /// Drop packets for which there is no descriptor, instead of stalling the other queues.
        DROP_EN: bit 28,
    }

    /// Receive Descriptor Tail, §8.2.3.8.5.
    pub Rdt: u32 @ 0x18, read_write {}

    /// Receive Descriptor Control, §8.2.3.8.6.
    pub Rxdctl: u32 @ 0x28, read_write {
        /// Enable; reads 1 once the queue works, and 0 once its accesses to the ring are done.
        ENABLE: bit 25,
        /// Strip VLAN tags.
        VME: bit 30,
    }
}

registers! {
    in TxQueueBlock;

    /// Transmit Descriptor Base Address Low, §8.2.3.9.5; aligned to 128 bytes.
    pub Tdbal: u32 @ 0x00, address {}

    /// Transmit Descriptor Base Address High, §8.2.3.9.6.
    pub Tdbah: u32 @ 0x04, address {}

    /// Transmit Descriptor Length, §8.2.3.9.7: bytes of the ring, a multiple of 128.
    pub Tdlen: u32 @ 0x08, read_write {}

    /// Tx DCA Control, §8.2.3.11.2.
    pub DcaTxctrl: u32 @ 0x0C, read_write {
        /// Relaxed ordering of descriptor reads.
        TX_DESC_READ_RO_EN: bit 9,
        /// Relaxed ordering of write-backs: the head could seem to go back.
        TX_DESC_WB_RO_EN: bit 11,
        /// Relaxed ordering of data reads.
        TX_DATA_READ_RO_EN: bit 13,
    }

    /// Transmit Descriptor Head, §8.2.3.9.8.
    pub Tdh: u32 @ 0x10, read_write {}

    /// Transmit Descriptor Tail, §8.2.3.9.9.
    pub Tdt: u32 @ 0x18, read_write {}

    /// Transmit Descriptor Control, §8.2.3.9.10.
    pub Txdctl: u32 @ 0x28, read_write {
        /// Descriptors are fetched ahead when fewer than these are on the chip.
        PTHRESH: bits 0..=6,
        /// But only if so many are ready; not 0 where `PTHRESH` is not.
        HTHRESH: bits 8..=14,
        /// Descriptors are written back by so many; 0 with head write-back.
        WTHRESH: bits 16..=22,
        /// Enable; reads 1 once the queue works, and 0 once it does not.
        ENABLE: bit 25,
    }

    /// Tx Descriptor Completion Write Back Address Low, §8.2.3.9.11.
    pub Tdwbal: u32 @ 0x38, address {
        /// Head Write-Back: the head goes to the address, and no descriptor is written.
        HEAD_WB_EN: bit 0,
    }

    /// Tx Descriptor Completion Write Back Address High, §8.2.3.9.11.
    pub Tdwbah: u32 @ 0x3C, address {}
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The figures of §8.2.2, as literals.
    #[test]
    fn both_banks_lie_where_the_datasheet_has_them() {
        let receive = [
            (0, 0x1000),
            (15, 0x13C0),
            (63, 0x1FC0),
            (64, 0xD000),
            (127, 0xDFC0),
        ];
        for (queue, base) in receive {
            assert_eq!(RxQueueBlock::base(queue), Some(base));
        }
        let transmit = [(0, 0x6000), (64, 0x7000), (127, 0x7FC0)];
        for (queue, base) in transmit {
            assert_eq!(TxQueueBlock::base(queue), Some(base));
        }
        assert!((128..=255).all(|n| RxQueueBlock::base(n).or(TxQueueBlock::base(n)).is_none()));
    }

    #[test]
    fn no_two_queues_share_a_register() {
        let bases = (0..QUEUES).flat_map(|n| [RxQueueBlock::base(n), TxQueueBlock::base(n)]);
        let mut bases: Vec<_> = bases.map(Option::unwrap).collect();
        bases.sort_unstable();
        assert!(bases.windows(2).all(|pair| pair[1] - pair[0] >= 0x40));
    }
}
