//! A process's dealings with the control plane.
#![expect(unsafe_code, reason = "views memory that the kernel mapped")]

use core::{
    fmt::{self, Write},
    ptr::{self, NonNull},
    time::Duration,
};

use parakernel_apps::runtime::{Metric, Runtime};
use parakernel_core::{
    abi::{CallError, Codec, LOG_MAX, LeaseState, OutcomeRing, ProcessInfo, StatusPage, VERSION},
    control::{ClaimWish, Outcome, Refusal, Request, Tag},
    device::Epoch,
    handle::LeaseId,
    memory::SharedMemory,
    ring::Position,
    steering::{FlowRule, Matches},
    time::Instant,
};

use crate::{Arguments, Lease, report::Numbers, system_call};

/// How long to sleep at a time while an outcome is awaited: it wakes the process, so this is only for a kernel that
/// forgets to.
const PATIENCE: Duration = Duration::from_millis(100);

/// How long to wait before a lease is acknowledged again whose device is not up yet.
const REARM_PAUSE: Duration = Duration::from_millis(5);

/// What a process has of its kernel.
#[derive(Debug)]
pub struct Process {
    info: &'static ProcessInfo,
    arguments: Arguments,
    outcomes: OutcomeRing<'static>,
    consumed: Position,
    last_tag: u64,
    numbers: Numbers,
}

/// Why nothing came of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AskError {
    /// The kernel did not take the request.
    Call(CallError),
    /// The control plane refused it.
    Refused(Refusal),
    /// What came of it is not an outcome of such a request.
    Unexpected,
}

impl Process {
    /// The process that was started with `info`; `None` where the kernel speaks another version of the interface.
    ///
    /// # Safety
    ///
    /// `info` must be what the kernel passed to the process's entry, and there must be one `Process` only.
    pub(crate) unsafe fn new(info: &'static ProcessInfo) -> Option<Self> {
        if info.version != VERSION {
            return None;
        }
        let arguments = ptr::with_exposed_provenance(address(info.arguments));
        // SAFETY: the kernel mapped so many bytes there, and never changes them.
        let arguments =
            unsafe { core::slice::from_raw_parts(arguments, info.arguments_len as usize) };
        let base = NonNull::new(ptr::with_exposed_provenance_mut(address(info.outcomes)))?;
        // SAFETY: the kernel mapped the ring for good, and it is viewed here only.
        let memory = unsafe { SharedMemory::new(base, OutcomeRing::bytes(info.outcome_entries)) };
        Some(Self {
            info,
            arguments: Arguments(core::str::from_utf8(arguments).ok()?),
            outcomes: OutcomeRing::new(memory, info.outcome_entries)?,
            consumed: Position::START,
            last_tag: 0,
            numbers: Numbers::new(),
        })
    }

    /// What the process was started with.
    #[must_use]
    pub const fn arguments(&self) -> Arguments {
        self.arguments
    }

