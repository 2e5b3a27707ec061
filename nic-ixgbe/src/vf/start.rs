//! From a function's reset to its service, as steps that each end within a limit.

use core::{task::Poll, time::Duration};

use parakernel_core::{
    mmio::{Register, Registers, Window},
    steering::Mac,
    time::{Deadline, Instant},
};

use super::Function;
use crate::{
    device::Pair,
    error::VfError,
    message::{self, Words},
    regs::function::{FUNCTION_QUEUES, Vfctrl, Vteiac, Vteiam, Vteimc},
};

/// Vectors, a bit each.
const ALL_VECTORS: u64 = 7;
/// How long the function is left alone after it was reset. Drivers give it 10 to 50 ms; the datasheet names no figure.
const SETTLE: Duration = Duration::from_millis(50);
/// The port's driver is ready within it, or there is none.
const READY_LIMIT: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    /// That the function has settled.
    Settle,
    /// That the port's driver is ready.
    Ready,
    /// Its answers.
    Address,
    Version(u32),
    Queues,
    Done,
}

/// How far a reset came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start {
    step: Step,
    deadline: Option<Deadline>,
    result: Result<(), VfError>,
}

impl Start {
    pub(super) const DONE: Self = Self {
        step: Step::Done,
        deadline: None,
        result: Ok(()),
    };

    pub(super) const fn is_done(&self) -> bool {
        matches!(self.step, Step::Done) && self.result.is_ok()
    }
}

impl<R: Registers> Function<'_, R> {
    /// Resets the function: all its queues end, and their memory is the function's until
    /// [`poll_reset`](Self::poll_reset) says that it is done.
    pub fn begin_reset(&mut self, now: Instant) {
        Pair::begin_reset(self.pairs);
        self.mailbox.clear();
        let window = self.window();
        window.write(Vteimc::from_bits(ALL_VECTORS));
        window.write(Vfctrl::default().with(Vfctrl::RST, 1));
        self.start = Start {
            step: Step::Settle,
            deadline: Some(Deadline::after(now, SETTLE)),
            result: Ok(()),
        };
    }

    /// Looks whether the function is in service.
    ///
    /// # Errors
    ///
    /// As [`bring_up`](Self::bring_up), and whenever it is asked again then.
    pub fn poll_reset(&mut self, now: Instant) -> Poll<Result<(), VfError>> {
        if self.start.step == Step::Done {
            return Poll::Ready(self.start.result);
        }
        let result = if self.is_gone() {
            Err(VfError::Removed)
        } else {
            self.step(now)
        };
        if let Err(error) = result {
            self.start.result = Err(error);
            self.start.step = Step::Done;
        }
        if self.start.step == Step::Done {
            Pair::end_reset(self.pairs, self.start.is_done());
            Poll::Ready(self.start.result)
        } else {
            Poll::Pending
        }
    }

    fn step(&mut self, now: Instant) -> Result<(), VfError> {
        match self.start.step {
            Step::Settle if self.is_early(now) => Ok(()),
            Step::Settle => {
                self.start.step = Step::Ready;
                self.start.deadline = Some(Deadline::after(now, READY_LIMIT));
                Ok(())
            }
            Step::Ready => self.await_port(now),
            step @ (Step::Address | Step::Version(_) | Step::Queues | Step::Done) => {
                let Self {
                    registers, mailbox, ..
                } = self;
                match mailbox.poll(registers, now) {
                    Poll::Pending => Ok(()),
                    Poll::Ready(answer) => self.go_on(step, answer, now),
                }
            }
        }
    }

    fn is_early(&self, now: Instant) -> bool {
        self.start
            .deadline
            .is_some_and(|deadline| deadline.check(now).is_ok())
    }

    fn await_port(&mut self, now: Instant) -> Result<(), VfError> {
        let Self {
            registers, mailbox, ..
        } = self;
        if mailbox.is_ready(&Window::new(registers, 0)) {
            self.set_up_interrupts();
            return self.ask(Step::Address, [message::RESET.into(), 0], now);
        }
        match self.start.deadline.map(|deadline| deadline.check(now)) {
            Some(Err(timeout)) => Err(VfError::NotReady(timeout)),
            Some(Ok(())) | None => Ok(()),
        }
    }

    /// Goes on with an answer of the port's driver, each word of which is judged here.
    fn go_on(
        &mut self,
        step: Step,
        answer: Result<Words, VfError>,
        now: Instant,
    ) -> Result<(), VfError> {
        match (step, answer) {
            // An old driver knows no versions: it has one queue pair to give.
            (Step::Version(message::VERSION_1_1), Err(VfError::Refused)) => {
                self.negotiate(message::VERSION_1_0, now)
            }
            (Step::Version(message::VERSION_1_0), Ok(_) | Err(VfError::Refused)) => {
                self.queues = 1;
                self.start = Start::DONE;
                Ok(())
            }
            (_, Err(error)) => Err(error),
            (Step::Address, Ok([_, low, high, ..])) => {
                let mac = message::mac_of([low, high]);
                if mac.is_group() || mac == Mac([0; 6]) {
                    return Err(VfError::Mac(mac));
                }
                self.mac = mac;
                self.negotiate(message::VERSION_1_1, now)
            }
            (Step::Version(_), Ok(_)) => {
                self.ask(Step::Queues, [message::GET_QUEUES.into(), 0], now)
            }
            (Step::Queues, Ok([_, transmit, receive, ..])) => {
                let count = u8::try_from(transmit.min(receive)).ok();
                let count = count.filter(|count| (1..=FUNCTION_QUEUES).contains(count));
                self.queues = count.ok_or(VfError::Queues { transmit, receive })?;
                self.start = Start::DONE;
                Ok(())
            }
            (Step::Settle | Step::Ready | Step::Done, Ok(_)) => Ok(()),
        }
    }

    fn negotiate(&mut self, version: u32, now: Instant) -> Result<(), VfError> {
        let words = [message::NEGOTIATE.into(), version];
        self.ask(Step::Version(version), words, now)
    }

    fn ask(&mut self, step: Step, [head, first]: [u32; 2], now: Instant) -> Result<(), VfError> {
        let mut words = [0; 16];
        [words[0], words[1]] = [head, first];
        self.start.step = step;
        self.mailbox.begin(words, now)
    }

    /// A vector whose message was sent clears its cause, and is masked until it is armed again.
    fn set_up_interrupts(&self) {
        let window = self.window();
        window.write(Vteiac::from_bits(ALL_VECTORS));
        window.write(Vteiam::from_bits(ALL_VECTORS));
        self.clear_vectors();
    }
}
