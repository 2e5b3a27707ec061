//! The end: plain text on COM1, devices left quiet, the machine off.
#![expect(unsafe_code, reason = "writes the port that ends the emulation")]

use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::arch::{apic, cpu};
use crate::{cores, serial};

/// Port of QEMU's `isa-debug-exit`; the exit status is twice the value written, plus one.
const DEBUG_EXIT: u16 = 0xf4;

/// How a run of the kernel ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Verdict {
    /// All is well: exit status 33.
    Pass = 0x10,
    /// Something failed: exit status 35.
    Fail = 0x11,
    /// The kernel gave up: exit status 37.
    Panic = 0x12,
}

static PANICKING: AtomicBool = AtomicBool::new(false);

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    if PANICKING.swap(true, Ordering::AcqRel) {
        cpu::stop();
    }
    stop_others();
    serial::print_last(format_args!("\nPANIC: {info} (APIC {})\n", apic::id()));
    power_off(Verdict::Panic)
}

/// An exception in the kernel; also reached by a non-maskable interrupt, with which a core that panics stops the
/// others.
pub(crate) fn exception(vector: u8, error: u64, frame: &[u64; 5], address: u64) -> ! {
    const NON_MASKABLE: u8 = 2;
    if vector == NON_MASKABLE && PANICKING.load(Ordering::Acquire) {
        cpu::stop();
    }
    let [instruction, _, flags, stack, _] = frame;
    panic!(
        "exception {vector} (error {error:#x}) at {instruction:#x}, address {address:#x}, \
         stack {stack:#x}, flags {flags:#x}"
    );
}

/// Leaves the devices quiet and ends the machine.
pub(crate) fn power_off(verdict: Verdict) -> ! {
    crate::devices::quiet();
    // SAFETY: the port belongs to the emulator, or to nobody.
    unsafe { cpu::write_port(DEBUG_EXIT, verdict as u8) };
    cpu::stop();
}

/// Stops all other cores, even those with interrupts off.
fn stop_others() {
    let this = apic::id();
    for core in cores::all().filter(|core| core.apic_id != this) {
        apic::send_nmi(core.apic_id);
    }
}
