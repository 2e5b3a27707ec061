//! Ring 3 as a function call: [`Context::run`] returns when the kernel has something to do.
#![expect(
    unsafe_code,
    reason = "enters ring 3 and reads what the assembly saved"
)]

use core::arch::{asm, global_asm};
use core::fmt;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU64, Ordering};

use x86_64::VirtAddr;
use x86_64::registers::control::Cr2;
use x86_64::registers::model_specific::{GsBase, KernelGsBase, LStar, SFMask};
use x86_64::registers::rflags::{self, RFlags};

use super::cpu;
use super::gdt::{KERNEL_CODE, USER_CODE, USER_DATA};
use super::idt::FIRST_INTERRUPT;
use crate::cores::Core;
use crate::interrupts;

/// `Context::by`: a system call was the last way into the kernel.
const BY_SYSCALL: u64 = 1;
/// `Context::by`: an interrupt or exception was, or the process has not run yet.
const BY_INTERRUPT: u64 = 0;
/// `IA32_STAR`.
const STAR: u32 = 0xc000_0081;
/// MXCSR at reset: all exceptions masked.
const MXCSR_DEFAULT: u32 = 0x1f80;
/// The x87 control word after `fninit`.
const X87_DEFAULT: u16 = 0x037f;

/// What the assembly keeps per core, at the start of each [`Core`]; GS points to it while the kernel runs.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Anchor {
    /// The address of the core's record itself.
    this: AtomicU64,
    /// The kernel's stack pointer while ring 3 runs.
    stack: AtomicU64,
    /// The context of the process that runs.
    context: AtomicU64,
    /// A place for one register.
    scratch: AtomicU64,
}

impl Anchor {
    /// An anchor that no core uses yet.
    pub(crate) const fn new() -> Self {
        Self {
            this: AtomicU64::new(0),
            stack: AtomicU64::new(0),
            context: AtomicU64::new(0),
            scratch: AtomicU64::new(0),
        }
    }
}

/// The registers of a process.
#[derive(Debug)]
#[repr(C, align(16))]
pub(crate) struct Context {
    /// x87, MMX and SSE state in the form of FXSAVE.
    vectors: [u8; 512],
    rax: u64,
    rbx: u64,
    rcx: u64,
    rdx: u64,
    rsi: u64,
    rdi: u64,
    rbp: u64,
    rsp: u64,
    r8: u64,
    r9: u64,
    r10: u64,
    r11: u64,
    r12: u64,
    r13: u64,
    r14: u64,
    r15: u64,
    rip: u64,
    rflags: u64,
    by: u64,
    vector: u64,
    error: u64,
    mxcsr: u64,
}

/// Why ring 3 was left.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Trap {
    /// A system call: number and arguments.
    Call(u64, [u64; 2]),
    /// An interrupt.
    Interrupt(u8),
    /// The process did something that it cannot go on from.
    Fault(Fault),
}

/// An exception in ring 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// Number of the exception.
    pub(crate) vector: u8,
    /// Its error code, 0 where it has none.
    pub(crate) error: u64,
    /// The instruction.
    pub(crate) instruction: u64,
    /// The address that it touched; meaningful for page faults.
    pub(crate) address: u64,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            vector,
            error,
            instruction,
            address,
        } = self;
        let name = match vector {
            0 => "division by zero",
            1 | 3 => "trap",
            6 => "illegal instruction",
            13 => "forbidden instruction or address",
            14 => {
                return write!(
                    f,
                    "page fault at {address:#x} by {instruction:#x} (error {error:#x})"
                );
            }
            16 | 19 => "floating-point exception",
            17 => "misaligned access",
            _ => return write!(f, "exception {vector} by {instruction:#x}"),
        };
        write!(f, "{name} by {instruction:#x}")
    }
}

global_asm!(
    include_str!("traps.s"),
    CORE_STACK = const offset_of!(Anchor, stack),
    CORE_CONTEXT = const offset_of!(Anchor, context),
    CORE_SCRATCH = const offset_of!(Anchor, scratch),
    FX = const offset_of!(Context, vectors),
    RAX = const offset_of!(Context, rax),
    RBX = const offset_of!(Context, rbx),
    RCX = const offset_of!(Context, rcx),
    RDX = const offset_of!(Context, rdx),
    RSI = const offset_of!(Context, rsi),
    RDI = const offset_of!(Context, rdi),
    RBP = const offset_of!(Context, rbp),
    RSP = const offset_of!(Context, rsp),
    R8 = const offset_of!(Context, r8),
    R9 = const offset_of!(Context, r9),
    R10 = const offset_of!(Context, r10),
    R11 = const offset_of!(Context, r11),
    R12 = const offset_of!(Context, r12),
    R13 = const offset_of!(Context, r13),
    R14 = const offset_of!(Context, r14),
    R15 = const offset_of!(Context, r15),
    RIP = const offset_of!(Context, rip),
    RFLAGS = const offset_of!(Context, rflags),
    BY = const offset_of!(Context, by),
    VECTOR = const offset_of!(Context, vector),
    ERROR = const offset_of!(Context, error),
    MXCSR = const offset_of!(Context, mxcsr),
    BY_SYSCALL = const BY_SYSCALL,
    BY_INTERRUPT = const BY_INTERRUPT,
    USER_CODE = const USER_CODE,
    USER_DATA = const USER_DATA,
    options(att_syntax)
);

