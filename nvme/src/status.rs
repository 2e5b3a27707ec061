//! How a command ended: status code type, status code, and whether to try again (NVMe 1.4 §4.6.1).

use core::{fmt, num::NonZeroU16, time::Duration};

use parakernel_core::error::{Error, ErrorKind};

/// The status of a command that failed.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Status(NonZeroU16);

/// Which table a status code is from (SCT).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum StatusType {
    /// Generic command status.
    Generic,
    /// Of this command only.
    CommandSpecific,
    /// Media and data integrity.
    Media,
    /// The path to the medium.
    Path,
    /// The vendor's, or reserved.
    Other,
}

impl Status {
    /// The status in the low 15 bits, laid out as in the completion without its phase tag; `None` for success.
    #[inline]
    #[must_use]
    pub const fn new(bits: u16) -> Option<Self> {
        // A controller that sets More, Do Not Retry or a delay on success has still succeeded.
        if bits & 0x7ff == 0 {
            return None;
        }
        match NonZeroU16::new(bits & 0x7fff) {
            Some(bits) => Some(Self(bits)),
            None => None,
        }
    }

    /// Whose code it is.
    #[must_use]
    pub const fn status_type(self) -> StatusType {
        match self.0.get() >> 8 & 7 {
            0 => StatusType::Generic,
            1 => StatusType::CommandSpecific,
            2 => StatusType::Media,
            3 => StatusType::Path,
            _ => StatusType::Other,
        }
    }

    /// The code, by the table of its type.
    #[must_use]
    pub const fn code(self) -> u8 {
        self.0.get().to_le_bytes()[0]
    }

    /// Type and code as one number: `0xTCC`.
    #[must_use]
    pub const fn type_and_code(self) -> u16 {
        self.0.get() & 0x7ff
    }

    /// More: the error log has an entry about it.
    #[must_use]
    pub const fn has_log_entry(self) -> bool {
        self.0.get() & 1 << 13 != 0
    }

    /// Whether the same command may succeed if it is given again.
    ///
    /// That is what Do Not Retry (DNR) says, cleared. A command that was aborted on request, or because its queue is
    /// being deleted, is not to be repeated whatever the bit says: somebody meant it to end.
    #[must_use]
    pub const fn may_retry(self) -> bool {
        let aborted = matches!(self.type_and_code(), 0x007 | 0x008);
        self.0.get() & 1 << 14 == 0 && !aborted
    }

    /// How long to wait before another try: one of the controller's delays ([`ControllerData`]), or none.
    ///
    /// [`ControllerData`]: crate::identify::ControllerData
    #[must_use]
    pub const fn retry_delay(self, delays: &[Duration; 3]) -> Duration {
        match self.0.get() >> 11 & 3 {
            1 => delays[0],
            2 => delays[1],
            3 => delays[2],
            _ => Duration::ZERO,
        }
    }

    const fn name(self) -> &'static str {
        match self.type_and_code() {
            0x001 => "invalid opcode",
            0x002 => "invalid field",
            0x003 => "command id conflict",
            0x004 => "data transfer error",
            0x005 => "aborted: power loss",
            0x006 => "internal error",
            0x007 => "aborted on request",
            0x008 => "aborted: queue deleted",
            0x00b => "invalid namespace or format",
            0x013 => "invalid offset in a PRP",
            0x080 => "LBA out of range",
            0x081 => "capacity exceeded",
            0x082 => "namespace not ready",
            0x100 => "invalid completion queue",
            0x101 => "invalid queue id",
            0x102 => "invalid queue size",
            0x103 => "too many aborts",
            0x105 => "too many event requests",
            0x108 => "invalid interrupt vector",
            0x109 => "invalid log page",
            0x10c => "invalid queue deletion",
            0x180 => "conflicting attributes",
            0x182 => "write to a read-only range",
            0x280 => "write fault",
            0x281 => "unrecovered read error",
            0x285 => "compare failure",
            0x286 => "access denied",
            _ => "status",
        }
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Status({self})")
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let retry = if self.may_retry() { "" } else { ", final" };
        write!(f, "{} ({:#05x}{retry})", self.name(), self.type_and_code())
    }
}

impl core::error::Error for Status {}

impl Error for Status {
    fn kind(&self) -> ErrorKind {
        match self.type_and_code() {
            0x001 => ErrorKind::Unsupported,
            0x002 | 0x00b | 0x013 | 0x080 | 0x100..=0x102 | 0x108 | 0x109 | 0x180 => {
                ErrorKind::InvalidArgument
            }
            0x007 | 0x008 => ErrorKind::Revoked,
            0x081 | 0x103 | 0x105 => ErrorKind::Exhausted,
            0x182 | 0x286 => ErrorKind::Denied,
            _ => ErrorKind::Device,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn success_is_no_status_whatever_its_flags() {
        for flags in [0, 1 << 14, 1 << 13, 3 << 11] {
            assert_eq!(Status::new(flags), None);
        }
    }

    #[test]
    fn every_failure_has_type_code_and_retry_rule() {
        for bits in 0..=0x7fff_u16 {
            let Some(status) = Status::new(bits) else {
                assert_eq!(bits & 0x7ff, 0);
                continue;
            };
            assert_eq!(u16::from(status.code()), bits & 0xff);
            assert_eq!(status.type_and_code() >> 8, bits >> 8 & 7);
            if bits & 0x4000 != 0 {
                assert!(!status.may_retry());
            }
        }
        assert!(Status::new(0x281).unwrap().may_retry());
        assert!(!Status::new(0x007).unwrap().may_retry());
    }

    #[test]
    fn the_delay_is_the_one_that_the_status_names() {
        let delays = [1, 2, 3].map(Duration::from_secs);
        let status = |delay: u16| Status::new(0x006 | delay << 11).unwrap();
        assert_eq!(status(0).retry_delay(&delays), Duration::ZERO);
        assert_eq!(status(3).retry_delay(&delays), delays[2]);
    }
}
