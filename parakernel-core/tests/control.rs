//! The control plane on a machine that rejects it when it breaks a promise.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::panic_in_result_fn,
    clippy::wildcard_enum_match_arm,
    reason = "the helpers of a test, and the machine that rejects its control plane, may panic as the test itself"
)]

extern crate alloc;

use alloc::collections::{BTreeMap, BTreeSet};
use core::net::Ipv4Addr;

use parakernel_core::{
    access::{AccessMode, Policy},
    address::{CoreId, Direction, NodeId},
    control::{
        ClaimWish, ControlPlane, ControlStorage, Event, Failure, Job, MemoryWish, Outcome,
        PageSize, Placement, ProcessSpec, Quarantine, Quota, Refusal, Request, StartError,
        SubmitError, Tag, Wake,
    },
    device::{DeviceId, Epoch, Vector},
    handle::{LeaseId, MemoryId, ProcessId, RuleId, Slot, VolumeId},
    lease::{LeaseState, Step},
    queue::Lba,
    ring::RingSize,
    steering::{
        FlowRule, GrantError, IpPrefix, Ipv4Prefix, Mac, Matches, NameGrant, PortRange, RuleBucket,
        Vlan,
    },
    time::Instant,
    volume::{Identity, Volume},
};
use proptest::{prelude::*, sample::Index};

#[path = "control/machine.rs"]
mod machine;

use machine::{Conduct, Machine, Mood, PAGES, TURN_NS};

const NIC: DeviceId = DeviceId::new(0);
const DISK: DeviceId = DeviceId::new(1);
const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
const QUOTA: Quota = Quota {
    pages: 60,
    regions: 3,
    leases: 3,
    vectors: 2,
    rules: 3,
    requests: 4,
};

/// Everything that a test needs, and what it saw.
struct Bench {
    control: ControlPlane<'static, Machine>,
    now: u64,
    next_tag: u64,
    /// Requests without an outcome.
    open: BTreeMap<u64, ProcessId>,
    ended: BTreeSet<ProcessId>,
    rules: BTreeMap<RuleId, LeaseId>,
    /// Where the frames of rules that were asked for are to go.
    asked_for: BTreeMap<u64, LeaseId>,
    events: Vec<Event>,
    volume: VolumeId,
}

fn leak<T>(count: usize, make: impl FnMut() -> T) -> &'static mut [T] {
    Vec::leak(core::iter::repeat_with(make).take(count).collect())
}

fn storage() -> ControlStorage<'static> {
    ControlStorage {
        processes: leak(3, || Slot::EMPTY),
        leases: leak(8, || Slot::EMPTY),
        memories: leak(6, || Slot::EMPTY),
        rules: leak(8, || Slot::EMPTY),
        rule_buckets: leak(8, || RuleBucket::EMPTY),
        grants: leak(6, || Slot::EMPTY),
        volumes: leak(2, || Slot::EMPTY),
        devices: leak(2, || None),
        links: leak(8, || 0),
        jobs: leak(27, || None::<Job>),
        events: leak(8, || None),
    }
}

fn host(last: u8) -> IpPrefix {
    IpPrefix::V4(Ipv4Prefix::host(Ipv4Addr::new(10, 0, 0, last)))
}

fn names(number: u8) -> NameGrant {
    NameGrant {
        mac: MAC,
        vlan: None,
        ipv4: Some(Ipv4Prefix::host(Ipv4Addr::new(10, 0, 0, number))),
        ipv6: None,
        ports: PortRange::ALL,
    }
}

fn claim(device: DeviceId, at_least: AccessMode, volume: Option<VolumeId>) -> Request {
    let ring = RingSize::new(64).unwrap();
    Request::Claim(ClaimWish {
        device,
        at_least,
        first_ring: ring,
        second_ring: ring,
        wake: Wake::Interrupt,
        volume,
    })
}

const fn memory(pages: u64) -> Request {
    Request::RegisterMemory(MemoryWish {
        pages,
        page_size: PageSize::Base,
        direction: Direction::Bidirectional,
        node: None,
    })
}

impl Bench {
    fn new(seed: u64) -> Self {
        let policy = Policy::all();
        let mut control = ControlPlane::new(Machine::new(seed), policy, storage()).unwrap();
        let volume = Volume {
            device: DISK,
            namespace: 1,
            start: Lba::new(0),
            blocks: 1000,
            owner: Identity(1),
        };
        let volume = control.add_volume(volume).unwrap();
        Self {
            control,
            now: 0,
            next_tag: 0,
            open: BTreeMap::new(),
            ended: BTreeSet::new(),
            rules: BTreeMap::new(),
            asked_for: BTreeMap::new(),
            events: Vec::new(),
            volume,
        }
    }

    fn start(&mut self, number: u8) -> Result<ProcessId, StartError> {
        self.control.start_process(&ProcessSpec {
            // Processes 1 and 2 run for the owner of the volume.
            identity: Identity(if number < 3 { 1 } else { 3 }),
            core: CoreId::new(u32::from(number)),
            node: NodeId::new(0),
            quota: QUOTA,
            grants: &[(NIC, names(number))],
        })
    }

    fn submit(&mut self, process: ProcessId, request: Request) -> Result<u64, SubmitError> {
        let tag = self.next_tag;
        self.next_tag += 1;
        self.control
            .submit(process, Tag(tag), request, Instant::from_nanos(self.now))?;
        self.open.insert(tag, process);
        if let Request::AddRule(rule) = request {
            self.asked_for.insert(tag, rule.to);
        }
        Ok(tag)
    }

