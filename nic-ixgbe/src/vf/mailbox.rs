//! The function's side of the mailbox: one message, and its answer.

use core::{task::Poll, time::Duration};

use parakernel_core::{
    mmio::{Register, Registers, Window},
    time::{Deadline, Instant},
};

use crate::{
    error::VfError,
    message::{self, Words},
    regs::function::{FunctionBlock, FunctionWordBlock, Vfmailbox, Vfmbmem},
};

/// How long the port's driver may take for an answer. Drivers give it a second.
pub const MESSAGE_LIMIT: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, Default)]
enum Step {
    #[default]
    Idle,
    /// The mailbox is to be taken, and the message to be written.
    Take(Words, Deadline),
    /// The message is with the port's driver.
    Answer(u16, Deadline),
    Done(Result<Words, VfError>),
}

/// What is under way, and what was read and not yet looked at: some bits of the register clear themselves.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Mailbox {
    step: Step,
    has_message: bool,
    was_reset: bool,
}

impl Mailbox {
    /// Forgets everything: the function was reset.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(super) fn begin(&mut self, words: Words, now: Instant) -> Result<(), VfError> {
        match self.step {
            Step::Idle | Step::Done(_) => {
                self.step = Step::Take(words, Deadline::after(now, MESSAGE_LIMIT));
                Ok(())
            }
            Step::Take(..) | Step::Answer(..) => Err(VfError::Busy),
        }
    }

    /// Whether the port's driver is there, and has been since the function was reset.
    pub(super) fn was_reset<R: Registers>(&mut self, window: &Window<&R, FunctionBlock>) -> bool {
        let _now = self.look(window);
        self.was_reset
    }

    /// The register, and what it says for the first and last time.
    fn look<R: Registers>(&mut self, window: &Window<&R, FunctionBlock>) -> Vfmailbox {
        let mailbox = window.read::<Vfmailbox>();
        self.has_message |= mailbox.is_set(Vfmailbox::PFSTS);
        self.was_reset |= mailbox.is_set(Vfmailbox::RSTI) || mailbox.is_set(Vfmailbox::RSTD);
        mailbox
    }

    /// Whether the port's driver is ready; what it said of that before is old.
    pub(super) fn is_ready<R: Registers>(&mut self, window: &Window<&R, FunctionBlock>) -> bool {
        let is_ready = !self.look(window).is_set(Vfmailbox::RSTI);
        if is_ready {
            self.clear();
        }
        is_ready
    }

    pub(super) fn poll<R: Registers>(
        &mut self,
        registers: &R,
        now: Instant,
    ) -> Poll<Result<Words, VfError>> {
        let window = Window::<&R, FunctionBlock>::new(registers, 0);
        let is_under_way = matches!(self.step, Step::Take(..) | Step::Answer(..));
        if is_under_way && self.was_reset(&window) {
            return self.finish(Err(VfError::Reset));
        }
        match self.step {
            Step::Idle => Poll::Ready(Err(VfError::Idle)),
            Step::Done(result) => Poll::Ready(result),
            Step::Take(words, deadline) => {
                if self.take(&window) {
                    self.send(registers, &words);
                    let kind = message::kind(words.first().copied().unwrap_or(0));
                    self.step = Step::Answer(kind, deadline);
                    return Poll::Pending;
                }
                self.wait(deadline, now)
            }
            Step::Answer(kind, deadline) => {
                if let Some(answer) = self.receive(registers, &window)
                    && let Some(result) = judge(kind, &answer)
                {
                    return self.finish(result);
                }
                self.wait(deadline, now)
            }
        }
    }

    fn finish(&mut self, result: Result<Words, VfError>) -> Poll<Result<Words, VfError>> {
        self.step = Step::Done(result);
        Poll::Ready(result)
    }

    fn wait(&mut self, deadline: Deadline, now: Instant) -> Poll<Result<Words, VfError>> {
        match deadline.check(now) {
            Ok(()) => Poll::Pending,
            Err(timeout) => self.finish(Err(VfError::NoAnswer(timeout))),
        }
    }

    /// Takes the mailbox, unless the port has it.
    fn take<R: Registers>(&mut self, window: &Window<&R, FunctionBlock>) -> bool {
        window.write(Vfmailbox::default().with(Vfmailbox::VFU, 1));
        self.look(window).is_set(Vfmailbox::VFU)
    }

    /// Writes the message, which ends whatever the port has said before, and gives the mailbox to the port.
    fn send<R: Registers>(&mut self, registers: &R, words: &Words) {
        self.has_message = false;
        for (index, word) in (0..).zip(words) {
            if let Some(base) = FunctionWordBlock::base(index) {
                let place = Window::<&R, FunctionWordBlock>::new(registers, base);
                place.write(Vfmbmem::from_bits((*word).into()));
            }
        }
        let window = Window::<&R, FunctionBlock>::new(registers, 0);
        window.write(Vfmailbox::default().with(Vfmailbox::REQ, 1));
    }

    /// What the port has written, if it has, each word read once; acknowledges it.
    fn receive<R: Registers>(
        &mut self,
        registers: &R,
        window: &Window<&R, FunctionBlock>,
    ) -> Option<Words> {
        let _now = self.look(window);
        if !self.has_message || !self.take(window) {
            return None;
        }
        self.has_message = false;
        let mut words = [0; 16];
        for (index, word) in (0..).zip(&mut words) {
            if let Some(base) = FunctionWordBlock::base(index) {
                let place = Window::<&R, FunctionWordBlock>::new(registers, base);
                *word = u32::try_from(place.read::<Vfmbmem>().bits()).unwrap_or(0);
            }
        }
        window.write(Vfmailbox::default().with(Vfmailbox::ACK, 1));
        Some(words)
    }
}

/// What an answer says; `None` for a message that is none.
fn judge(kind: u16, words: &Words) -> Option<Result<Words, VfError>> {
    let [head, ..] = *words;
    let answers = head & (message::SUCCESS | message::FAILURE);
    if message::kind(head) != kind || answers == 0 {
        return None;
    }
    Some(if answers == message::SUCCESS {
        Ok(*words)
    } else {
        Err(VfError::Refused)
    })
}
