//! An Intel 82599 (X520) with one port: the physical function, and virtual ones.
//!
//! Written from the Intel 82599 10 GbE Controller Datasheet (331520); what it does and what it leaves out is listed
//! in `docs/models.md`, register by register in `table.rs`. An SFP+ module for 10GBASE-SR is plugged in.

mod agent;
mod control;
mod device;
mod director;
mod eeprom;
mod entry;
mod filter;
mod interrupt;
mod mailbox;
mod offload;
mod packet;
mod pool;
mod receive;
mod registers;
mod sfp;
mod sriov;
mod statistics;
mod table;
mod transmit;
mod virtual_function;

use alloc::sync::Arc;
use core::{fmt, time::Duration};
use std::sync::Mutex;

use crate::{
    Memory, World,
    fault::Faults,
    memory::RequesterId,
    pci::{Bar, BarLayout, ConfigSpace, Endpoint, Extended, Function, Identity},
    sync::lock,
    wire::Wire,
};
use agent::Agent;
use device::{Device, MSIX_BAR, REGISTER_BAR};
use virtual_function::{Virtual, VirtualModel};

/// What a card is like.
///
/// Fields may be added in minor releases: take the others from the default.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// The address in the EEPROM.
    pub mac: [u8; 6],
    /// Whether the EEPROM lets drivers use modules of any maker; the module here is of none.
    pub any_module: bool,
    /// Virtual functions, up to 63.
    pub virtual_functions: u8,
    /// How long a reset takes.
    pub reset_delay: Duration,
    /// How long the link takes to come up.
    pub link_delay: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            mac: [0x02, 0x1b, 0x21, 0x00, 0x00, 0x01],
            any_module: true,
            virtual_functions: 0,
            reset_delay: Duration::from_micros(500),
            link_delay: Duration::from_millis(20),
        }
    }
}

/// What a card has done so far, and holds at the moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Frames sent.
    pub sent: u64,
    /// Frames delivered to the driver.
    pub received: u64,
    /// Frames that found no descriptor, or no room in the packet buffer.
    pub dropped: u64,
    /// Frames that the filters kept out.
    pub filtered: u64,
    /// Receive queues that are enabled.
    pub receiving: usize,
}

/// An 82599 with one port. Clones are the same card.
///
/// ```
/// use parakernel_core::mmio::Registers;
/// use parakernel_mock_hw::{World, ixgbe::{Config, Ixgbe}, memory::RequesterId};
///
/// let world = World::new(1);
/// let memory = world.memory(1 << 20);
/// let card = Ixgbe::new(&world, &memory, RequesterId(0x0100), Config::default());
/// card.config_space().enable();
/// // The first receive address comes from the EEPROM.
/// assert_eq!(card.bar0().read32(0xa200), 0x0021_1b02);
/// ```
#[derive(Clone)]
pub struct Ixgbe {
    device: Arc<Mutex<Device>>,
    virtuals: Vec<Arc<Mutex<VirtualModel>>>,
}

impl Ixgbe {
    /// A card at `requester`, powered on. It joins `world`, and so do its virtual functions, 128 functions after it, then
    /// every second one (82599, 9.4.4.1).
    #[must_use]
    pub fn new(world: &World, memory: &Memory, requester: RequesterId, config: Config) -> Self {
        Self::with_memories(world, memory, requester, config, |_| memory.clone())
    }

    /// As [`new`](Self::new), where the host reaches memory of its own for each virtual function: `memory_of` its
    /// requester.
    #[must_use]
    pub fn with_memories(
        world: &World,
        memory: &Memory,
        requester: RequesterId,
        config: Config,
        memory_of: impl Fn(RequesterId) -> Memory,
    ) -> Self {
        let count = config.virtual_functions.min(63);
        let functions: Vec<Function> = (0..u16::from(count))
            .map(|n| RequesterId(requester.0.wrapping_add(sriov::OFFSET + sriov::STRIDE * n)))
            .map(|requester| virtual_function(world, &memory_of(requester), requester))
            .collect();
        let virtuals = functions.iter().map(|own| Virtual::new(own.port()));
        let function = function(world, memory, requester, count);
        let device = Device::new(function, config, virtuals.collect());
        let device = Arc::new(Mutex::new(device));
        world.attach(device.clone());
        let model = |(n, function)| {
            let device = device.clone();
            let model = VirtualModel {
                device,
                n,
                function,
            };
            Arc::new(Mutex::new(model))
        };
        let virtuals: Vec<_> = functions.into_iter().enumerate().map(model).collect();
        for model in &virtuals {
            world.attach(model.clone());
        }
        Self { device, virtuals }
    }

    /// Virtual function `n`, of those that the configuration offers: its registers in BAR 0, MSI-X in BAR 3.
    ///
    /// It is there while the SR-IOV capability of the card says so, or after
    /// [`keep_virtual_functions`](Self::keep_virtual_functions). Its queues are those of pool `n`, once `GCR_EXT` says
    /// that there are virtual functions. Its configuration space is what a hypervisor shows of it: with ids, base
    /// address registers and a memory space bit, which the hardware leaves to the capability.
    #[must_use]
    pub fn virtual_function(&self, n: usize) -> Option<Endpoint> {
        let model = self.virtuals.get(n)?;
        Some(Endpoint::new(model.clone()))
    }

    /// Plays the driver of the physical function in `world`, for virtual functions whose drivers are elsewhere: it turns
    /// them on, answers their mailboxes in versions 1.0 to 1.4 of the agreement between Intel's drivers, and gives each a
    /// pool with two queues, an address, VLANs, multicast, frames of up to 9,728 bytes. It receives nothing itself.
    ///
    /// Nobody else may drive the physical function then.
    pub fn host_virtual_functions(&self, world: &World) {
        let agent = Agent::new(self.config_space(), self.bar0(), self.virtuals.len());
        world.attach(Arc::new(Mutex::new(agent)));
    }