unsafe extern "sysv64" {
    /// Runs ring 3 until it traps (traps.s).
    fn enter_user(context: *mut Context);
    /// Where `syscall` goes (traps.s).
    static syscall_entry: u8;
    /// Sleeps until an interrupt has been handled (traps.s).
    safe fn halt();
}

impl Context {
    /// The registers of a process that starts at `entry` with its stack at `stack` and one argument.
    pub(crate) fn new(entry: u64, stack: u64, argument: u64) -> Self {
        let mut vectors = [0; 512];
        vectors[..2].copy_from_slice(&X87_DEFAULT.to_le_bytes());
        vectors[24..28].copy_from_slice(&MXCSR_DEFAULT.to_le_bytes());
        Self {
            vectors,
            rip: entry,
            rsp: stack,
            rflags: (RFlags::INTERRUPT_FLAG.bits()) | 2,
            by: BY_INTERRUPT,
            mxcsr: u64::from(MXCSR_DEFAULT),
            rax: 0,
            rbx: 0,
            rcx: 0,
            rdx: 0,
            rsi: 0,
            rdi: argument,
            rbp: 0,
            r8: 0,
            r9: 0,
            r10: 0,
            r11: 0,
            r12: 0,
            r13: 0,
            r14: 0,
            r15: 0,
            vector: 0,
            error: 0,
        }
    }

    /// Runs the process in the address space that is active, until it traps.
    pub(crate) fn run(&mut self) -> Trap {
        // SAFETY: GS points to this core's anchor (`attach`) and interrupts are off. The assembly writes only `self`
        // and the anchor, and restores what a function must preserve. Ring 3 reaches only pages mapped for it.
        unsafe { enter_user(self) };
        assert!(
            !rflags::read().contains(RFlags::ALIGNMENT_CHECK),
            "the kernel runs with a process's AC flag, and so without SMAP"
        );
        if self.by == BY_SYSCALL {
            return Trap::Call(self.rax, [self.rdi, self.rsi]);
        }
        let vector = self.vector.to_le_bytes()[0];
        if vector >= FIRST_INTERRUPT {
            return Trap::Interrupt(vector);
        }
        Trap::Fault(Fault {
            vector,
            error: self.error,
            instruction: self.rip,
            address: Cr2::read_raw(),
        })
    }

    /// Sets what the system call that `run` reported returns.
    pub(crate) const fn set_result(&mut self, value: u64) {
        self.rax = value;
    }
}

/// Makes `core` the record of the core that executes this, and lets ring 3 call the kernel.
pub(super) fn attach(core: &'static Core) {
    let anchor: *const Anchor = &raw const core.anchor;
    core.anchor
        .this
        .store(core::ptr::from_ref(core).addr() as u64, Ordering::Relaxed);
    GsBase::write(VirtAddr::from_ptr(anchor));
    KernelGsBase::write(VirtAddr::zero());
    LStar::write(VirtAddr::from_ptr(&raw const syscall_entry));
    SFMask::write(
        RFlags::INTERRUPT_FLAG
            | RFlags::DIRECTION_FLAG
            | RFlags::TRAP_FLAG
            | RFlags::ALIGNMENT_CHECK
            | RFlags::NESTED_TASK,
    );
    // `sysret` adds 8 to its base for the stack segment and 16 for the code segment.
    let star = u64::from(KERNEL_CODE) << 32 | u64::from(USER_DATA - 8) << 48;
    // SAFETY: every x86-64 processor has the register; the selectors are those of gdt::load.
    unsafe { cpu::write_msr(STAR, star) };
}

/// The record of the core that executes this.
pub(crate) fn this_core() -> &'static Core {
    let core: *const Core;
    // SAFETY: in the kernel GS points to the anchor of this core, whose first word is the record's address.
    unsafe {
        asm!("mov {}, gs:[0]", out(reg) core, options(nostack, preserves_flags, readonly, pure));
    };
    // SAFETY: `attach` stored the address of a record that lives for ever and is shared by reference only.
    unsafe { &*core }
}

/// Sleeps until an interrupt has been handled. One that is pending already counts.
pub(crate) fn sleep() {
    halt();
}

/// An interrupt while `halt` slept, or an exception in the kernel.
#[unsafe(no_mangle)]
extern "sysv64" fn kernel_interrupt(vector: u64, error: u64, frame: &[u64; 5]) {
    let vector = vector.to_le_bytes()[0];
    if vector < FIRST_INTERRUPT {
        crate::panic::exception(vector, error, frame, Cr2::read_raw());
    }
    interrupts::handle(vector);
}
