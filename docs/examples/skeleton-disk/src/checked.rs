//! The kernel's side of a checked queue.

use core::sync::atomic::{Ordering, fence};

use parakernel_core::{
    memory::RegionTable,
    queue::Doorbell,
    ring::Position,
    validate::{DescriptorValidator, Validated},
    volume::Volume,
};

use crate::{
    error::{QueueError, TakeError},
    queue::slot,
    ring::{Answer, Command},
    validate::Validator,
};

/// Stands between a process's shadow ring and the device's.
#[derive(Debug)]
pub struct Checked<'a, D, const N: usize> {
    shadow: &'a [Command; N],
    commands: &'a [Command; N],
    answers: &'a [Answer; N],
    doorbell: D,
    validator: Validator<N>,
    next: Position,
}

impl<'a, D: Doorbell, const N: usize> Checked<'a, D, N> {
    /// Leads commands from `shadow` to `commands`, if they stay in `volume`.
    pub const fn new(
        shadow: &'a [Command; N],
        commands: &'a [Command; N],
        answers: &'a [Answer; N],
        volume: Volume,
        doorbell: D,
    ) -> Self {
        let validator = Validator::new(volume);
        Self {
            shadow,
            commands,
            answers,
            doorbell,
            validator,
            next: Position::START,
        }
    }

    /// Takes over up to `budget` commands before `claimed`, and returns how far commands were taken over.
    ///
    /// # Errors
    ///
    /// Where process or device broke a rule. Nothing of this batch was published then, and nothing may be any more.
    pub fn take(
        &mut self,
        claimed: Position,
        regions: &RegionTable<'_>,
        budget: u32,
    ) -> Result<Position, TakeError> {
        self.harvest()?;
        let count = self.validator.new_entries(claimed)?.min(budget);
        for _ in 0..count {
            let at = slot::<N>(self.validator.accepted());
            // The one look: from here on there is only the copy.
            let copy = self.shadow[at].copy();
            let command = self.validator.validate(copy, regions)?;
            self.write(command);
        }
        if count > 0 {
            self.doorbell.ring(self.validator.accepted());
        }
        Ok(self.validator.accepted())
    }

    /// Frees the ids of commands that were answered.
    fn harvest(&mut self) -> Result<(), QueueError> {
        while let Some(ended) = self.answers[slot::<N>(self.next)].at(self.next) {
            self.validator.ended(ended.id)?;
            self.next = self.next.after();
        }
        fence(Ordering::Acquire);
        Ok(())
    }

    /// The only way into the device's ring.
    fn write(&self, command: Validated<Validator<N>>) {
        let (at, words) = command.into_inner();
        self.commands[slot::<N>(at)].put(words);
    }
}
