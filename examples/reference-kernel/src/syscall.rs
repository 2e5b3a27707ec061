//! The system calls. Each decodes its arguments here, and nowhere else does a process's word count.

use kernel_abi::{Call, Error, LOG_MAX, REQUEST_LEN};

use crate::arch::{apic, cpu, traps};
use crate::cores;
use crate::print;
use crate::runner::{End, Running};
use crate::user_memory::BadAddress;

/// Text that a process may log in all, in bytes: the console is shared and slow.
pub(crate) const LOG_BUDGET: usize = 64 * 1024;

/// What becomes of the process after a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reply {
    /// It goes on, with this result.
    Value(u64),
    /// It ends.
    End(End),
}

impl From<Result<u64, Error>> for Reply {
    fn from(result: Result<u64, Error>) -> Self {
        Self::Value(result.unwrap_or_else(Error::code))
    }
}

impl From<BadAddress> for Error {
    fn from(BadAddress: BadAddress) -> Self {
        Self::BadAddress
    }
}

/// Carries out call `number` of `process`.
pub(crate) fn call(process: &mut Running<'_>, number: u64, arguments: [u64; 4]) -> Reply {
    let [a, b, ..] = arguments;
    match Call::from_number(number) {
        Some(Call::Exit) => Reply::End(End::Exited(a)),
        Some(Call::Log) => log(process, a, b).into(),
        Some(Call::Wait) => wait(process, a),
        Some(Call::Request) => request(process, a).into(),
        Some(Call::Submit) => submit(process, a).into(),
        None => Err(Error::UnknownCall).into(),
    }
}

fn log(process: &mut Running<'_>, pointer: u64, len: u64) -> Result<u64, Error> {
    let mut text = [0; LOG_MAX];
    let len = usize::try_from(len).map_err(|_| Error::BadArgument)?;
    let text = text.get_mut(..len).ok_or(Error::BadArgument)?;
    process.memory.read(pointer, text)?;
    let text = core::str::from_utf8(text).map_err(|_| Error::BadArgument)?;
    // Control characters could forge lines of the kernel's own.
    if text.contains(char::is_control) {
        return Err(Error::BadArgument);
    }
    process.log_budget = process.log_budget.checked_sub(len).ok_or(Error::Busy)?;
    print!("[{}] {text}\n", process.name);
    Ok(0)
}

/// Sleeps until an event, the deadline, or the end of the process.
fn wait(process: &Running<'_>, deadline: u64) -> Reply {
    loop {
        if process.core.is_stopped(process.run) {
            return Reply::End(End::Stopped);
        }
        let events = process.core.take_events();
        let now = cpu::timestamp();
        if events != 0 || now >= deadline {
            apic::timer_stop();
            return Reply::Value(events);
        }
        apic::timer_arm(deadline - now);
        // Interrupts are off since the events were looked at, so one that comes now ends the sleep at once.
        traps::sleep();
    }
}

fn request(process: &mut Running<'_>, pointer: u64) -> Result<u64, Error> {
    let mut request = [0; REQUEST_LEN];
    process.memory.read(pointer, &mut request)?;
    process.mailbox.request(request).map_err(|_| Error::Busy)?;
    cores::wake_kernel();
    Ok(0)
}

/// Has the submission rings of a lease looked at. No lease is given out before a control plane is there.
fn submit(_process: &mut Running<'_>, _lease: u64) -> Result<u64, Error> {
    Err(Error::UnknownLease)
}
