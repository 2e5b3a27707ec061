//! An NVMe controller, written from the NVM Express Base Specification 1.4.
//!
//! What it does and what it leaves out is listed in `docs/models.md`. Commands are fetched, moved page by page and
//! completed in an order that the world's seed decides, so completions come out of order.

mod admin;
mod command;
mod completion;
mod controller;
mod engine;
mod events;
mod features;
mod format;
mod identify;
mod io;
mod log;
mod namespace;
mod pointer;
mod queue;
mod shadow;
mod status;

use alloc::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};
use core::{fmt, time::Duration};
use std::sync::Mutex;

pub use events::Event;
pub use namespace::NamespaceConfig;
pub use status::Status;

use crate::{
    Memory, World,
    fault::Faults,
    memory::RequesterId,
    pci::{Bar, BarLayout, ConfigSpace, Endpoint, Function, Identity},
    sync::lock,
};
use controller::{Controller, Life, Shutdown, Written};
use events::Events;
use features::Features;
use log::Log;
use namespace::Namespace;

bitflags::bitflags! {
    /// What a controller may offer.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Options: u8 {
        /// SGLs may be used for I/O.
        const SGL = 1;
        /// The Doorbell Buffer Config command is there.
        const SHADOW_DOORBELLS = 2;
        /// Written blocks may be lost with power until they are flushed.
        const VOLATILE_CACHE = 4;
    }
}

impl Options {
    fn has_sgl(self) -> bool {
        self.contains(Self::SGL)
    }

    fn has_shadow_doorbells(self) -> bool {
        self.contains(Self::SHADOW_DOORBELLS)
    }

    fn has_volatile_cache(self) -> bool {
        self.contains(Self::VOLATILE_CACHE)
    }
}

/// What a controller offers.
///
/// Fields may be added in minor releases: take the others from the default.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// Its namespaces, numbered from 1.
    pub namespaces: Vec<NamespaceConfig>,
    /// I/O queue pairs, 1 to 65,535.
    pub queue_pairs: u16,
    /// Entries of the largest queue, 2 to 65,536: CAP.MQES counts from zero.
    pub queue_entries: u32,
    /// MSI-X vectors, 1 to 2,048.
    pub vectors: u16,
    /// Doorbells are `4 << stride_exponent` bytes apart, 0 to 15: CAP.DSTRD.
    pub stride_exponent: u8,
    /// The largest memory page is `4096 << page_exponent_max`, 0 to 15: CAP.MPSMAX.
    pub page_exponent_max: u8,
    /// The largest transfer is `4096 << transfer_exponent` bytes; 0 for no limit: MDTS.
    pub transfer_exponent: u8,
    /// The version that VS and Identify report: major, minor and tertiary number, 16, 8 and 8 bits.
    pub version: u32,
    /// What the controller offers beyond the least.
    pub options: Options,
    /// Asynchronous Event Requests that are held at once, at least 1: AERL counts from zero.
    pub event_requests: u8,
    /// The largest valid namespace id, if more than the namespaces need.
    pub namespace_limit: u32,
    /// Commands of one queue that are fetched and not completed, at most.
    pub in_flight: u32,
    /// How long becoming ready may take: CAP.TO, in steps of 500 ms.
    pub timeout: Duration,
    /// How long becoming ready takes.
    pub ready_delay: Duration,
    /// How long becoming not ready takes; transfers may still happen meanwhile.
    pub disable_delay: Duration,
    /// How long a shutdown takes.
    pub shutdown_delay: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            namespaces: vec![NamespaceConfig::default()],
            queue_pairs: 64,
            queue_entries: 1024,
            vectors: 65,
            stride_exponent: 0,
            page_exponent_max: 4,
            transfer_exponent: 5,
            version: 0x0001_0400,
            options: Options::all(),
            event_requests: 4,
            namespace_limit: 0,
            in_flight: 32,
            timeout: Duration::from_secs(5),
            ready_delay: Duration::from_millis(2),
            disable_delay: Duration::from_millis(1),
            shutdown_delay: Duration::from_millis(3),
        }
    }
}