    /// One look at everything; checks what is said, and the machine.
    fn turn(&mut self) {
        self.now += TURN_NS;
        let now = Instant::from_nanos(self.now);
        self.control.platform_mut().turn(now);
        while let Some(event) = self.control.poll(now) {
            self.note(event);
            self.control.platform_mut().turn(now);
            let rules = &self.rules;
            self.control
                .platform()
                .assert_steered(|rule| rules.get(&rule).copied());
        }
    }

    fn note(&mut self, event: Event) {
        self.events.push(event);
        match event {
            Event::Deliver {
                process,
                tag,
                outcome,
            } => {
                assert!(!self.ended.contains(&process), "{event:?} after the end");
                if let Some(Tag(tag)) = tag {
                    assert_eq!(
                        self.open.remove(&tag),
                        Some(process),
                        "{event:?} was not asked for"
                    );
                }
                match outcome {
                    Outcome::Revoked { lease } => self.control.platform().assert_ended(lease),
                    Outcome::RuleAdded { rule, .. } => {
                        let to = tag.and_then(|Tag(tag)| self.asked_for.remove(&tag));
                        let old = self
                            .rules
                            .insert(rule, to.expect("a rule that was asked for"));
                        assert_eq!(old, None, "{rule} is named twice");
                    }
                    _ => {}
                }
            }
            Event::Ended(process) => {
                assert!(self.ended.insert(process), "{process} ended twice");
                self.open.retain(|_, owner| *owner != process);
            }
            Event::DeviceUp(..) | Event::DeviceGone(_) | Event::DeviceLoose(_) => {}
        }
    }

    /// Goes on until nothing is under way, and returns what happened.
    fn settle(&mut self) -> Vec<Event> {
        self.events.clear();
        for _ in 0..2000 {
            self.turn();
            if self.control.is_idle() {
                return core::mem::take(&mut self.events);
            }
        }
        panic!(
            "the control plane does not come to rest: {:?}",
            self.control.leases().collect::<Vec<_>>()
        );
    }

    /// A request and its outcome.
    fn ask(&mut self, process: ProcessId, request: Request) -> Outcome {
        let tag = self.submit(process, request).unwrap();
        let answer = self.settle().into_iter().find_map(|event| match event {
            Event::Deliver {
                tag: Some(Tag(of)),
                outcome,
                ..
            } if of == tag => Some(outcome),
            _ => None,
        });
        answer.expect("an outcome")
    }

    fn lease(&mut self, process: ProcessId, request: Request) -> LeaseId {
        match self.ask(process, request) {
            Outcome::Claimed { lease, .. } => lease,
            other => panic!("{other:?}"),
        }
    }

    fn nic_queue(&mut self, process: ProcessId) -> LeaseId {
        self.lease(process, claim(NIC, AccessMode::Direct, None))
    }

    fn region(&mut self, process: ProcessId, pages: u64) -> MemoryId {
        match self.ask(process, memory(pages)) {
            Outcome::Registered { memory, .. } => memory,
            other => panic!("{other:?}"),
        }
    }

    fn assert_as_new(&mut self) {
        self.control.platform().assert_as_new();
        assert_eq!(self.control.counts(), [0; 4]);
        let free = |device| {
            self.control
                .free_of(device)
                .map(|(queues, vectors, _)| (queues, vectors))
        };
        assert_eq!((free(NIC), free(DISK)), (Some((2, 2)), Some((3, 1))));
    }
}

#[test]
fn a_process_gets_what_it_asks_for_and_leaves_nothing() {
    let mut bench = Bench::new(1);
    let process = bench.start(1).unwrap();
    bench.region(process, 20);
    let claimed = bench.ask(process, claim(NIC, AccessMode::Direct, None));
    let Outcome::Claimed {
        lease,
        first_mode,
        second_mode,
        vector,
    } = claimed
    else {
        panic!("{claimed:?}")
    };
    assert_eq!(
        (first_mode, second_mode),
        (AccessMode::Checked, AccessMode::Checked)
    );
    assert!(matches!(vector, Vector::Own(_)));
    let volume = bench.volume;
    bench.lease(process, claim(DISK, AccessMode::Direct, Some(volume)));
    let rule = FlowRule {
        matches: Matches::to(MAC, host(1)),
        to: lease,
    };
    let added = bench.ask(process, Request::AddRule(rule));
    assert!(
        matches!(
            added,
            Outcome::RuleAdded {
                placement: Placement::Hardware,
                ..
            }
        ),
        "{added:?}"
    );
    assert_eq!(bench.control.usage(process).unwrap().leases, 2);
    assert_eq!(bench.control.leases().count(), 2);
    bench.control.end_process(process);
    assert_eq!(bench.settle(), [Event::Ended(process)]);
    bench.assert_as_new();
    assert_eq!(
        bench.submit(process, memory(1)),
        Err(SubmitError::NoSuchProcess)
    );
}

#[test]
fn queues_are_lent_until_none_is_left_and_then_multiplexed() {
    let mut bench = Bench::new(2);
    let (first, second) = (bench.start(1).unwrap(), bench.start(2).unwrap());
    let lease = bench.nic_queue(first);
    bench.nic_queue(second);
    let late = bench.ask(second, claim(NIC, AccessMode::Direct, None));
    let Outcome::Claimed {
        first_mode,
        second_mode,
        vector,
        ..
    } = late
    else {
        panic!("{late:?}")
    };
    assert_eq!(
        (first_mode, second_mode),
        (AccessMode::Virtual, AccessMode::Virtual)
    );
    assert_eq!(vector, Vector::None);
    assert_eq!(
        bench.ask(first, Request::Release(lease)),
        Outcome::Revoked { lease }
    );
    let again = bench.ask(second, claim(NIC, AccessMode::Checked, None));
    assert!(
        matches!(
            again,
            Outcome::Claimed {
                first_mode: AccessMode::Checked,
                ..
            }
        ),
        "{again:?}"
    );
    assert_eq!(bench.control.lease(lease), None);
}

