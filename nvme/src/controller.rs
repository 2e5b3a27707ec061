//! The control half: bring-up, queue pairs, namespaces, logs, events, reset, shutdown.
//!
//! It owns the controller's registers, except that it hands out doorbells. Only [`bring_up`](Controller::bring_up)
//! waits; everything after is begun, and then polled with the time.
#![expect(
    unsafe_code,
    reason = "gives the controller the addresses of the admin queue"
)]

use core::{task::Poll, time::Duration};

use embedded_hal::delay::DelayNs;
use parakernel_core::{
    memory::DmaBlock,
    mmio::{Register, Registers, Window},
    time::{Deadline, Instant, wait_until},
};

use crate::{
    admin::{AdminMemory, AdminQueue, Strays, Ticket},
    command::{self, Command, Identify},
    doorbell::ShadowMemory,
    error::{AdminError, InitError, InitStep},
    identify::ControllerData,
    namespace::{Namespace, NamespaceId, NamespaceSlot, Namespaces},
    queue::{DataPointer, QueueConfig},
    quirk::{Quirks, SLOW_READY_DELAY},
    regs::{Acq, Aqa, Asq, Cap, ControllerBlock, Csts, DOORBELLS, Vs, ready_timeout},
};

mod abort;
mod enable;
mod event;
mod log;
mod pair;
mod reset;
mod scan;
mod shadow;

pub use abort::AbortOutcome;
pub use event::Event;
pub use pair::{Pair, PairMemory, PairSlot, PairState, QueueId};

/// What the platform and the policy decide.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// How long an admin command may take.
    pub admin_timeout: Duration,
    /// What is known about the controller.
    pub quirks: Quirks,
}

impl Default for Config {
    /// Two seconds for an admin command, no quirks.
    fn default() -> Self {
        Self {
            admin_timeout: Duration::from_secs(2),
            quirks: Quirks::empty(),
        }
    }
}

/// The caller's memory for a controller's records.
#[derive(Debug)]
pub struct ControllerMemory<'m> {
    /// For the admin queue.
    pub admin: AdminMemory<'m>,
    /// One for each I/O queue pair that shall be possible; more than 65,535 are of no use.
    pub pairs: &'m mut [PairSlot<'m>],
    /// One for each namespace that shall be found.
    pub namespaces: &'m mut [NamespaceSlot],
    /// For shadow doorbells, which are used where the controller has them.
    pub shadow: Option<ShadowMemory<'m>>,
}

/// What the controller and the caller's memory allow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Limits {
    /// I/O queue pairs.
    pub pairs: u16,
    /// Entries of an I/O queue, a power of two.
    pub entries: u32,
    /// Bytes that one command may transfer; `None` where there is no limit.
    pub max_transfer: Option<u64>,
    /// Bytes from one doorbell to the next.
    pub doorbell_stride: usize,
}

/// An NVMe controller in service, or being reset.
#[derive(Debug)]
pub struct Controller<'m, R> {
    window: Window<R, ControllerBlock>,
    cap: Cap,
    config: Config,
    admin: AdminQueue<'m>,
    page: DmaBlock<'m>,
    /// The command that the data page is lent to.
    page_user: Option<Ticket>,
    data: ControllerData,
    limits: Limits,
    pairs: pair::Pairs<'m>,
    namespaces: Namespaces<'m>,
    shadow: Option<ShadowMemory<'m>>,
    scan: scan::Scan,
    log: log::Reading,
    events: event::Events,
    abort: abort::Aborting,
    reset: reset::Resetting,
}

/// How often a register, or the admin queue, is looked at during bring-up.
const LOOK_INTERVAL: Duration = Duration::from_micros(50);

/// Most queue pairs that Number of Queues can ask for: the counts are less one, and 65,535 is reserved (§5.21.1.7).
const MAX_PAIRS: u16 = 65_535;

