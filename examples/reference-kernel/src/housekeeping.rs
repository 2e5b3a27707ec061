//! The event loop of core 0: whatever must be done without a process asking, each step to completion, never waiting.

use crate::arch::traps;
use crate::boot::Kernel;
use crate::control::Control;
use crate::cores::Core;
use crate::mailbox::Message;
use crate::panic::{Verdict, power_off};
use crate::{sabotage, selftest, time};
use kernel_formats::command_line;
use parakernel_core::time::Instant;

/// Most messages of a core in one turn, so that none keeps the others waiting.
const BUDGET: usize = 16;

/// Whether a turn of the loop leaves something to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Turn {
    /// It does: go on at once.
    Busy,
    /// It does not: sleep until something happens, or until then.
    Idle(Option<Instant>),
}

/// Runs the kernel until it powers off.
pub(crate) fn run(mut kernel: Kernel) -> ! {
    if let Some(what) = command_line::value(kernel.command_line, "sabotage") {
        sabotage::commit(what);
        power_off(Verdict::Fail);
    }
    if let Some(rounds) = command_line::value(kernel.command_line, "selftest") {
        selftest::run(&mut kernel, rounds.parse().unwrap_or(1));
    }
    let mut control = Control::start(&mut kernel);
    loop {
        // What happens from here on ends the sleep below at once.
        let _noted = Core::this().take_events();
        let received = receive(&mut kernel, &mut control);
        match control.turn(&mut kernel) {
            Turn::Idle(until) if !received => sleep(until),
            Turn::Idle(_) | Turn::Busy => {}
        }
    }
}

/// Hands the messages of all cores to the control plane; whether there were any.
fn receive(kernel: &mut Kernel, control: &mut Control) -> bool {
    let mut received = false;
    for index in 0..kernel.seats.len() {
        for _ in 0..BUDGET {
            let Some((core, message)) = kernel.seats.receive(index) else {
                break;
            };
            received = true;
            match message {
                Message::Request(request) => control.request(kernel, core, &request),
                Message::Ended(end) => control.ended(kernel, core, end),
            }
        }
    }
    received
}

/// Sleeps until an event or an instant.
fn sleep(until: Option<Instant>) {
    if Core::this().has_events() {
        return;
    }
    if let Some(instant) = until {
        time::wake_at(instant);
    }
    // Interrupts are off since the events were looked at, so one that comes now ends the sleep at once.
    traps::sleep();
}
