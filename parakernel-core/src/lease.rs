//! The life of a lease: from claim to reclaim, in an order that cannot be got wrong.
//!
//! ```text
//! Claimed ──► Active ──► Quiescing ──► Reclaimed
//!               │ ▲          │
//!               ▼ │          ▼
//!              Lost      Quarantined
//! ```
//!
//! Everything that a process got together with a queue hangs on its lease: ring memory, doorbell, interrupt vector, flow
//! rules, a borrowed volume. Taking it back never waits and goes through the [`Step`]s in their order, each begun only
//! after the one before was confirmed. What the order guarantees: once the last step is done, no byte of the old owner's
//! memory is read or written by the device, no interrupt of the old lease arrives, and no frame of its flows reaches
//! another process. A queue that does not stop is quarantined with its pages, and nobody else is disturbed; its process is
//! cut off from it all the same.

use core::{task::Poll, time::Duration};

use crate::{
    device::Epoch,
    time::{Deadline, Instant},
};

/// Where a lease is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum LeaseState {
    /// Its queue is being made.
    Claimed,
    /// The process works with its queue.
    Active,
    /// It is being taken back, and this is the step.
    Quiescing(Step),
    /// Its device was reset: what was in flight is of unknown outcome, and the process has to acknowledge the epoch.
    Lost(Epoch),
    /// It could not be taken back, because this step was not confirmed. Its pages stay where they are until the device
    /// is reset.
    Quarantined(Step),
    /// Everything has been taken back.
    Reclaimed,
}

impl LeaseState {
    /// Whether a device may still reach memory through the lease.
    #[must_use]
    pub const fn may_start_dma(self) -> bool {
        !matches!(self, Self::Reclaimed)
    }
}

/// A step of taking a lease back.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Step {
    /// The lease is dead to its process: calls in flight have drained, doorbell and shadow ring are unmapped, and no
    /// core remembers the mapping.
    Fence,
    /// Its flows lead to the kernel's drop queue.
    Steer,
    /// The device finished what the queue was given, as far as it can.
    Drain,
    /// The device confirmed that the queue stopped, and its grace time has passed.
    Stop,
    /// All DMA that had begun has arrived.
    Flush,
    /// The IOMMU no longer translates for the queue, and has forgotten.
    Isolate,
    /// The vector is masked, and an interrupt that was under way has been taken.
    Mask,
    /// The remaining mappings are gone.
    Unmap,
    /// The memory holds zeroes.
    Zero,
}

impl Step {
    /// All steps, in their order.
    pub const ORDER: [Self; 9] = [
        Self::Fence,
        Self::Steer,
        Self::Drain,
        Self::Stop,
        Self::Flush,
        Self::Isolate,
        Self::Mask,
        Self::Unmap,
        Self::Zero,
    ];

    /// The step after this one.
    const fn next(self) -> Option<Self> {
        match self {
            Self::Fence => Some(Self::Steer),
            Self::Steer => Some(Self::Drain),
            Self::Drain => Some(Self::Stop),
            Self::Stop => Some(Self::Flush),
            Self::Flush => Some(Self::Isolate),
            Self::Isolate => Some(Self::Mask),
            Self::Mask => Some(Self::Unmap),
            Self::Unmap => Some(Self::Zero),
            Self::Zero => None,
        }
    }

    /// Whether a reset of the device does what this step does.
    ///
    /// Steering is not among them: after a reset rules lead to the drop queue, but they have not been taken out.
    #[must_use]
    pub const fn is_done_by_reset(self) -> bool {
        matches!(self, Self::Drain | Self::Stop | Self::Flush)
    }
}

/// What carries the steps out for one lease.
pub trait Teardown {
    /// Begins a step; does not wait.
    ///
    /// # Errors
    ///
    /// [`Refused`] where it cannot be carried out; the lease is quarantined then.
    fn begin(&mut self, step: Step, now: Instant) -> Result<(), Refused>;

    /// Looks whether the step is done, and does a bounded part of it where it is the caller's to do.
    fn poll(&mut self, step: Step, now: Instant) -> Poll<Result<(), Refused>>;

    /// How long the step may take, or `None` where it ends for certain: zeroing, and what a trusted platform does.
    fn limit(&self, step: Step) -> Option<Duration>;
}

impl<T: Teardown + ?Sized> Teardown for &mut T {
    fn begin(&mut self, step: Step, now: Instant) -> Result<(), Refused> {
        (**self).begin(step, now)
    }

    fn poll(&mut self, step: Step, now: Instant) -> Poll<Result<(), Refused>> {
        (**self).poll(step, now)
    }

    fn limit(&self, step: Step) -> Option<Duration> {
        (**self).limit(step)
    }
}

/// A step was refused, by the device or by the platform.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refused;

/// How taking a lease back ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Ending {
    /// All steps are done: the memory may be freed and the queue offered again.
    Reclaimed,
    /// This step was refused, or not confirmed in time.
    Quarantined(Step),
}

