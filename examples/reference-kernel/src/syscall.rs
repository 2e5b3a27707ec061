//! The system calls. Each decodes its arguments here, and nowhere else does a process's word count.

use core::sync::atomic::Ordering;
use core::time::Duration;

use parakernel_core::abi::{ALL_LEASES, Call, CallError, LOG_MAX, MESSAGE_WORDS, Message, Metric};
use parakernel_core::time::Instant;

use crate::arch::{apic, traps};
use crate::attack::Said;
use crate::queues::Stop;
use crate::runner::{End, Running};
use crate::user_memory::BadAddress;
use crate::{cores, print, time};

/// What a process may have printed in all, in bytes: the console is shared and slow.
pub(crate) const LOG_BUDGET: usize = 64 * 1024;

/// How often queues are looked at that no interrupt speaks for, while their process sleeps.
const LOOK_INTERVAL: Duration = Duration::from_micros(200);

/// What becomes of the process after a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reply {
    /// It goes on, with this result.
    Value(u64),
    /// It ends.
    End(End),
}

impl From<Result<u64, CallError>> for Reply {
    fn from(result: Result<u64, CallError>) -> Self {
        Self::Value(result.unwrap_or_else(|error| error as u64))
    }
}

impl From<BadAddress> for CallError {
    fn from(BadAddress: BadAddress) -> Self {
        Self::BadPointer
    }
}

/// Carries out call `number` of `process`.
pub(crate) fn call(process: &mut Running<'_>, number: u64, arguments: [u64; 2]) -> Reply {
    let [first, second] = arguments;
    match Call::from_number(number) {
        Some(Call::Exit) => Reply::End(End::Exited(first)),
        Some(Call::Log) => {
            let logged = log(process, first, second);
            counted(process, logged).into()
        }
        Some(Call::Request) => {
            let requested = request(process, first);
            counted(process, requested).into()
        }
        Some(Call::Submit) => submit(process, first),
        Some(Call::Wait) => wait(process, Instant::from_nanos(first)),
        Some(Call::Report) => report(process, first, second).into(),
        None => Err(CallError::UnknownCall).into(),
    }
}

/// Counts a call that names memory or a lease.
fn counted<T, E>(process: &Running<'_>, result: Result<T, E>) -> Result<T, E> {
    process.core.count_call(result.is_err());
    result
}

fn log(process: &mut Running<'_>, pointer: u64, len: u64) -> Result<u64, CallError> {
    let mut text = [0; LOG_MAX];
    let len = usize::try_from(len).map_err(|_| CallError::BadArgument)?;
    let text = text.get_mut(..len).ok_or(CallError::BadArgument)?;
    process.memory.read(pointer, text)?;
    let text = core::str::from_utf8(text).map_err(|_| CallError::BadArgument)?;
    // Control characters could forge lines of the kernel's own.
    if text.contains(char::is_control) {
        return Err(CallError::BadArgument);
    }
    // The kernel's own part of the line takes as long to print.
    let cost = len + process.name.len() + "[] \n".len();
    process.log_budget = process
        .log_budget
        .checked_sub(cost)
        .ok_or(CallError::Busy)?;
    print!("[{}] {text}\n", process.name);
    if Said::of(text).is_some() {
        let mut calls = process.core.calls();
        // This one is counted when it is over.
        calls.taken += 1;
        process.mailbox.said(text.chars().collect(), calls);
        cores::wake_kernel();
    }
    Ok(0)
}

fn request(process: &mut Running<'_>, pointer: u64) -> Result<u64, CallError> {
    let mut bytes = [0; MESSAGE_WORDS * 8];
    process.memory.read(pointer, &mut bytes)?;
    let mut message = Message::default();
    let (words, _) = bytes.as_chunks();
    for (word, bytes) in message.words.iter_mut().zip(words) {
        *word = u64::from_le_bytes(*bytes);
    }
    process
        .mailbox
        .request(message)
        .map_err(|_| CallError::Busy)?;
    cores::wake_kernel();
    Ok(0)
}

/// Keeps a number that the process publishes about itself, for core 0 to show.
fn report(process: &Running<'_>, metric: u64, value: u64) -> Result<u64, CallError> {
    let metric = Metric::from_number(metric).ok_or(CallError::BadArgument)?;
    process.core.metrics[metric as usize].store(value, Ordering::Relaxed);
    Ok(0)
}

/// Takes over what the process has published.
fn submit(process: &mut Running<'_>, handle: u64) -> Reply {
    let mut published = publish(process, handle);
    if handle != ALL_LEASES {
        published = counted(process, published);
    }
    match published {
        Ok(()) => Reply::Value(0),
        Err(stop) => stopped(process, stop),
    }
}

/// Takes over what was published, and wakes core 0 where that is frames for it to move.
fn publish(process: &Running<'_>, handle: u64) -> Result<(), Stop> {
    let mut queues = process.mailbox.queues.pass();
    queues.submit(handle)?;
    if queues.has_frames() {
        cores::wake_kernel();
    }
    Ok(())
}

/// What becomes of a process whose queues cannot go on.
fn stopped(process: &mut Running<'_>, stop: Stop) -> Reply {
    match stop {
        Stop::Call(error) => Err(error).into(),
        Stop::Violation(violation) => {
            process.mailbox.queues.pass().note_violation();
            Reply::End(End::Violated(violation))
        }
        Stop::Device(device) => {
            process.mailbox.failed(device);
            cores::wake_kernel();
            Err(CallError::BadLease).into()
        }
    }
}

/// Sleeps until there is an event or news in a queue, the deadline passes, or the process is stopped. An interrupt of a vector
/// that others share is an event too, so the sleep may end without news.
fn wait(process: &mut Running<'_>, deadline: Instant) -> Reply {
    if let Err(stop) = publish(process, ALL_LEASES) {
        return stopped(process, stop);
    }
    loop {
        if process.core.is_stopped(process.run) {
            return Reply::End(End::Stopped);
        }
        let has_events = process.core.take_events() != 0;
        let looked = look(process);
        let (has_news, is_armed) = match looked {
            Ok(looked) => looked,
            Err(stop) => return stopped(process, stop),
        };
        if has_events || has_news || time::now() >= deadline {
            apic::timer_stop();
            return Reply::Value(0);
        }
        let until = if is_armed {
            deadline
        } else {
            deadline.min(time::now().saturating_add(LOOK_INTERVAL))
        };
        time::wake_at(until);
        // Interrupts are off since the events were looked at, so one that comes now ends the sleep at once.
        traps::sleep();
    }
}

/// Whether something has arrived, and whether an interrupt will say so when something does: first it is asked for, then looked.
fn look(process: &Running<'_>) -> Result<(bool, bool), Stop> {
    let mut queues = process.mailbox.queues.pass();
    let is_armed = queues.arm();
    Ok((queues.take_news()?, is_armed))
}
