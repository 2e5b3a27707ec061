//! Attacks by way of system calls and mappings.
#![expect(
    unsafe_code,
    reason = "names and touches memory that is not the process's"
)]

use core::{arch::asm, hint::spin_loop};

use parakernel_core::{
    abi::{Call, CallError},
    handle::LeaseId,
    memory::PAGE_SIZE,
};
use parakernel_process::{Lease, system_call};

use crate::stage::{Seen, Stage};

/// Pointers that no process may have the kernel follow: nothing, the ends of what a program can address, the kernel's
/// image, its maps, the last bytes that are.
const WILD: [u64; 7] = [
    0,
    0x7fff_ffff_fff8,
    0x8000_0000_0000,
    0xffff_8000_0000_0000,
    0xffff_ffff_8010_0000,
    u64::MAX - 7,
    // The stack's last bytes, and what lies behind.
    0x7ffc_ffff_fff8,
];
/// Bytes that are named by each.
const LEN: u64 = 64;

/// Hands the kernel wild pointers.
pub(crate) fn wild_pointers(stage: &mut Stage) -> Seen {
    stage.announce();
    for pointer in WILD {
        for call in [Call::Log, Call::Request] {
            // SAFETY: the kernel may not read there at all, which is the point; nothing of this program lies there.
            let result = unsafe { system_call::raw(call as u64, pointer, LEN) };
            // Any other complaint is about what it found there.
            if result != Err(CallError::BadPointer) {
                return Seen::Effect("the kernel followed a pointer that is not the process's");
            }
        }
    }
    Seen::Refusal("bad pointer")
}

/// Rings for leases that are others', by system call and then by hand: on the page behind the process's own doorbell, or
/// the submission page of the next lease.
pub(crate) fn foreign_doorbell(stage: &mut Stage, own: &Lease) -> Seen {
    /// Leases and generations that are tried.
    const LEASES: u32 = 64;
    const GENERATIONS: u32 = 16;
    let beside = match own.map().rings[0].doorbell {
        0 => own.map().submission_page + stage.process.info().lease_stride,
        doorbell => doorbell + PAGE_SIZE as u64,
    };
    stage.announce();
    for index in 0..LEASES {
        for generation in 0..GENERATIONS {
            let lease = LeaseId::new(index, generation);
            if lease != own.id() && system_call::submit(lease).is_ok() {
                return Seen::Effect("the kernel rang for a lease that is not the process's");
            }
        }
    }
    // SAFETY: nothing of this program lies there; the store ends the process where all is well.
    unsafe { store(beside, 1) };
    stage.linger(|_| true);
    Seen::Effect("a doorbell that is not the process's could be written")
}

/// Stores `value` at `address`, whatever that is.
///
/// # Safety
///
/// Nothing that this program relies on may lie there.
unsafe fn store(address: u64, value: u32) {
    // SAFETY: as the caller says.
    unsafe {
        asm!(
            "mov dword ptr [{address}], {value:e}",
            address = in(reg) address,
            value = in(reg) value,
            options(nostack, preserves_flags),
        );
    }
}

/// Goes on for ever, whatever becomes of its leases: without a system call, and without touching anything that could be
/// taken away, so that nothing but an interrupt ends it.
pub(crate) fn no_stop(stage: &mut Stage) -> ! {
    stage.announce();
    loop {
        spin_loop();
    }
}