/// Lets the next commands that match fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StatusRule {
    /// Only commands of this submission queue.
    pub queue: Option<u16>,
    /// Only commands with this opcode.
    pub opcode: Option<u8>,
    /// How they fail.
    pub status: Status,
    /// How many of them, at least 1.
    pub count: u32,
}

/// How many queues and commands a controller has at the moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Submission queues, the admin queue included.
    pub submission_queues: usize,
    /// Completion queues, the admin queue included.
    pub completion_queues: usize,
    /// Commands whose data is moving.
    pub moving: usize,
    /// Commands that failed so far.
    pub failed: u64,
}

/// An NVMe controller. Clones are the same controller.
///
/// ```
/// use embedded_hal::delay::DelayNs;
/// use parakernel_core::mmio::Registers;
/// use parakernel_mock_hw::{World, memory::RequesterId, nvme::{Config, Nvme}};
///
/// let mut world = World::new(1);
/// let memory = world.memory(1 << 20);
/// let nvme = Nvme::new(&world, &memory, RequesterId(0x0100), Config::default());
/// nvme.config_space().enable();
/// let bar = nvme.bar0();
/// assert_eq!(bar.read32(0x08), 0x0001_0400);
/// bar.write32(0x24, 0x000f_000f); // 16 entries each
/// bar.write32(0x14, 0x0046_0001); // enable
/// assert_eq!(bar.read32(0x1c) & 1, 0);
/// world.delay_ms(3);
/// assert_eq!(bar.read32(0x1c) & 1, 1);
/// ```
#[derive(Clone)]
pub struct Nvme(Arc<Mutex<Controller>>);

impl Nvme {
    /// A controller at `requester`, powered on and disabled. It joins `world`.
    ///
    /// Numbers of `config` outside their ranges are brought into them.
    #[must_use]
    pub fn new(world: &World, memory: &Memory, requester: RequesterId, config: Config) -> Self {
        let config = config.in_range();
        let function = function(world, memory, requester, &config);
        let namespaces = config
            .namespaces
            .iter()
            .map(|namespace| Namespace::new(*namespace));
        let controller = Controller {
            function,
            written: Written::default(),
            life: Life::Disabled,
            shutdown: Shutdown::No,
            submissions: BTreeMap::new(),
            completions: BTreeMap::new(),
            active: BTreeSet::new(),
            posting: BTreeSet::new(),
            jobs: Vec::new(),
            namespaces: (1..).zip(namespaces).collect(),
            features: Features::new(&config),
            events: Events::default(),
            log: Log::new(),
            shadow: None,
            rules: VecDeque::new(),
            link_back: None,
            config,
        };
        let shared = Arc::new(Mutex::new(controller));
        world.attach(shared.clone());
        Self(shared)
    }

    /// The function's configuration space.
    #[must_use]
    pub fn config_space(&self) -> ConfigSpace {
        ConfigSpace::new(self.0.clone())
    }

    /// The whole function, for a host.
    #[must_use]
    pub fn endpoint(&self) -> Endpoint {
        Endpoint::new(self.0.clone())
    }

    /// The controller's registers and its MSI-X table.
    #[must_use]
    pub fn bar0(&self) -> Bar {
        Bar::new(self.0.clone(), 0)
    }

    /// The controller's faults. All of [`Fault`](crate::fault::Fault) exist but `BadLength`: no completion has one.
    #[must_use]
    pub fn faults(&self) -> Faults {
        lock(&self.0).function.faults().clone()
    }

    /// Lets commands fail.
    pub fn fail_next(&self, rule: StatusRule) {
        let count = rule.count.max(1);
        lock(&self.0).rules.push_back(StatusRule { count, ..rule });
    }

    /// Makes the controller report `event`, if the host has asked for such.
    pub fn raise(&self, event: Event) {
        lock(&self.0).raise(event);
    }

