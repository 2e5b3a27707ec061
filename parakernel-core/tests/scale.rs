//! As many queue pairs as NVMe's protocol has: claimed, and all taken back at once.
#![expect(
    clippy::unwrap_used,
    reason = "the helpers of a test may panic as the test itself"
)]

use core::{task::Poll, time::Duration};

use parakernel_core::{
    access::{AccessMode, Isolation, Policy},
    address::{CoreId, Direction, Iova, NodeId},
    control::{
        ClaimWish, ControlPlane, ControlStorage, Cut, Event, Frames, LeaseSpec, Memory, NoRoom,
        Outcome, Platform, ProcessSpec, Purpose, Quota, Regions, Request, Tag, Wake, Wiring, Woken,
    },
    device::{DeviceId, Limits, Operation, QueueDevice, QueueKind, Vector, Waits},
    error::ErrorKind,
    handle::{ProcessId, RegionId, Slot},
    memory::RegionError,
    queue::Lba,
    ring::RingSize,
    steering::{Change, Matches, RuleBucket, Steering},
    time::Instant,
    volume::{Identity, Volume},
};

const DISK: DeviceId = DeviceId::new(0);
const RING: RingSize = RingSize::new(64).unwrap();
const PAIRS: u32 = 65_535;
const VECTORS: u32 = 2047;
const WAIT: Duration = Duration::from_millis(500);

/// A disk, and a machine, that do everything at once; every call is counted.
#[derive(Default)]
struct Machine {
    disk: Disk,
    calls: u64,
}

#[derive(Default)]
struct Disk {
    calls: u64,
}

impl QueueDevice for Disk {
    type Error = ErrorKind;

    fn limits(&self) -> Limits {
        Limits {
            kind: QueueKind::Block,
            queues: PAIRS,
            vectors: VECTORS,
            min_ring: RING,
            max_ring: RING,
            doorbell_stride: 8,
            first_isolation: Isolation::empty(),
            second_isolation: Isolation::empty(),
            rules: 0,
            node: NodeId::new(0),
            waits: Waits {
                claim: WAIT,
                drain: WAIT,
                stop: WAIT,
                steer: WAIT,
                reset: WAIT,
            },
        }
    }

    fn begin(&mut self, _operation: Operation, _now: Instant) -> Result<(), ErrorKind> {
        self.calls += 1;
        Ok(())
    }

    fn poll(&mut self, _operation: Operation, _now: Instant) -> Poll<Result<(), ErrorKind>> {
        self.calls += 1;
        Poll::Ready(Ok(()))
    }
}

impl Steering for Disk {
    type Error = ErrorKind;

    fn can_express(&self, _matches: &Matches) -> bool {
        false
    }

    fn begin_change(&mut self, _change: Change, _now: Instant) -> Result<(), ErrorKind> {
        Err(ErrorKind::Unsupported)
    }

    fn poll_change(&mut self, _change: Change, _now: Instant) -> Poll<Result<(), ErrorKind>> {
        Poll::Ready(Err(ErrorKind::Unsupported))
    }
}

impl Frames for Machine {
    fn allocate(&mut self, _purpose: Purpose) -> Option<Memory> {
        self.calls += 1;
        Some(Memory { id: 0, pages: 4 })
    }

    fn zero(&mut self, _memory: Memory) -> Poll<()> {
        self.calls += 1;
        Poll::Ready(())
    }

    fn free(&mut self, _memory: Memory) {
        self.calls += 1;
    }
}

impl Regions for Machine {
    fn register(
        &mut self,
        _: ProcessId,
        _: Memory,
        _: Direction,
    ) -> Result<(RegionId, Iova), RegionError> {
        Err(RegionError::Full)
    }

    fn begin_unregister(&mut self, _process: ProcessId, _region: RegionId) {}

    fn poll_unregister(&mut self, _process: ProcessId, _region: RegionId) -> Poll<()> {
        Poll::Ready(())
    }
}

impl Wiring for Machine {
    fn connect(&mut self, _spec: &LeaseSpec, _memory: Memory) -> Result<Woken, NoRoom> {
        self.calls += 1;
        Ok(Woken::AsPlanned)
    }

