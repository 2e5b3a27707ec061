//! The control plane at work: what processes ask for goes in, what they are given comes out.

use core::fmt::{self, Write};
use core::net::Ipv4Addr;
use core::sync::atomic::Ordering;
use core::time::Duration;

use heapless::{String, Vec};
use kernel_formats::manifest;
use parakernel_core::abi::{Codec, Message, RingFormat};
use parakernel_core::access::Policy;
use parakernel_core::address::CoreId;
use parakernel_core::control::{
    ControlPlane, Failure, ProcessSpec, Quarantine, Quota, Request, SubmitError, Tag,
};
use parakernel_core::device::{DeviceId, QueueDevice, QueueKind};
use parakernel_core::handle::VolumeId;
use parakernel_core::queue::Lba;
use parakernel_core::steering::{Ipv4Prefix, NameGrant, PortRange};
use parakernel_core::time::Instant;
use parakernel_core::volume::{Identity, Volume};

use crate::arch::native;
use crate::boot::Kernel;
use crate::capacity::{self, Capacity, NAMES};
use crate::device::Device;
use crate::device::net::NetDevice;
use crate::housekeeping::Turn;
use crate::machine::{DEVICES_MAX, Machine, VOLUMES_MAX};
use crate::panic::{Verdict, power_off};
use crate::process::{ARGUMENTS_MAX, Plan};
use crate::report::{self, Counters};
use crate::seats::Seats;
use crate::slow_path::SlowPath;
use crate::{cores, print, seats, time};

mod bring_up;
mod events;

use bring_up::{devices, slow_paths};

/// What processes are told of the network, at most.
const NETWORK_WORDS: usize = 64;
/// How often the kernel's own queue pairs are looked at.
const SLOW_INTERVAL: Duration = Duration::from_millis(1);
/// Most events that one turn handles.
const BUDGET: usize = 32;

/// The control plane over the machine.
pub(crate) type Plane = ControlPlane<'static, &'static mut Machine>;

/// The machine, and who has what of it.
pub(crate) struct Control {
    plane: Plane,
    policy: Policy,
    network: String<NETWORK_WORDS>,
    slow_paths: Vec<&'static mut SlowPath, DEVICES_MAX>,
    /// How often a device failed.
    failures: u32,
}

/// Why a process did not start.
#[derive(Debug)]
pub(crate) enum StartError {
    /// The control plane does not take it.
    Control(parakernel_core::control::StartError),
    /// Its core does not.
    Seat(seats::StartError),
    /// One of its volumes is not there to be had.
    Volume,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Control(error) => error.fmt(f),
            Self::Seat(error) => write!(f, "its core does not take it: {error:?}"),
            Self::Volume => f.write_str("a volume is not there, or another's"),
        }
    }
}

impl Control {
    /// Brings up the devices of the machine and a control plane for them.
    pub(crate) fn new(mut kernel: Kernel, settings: &manifest::Kernel) -> Self {
        let policy = settings.policy;
        let mut devices = devices(&mut kernel, settings.ring);
        let slow_paths = slow_paths(&mut kernel, &mut devices);
        let capacity = Capacity::of(&devices);
        let storage = capacity.storage(&mut kernel.frames);
        let machine = Machine::place(kernel, devices, &capacity);
        let plane = storage.zip(machine).map(|(storage, machine)| {
            // The storage was made for these devices.
            ControlPlane::new(machine, policy, storage)
        });
        match plane {
            Some(Ok(plane)) => Self {
                plane,
                policy,
                network: network(settings),
                slow_paths,
                failures: 0,
            },
            Some(Err(error)) => give_up(format_args!("{error}")),
            None => give_up(format_args!("no memory for the tables of {capacity:?}")),
        }
    }

    /// Memory, cores, functions.
    pub(crate) const fn kernel(&mut self) -> &mut Kernel {
        &mut self.machine().kernel
    }

    /// The machine as the control plane works it.
    pub(crate) const fn machine(&mut self) -> &mut Machine {
        self.plane.platform_mut()
    }

