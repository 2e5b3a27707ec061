//! The local interrupt controller of each core, in x2APIC mode where the processor has it, else through its page
//! (Intel SDM vol. 3, 11).
#![expect(unsafe_code, reason = "accesses the interrupt controller")]

use core::sync::atomic::{AtomicU32, Ordering};

use parakernel_core::address::PhysAddr;

use super::cpu;
use crate::interrupts::Interrupt;
use crate::once::Once;

/// `IA32_APIC_BASE`, and in it: global enable, x2APIC enable, address.
const BASE: u32 = 0x1b;
const BASE_ENABLE: u64 = 1 << 11;
const BASE_X2APIC: u64 = 1 << 10;
const BASE_ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Registers, as offsets into the page; in x2APIC mode number `n` is the model-specific register `0x800 + n / 16`.
#[derive(Clone, Copy)]
#[repr(u16)]
enum Register {
    Id = 0x20,
    TaskPriority = 0x80,
    EndOfInterrupt = 0xb0,
    SpuriousVector = 0xf0,
    Command = 0x300,
    CommandHigh = 0x310,
    TimerVector = 0x320,
    Lint0 = 0x350,
    Lint1 = 0x360,
    TimerInitial = 0x380,
    TimerCurrent = 0x390,
    TimerDivide = 0x3e0,
}

/// A local vector table entry that delivers nothing.
const MASKED: u32 = 1 << 16;
/// Spurious vector register: the controller accepts interrupts.
const SOFTWARE_ENABLE: u32 = 1 << 8;
/// Interrupt command: level assert; delivery modes; not yet sent.
const ASSERT: u32 = 1 << 14;
const NMI: u32 = 4 << 8;
const INIT: u32 = 5 << 8;
const START_UP: u32 = 6 << 8;
const PENDING: u32 = 1 << 12;
/// Divide configuration: by 16.
const DIVIDE_BY_16: u32 = 3;
/// Most reads of the command register before a command is taken to be sent: far more than the bus needs.
const SEND_POLLS_MAX: u32 = 100_000;

/// Where the controller's page is mapped; not set in x2APIC mode.
static PAGE: Once<usize> = Once::new();
/// Timer ticks (after division) per 2^32 ticks of the time-stamp counter.
static TIMER_RATE: AtomicU32 = AtomicU32::new(0);

/// Physical address of the controller's page if it must be mapped, as in xAPIC mode.
pub(crate) fn page() -> Option<PhysAddr> {
    if cpu::has_x2apic() {
        return None;
    }
    // SAFETY: every x86-64 processor has the register.
    let base = unsafe { cpu::read_msr(BASE) };
    Some(PhysAddr::new(base & BASE_ADDRESS))
}

/// Tells where the page is mapped.
pub(crate) fn set_page(address: usize) {
    // A second call would be a bug of ours and changes nothing.
    let _first = PAGE.set(address).is_ok();
}

/// Switches this core's controller on, with all local sources masked.
pub(crate) fn enable() {
    // SAFETY: every x86-64 processor has the register.
    let base = unsafe { cpu::read_msr(BASE) };
    let mode = if cpu::has_x2apic() {
        BASE_ENABLE | BASE_X2APIC
    } else {
        BASE_ENABLE
    };
    // SAFETY: the controller accesses no memory; from disabled or xAPIC mode both settings are legal transitions.
    unsafe { cpu::write_msr(BASE, base | mode) };
    write(Register::Lint0, MASKED);
    write(Register::Lint1, MASKED);
    write(Register::TimerVector, MASKED);
    write(Register::TimerDivide, DIVIDE_BY_16);
    write(Register::TaskPriority, 0);
    write(
        Register::SpuriousVector,
        SOFTWARE_ENABLE | u32::from(Interrupt::Spurious.vector()),
    );
}

/// This core's number.
pub(crate) fn id() -> u32 {
    let id = read(Register::Id);
    if cpu::has_x2apic() { id } else { id >> 24 }
}

