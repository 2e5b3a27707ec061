//! Status of a completion (NVMe 1.4, 4.6.1).

use core::fmt;

/// The status field of a completion: type, code, and whether a retry can help.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Status {
    /// Status code type: 0 generic, 1 command specific, 2 media and data integrity.
    pub kind: u8,
    /// Status code.
    pub code: u8,
    /// Do Not Retry: the same command will fail again.
    pub do_not_retry: bool,
}

impl Status {
    pub(super) const SUCCESS: Self = Self {
        kind: 0,
        code: 0,
        do_not_retry: false,
    };
    pub(super) const INVALID_OPCODE: Self = Self::generic(0x01);
    pub(super) const INVALID_FIELD: Self = Self::generic(0x02);
    pub(super) const ID_CONFLICT: Self = Self::generic(0x03);
    pub(super) const DATA_TRANSFER_ERROR: Self = Self {
        do_not_retry: false,
        ..Self::generic(0x04)
    };
    pub(super) const ABORT_REQUESTED: Self = Self {
        do_not_retry: false,
        ..Self::generic(0x07)
    };
    pub(super) const ABORTED_BY_DELETION: Self = Self {
        do_not_retry: false,
        ..Self::generic(0x08)
    };
    pub(super) const INVALID_NAMESPACE: Self = Self::generic(0x0b);
    pub(super) const SEQUENCE_ERROR: Self = Self::generic(0x0c);
    pub(super) const INVALID_SGL_SEGMENT: Self = Self::generic(0x0d);
    pub(super) const INVALID_SGL_COUNT: Self = Self::generic(0x0e);
    pub(super) const SGL_LENGTH_INVALID: Self = Self::generic(0x0f);
    pub(super) const SGL_TYPE_INVALID: Self = Self::generic(0x11);
    pub(super) const PRP_OFFSET_INVALID: Self = Self::generic(0x13);
    pub(super) const LBA_OUT_OF_RANGE: Self = Self::generic(0x80);
    pub(super) const CQ_INVALID: Self = Self::specific(0x00);
    pub(super) const INVALID_QUEUE_ID: Self = Self::specific(0x01);
    pub(super) const INVALID_QUEUE_SIZE: Self = Self::specific(0x02);
    pub(super) const EVENT_LIMIT: Self = Self::specific(0x05);
    pub(super) const INVALID_VECTOR: Self = Self::specific(0x08);
    pub(super) const INVALID_LOG_PAGE: Self = Self::specific(0x09);
    pub(super) const INVALID_FORMAT: Self = Self::specific(0x0a);
    pub(super) const INVALID_QUEUE_DELETION: Self = Self::specific(0x0c);
    pub(super) const COMPARE_FAILURE: Self = Self {
        kind: 2,
        code: 0x85,
        do_not_retry: true,
    };

    const fn generic(code: u8) -> Self {
        Self {
            kind: 0,
            code,
            do_not_retry: true,
        }
    }

    const fn specific(code: u8) -> Self {
        Self {
            kind: 1,
            code,
            do_not_retry: true,
        }
    }

    /// The upper 15 bits of a completion's last half word, at bit 1.
    pub(super) fn field(self) -> u16 {
        u16::from(self.code) << 1
            | u16::from(self.kind & 7) << 9
            | u16::from(self.do_not_retry) << 15
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "status {:x}h/{:02x}h", self.kind, self.code)
    }
}
