//! The registers used, in the order and spelling of the 82599 datasheet (Intel 331520), BAR 0.
//!
//! Registers that come in rows are blocks of their own: [`RxQueueBlock`], [`TxQueueBlock`] and those in [`table`] say
//! where the block of entry *n* begins, and nobody else does.

use parakernel_core::registers;

pub mod counter;
pub mod director;
pub mod function;
mod queue;
pub mod table;

pub use queue::{
    DcaRxctrl, DcaTxctrl, Rdbah, Rdbal, Rdh, Rdlen, Rdt, RxQueueBlock, Rxdctl, Srrctl, Tdbah,
    Tdbal, Tdh, Tdlen, Tdt, Tdwbah, Tdwbal, TxQueueBlock, Txdctl,
};

/// Bytes of the register file, without the flash behind it, §8.1.
pub const BAR_LEN: usize = 128 << 10;

/// Receive queues, and transmit queues, of a port, §1.3.
pub const QUEUES: u8 = 128;

/// The registers that there is one of.
#[derive(Debug)]
pub struct PortBlock;

registers! {
    in PortBlock;

    /// Device Control, §8.2.3.1.1.
    pub Ctrl: u32 @ 0x0_0000, read_write {
        /// PCIe Master Disable: no new request is begun while set.
        PCIE_MASTER_DISABLE: bit 2,
        /// Link Reset.
        LRST: bit 3,
        /// Device Reset; reads 0 again when it is done.
        RST: bit 26,
    }

    /// Device Status, §8.2.3.1.2.
    pub Status: u32 @ 0x0_0008, read_only {
        /// Which port of the card this is.
        LAN_ID: bits 2..=3,
        /// PCIe Master Enable Status: requests may be under way.
        PCIE_MASTER_ENABLE: bit 19,
    }

    /// Extended Device Control, §8.2.3.1.3.
    pub CtrlExt: u32 @ 0x0_0018, read_write {
        /// The port's driver is ready for those of virtual functions.
        PFRSTD: bit 14,
        /// No Snoop Disable.
        NS_DIS: bit 16,
        /// Relaxed Ordering Disable.
        RO_DIS: bit 17,
        /// A driver is loaded: tells the firmware to keep off.
        DRV_LOAD: bit 28,
    }

    /// Extended SDP Control, §8.2.3.1.4.
    pub Esdp: u32 @ 0x0_0020, read_write {
        /// SDP2's value: set while an SFP+ module is in the cage, on Intel's boards.
        SDP2_DATA: bit 2,
        /// SDP3's value: the transmitter of the module is off while set.
        SDP3_DATA: bit 3,
    }

    /// I2C Control, §8.2.3.1: the two wires of the module's bus.
    pub I2cctl: u32 @ 0x0_0028, read_write {
        /// The clock as it is; the module may hold it down.
        CLK_IN: bit 0,
        /// Lets the clock go, else pulls it down.
        CLK_OUT: bit 1,
        /// The data as it is.
        DATA_IN: bit 2,
        /// Lets the data go, else pulls it down.
        DATA_OUT: bit 3,
    }

    /// Extended Interrupt Cause, §8.2.3.5.1; the bits of [`Eims`].
    pub Eicr: u32 @ 0x0_0800, read_write {
        /// Flow Director: its table is filling up.
        FLOW_DIRECTOR: bit 16,
        /// A packet was lost because a receive packet buffer was full.
        RX_MISS: bit 17,
        /// PCIe exception.
        PCI_EXCEPTION: bit 18,
        /// A virtual function wrote to its mailbox.
        MAILBOX: bit 19,
        /// Link Status Change.
        LSC: bit 20,
        /// Management event.
        MNG: bit 22,
        /// An uncorrectable error in the device's memory.
        ECC: bit 28,
    }

    /// Extended Interrupt Auto Clear, §8.2.3.5.5: causes that clear themselves once their message was sent.
    pub Eiac: u32 @ 0x0_0810, read_write {
        /// Queues; all bits.
        RTX_QUEUE: bits 0..=15,
    }

    /// Extended Interrupt Mask Set/Read, §8.2.3.5.3: writing ones unmasks.
    pub Eims: u32 @ 0x0_0880, read_write {
        /// A virtual function wrote to its mailbox, or was reset.
        MAILBOX: bit 19,
        /// Link Status Change.
        LSC: bit 20,
        /// Packet lost for want of packet buffer.
        RX_MISS: bit 17,
        /// PCIe exception.
        PCI_EXCEPTION: bit 18,
        /// An uncorrectable error in the device's memory.
        ECC: bit 28,
    }

    /// Extended Interrupt Mask Clear, §8.2.3.5.4: writing ones masks.
    pub Eimc: u32 @ 0x0_0888, write_only {
        /// All that can be masked; bit 31 is reserved.
        ALL: bits 0..=30,
    }

    /// General Purpose Interrupt Enable, §8.2.3.5.18.
    pub Gpie: u32 @ 0x0_0898, read_write {
        /// One message for each vector, as [`table::Ivar`] says.
        MULTIPLE_MSIX: bit 4,
        /// Reading [`Eicr`] clears what other causes than queues set, too.
        OCD: bit 5,
        /// As [`GcrExt::VT_MODE`].
        VT_MODE: bits 14..=15,
        /// Auto mask is on for all that [`table::EiamEx`] names.
        EIAME: bit 30,
        /// Pending bits are kept.
        PBA_SUPPORT: bit 31,
    }

    /// Other causes' vectors, §8.2.3.5.17.
    pub IvarMisc: u32 @ 0x0_0A00, read_write {
        /// Vector of the TCP timer.
        INT_ALLOC_0: bits 0..=6,
        /// It is valid.
        INT_ALLOC_VAL_0: bit 7,
        /// Vector of all other causes: link, mailbox, errors.
        INT_ALLOC_1: bits 8..=14,
        /// It is valid.
        INT_ALLOC_VAL_1: bit 15,
    }

    /// Receive DMA Control, §8.2.3.8.8.
    pub Rdrxctl: u32 @ 0x0_2F00, read_write {
        /// Strip the CRC; to be what [`Hlreg0::RXCRCSTRP`] is.
        CRC_STRIP: bit 1,
        /// DMA initialisation is done.
        DMAIDONE: bit 3,
        /// To be 0, as opposed to its value after reset.
        RSCFRSTSIZE: bits 17..=21,
        /// To be 1.
        RSCACKC: bit 25,
        /// To be 1.
        FCOE_WRFIX: bit 26,
    }

    /// PF Queue Drop Enable, §8.2.3.27.9: a window on one bit for each queue.
    pub Pfqde: u32 @ 0x0_2F04, read_write {
        /// The bit of the queue.
        QDE: bit 0,
        /// The queue.
        QUEUE_IDX: bits 8..=14,
        /// Write the bit.
        WE: bit 16,
        /// Read the bit.
        RE: bit 17,
    }

    /// Receive Control, §8.2.3.8.10.
    pub Rxctrl: u32 @ 0x0_3000, read_write {
        /// Receive Enable.
        RXEN: bit 0,
    }

    /// Flow Control Refresh Threshold, §8.2.3.3.5.
    pub Fcrtv: u32 @ 0x0_32A0, read_write {
        /// A pause is asked for again when so much of the last one is left, in units of 512 bits.
        FC_REFRESH_TH: bits 0..=15,
    }

    /// Flow Control Configuration, §8.2.3.3.7.
    pub Fccfg: u32 @ 0x0_3D00, read_write {
        /// Transmit Flow Control: 0 off, 1 link flow control (802.3x), 2 priority flow control.
        TFCE: bits 3..=4,
    }

    /// MAC Core Control 0, §8.2.3.22.8.
    pub Hlreg0: u32 @ 0x0_4240, read_write {
        /// Append a CRC to what is sent.
        TXCRCEN: bit 0,
        /// Strip the CRC of what is received.
        RXCRCSTRP: bit 1,
        /// Frames up to [`Maxfrs`].
        JUMBOEN: bit 2,
        /// Pad short frames to 64 bytes.
        TXPADEN: bit 10,
        /// What is sent comes back.
        LPBK: bit 15,
    }

    /// Max Frame Size, §8.2.3.22.13; with [`Hlreg0::JUMBOEN`].
    pub Maxfrs: u32 @ 0x0_4268, read_write {
        /// Bytes from the destination address to the CRC, a VLAN tag not counted.
        MFS: bits 16..=31,
    }

    /// MAC Flow Control, §8.2.3.22.34.
    pub Mflcn: u32 @ 0x0_4294, read_write {
        /// Pass MAC control frames to the host.
        PMCF: bit 0,
        /// Discard pause frames.
        DPF: bit 1,
        /// Obey pause frames.
        RFCE: bit 3,
    }

    /// Auto-Negotiation Control, §8.2.3.22.19.
    pub Autoc: u32 @ 0x0_42A0, read_write {
        /// Force Link Up.
        FLU: bit 0,
        /// Medium of the 10 Gb/s parallel interface.
        PMA_PMD_10G_PARALLEL: bits 7..=8,
        /// Medium of the 1 Gb/s interface.
        PMA_PMD_1G: bit 9,
        /// Begin again with the link; clears itself.
        RESTART_AN: bit 12,
        /// Offers pauses in both directions.
        SYM_PAUSE: bit 28,
        /// Offers pauses in one direction.
        ASM_PAUSE: bit 29,
        /// Link Mode Select: 0 is 1 Gb/s, 3 is 10 Gb/s serial (SFI), both without negotiation.
        LMS: bits 13..=15,
    }

    /// Link Status, §8.2.3.22.20.
    pub Links: u32 @ 0x0_42A4, read_only {
        /// Speed: 1 is 100 Mb/s, 2 is 1 Gb/s, 3 is 10 Gb/s.
        LINK_SPEED: bits 28..=29,
        /// The link is up.
        LINK_UP: bit 30,
        /// Negotiation on a backplane is done.
        KX_AN_COMP: bit 31,
    }

    /// Auto-Negotiation Link Partner Base Page, lower part, §8.2.3.22: what the peer offers.
    pub Anlp1: u32 @ 0x0_42B0, read_only {
        /// Pauses in both directions.
        SYM_PAUSE: bit 10,
        /// Pauses in one direction.
        ASM_PAUSE: bit 11,
    }

    /// Auto-Negotiation Control 2, §8.2.3.22.22.
    pub Autoc2: u32 @ 0x0_42A8, read_write {
        /// Medium of the 10 Gb/s serial interface: 0 is KR, 2 is SFI.
        PMA_PMD_10G_SERIAL: bits 16..=17,
        /// The link is off, as the EEPROM may want it: in D3, or always.
        LINK_DISABLE: bits 28..=30,
    }

    /// DCB Transmit Descriptor Plane Control and Status, §8.2.3.10.2.
    pub Rttdcs: u32 @ 0x0_4900, read_write {
        /// The descriptor arbiter stands still, so that [`Mtqc`] may change.
        ARBDIS: bit 6,
    }

    /// DCB Transmit Descriptor Plane Queue Select, §8.2.3.10.13: which queue [`Rttdt1c`] and [`Rttbcnrc`] are about.
    pub Rttdqsel: u32 @ 0x0_4904, read_write {
        /// The queue.
        TXDQ_IDX: bits 0..=6,
    }

    /// DCB Transmit Descriptor Plane T1 Config, §8.2.3.10.14.
    pub Rttdt1c: u32 @ 0x0_4908, read_write {}

    /// DCB Transmit Rate-Scheduler MMW, §8.2.3.10.15.
    pub Rttbcnrm: u32 @ 0x0_4980, read_write {
        /// How much may be made up for: 0x14 with jumbo frames, else 4.
        MMW_SIZE: bits 0..=10,
    }

    /// DCB Transmit Rate-Scheduler Config, §8.2.3.10.16.
    pub Rttbcnrc: u32 @ 0x0_4984, read_write {
        /// The link's speed over the queue's: 14 binary places, then 10 bits of whole.
        RF: bits 0..=23,
        /// The queue is held to its rate.
        RS_ENA: bit 31,
    }

    /// DMA Tx Control, §8.2.3.9.2.
    pub Dmatxctl: u32 @ 0x0_4A80, read_write {
        /// Transmit Enable.
        TE: bit 0,
        /// EtherType of VLAN tags that are inserted.
        VT: bits 16..=31,
    }

    /// Receive Checksum Control, §8.2.3.7.5.
    pub Rxcsum: u32 @ 0x0_5000, read_write {
        /// The descriptor tells the RSS hash, not a checksum of a fragment.
        PCSD: bit 13,
    }

    /// Receive Filter Control, §8.2.3.7.6.
    pub Rfctl: u32 @ 0x0_5008, read_write {
        /// No receive-side coalescing.
        RSC_DIS: bit 5,
    }

    /// Filter Control, §8.2.3.7.1.
    pub Fctrl: u32 @ 0x0_5080, read_write {
        /// Store Bad Packets.
        SBP: bit 1,
        /// Multicast Promiscuous.
        MPE: bit 8,
        /// Unicast Promiscuous.
        UPE: bit 9,
        /// Broadcast Accept Mode.
        BAM: bit 10,
    }

    /// VLAN Control, §8.2.3.7.2.
    pub Vlnctrl: u32 @ 0x0_5088, read_write {
        /// EtherType of tags.
        VET: bits 0..=15,
        /// VLAN Filter Enable.
        VFE: bit 30,
    }

    /// Multicast Control, §8.2.3.7.3.
    pub Mcstctrl: u32 @ 0x0_5090, read_write {
        /// Which bits of the address index [`table::Mta`]: 0 is 47 to 36.
        MO: bits 0..=1,
        /// Multicast Filter Enable.
        MFE: bit 2,
    }

    /// PF Virtual Control, §8.2.3.27.1.
    pub Pfvtctl: u32 @ 0x0_51B0, read_write {
        /// Pools are on.
        VT_ENA: bit 0,
        /// The pool of frames that no filter leads anywhere.
        DEF_PL: bits 7..=12,
        /// They go nowhere.
        DIS_DEF_PL: bit 29,
        /// Frames to several pools are replicated.
        RPL_EN: bit 30,
    }

    /// Multiple Receive Queues Command, §8.2.3.7.12.
    pub Mrqc: u32 @ 0x0_5818, read_write {
        /// 0 one queue, 1 RSS, 8 64 pools of two queues, 11 the same with RSS.
        MRQE: bits 0..=3,
        /// Hash TCP over IPv4 with its ports.
        RSS_TCP_IPV4: bit 16,
        /// Hash IPv4.
        RSS_IPV4: bit 17,
        /// Hash IPv6.
        RSS_IPV6: bit 20,
        /// Hash TCP over IPv6 with its ports.
        RSS_TCP_IPV6: bit 21,
        /// Hash UDP over IPv4 with its ports.
        RSS_UDP_IPV4: bit 22,
        /// Hash UDP over IPv6 with its ports.
        RSS_UDP_IPV6: bit 23,
    }

    /// DMA Tx TCP Max Allow Size Requests, §8.2.3.9.1.
    pub Dtxmxszrq: u32 @ 0x0_8100, read_write {
        /// Bytes that may be under way, in units of 256; 0xFFF without DCB.
        MAX_BYTES_NUM_REQ: bits 0..=11,
    }

    /// Multiple Transmit Queues Command, §8.2.3.9.15; to be changed while [`Rttdcs::ARBDIS`] is set.
    pub Mtqc: u32 @ 0x0_8120, read_write {
        /// Traffic classes.
        RT_ENA: bit 0,
        /// Pools.
        VT_ENA: bit 1,
        /// With pools: 1 is 64 of two queues, 2 is 32 of four.
        NUM_TC_OR_Q: bits 2..=3,
    }

    /// PF DMA Tx General Switch Control, §8.2.3.27: frames of one pool to another.
    pub Pfdtxgswc: u32 @ 0x0_8220, read_write {
        /// Loopback between pools.
        LBE: bit 0,
    }

    /// Security Rx Control, §8.2.3.12.5.
    pub Secrxctrl: u32 @ 0x0_8D00, read_write {
        /// The receive path is off.
        RX_DIS: bit 1,
    }

    /// Security Rx Status, §8.2.3.12.6.
    pub Secrxstat: u32 @ 0x0_8D04, read_only {
        /// The receive path is empty.
        SECRX_RDY: bit 0,
    }

    /// EEPROM/Flash Control, §8.2.3.2.1.
    pub Eec: u32 @ 0x1_0010, read_write {
        /// There is an EEPROM with a valid signature.
        EE_PRES: bit 8,
        /// It was read, or is not there.
        AUTO_RD: bit 9,
    }

    /// EEPROM Read, §8.2.3.2.
    pub Eerd: u32 @ 0x1_0014, read_write {
        /// Begins to read a word.
        START: bit 0,
        /// It was read.
        DONE: bit 1,
        /// Which word.
        ADDR: bits 2..=15,
        /// The word.
        DATA: bits 16..=31,
    }

    /// Software Semaphore, §8.2.3.4.
    pub Swsm: u32 @ 0x1_0140, read_write {
        /// Between drivers: taken by a read that finds 0.
        SMBI: bit 0,
        /// Between driver and firmware: taken if it stays set.
        SWESMBI: bit 1,
    }

    /// Firmware Semaphore, §8.2.3.4.10.
    pub Fwsm: u32 @ 0x1_0148, read_only {
        /// What the firmware has against the EEPROM; 0 is nothing.
        EXT_ERR_IND: bits 19..=24,
    }

    /// Software-Firmware Synchronization, §8.2.3.4.
    pub SwFwSync: u32 @ 0x1_0160, read_write {
        /// Software has the bus of the first port's module.
        SW_PHY_SM0: bit 1,
        /// Software has the bus of the second port's module.
        SW_PHY_SM1: bit 2,
        /// Software has the MAC's shared registers.
        SW_MAC_CSR_SM: bit 3,
        /// Firmware has the bus of the first port's module.
        FW_PHY_SM0: bit 6,
        /// Firmware has the bus of the second port's module.
        FW_PHY_SM1: bit 7,
        /// Firmware has the MAC's shared registers.
        FW_MAC_CSR_SM: bit 8,
    }

    /// PCIe Control Extended, §8.2.3.4.12.
    pub GcrExt: u32 @ 0x1_1050, read_write {
        /// 0 without virtual functions, 3 with 64 pools.
        VT_MODE: bits 0..=1,
        /// Empties the device's buffers.
        BUFFERS_CLEAR_FUNC: bit 30,
        /// Virtual functions may have MSI-X.
        MSIX_EN: bit 31,
    }
}
