//! What the control plane asks of platform and device, call by call.
#![expect(
    clippy::unwrap_used,
    reason = "the helpers of a test may panic as the test itself"
)]

use core::{task::Poll, time::Duration};

use mockall::{Sequence, mock, predicate::eq};
use parakernel_core::{
    access::{AccessMode, Isolation, Policy},
    address::{CoreId, Direction, Iova, NodeId},
    control::{
        ClaimWish, ControlPlane, ControlStorage, Cut, Event, Failure, Frames, LeaseSpec, Memory,
        NoRoom, Outcome, Platform, ProcessSpec, Purpose, Quarantine, Quota, Refusal, Regions,
        Request, Tag, Wake, Wiring, Woken,
    },
    device::{
        DeviceId, Epoch, Limits, Operation, QueueDevice, QueueIndex, QueueKind, QueueSpec, Vector,
        Waits,
    },
    error::ErrorKind,
    handle::{LeaseId, ProcessId, RegionId, Slot},
    lease::{LeaseState, Step},
    memory::RegionError,
    ring::RingSize,
    steering::{Change, Matches, RuleBucket, Steering},
    time::Instant,
    volume::Identity,
};

mock! {
    Machine {}

    impl Frames for Machine {
        fn allocate(&mut self, purpose: Purpose) -> Option<Memory>;
        fn zero(&mut self, memory: Memory) -> Poll<()>;
        fn free(&mut self, memory: Memory);
    }

    impl Regions for Machine {
        fn register(
            &mut self,
            process: ProcessId,
            memory: Memory,
            direction: Direction,
        ) -> Result<(RegionId, Iova), RegionError>;
        fn begin_unregister(&mut self, process: ProcessId, region: RegionId);
        fn poll_unregister(&mut self, process: ProcessId, region: RegionId) -> Poll<()>;
    }

    impl Wiring for Machine {
        fn connect(&mut self, spec: &LeaseSpec, memory: Memory) -> Result<Woken, NoRoom>;
        fn cut(&mut self, spec: &LeaseSpec, cut: Cut);
        fn poll_cut(&mut self, spec: &LeaseSpec, cut: Cut) -> Poll<()>;
    }
}

mock! {
    Nic {}

    impl QueueDevice for Nic {
        type Error = ErrorKind;
        fn limits(&self) -> Limits;
        fn begin(&mut self, operation: Operation, now: Instant) -> Result<(), ErrorKind>;
        fn poll(&mut self, operation: Operation, now: Instant) -> Poll<Result<(), ErrorKind>>;
    }

    impl Steering for Nic {
        type Error = ErrorKind;
        fn can_express(&self, matches: &Matches) -> bool;
        fn begin_change(&mut self, change: Change, now: Instant) -> Result<(), ErrorKind>;
        fn poll_change(&mut self, change: Change, now: Instant) -> Poll<Result<(), ErrorKind>>;
    }
}

/// A machine with one NIC; any call that was not announced ends the test.
struct Mocked {
    machine: MockMachine,
    nic: MockNic,
}

impl Frames for Mocked {
    fn allocate(&mut self, purpose: Purpose) -> Option<Memory> {
        self.machine.allocate(purpose)
    }

    fn zero(&mut self, memory: Memory) -> Poll<()> {
        self.machine.zero(memory)
    }

    fn free(&mut self, memory: Memory) {
        self.machine.free(memory);
    }
}

impl Regions for Mocked {
    fn register(
        &mut self,
        process: ProcessId,
        memory: Memory,
        direction: Direction,
    ) -> Result<(RegionId, Iova), RegionError> {
        self.machine.register(process, memory, direction)
    }

    fn begin_unregister(&mut self, process: ProcessId, region: RegionId) {
        self.machine.begin_unregister(process, region);
    }

    fn poll_unregister(&mut self, process: ProcessId, region: RegionId) -> Poll<()> {
        self.machine.poll_unregister(process, region)
    }
}

impl Wiring for Mocked {
    fn connect(&mut self, spec: &LeaseSpec, memory: Memory) -> Result<Woken, NoRoom> {
        self.machine.connect(spec, memory)
    }

    fn cut(&mut self, spec: &LeaseSpec, cut: Cut) {
        self.machine.cut(spec, cut);
    }

    fn poll_cut(&mut self, spec: &LeaseSpec, cut: Cut) -> Poll<()> {
        self.machine.poll_cut(spec, cut)
    }
}

impl Platform for Mocked {
    type Device = MockNic;