    /// Lets all virtual functions be there whatever the SR-IOV capability says, for a machine that hides it.
    pub fn keep_virtual_functions(&self) {
        lock(&self.device).keep_virtuals();
    }

    /// The whole function, for a host.
    #[must_use]
    pub fn endpoint(&self) -> Endpoint {
        Endpoint::new(self.device.clone())
    }

    /// The function's configuration space.
    #[must_use]
    pub fn config_space(&self) -> ConfigSpace {
        ConfigSpace::new(self.device.clone())
    }

    /// The registers.
    #[must_use]
    pub fn bar0(&self) -> Bar {
        Bar::new(self.device.clone(), REGISTER_BAR)
    }

    /// The registers behind base address register `index`: the card's in 0, MSI-X in 4. Others are empty.
    #[must_use]
    pub fn bar(&self, index: usize) -> Bar {
        Bar::new(self.device.clone(), index)
    }

    /// What the card is plugged into.
    #[must_use]
    pub fn wire(&self) -> Wire {
        lock(&self.device).wire.clone()
    }

    /// The card's faults: `LinkFlap`, `StuckQueue` (in either direction it neither
    /// works, starts nor stops), `StuckDone`, `LostInterrupt`, `Removal`,
    /// `AdminTimeout` (an EEPROM read that is never done), `BadLength`, `IndexJump` (of the transmit head), `SlowReady`
    /// (a reset of 30 s) and `IommuFault` exist.
    #[must_use]
    pub fn faults(&self) -> Faults {
        lock(&self.device).function.faults().clone()
    }

    /// Plugs the cable in, or out.
    pub fn set_link(&self, plugged: bool) {
        let mut device = lock(&self.device);
        device.link.plugged = plugged;
        if plugged {
            device.begin_link();
        } else {
            device.drop_link();
        }
    }

    /// Plugs the module in, or out.
    pub fn set_module(&self, present: bool) {
        let mut device = lock(&self.device);
        device.sfp.set_present(present);
        if present {
            device.begin_link();
        } else {
            device.drop_link();
        }
    }

    /// Whether the link is up.
    #[must_use]
    pub fn link_is_up(&self) -> bool {
        lock(&self.device).link.up
    }

    /// Whether a frame from the wire reaches a queue now: link up, receive unit on, a queue enabled.
    #[must_use]
    pub fn takes_frames(&self) -> bool {
        let device = lock(&self.device);
        device.link.up && device.hears() && device.receiving() > 0
    }

    /// Whether a driver says that it is there (`CTRL_EXT.DRV_LOAD`).
    #[must_use]
    pub fn is_driven(&self) -> bool {
        lock(&self.device).is_driven()
    }

    /// Pulls the card out of its slot: reads are all ones, nothing is transferred any more.
    pub fn remove(&self) {
        lock(&self.device).remove();
    }

    /// Takes power away and gives it back, also to a card that was pulled.
    pub fn power_cycle(&self) {
        let mut device = lock(&self.device);
        device.remove();
        device.function.set_gone(false);
    }

    /// What the card has done so far, and holds at the moment.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let device = lock(&self.device);
        Counts {
            receiving: device.receiving(),
            ..device.counts
        }
    }
}

/// The function: 128 KiB of registers, and 64 vectors in a BAR of their own (82599, 9.3).
fn function(world: &World, memory: &Memory, requester: RequesterId, virtuals: u8) -> Function {
    let identity = Identity {
        vendor: 0x8086,
        device: 0x10fb,
        subsystem_vendor: 0x8086,
        subsystem: 0x0006,
        revision: 1,
        // Network controller, Ethernet.
        class: 0x02_00_00,
    };
    // Drivers know the places of these two capabilities (9.3.2).
    let mut function = Function::with_express_at(0xa0, world, memory, requester, identity);
    function.continue_at(0x70);
    function.add_bar(BarLayout {
        index: REGISTER_BAR,
        len: registers::LEN,
    });
    function.add_bar(BarLayout {
        index: MSIX_BAR,
        len: 0x4000,
    });
    function.add_msix(64, MSIX_BAR, 0, 0x2000);
    function.add_extended(0x100, &Extended::error_reporting());
    function.add_extended(0x150, &Extended::alternative_routing());
    if virtuals > 0 {
        function.add_extended(sriov::AT, &sriov::capability(virtuals));
    }
    function.seal();
    function
}

/// A virtual function: 16 KiB of registers, three vectors.
fn virtual_function(world: &World, memory: &Memory, requester: RequesterId) -> Function {
    let identity = Identity {
        vendor: 0x8086,
        device: 0x10ed,
        subsystem_vendor: 0x8086,
        subsystem: 0x0006,
        revision: 1,
        class: 0x02_00_00,
    };
    let mut function = Function::with_express_at(0xa0, world, memory, requester, identity);
    function.continue_at(0x70);
    function.add_bar(BarLayout {
        index: REGISTER_BAR,
        len: virtual_function::LEN,
    });
    function.add_bar(BarLayout {
        index: virtual_function::MSIX_BAR,
        len: virtual_function::MSIX_LEN,
    });
    function.add_msix(
        virtual_function::VECTORS,
        virtual_function::MSIX_BAR,
        0,
        0x2000,
    );
    function.seal();
    function
}

impl fmt::Debug for Ixgbe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ixgbe")
            .field("counts", &self.counts())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
