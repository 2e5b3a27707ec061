//! System calls: their numbers, and how they fail.

/// A system call's number, in the register `rax`; arguments follow in `rdi`, `rsi` and `rdx`, the result is in `rax`.
///
/// A result below [`CallError::FIRST`] is a success.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[repr(u64)]
pub enum Call {
    /// Ends the process with the exit code in `rdi`; does not return.
    Exit = 0,
    /// Writes the `rsi` bytes of UTF-8 at `rdi` to the kernel's log; at most [`LOG_MAX`] of them.
    Log = 1,
    /// Hands the [`Message`](super::Message) at `rdi` to the control plane.
    Request = 2,
    /// Takes over what was published on the submission page of the lease with the handle in `rdi`, or of all leases of
    /// the process where that is [`ALL_LEASES`].
    Submit = 3,
    /// Submits all leases, then sleeps until something arrives for the process (a completion, a frame, an outcome) or
    /// the time in `rdi` (nanoseconds on the clock of [`ProcessInfo`](super::ProcessInfo)) has come. Returns at once
    /// where something has arrived since the last such call returned, looked at or not.
    Wait = 4,
    /// Publishes the number in `rsi` about the process as the [`Metric`] in `rdi`; only the last value counts.
    Report = 5,
}

impl Call {
    /// The call with this number.
    #[must_use]
    pub const fn from_number(number: u64) -> Option<Self> {
        match number {
            0 => Some(Self::Exit),
            1 => Some(Self::Log),
            2 => Some(Self::Request),
            3 => Some(Self::Submit),
            4 => Some(Self::Wait),
            5 => Some(Self::Report),
            _ => None,
        }
    }
}

/// What [`Call::Submit`] takes for all leases of the process.
pub const ALL_LEASES: u64 = u64::MAX;

/// A number that a process publishes about itself.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[repr(u64)]
pub enum Metric {
    /// Blocks written.
    Written = 0,
    /// Blocks read back and found to be what was written.
    Verified = 1,
    /// Blocks read back that were something else.
    Bad = 2,
    /// Requests answered.
    Served = 3,
    /// Steps done, of a process that has no other measure.
    Progress = 4,
    /// Attacks that the process outlived.
    Survived = 5,
    /// Frames received that were not for the process.
    Strays = 6,
}

impl Metric {
    /// All metrics, in the order of their numbers.
    pub const ALL: [Self; 7] = [
        Self::Written,
        Self::Verified,
        Self::Bad,
        Self::Served,
        Self::Progress,
        Self::Survived,
        Self::Strays,
    ];

    /// The metric with this number.
    #[must_use]
    pub fn from_number(number: u64) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|metric| *metric as u64 == number)
    }

    /// The name under which the kernel shows the number.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Written => "written",
            Self::Verified => "verified",
            Self::Bad => "bad",
            Self::Served => "served",
            Self::Progress => "progress",
            Self::Survived => "survived",
            Self::Strays => "strays",
        }
    }
}

/// The most bytes that one [`Call::Log`] takes.
pub const LOG_MAX: usize = 256;

/// How a system call fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[repr(u64)]
#[non_exhaustive]
pub enum CallError {
    /// There is no such call.
    UnknownCall = u64::MAX,
    /// A pointer leads to memory that is not the process's, or not as the call uses it.
    BadPointer = u64::MAX - 1,
    /// An argument is out of range.
    BadArgument = u64::MAX - 2,
    /// The process has no such lease, or it has ended.
    BadLease = u64::MAX - 3,
    /// As many requests are under way as the outcome ring has room for.
    Busy = u64::MAX - 4,
}

impl CallError {
    /// The smallest result that means failure.
    pub const FIRST: u64 = u64::MAX - 15;

    /// What a call's result means.
    ///
    /// # Errors
    ///
    /// The failure that the number stands for; one that this version does not know is taken for
    /// [`UnknownCall`](Self::UnknownCall).
    pub const fn check(result: u64) -> Result<u64, Self> {
        if result < Self::FIRST {
            return Ok(result);
        }
        Err(match u64::MAX - result {
            1 => Self::BadPointer,
            2 => Self::BadArgument,
            3 => Self::BadLease,
            4 => Self::Busy,
            _ => Self::UnknownCall,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_and_errors_do_not_overlap() {
        for error in [
            CallError::UnknownCall,
            CallError::BadPointer,
            CallError::BadArgument,
            CallError::BadLease,
            CallError::Busy,
        ] {
            assert_eq!(CallError::check(error as u64), Err(error));
        }
        assert_eq!(
            CallError::check(CallError::FIRST - 1),
            Ok(CallError::FIRST - 1)
        );
    }

    #[test]
    fn calls_have_their_numbers() {
        for number in 0..6 {
            assert_eq!(Call::from_number(number).unwrap() as u64, number);
        }
        assert_eq!(Call::from_number(6), None);
        assert!(
            (0..7).all(|number| Metric::from_number(number).is_some_and(|it| it as u64 == number))
        );
    }
}
