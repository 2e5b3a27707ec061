//! The event loop of core 0: whatever must be done without a process asking, each step to completion, never waiting.

use crate::arch::traps;
use crate::boot::Kernel;
use crate::cores::Core;
use crate::panic::{Verdict, power_off};
use crate::{print, selftest};

/// Whether a turn of the loop found something to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Turn {
    /// It did; there may be more.
    Busy,
    /// It did not: sleep until something happens.
    Idle,
}

/// Runs the kernel until it powers off.
pub(crate) fn run(mut kernel: Kernel) -> ! {
    if kernel_formats::command_line::value(kernel.command_line, "selftest").is_some() {
        selftest::run(&mut kernel);
    }
    print!("nothing to do\n");
    power_off(Verdict::Pass)
}

/// Sleeps until something happens, unless something has since `take_events` was last called.
pub(crate) fn sleep() {
    if Core::this().take_events() == 0 {
        traps::sleep();
    }
}