    /// How many leases, regions and rules there are.
    pub(crate) fn counts(&self) -> [usize; 3] {
        let [_, leases, memories, rules] = self.plane.counts();
        [leases, memories, rules]
    }

    /// Whether nothing is on its way to anybody, or back.
    pub(crate) const fn is_idle(&self) -> bool {
        self.plane.is_idle()
    }

    /// What only a reset of a device gives back.
    pub(crate) fn quarantined(&self) -> Quarantine {
        self.plane.quarantined()
    }

    /// Has a device reset, as the operator wants: whoever has a queue there loses what is in flight.
    pub(crate) fn reset(&mut self, device: u32) {
        let device = DeviceId::new(device);
        let now = time::now();
        self.plane.device_failed(device, Failure::NeedsReset, now);
    }

    /// How many queue pairs processes may claim of the first device of a kind.
    pub(crate) fn queue_pairs(&self, kind: QueueKind) -> u32 {
        let mut devices = self.plane.platform().devices.iter();
        let device = devices.find(|device| device.kind() == kind);
        device.map_or(0, |device| device.limits().queues)
    }

    /// Makes room for the queues of a process of the manifest on its core; whether there is memory for it, and such a core.
    pub(crate) fn make_room(&mut self, process: &manifest::Process<'_>) -> bool {
        let leases = native(quota(process).leases.into());
        let kernel = self.kernel();
        let Some(seat) = kernel.seats.at(CoreId::new(process.core)) else {
            // The start says that there is no such core.
            return true;
        };
        let mut queues = seat.queues.pass();
        queues.make_room(&mut kernel.frames, seat.core.node, leases)
    }

    /// The cores that run processes, and what runs there.
    pub(crate) fn seats(&self) -> &Seats {
        &self.plane.platform().kernel.seats
    }

    /// How often a device failed so far, and was reset.
    pub(crate) const fn failures(&self) -> u32 {
        self.failures
    }

    /// Starts a process of the manifest, which is told `more` beside what all are told.
    pub(crate) fn start(
        &mut self,
        process: &manifest::Process<'_>,
        file: &[u8],
        more: &str,
    ) -> Result<(), StartError> {
        let core = CoreId::new(process.core);
        let (identity, arguments) = self.introduce(process, more)?;
        let grants: Vec<(DeviceId, NameGrant), NAMES> = self.names(process).into_iter().collect();
        let node = cores::by_id(core).map(|core| core.node);
        let node = node.ok_or(StartError::Seat(seats::StartError::NoSeat))?;
        let quota = quota(process);
        let spec = ProcessSpec {
            identity,
            core,
            node,
            quota,
            grants: &grants,
        };
        let id = self
            .plane
            .start_process(&spec)
            .map_err(StartError::Control)?;
        self.plane.platform_mut().enter(id, core);
        if let Some(core) = cores::by_id(core) {
            core.metrics
                .iter()
                .for_each(|metric| metric.store(0, Ordering::Relaxed));
        }
        let plan = Plan {
            name: process.name,
            file,
            arguments: &arguments,
            core,
        };
        let kernel = self.kernel();
        let started = kernel
            .seats
            .start(&mut kernel.frames, kernel.tables.tables(), &plan);
        if started.is_err() {
            self.plane.end_process(id);
        }
        started.map_err(StartError::Seat)
    }

