//! The NVMe driver against a controller that lies: registers, descriptions, completions.
//!
//! The driver may fail, with an error. It may not panic, wait longer than its own limits allow, or go on without end.

mod device;

use core::{cell::RefCell, task::Poll};

use embedded_hal::delay::DelayNs;
use parakernel_core::{
    memory::BlockArena,
    queue::{BlockOperation, BlockQueue as _, BlockRequest, Lba},
    ring::RingSize,
    time::Instant,
};
use parakernel_nvme::{
    admin::{AdminMemory, AdminSlot},
    command::LogPage,
    controller::{Config, Controller, ControllerMemory, PairMemory, PairSlot, PairState, QueueId},
    doorbell::{RegisterDoorbell, ShadowMemory},
    queue::{CommandTable, DataPointer, Queue, Rings},
};

use super::any_answer;
use crate::{Report, Target, input::Input, memory::Pages};
use device::Device;

pub(super) const TARGET: Target = Target {
    name: "nvme_driver",
    run,
    is_validator: false,
    max_len: 384,
};

/// Entries of an I/O queue.
const N: usize = 8;
/// The longest that bring-up may take: the controller's own limits for becoming ready (CAP.TO has 8 bits, in units of
/// 500 ms) for both of its waits, and some admin commands.
const LONGEST: u64 = 600_000_000_000;

/// A clock that runs only while somebody waits.
#[derive(Debug, Default)]
struct Clock(u64);

impl DelayNs for Clock {
    fn delay_ns(&mut self, ns: u32) {
        self.0 += u64::from(ns);
        assert!(self.0 < LONGEST, "a wait without a bound");
    }
}

/// All memory that the driver lends to the controller.
struct Memory {
    admin_submission: Pages,
    admin_completion: Pages,
    data: Pages,
    shadow_values: Pages,
    shadow_events: Pages,
    submission: Pages,
    completion: Pages,
    buffers: Pages,
}

impl Memory {
    fn new() -> Self {
        let page = |number: u64| Pages::new(1, 0x4000_0000 + number * 0x1_0000);
        Self {
            admin_submission: page(0),
            admin_completion: page(1),
            data: page(2),
            shadow_values: page(3),
            shadow_events: page(4),
            submission: page(5),
            completion: page(6),
            buffers: Pages::new(N * 4096, 0x5000_0000),
        }
    }
}

fn run(bytes: &[u8]) -> Report {
    let memory = Memory::new();
    let input = RefCell::new(Input::new(bytes));
    let device = Device::new(&memory, &input);
    let mut slots = [AdminSlot::EMPTY; 6];
    let mut pairs = [const { PairSlot::EMPTY }; 2];
    let mut namespaces = [None; 3];
    let admin = AdminMemory {
        submission: memory.admin_submission.block(),
        completion: memory.admin_completion.block(),
        data: memory.data.block(),
        slots: &mut slots,
    };
    let lent = ControllerMemory {
        admin,
        pairs: &mut pairs,
        namespaces: &mut namespaces,
        shadow: Some(ShadowMemory {
            values: memory.shadow_values.block(),
            events: memory.shadow_events.block(),
        }),
    };
    let mut clock = Clock::default();
    let mut report = Report::default();
    let driver = Controller::bring_up(&device, lent, Config::default(), &mut clock);
    report.note("brought up", driver.is_ok());
    if let Ok(driver) = driver {
        let mut user = User {
            driver,
            memory: &memory,
            device: &device,
            input: &input,
            now: clock.0,
        };
        user.work(&mut report);
    }
    report
}

/// Whoever uses the controller.
struct User<'m> {
    driver: Controller<'m, &'m Device<'m>>,
    memory: &'m Memory,
    device: &'m Device<'m>,
    input: &'m RefCell<Input<'m>>,
    now: u64,
}

impl<'m> User<'m> {
    fn byte(&self) -> u8 {
        self.input.borrow_mut().byte()
    }

    fn now(&self) -> Instant {
        Instant::from_nanos(self.now)
    }

