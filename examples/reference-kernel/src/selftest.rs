//! `selftest` on the command line: probes that misbehave, each of which must end as it should and leave nothing behind.

use core::time::Duration;

use kernel_formats::archive;
use parakernel_core::address::CoreId;

use crate::boot::Kernel;
use crate::cores;
use crate::mailbox::Message;
use crate::panic::{Verdict, power_off};
use crate::print;
use crate::process::Plan;
use crate::runner::End;
use crate::time;

/// How long a probe may take: emulated cores share few real ones.
const LIMIT: Duration = Duration::from_secs(5);
/// How long a probe that never ends runs before it is stopped.
const PATIENCE: Duration = Duration::from_millis(50);

/// Page fault, general protection fault, invalid opcode, divide error, breakpoint.
const PF: u8 = 14;
const GP: u8 = 13;
const UD: u8 = 6;
const DE: u8 = 0;

/// What the probe is told, and how it must end.
const CASES: [(&str, Expected); 18] = [
    ("exit", Expected::Exited),
    ("log", Expected::Exited),
    ("info", Expected::Exited),
    ("sse", Expected::Exited),
    ("wild-pointers", Expected::Exited),
    ("unknown-call", Expected::Exited),
    ("wait", Expected::Exited),
    ("request", Expected::Exited),
    ("read-kernel", Expected::Faulted(PF)),
    ("write-code", Expected::Faulted(PF)),
    ("write-info", Expected::Faulted(PF)),
    ("run-data", Expected::Faulted(PF)),
    ("null", Expected::Faulted(PF)),
    ("overflow", Expected::Faulted(PF)),
    ("divide", Expected::Faulted(DE)),
    ("privileged", Expected::Faulted(GP)),
    ("illegal", Expected::Faulted(UD)),
    ("spin", Expected::Stopped),
];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Expected {
    /// With code 0.
    Exited,
    /// With this exception.
    Faulted(u8),
    /// Because it was stopped.
    Stopped,
}

/// Runs all probes on each core but core 0, and powers off.
pub(crate) fn run(kernel: &mut Kernel) -> ! {
    let mut verdict = Verdict::Pass;
    for (argument, expected) in CASES {
        if case(kernel, argument, expected) {
            print!("PASS {argument}\n");
        } else {
            print!("FAIL {argument}\n");
            verdict = Verdict::Fail;
        }
    }
    print!("selftest: {verdict:?}\n");
    power_off(verdict)
}

/// Starts the probe on all cores at once; whether all ended as expected and all frames came back.
fn case(kernel: &mut Kernel, argument: &str, expected: Expected) -> bool {
    let Some(file) = archive::find(kernel.archive, "probe") else {
        print!("no probe in the archive\n");
        return false;
    };
    let before = kernel.frames.free_total();
    let count = cores::all().count();
    for core in 1..count {
        let core = CoreId::new(core as u32);
        let plan = Plan {
            name: "probe",
            file,
            arguments: argument,
            core,
        };
        if let Err(error) = kernel
            .seats
            .start(&mut kernel.frames, kernel.tables.tables(), &plan)
        {
            print!("core {}: {error:?}\n", core.index());
            return false;
        }
    }
    if expected == Expected::Stopped {
        time::spin(PATIENCE);
        kernel.seats.iter_mut().for_each(|seat| seat.stop());
    }
    let ended = collect(kernel, expected);
    let after = kernel.frames.free_total();
    if before != after {
        print!("{before} frames were free, now {after}\n");
    }
    ended && before == after && count > 1
}

/// Waits for all probes and reclaims them.
fn collect(kernel: &mut Kernel, expected: Expected) -> bool {
    let mut good = true;
    for seat in kernel.seats.iter_mut() {
        let all_in = time::spin_until(LIMIT, || {
            while let Some(Message::Request(request)) = seat.receive() {
                // What was asked comes back, which shows that both ways work.
                let _lost = seat.deliver(&request).is_err();
            }
            seat.process
                .as_ref()
                .is_none_or(|process| process.end.is_some())
        });
        let end = seat.process.as_ref().and_then(|process| process.end);
        let as_expected = match (end, expected) {
            (Some(End::Exited(code)), Expected::Exited) => code == 0,
            (Some(End::Faulted(fault)), Expected::Faulted(vector)) => fault.vector == vector,
            (Some(End::Stopped), Expected::Stopped) => true,
            _ => false,
        };
        let reclaimed = seat.reclaim(&mut kernel.frames);
        if all_in.is_err() || !as_expected || reclaimed.is_err() {
            print!("core {}: {end:?}, {reclaimed:?}\n", seat.core.id.index());
            good = false;
        }
    }
    good
}