    fn cut(&mut self, _spec: &LeaseSpec, _cut: Cut) {
        self.calls += 1;
    }

    fn poll_cut(&mut self, _spec: &LeaseSpec, _cut: Cut) -> Poll<()> {
        self.calls += 1;
        Poll::Ready(())
    }
}

impl Platform for Machine {
    type Device = Disk;

    fn device(&mut self, device: DeviceId) -> Option<&mut Disk> {
        (device == DISK).then_some(&mut self.disk)
    }
}

fn leak<T>(count: u32, make: impl FnMut() -> T) -> &'static mut [T] {
    Vec::leak(core::iter::repeat_with(make).take(count as usize).collect())
}

fn control() -> ControlPlane<'static, Machine> {
    let storage = ControlStorage {
        processes: leak(1, || Slot::EMPTY),
        leases: leak(PAIRS, || Slot::EMPTY),
        memories: leak(1, || Slot::EMPTY),
        rules: leak(1, || Slot::EMPTY),
        rule_buckets: leak(1, || RuleBucket::EMPTY),
        grants: leak(1, || Slot::EMPTY),
        volumes: leak(1, || Slot::EMPTY),
        devices: leak(1, || None),
        links: leak(PAIRS + VECTORS, || 0),
        jobs: leak(PAIRS + 4, || None),
        events: leak(2, || None),
    };
    ControlPlane::new(Machine::default(), Policy::all(), storage).unwrap()
}

fn calls(control: &ControlPlane<'_, Machine>) -> u64 {
    control.platform().calls + control.platform().disk.calls
}

/// A process that may have everything, and its volume.
fn start(control: &mut ControlPlane<'_, Machine>) -> (ProcessId, Request) {
    let volume = Volume {
        device: DISK,
        namespace: 1,
        start: Lba::new(0),
        blocks: 1,
        owner: Identity(1),
    };
    let volume = Some(control.add_volume(volume).unwrap());
    let process = control.start_process(&ProcessSpec {
        identity: Identity(1),
        core: CoreId::new(1),
        node: NodeId::new(0),
        quota: Quota {
            pages: u64::MAX,
            leases: u32::MAX,
            vectors: u32::MAX,
            requests: 1,
            ..Quota::NONE
        },
        grants: &[],
    });
    let claim = Request::Claim(ClaimWish {
        device: DISK,
        at_least: AccessMode::Direct,
        first_ring: RING,
        second_ring: RING,
        wake: Wake::Interrupt,
        volume,
    });
    (process.unwrap(), claim)
}

#[test]
fn all_queue_pairs_of_the_protocol_are_lent_and_taken_back() {
    let (mut control, now) = (control(), Instant::default());
    let (process, claim) = start(&mut control);
    let (mut own, mut per_claim) = (0, None);
    for _ in 0..PAIRS {
        let before = calls(&control);
        control.submit(process, Tag(0), claim, now).unwrap();
        let Some(Event::Deliver {
            outcome: Outcome::Claimed { vector, .. },
            ..
        }) = control.poll(now)
        else {
            unreachable!("a claim fails")
        };
        own += u32::from(matches!(vector, Vector::Own(_)));
        // The last claim costs what the first one did.
        let cost = calls(&control) - before;
        assert_eq!(*per_claim.get_or_insert(cost), cost);
    }
    assert_eq!(own, VECTORS - 1, "the last vector is shared");
    assert_eq!(control.free_of(DISK).map(|it| (it.0, it.1)), Some((0, 0)));

    let before = calls(&control);
    control.end_process(process);
    let mut polls = 0;
    while control.poll(now).is_none() {
        polls += 1;
    }
    assert_eq!((calls(&control) - before) % u64::from(PAIRS), 0);
    assert!(polls <= PAIRS, "each poll makes some progress");
    assert_eq!(
        control.free_of(DISK).map(|it| (it.0, it.1)),
        Some((PAIRS, VECTORS))
    );
    assert_eq!(control.counts(), [0; 4]);
}
