//! A core that runs processes, one at a time.
#![expect(unsafe_code, reason = "switches address spaces")]

use heapless::String;
use parakernel_core::validate::Violation;

use crate::arch::paging::Tables;
use crate::arch::traps::{self, Context, Fault, Trap};
use crate::cores::{self, Core};
use crate::interrupts;
use crate::mailbox::{CoreEnd, Order};
use crate::syscall::{self, Reply};
use crate::user_memory::UserMemory;

/// What a core needs to run a process.
#[derive(Debug)]
pub(crate) struct Launch {
    /// A number that no other run has.
    pub(crate) run: u32,
    /// Its name.
    pub(crate) name: String<16>,
    /// Its address space, complete.
    pub(crate) tables: Tables,
    /// Where it starts.
    pub(crate) entry: u64,
    /// Where its stack ends.
    pub(crate) stack: u64,
    /// Its first argument.
    pub(crate) argument: u64,
}

/// How a process ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    /// It said so.
    Exited(u64),
    /// It did what ring 3 may not do.
    Faulted(Fault),
    /// It broke a rule of its queues.
    Violated(Violation),
    /// Core 0 wanted it.
    Stopped,
}

/// A process, as the core sees it that runs it.
pub(crate) struct Running<'a> {
    /// This core.
    pub(crate) core: &'static Core,
    /// The number of this run.
    pub(crate) run: u32,
    /// The process's name.
    pub(crate) name: &'a str,
    /// Its memory.
    pub(crate) memory: UserMemory,
    /// The way to core 0.
    pub(crate) mailbox: &'a mut CoreEnd,
    /// Bytes of text that it may still log.
    pub(crate) log_budget: usize,
}

/// Runs what core 0 orders, for ever. `kernel` are the tables to use in between.
pub(crate) fn run(mut mailbox: CoreEnd, kernel: Tables) -> ! {
    loop {
        let Some(Order::Run(launch)) = mailbox.orders.dequeue() else {
            // Interrupts are off, so an order's wake-up that comes now is not lost: it ends the sleep at once.
            traps::sleep();
            continue;
        };
        let end = run_process(&launch, &mut mailbox);
        // SAFETY: these are the tables that this core started with.
        unsafe { kernel.activate() };
        mailbox.ended(end);
        cores::wake_kernel();
    }
}

fn run_process(launch: &Launch, mailbox: &mut CoreEnd) -> End {
    let core = Core::this();
    // What the process before this one did not take is nobody's.
    let _stale = core.take_events();
    // SAFETY: core 0 made the tables with the kernel's half shared, and frees them only when told that the process
    // has ended.
    unsafe { launch.tables.activate() };
    let mut context = Context::new(launch.entry, launch.stack, launch.argument);
    let mut process = Running {
        core,
        run: launch.run,
        name: &launch.name,
        memory: UserMemory::new(launch.tables),
        mailbox,
        log_budget: syscall::LOG_BUDGET,
    };
    // Interrupts are off in here: a stop that comes after the question interrupts the process as soon as it runs.
    while !core.is_stopped(launch.run) {
        match context.run() {
            Trap::Call(number, arguments) => match syscall::call(&mut process, number, arguments) {
                Reply::Value(value) => context.set_result(value),
                Reply::End(end) => return end,
            },
            Trap::Interrupt(vector) => interrupts::handle(vector),
            Trap::Fault(fault) => return End::Faulted(fault),
        }
    }
    End::Stopped
}
