//! Two processes share a NIC of two queues: claims, flow rules, a death, and the map of who has what.
//!
//! The NIC and the machine under it are the smallest that the control plane accepts: whatever they are asked for is done
//! at once. A real platform maps memory and a real control half writes registers; the calls are the same.
//!
//! Run it with `cargo run --example partition`.

use core::{net::Ipv4Addr, task::Poll, time::Duration};

use parakernel_core::{
    access::{AccessMode, Isolation, Policy},
    address::{CoreId, Direction, Iova, NodeId},
    control::{
        ClaimWish, ControlPlane, ControlStorage, Cut, Event, Frames, LeaseSpec, Memory, NoRoom,
        Outcome, Platform, ProcessSpec, Purpose, Quota, Regions, Request, Tag, Wake, Wiring, Woken,
    },
    device::{DeviceId, Limits, Operation, QueueDevice, QueueKind, Waits},
    error::ErrorKind,
    handle::{LeaseId, ProcessId, RegionId, Slot},
    memory::RegionError,
    ring::RingSize,
    steering::{
        Change, FlowRule, IpPrefix, Ipv4Prefix, Mac, Matches, NameGrant, PortRange, RuleBucket,
        Steering,
    },
    time::Instant,
    volume::Identity,
};

const NIC: DeviceId = DeviceId::new(0);
const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
const RING: RingSize = RingSize::new(256).unwrap();
const QUOTA: Quota = Quota {
    pages: 1024,
    regions: 4,
    leases: 2,
    vectors: 2,
    rules: 8,
    requests: 8,
};

/// A NIC of two queues.
struct Nic;

impl QueueDevice for Nic {
    type Error = ErrorKind;

    fn limits(&self) -> Limits {
        let wait = Duration::from_millis(1);
        Limits {
            kind: QueueKind::Network,
            queues: 2,
            vectors: 2,
            min_ring: RING,
            max_ring: RING,
            doorbell_stride: 4,
            // Rewrites descriptors, and its doorbells share a page: so `Checked` is the best that is sound.
            first_isolation: Isolation::STEERS_EXACTLY | Isolation::DROPS_WHEN_FULL,
            second_isolation: Isolation::SPLITS_FRAMES,
            rules: 128,
            node: NodeId::new(0),
            waits: Waits {
                claim: wait,
                drain: wait,
                stop: wait,
                steer: wait,
                reset: wait,
            },
        }
    }

    fn begin(&mut self, operation: Operation, _now: Instant) -> Result<(), ErrorKind> {
        if let Operation::Claim(spec) = operation {
            println!("    nic: makes {:?}", spec.queue);
        } else {
            println!("    nic: {operation:?}");
        }
        Ok(())
    }

    fn poll(&mut self, _operation: Operation, _now: Instant) -> Poll<Result<(), ErrorKind>> {
        Poll::Ready(Ok(()))
    }
}

impl Steering for Nic {
    type Error = ErrorKind;

    fn can_express(&self, _matches: &Matches) -> bool {
        true
    }

    fn begin_change(&mut self, change: Change, _now: Instant) -> Result<(), ErrorKind> {
        match change {
            Change::Add { rule, queue, .. } => println!("    nic: {rule:?} leads to {queue:?}"),
            Change::Remove { rule } => println!("    nic: {rule:?} leads to the drop queue"),
        }
        Ok(())
    }

    fn poll_change(&mut self, _change: Change, _now: Instant) -> Poll<Result<(), ErrorKind>> {
        Poll::Ready(Ok(()))
    }
}

/// A machine with that NIC, and memory that is only counted.
struct Machine {
    nic: Nic,
    blocks: u32,
}

impl Frames for Machine {
    fn allocate(&mut self, purpose: Purpose) -> Option<Memory> {
        self.blocks += 1;
        let pages = match purpose {
            Purpose::Region { pages, .. } => pages,
            Purpose::Lease(_) => 8,
        };
        let id = self.blocks;
        Some(Memory { id, pages })
    }

    fn zero(&mut self, memory: Memory) -> Poll<()> {
        println!("    machine: zeroes memory {}", memory.id);
        Poll::Ready(())
    }

    fn free(&mut self, memory: Memory) {
        println!("    machine: frees memory {}", memory.id);
    }
}

impl Regions for Machine {
    fn register(
        &mut self,
        _process: ProcessId,
        memory: Memory,
        _direction: Direction,
    ) -> Result<(RegionId, Iova), RegionError> {
        let address = Iova::new(u64::from(memory.id) << 30);
        Ok((RegionId::new(memory.id, 0), address))
    }

    fn begin_unregister(&mut self, _process: ProcessId, _region: RegionId) {}

