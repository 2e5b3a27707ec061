//! The system calls, one function each.
#![expect(unsafe_code, reason = "enters the kernel")]

use core::arch::asm;

use parakernel_core::{
    abi::{ALL_LEASES, Call, CallError, LOG_MAX, Message, Metric},
    handle::LeaseId,
    time::Instant,
};

/// Makes a call with two arguments.
///
/// # Safety
///
/// Memory that the arguments name must be fit for the kernel to read meanwhile.
unsafe fn call(number: u64, first: u64, second: u64) -> Result<u64, CallError> {
    let result: u64;
    // SAFETY: the kernel changes the registers that a C function may change, and no memory but what the caller answers
    // for.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") first,
            in("rsi") second,
            clobber_abi("sysv64"),
            options(nostack),
        );
    }
    CallError::check(result)
}

/// Ends the process.
pub fn exit(code: u64) -> ! {
    loop {
        // SAFETY: no argument names memory. It does not return; a kernel where it does is asked again.
        let _returned = unsafe { call(Call::Exit as u64, code, 0) };
    }
}

/// Writes `text` to the kernel's log, cut to the length of a line. Control characters are not for the log.
pub fn log(text: &str) {
    let len = text.floor_char_boundary(LOG_MAX);
    // SAFETY: the kernel reads `len` bytes of `text`.
    let _unsaid = unsafe {
        call(
            Call::Log as u64,
            text.as_ptr().expose_provenance() as u64,
            len as u64,
        )
    };
}

/// Hands `message` to the control plane. The outcome comes by the outcome ring.
///
/// # Errors
///
/// [`CallError::Busy`] where too many requests have no outcome yet.
pub fn request(message: &Message) -> Result<(), CallError> {
    let address = core::ptr::from_ref(message).expose_provenance() as u64;
    // SAFETY: the kernel reads the message.
    unsafe { call(Call::Request as u64, address, 0) }.map(|_| ())
}

/// Makes the call with the number `number`, whatever that is: for programs that try what they may not.
///
/// # Errors
///
/// As the call says.
///
/// # Safety
///
/// Memory that the arguments name must be fit for the kernel to read meanwhile, where it is the process's.
pub unsafe fn raw(number: u64, first: u64, second: u64) -> Result<u64, CallError> {
    // SAFETY: as the caller says.
    unsafe { call(number, first, second) }
}

/// Has the kernel take over what was published on the lease's submission page.
///
/// # Errors
///
/// [`CallError::BadLease`] where the lease has ended.
pub fn submit(lease: LeaseId) -> Result<(), CallError> {
    // SAFETY: no argument names memory.
    unsafe { call(Call::Submit as u64, lease.to_bits(), 0) }.map(|_| ())
}

/// Has the kernel take over what was published for all leases. Leases that have ended say so on their status pages.
pub fn submit_all() {
    // SAFETY: no argument names memory.
    let _ended = unsafe { call(Call::Submit as u64, ALL_LEASES, 0) };
}

/// Publishes all leases' submissions, then sleeps until something has arrived since the last call, or `deadline`.
pub fn wait(deadline: Instant) {
    // SAFETY: no argument names memory. It may always return early, so nothing is lost where it fails.
    let _early = unsafe { call(Call::Wait as u64, deadline.as_nanos(), 0) };
}

/// Publishes a number about the process; only the last value of each metric counts.
pub fn report(metric: Metric, value: u64) {
    // SAFETY: no argument names memory. A number that the kernel has no use for is not shown.
    let _unseen = unsafe { call(Call::Report as u64, metric as u64, value) };
}