/// Acknowledges the interrupt being handled.
pub(crate) fn end_of_interrupt() {
    write(Register::EndOfInterrupt, 0);
}

/// Interrupts the core numbered `to`.
pub(crate) fn send(to: u32, vector: u8) {
    command(to, ASSERT | u32::from(vector));
}

/// Has the core numbered `to` start over, waiting for a start-up interrupt.
pub(super) fn send_init(to: u32) {
    command(to, ASSERT | INIT);
}

/// Sends the core numbered `to` to real-mode code at `page` (in units of 4 KiB).
pub(super) fn send_start_up(to: u32, page: u8) {
    command(to, ASSERT | START_UP | u32::from(page));
}

/// Interrupts the core numbered `to` even if it has interrupts off.
pub(crate) fn send_nmi(to: u32) {
    command(to, ASSERT | NMI);
}

/// Starts the timer's countdown from the top, for calibration.
pub(crate) fn timer_start_counting() {
    write(Register::TimerVector, MASKED);
    write(Register::TimerInitial, u32::MAX);
}

/// Ticks since [`timer_start_counting`].
pub(crate) fn timer_elapsed() -> u32 {
    u32::MAX - read(Register::TimerCurrent)
}

/// Tells how many timer ticks go into 2^32 ticks of the time-stamp counter.
pub(crate) fn set_timer_rate(rate: u32) {
    TIMER_RATE.store(rate, Ordering::Relaxed);
}

/// Interrupts this core once when about `ticks` of the time-stamp counter have passed; earlier if that is far off.
pub(crate) fn timer_arm(ticks: u64) {
    let count = (u128::from(ticks) * u128::from(TIMER_RATE.load(Ordering::Relaxed))) >> 32;
    write(Register::TimerVector, u32::from(Interrupt::Timer.vector()));
    write(
        Register::TimerInitial,
        u32::try_from(count + 1).unwrap_or(u32::MAX),
    );
}

/// Cancels [`timer_arm`].
pub(crate) fn timer_stop() {
    write(Register::TimerInitial, 0);
}

/// Sends an interrupt command and, in xAPIC mode, waits (bounded) until the bus has taken it.
fn command(to: u32, command: u32) {
    if cpu::has_x2apic() {
        // Earlier stores, such as the flag that the interrupt is about, must be visible first: WRMSR to an x2APIC
        // does not order them.
        core::sync::atomic::fence(Ordering::SeqCst);
        let value = u64::from(to) << 32 | u64::from(command);
        // SAFETY: the register exists in this mode; interrupts touch only memory of the kernel's handlers.
        unsafe { cpu::write_msr(msr(Register::Command), value) };
        return;
    }
    write(Register::CommandHigh, to << 24);
    write(Register::Command, command);
    for _ in 0..SEND_POLLS_MAX {
        if read(Register::Command) & PENDING == 0 {
            return;
        }
    }
}

const fn msr(register: Register) -> u32 {
    0x800 + (register as u32 >> 4)
}

fn read(register: Register) -> u32 {
    if let Some(page) = PAGE.get() {
        let address = core::ptr::with_exposed_provenance::<u32>(page + register as usize);
        // SAFETY: the page is mapped uncached for ever, and the register is aligned and readable.
        return unsafe { address.read_volatile() };
    }
    // SAFETY: without a page the controller is in x2APIC mode, which has the register.
    let value = unsafe { cpu::read_msr(msr(register)) };
    let [a, b, c, d, ..] = value.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

fn write(register: Register, value: u32) {
    if let Some(page) = PAGE.get() {
        let address = core::ptr::with_exposed_provenance_mut::<u32>(page + register as usize);
        // SAFETY: the page is mapped uncached for ever; the registers written have no effect on memory.
        unsafe { address.write_volatile(value) };
        return;
    }
    // SAFETY: without a page the controller is in x2APIC mode, which has the register.
    unsafe { cpu::write_msr(msr(register), u64::from(value)) };
}
