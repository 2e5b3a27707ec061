//! The interrupt descriptor table: one for all cores, each vector with a stub and a stack.
#![expect(unsafe_code, reason = "names interrupt handlers written in assembly")]

use x86_64::VirtAddr;
use x86_64::instructions::tables::lidt;
use x86_64::structures::DescriptorTablePointer;
use x86_64::structures::gdt::SegmentSelector;
use x86_64::structures::idt::{Entry, HandlerFunc};

use super::gdt::{KERNEL_CODE, Stack};
use crate::once::Once;

/// First vector that is not an exception.
pub(crate) const FIRST_INTERRUPT: u8 = 32;

unsafe extern "C" {
    /// The first of 256 stubs of 16 bytes each (traps.s).
    static interrupt_stubs: u8;
}

/// A descriptor for each vector; all are alike in form, whatever their handlers get.
#[repr(C, align(16))]
struct Table([Entry<HandlerFunc>; 256]);

static TABLE: Once<Table> = Once::new();

/// Makes this core use the table, which [`build`] has built.
pub(super) fn load() {
    let Some(table) = TABLE.get() else {
        return;
    };
    let pointer = DescriptorTablePointer {
        limit: 256 * 16 - 1,
        base: VirtAddr::from_ptr(table),
    };
    // SAFETY: the table is static, complete, and each entry names a stub of its vector.
    unsafe { lidt(&pointer) };
}

/// Builds the table.
pub(super) fn build() {
    let stubs = VirtAddr::from_ptr(&raw const interrupt_stubs);
    let mut table = Table([const { Entry::missing() }; 256]);
    for (entry, vector) in table.0.iter_mut().zip(0_u8..=255) {
        // SAFETY: the stub of each vector lies 16 bytes after that of the one before, and deals with the frame of
        // that vector.
        let options = unsafe { entry.set_handler_addr(stubs + 16 * u64::from(vector)) };
        // SAFETY: gdt::load makes this the kernel's code segment before the table is used.
        unsafe { options.set_code_selector(SegmentSelector(KERNEL_CODE)) };
        // SAFETY: gdt::load fills each of these stacks before the table is used.
        unsafe { options.set_stack_index(stack_of(vector) as u16) };
    }
    // A second table would be the same.
    let _first = TABLE.set(table).is_ok();
}

const fn stack_of(vector: u8) -> Stack {
    match vector {
        2 => Stack::NonMaskable,
        8 => Stack::DoubleFault,
        18 => Stack::MachineCheck,
        0..FIRST_INTERRUPT => Stack::Exception,
        FIRST_INTERRUPT.. => Stack::Interrupt,
    }
}