    fn device(&mut self, device: DeviceId) -> Option<&mut MockNic> {
        (device == NIC).then_some(&mut self.nic)
    }
}

const NIC: DeviceId = DeviceId::new(0);
const QUEUE: QueueIndex = QueueIndex::new(0);
const LEASE: LeaseId = LeaseId::new(0, 0);
const RING: RingSize = RingSize::new(64).unwrap();
const RINGS: Memory = Memory { id: 5, pages: 3 };
const STOP_LIMIT: Duration = Duration::from_micros(100);
const CLAIM: Operation = Operation::Claim(QueueSpec {
    lease: LEASE,
    queue: QUEUE,
    first_ring: RING,
    second_ring: RING,
    first_mode: AccessMode::Checked,
    second_mode: AccessMode::Checked,
    vector: Vector::Own(0),
    volume: None,
});

impl Mocked {
    fn new() -> Self {
        let mut nic = MockNic::new();
        nic.expect_limits().return_const(Limits {
            kind: QueueKind::Network,
            queues: 1,
            vectors: 1,
            min_ring: RING,
            max_ring: RING,
            doorbell_stride: 4,
            first_isolation: Isolation::STEERS_EXACTLY,
            second_isolation: Isolation::empty(),
            rules: 0,
            node: NodeId::new(0),
            waits: Waits {
                claim: STOP_LIMIT,
                drain: STOP_LIMIT,
                stop: STOP_LIMIT,
                steer: STOP_LIMIT,
                reset: STOP_LIMIT,
            },
        });
        Self {
            machine: MockMachine::new(),
            nic,
        }
    }

    /// Announces that memory for rings is set aside.
    fn allocates(&mut self, order: &mut Sequence) {
        let is_lease =
            |purpose: &Purpose| matches!(purpose, Purpose::Lease(spec) if spec.device == NIC);
        let allocate = self.machine.expect_allocate().withf(is_lease);
        allocate.once().in_sequence(order).return_const(RINGS);
    }

    fn connects(&mut self, order: &mut Sequence, result: Result<Woken, NoRoom>) {
        let connect = self
            .machine
            .expect_connect()
            .withf(|spec, memory| spec.lease == LEASE && *memory == RINGS);
        connect.once().in_sequence(order).return_const(result);
    }

    /// Announces an operation that is ready when it is looked at for the second time.
    fn operates(&mut self, order: &mut Sequence, operation: Operation) {
        self.begins(order, operation);
        for result in [Poll::Pending, Poll::Ready(Ok(()))] {
            let poll = self.nic.expect_poll().withf(move |it, _| *it == operation);
            poll.once().in_sequence(order).return_const(result);
        }
    }

    fn begins(&mut self, order: &mut Sequence, operation: Operation) {
        let begin = self.nic.expect_begin().withf(move |it, _| *it == operation);
        begin.once().in_sequence(order).return_const(Ok(()));
    }

    fn looks(&mut self, order: &mut Sequence, cut: Cut, result: Poll<()>) {
        let poll = self
            .machine
            .expect_poll_cut()
            .withf(move |_, it| *it == cut);
        poll.once().in_sequence(order).return_const(result);
    }

    /// Announces a cut that is through when it is looked at for the second time.
    fn cuts(&mut self, order: &mut Sequence, cut: Cut) {
        let begin = self
            .machine
            .expect_cut()
            .withf(move |spec, it| spec.lease == LEASE && *it == cut);
        begin.once().in_sequence(order).return_const(());
        for result in [Poll::Pending, Poll::Ready(())] {
            self.looks(order, cut, result);
        }
    }

    fn frees(&mut self, order: &mut Sequence) {
        self.machine
            .expect_free()
            .with(eq(RINGS))
            .once()
            .in_sequence(order)
            .return_const(());
    }

    /// Announces a claim that succeeds.
    fn claims(&mut self, order: &mut Sequence) {
        self.allocates(order);
        self.connects(order, Ok(Woken::AsPlanned));
        self.operates(order, CLAIM);
    }
}

fn leak<T>(count: usize, make: impl FnMut() -> T) -> &'static mut [T] {
    Vec::leak(core::iter::repeat_with(make).take(count).collect())
}

/// A control plane with one process.
struct Bench {
    control: ControlPlane<'static, Mocked>,
    process: ProcessId,
    now: u64,
}

