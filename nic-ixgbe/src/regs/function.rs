//! The registers of virtual functions: those of the port that are about them, §8.2.3.27, and their own, §8.3.5.

use parakernel_core::registers;

/// Words of a mailbox.
pub const MAILBOX_WORDS: u8 = 16;

/// Pairs of queues that a virtual function has registers for, §8.3.5; with 64 pools it has two.
pub const FUNCTION_QUEUES: u8 = 8;

/// Bytes of a virtual function's register file, §8.3.
pub const FUNCTION_BAR_LEN: usize = 16 << 10;

/// The registers of the port for each of 64 virtual functions, §8.2.3.27.
#[derive(Debug)]
pub struct MailboxBlock;

impl MailboxBlock {
    /// What is to be added for function `function`, below 64; `None` beyond.
    #[must_use]
    pub const fn base(function: u8) -> Option<usize> {
        if function < 64 {
            Some(4 * function as usize)
        } else {
            None
        }
    }
}

/// A word of the mailbox of a virtual function, as the port sees it, §8.2.3.27.
#[derive(Debug)]
pub struct MailboxWordBlock;

impl MailboxWordBlock {
    /// What is to be added for word `word` of function `function`; `None` beyond 16 words of 64 functions.
    #[must_use]
    pub const fn base(function: u8, word: u8) -> Option<usize> {
        if function < 64 && word < MAILBOX_WORDS {
            Some(64 * function as usize + 4 * word as usize)
        } else {
            None
        }
    }
}

/// Causes of 16 virtual functions in each of four words, §8.2.3.27.
#[derive(Debug)]
pub struct MailboxCauseBlock;

impl MailboxCauseBlock {
    /// How many there are.
    pub const COUNT: u8 = 4;

    /// What is to be added for word `index`; `None` from 4 on.
    #[must_use]
    pub const fn base(index: u8) -> Option<usize> {
        if index < Self::COUNT {
            Some(4 * index as usize)
        } else {
            None
        }
    }
}

/// Bits of 32 virtual functions in each of two words, §8.2.3.27.
#[derive(Debug)]
pub struct FunctionMaskBlock;

impl FunctionMaskBlock {
    /// How many there are.
    pub const COUNT: u8 = 2;

    /// What is to be added for word `index`; `None` from 2 on.
    #[must_use]
    pub const fn base(index: u8) -> Option<usize> {
        if index < Self::COUNT {
            Some(4 * index as usize)
        } else {
            None
        }
    }
}

/// Function level resets: two words that lie apart, §8.2.3.27.
#[derive(Debug)]
pub struct FunctionResetBlock;

impl FunctionResetBlock {
    /// Where word `index` lies; `None` from 2 on.
    #[must_use]
    pub const fn base(index: u8) -> Option<usize> {
        match index {
            0 => Some(0x600),
            1 => Some(0x1C0),
            _ => None,
        }
    }
}

registers! {
    in MailboxBlock;

    /// PF Mailbox, §8.2.3.27.
    pub Pfmailbox: u32 @ 0x4B00, read_write {
        /// A message is in the mailbox: tells the function.
        STS: bit 0,
        /// The function's message was read: tells it.
        ACK: bit 1,
        /// The function has the mailbox.
        VFU: bit 2,
        /// The port has the mailbox; taken if it stays set.
        PFU: bit 3,
        /// Takes the mailbox from the function.
        RVFU: bit 4,
    }
}

registers! {
    in MailboxWordBlock;

    /// PF Mailbox Memory, §8.2.3.27.
    pub Pfmbmem: u32 @ 0x1_3000, read_write {}
}

registers! {
    in MailboxCauseBlock;

    /// PF Mailbox Interrupt Cause, §8.2.3.27; cleared by writing ones.
    pub Pfmbicr: u32 @ 0x710, read_write {
        /// Functions that have written a message.
        VFREQ: bits 0..=15,
        /// Functions that have read one.
        VFACK: bits 16..=31,
    }
}

registers! {
    in FunctionMaskBlock;

    /// PF VF Level Reset Clear, §8.2.3.27: ones clear [`Pfvflre`].
    pub Pfvflrec: u32 @ 0x700, write_only {}

    /// PF Mailbox Interrupt Mask, §8.2.3.27: functions whose messages interrupt.
    pub Pfmbimr: u32 @ 0x720, read_write {}
}

registers! {
    in FunctionResetBlock;

    /// PF VF Level Reset Events, §8.2.3.27: functions that were reset.
    pub Pfvflre: u32 @ 0x0, read_only {}
}

/// The registers that a virtual function has one of, §8.3.5. Its queues have those of the port's:
/// [`RxQueueBlock`](super::RxQueueBlock) and [`TxQueueBlock`](super::TxQueueBlock).
#[derive(Debug)]
pub struct FunctionBlock;

