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

/// Hands the kernel wild pointers, the last one to what only another process was told: if it is followed, that is in the log.
pub(crate) fn wild_pointers(stage: &mut Stage) -> Result<Seen, &'static str> {
    let secret = stage.aim("secret")?;
    stage.announce_only();
    let mut is_followed = false;
    for pointer in WILD.into_iter().chain([secret]) {
        for call in [Call::Log, Call::Request] {
            // SAFETY: the kernel may not read there at all, which is the point; nothing of this program lies there.
            let result = unsafe { system_call::raw(call as u64, pointer, LEN) };
            // Any other complaint is about what it found there.
            is_followed |= result != Err(CallError::BadPointer);
        }
    }
    Ok(if is_followed {
        Seen::Effect("the kernel followed a pointer that is not the process's")
    } else {
        Seen::Refusal
    })
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
    let others =
        (0..LEASES).flat_map(|index| (0..GENERATIONS).map(move |it| LeaseId::new(index, it)));
    let mut rung = 0;
    for lease in others.filter(|lease| *lease != own.id()) {
        rung += u32::from(system_call::submit(lease).is_ok());
    }
    if rung > 0 {
        return Seen::Effect("the kernel rang for leases that are not the process's");
    }
    // SAFETY: nothing of this program lies there; the store ends the process where all is well.
    unsafe { store(beside, 1) };
    stage.linger(|_| false);
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
    go_on()
}

/// Does nothing, for ever.
pub(crate) fn go_on() -> ! {
    loop {
        spin_loop();
    }
}
