//! The processor: everything of the kernel that is about x86-64 and nothing else, and nearly all of its `unsafe`.

pub(crate) mod apic;
pub(crate) mod cpu;
mod gdt;
pub(crate) mod idt;
pub(crate) mod layout;
pub(crate) mod paging;
pub(crate) mod smp;
pub(crate) mod traps;