    fn poll_unregister(&mut self, _process: ProcessId, _region: RegionId) -> Poll<()> {
        Poll::Ready(())
    }
}

impl Wiring for Machine {
    fn connect(&mut self, _spec: &LeaseSpec, _memory: Memory) -> Result<Woken, NoRoom> {
        Ok(Woken::AsPlanned)
    }

    fn cut(&mut self, spec: &LeaseSpec, cut: Cut) {
        println!("    machine: {cut:?} for {:?}", spec.lease);
    }

    fn poll_cut(&mut self, _spec: &LeaseSpec, _cut: Cut) -> Poll<()> {
        Poll::Ready(())
    }
}

impl Platform for Machine {
    type Device = Nic;

    fn device(&mut self, device: DeviceId) -> Option<&mut Nic> {
        (device == NIC).then_some(&mut self.nic)
    }
}

/// Goes on until nothing is under way; returns the last lease that was claimed.
fn settle(control: &mut ControlPlane<'_, Machine>) -> Option<LeaseId> {
    let mut claimed = None;
    while !control.is_idle() {
        match control.poll(Instant::default()) {
            Some(Event::Deliver {
                process, outcome, ..
            }) => {
                println!("  {process:?} is told: {outcome:?}");
                if let Outcome::Claimed { lease, .. } = outcome {
                    claimed = Some(lease);
                }
            }
            Some(event) => println!("  {event:?}"),
            None => {}
        }
    }
    claimed
}

fn prefix(last: u8) -> Ipv4Prefix {
    Ipv4Prefix::host(Ipv4Addr::new(10, 0, 0, last))
}

/// Starts a process that owns 10.0.0.`number`, and gives it a queue with its frames.
fn start(
    control: &mut ControlPlane<'_, Machine>,
    number: u8,
) -> Result<ProcessId, Box<dyn core::error::Error>> {
    println!("process {number} starts, claims a queue, and has its address led there");
    let names = NameGrant {
        mac: MAC,
        vlan: None,
        ipv4: Some(prefix(number)),
        ipv6: None,
        ports: PortRange::ALL,
    };
    let process = control.start_process(&ProcessSpec {
        identity: Identity(u64::from(number)),
        core: CoreId::new(u32::from(number)),
        node: NodeId::new(0),
        quota: QUOTA,
        grants: &[(NIC, names)],
    })?;
    let wish = ClaimWish {
        device: NIC,
        at_least: AccessMode::Direct,
        first_ring: RING,
        second_ring: RING,
        wake: Wake::Interrupt,
        volume: None,
    };
    let now = Instant::default();
    control.submit(process, Tag(1), Request::Claim(wish), now)?;
    let lease = settle(control).ok_or("no queue")?;
    let matches = Matches::to(MAC, IpPrefix::V4(prefix(number)));
    let rule = FlowRule { matches, to: lease };
    control.submit(process, Tag(2), Request::AddRule(rule), now)?;
    settle(control);
    Ok(process)
}

fn show(control: &ControlPlane<'_, Machine>) {
    println!("the partition:");
    for (spec, state) in control.leases() {
        let modes = (spec.first_mode, spec.second_mode);
        println!(
            "  {:?} has {:?} {modes:?}: {state:?}",
            spec.process, spec.queue
        );
    }
}

fn main() -> Result<(), Box<dyn core::error::Error>> {
    // Room for everything there can be; a kernel has these in static memory.
    let mut processes = [const { Slot::EMPTY }; 4];
    let mut leases = [const { Slot::EMPTY }; 4];
    let mut memories = [const { Slot::EMPTY }; 4];
    let mut rules = [const { Slot::EMPTY }; 4];
    let mut rule_buckets = [RuleBucket::EMPTY; 4];
    let mut grants = [const { Slot::EMPTY }; 4];
    let mut devices = [const { None }; 1];
    let storage = ControlStorage {
        processes: &mut processes,
        leases: &mut leases,
        memories: &mut memories,
        rules: &mut rules,
        rule_buckets: &mut rule_buckets,
        grants: &mut grants,
        volumes: &mut [],
        devices: &mut devices,
        links: &mut [0; 4],
        jobs: &mut [None; 17],
        events: &mut [None; 4],
    };
    let machine = Machine {
        nic: Nic,
        blocks: 0,
    };
    let mut control = ControlPlane::new(machine, Policy::all(), storage)?;

    let first = start(&mut control, 1)?;
    start(&mut control, 2)?;
    show(&control);

    println!("process 1 dies");
    control.end_process(first);
    settle(&mut control);
    show(&control);
    Ok(())
}