    /// Who a process runs for, and what it is told when it starts; its volumes are entered.
    fn introduce(
        &mut self,
        process: &manifest::Process<'_>,
        more: &str,
    ) -> Result<(Identity, String<ARGUMENTS_MAX>), StartError> {
        // One that owns nothing runs for its core.
        let mut identity = Identity(u64::from(process.core) | 1 << 63);
        let mut text = String::new();
        let mut volumes: Vec<u64, VOLUMES_MAX> = Vec::new();
        let device = self.device_of(QueueKind::Block);
        for volume in process.volumes() {
            let (device, volume) = device.zip(volume.ok()).ok_or(StartError::Volume)?;
            identity = Identity(volume.owner);
            let id = self.enter_volume(device, &volume)?;
            volumes.push(id).map_err(|_| StartError::Volume)?;
        }
        let written = (|| {
            write!(text, "name={} key={:#x}", process.name, process.key)?;
            write!(text, "{} nvme_queues={}", self.network, process.nvme_queues)?;
            if let Some((device, names)) = self.names(process) {
                let address = names
                    .ipv4
                    .map_or(Ipv4Addr::UNSPECIFIED, Ipv4Prefix::address);
                let driver = self.driver(device);
                let (device, queues) = (device.as_u32(), process.nic_queues);
                write!(text, " ip={address} mac={} nic={device}", names.mac)?;
                write!(text, " nic_queues={queues} card={driver}")?;
            }
            if let Some(device) = device {
                write!(text, " nvme={}", device.as_u32())?;
            }
            for (index, volume) in volumes.iter().enumerate() {
                let before = if index == 0 { " volumes=" } else { "," };
                write!(text, "{before}{volume:#x}")?;
            }
            write!(
                text,
                " {more} owner={:#x} {}",
                identity.0, process.arguments
            )
        })();
        match written {
            Ok(()) => Ok((identity, text)),
            Err(_) => Err(StartError::Seat(seats::StartError::NoSeat)),
        }
    }

    /// Says how many frames the kernel and the virtual queues had no room for, and what cards themselves have counted.
    pub(crate) fn report_drops(&mut self) {
        let seats = &self.plane.platform().kernel.seats;
        let rings = (0..seats.len()).filter_map(|index| seats.by_index(index));
        let ring = rings
            .map(|seat| seat.queues.pass().counters().dropped)
            .sum();
        report::drops(self.dropped(), ring);
        for device in &mut *self.plane.platform_mut().devices {
            if let Device::Net(card) = &mut **device
                && let Some(card) = card.counters()
            {
                report::card(&card);
            }
        }
    }

