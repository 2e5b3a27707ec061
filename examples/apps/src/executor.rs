//! A small `async` executor: a fixed set of tasks, no allocation, one system call per turn.
//!
//! A *turn* polls every task that was woken, then publishes what they gave to their queues. Under load turn follows
//! turn. After some turns in which no task [noted work](Agenda::note_work) the core sleeps until a queue has news or a
//! task's time has come; then all tasks look.
//!
//! A task that looks at a queue wakes itself after each look, as the futures of [`parakernel_core::queue`] do: that is
//! how it asks for the next turn, and it says nothing of work found.
#![expect(
    unsafe_code,
    reason = "makes wakers, and pins the elements of an array"
)]

use core::{
    cell::Cell,
    future::poll_fn,
    pin::Pin,
    sync::atomic::{
        AtomicU8,
        Ordering::{AcqRel, Acquire, Relaxed, Release},
    },
    task::{Context, Poll, RawWaker, RawWakerVTable, Waker},
};

use parakernel_core::time::Instant;

use crate::runtime::Runtime;

/// Turns without work before the core sleeps.
const PATIENCE: u32 = 64;

/// A task of an executor.
pub type Task<'t> = Pin<&'t mut (dyn Future<Output = ()> + 't)>;

/// Whether one task is to be polled. Lives as long as the program, so that a waker may outlive its task.
#[derive(Debug)]
pub struct Flag(AtomicU8);

const ASLEEP: u8 = 0;
const WOKEN: u8 = 1;
const DONE: u8 = 2;

impl Flag {
    /// A flag for a task to come.
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicU8::new(WOKEN))
    }

    fn wake(&self) {
        // A task that is done stays done; one that is woken already needs nothing more.
        let _ = self.0.compare_exchange(ASLEEP, WOKEN, AcqRel, Relaxed);
    }

    /// Whether the task is to be polled; it is not any longer afterwards.
    fn take(&self) -> bool {
        self.0
            .compare_exchange(WOKEN, ASLEEP, AcqRel, Relaxed)
            .is_ok()
    }

    fn waker(&'static self) -> Waker {
        let data = core::ptr::from_ref(self).cast();
        // SAFETY: the table's functions take what `raw` makes: a pointer to a flag that lives for `'static` and is
        // reached through atomics only, so from any thread.
        unsafe { Waker::new(data, &TABLE) }
    }
}

impl Default for Flag {
    fn default() -> Self {
        Self::new()
    }
}

static TABLE: RawWakerVTable = RawWakerVTable::new(clone, wake, wake, forget);

/// Clones the waker: the flag needs no count.
///
/// # Safety
///
/// `flag` must come from [`Flag::waker`].
unsafe fn clone(flag: *const ()) -> RawWaker {
    RawWaker::new(flag, &TABLE)
}

/// Wakes the task of the flag.
///
/// # Safety
///
/// `flag` must come from [`Flag::waker`].
unsafe fn wake(flag: *const ()) {
    // SAFETY: points to a flag that lives for `'static` (contract).
    let flag = unsafe { &*flag.cast::<Flag>() };
    flag.wake();
}

/// Drops the waker: nothing to do.
///
/// # Safety
///
/// None needed; the signature is the table's.
unsafe fn forget(_flag: *const ()) {}

/// What the tasks of one executor tell it, and what it tells them.
#[derive(Debug, Default)]
pub struct Agenda {
    now: Cell<Instant>,
    worked: Cell<bool>,
    stopped: Cell<bool>,
    next: Cell<Option<Instant>>,
}

impl Agenda {
    /// An empty agenda.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// When this turn began.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.now.get()
    }

    /// Says that a task found work in this turn, so that it is worth looking again soon.
    pub fn note_work(&self) {
        self.worked.set(true);
    }

    /// Has all tasks look at `time` at the latest.
    pub fn wake_at(&self, time: Instant) {
        let earlier = self.next.get().is_some_and(|next| next <= time);
        if !earlier {
            self.next.set(Some(time));
        }
    }

    /// Ends the executor's work after this turn, whose submissions are still published.
    pub fn stop(&self) {
        self.stopped.set(true);
    }

    /// Waits until `time`.
    pub async fn sleep_until(&self, time: Instant) {
        poll_fn(|_| {
            if self.now() >= time {
                return Poll::Ready(());
            }
            self.wake_at(time);
            Poll::Pending
        })
        .await;
    }

    /// Whether a time that a task waits for has come; the agenda forgets it then.
    fn is_due(&self) -> bool {
        let due = self.next.get().is_some_and(|next| next <= self.now());
        if due {
            self.next.set(None);
        }
        due
    }
}

