//! Features of the processor, its ports and model-specific registers.
#![expect(unsafe_code, reason = "executes privileged instructions")]

use core::arch::x86_64::{__cpuid, __cpuid_count, _rdtsc};

use x86_64::instructions::port::Port;
use x86_64::registers::control::{Cr0, Cr0Flags, Cr4, Cr4Flags, Efer, EferFlags};
use x86_64::registers::model_specific::Msr;

/// Switches on the protections that the processor has: no-execute, write protection in the kernel, no execution of or
/// access to user pages by the kernel, no descriptor-table reads by processes.
pub(super) fn protect() {
    let features = __cpuid_count(7, 0);
    let mut flags =
        Cr4Flags::PHYSICAL_ADDRESS_EXTENSION | Cr4Flags::OSFXSR | Cr4Flags::OSXMMEXCPT_ENABLE;
    for (bit, flag, register) in [
        (
            7,
            Cr4Flags::SUPERVISOR_MODE_EXECUTION_PROTECTION,
            features.ebx,
        ),
        (
            20,
            Cr4Flags::SUPERVISOR_MODE_ACCESS_PREVENTION,
            features.ebx,
        ),
        (2, Cr4Flags::USER_MODE_INSTRUCTION_PREVENTION, features.ecx),
    ] {
        flags.set(flag, register & (1 << bit) != 0);
    }
    // SAFETY: long mode needs PAE, compiled code OSFXSR: both are kept. The others restrict only what the kernel
    // never does.
    unsafe { Cr4::write(flags) };
    // SAFETY: adds write protection and native error reporting to what boot.s set.
    unsafe { Cr0::update(|cr0| cr0.insert(Cr0Flags::WRITE_PROTECT | Cr0Flags::NUMERIC_ERROR)) };
    // SAFETY: boot.s set the same bits; the system-call registers are programmed before ring 3 runs.
    unsafe {
        Efer::update(|efer| {
            efer.insert(EferFlags::NO_EXECUTE_ENABLE | EferFlags::SYSTEM_CALL_EXTENSIONS);
        });
    };
}

/// Whether the processor has pages of 1 GiB.
pub(super) fn has_gigabyte_pages() -> bool {
    __cpuid(0x8000_0001).edx & (1 << 26) != 0
}

/// Whether the processor has x2APIC mode (CPUID.01H:ECX bit 21).
pub(super) fn has_x2apic() -> bool {
    __cpuid(1).ecx & (1 << 21) != 0
}

/// The number of this core's interrupt controller, before that is on: CPUID.0BH:EDX where there is such a leaf, else
/// 01H:EBX.
pub(super) fn initial_apic_id() -> u32 {
    let topology = if __cpuid(0).eax >= 0xb {
        __cpuid_count(0xb, 0)
    } else {
        __cpuid(0)
    };
    if __cpuid(0).eax >= 0xb && topology.ebx != 0 {
        topology.edx
    } else {
        __cpuid(1).ebx >> 24
    }
}

/// The time-stamp counter.
pub(crate) fn timestamp() -> u64 {
    // SAFETY: every x86-64 processor has the instruction, and CR4.TSD does not bind ring 0.
    unsafe { _rdtsc() }
}

/// Reads a model-specific register.
///
/// # Safety
///
/// The processor must have the register.
pub(super) unsafe fn read_msr(register: u32) -> u64 {
    // SAFETY: the caller vouches for the register.
    unsafe { Msr::new(register).read() }
}

/// Writes a model-specific register.
///
/// # Safety
///
/// The processor must have the register, and the effect of `value` must be one that the kernel's memory survives.
pub(super) unsafe fn write_msr(register: u32, value: u64) {
    // SAFETY: the caller vouches for register and value.
    unsafe { Msr::new(register).write(value) };
}

/// Reads an I/O port.
///
/// # Safety
///
/// The device behind `port` must not touch memory because of it.
pub(crate) unsafe fn read_port(port: u16) -> u8 {
    // SAFETY: the caller vouches for the port.
    unsafe { Port::new(port).read() }
}

/// Writes an I/O port.
///
/// # Safety
///
/// The device behind `port` must not touch memory because of it.
pub(crate) unsafe fn write_port(port: u16, value: u8) {
    // SAFETY: the caller vouches for port and value.
    unsafe { Port::new(port).write(value) };
}

/// Stops this core for good.
pub(crate) fn stop() -> ! {
    loop {
        x86_64::instructions::interrupts::disable();
        x86_64::instructions::hlt();
    }
}