    /// Polls until something is ready: each operation has a deadline of its own, so it comes.
    fn wait<T>(
        &mut self,
        mut poll: impl FnMut(&mut Controller<'m, &'m Device<'m>>, Instant) -> Poll<T>,
    ) -> T {
        for _ in 0..20_000 {
            let now = self.now();
            if let Poll::Ready(value) = poll(&mut self.driver, now) {
                return value;
            }
            self.now += 500_000_000;
        }
        panic!("an operation that does not end");
    }

    fn work(&mut self, report: &mut Report) {
        let size = RingSize::new(8).expect("a power of two");
        let queue = QueueId::new(1).expect("not the admin queue");
        let lent = PairMemory {
            submission: self.memory.submission.block(),
            completion: self.memory.completion.block(),
            size,
            vector: None,
        };
        let now = self.now();
        if self.driver.begin_create(queue, lent, now).is_ok() {
            let state = self.wait(|driver, now| driver.poll_pair(queue, now));
            report.note("queue pair", state == PairState::Live);
            if state == PairState::Live {
                self.transfer(queue, report);
                self.administrate(queue);
            }
        }
        for _ in 0..self.byte() & 3 {
            self.administrate(queue);
        }
        let now = self.now();
        self.driver.begin_shutdown(now);
        // Whatever comes of it, something does.
        any_answer(self.wait(Controller::poll_shutdown));
        self.driver.silence();
    }

    /// One of the things that a kernel does with a controller in service.
    fn administrate(&mut self, queue: QueueId) {
        let now = self.now();
        match self.byte() % 7 {
            0 if self.driver.begin_scan(now).is_ok() => {
                any_answer(self.wait(Controller::poll_scan));
            }
            1 => {
                self.driver.begin_reset(now);
                let reset = self.wait(Controller::poll_reset);
                if reset.is_ok() && self.driver.begin_revive(queue, now).is_ok() {
                    self.wait(|driver, now| driver.poll_pair(queue, now));
                }
            }
            2 if self
                .driver
                .begin_abort(queue, u16::from(self.byte()), now)
                .is_ok() =>
            {
                any_answer(self.wait(Controller::poll_abort));
            }
            3 if self.driver.begin_delete(queue, now).is_ok() => {
                let state = self.wait(|driver, now| driver.poll_pair(queue, now));
                let is_free = matches!(state, PairState::Gone(_) | PairState::Lost);
                assert_eq!(self.driver.take_back(queue).is_ok(), is_free);
            }
            4 => self.read_log(),
            5 => any_answer(self.driver.check()),
            _ => any_answer(self.driver.poll_event(now)),
        }
    }

    fn read_log(&mut self) {
        let page = [LogPage::Errors, LogPage::Health, LogPage::ChangedNamespaces];
        let page = page[usize::from(self.byte()) % page.len()];
        let now = self.now();
        if self.driver.begin_log(page, now).is_ok() {
            self.wait(|driver, now| {
                driver.poll_log(now).map(|log| {
                    log.is_ok_and(|log| {
                        log.errors().count() + log.changed_namespaces().count() <= 4096
                            && log.health().is_some()
                    })
                })
            });
        }
    }

    /// Reads and writes through the data half, whose completions the controller writes as it likes.
    fn transfer(&mut self, queue: QueueId, report: &mut Report) {
        let Some(pair) = self.driver.pair(queue) else {
            return;
        };
        let Some(config) = self.driver.queue_config(queue, 1, DataPointer::TwoPages) else {
            return;
        };
        let rings = Rings::new(
            self.memory.submission.shared(),
            self.memory.completion.shared(),
        );
        let mut table = CommandTable::<N>::new();
        let mut arena = self.memory.buffers.block_arena(4096);
        let doorbells = [
            pair.tail_doorbell(self.device),
            pair.head_doorbell(self.device),
        ];
        let rings = rings.expect("room");
        let Some(mut data) = Queue::new(config, rings, &mut table, &arena, doorbells) else {
            return;
        };
        for _ in 0..12 {
            self.submit(&mut data, &mut arena);
            self.device.complete(self.memory);
            let mut ended = 0;
            let result = data.poll(64, |_| ended += 1);
            let is_good = result.is_ok_and(|count| count == ended);
            assert!(ended < N, "more completions than commands");
            report.note("poll", is_good);
            assert!(data.in_flight().count() + data.room() == N - 1 || !is_good);
            if !is_good || self.input.borrow().is_empty() {
                break;
            }
        }
    }

    fn submit(
        &self,
        data: &mut Queue<'_, RegisterDoorbell<'m, &'m Device<'m>>, N>,
        arena: &mut BlockArena<'_>,
    ) {
        let operation = [
            BlockOperation::Read,
            BlockOperation::Write,
            BlockOperation::Flush,
            BlockOperation::WriteZeroes,
        ][usize::from(self.byte()) % 4];
        let has_data = matches!(operation, BlockOperation::Read | BlockOperation::Write);
        let request = BlockRequest {
            operation,
            lba: Lba::new(self.byte().into()),
            blocks: 1 + u32::from(self.byte() & 7),
            buffer: if has_data { arena.take() } else { None },
            user: 7,
        };
        // A namespace that is described wrongly makes requests wrong too.
        any_answer(data.submit([request]));
    }
}