    /// The driver of a card, by its name.
    fn driver(&self, device: DeviceId) -> &'static str {
        match self
            .plane
            .platform()
            .devices
            .get(device.index())
            .map(|device| &**device)
        {
            Some(Device::Net(card)) => card.driver(),
            Some(Device::Nvme(_)) | None => "none",
        }
    }

    /// What a process may call itself, and on which card.
    fn names(&self, process: &manifest::Process<'_>) -> Option<(DeviceId, NameGrant)> {
        let device = self.device_of(QueueKind::Network)?;
        let Device::Net(card) = &**self.plane.platform().devices.get(device.index())? else {
            return None;
        };
        let names = NameGrant {
            mac: card.mac(),
            vlan: None,
            ipv4: Some(Ipv4Prefix::host(process.address?)),
            ipv6: None,
            ports: PortRange::ALL,
        };
        Some((device, names))
    }

    /// Whether the first card steers by classes of addresses, of which no two processes can have the same.
    pub(crate) fn steers_by_class(&self) -> bool {
        let mut devices = self.plane.platform().devices.iter();
        devices.any(|device| matches!(&**device, Device::Net(card) if card.steers_by_class()))
    }

    /// The first device of a kind.
    pub(crate) fn device_of(&self, kind: QueueKind) -> Option<DeviceId> {
        let mut devices = (0..).zip(self.plane.platform().devices.iter());
        let (index, _) = devices.find(|(_, device)| device.kind() == kind)?;
        Some(DeviceId::new(index))
    }

    /// The name of a volume, which is entered the first time that a process has it.
    fn enter_volume(
        &mut self,
        device: DeviceId,
        volume: &manifest::Volume,
    ) -> Result<u64, StartError> {
        let volume = Volume {
            device,
            namespace: volume.namespace,
            start: Lba::new(volume.first),
            blocks: volume.blocks,
            owner: Identity(volume.owner),
        };
        let known = &self.plane.platform().volumes;
        if let Some((id, _)) = known.iter().find(|(_, it)| *it == volume) {
            return Ok(id.to_bits());
        }
        let id = self
            .plane
            .add_volume(volume)
            .map_err(|_| StartError::Volume)?;
        let volumes = &mut self.plane.platform_mut().volumes;
        volumes.push((id, volume)).map_err(|_| StartError::Volume)?;
        Ok(id.to_bits())
    }

    /// Takes a request of the process on `core`. One that makes no sense ends the process.
    pub(crate) fn request(&mut self, core: CoreId, message: &Message) {
        let Some(process) = self.plane.platform().process_on(core) else {
            return;
        };
        let Some((tag, request)) = Request::decode(message) else {
            print!("a malformed request from core {}\n", core.index());
            return self.stop(core);
        };
        let (tag, now) = (tag.unwrap_or(Tag(0)), time::now());
        let mut taken = self.plane.submit(process, tag, request, now);
        // Each request pays for the delivery of one event, so there is room; if ever there were none, it would be made here.
        while taken == Err(SubmitError::Busy) && self.step(now) {
            taken = self.plane.submit(process, tag, request, now);
        }
        if taken == Err(SubmitError::TooMany) {
            print!("core {}: more requests than agreed on\n", core.index());
            self.stop(core);
        }
        self.step(now);
    }

    /// Handles one event, or goes on with what is under way; whether there was an event.
    fn step(&mut self, now: Instant) -> bool {
        let event = self.plane.poll(now);
        let has_event = event.is_some();
        if let Some(event) = event {
            self.handle(event);
        }
        has_event
    }

    /// Has the process on `core` stopped.
    pub(crate) fn stop(&mut self, core: CoreId) {
        if let Some(seat) = self.kernel().seats.at(core) {
            seat.stop();
        }
    }

    /// Takes back all that the process on `core` had, which has ended.
    pub(crate) fn end(&mut self, core: CoreId) {
        if let Some(process) = self.plane.platform().process_on(core) {
            self.plane.end_process(process);
        }
    }

    /// Tells the process on `core` that its queues are about to be taken back.
    pub(crate) fn announce_revocation(&mut self, core: CoreId) {
        if let Some(seat) = self.kernel().seats.at(core) {
            seat.queues.pass().announce_end();
        }
    }

    /// Takes back the queues of the process on `core`, which goes on without them.
    pub(crate) fn revoke(&mut self, core: CoreId) {
        if let Some(process) = self.plane.platform().process_on(core) {
            self.plane.revoke_all(process);
        }
    }

    /// Whether the process on `core` has nothing any more: only then may its memory be used again.
    pub(crate) fn has_nothing(&self, core: CoreId) -> bool {
        self.plane.platform().process_on(core).is_none()
    }

    /// What the process on `core` has done, and has.
    pub(crate) fn counters(&mut self, core: CoreId) -> Counters {
        let seat = self.kernel().seats.at(core);
        let counters = seat.map(|seat| seat.queues.pass().counters());
        let process = self.plane.platform().process_on(core);
        let leases = self.plane.leases();
        let own = leases.filter(|(spec, _)| Some(spec.process) == process);
        Counters {
            leases: own.count(),
            ..counters.unwrap_or_default()
        }
    }

    /// Takes note that a device broke its protocol.
    pub(crate) fn failed(&mut self, device: DeviceId) {
        print!("device {} broke its protocol\n", device.as_u32());
        let now = time::now();
        self.device_failed(device, now);
    }

    fn device_failed(&mut self, device: DeviceId, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        self.plane.device_failed(device, Failure::NeedsReset, now);
    }

    /// Does what there is to do without being asked.
    pub(crate) fn turn(&mut self) -> Turn {
        let now = time::now();
        for index in 0..self.plane.platform().devices.len() {
            let machine = self.plane.platform_mut();
            let has_failed = machine
                .devices
                .get_mut(index)
                .is_some_and(|device| device.turn(now));
            if has_failed && let Ok(index) = u32::try_from(index) {
                self.device_failed(DeviceId::new(index), now);
            }
        }
        for _ in 0..BUDGET {
            if !self.step(now) {
                break;
            }
        }
        let is_moving = self.move_frames(now);
        if is_moving {
            Turn::Busy
        } else if !self.slow_paths.is_empty() && self.plane.is_idle() {
            Turn::Idle(Some(now.saturating_add(SLOW_INTERVAL)))
        } else if self.plane.is_idle() {
            Turn::Idle(None)
        } else {
            Turn::Busy
        }
    }

    /// Moves frames of virtual queues; whether there were any.
    fn move_frames(&mut self, now: Instant) -> bool {
        let mut is_moving = false;
        for path in &mut self.slow_paths {
            match path.turn(&mut self.plane) {
                Some(moved) => is_moving |= moved,
                None => {
                    let device = path.device();
                    self.failures = self.failures.saturating_add(1);
                    self.plane.device_failed(device, Failure::NeedsReset, now);
                }
            }
        }
        is_moving
    }

    /// For the self-test: breaks the kernel's own rings with the cards, as a defect would.
    pub(crate) fn break_slow_paths(&mut self) {
        self.slow_paths.iter().for_each(|path| path.break_rings());
    }

    /// For the self-test: has no queue of an SSD stop any more, or stop again.
    pub(crate) fn refuse_to_stop(&mut self, refuses: bool) {
        for device in &mut self.plane.platform_mut().devices {
            if let Device::Nvme(device) = &mut **device {
                device.refuse_to_stop(refuses);
            }
        }
    }

    /// The volume that was entered first.
    pub(crate) fn first_volume(&self) -> Option<VolumeId> {
        Some(self.plane.platform().volumes.first()?.0)
    }

    /// Whether the kernel's own pairs all work.
    pub(crate) fn serves_slow_paths(&self) -> bool {
        let machine = self.plane.platform();
        self.slow_paths.iter().all(|path| path.is_up(machine))
    }

    /// How many resets of network cards have been begun; `None` where there is no card.
    pub(crate) fn resets(&self) -> Option<u32> {
        let cards = self.slow_paths.iter();
        let resets = cards.filter_map(|path| path.card(self.plane.platform()));
        resets.map(NetDevice::resets).reduce(u32::wrapping_add)
    }

    /// Frames that the kernel had no room for.
    pub(crate) fn dropped(&self) -> u64 {
        self.slow_paths.iter().map(|path| path.dropped()).sum()
    }

    /// Says what was found.
    pub(crate) fn report(&self) {
        let machine = self.plane.platform();
        let cards = machine.devices.iter().filter_map(|device| match &**device {
            Device::Net(card) => Some(card),
            Device::Nvme(_) => None,
        });
        let card = cards.into_iter().next();
        let steers = card.is_some_and(NetDevice::steers);
        let ring = match card.map(NetDevice::format) {
            Some(RingFormat::VirtioPacked) => "packed",
            Some(RingFormat::Ixgbe) => "advanced",
            Some(RingFormat::VirtioSplit | RingFormat::Nvme | RingFormat::Virtual) | None => {
                "split"
            }
        };
        report::boot(&report::Boot {
            cores: cores::all().count(),
            nodes: machine.kernel.frames.nodes().count(),
            nic: card.map_or("", NetDevice::driver),
            ring,
            steering: if steers { "hardware" } else { "software" },
            reason: if steers {
                ""
            } else {
                "the card does not steer by an exact hash"
            },
            queue_pairs: self.queue_pairs(QueueKind::Network) + u32::from(card.is_some()),
            iommu_platform: card.is_some_and(NetDevice::is_behind_iommu),
            nvme_queue_pairs: self.queue_pairs(QueueKind::Block),
        });
    }
}

/// What processes are told of the network.
fn network(settings: &manifest::Kernel) -> String<NETWORK_WORDS> {
    let mut words = String::new();
    let written = (|| {
        if let Some(network) = settings.network {
            write!(words, " net={}/{}", network.address, network.prefix)?;
        }
        match settings.gateway {
            Some(gateway) => write!(words, " gateway={gateway}"),
            None => Ok(()),
        }
    })();
    debug_assert!(written.is_ok(), "two addresses fit");
    words
}

/// The quota of a process of the manifest.
fn quota(process: &manifest::Process<'_>) -> Quota {
    capacity::quota(u32::from(process.nic_queues) + u32::from(process.nvme_queues))
}

/// Ends a boot that cannot go on.
fn give_up(reason: fmt::Arguments<'_>) -> ! {
    print!("{reason}\n");
    power_off(Verdict::Fail)
}