impl Bench {
    fn new(machine: Mocked) -> Self {
        let storage = ControlStorage {
            processes: leak(1, || Slot::EMPTY),
            leases: leak(1, || Slot::EMPTY),
            memories: leak(1, || Slot::EMPTY),
            rules: leak(1, || Slot::EMPTY),
            rule_buckets: leak(1, || RuleBucket::EMPTY),
            grants: leak(1, || Slot::EMPTY),
            volumes: leak(1, || Slot::EMPTY),
            devices: leak(1, || None),
            links: leak(2, || 0),
            jobs: leak(5, || None),
            events: leak(2, || None),
        };
        let mut control = ControlPlane::new(machine, Policy::INTEGRITY, storage).unwrap();
        let process = control.start_process(&ProcessSpec {
            identity: Identity(1),
            core: CoreId::new(1),
            node: NodeId::new(0),
            quota: Quota {
                pages: 3,
                regions: 1,
                leases: 1,
                vectors: 1,
                rules: 1,
                requests: 1,
            },
            grants: &[],
        });
        Self {
            control,
            process: process.unwrap(),
            now: 0,
        }
    }

    fn ask(&mut self, request: Request) -> Option<Outcome> {
        self.control
            .submit(self.process, Tag(1), request, Instant::from_nanos(self.now))
            .unwrap();
        self.settle()
    }

    fn claim(&mut self) -> Option<Outcome> {
        self.ask(Request::Claim(ClaimWish {
            device: NIC,
            at_least: AccessMode::Direct,
            first_ring: RING,
            second_ring: RING,
            wake: Wake::Interrupt,
            volume: None,
        }))
    }

    /// The next thing that is said.
    fn settle(&mut self) -> Option<Outcome> {
        for _ in 0..100 {
            self.now += 10_000;
            match self.control.poll(Instant::from_nanos(self.now)) {
                Some(Event::Deliver { outcome, .. }) => return Some(outcome),
                Some(
                    Event::Ended(_)
                    | Event::DeviceUp(..)
                    | Event::DeviceGone(_)
                    | Event::DeviceLoose(_),
                ) => return None,
                None => {}
            }
        }
        None
    }
}

#[test]
fn a_queue_is_taken_back_in_this_order() {
    let (mut machine, mut order) = (Mocked::new(), Sequence::new());
    machine.claims(&mut order);
    machine.cuts(&mut order, Cut::Fence);
    machine.operates(&mut order, Operation::Drain(QUEUE));
    machine.operates(&mut order, Operation::Stop(QUEUE));
    machine.operates(&mut order, Operation::Flush(QUEUE));
    machine.cuts(&mut order, Cut::Isolate);
    machine.cuts(&mut order, Cut::Mask);
    machine.cuts(&mut order, Cut::Unmap);
    for result in [Poll::Pending, Poll::Pending, Poll::Ready(())] {
        let zero = machine.machine.expect_zero().with(eq(RINGS));
        zero.once().in_sequence(&mut order).return_const(result);
    }
    machine.frees(&mut order);

    let mut bench = Bench::new(machine);
    assert!(matches!(
        bench.claim(),
        Some(Outcome::Claimed { lease: LEASE, .. })
    ));
    assert_eq!(
        bench.control.free_of(NIC).map(|it| (it.0, it.1)),
        Some((0, 0))
    );
    let revoked = bench.ask(Request::Release(LEASE));
    assert_eq!(revoked, Some(Outcome::Revoked { lease: LEASE }));
    assert_eq!(
        bench.control.free_of(NIC).map(|it| (it.0, it.1)),
        Some((1, 1))
    );
}

#[test]
fn a_queue_that_does_not_stop_keeps_its_pages() {
    let (mut machine, mut order) = (Mocked::new(), Sequence::new());
    machine.claims(&mut order);
    machine.cuts(&mut order, Cut::Fence);
    machine.operates(&mut order, Operation::Drain(QUEUE));
    machine
        .nic
        .expect_begin()
        .withf(|it, _| *it == Operation::Stop(QUEUE))
        .once()
        .return_const(Ok(()));
    machine
        .nic
        .expect_poll()
        .withf(|it, _| *it == Operation::Stop(QUEUE))
        .return_const(Poll::Pending);
    // The process is cut off, and the rings are left alone.
    machine.cuts(&mut order, Cut::Mask);
    machine.cuts(&mut order, Cut::Unmap);

    let mut bench = Bench::new(machine);
    bench.claim();
    let quarantined = bench.ask(Request::Release(LEASE));
    let step = Step::Stop;
    assert_eq!(
        quarantined,
        Some(Outcome::Quarantined { lease: LEASE, step })
    );
    bench.control.end_process(bench.process);
    assert_eq!(bench.settle(), None);
    // Neither isolated, nor zeroed, nor freed: the mock would have objected.
    assert_eq!(
        bench.control.lease(LEASE).unwrap().1,
        LeaseState::Quarantined(step)
    );
    assert_eq!(bench.control.counts(), [0, 1, 0, 0]);
    let kept = Quarantine {
        leases: 1,
        regions: 0,
        pages: RINGS.pages,
    };
    assert_eq!(bench.control.quarantined(), kept);
}

