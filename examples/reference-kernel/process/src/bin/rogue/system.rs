//! Attacks by way of system calls and mappings.
#![expect(
    unsafe_code,
    reason = "names and touches memory that is not the process's"
)]

use core::{
    arch::asm,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use parakernel_apps::runtime::Runtime;
use parakernel_core::{
    abi::{Call, CallError, Codec, LeaseRing, LeaseState},
    control::{Request, Tag},
    handle::LeaseId,
    memory::PAGE_SIZE,
    queue::Doorbell,
    ring::Position,
};
use parakernel_process::{Lease, system_call};

use crate::stage::{PATIENCE, Seen, Stage, pattern};

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

/// For how long the process goes on after its lease has ended, to show that it can. The kernel ends what still runs half a
/// second after that, whatever it touches.
const PERSISTENCE: Duration = Duration::from_millis(350);

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

/// Gives the lease back and goes on with it, without another system call.
///
/// `rings` is what the process writes and what it reads of the queue.
pub(crate) fn no_stop(
    stage: &mut Stage,
    lease: &Lease,
    rings: [&'static [AtomicU64]; 2],
) -> Result<Seen, &'static str> {
    let [writable, readable] = rings;
    let (first, last) = writable.first().zip(readable.last()).ok_or("no rings")?;
    let mut doorbell = lease.doorbell(LeaseRing::First);
    stage.announce();
    // The host or the kernel may end the lease as well: what counts is to be told.
    let request = Request::Release(lease.id()).encode(Some(Tag(u64::MAX)));
    system_call::request(&request).map_err(|_| "no request is taken")?;
    let start = stage.process.now();
    let mut told = None;
    let mut tail = Position::START;
    loop {
        let now = stage.process.now();
        if told.is_none() && lease.state() == LeaseState::Revoked {
            told = Some(now);
        }
        first.store(pattern(0), Relaxed);
        tail = tail.after();
        doorbell.ring(tail);
        let _seen = last.load(Relaxed);
        match told {
            Some(since) if now > since.saturating_add(PERSISTENCE) => {
                let what = "it went on with its rings long after its lease had ended";
                return Ok(Seen::Effect(what));
            }
            None if now > start.saturating_add(PATIENCE * 2) => return Ok(Seen::Nothing),
            Some(_) | None => {}
        }
    }
}
