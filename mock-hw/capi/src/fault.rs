//! The numbers of faults.

use parakernel_mock_hw::fault::{Fault, When};

use crate::code::Code;

/// The fault `MOCK_HW_FAULT_…` of that number.
pub(crate) fn fault(number: u32, queue: u16) -> Result<Fault, Code> {
    let index = number
        .checked_sub(1)
        .and_then(|index| usize::try_from(index).ok());
    let fault = index.and_then(|index| Fault::ALL.get(index));
    let fault = fault.copied().ok_or(Code::Argument)?;
    if let Fault::StuckQueue(_) = fault {
        return Ok(Fault::StuckQueue(queue));
    }
    (queue == 0).then_some(fault).ok_or(Code::Argument)
}

/// `MOCK_HW_WHEN_…`.
pub(crate) fn when(number: u32, n: u64) -> Result<When, Code> {
    match (number, n) {
        (1, after) => Ok(When::After(after)),
        (2, 0..=1000) => u16::try_from(n)
            .map(When::Chance)
            .map_err(|_| Code::Argument),
        (3, 0) => Ok(When::Always),
        _ => Err(Code::Argument),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers of `mock_hw.h` must not move when a fault is added in the middle.
    #[test]
    fn numbers_of_faults_stay() {
        let all = [
            Fault::LinkFlap,
            Fault::StuckQueue(0),
            Fault::StuckDone,
            Fault::LostInterrupt,
            Fault::ResetMidDma,
            Fault::FatalStatus,
            Fault::Removal,
            Fault::AdminTimeout,
            Fault::AdminWrongId,
            Fault::BadId,
            Fault::BadLength,
            Fault::DuplicateCompletion,
            Fault::IndexJump,
            Fault::SlowReady,
            Fault::IommuFault,
        ];
        for (number, wanted) in (1..).zip(all) {
            assert_eq!(fault(number, 0), Ok(wanted));
        }
        assert_eq!(fault(2, 9), Ok(Fault::StuckQueue(9)));
        for (number, queue) in [(0, 0), (16, 0), (u32::MAX, 0), (1, 1)] {
            assert_eq!(fault(number, queue), Err(Code::Argument));
        }
    }

    #[test]
    fn times_of_faults_have_their_ranges() {
        assert_eq!(when(1, u64::MAX), Ok(When::After(u64::MAX)));
        assert_eq!(when(2, 1000), Ok(When::Chance(1000)));
        assert_eq!(when(3, 0), Ok(When::Always));
        for (number, n) in [(0, 0), (2, 1001), (3, 1), (4, 0)] {
            assert_eq!(when(number, n), Err(Code::Argument));
        }
    }
}