#[test]
fn late_claims_share_the_last_vector_and_own_ones_stay_own() {
    let mut bench = Bench::new(3);
    let process = bench.start(1).unwrap();
    let volume = bench.volume;
    let vectors: Vec<_> = (0..3)
        .map(
            |_| match bench.ask(process, claim(DISK, AccessMode::Direct, Some(volume))) {
                Outcome::Claimed { vector, .. } => vector,
                other => panic!("{other:?}"),
            },
        )
        .collect();
    assert_eq!(vectors, [Vector::Shared(0); 3]);
    let block = claim(DISK, AccessMode::Direct, Some(volume));
    assert_eq!(bench.ask(process, block), Outcome::Refused(Refusal::Quota));
    bench.control.end_process(process);
    bench.settle();
    bench.assert_as_new();
}

/// Asks for each, and expects each refusal.
fn expect_refusals(bench: &mut Bench, process: ProcessId, requests: &[(Request, Refusal)]) {
    for (request, refusal) in requests {
        let outcome = bench.ask(process, *request);
        assert_eq!(outcome, Outcome::Refused(*refusal), "{request:?}");
    }
}

#[test]
fn rules_beyond_a_grant_are_refused() {
    let mut bench = Bench::new(4);
    let (first, second) = (bench.start(1).unwrap(), bench.start(2).unwrap());
    let (own, other) = (bench.nic_queue(first), bench.nic_queue(second));
    let mine = Matches::to(MAC, host(1));
    let rule = |matches, to| Request::AddRule(FlowRule { matches, to });
    let anything = Matches {
        address: None,
        ..mine
    };
    let tagged = Matches {
        vlan: Vlan::new(1),
        ..mine
    };
    let requests = [
        (rule(Matches::to(MAC, host(2)), own), Refusal::NotGranted),
        (
            rule(Matches::to(Mac([2; 6]), host(1)), own),
            Refusal::NotGranted,
        ),
        (rule(anything, own), Refusal::NotGranted),
        (rule(tagged, own), Refusal::NotGranted),
        (rule(mine, other), Refusal::NoSuchHandle),
    ];
    expect_refusals(&mut bench, first, &requests);
}

#[test]
fn handles_of_others_and_made_up_ones_are_refused() {
    let mut bench = Bench::new(13);
    let (first, second) = (bench.start(1).unwrap(), bench.start(3).unwrap());
    let (own, volume) = (bench.nic_queue(first), bench.volume);
    let region = bench.region(first, 1);
    let epoch = Epoch::new(0);
    let no_volume = Some(VolumeId::new(1, 0));
    let foreign = [
        (Request::Release(own), Refusal::NoSuchHandle),
        (Request::Release(LeaseId::new(7, 7)), Refusal::NoSuchHandle),
        (Request::ReleaseMemory(region), Refusal::NoSuchHandle),
        (
            Request::RemoveRule(RuleId::new(0, 0)),
            Refusal::NoSuchHandle,
        ),
        (
            Request::Acknowledge { lease: own, epoch },
            Refusal::NoSuchHandle,
        ),
        (
            claim(DISK, AccessMode::Direct, Some(volume)),
            Refusal::NotGranted,
        ),
        (
            claim(DISK, AccessMode::Direct, no_volume),
            Refusal::NoSuchHandle,
        ),
        (
            claim(DeviceId::new(9), AccessMode::Direct, None),
            Refusal::NoSuchDevice,
        ),
    ];
    expect_refusals(&mut bench, second, &foreign);
    let own = [
        (Request::ReleaseMemory(region), Refusal::InUse),
        (
            Request::Acknowledge { lease: own, epoch },
            Refusal::WrongState,
        ),
    ];
    expect_refusals(&mut bench, first, &own);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let mut bench = Bench::new(14);
    let process = bench.start(1).unwrap();
    let volume = Some(bench.volume);
    let huge = Request::RegisterMemory(MemoryWish {
        pages: 511,
        page_size: PageSize::Huge,
        direction: Direction::ToDevice,
        node: None,
    });
    let short = Request::Claim(ClaimWish {
        device: NIC,
        at_least: AccessMode::Direct,
        first_ring: RingSize::new(4).unwrap(),
        second_ring: RingSize::new(64).unwrap(),
        wake: Wake::Poll,
        volume: None,
    });
    let requests = [
        (claim(DISK, AccessMode::Direct, None), Refusal::Unsupported),
        (
            claim(DISK, AccessMode::Virtual, volume),
            Refusal::Unsupported,
        ),
        (claim(NIC, AccessMode::Direct, volume), Refusal::Unsupported),
        (short, Refusal::OutOfRange),
        (huge, Refusal::OutOfRange),
        (memory(0), Refusal::OutOfRange),
        (memory(u64::MAX), Refusal::Quota),
        (memory(61), Refusal::Quota),
    ];
    expect_refusals(&mut bench, process, &requests);
}

