//! The port's counters, §8.2.3.23: each is cleared by reading, and stops at its end.

use parakernel_core::registers;

use super::PortBlock;

registers! {
    in PortBlock;

    /// Link XON Transmitted Count, §8.2.3.23.
    pub Lxontxc: u32 @ 0x0_3F60, read_only {}

    /// Link XOFF Transmitted Count, §8.2.3.23.
    pub Lxofftxc: u32 @ 0x0_3F68, read_only {}

    /// CRC Error Count, §8.2.3.23.
    pub Crcerrs: u32 @ 0x0_4000, read_only {}

    /// Illegal Byte Error Count, §8.2.3.23.
    pub Illerrc: u32 @ 0x0_4004, read_only {}

    /// Error Byte Count, §8.2.3.23.
    pub Errbc: u32 @ 0x0_4008, read_only {}

    /// MAC Local Fault Count, §8.2.3.23.
    pub Mlfc: u32 @ 0x0_4034, read_only {}

    /// MAC Remote Fault Count, §8.2.3.23.
    pub Mrfc: u32 @ 0x0_4038, read_only {}

    /// Receive Length Error Count, §8.2.3.23.
    pub Rlec: u32 @ 0x0_4040, read_only {}

    /// Good Packets Received Count, §8.2.3.23. Those that found no packet buffer are in it as well.
    pub Gprc: u32 @ 0x0_4074, read_only {}

    /// Broadcast Packets Received Count, §8.2.3.23.
    pub Bprc: u32 @ 0x0_4078, read_only {}

    /// Multicast Packets Received Count, §8.2.3.23.
    pub Mprc: u32 @ 0x0_407C, read_only {}

    /// Good Packets Transmitted Count, §8.2.3.23.
    pub Gptc: u32 @ 0x0_4080, read_only {}

    /// Good Octets Received Count Low, §8.2.3.23: to be read before the high part.
    pub GorcL: u32 @ 0x0_4088, read_only {}

    /// Good Octets Received Count High, §8.2.3.23.
    pub GorcH: u32 @ 0x0_408C, read_only {
        /// Four bits.
        HIGH: bits 0..=3,
    }

    /// Good Octets Transmitted Count Low, §8.2.3.23: to be read before the high part.
    pub GotcL: u32 @ 0x0_4090, read_only {}

    /// Good Octets Transmitted Count High, §8.2.3.23.
    pub GotcH: u32 @ 0x0_4094, read_only {
        /// Four bits.
        HIGH: bits 0..=3,
    }

    /// Receive Undersize Count, §8.2.3.23.
    pub Ruc: u32 @ 0x0_40A4, read_only {}

    /// Receive Fragment Count, §8.2.3.23: short ones with a wrong CRC.
    pub Rfc: u32 @ 0x0_40A8, read_only {}

    /// Receive Oversize Count, §8.2.3.23.
    pub Roc: u32 @ 0x0_40AC, read_only {}

    /// Receive Jabber Count, §8.2.3.23: long ones with a wrong CRC.
    pub Rjc: u32 @ 0x0_40B0, read_only {}

    /// Total Packets Received, §8.2.3.23: also those that no filter let in.
    pub Tpr: u32 @ 0x0_40D0, read_only {}

    /// Multicast Packets Transmitted Count, §8.2.3.23.
    pub Mptc: u32 @ 0x0_40F0, read_only {}

    /// Broadcast Packets Transmitted Count, §8.2.3.23.
    pub Bptc: u32 @ 0x0_40F4, read_only {}

    /// Link XON Received Count, §8.2.3.23.
    pub Lxonrxcnt: u32 @ 0x0_41A4, read_only {}

    /// Link XOFF Received Count, §8.2.3.23.
    pub Lxoffrxcnt: u32 @ 0x0_41A8, read_only {}

    /// Switch Security Violation Packet Count, §8.2.3.23: frames that anti-spoofing kept from leaving.
    pub Ssvpc: u32 @ 0x0_8780, read_only {}
}
