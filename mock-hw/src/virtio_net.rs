//! A virtio-net device over PCI or MMIO, written from Virtual I/O Device (VIRTIO) Version 1.3.
//!
//! What it does and what it leaves out is listed in `docs/models.md`. It takes no more than the driver allows it to,
//! and records a violation, with the section, where the driver breaks a rule; a ring that cannot go on makes it ask
//! for a reset, as the specification says.

mod chain;
mod datapath;
mod device;
mod engine;
mod features;
mod mmio;
mod packed;
mod pci;
mod queue;
mod setup;
mod split;
mod steering;

use alloc::sync::Arc;
use core::{fmt, time::Duration};
use std::sync::Mutex;

pub use features::Features;
pub use mmio::MmioRegisters;

use crate::{
    Memory, World,
    fault::Faults,
    memory::RequesterId,
    pci::{Bar, ConfigSpace, Endpoint},
    sync::lock,
    wire::Wire,
};
use device::{DRIVER_OK, Net};

/// What a device offers.
///
/// Fields may be added in minor releases: take the others from the default.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// The features offered.
    pub features: Features,
    /// Queue pairs, 1 to 32,768: at first one of them is in use.
    pub queue_pairs: u16,
    /// Entries of the largest ring, 1 to 32,768; for split rings a power of two.
    pub queue_size: u16,
    /// Bytes between the notification addresses of two queues: 0, 4, or 4,096 for a page per queue.
    pub notify_multiplier: u32,
    /// MSI-X vectors, 1 to 2,048.
    pub vectors: u16,
    /// The device's address.
    pub mac: [u8; 6],
    /// The largest packet, without Ethernet header.
    pub mtu: u16,
    /// Frames that wait for receive buffers, per queue; later ones are dropped.
    pub backlog: usize,
    /// How long a reset of the device or of a queue takes; transfers may still happen meanwhile.
    pub reset_delay: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            // The packed ring is for those who ask for it.
            features: Features::all().difference(Features::RING_PACKED | Features::IN_ORDER),
            queue_pairs: 4,
            queue_size: 256,
            notify_multiplier: 4,
            vectors: 16,
            mac: [0x52, 0x54, 0x00, 0x12, 0x34, 0x56],
            mtu: 1500,
            backlog: 256,
            reset_delay: Duration::from_micros(50),
        }
    }
}

/// What a device has done so far, and holds at the moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Frames sent.
    pub sent: u64,
    /// Frames delivered to the driver.
    pub received: u64,
    /// Frames that found no buffer.
    pub dropped: u64,
    /// Frames that the receive filter, or a link that is down, kept out.
    pub filtered: u64,
    /// Chains in the device's hands.
    pub held: usize,
    /// Receive queues that are enabled.
    pub receiving: usize,
}

/// A virtio-net device. Clones are the same device.
///
/// ```
/// use parakernel_core::mmio::Registers;
/// use parakernel_mock_hw::{World, memory::RequesterId, virtio_net::{Config, VirtioNet}};
///
/// let world = World::new(1);
/// let memory = world.memory(1 << 20);
/// let net = VirtioNet::mmio(&world, &memory, RequesterId(1), Config::default());
/// let registers = net.mmio_registers();
/// assert_eq!(registers.read32(0x000), 0x7472_6976);
/// assert_eq!(registers.read32(0x008), 1);
/// ```
#[derive(Clone)]
pub struct VirtioNet(Arc<Mutex<Net>>);

impl VirtioNet {
    /// A device on PCI. It joins `world`.
    ///
    /// Numbers of `config` outside their ranges are brought into them.
    #[must_use]
    pub fn pci(world: &World, memory: &Memory, requester: RequesterId, config: Config) -> Self {
        Self::join(
            world,
            pci::device(world, memory, requester, config.in_range()),
        )
    }

    /// A device over MMIO; an IOMMU knows it by `requester`. It joins `world`.
    ///
    /// Its interrupt line appears as messages with vector 0, address 0 and data 0.
    #[must_use]
    pub fn mmio(world: &World, memory: &Memory, requester: RequesterId, config: Config) -> Self {
        Self::join(
            world,
            mmio::device(world, memory, requester, config.in_range()),
        )
    }

    fn join(world: &World, device: Arc<Mutex<Net>>) -> Self {
        world.attach(device.clone());
        Self(device)
    }

    /// The function's configuration space; for a device over MMIO there is nothing in it.
    #[must_use]
    pub fn config_space(&self) -> ConfigSpace {
        ConfigSpace::new(self.0.clone())
    }

    /// The whole function, for a host.
    #[must_use]
    pub fn endpoint(&self) -> Endpoint {
        Endpoint::new(self.0.clone())
    }

    /// The registers behind base address register `index`: virtio in 4, MSI-X in 2. Others are empty.
    #[must_use]
    pub fn bar(&self, index: usize) -> Bar {
        Bar::new(self.0.clone(), index)
    }

    /// The registers of a device over MMIO.
    #[must_use]
    pub fn mmio_registers(&self) -> MmioRegisters {
        MmioRegisters(self.0.clone())
    }

    /// What the device is plugged into.
    #[must_use]
    pub fn wire(&self) -> Wire {
        lock(&self.0).wire.clone()
    }

    /// The device's faults. All of [`Fault`](crate::fault::Fault) exist: `AdminWrongId` is a control command
    /// acknowledged with an unknown code, `SlowReady` a reset that takes 30 s.
    #[must_use]
    pub fn faults(&self) -> Faults {
        lock(&self.0).function.faults().clone()
    }

    /// Brings the link up or down; the driver is told.
    pub fn set_link(&self, up: bool) {
        let mut net = lock(&self.0);
        if net.link_up != up {
            net.link_up = up;
            net.config_changed();
        }
    }

    /// Makes the device ask for a reset, as after an error of its own.
    pub fn need_reset(&self) {
        lock(&self.0).need_reset();
    }

    /// Pulls the device out of its slot: reads are all ones, nothing is transferred any more.
    pub fn remove(&self) {
        lock(&self.0).remove();
    }

    /// Takes power away and gives it back, also to a device that was pulled: everything is as at first.
    pub fn power_cycle(&self) {
        let mut net = lock(&self.0);
        net.remove();
        net.function.set_gone(false);
    }

    /// Whether the driver set `DRIVER_OK`.
    #[must_use]
    pub fn is_driven(&self) -> bool {
        lock(&self.0).status & DRIVER_OK != 0
    }

    /// The features in force.
    #[must_use]
    pub fn features(&self) -> Features {
        lock(&self.0).features
    }

    /// What the device has done so far, and holds at the moment.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let net = lock(&self.0);
        Counts {
            held: net.queues.iter().map(queue::Queue::held).sum(),
            receiving: net.receiving(),
            ..net.counts
        }
    }
}

impl Config {
    fn in_range(mut self) -> Self {
        self.queue_pairs = self.queue_pairs.clamp(1, 0x7fff);
        self.queue_size = self.queue_size.clamp(1, 0x8000);
        self.vectors = self.vectors.clamp(1, 2048);
        self
    }
}

impl fmt::Debug for VirtioNet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VirtioNet")
            .field("counts", &self.counts())
            .finish_non_exhaustive()
    }
}
