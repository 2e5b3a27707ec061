//! Where a process starts, and where it ends if it panics.
#![expect(unsafe_code, reason = "takes over from the kernel")]

use core::{fmt::Write, panic::PanicInfo};

use parakernel_core::abi::{LOG_MAX, ProcessInfo};

use crate::{Process, system_call};

/// Exit code of a process that panicked.
const PANICKED: u64 = 101;

/// Makes `main`, a function from [`Process`] to an exit code, the program's entry.
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        core::arch::global_asm!(
            ".globl _start",
            "_start:",
            "jmp {start}",
            start = sym start_here,
        );

        /// What the kernel jumps to.
        extern "sysv64" fn start_here(info: &'static $crate::ProcessInfo) -> ! {
            $crate::start(info, $main)
        }
    };
}

/// Runs `main` and ends the process with its exit code.
#[doc(hidden)]
pub fn start(info: &'static ProcessInfo, main: fn(Process) -> u64) -> ! {
    // SAFETY: `info` is what the kernel passes to the first function of a process, and this is called once, by it.
    let process = unsafe { Process::new(info) };
    let code = match process {
        Some(process) => main(process),
        None => {
            system_call::log("the kernel speaks another version of the interface");
            PANICKED
        }
    };
    system_call::exit(code)
}

#[cfg_attr(not(test), panic_handler)]
#[cfg_attr(test, expect(dead_code, reason = "tests have a handler of their own"))]
fn panic(info: &PanicInfo<'_>) -> ! {
    let mut line: heapless::String<LOG_MAX> = heapless::String::new();
    // What does not fit is cut off.
    let _cut = write!(line, "panic: {}", info.message()).is_err();
    if let Some(place) = info.location() {
        let _cut = write!(line, " ({}:{})", place.file(), place.line()).is_err();
    }
    system_call::log(&line);
    system_call::exit(PANICKED)
}