#[test]
fn cores_and_names_are_given_once() {
    let mut bench = Bench::new(15);
    let first = bench.start(1).unwrap();
    assert_eq!(bench.start(1), Err(StartError::CoreInUse { by: first }));
    let on_another_core = ProcessSpec {
        identity: Identity(9),
        core: CoreId::new(9),
        node: NodeId::new(0),
        quota: QUOTA,
        grants: &[(NIC, names(2)), (NIC, names(1))],
    };
    let clash = bench.control.start_process(&on_another_core);
    assert!(
        matches!(clash, Err(StartError::Grant(GrantError::Overlap { owner, .. })) if owner == first)
    );
    assert_eq!(bench.control.grants().iter().count(), 1);
    bench.control.end_process(first);
    bench.settle();
    assert!(bench.control.start_process(&on_another_core).is_ok());
}

#[test]
fn rules_contradict_no_other_and_go_where_the_device_can_lead() {
    let mut bench = Bench::new(5);
    let process = bench.start(1).unwrap();
    let hardware = bench.nic_queue(process);
    let software = bench.lease(process, claim(NIC, AccessMode::Virtual, None));
    let rule = |port, to| {
        Request::AddRule(FlowRule {
            matches: Matches {
                ports: PortRange::one(port),
                ..Matches::to(MAC, host(1))
            },
            to,
        })
    };
    let first = match bench.ask(process, rule(80, hardware)) {
        Outcome::RuleAdded {
            rule,
            placement: Placement::Hardware,
        } => rule,
        other => panic!("{other:?}"),
    };
    let conflict = Outcome::Refused(Refusal::Conflict { other: first });
    assert_eq!(bench.ask(process, rule(80, software)), conflict);
    let second = bench.ask(process, rule(81, software));
    assert!(
        matches!(
            second,
            Outcome::RuleAdded {
                placement: Placement::Software,
                ..
            }
        ),
        "{second:?}"
    );
    bench.ask(process, rule(82, hardware));
    assert_eq!(
        bench.ask(process, rule(83, hardware)),
        Outcome::Refused(Refusal::Quota)
    );
    let removed = bench.ask(process, Request::RemoveRule(first));
    assert_eq!(removed, Outcome::RuleRemoved { rule: first });
    let stale = bench.ask(process, Request::RemoveRule(first));
    assert_eq!(stale, Outcome::Refused(Refusal::NoSuchHandle));
    bench.ask(process, Request::Release(software));
    bench.ask(process, Request::Release(hardware));
    assert_eq!(bench.control.usage(process).unwrap().rules, 0);
}

#[test]
fn more_requests_than_the_quota_are_not_taken() {
    let mut bench = Bench::new(12);
    bench.control.platform_mut().set_mood(Mood::Slow);
    let process = bench.control.start_process(&ProcessSpec {
        identity: Identity(1),
        core: CoreId::new(1),
        node: NodeId::new(0),
        quota: Quota {
            requests: 2,
            ..QUOTA
        },
        grants: &[],
    });
    let process = process.unwrap();
    let request = claim(NIC, AccessMode::Checked, None);
    bench.submit(process, request).unwrap();
    bench.submit(process, request).unwrap();
    assert_eq!(bench.submit(process, request), Err(SubmitError::TooMany));
    bench.settle();
    assert!(bench.submit(process, request).is_ok());
}

/// Asks for something that is refused at once, until that is not taken any more; how often it was, and why it is not.
fn ask_in_vain(bench: &mut Bench, process: ProcessId) -> (usize, SubmitError) {
    for taken in 0.. {
        if let Err(error) = bench.submit(process, memory(0)) {
            return (taken, error);
        }
    }
    unreachable!("a quota is finite")
}

/// Polls once, and hands on what is said.
fn poll_once(bench: &mut Bench) {
    if let Some(event) = bench.control.poll(Instant::from_nanos(bench.now)) {
        bench.note(event);
    }
}

#[test]
fn a_full_event_ring_stops_nobody_innocent() {
    let mut bench = Bench::new(22);
    let all = [1, 2, 3].map(|number| bench.start(number).unwrap());
    let quota = QUOTA.requests as usize;
    // Two processes fill the ring, as they may, and know when they ask for too much.
    assert_eq!(
        ask_in_vain(&mut bench, all[0]),
        (quota, SubmitError::TooMany)
    );
    assert_eq!(
        ask_in_vain(&mut bench, all[1]),
        (quota, SubmitError::TooMany)
    );
    // The third has not asked for anything, and is told something else.
    assert_eq!(ask_in_vain(&mut bench, all[2]), (0, SubmitError::Busy));
    poll_once(&mut bench);
    assert!(bench.submit(all[2], memory(0)).is_ok());
    bench.settle();
    assert!(
        bench.open.is_empty(),
        "an outcome was lost: {:?}",
        bench.open
    );
}

#[test]
fn a_request_is_under_way_until_its_outcome_is_handed_out() {
    let mut bench = Bench::new(23);
    let process = bench.start(1).unwrap();
    ask_in_vain(&mut bench, process);
    let usage = |bench: &Bench| bench.control.usage(process).unwrap().requests;
    assert_eq!(usage(&bench), QUOTA.requests);
    poll_once(&mut bench);
    assert_eq!(usage(&bench), QUOTA.requests - 1);
    // What was said and not yet handed out to one that ends is nobody's debt.
    bench.control.end_process(process);
    bench.settle();
    bench.assert_as_new();
}