/// An honest process that does not know of the reset yet goes on with its rings: they are taken away from it at no time.
#[test]
fn a_reset_suspends_a_lease_and_cuts_nothing() {
    let (mut machine, mut order) = (Mocked::new(), Sequence::new());
    machine.claims(&mut order);
    machine.cuts(&mut order, Cut::Suspend);
    machine.operates(&mut order, Operation::Reset);
    machine.connects(&mut order, Ok(Woken::AsPlanned));
    machine.begins(&mut order, CLAIM);
    machine.looks(&mut order, Cut::Suspend, Poll::Pending);
    for result in [Poll::Pending, Poll::Ready(Ok(()))] {
        // Until the process's core has forgotten what stood in for its rings the device is not even asked.
        machine.looks(&mut order, Cut::Suspend, Poll::Ready(()));
        let poll = machine.nic.expect_poll().withf(|it, _| *it == CLAIM);
        poll.once().in_sequence(&mut order).return_const(result);
    }

    let mut bench = Bench::new(machine);
    bench.claim();
    let now = Instant::from_nanos(bench.now);
    bench.control.device_failed(NIC, Failure::NeedsReset, now);
    let epoch = Epoch::new(1);
    let (lease, lost) = (
        LEASE,
        Outcome::Lost {
            lease: LEASE,
            epoch,
        },
    );
    assert_eq!(bench.settle(), Some(lost));
    assert_eq!(bench.settle(), None, "the device is up");
    let acknowledge = Request::Acknowledge { lease, epoch };
    assert_eq!(bench.ask(acknowledge), Some(Outcome::Rearmed { lease }));
}

#[test]
fn a_lease_that_is_armed_again_survives_one_more_reset() {
    let (mut machine, mut order) = (Mocked::new(), Sequence::new());
    machine.claims(&mut order);
    for claimed in [false, true] {
        machine.cuts(&mut order, Cut::Suspend);
        machine.operates(&mut order, Operation::Reset);
        machine.connects(&mut order, Ok(Woken::AsPlanned));
        machine.begins(&mut order, CLAIM);
        if claimed {
            machine.looks(&mut order, Cut::Suspend, Poll::Ready(()));
            let poll = machine.nic.expect_poll().withf(|it, _| *it == CLAIM);
            let made = poll.once().in_sequence(&mut order);
            made.return_const(Poll::Ready(Ok(())));
        }
    }

    let mut bench = Bench::new(machine);
    bench.claim();
    let fail = |bench: &mut Bench| {
        let now = Instant::from_nanos(bench.now);
        bench.control.device_failed(NIC, Failure::NeedsReset, now);
    };
    let acknowledge = |epoch| Request::Acknowledge {
        lease: LEASE,
        epoch: Epoch::new(epoch),
    };
    fail(&mut bench);
    assert!(matches!(bench.settle(), Some(Outcome::Lost { .. })));
    assert_eq!(bench.settle(), None, "the device is up");
    let now = Instant::from_nanos(bench.now);
    let taken = bench
        .control
        .submit(bench.process, Tag(1), acknowledge(1), now);
    taken.unwrap();
    fail(&mut bench);
    let refused = Outcome::Refused(Refusal::DeviceDown);
    assert_eq!(bench.settle(), Some(refused));
    let (lease, epoch) = (LEASE, Epoch::new(2));
    assert_eq!(bench.settle(), Some(Outcome::Lost { lease, epoch }));
    assert_eq!(bench.settle(), None, "the device is up");
    let rearmed = Outcome::Rearmed { lease };
    assert_eq!(bench.ask(acknowledge(2)), Some(rearmed));
}

