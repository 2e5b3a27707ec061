//! System calls of the reference kernel, as both sides see them.
//!
//! A process puts a [`Call`]'s number into `rax` and its arguments into `rdi`, `rsi`, `rdx` and `r10`, and executes `syscall`. The result
//! is in `rax`: an [`Error`]'s code as a negative number, else zero or more. `rcx`, `r11` and all vector registers are lost, the
//! others kept. No call blocks but [`Call::Wait`], which parks the core until something happens or its deadline passes.

#![no_std]

/// System calls. Arguments are named in the order of the registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum Call {
    /// `code`: ends the process. Does not return.
    Exit = 0,
    /// `pointer, len`: writes one line of UTF-8 text to the kernel's console, at most [`LOG_MAX`] bytes.
    Log = 1,
    /// `deadline`: returns at once if events are pending, else sleeps until one arrives or the time-stamp counter has reached
    /// `deadline`. Returns the pending events, which are then no longer pending; 0 if the deadline passed.
    Wait = 2,
    /// `pointer`: hands the kernel one request of [`REQUEST_LEN`] bytes, to be carried out later.
    Request = 3,
    /// `lease`: has the kernel look at the submission rings of a lease.
    Submit = 4,
}

impl Call {
    /// The call with this number.
    #[must_use]
    pub const fn from_number(number: u64) -> Option<Self> {
        Some(match number {
            0 => Self::Exit,
            1 => Self::Log,
            2 => Self::Wait,
            3 => Self::Request,
            4 => Self::Submit,
            _ => return None,
        })
    }
}

/// Why a system call did nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(i64)]
pub enum Error {
    /// No such call.
    UnknownCall = -1,
    /// The memory that the arguments name is not the process's to read or write.
    BadAddress = -2,
    /// An argument is out of its range.
    BadArgument = -3,
    /// A queue of requests is full: wait for outcomes first.
    Busy = -4,
    /// No such lease.
    UnknownLease = -5,
}

impl Error {
    /// What goes into `rax`.
    #[must_use]
    pub const fn code(self) -> u64 {
        (self as i64).cast_unsigned()
    }
}

/// Longest text that one [`Call::Log`] takes, in bytes.
pub const LOG_MAX: usize = 256;

/// Length of a request, in bytes.
pub const REQUEST_LEN: usize = 64;

/// The event that says: the kernel has an outcome for this process. The other 63 belong to interrupts that the process claimed.
pub const EVENT_KERNEL: u64 = 1;

/// Where each process finds its [`Info`].
pub const INFO_ADDRESS: u64 = 0x7ffe_0000_0000;

/// What a process is told when it starts: one read-only page.
#[derive(Debug)]
#[repr(C)]
pub struct Info {
    /// Layout of this page; 1.
    pub version: u32,
    /// The core that runs the process.
    pub core: u32,
    /// The NUMA node of core and memory.
    pub node: u32,
    /// Bytes used of `argument`.
    pub argument_len: u32,
    /// Time-stamp counter ticks per second.
    pub tsc_hz: u64,
    /// The command line, UTF-8.
    pub argument: [u8; 128],
}

impl Info {
    /// The command line.
    #[must_use]
    pub fn argument(&self) -> &str {
        usize::try_from(self.argument_len)
            .ok()
            .and_then(|len| self.argument.get(..len))
            .and_then(|bytes| core::str::from_utf8(bytes).ok())
            .unwrap_or("")
    }
}
