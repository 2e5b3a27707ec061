//! What core 0 decides: which processes run, and what becomes of their requests.

use kernel_formats::{archive, command_line};
use parakernel_core::abi::Message;
use parakernel_core::address::CoreId;

use crate::boot::Kernel;
use crate::housekeeping::Turn;
use crate::panic::{Verdict, power_off};
use crate::print;
use crate::process::Plan;
use crate::runner::End;

/// The processes named on the command line (`run=a,b,…`, on cores 1, 2, …), until all have ended.
#[derive(Debug)]
pub(crate) struct Control {
    running: usize,
    verdict: Verdict,
}

impl Control {
    /// Starts the processes.
    pub(crate) fn start(kernel: &mut Kernel) -> Self {
        let mut control = Self {
            running: 0,
            verdict: Verdict::Pass,
        };
        let list = command_line::value(kernel.command_line, "run").unwrap_or("");
        for (name, core) in list.split(',').filter(|name| !name.is_empty()).zip(1..) {
            let arguments = command_line::value(kernel.command_line, name).unwrap_or("");
            let file = archive::find(kernel.archive, name).unwrap_or(&[]);
            let plan = Plan {
                name,
                file,
                arguments,
                core: CoreId::new(core),
            };
            match kernel
                .seats
                .start(&mut kernel.frames, kernel.tables.tables(), &plan)
            {
                Ok(()) => control.running += 1,
                Err(error) => {
                    print!("{name} does not start: {error:?}\n");
                    control.verdict = Verdict::Fail;
                }
            }
        }
        control
    }

    /// Takes a request. There is nothing to be had yet, so each is answered with itself.
    pub(crate) fn request(&mut self, kernel: &mut Kernel, core: CoreId, request: &Message) {
        let Some(seat) = kernel.seats.at(core) else {
            return;
        };
        if seat.deliver(request).is_err() {
            seat.stop();
        }
    }

    /// Takes note that the process on `core` has ended.
    pub(crate) fn ended(&mut self, kernel: &mut Kernel, core: CoreId, end: End) {
        let Some(seat) = kernel.seats.at(core) else {
            return;
        };
        let name = seat.process.as_ref().map_or("", |process| &process.name);
        print!("{name} ended: {end:?}\n");
        if end != End::Exited(0) {
            self.verdict = Verdict::Fail;
        }
        if let Err(leak) = seat.reclaim(&mut kernel.frames) {
            print!("frames are missing: {leak:?}\n");
            self.verdict = Verdict::Fail;
        }
        self.running = self.running.saturating_sub(1);
    }

    /// Does what there is to do without being asked.
    pub(crate) fn turn(&mut self, _kernel: &mut Kernel) -> Turn {
        if self.running == 0 {
            power_off(self.verdict);
        }
        Turn::Idle(None)
    }
}
