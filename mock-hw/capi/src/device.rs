//! Devices: what a caller can ask of one, and how they are made.

use alloc::sync::Arc;
use std::sync::{Mutex, PoisonError};

use parakernel_core::mmio::{Registers as _, Width};
use parakernel_mock_hw::{
    Ixgbe, Memory, Nvme, VirtioNet,
    fault::Faults,
    ixgbe,
    memory::RequesterId,
    nvme,
    pci::{Bar, ConfigSpace, Endpoint},
    virtio_net,
    wire::Wire,
};

use crate::{
    code::Code,
    host::{Callbacks, CallersMemory, Config},
    pointer::{Buffer, Out},
    world::World,
};

/// One function of a device.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) world: Arc<World>,
    model: Model,
    requester: RequesterId,
    callbacks: Arc<Callbacks>,
    config_space: ConfigSpace,
    bars: [Bar; Endpoint::BARS],
    endpoint: Endpoint,
    /// A frame that did not fit into the caller's buffer.
    frame: Mutex<Option<Vec<u8>>>,
}

/// What it is a function of.
#[derive(Clone, Debug)]
enum Model {
    Ixgbe(Ixgbe),
    VirtioNet(VirtioNet),
    Nvme(Nvme),
    /// Function `n` of an 82599, counted from 0.
    Virtual(u16),
}

/// Makes a device of this kind; with an 82599 come its virtual functions, in their order.
///
/// # Errors
///
/// [`Code::Argument`] where `config` has what this kind does not take; [`Code::Full`] where the world takes no more.
pub(crate) fn create(
    world: &Arc<World>,
    kind: u32,
    callbacks: Callbacks,
    config: &Config,
) -> Result<Vec<Device>, Code> {
    // Everything is checked before the world gets something.
    let plan = plan(kind, config)?;
    let requester = world.next_requester()?;
    let callbacks = Arc::new(callbacks);
    let memory = |requester| callers_memory(world, &callbacks, requester);
    let own = memory(requester);
    let (model, endpoint, virtuals) = match plan {
        Plan::Ixgbe(config) => {
            let card = Ixgbe::with_memories(&world.models, &own, requester, config, memory);
            let virtuals = (0..).map_while(|n| card.virtual_function(usize::from(n)).zip(Some(n)));
            let virtuals: Vec<_> = virtuals.collect();
            (Model::Ixgbe(card.clone()), card.endpoint(), virtuals)
        }
        Plan::VirtioNet(config) => {
            let net = VirtioNet::pci(&world.models, &own, requester, config);
            (Model::VirtioNet(net.clone()), net.endpoint(), Vec::new())
        }
        Plan::Nvme(config) => {
            let nvme = Nvme::new(&world.models, &own, requester, config);
            (Model::Nvme(nvme.clone()), nvme.endpoint(), Vec::new())
        }
    };
    let virtuals = virtuals.into_iter().map(|(endpoint, n)| {
        let requester = RequesterId(requester.0 + 128 + 2 * n);
        (Model::Virtual(n), endpoint, requester)
    });
    let functions = core::iter::once((model, endpoint, requester)).chain(virtuals);
    let device = |(model, endpoint, requester)| {
        world.route(requester, callbacks.clone());
        Device::new(world, model, endpoint, requester, &callbacks)
    };
    Ok(functions.map(device).collect())
}

fn callers_memory(world: &World, callbacks: &Arc<Callbacks>, requester: RequesterId) -> Memory {
    world.models.host_memory(Arc::new(CallersMemory {
        callbacks: callbacks.clone(),
        requester,
    }))
}

/// What to make, in the model's own terms.
enum Plan {
    Ixgbe(ixgbe::Config),
    VirtioNet(virtio_net::Config),
    Nvme(nvme::Config),
}

/// Checks `config` and fills in what the caller leaves open.
fn plan(kind: u32, config: &Config) -> Result<Plan, Code> {
    let unused = |fields: &[u64]| fields.iter().all(|field| *field == 0);
    let disk = [u64::from(config.block_len), config.blocks];
    let queues = [config.queue_pairs, config.queue_entries, config.vectors].map(u64::from);
    let functions = u64::from(config.virtual_functions);
    let address = config.mac.map(u64::from);
    let reserved = unused(&[config.reserved.into(), config.reserved2.into()]);
    match kind {
        1 if reserved && unused(&disk) && unused(&queues) && config.features == 0 => ixgbe(config),
        2 if reserved && unused(&disk) && functions == 0 => virtio_net(config),
        3 if reserved && unused(&address) && functions == 0 && config.features == 0 => nvme(config),
        _ => Err(Code::Argument),
    }
}