/// Whoever polls once for each request has room for each, however many there are, and leaves nothing unsaid.
#[test]
fn each_request_pays_for_the_delivery_of_one_event() {
    let mut bench = Bench::new(24);
    let all = [1, 2, 3].map(|number| bench.start(number).unwrap());
    for round in 0..1000 {
        let process = all[round % 3];
        let taken = bench.submit(process, memory(0));
        assert!(taken.is_ok(), "request {round}: {taken:?}");
        poll_once(&mut bench);
        assert!(bench.open.is_empty());
    }
}

#[test]
fn a_reset_loses_leases_until_they_are_acknowledged() {
    let mut bench = Bench::new(7);
    let process = bench.start(1).unwrap();
    let lease = bench.nic_queue(process);
    let rule = FlowRule {
        matches: Matches::to(MAC, host(1)),
        to: lease,
    };
    bench.ask(process, Request::AddRule(rule));
    bench
        .control
        .device_failed(NIC, Failure::NeedsReset, Instant::from_nanos(bench.now));
    let early = claim(NIC, AccessMode::Direct, None);
    let early = bench.submit(process, early).unwrap();
    let epoch = Epoch::new(1);
    let lost = Event::Deliver {
        process,
        tag: None,
        outcome: Outcome::Lost { lease, epoch },
    };
    let refused = Event::Deliver {
        process,
        tag: Some(Tag(early)),
        outcome: Outcome::Refused(Refusal::DeviceDown),
    };
    assert_eq!(bench.settle(), [refused, lost, Event::DeviceUp(NIC, epoch)]);
    assert_eq!(
        bench.control.lease(lease).unwrap().1,
        LeaseState::Lost(epoch)
    );
    let wrong = Request::Acknowledge {
        lease,
        epoch: Epoch::new(0),
    };
    assert_eq!(
        bench.ask(process, wrong),
        Outcome::Refused(Refusal::WrongState)
    );
    let right = Request::Acknowledge { lease, epoch };
    assert_eq!(bench.ask(process, right), Outcome::Rearmed { lease });
    assert_eq!(bench.control.lease(lease).unwrap().1, LeaseState::Active);
    assert_eq!(
        bench.ask(process, Request::Release(lease)),
        Outcome::Revoked { lease }
    );
}

#[test]
fn a_device_that_goes_during_its_reset_is_given_up_afterwards() {
    let mut bench = Bench::new(19);
    let process = bench.start(1).unwrap();
    let lease = bench.nic_queue(process);
    bench.control.platform_mut().set_mood(Mood::Slow);
    let fail = |bench: &mut Bench, failure| {
        let now = Instant::from_nanos(bench.now);
        bench.control.device_failed(NIC, failure, now);
    };
    fail(&mut bench, Failure::NeedsReset);
    while !bench.control.platform().devices[0].is_resetting() {
        bench.turn();
    }
    fail(&mut bench, Failure::NeedsReset);
    fail(&mut bench, Failure::Removed);
    let events = bench.settle();
    let epoch = Epoch::new(1);
    let told = |outcome| Event::Deliver {
        process,
        tag: None,
        outcome,
    };
    let (lost, revoked) = (
        told(Outcome::Lost { lease, epoch }),
        told(Outcome::Revoked { lease }),
    );
    let (up, gone) = (Event::DeviceUp(NIC, epoch), Event::DeviceGone(NIC));
    assert_eq!(events[..2], [lost, up]);
    assert!(
        events[2..] == [revoked, gone] || events[2..] == [gone, revoked],
        "{events:?}"
    );
}

#[test]
fn a_device_that_is_gone_ends_its_leases_and_no_other() {
    let mut bench = Bench::new(8);
    let process = bench.start(1).unwrap();
    let (lease, volume) = (bench.nic_queue(process), bench.volume);
    let disk = bench.lease(process, claim(DISK, AccessMode::Direct, Some(volume)));
    bench
        .control
        .device_failed(NIC, Failure::Removed, Instant::from_nanos(bench.now));
    let revoked = Event::Deliver {
        process,
        tag: None,
        outcome: Outcome::Revoked { lease },
    };
    assert_eq!(bench.settle(), [revoked, Event::DeviceGone(NIC)]);
    assert_eq!(bench.control.lease(disk).unwrap().1, LeaseState::Active);
    let again = bench.ask(process, claim(NIC, AccessMode::Direct, None));
    assert_eq!(again, Outcome::Refused(Refusal::DeviceDown));
}

/// The queue of a process that dies does not stop: the process is buried, and what the queue may reach is left alone.
#[test]
fn a_dead_process_is_buried_and_its_stuck_queue_keeps_what_it_may_reach() {
    let mut bench = Bench::new(20);
    let (first, second) = (bench.start(1).unwrap(), bench.start(2).unwrap());
    bench.region(first, 20);
    let (lease, volume) = (bench.nic_queue(first), bench.volume);
    bench.lease(first, claim(DISK, AccessMode::Direct, Some(volume)));
    let bystander = bench.nic_queue(second);
    bench.control.platform_mut().devices[0].conduct = Conduct::Stuck;
    bench.control.end_process(first);
    assert_eq!(bench.settle(), [Event::Ended(first)]);
    let step = Step::Stop;
    let state = |bench: &Bench, lease| bench.control.lease(lease).map(|(_, state)| state);
    assert_eq!(state(&bench, lease), Some(LeaseState::Quarantined(step)));
    let kept = Quarantine {
        leases: 1,
        regions: 1,
        pages: 24,
    };
    assert_eq!(bench.control.quarantined(), kept);
    // Its core and its names are free, and its next life has memory of its own.
    let next = bench.start(1).unwrap();
    bench.region(next, 20);
    bench.lease(next, claim(DISK, AccessMode::Direct, Some(volume)));
    bench.control.end_process(next);
    assert_eq!(bench.settle(), [Event::Ended(next)]);
    assert_eq!(bench.control.quarantined(), kept);
    assert_eq!(state(&bench, bystander), Some(LeaseState::Active));
    // The operator has the device reset; the dead are told nothing.
    bench.control.platform_mut().devices[0].conduct = Conduct::Good;
    let now = Instant::from_nanos(bench.now);
    bench.control.device_failed(NIC, Failure::NeedsReset, now);
    bench.settle();
    assert_eq!(bench.control.quarantined(), Quarantine::default());
    bench.control.end_process(second);
    bench.settle();
    bench.assert_as_new();
}

