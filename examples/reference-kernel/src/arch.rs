//! The processor: everything of the kernel that is about x86-64 and nothing else, and nearly all of its `unsafe`.

pub(crate) mod apic;
pub(crate) mod cpu;
mod gdt;
pub(crate) mod idt;
pub(crate) mod layout;
pub(crate) mod paging;
pub(crate) mod smp;
pub(crate) mod traps;

/// `value` as an index: the kernel runs on 64-bit processors only.
#[expect(clippy::cast_possible_truncation, reason = "both have 64 bits")]
pub(crate) const fn native(value: u64) -> usize {
    const { assert!(size_of::<usize>() == size_of::<u64>()) };
    value as usize
}