fn ixgbe(config: &Config) -> Result<Plan, Code> {
    let default = ixgbe::Config::default();
    let functions = u8::try_from(config.virtual_functions).map_err(|_| Code::Argument)?;
    at_most(functions, 63)?;
    Ok(Plan::Ixgbe(ixgbe::Config {
        mac: address(config.mac, default.mac),
        virtual_functions: functions,
        ..default
    }))
}

fn virtio_net(config: &Config) -> Result<Plan, Code> {
    let default = virtio_net::Config::default();
    let features = match config.features {
        0 => default.features,
        bits => virtio_net::Features::from_bits(bits).ok_or(Code::Argument)?,
    };
    let queue_pairs = or(at_most(config.queue_pairs, 0x7fff)?, default.queue_pairs);
    let enough = queue_pairs
        .saturating_mul(2)
        .saturating_add(2)
        .min(MOST_VECTORS);
    Ok(Plan::VirtioNet(virtio_net::Config {
        features,
        queue_pairs,
        queue_size: or(at_most(config.queue_entries, 0x8000)?, default.queue_size),
        vectors: or(at_most(config.vectors, MOST_VECTORS)?, enough),
        mac: address(config.mac, default.mac),
        ..default
    }))
}

fn nvme(config: &Config) -> Result<Plan, Code> {
    let default = nvme::Config::default();
    let namespace = nvme::NamespaceConfig::default();
    let block_len = match config.block_len {
        0 => namespace.block_len,
        512 => 512,
        4096 => 4096,
        _ => return Err(Code::Argument),
    };
    if config.queue_entries == 1 {
        return Err(Code::Argument);
    }
    let queue_pairs = or(config.queue_pairs, default.queue_pairs);
    let enough = queue_pairs.saturating_add(1).min(MOST_VECTORS);
    let entries = u32::from(config.queue_entries);
    Ok(Plan::Nvme(nvme::Config {
        namespaces: vec![nvme::NamespaceConfig {
            blocks: or(at_most(config.blocks, MOST_BLOCKS)?, namespace.blocks),
            block_len,
        }],
        queue_pairs,
        queue_entries: or(entries, default.queue_entries),
        vectors: or(at_most(config.vectors, MOST_VECTORS)?, enough),
        ..default
    }))
}

/// What MSI-X has room for.
const MOST_VECTORS: u16 = 2048;

/// More than a driver gets to touch; the models' arithmetic is far from its end.
const MOST_BLOCKS: u64 = 1 << 40;

/// `value`, or the model's own choice for 0.
fn or<T: Default + PartialEq>(value: T, default: T) -> T {
    if value == T::default() {
        default
    } else {
        value
    }
}

fn address(mac: [u8; 6], default: [u8; 6]) -> [u8; 6] {
    or(mac, default)
}

fn at_most<T: PartialOrd>(value: T, most: T) -> Result<T, Code> {
    if value > most {
        return Err(Code::Argument);
    }
    Ok(value)
}

impl Device {
    fn new(
        world: &Arc<World>,
        model: Model,
        endpoint: Endpoint,
        requester: RequesterId,
        callbacks: &Arc<Callbacks>,
    ) -> Self {
        Self {
            world: world.clone(),
            model,
            requester,
            callbacks: callbacks.clone(),
            config_space: endpoint.config_space(),
            bars: core::array::from_fn(|index| endpoint.bar(index)),
            endpoint,
            frame: Mutex::default(),
        }
    }

    pub(crate) const fn is_virtual(&self) -> bool {
        matches!(self.model, Model::Virtual(_))
    }

    /// Whether it is a function of `card`.
    pub(crate) fn belongs_to(&self, card: &Self) -> bool {
        Arc::ptr_eq(&self.callbacks, &card.callbacks)
    }

    /// Whether it is virtual function `n` of `card`.
    pub(crate) fn is_function(&self, card: &Self, n: u16) -> bool {
        self.belongs_to(card) && matches!(self.model, Model::Virtual(own) if own == n)
    }

    pub(crate) const fn requester(&self) -> u16 {
        self.requester.0
    }

    /// Pulls it for good.
    pub(crate) fn end(&self) {
        match &self.model {
            Model::Ixgbe(card) => card.remove(),
            Model::VirtioNet(net) => net.remove(),
            Model::Nvme(nvme) => nvme.remove(),
            // It goes with its card.
            Model::Virtual(_) => {}
        }
        self.world.remove_route(self.requester);
        self.callbacks.close();
    }