#[test]
fn a_process_with_a_stuck_queue_goes_on_without_it() {
    let mut bench = Bench::new(25);
    let process = bench.start(1).unwrap();
    let region = bench.region(process, 20);
    let lease = bench.nic_queue(process);
    bench.control.platform_mut().devices[0].conduct = Conduct::Stuck;
    let step = Step::Stop;
    let released = bench.ask(process, Request::Release(lease));
    assert_eq!(released, Outcome::Quarantined { lease, step });
    let refused = Outcome::Refused(Refusal::InUse);
    let release = Request::ReleaseMemory(region);
    assert_eq!(bench.ask(process, release), refused);
    // The reset gives it all back, and is heard of.
    bench.control.platform_mut().devices[0].conduct = Conduct::Good;
    let now = Instant::from_nanos(bench.now);
    bench.control.device_failed(NIC, Failure::NeedsReset, now);
    let revoked = Event::Deliver {
        process,
        tag: None,
        outcome: Outcome::Revoked { lease },
    };
    assert!(bench.settle().contains(&revoked));
    let released = Outcome::Released { memory: region };
    assert_eq!(bench.ask(process, release), released);
}

/// The device fails, its reset fails, and nothing takes it off the bus.
#[test]
fn a_device_that_cannot_be_silenced_keeps_what_it_may_reach_for_ever() {
    let mut bench = Bench::new(21);
    let (first, second) = (bench.start(1).unwrap(), bench.start(2).unwrap());
    let region = bench.region(first, 20);
    let (lease, other) = (bench.nic_queue(first), bench.nic_queue(second));
    bench.control.platform_mut().devices[0].conduct = Conduct::Loose;
    // One of its leases is being taken back when it happens.
    bench.control.revoke(other);
    let fail = |bench: &mut Bench| {
        let now = Instant::from_nanos(bench.now);
        bench.control.device_failed(NIC, Failure::NeedsReset, now);
        bench.settle()
    };
    let events = fail(&mut bench);
    let step = Step::Stop;
    let quarantined = |process, lease| Event::Deliver {
        process,
        tag: None,
        outcome: Outcome::Quarantined { lease, step },
    };
    for event in [
        quarantined(first, lease),
        quarantined(second, other),
        Event::DeviceLoose(NIC),
    ] {
        assert!(events.contains(&event), "{event:?} is not in {events:?}");
    }
    assert_eq!(events.len(), 3, "{events:?}");
    let refused = Outcome::Refused(Refusal::InUse);
    let release = Request::ReleaseMemory(region);
    assert_eq!(bench.ask(first, release), refused);
    let again = bench.ask(first, claim(NIC, AccessMode::Direct, None));
    assert_eq!(again, Outcome::Refused(Refusal::DeviceDown));
    bench.control.end_process(first);
    assert_eq!(bench.settle(), [Event::Ended(first)]);
    // It is for good: the machine objects to any use of what the queues reach.
    assert_eq!(fail(&mut bench), []);
    let kept = Quarantine {
        leases: 2,
        regions: 1,
        pages: 28,
    };
    assert_eq!(bench.control.quarantined(), kept);
}

#[test]
fn a_lost_lease_of_a_device_that_cannot_be_silenced_is_quarantined_too() {
    let mut bench = Bench::new(26);
    let process = bench.start(1).unwrap();
    let lease = bench.nic_queue(process);
    let fail = |bench: &mut Bench| {
        let now = Instant::from_nanos(bench.now);
        bench.control.device_failed(NIC, Failure::NeedsReset, now);
        bench.settle()
    };
    fail(&mut bench);
    bench.control.platform_mut().devices[0].conduct = Conduct::Loose;
    fail(&mut bench);
    let state = bench.control.lease(lease).map(|(_, state)| state);
    assert_eq!(state, Some(LeaseState::Quarantined(Step::Stop)));
}

#[test]
fn a_lease_is_given_back_once() {
    let mut bench = Bench::new(16);
    bench.control.platform_mut().set_mood(Mood::Slow);
    let process = bench.start(1).unwrap();
    let lease = bench.nic_queue(process);
    let first = bench.submit(process, Request::Release(lease)).unwrap();
    let second = bench.submit(process, Request::Release(lease)).unwrap();
    bench.control.revoke(lease);
    let told = |tag, outcome| Event::Deliver {
        process,
        tag: Some(Tag(tag)),
        outcome,
    };
    let refused = told(second, Outcome::Refused(Refusal::WrongState));
    let revoked = told(first, Outcome::Revoked { lease });
    assert_eq!(bench.settle(), [refused, revoked]);
    let late = bench.ask(process, Request::Release(lease));
    assert_eq!(late, Outcome::Refused(Refusal::NoSuchHandle));
}

