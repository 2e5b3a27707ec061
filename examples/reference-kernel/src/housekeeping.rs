//! The event loop of core 0: whatever must be done without a process asking, each step to completion, never waiting.

use core::time::Duration;

use kernel_formats::command::Command;
use kernel_formats::command_line;
use parakernel_core::time::Instant;

use crate::arch::traps;
use crate::boot::Kernel;
use crate::console::Console;
use crate::control::Control;
use crate::cores::Core;
use crate::mailbox::Message;
use crate::panic::{Verdict, power_off};
use crate::supervisor::{self, Supervisor};
use crate::{print, sabotage, selftest, time};

/// Most messages of a core in one turn, so that none keeps the others waiting.
const BUDGET: usize = 16;
/// How often the console is looked at: its port interrupts nobody.
const CONSOLE_INTERVAL: Duration = Duration::from_millis(20);

/// Whether a turn leaves something to do.
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
    let rounds = command_line::value(kernel.command_line, "selftest");
    let tested = rounds.map(|rounds| selftest::run(&mut kernel, rounds.parse().unwrap_or(1)));
    let settings = supervisor::settings(&kernel);
    let mut control = Control::new(kernel, &settings);
    if let Some(is_good) = tested {
        selftest::finish(&mut control, is_good);
    }
    control.report();
    let mut supervisor = Supervisor::start(&mut control, settings);
    let mut console = Console::default();
    loop {
        // What happens from here on ends the sleep below at once.
        let _noted = Core::this().take_events();
        let has_received = receive(&mut control, &mut supervisor);
        if let Some(line) = console.poll() {
            match Command::parse(&line) {
                Some(command) => supervisor.command(&mut control, command),
                None => print!("no such command: {line}\n"),
            }
        }
        let turns = (control.turn(), supervisor.turn(&mut control));
        if let (Turn::Idle(first), Turn::Idle(second), false) = (turns.0, turns.1, has_received) {
            let console = time::now().saturating_add(CONSOLE_INTERVAL);
            sleep_until(
                [first, second]
                    .into_iter()
                    .flatten()
                    .fold(console, Instant::min),
            );
        }
    }
}

/// Hands on the messages of all cores; whether there were any.
fn receive(control: &mut Control, supervisor: &mut Supervisor) -> bool {
    let mut has_received = false;
    for index in 0..control.kernel().seats.len() {
        for _ in 0..BUDGET {
            let Some((core, message)) = control.kernel().seats.receive(index) else {
                break;
            };
            has_received = true;
            match message {
                Message::Request(request) => control.request(core, &request),
                Message::Ended(end) => supervisor.ended(control, core, end),
                Message::Failed(device) => control.failed(device),
                Message::Said(text, calls) => supervisor.said(control, core, &text, calls),
            }
        }
    }
    has_received
}

/// Sleeps until an event, or until `instant`.
fn sleep_until(instant: Instant) {
    time::wake_at(instant);
    // Interrupts are off: an event after this question ends the sleep at once.
    if !Core::this().has_events() {
        traps::sleep();
    }
}