impl<'m, R: Registers> Controller<'m, R> {
    /// Brings up the controller behind `registers`: the sequence of NVMe 1.4 §7.6.1.
    ///
    /// PCI memory space and bus mastering must be on, and the memory's addresses must be the controller's to use.
    ///
    /// # Errors
    ///
    /// [`InitError`] names the step that failed. The controller is then disabled, unless it does not answer; where it
    /// could not be disabled, it may still use the admin memory.
    pub fn bring_up(
        registers: R,
        memory: ControllerMemory<'m>,
        config: Config,
        delay: &mut impl DelayNs,
    ) -> Result<Self, InitError> {
        let mut device = Self::attach(registers, memory, config)?;
        device.disable(delay)?;
        device.program_admin_queue();
        let outcome = device.enable(delay).and_then(|()| device.configure(delay));
        if outcome.is_err() {
            // The first error is the one to report.
            let _ = device.disable(delay);
        }
        outcome.map(|()| device)
    }

    /// The steps that take commands.
    fn configure(&mut self, delay: &mut impl DelayNs) -> Result<(), InitError> {
        self.identify_controller(delay)?;
        self.agree_on_queues(delay)?;
        self.share_doorbells(delay)?;
        self.find_namespaces(delay)?;
        self.turn_on_events(delay)
    }

    /// Checks what the registers say before anything is written.
    fn attach(
        registers: R,
        memory: ControllerMemory<'m>,
        config: Config,
    ) -> Result<Self, InitError> {
        let len = registers.len();
        let window = Window::<_, ControllerBlock>::new(registers, 0);
        let cap: Cap = window.read();
        refuse(cap, len)?;
        let (admin, page) = AdminQueue::new(memory.admin).ok_or(InitError::Memory)?;
        let with_doorbells = cap.pairs_with_doorbells(len);
        let pairs = pair::Pairs::new(memory.pairs);
        Ok(Self {
            window,
            cap,
            config,
            admin,
            page,
            page_user: None,
            data: ControllerData::UNKNOWN,
            limits: Limits {
                pairs: pairs.capacity().min(with_doorbells),
                // MQES + 1 need not be a power of two; positions wrap only at one.
                entries: 1 << cap.max_entries().ilog2(),
                max_transfer: None,
                doorbell_stride: cap.doorbell_stride(),
            },
            pairs,
            namespaces: Namespaces::new(memory.namespaces),
            shadow: memory.shadow.filter(shadow::is_two_pages),
            scan: scan::Scan::default(),
            log: log::Reading::default(),
            events: event::Events::default(),
            abort: abort::Aborting::default(),
            reset: reset::Resetting::default(),
        })
    }

    /// Disables the controller and waits until it is not ready any more, which ends all queues.
    fn disable(&mut self, delay: &mut impl DelayNs) -> Result<(), InitError> {
        let limit = ready_timeout(&self.window, self.cap);
        if self.is_between_states() {
            // Clearing EN before RDY has followed it has no defined result, §3.1.5. A controller that never gets ready is
            // disabled all the same.
            let _ = wait_until(delay, limit, LOOK_INTERVAL, || !self.is_between_states());
        }
        self.clear_enable();
        if self.config.quirks.contains(Quirks::SLOW_READY) {
            delay.delay_ms(u32::try_from(SLOW_READY_DELAY.as_millis()).unwrap_or(u32::MAX));
        }
        let mut stopped = Ok(false);
        wait_until(delay, limit, LOOK_INTERVAL, || {
            stopped = self.is_disabled();
            stopped != Ok(false)
        })
        .map_err(InitError::Disable)?;
        self.admin.reset();
        stopped.map(|_| ())
    }

    /// Tells the controller where the admin queue is; it is disabled.
    fn program_admin_queue(&self) {
        let entries = u64::from(self.admin.entries() - 1);
        let attributes = Aqa::default()
            .with(Aqa::ASQS, entries)
            .with(Aqa::ACQS, entries);
        self.window.write(attributes);
        let [submission, completion] = self
            .admin
            .blocks()
            .each_ref()
            .map(|block| block.bus_address().as_u64());
        // SAFETY: the block is the queue's, long enough for `entries`, and held as long as the controller is enabled.
        unsafe { self.window.write_address(Asq::from_bits(submission)) };
        // SAFETY: as above.
        unsafe { self.window.write_address(Acq::from_bits(completion)) };
    }

    /// Enables the controller and waits until it is ready.
    fn enable(&mut self, delay: &mut impl DelayNs) -> Result<(), InitError> {
        let limit = ready_timeout(&self.window, self.cap);
        self.set_enable();
        let mut ready = Ok(false);
        wait_until(delay, limit, LOOK_INTERVAL, || {
            ready = self.is_ready();
            ready != Ok(false)
        })
        .map_err(InitError::Enable)?;
        ready.map(|_| ())
    }