#[test]
fn a_lease_that_is_taken_before_it_works_is_refused() {
    let mut bench = Bench::new(18);
    bench.control.platform_mut().set_mood(Mood::Slow);
    let process = bench.start(1).unwrap();
    let tag = bench
        .submit(process, claim(NIC, AccessMode::Direct, None))
        .unwrap();
    bench.control.revoke_all(process);
    let refused = Event::Deliver {
        process,
        tag: Some(Tag(tag)),
        outcome: Outcome::Refused(Refusal::WrongState),
    };
    assert_eq!(bench.settle(), [refused]);
    assert_eq!(bench.control.leases().count(), 0);
}

#[test]
fn a_lease_that_is_taken_ends_and_its_process_goes_on() {
    let mut bench = Bench::new(17);
    let process = bench.start(1).unwrap();
    let (lease, volume) = (bench.nic_queue(process), bench.volume);
    bench.lease(process, claim(DISK, AccessMode::Direct, Some(volume)));
    assert_eq!(bench.control.remove_volume(volume), Err(Refusal::InUse));
    bench.control.revoke(lease);
    let revoked = Event::Deliver {
        process,
        tag: None,
        outcome: Outcome::Revoked { lease },
    };
    assert_eq!(bench.settle(), [revoked]);
    assert_eq!(bench.control.usage(process).unwrap().leases, 1);
    bench.control.end_process(process);
    bench.settle();
    assert_eq!(bench.control.remove_volume(volume).unwrap().blocks, 1000);
    assert_eq!(
        bench.control.remove_volume(volume),
        Err(Refusal::NoSuchHandle)
    );
}

/// The same resources, a thousand times in a row.
#[test]
fn a_restarted_process_gets_the_same_again() {
    let mut bench = Bench::new(9);
    bench.control.platform_mut().set_mood(Mood::Slow);
    for _ in 0..1000 {
        let process = bench.start(1).unwrap();
        bench.region(process, 40);
        let lease = bench.nic_queue(process);
        let volume = bench.volume;
        bench
            .submit(process, claim(DISK, AccessMode::Direct, Some(volume)))
            .unwrap();
        let rule = FlowRule {
            matches: Matches::to(MAC, host(1)),
            to: lease,
        };
        bench.submit(process, Request::AddRule(rule)).unwrap();
        bench.control.end_process(process);
        assert_eq!(bench.settle(), [Event::Ended(process)]);
        bench.assert_as_new();
    }
}

#[test]
#[should_panic(expected = "while a queue may write it")]
fn memory_that_is_freed_before_its_queue_stopped_is_noticed() {
    let mut bench = Bench::new(10);
    let process = bench.start(1).unwrap();
    let lease = bench.nic_queue(process);
    bench.control.platform_mut().devices[0].conduct = Conduct::LiesAboutStopping;
    bench.ask(process, Request::Release(lease));
}

#[test]
#[should_panic(expected = "freed with its contents")]
fn memory_that_is_freed_with_its_contents_is_noticed() {
    let mut bench = Bench::new(11);
    let process = bench.start(1).unwrap();
    let lease = bench.nic_queue(process);
    bench.control.platform_mut().lies_about_zeroing = true;
    bench.ask(process, Request::Release(lease));
}

/// What may happen to the machine, in any order.
#[derive(Clone, Debug)]
enum Move {
    Start(u8),
    Kill(u8),
    Ask(u8, Wish),
    Fail(bool, bool),
    Pass(u8),
    Mood(u8),
}

#[derive(Clone, Debug)]
enum Wish {
    Memory(u64),
    Claim(bool, bool),
    Rule(Index, u8),
    /// Give something back: mostly one's own, at times another's; new or stale.
    Return(u8, Index),
    Acknowledge(Index),
}

fn wish() -> impl Strategy<Value = Wish> {
    prop_oneof![
        1 => (1_u64..20).prop_map(Wish::Memory),
        4 => (any::<bool>(), prop::bool::weighted(0.2)).prop_map(|(disk, soft)| Wish::Claim(disk, soft)),
        2 => (any::<Index>(), 0_u8..3).prop_map(|(lease, port)| Wish::Rule(lease, port)),
        2 => (0_u8..4, any::<Index>()).prop_map(|(kind, which)| Wish::Return(kind, which)),
        2 => any::<Index>().prop_map(Wish::Acknowledge),
    ]
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        6 => (1_u8..4).prop_map(Move::Start),
        2 => (1_u8..4).prop_map(Move::Kill),
        40 => (1_u8..4, wish()).prop_map(|(process, wish)| Move::Ask(process, wish)),
        1 => (any::<bool>(), prop::bool::weighted(0.1)).prop_map(|(disk, gone)| Move::Fail(disk, gone)),
        20 => (0_u8..8).prop_map(Move::Pass),
        4 => (0_u8..3).prop_map(Move::Mood),
    ];
    prop::collection::vec(one, 1..200)
}

/// A bench that makes any move, and remembers all handles that it was ever given.
struct Player {
    bench: Bench,
    processes: [Option<ProcessId>; 4],
    leases: Vec<(ProcessId, LeaseId)>,
    memories: Vec<(ProcessId, MemoryId)>,
    rules: Vec<(ProcessId, RuleId)>,
    lost: Vec<(ProcessId, (LeaseId, Epoch))>,
}

/// Mostly one of the process's own, at times anybody's.
fn pick<T: Copy>(all: &[(ProcessId, T)], process: ProcessId, which: Index) -> Option<T> {
    let own: Vec<_> = all.iter().filter(|(owner, _)| *owner == process).collect();
    if !own.is_empty() && which.index(16) > 0 {
        // The newest first, since the old ones are stale.
        return Some(own[own.len() - 1 - which.index(own.len().min(4))].1);
    }
    (!all.is_empty()).then(|| all[which.index(all.len())].1)
}

