//! Segments, and a stack for each kind of interrupt.
#![expect(unsafe_code, reason = "loads segment registers and descriptor tables")]

use x86_64::VirtAddr;
use x86_64::instructions::tables::load_tss;
use x86_64::registers::segmentation::{CS, DS, ES, FS, GS, SS, Segment};
use x86_64::structures::gdt::{Descriptor, GlobalDescriptorTable, SegmentSelector};
use x86_64::structures::tss::TaskStateSegment;

/// Selector of ring 0's code, as `syscall` loads it.
pub(super) const KERNEL_CODE: u16 = 0x08;
/// Selector of ring 3's data; `sysret` wants it right before the code.
pub(super) const USER_DATA: u16 = 0x18 | 3;
/// Selector of ring 3's code.
pub(super) const USER_CODE: u16 = 0x20 | 3;

/// Stacks of the interrupt stack table, by what uses them. None of these nests within itself.
#[derive(Clone, Copy)]
pub(super) enum Stack {
    /// Interrupts, from ring 3 and from `halt`.
    Interrupt = 0,
    /// Exceptions.
    Exception = 1,
    /// Non-maskable interrupts.
    NonMaskable = 2,
    /// Double faults.
    DoubleFault = 3,
    /// Machine checks.
    MachineCheck = 4,
}

/// How many [`Stack`]s there are.
pub(crate) const STACKS: usize = 5;

/// Gives this core its segments and interrupt stacks; `tops` are the ends of the stacks, in the order of [`Stack`].
pub(super) fn load(
    gdt: &'static mut GlobalDescriptorTable,
    tss: &'static mut TaskStateSegment,
    tops: [VirtAddr; STACKS],
) {
    let mut table = tss.interrupt_stack_table;
    table[..STACKS].copy_from_slice(&tops);
    tss.interrupt_stack_table = table;
    gdt.append(Descriptor::kernel_code_segment());
    gdt.append(Descriptor::kernel_data_segment());
    gdt.append(Descriptor::user_data_segment());
    gdt.append(Descriptor::user_code_segment());
    let tss_selector = gdt.append(Descriptor::tss_segment(tss));
    gdt.load();
    // SAFETY: the first entry appended is the kernel's code segment.
    unsafe { CS::set_reg(SegmentSelector(KERNEL_CODE)) };
    // SAFETY: the second is its data segment.
    unsafe { SS::set_reg(SegmentSelector(0x10)) };
    let null = SegmentSelector(0);
    // SAFETY: long mode ignores what these four hold, bases aside, and the bases of FS and GS are set later.
    unsafe { DS::set_reg(null) };
    // SAFETY: as above.
    unsafe { ES::set_reg(null) };
    // SAFETY: as above.
    unsafe { FS::set_reg(null) };
    // SAFETY: as above.
    unsafe { GS::set_reg(null) };
    // SAFETY: the selector names the descriptor of `tss`, which lives for ever.
    unsafe { load_tss(tss_selector) };
}