    pub(crate) fn reset(&self) {
        self.endpoint.reset();
    }

    pub(crate) fn enable(&self) {
        self.config_space.enable();
    }

    pub(crate) fn config_read(&self, offset: u64, width: u32) -> Result<u32, Code> {
        let (offset, width) = access(offset, width, self.config_space.len())?;
        let value = self.config_space.read(offset, narrow(width)?);
        Ok(u32::try_from(value).unwrap_or(u32::MAX))
    }

    pub(crate) fn config_write(&self, offset: u64, width: u32, value: u32) -> Result<(), Code> {
        let (offset, width) = access(offset, width, self.config_space.len())?;
        self.config_space
            .write(offset, narrow(width)?, value.into());
        Ok(())
    }

    fn bar(&self, bar: u32) -> Result<&Bar, Code> {
        let index = usize::try_from(bar).map_err(|_| Code::Argument)?;
        self.bars.get(index).ok_or(Code::Argument)
    }

    pub(crate) fn bar_len(&self, bar: u32) -> Result<u64, Code> {
        Ok(self.bar(bar)?.len() as u64)
    }

    pub(crate) fn bar_read(&self, bar: u32, offset: u64, width: u32) -> Result<u64, Code> {
        let bar = self.bar(bar)?;
        let (offset, width) = access(offset, width, bar.len())?;
        Ok(bar.read(offset, width))
    }

    pub(crate) fn bar_write(&self, bar: u32, at: (u64, u32), value: u64) -> Result<(), Code> {
        let bar = self.bar(bar)?;
        let (offset, width) = access(at.0, at.1, bar.len())?;
        bar.write(offset, width, value);
        Ok(())
    }

    pub(crate) fn wire(&self) -> Result<Wire, Code> {
        match &self.model {
            Model::Ixgbe(card) => Ok(card.wire()),
            Model::VirtioNet(net) => Ok(net.wire()),
            Model::Nvme(_) | Model::Virtual(_) => Err(Code::Unsupported),
        }
    }

    pub(crate) fn frame_in(&self, frame: &[u8]) -> Result<(), Code> {
        let wire = self.wire()?;
        if wire.waiting() >= Wire::LIMIT {
            return Err(Code::Full);
        }
        wire.send(frame);
        Ok(())
    }

    pub(crate) fn frame_out(&self, buffer: Buffer, len: Out<usize>) -> Result<(), Code> {
        let wire = self.wire()?;
        let mut kept = self.frame.lock().unwrap_or_else(PoisonError::into_inner);
        let frame = kept.take().or_else(|| wire.take()).ok_or(Code::Empty)?;
        len.put(frame.len());
        let result = buffer.put(&frame);
        if result.is_err() {
            *kept = Some(frame);
        }
        result
    }

    pub(crate) fn set_link(&self, plugged: bool) -> Result<(), Code> {
        match &self.model {
            Model::Ixgbe(card) => card.set_link(plugged),
            Model::VirtioNet(net) => net.set_link(plugged),
            Model::Nvme(_) | Model::Virtual(_) => return Err(Code::Unsupported),
        }
        Ok(())
    }

    pub(crate) fn faults(&self) -> Result<Faults, Code> {
        match &self.model {
            Model::Ixgbe(card) => Ok(card.faults()),
            Model::VirtioNet(net) => Ok(net.faults()),
            Model::Nvme(nvme) => Ok(nvme.faults()),
            Model::Virtual(_) => Err(Code::Unsupported),
        }
    }
}

/// Checks an access to `len` bytes of registers.
fn access(offset: u64, width: u32, len: usize) -> Result<(usize, Width), Code> {
    let width = match width {
        1 => Width::U8,
        2 => Width::U16,
        4 => Width::U32,
        8 => Width::U64,
        _ => return Err(Code::Argument),
    };
    let offset = usize::try_from(offset).map_err(|_| Code::Argument)?;
    let inside = offset < len && len - offset >= width.bytes();
    if !inside || !offset.is_multiple_of(width.bytes()) {
        return Err(Code::Argument);
    }
    Ok((offset, width))
}

/// Configuration space has no wider access.
fn narrow(width: Width) -> Result<Width, Code> {
    match width {
        Width::U64 => Err(Code::Argument),
        Width::U8 | Width::U16 | Width::U32 => Ok(width),
    }
}