/// Taking one lease back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Revocation {
    step: Step,
    phase: Phase,
    /// The device was reset after the lease was claimed, which did what some steps do.
    was_reset: bool,
    /// The step that was refused, or not confirmed in time. What is the process's own is still cut then.
    failed: Option<Step>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// The step is to be begun.
    Due,
    /// The step was begun.
    Begun(Option<Deadline>),
    Ended(Ending),
}

impl Revocation {
    /// Begins with the first step.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            step: Step::Fence,
            phase: Phase::Due,
            was_reset: false,
            failed: None,
        }
    }

    /// The same for a lease whose device was reset, and not claimed again since.
    #[must_use]
    pub const fn after_reset() -> Self {
        Self {
            was_reset: true,
            ..Self::new()
        }
    }

    /// The step that it is at.
    #[must_use]
    pub const fn step(&self) -> Step {
        self.step
    }

    /// Whether the device was reset after the lease was claimed.
    #[must_use]
    pub const fn was_reset(&self) -> bool {
        self.was_reset
    }

    /// Takes note that the device was reset: steps that the reset did are left out, and a quarantine ends.
    pub fn device_was_reset(&mut self) {
        self.was_reset = true;
        if let Some(step) = self.failed.take() {
            self.step = step;
            self.phase = Phase::Due;
        } else if self.step.is_done_by_reset() && matches!(self.phase, Phase::Begun(_)) {
            self.phase = Phase::Due;
        }
    }

    /// Goes as far as it can now.
    ///
    /// A step begins only after all before it are done; with one exception: a queue that does not drain is stopped all
    /// the same, since what it was given may wait for something that never comes, such as a link.
    ///
    /// Where any other step fails, the lease ends in quarantine, but not before [`Step::Mask`] and [`Step::Unmap`] have cut it
    /// off from its process, so that nothing but the device can reach its memory, and the process can be buried.
    pub fn poll(&mut self, now: Instant, work: &mut impl Teardown) -> Poll<Ending> {
        loop {
            self.phase = match self.phase {
                Phase::Ended(ending) => return Poll::Ready(ending),
                Phase::Due if self.was_reset && self.step.is_done_by_reset() => self.following(),
                Phase::Due => self.begin(now, work),
                Phase::Begun(deadline) => match work.poll(self.step, now) {
                    Poll::Ready(Ok(())) => self.following(),
                    Poll::Ready(Err(Refused)) => self.failed(),
                    Poll::Pending if deadline.is_some_and(|it| it.check(now).is_err()) => {
                        self.failed()
                    }
                    Poll::Pending => return Poll::Pending,
                },
            };
        }
    }

    fn begin(&mut self, now: Instant, work: &mut impl Teardown) -> Phase {
        match work.begin(self.step, now) {
            Ok(()) => {
                let limit = work.limit(self.step);
                Phase::Begun(limit.map(|limit| Deadline::after(now, limit)))
            }
            Err(Refused) => self.failed(),
        }
    }

    fn following(&mut self) -> Phase {
        match (self.failed, self.step.next()) {
            (Some(failed), _) if self.step >= Step::Unmap => {
                Phase::Ended(Ending::Quarantined(failed))
            }
            (_, Some(step)) => {
                self.step = step;
                Phase::Due
            }
            (_, None) => Phase::Ended(Ending::Reclaimed),
        }
    }

    fn failed(&mut self) -> Phase {
        if self.step == Step::Drain {
            return self.following();
        }
        self.failed.get_or_insert(self.step);
        if self.step < Step::Mask {
            self.step = Step::Mask;
            return Phase::Due;
        }
        self.following()
    }
}

impl Default for Revocation {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// How one step behaves.
    #[derive(Clone, Copy, PartialEq, Debug)]
    enum Conduct {
        DoneAfter(u64),
        Never,
        RefusesBegin,
        RefusesLater,
    }

    struct Script {
        conduct: [Conduct; 9],
        log: Vec<Step>,
        begun_at: u64,
    }

    const LIMIT: u64 = 10;

    impl Script {
        fn new(conduct: [Conduct; 9]) -> Self {
            Self {
                conduct,
                log: Vec::new(),
                begun_at: 0,
            }
        }

        fn run(&mut self, revocation: &mut Revocation) -> Option<Ending> {
            (0..200).find_map(
                |now| match revocation.poll(Instant::from_nanos(now), self) {
                    Poll::Ready(ending) => Some(ending),
                    Poll::Pending => None,
                },
            )
        }
    }

    impl Teardown for Script {
        fn begin(&mut self, step: Step, now: Instant) -> Result<(), Refused> {
            self.begun_at = now.as_nanos();
            if self.conduct[step as usize] == Conduct::RefusesBegin {
                return Err(Refused);
            }
            Ok(())
        }

        fn poll(&mut self, step: Step, now: Instant) -> Poll<Result<(), Refused>> {
            match self.conduct[step as usize] {
                Conduct::DoneAfter(time) if now.as_nanos() >= self.begun_at + time => {
                    self.log.push(step);
                    Poll::Ready(Ok(()))
                }
                Conduct::RefusesLater => Poll::Ready(Err(Refused)),
                Conduct::DoneAfter(_) | Conduct::Never | Conduct::RefusesBegin => Poll::Pending,
            }
        }