/// Waits for the next turn.
pub async fn next_turn() {
    let mut looked = false;
    poll_fn(|context| {
        if looked {
            return Poll::Ready(());
        }
        looked = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// The elements of a pinned array of tasks of one kind, as tasks.
#[must_use]
pub fn each<F: Future<Output = ()>, const N: usize>(tasks: Pin<&mut [F; N]>) -> [Task<'_>; N] {
    // SAFETY: the array is not moved out of; its elements are pinned again at once.
    let tasks = unsafe { tasks.get_unchecked_mut() };
    tasks.each_mut().map(|task| {
        // SAFETY: an element of a pinned array, which moves as little as the array does.
        let task: Task<'_> = unsafe { Pin::new_unchecked(task) };
        task
    })
}

/// Runs tasks, in the order of `groups`, until all are done or one [stops](Agenda::stop) the others.
///
/// `flags` belongs to this run alone while it lasts. `each_turn` runs after the tasks and before the turn is published.
///
/// # Panics
///
/// If there are fewer flags than tasks.
pub fn run<R: Runtime>(
    runtime: &mut R,
    agenda: &Agenda,
    flags: &'static [Flag],
    groups: &mut [&mut [Task<'_>]],
    mut each_turn: impl FnMut(&mut R),
) {
    let count = groups.iter().map(|group| group.len()).sum();
    assert!(flags.len() >= count, "fewer flags than tasks");
    let flags = flags.get(..count).unwrap_or_default();
    for flag in flags {
        flag.0.store(WOKEN, Release);
    }
    let mut idle = 0;
    loop {
        agenda.now.set(runtime.now());
        if agenda.is_due() {
            flags.iter().for_each(Flag::wake);
        }
        let running = turn(flags, groups);
        each_turn(runtime);
        runtime.end_of_turn();
        if !running || agenda.stopped.get() {
            return;
        }
        idle = if agenda.worked.take() { 0 } else { idle + 1 };
        if idle > PATIENCE {
            idle = 0;
            runtime.wait(agenda.next.take());
            flags.iter().for_each(Flag::wake);
        }
    }
}

/// Polls every task that was woken, and returns whether any is left.
fn turn(flags: &'static [Flag], groups: &mut [&mut [Task<'_>]]) -> bool {
    let tasks = groups.iter_mut().flat_map(|group| group.iter_mut());
    let mut running = false;
    for (flag, task) in flags.iter().zip(tasks) {
        if flag.take() {
            let poll = task.as_mut().poll(&mut Context::from_waker(&flag.waker()));
            if poll.is_ready() {
                flag.0.store(DONE, Release);
            }
        }
        running |= flag.0.load(Acquire) != DONE;
    }
    running
}

#[cfg(test)]
mod tests {
    use core::{cell::RefCell, pin::pin, time::Duration};

    use super::*;

    /// A kernel whose clock moves by one nanosecond per turn, or to the deadline of a wait.
    #[derive(Default)]
    struct Clock {
        now: u64,
        turns: u64,
        waits: Vec<Option<Instant>>,
    }

    impl Runtime for Clock {
        fn now(&mut self) -> Instant {
            Instant::from_nanos(self.now)
        }

        fn end_of_turn(&mut self) {
            self.turns += 1;
            self.now += 1;
        }

        fn wait(&mut self, deadline: Option<Instant>) {
            self.waits.push(deadline);
            self.now = self.now.max(deadline.map_or(0, Instant::as_nanos));
        }
    }

    fn flags(count: usize) -> &'static [Flag] {
        let flags: Vec<_> = (0..count).map(|_| Flag::new()).collect();
        flags.leak()
    }

    #[test]
    fn tasks_run_in_order_and_to_their_ends() {
        let (agenda, log) = (Agenda::new(), RefCell::new(Vec::new()));
        let task = |name| {
            let log = &log;
            async move {
                for step in 0..3 {
                    log.borrow_mut().push((step, name));
                    next_turn().await;
                }
            }
        };
        let mut tasks = pin!([task('a'), task('b')]);
        let mut clock = Clock::default();
        run(
            &mut clock,
            &agenda,
            flags(2),
            &mut [&mut each(tasks.as_mut())],
            |_| (),
        );
        let expected = (0..3).flat_map(|step| [(step, 'a'), (step, 'b')]);
        assert_eq!(*log.borrow(), expected.collect::<Vec<_>>());
        assert_eq!((clock.turns, clock.waits.len()), (4, 0));
    }

    #[test]
    fn a_wake_from_another_task_is_never_lost() {
        // Each passes the ball to the other by waking it, and sleeps without a deadline.
        const THROWS: u32 = 1000;
        let (agenda, ball) = (Agenda::new(), Cell::new(0));
        let wakers = [const { RefCell::new(None::<Waker>) }; 2];
        let player = |me: u32| {
            let (ball, wakers) = (&ball, &wakers);
            poll_fn(move |context| {
                *wakers[me as usize].borrow_mut() = Some(context.waker().clone());
                if ball.get() % 2 == me && ball.get() < THROWS {
                    ball.set(ball.get() + 1);
                    wakers[1 - me as usize]
                        .borrow()
                        .iter()
                        .for_each(Waker::wake_by_ref);
                }
                if ball.get() < THROWS {
                    Poll::Pending
                } else {
                    Poll::Ready(())
                }
            })
        };
        let mut tasks = pin!([player(0), player(1)]);
        let mut clock = Clock::default();
        run(
            &mut clock,
            &agenda,
            flags(2),
            &mut [&mut each(tasks.as_mut())],
            |_| (),
        );
        assert_eq!(ball.get(), THROWS);
        assert!(
            clock.turns <= u64::from(THROWS) + 2,
            "{} turns",
            clock.turns
        );
    }

    #[test]
    fn without_work_the_core_sleeps_until_the_next_time_that_a_task_waits_for() {
        let agenda = Agenda::new();
        let times = [300_000, 100_000, 200_000].map(Instant::from_nanos);
        let mut tasks = pin!(times.map(|time| agenda.sleep_until(time)));
        let mut clock = Clock::default();
        run(
            &mut clock,
            &agenda,
            flags(3),
            &mut [&mut each(tasks.as_mut())],
            |_| (),
        );
        let waits = [times[1], times[2], times[0]].map(Some);
        assert_eq!(clock.waits, waits);
        assert!(clock.turns <= 4 * (u64::from(PATIENCE) + 1));
    }

    #[test]
    fn a_time_comes_under_load_too() {
        let agenda = Agenda::new();
        let mut busy = pin!(async {
            loop {
                agenda.note_work();
                next_turn().await;
            }
        });
        let mut timer = pin!(async {
            agenda
                .sleep_until(agenda.now().saturating_add(Duration::from_nanos(500)))
                .await;
            agenda.stop();
        });
        let mut clock = Clock::default();
        let tasks: &mut [Task<'_>] = &mut [busy.as_mut(), timer.as_mut()];
        run(&mut clock, &agenda, flags(2), &mut [tasks], |_| ());
        assert_eq!((clock.now, clock.waits.len()), (501, 0));
    }

    #[test]
    fn looking_at_an_empty_queue_is_not_work() {
        let (agenda, looks) = (Agenda::new(), Cell::new(0));
        let mut looker = pin!(async {
            while looks.get() < 1000 {
                looks.set(looks.get() + 1);
                next_turn().await;
            }
        });
        let mut clock = Clock::default();
        run(
            &mut clock,
            &agenda,
            flags(1),
            &mut [&mut [looker.as_mut()]],
            |_| (),
        );
        assert_eq!(clock.waits.len() as u64, 1001 / (u64::from(PATIENCE) + 1));
    }

    #[test]
    #[should_panic(expected = "fewer flags than tasks")]
    fn too_few_flags_are_refused() {
        let mut task = pin!(async {});
        let tasks: &mut [Task<'_>] = &mut [task.as_mut()];
        run(
            &mut Clock::default(),
            &Agenda::new(),
            flags(0),
            &mut [tasks],
            |_| (),
        );
    }
}