/// Where the lease does not come back, what the suspension has left is cut like any lease's.
#[test]
fn a_lease_that_is_lost_is_fenced_before_it_ends() {
    let (mut machine, mut order) = (Mocked::new(), Sequence::new());
    machine.claims(&mut order);
    machine.cuts(&mut order, Cut::Suspend);
    machine.operates(&mut order, Operation::Reset);
    for cut in [Cut::Fence, Cut::Isolate, Cut::Mask, Cut::Unmap] {
        machine.cuts(&mut order, cut);
    }
    machine
        .machine
        .expect_zero()
        .once()
        .return_const(Poll::Ready(()));
    machine.frees(&mut order);

    let mut bench = Bench::new(machine);
    bench.claim();
    let now = Instant::from_nanos(bench.now);
    bench.control.device_failed(NIC, Failure::NeedsReset, now);
    assert!(matches!(bench.settle(), Some(Outcome::Lost { .. })));
    assert_eq!(bench.settle(), None, "the device is up");
    let revoked = bench.ask(Request::Release(LEASE));
    assert_eq!(revoked, Some(Outcome::Revoked { lease: LEASE }));
}

#[test]
fn a_claim_is_told_that_its_vector_could_not_be_had() {
    let (mut machine, mut order) = (Mocked::new(), Sequence::new());
    machine.allocates(&mut order);
    machine.connects(&mut order, Ok(Woken::ByNothing));
    let Operation::Claim(spec) = CLAIM else {
        unreachable!("it is a claim")
    };
    let polled = QueueSpec {
        vector: Vector::None,
        ..spec
    };
    machine.operates(&mut order, Operation::Claim(polled));

    let mut bench = Bench::new(machine);
    let claimed = bench.claim();
    let vector = Vector::None;
    assert!(
        matches!(claimed, Some(Outcome::Claimed { vector: told, .. }) if told == vector),
        "{claimed:?}"
    );
    assert_eq!(bench.control.usage(bench.process).unwrap().vectors, 0);
    assert_eq!(
        bench.control.free_of(NIC).map(|it| (it.0, it.1)),
        Some((0, 1))
    );
}

#[test]
fn a_claim_that_cannot_be_mapped_leaves_nothing() {
    let (mut machine, mut order) = (Mocked::new(), Sequence::new());
    machine.allocates(&mut order);
    machine.connects(&mut order, Err(NoRoom));
    // Some of it may have been mapped. There is no queue to drain or stop.
    for cut in [Cut::Fence, Cut::Isolate, Cut::Mask, Cut::Unmap] {
        machine.cuts(&mut order, cut);
    }
    machine
        .machine
        .expect_zero()
        .once()
        .return_const(Poll::Ready(()));
    machine.frees(&mut order);

    let mut bench = Bench::new(machine);
    assert_eq!(bench.claim(), Some(Outcome::Refused(Refusal::Exhausted)));
    assert_eq!(bench.control.counts(), [1, 0, 0, 0]);
    let free = bench.control.free_of(NIC).map(|it| (it.0, it.1));
    assert_eq!(free, Some((1, 1)));
}

#[test]
fn a_queue_that_the_device_does_not_make_is_stopped_all_the_same() {
    let (mut machine, mut order) = (Mocked::new(), Sequence::new());
    machine.allocates(&mut order);
    machine.connects(&mut order, Ok(Woken::AsPlanned));
    machine
        .nic
        .expect_begin()
        .withf(|it, _| *it == CLAIM)
        .once()
        .return_const(Ok(()));
    let failed = Poll::Ready(Err(ErrorKind::Protocol));
    machine
        .nic
        .expect_poll()
        .withf(|it, _| *it == CLAIM)
        .once()
        .return_const(failed);
    machine.cuts(&mut order, Cut::Fence);
    machine.operates(&mut order, Operation::Drain(QUEUE));
    machine.operates(&mut order, Operation::Stop(QUEUE));
    machine.operates(&mut order, Operation::Flush(QUEUE));
    machine.cuts(&mut order, Cut::Isolate);
    machine.cuts(&mut order, Cut::Mask);
    machine.cuts(&mut order, Cut::Unmap);
    machine
        .machine
        .expect_zero()
        .once()
        .return_const(Poll::Ready(()));
    machine.frees(&mut order);

    let mut bench = Bench::new(machine);
    let refused = Outcome::Refused(Refusal::Device(ErrorKind::Protocol));
    assert_eq!(bench.claim(), Some(refused));
    assert_eq!(bench.control.counts(), [1, 0, 0, 0]);
}

#[test]
fn nothing_is_asked_of_anyone_where_the_quota_says_no() {
    let mut machine = Mocked::new();
    let big = Memory { id: 6, pages: 4 };
    machine.machine.expect_allocate().once().return_const(big);
    machine
        .machine
        .expect_free()
        .with(eq(big))
        .once()
        .return_const(());
    let mut bench = Bench::new(machine);
    assert_eq!(bench.claim(), Some(Outcome::Refused(Refusal::Quota)));
}