    fn identify_controller(&mut self, delay: &mut impl DelayNs) -> Result<(), InitError> {
        let step = InitStep::IdentifyController;
        let command = command::identify(Identify::Controller, self.page.bus_address());
        self.execute(command, step, delay)?;
        let error = InitError::Command {
            step,
            error: AdminError::Protocol,
        };
        self.data = ControllerData::read(self.page.memory()).ok_or(error)?;
        self.limits.max_transfer = self.data.max_transfer;
        if self.data.has_entry_sizes() {
            Ok(())
        } else {
            Err(InitError::EntrySizes)
        }
    }

    /// Asks for as many queues as there is memory for, and takes what it gets: Number of Queues, §5.21.1.7.
    fn agree_on_queues(&mut self, delay: &mut impl DelayNs) -> Result<(), InitError> {
        let granted = self.execute(self.queue_request(), InitStep::NumberOfQueues, delay)?;
        self.limit_pairs(granted);
        Ok(())
    }

    fn share_doorbells(&mut self, delay: &mut impl DelayNs) -> Result<(), InitError> {
        let Some(command) = self.shadow_request() else {
            return Ok(());
        };
        self.execute(command, InitStep::ShadowDoorbells, delay)
            .map(|_| ())
    }

    fn find_namespaces(&mut self, delay: &mut impl DelayNs) -> Result<(), InitError> {
        self.start_scan();
        self.drive(InitStep::Namespaces, delay, Self::poll_scan)
    }

    fn turn_on_events(&mut self, delay: &mut impl DelayNs) -> Result<(), InitError> {
        let command = self.event_request();
        self.execute(command, InitStep::Events, delay)?;
        self.arm_event().map_err(|error| InitError::Command {
            step: InitStep::Events,
            error,
        })
    }

    /// Gives a command and waits for it; for bring-up only.
    fn execute(
        &mut self,
        command: Command,
        step: InitStep,
        delay: &mut impl DelayNs,
    ) -> Result<u32, InitError> {
        let error = |error| InitError::Command { step, error };
        let ticket = self.submit(command, None).map_err(error)?;
        self.drive(step, delay, |device, now| {
            device.reap();
            device.admin.outcome(ticket, now)
        })
    }

    /// Polls until there is a result, for as long as an admin command may take; for bring-up only.
    fn drive<T>(
        &mut self,
        step: InitStep,
        delay: &mut impl DelayNs,
        mut poll: impl FnMut(&mut Self, Instant) -> Poll<Result<T, AdminError>>,
    ) -> Result<T, InitError> {
        let mut result = Poll::Pending;
        let ended = wait_until(delay, self.config.admin_timeout, LOOK_INTERVAL, || {
            result = poll(self, Instant::default());
            result.is_ready()
        });
        let error = |error| InitError::Command { step, error };
        match (result, ended) {
            (Poll::Ready(result), _) => result.map_err(error),
            // The registers may say why.
            (Poll::Pending, Err(timeout)) => Err(error(
                self.check().err().unwrap_or(AdminError::Timeout(timeout)),
            )),
            (Poll::Pending, Ok(())) => Err(error(AdminError::Protocol)),
        }
    }
}

/// Refuses a controller that this driver cannot use, by CAP and the length of its register file.
fn refuse(cap: Cap, len: usize) -> Result<(), InitError> {
    if len < DOORBELLS {
        return Err(InitError::RegisterFile { len });
    }
    if cap.bits() == u64::MAX {
        return Err(InitError::Removed);
    }
    if len < cap.head_doorbell(0) + 4 {
        return Err(InitError::RegisterFile { len });
    }
    if !cap.is_set(Cap::CSS_NVM) {
        return Err(InitError::CommandSet);
    }
    if cap.is_set(Cap::MPSMIN) {
        let log2 = 12 + u32::try_from(cap.field(Cap::MPSMIN)).unwrap_or(0);
        return Err(InitError::PageSize { log2 });
    }
    Ok(())
}