    /// The kernel's information.
    #[must_use]
    pub const fn info(&self) -> &'static ProcessInfo {
        self.info
    }

    /// Writes a line to the kernel's log, cut to its length.
    pub fn log_line(&mut self, line: fmt::Arguments<'_>) {
        let mut text: heapless::String<LOG_MAX> = heapless::String::new();
        // What does not fit is left out.
        let _cut = text.write_fmt(line).is_err();
        self.log(&text);
    }

    /// Asks for something and sleeps until the answer is there.
    ///
    /// # Errors
    ///
    /// [`AskError`], where nothing comes of it.
    pub fn ask(&mut self, request: &Request) -> Result<Outcome, AskError> {
        self.last_tag += 1;
        let tag = Some(Tag(self.last_tag));
        system_call::request(&request.encode(tag)).map_err(AskError::Call)?;
        loop {
            match self.next_outcome() {
                Some((answered, Outcome::Refused(refusal))) if answered == tag => {
                    return Err(AskError::Refused(refusal));
                }
                Some((answered, outcome)) if answered == tag => return Ok(outcome),
                // News that nobody asked for is on the status pages too.
                Some(_) => {}
                None => system_call::wait(self.now().saturating_add(PATIENCE)),
            }
        }
    }

    /// Claims a queue.
    ///
    /// # Errors
    ///
    /// As [`ask`](Self::ask).
    pub fn claim(&mut self, wish: ClaimWish) -> Result<Lease, AskError> {
        let Outcome::Claimed { lease, .. } = self.ask(&Request::Claim(wish))? else {
            return Err(AskError::Unexpected);
        };
        let status = self.status_page(lease).ok_or(AskError::Unexpected)?;
        Lease::new(lease, status).ok_or(AskError::Unexpected)
    }

    /// Gives a queue back; sleeps until nothing of it is left. What was made of the lease must not be used any more.
    ///
    /// # Errors
    ///
    /// As [`ask`](Self::ask).
    pub fn release(&mut self, lease: LeaseId) -> Result<(), AskError> {
        let Outcome::Revoked { .. } = self.ask(&Request::Release(lease))? else {
            return Err(AskError::Unexpected);
        };
        Ok(())
    }

    /// Leads the frames that match to the queue of a lease.
    ///
    /// # Errors
    ///
    /// As [`ask`](Self::ask).
    pub fn steer(&mut self, matches: Matches, to: LeaseId) -> Result<Outcome, AskError> {
        self.ask(&Request::AddRule(FlowRule { matches, to }))
    }

    /// Arms all of the process's leases on a device again, where it was reset; whether it was, and they work. All rings begin
    /// anew then, and what was in flight is of unknown outcome.
    ///
    /// # Errors
    ///
    /// As [`ask`](Self::ask).
    pub fn rearm(&mut self, leases: &mut [&mut Lease]) -> Result<bool, AskError> {
        let mut was_reset = false;
        loop {
            for lease in &mut *leases {
                was_reset |= self.rearm_one(lease)?;
            }
            let mut states = leases.iter().map(|lease| lease.state());
            if states.any(|state| state == LeaseState::Revoked) {
                return Ok(false);
            }
            // Each is told of a reset in its turn, and in the end all know of the same one.
            let epoch = leases.first().map(|lease| lease.epoch());
            let works = |lease: &&mut Lease| {
                lease.state() == LeaseState::Active && Some(lease.epoch()) == epoch
            };
            if leases.iter().all(works) {
                return Ok(was_reset);
            }
            system_call::wait(self.now().saturating_add(REARM_PAUSE));
        }
    }

    fn rearm_one(&mut self, lease: &mut Lease) -> Result<bool, AskError> {
        if lease.state() != LeaseState::Lost {
            return Ok(false);
        }
        match self.acknowledge(lease.id(), lease.epoch()) {
            Ok(()) => {
                *lease = lease.again().ok_or(AskError::Unexpected)?;
                Ok(true)
            }
            // Others have still to be told, or the device is being reset once more.
            Err(AskError::Refused(Refusal::DeviceDown | Refusal::WrongState)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn acknowledge(&mut self, lease: LeaseId, epoch: Epoch) -> Result<(), AskError> {
        let Outcome::Rearmed { .. } = self.ask(&Request::Acknowledge { lease, epoch })? else {
            return Err(AskError::Unexpected);
        };
        Ok(())
    }

    fn next_outcome(&mut self) -> Option<(Option<Tag>, Outcome)> {
        let message = self.outcomes.consume(self.consumed)?;
        self.consumed = self.consumed.after();
        Outcome::decode(&message)
    }

    fn status_page(&self, lease: LeaseId) -> Option<&'static StatusPage> {
        let offset = self.info.lease_stride.checked_mul(lease.index() as u64)?;
        let page = self.info.leases.checked_add(offset)?;
        let page = NonNull::new(ptr::with_exposed_provenance_mut(address(page)))?;
        // SAFETY: the kernel mapped the page of a lease that it just granted, read-only. Where the lease ends the page
        // goes, and a process that still looks is stopped.
        unsafe { SharedMemory::new(page, size_of::<StatusPage>()) }.view(0)
    }
}

/// An address as this processor has it.
#[expect(clippy::cast_possible_truncation, reason = "both have 64 bits")]
pub(crate) const fn address(number: u64) -> usize {
    number as usize
}

/// The time, by the processor's time stamp counter.
fn now(start: u64, hertz: u64) -> Instant {
    // SAFETY: reads a counter.
    let ticks = unsafe { core::arch::x86_64::_rdtsc() }.saturating_sub(start);
    let nanoseconds = u128::from(ticks) * 1_000_000_000 / u128::from(hertz.max(1));
    Instant::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
}

impl Drop for Process {
    /// Publishes what was reported last.
    fn drop(&mut self) {
        self.numbers.publish();
    }
}

impl Runtime for Process {
    fn now(&mut self) -> Instant {
        now(self.info.tsc_start, self.info.tsc_hz)
    }

    fn end_of_turn(&mut self) {
        let (start, hz) = (self.info.tsc_start, self.info.tsc_hz);
        self.numbers.publish_if_due(|| now(start, hz));
        system_call::submit_all();
    }

    fn wait(&mut self, deadline: Option<Instant>) {
        self.numbers.publish();
        system_call::wait(deadline.unwrap_or(Instant::from_nanos(u64::MAX)));
    }

    fn log(&mut self, line: &str) {
        system_call::log(line);
    }

    fn report(&mut self, metric: Metric, value: u64) {
        self.numbers.set(metric, value);
    }
}