impl Player {
    fn play(&mut self, step: Move) {
        match step {
            Move::Start(number) => {
                if let Ok(process) = self.bench.start(number) {
                    self.processes[usize::from(number)] = Some(process);
                }
            }
            Move::Kill(number) => {
                if let Some(process) = self.processes[usize::from(number)] {
                    self.bench.control.end_process(process);
                }
            }
            Move::Ask(number, wish) => {
                if let Some(process) = self.processes[usize::from(number)]
                    && let Some(request) = self.request(process, number, &wish)
                {
                    // Too many under way, or dead: both are fine.
                    let _ = self.bench.submit(process, request);
                }
            }
            Move::Fail(disk, gone) => self.fail(if disk { DISK } else { NIC }, gone),
            Move::Pass(turns) => (0..turns).for_each(|_| self.bench.turn()),
            Move::Mood(mood) => {
                let mood = [Mood::Perfect, Mood::Slow, Mood::Faulty][usize::from(mood)];
                self.bench.control.platform_mut().set_mood(mood);
            }
        }
        self.remember();
    }

    fn fail(&mut self, device: DeviceId, gone: bool) {
        let failure = if gone {
            Failure::Removed
        } else {
            Failure::NeedsReset
        };
        let now = Instant::from_nanos(self.bench.now);
        self.bench.control.device_failed(device, failure, now);
    }

    fn request(&self, process: ProcessId, number: u8, wish: &Wish) -> Option<Request> {
        Some(match *wish {
            Wish::Memory(pages) => memory(pages),
            Wish::Claim(true, _) => claim(DISK, AccessMode::Direct, Some(self.bench.volume)),
            Wish::Claim(false, true) => claim(NIC, AccessMode::Virtual, None),
            Wish::Claim(false, false) => claim(NIC, AccessMode::Direct, None),
            Wish::Rule(lease, port) => Request::AddRule(FlowRule {
                matches: Matches {
                    ports: PortRange::one(u16::from(port)),
                    ..Matches::to(MAC, host(number))
                },
                to: pick(&self.leases, process, lease)?,
            }),
            Wish::Return(0, which) => Request::ReleaseMemory(pick(&self.memories, process, which)?),
            Wish::Return(1, which) => Request::RemoveRule(pick(&self.rules, process, which)?),
            Wish::Return(_, which) => Request::Release(pick(&self.leases, process, which)?),
            Wish::Acknowledge(which) => {
                let (lease, epoch) = pick(&self.lost, process, which)?;
                Request::Acknowledge { lease, epoch }
            }
        })
    }

    fn remember(&mut self) {
        for event in core::mem::take(&mut self.bench.events) {
            let Event::Deliver {
                process, outcome, ..
            } = event
            else {
                continue;
            };
            match outcome {
                Outcome::Claimed { lease, .. } => self.leases.push((process, lease)),
                Outcome::Registered { memory, .. } => self.memories.push((process, memory)),
                Outcome::RuleAdded { rule, .. } => self.rules.push((process, rule)),
                Outcome::Lost { lease, epoch } => self.lost.push((process, (lease, epoch))),
                _ => {}
            }
        }
    }

    /// Everything works again, and everybody leaves. The NIC may be `loose`: then all that it may reach stays behind.
    fn end(&mut self, is_loose: bool) {
        self.bench.control.platform_mut().set_mood(Mood::Perfect);
        self.bench.settle();
        let open = &self.bench.open;
        let waiting: Vec<_> = open
            .iter()
            .filter(|(_, process)| !self.bench.ended.contains(process))
            .collect();
        let quarantined = |state| matches!(state, LeaseState::Quarantined(_));
        let dying = self
            .bench
            .control
            .leases()
            .any(|(_, state)| quarantined(state));
        assert!(
            waiting.is_empty() || dying,
            "requests without an outcome: {waiting:?}"
        );
        if is_loose {
            self.bench.control.platform_mut().devices[0].conduct = Conduct::Loose;
            self.fail(NIC, false);
            self.bench.settle();
        }
        for process in self.processes.into_iter().flatten() {
            self.bench.control.end_process(process);
        }
        self.bench.settle();
        // Nobody's core waits for a queue that does not stop. Only a reset helps that.
        assert_eq!(self.bench.control.counts()[0], 0, "a process is left");
        for device in [NIC, DISK] {
            self.fail(device, false);
        }
        self.bench.settle();
        if is_loose {
            let kept = self.bench.control.quarantined();
            let [_, leases, regions, _] = self.bench.control.counts();
            assert_eq!((kept.leases, kept.regions), (leases, regions));
            let free = self.bench.control.platform().free_pages;
            assert_eq!(free + kept.pages, PAGES);
        } else {
            self.bench.assert_as_new();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is asked, dies and fails, and in whatever order: nothing is freed while it may be reached, each request
    /// has one outcome, and in the end everything is back.
    #[test]
    fn nothing_leaks_and_nothing_escapes(
        seed: u64,
        moves in moves(),
        is_loose in prop::bool::weighted(0.2),
    ) {
        let mut player = Player {
            bench: Bench::new(seed),
            processes: [None; 4],
            leases: Vec::new(),
            memories: Vec::new(),
            rules: Vec::new(),
            lost: Vec::new(),
        };
        for step in moves {
            player.play(step);
        }
        player.end(is_loose);
    }
}