        fn limit(&self, step: Step) -> Option<Duration> {
            (step != Step::Zero).then_some(Duration::from_nanos(LIMIT))
        }
    }

    fn conduct() -> impl Strategy<Value = Conduct> {
        prop_oneof![
            8 => (0..2 * LIMIT).prop_map(Conduct::DoneAfter),
            1 => Just(Conduct::Never),
            1 => Just(Conduct::RefusesBegin),
            1 => Just(Conduct::RefusesLater),
        ]
    }

    fn is_in_time(conduct: Conduct) -> bool {
        matches!(conduct, Conduct::DoneAfter(time) if time <= LIMIT)
    }

    #[test]
    fn the_steps_are_those_of_the_order() {
        let mut steps = vec![Step::Fence];
        while let Some(step) = steps.last().unwrap().next() {
            steps.push(step);
        }
        assert_eq!(steps, Step::ORDER);
        assert!(steps.is_sorted());
    }

    #[test]
    fn all_that_is_ready_is_done_in_one_poll() {
        let mut script = Script::new([Conduct::DoneAfter(0); 9]);
        let ending = Revocation::new().poll(Instant::from_nanos(3), &mut script);
        assert_eq!(ending, Poll::Ready(Ending::Reclaimed));
        assert_eq!(script.log.len(), 9);
    }

    #[test]
    fn a_reset_ends_a_quarantine_and_does_the_device_s_steps() {
        for stuck in Step::ORDER
            .into_iter()
            .filter(|step| step.is_done_by_reset())
        {
            let mut script = Script::new([Conduct::DoneAfter(1); 9]);
            script.conduct[stuck as usize] = Conduct::Never;
            let mut revocation = Revocation::new();
            let ending = script.run(&mut revocation);
            if stuck == Step::Drain {
                assert_eq!(ending, Some(Ending::Reclaimed));
                continue;
            }
            assert_eq!(ending, Some(Ending::Quarantined(stuck)));
            revocation.device_was_reset();
            assert_eq!(script.run(&mut revocation), Some(Ending::Reclaimed));
            // First the process's own part, and after the reset all of the rest.
            let after = script.log.iter().filter(|step| **step > Step::Flush);
            let (cut, rest) = ([Step::Mask, Step::Unmap], &Step::ORDER[5..]);
            assert_eq!(after.copied().collect::<Vec<_>>(), [&cut, rest].concat());
        }
    }

    #[test]
    fn a_reset_while_a_queue_stops_makes_an_end_of_it() {
        let mut script = Script::new([Conduct::DoneAfter(0); 9]);
        script.conduct[Step::Stop as usize] = Conduct::Never;
        let mut revocation = Revocation::new();
        assert!(
            revocation
                .poll(Instant::from_nanos(0), &mut script)
                .is_pending()
        );
        revocation.device_was_reset();
        let ending = revocation.poll(Instant::from_nanos(1), &mut script);
        assert_eq!(ending, Poll::Ready(Ending::Reclaimed));
        assert_eq!(
            script.log,
            [
                Step::Fence,
                Step::Steer,
                Step::Drain,
                Step::Isolate,
                Step::Mask,
                Step::Unmap,
                Step::Zero
            ]
        );
    }

    proptest! {
        /// A step is done only after all before it; the first that is not done in time (Drain aside) ends in
        /// quarantine, and nothing after it is touched but what is the process's own.
        #[test]
        fn the_order_holds_under_any_conduct(conduct in prop::array::uniform9(conduct()), was_reset: bool) {
            let mut script = Script::new(conduct);
            let mut revocation = if was_reset { Revocation::after_reset() } else { Revocation::new() };
            let ending = script.run(&mut revocation);

            let wanted = |step: &Step| !(was_reset && step.is_done_by_reset());
            let bounded = |step: Step| step != Step::Zero;
            let is_own = |step: Step| matches!(step, Step::Mask | Step::Unmap);
            let mut expected = Vec::new();
            let mut expected_ending = Some(Ending::Reclaimed);
            for step in Step::ORDER.into_iter().filter(wanted) {
                let conduct = conduct[step as usize];
                let has_failed = expected_ending != Some(Ending::Reclaimed);
                if has_failed && !(is_own(step) && is_in_time(conduct)) {
                    continue;
                }
                if is_in_time(conduct) || (!bounded(step) && matches!(conduct, Conduct::DoneAfter(_))) {
                    expected.push(step);
                } else if step == Step::Drain {
                    // Stopped all the same.
                } else if !bounded(step) && conduct == Conduct::Never {
                    expected_ending = None;
                } else {
                    expected_ending = Some(Ending::Quarantined(step));
                }
            }
            prop_assert_eq!(script.log, expected);
            prop_assert_eq!(ending, expected_ending);
        }
    }
}