    /// Reads blocks as they are now, cached ones included; `None` where they do not lie in the namespace.
    #[must_use]
    pub fn read_blocks(&self, namespace: u32, lba: u64, blocks: u64) -> Option<Vec<u8>> {
        let controller = lock(&self.0);
        let namespace = controller.namespaces.get(&namespace)?;
        namespace
            .holds(lba, blocks)
            .then(|| namespace.read(lba, blocks))
    }

    /// Writes whole blocks to the medium; whether they lie in the namespace.
    #[must_use]
    pub fn write_blocks(&self, namespace: u32, lba: u64, bytes: &[u8]) -> bool {
        let mut controller = lock(&self.0);
        let Some(namespace) = controller.namespaces.get_mut(&namespace) else {
            return false;
        };
        let blocks = (bytes.len() / namespace.config.block_len) as u64;
        let inside = namespace.holds(lba, blocks);
        if inside {
            namespace.write(lba, bytes, true);
        }
        inside
    }

    /// Attaches namespace `id`, changes its layout (its blocks are lost), or detaches it; the host is told.
    pub fn change_namespace(&self, id: u32, config: Option<NamespaceConfig>) {
        let mut controller = lock(&self.0);
        match config {
            Some(config) => controller.namespaces.insert(id, Namespace::new(config)),
            None => controller.namespaces.remove(&id),
        };
        controller.log.changed.insert(id);
        if controller.features.events & 0x100 != 0 {
            controller.report(Events::NAMESPACE);
        }
    }

    /// Pulls the controller out of its slot: reads are all ones, nothing is transferred any more.
    pub fn remove(&self) {
        lock(&self.0).remove();
    }

    /// Takes power away and gives it back, also to a controller that was pulled: registers are as at first, what was
    /// not flushed is lost.
    pub fn power_cycle(&self) {
        let mut controller = lock(&self.0);
        controller.remove();
        controller.function.set_gone(false);
        controller
            .namespaces
            .values_mut()
            .for_each(Namespace::lose_power);
        controller.log.power_cycles += 1;
    }

    /// What the controller has at the moment.
    #[must_use]
    pub fn counts(&self) -> Counts {
        lock(&self.0).counts()
    }
}

impl Config {
    fn in_range(mut self) -> Self {
        self.queue_pairs = self.queue_pairs.max(1);
        self.queue_entries = self.queue_entries.clamp(2, 65_536);
        self.vectors = self.vectors.clamp(1, 2048);
        self.stride_exponent = self.stride_exponent.min(15);
        self.page_exponent_max = self.page_exponent_max.min(15);
        self.transfer_exponent = self.transfer_exponent.min(20);
        self.event_requests = self.event_requests.max(1);
        self.in_flight = self.in_flight.max(1);
        self
    }
}

/// BAR 0: registers, doorbells, then the MSI-X table and its pending bits on pages of their own.
fn function(world: &World, memory: &Memory, requester: RequesterId, config: &Config) -> Function {
    let identity = Identity {
        vendor: 0x1b36,
        device: 0x0010,
        subsystem_vendor: 0x1af4,
        subsystem: 0x1100,
        revision: 2,
        // Mass storage, non-volatile memory, NVM Express.
        class: 0x01_08_02,
    };
    let mut function = Function::new(world, memory, requester, identity);
    let doorbells = 2 * (usize::from(config.queue_pairs) + 1) * (4 << config.stride_exponent);
    let table = (0x1000 + doorbells).next_multiple_of(4096);
    let pending = (table + 16 * usize::from(config.vectors)).next_multiple_of(4096);
    let len = (pending + usize::from(config.vectors).div_ceil(64) * 8).next_power_of_two();
    function.add_bar(BarLayout { index: 0, len });
    function.add_msix(config.vectors, 0, table, pending);
    function.seal();
    function
}

impl fmt::Debug for Nvme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nvme")
            .field("counts", &self.counts())
            .finish_non_exhaustive()
    }
}