/// What is known of the controller.
impl<R: Registers> Controller<'_, R> {
    /// What the controller said about itself.
    #[must_use]
    pub const fn data(&self) -> &ControllerData {
        &self.data
    }

    /// What the controller and the caller's memory allow.
    #[must_use]
    pub const fn limits(&self) -> Limits {
        self.limits
    }

    /// The version of the specification that the controller follows: major, minor, tertiary.
    #[must_use]
    pub fn version(&self) -> (u64, u64, u64) {
        let vs: Vs = self.window.read();
        (vs.field(Vs::MJR), vs.field(Vs::MNR), vs.field(Vs::TER))
    }

    /// The namespaces found by the last scan, usable or not.
    pub fn namespaces(&self) -> impl Iterator<Item = &Namespace> {
        self.namespaces.iter()
    }

    /// The namespace with this id.
    #[must_use]
    pub fn namespace(&self, id: NamespaceId) -> Option<&Namespace> {
        self.namespaces().find(|namespace| namespace.id == id)
    }

    /// What a [`Queue`](crate::queue::Queue) over a pair works on; `None` where namespace `namespace` is not there or
    /// cannot be used.
    #[must_use]
    pub fn queue_config(
        &self,
        queue: QueueId,
        namespace: u32,
        pointer: DataPointer,
    ) -> Option<QueueConfig<'static>> {
        let namespace = self.namespace(NamespaceId::new(namespace)?)?;
        Some(QueueConfig {
            queue,
            namespace: namespace.id,
            blocks: namespace.data.ok()?,
            max_transfer: self.limits.max_transfer,
            pointer,
            ranges: None,
        })
    }

    /// How many namespaces the last scan found no room for in the caller's table.
    #[must_use]
    pub const fn namespaces_left_out(&self) -> u32 {
        self.namespaces.left_out()
    }

    /// Admin completions that nobody waited for.
    #[must_use]
    pub const fn strays(&self) -> Strays {
        self.admin.strays()
    }

    /// Whether the controller is there and works. Reads a register: for event loops, not for data paths.
    ///
    /// # Errors
    ///
    /// [`AdminError::Removed`] or [`AdminError::Fatal`].
    pub fn check(&self) -> Result<(), AdminError> {
        let csts: Csts = self.window.read();
        if csts.bits() == u64::from(u32::MAX) {
            Err(AdminError::Removed)
        } else if csts.is_set(Csts::CFS) {
            Err(AdminError::Fatal)
        } else {
            Ok(())
        }
    }
}

/// Commands and their outcomes.
impl<R: Registers> Controller<'_, R> {
    fn submit(
        &mut self,
        command: Command,
        deadline: Option<Deadline>,
    ) -> Result<Ticket, AdminError> {
        self.admin
            .submit(self.window.registers(), self.cap, command, deadline)
    }

    /// Gives a command that has to be answered in the usual time.
    fn begin(&mut self, command: Command, now: Instant) -> Result<Ticket, AdminError> {
        if self.reset.is_running() {
            return Err(AdminError::Reset);
        }
        self.submit(
            command,
            Some(Deadline::after(now, self.config.admin_timeout)),
        )
    }

    /// Gives a command that writes the data page, if nobody else uses the page.
    fn begin_paged(
        &mut self,
        command: Command,
        deadline: Option<Deadline>,
    ) -> Result<Ticket, AdminError> {
        if self.is_page_used() {
            return Err(AdminError::Busy);
        }
        let ticket = self.submit(command, deadline)?;
        self.page_user = Some(ticket);
        Ok(ticket)
    }

    /// Whether the controller may still write the data page, or somebody has yet to read it.
    fn is_page_used(&mut self) -> bool {
        self.page_user
            .is_some_and(|user| self.admin.is_outstanding(user))
    }

    fn reap(&mut self) {
        self.admin.reap(self.window.registers(), self.cap);
    }

    /// How a command ended, if it has.
    ///
    /// Where it timed out, the registers may say why.
    fn outcome(&mut self, ticket: Ticket, now: Instant) -> Poll<Result<u32, AdminError>> {
        let outcome = self.admin.outcome(ticket, now);
        if let Poll::Ready(Err(AdminError::Timeout(_))) = outcome
            && let Err(error) = self.check()
        {
            return Poll::Ready(Err(error));
        }
        outcome
    }
}