registers! {
    in FunctionBlock;

    /// VF Control, §8.3.5.
    pub Vfctrl: u32 @ 0x0, read_write {
        /// Resets the function.
        RST: bit 26,
    }

    /// VF Status, §8.3.5.
    pub Vfstatus: u32 @ 0x8, read_only {}

    /// VF Link Status, §8.3.5; as [`Links`](super::Links).
    pub Vflinks: u32 @ 0x10, read_only {
        /// Speed: 1 is 100 Mb/s, 2 is 1 Gb/s, 3 is 10 Gb/s.
        LINK_SPEED: bits 28..=29,
        /// The link is up.
        LINK_UP: bit 30,
    }

    /// VF Interrupt Cause, §8.3.5: a bit for each vector; cleared by reading.
    pub Vteicr: u32 @ 0x100, read_only {}

    /// VF Interrupt Mask Set, §8.3.5: writing ones unmasks.
    pub Vteims: u32 @ 0x108, read_write {}

    /// VF Interrupt Mask Clear, §8.3.5: writing ones masks.
    pub Vteimc: u32 @ 0x10C, write_only {}

    /// VF Interrupt Auto Clear, §8.3.5.
    pub Vteiac: u32 @ 0x110, read_write {}

    /// VF Interrupt Auto Mask, §8.3.5.
    pub Vteiam: u32 @ 0x114, read_write {}

    /// Vector of the mailbox, §8.3.5.
    pub VtivarMisc: u32 @ 0x140, read_write {
        /// The vector.
        INT_ALLOC: bits 0..=1,
        /// It is valid.
        INT_ALLOC_VAL: bit 7,
    }

    /// VF Mailbox, §8.3.5.
    pub Vfmailbox: u32 @ 0x2FC, read_write {
        /// A message is in the mailbox: tells the port.
        REQ: bit 0,
        /// The port's message was read: tells it.
        ACK: bit 1,
        /// The function has the mailbox; taken if it stays set.
        VFU: bit 2,
        /// The port has the mailbox.
        PFU: bit 3,
        /// The port has written a message; cleared by reading.
        PFSTS: bit 4,
        /// The port has read a message; cleared by reading.
        PFACK: bit 5,
        /// The port's driver is not ready.
        RSTI: bit 6,
        /// The port's driver has become ready; cleared by reading.
        RSTD: bit 7,
    }

    /// VF Good Packets Received Count, §8.3.5; wraps.
    pub Vfgprc: u32 @ 0x101C, read_only {}

    /// VF Good Octets Received Count Low, §8.3.5; wraps with the four bits of the high part.
    pub VfgorcL: u32 @ 0x1020, read_only {}

    /// VF Good Octets Received Count High, §8.3.5.
    pub VfgorcH: u32 @ 0x1024, read_only {
        /// Four bits.
        HIGH: bits 0..=3,
    }

    /// VF Multicast Packets Received Count, §8.3.5; wraps.
    pub Vfmprc: u32 @ 0x1034, read_only {}

    /// VF Good Packets Transmitted Count, §8.3.5; wraps.
    pub Vfgptc: u32 @ 0x201C, read_only {}

    /// VF Good Octets Transmitted Count Low, §8.3.5; wraps with the four bits of the high part.
    pub VfgotcL: u32 @ 0x2020, read_only {}

    /// VF Good Octets Transmitted Count High, §8.3.5.
    pub VfgotcH: u32 @ 0x2024, read_only {
        /// Four bits.
        HIGH: bits 0..=3,
    }
}

/// Words of a virtual function's mailbox, vectors of two of its queues, and pace of its vectors, §8.3.5.
#[derive(Debug)]
pub struct FunctionWordBlock;

impl FunctionWordBlock {
    /// What is to be added for word `index`, below 16; `None` beyond.
    #[must_use]
    pub const fn base(index: u8) -> Option<usize> {
        if index < MAILBOX_WORDS {
            Some(4 * index as usize)
        } else {
            None
        }
    }
}

registers! {
    in FunctionWordBlock;

    /// Vectors of two pairs of queues, §8.3.5; four of them.
    pub Vtivar: u32 @ 0x120, read_write {
        /// Receive queue 2n.
        INT_ALLOC_0: bits 0..=1,
        /// It has a vector.
        INT_ALLOC_VAL_0: bit 7,
        /// Transmit queue 2n.
        INT_ALLOC_1: bits 8..=9,
        /// It has a vector.
        INT_ALLOC_VAL_1: bit 15,
        /// Receive queue 2n + 1.
        INT_ALLOC_2: bits 16..=17,
        /// It has a vector.
        INT_ALLOC_VAL_2: bit 23,
        /// Transmit queue 2n + 1.
        INT_ALLOC_3: bits 24..=25,
        /// It has a vector.
        INT_ALLOC_VAL_3: bit 31,
    }

    /// VF Mailbox Memory, §8.3.5.
    pub Vfmbmem: u32 @ 0x200, read_write {}

    /// VF Interrupt Throttle, §8.3.5; three of them.
    pub Vteitr: u32 @ 0x820, read_write {
        /// The least time between two interrupts, in units of 2 µs at 10 Gb/s.
        ITR_INTERVAL: bits 3..=11,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mailboxes_lie_one_after_the_other() {
        assert_eq!(MailboxBlock::base(63), Some(0xFC));
        assert_eq!(MailboxBlock::base(64), None);
        assert_eq!(MailboxWordBlock::base(63, 15), Some(0xFFC));
        assert_eq!(MailboxWordBlock::base(64, 0), None);
        assert_eq!(MailboxWordBlock::base(0, 16), None);
        let resets = [0, 1, 2].map(FunctionResetBlock::base);
        assert_eq!(resets, [Some(0x600), Some(0x1C0), None]);
    }
}
