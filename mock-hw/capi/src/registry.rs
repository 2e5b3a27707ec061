//! What handles stand for. They are numbers, so that a wrong one is found out.

use alloc::{collections::BTreeMap, sync::Arc};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::{code::Code, device::Device, world::World};

static REGISTRY: Mutex<Registry> = Mutex::new(Registry {
    next: 1,
    worlds: BTreeMap::new(),
    devices: BTreeMap::new(),
});

/// All worlds and devices of this process, by their handles.
#[derive(Debug)]
struct Registry {
    next: u64,
    worlds: BTreeMap<u64, Arc<World>>,
    devices: BTreeMap<u64, Arc<Device>>,
}

impl Registry {
    fn take_number(&mut self) -> u64 {
        let number = self.next;
        self.next += 1;
        number
    }
}

/// Everything is whole between any two statements that can panic.
fn registry() -> MutexGuard<'static, Registry> {
    REGISTRY.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn world(handle: u64) -> Result<Arc<World>, Code> {
    registry().worlds.get(&handle).cloned().ok_or(Code::Handle)
}

pub(crate) fn device(handle: u64) -> Result<Arc<Device>, Code> {
    registry().devices.get(&handle).cloned().ok_or(Code::Handle)
}

pub(crate) fn add_world(world: World) -> u64 {
    let mut registry = registry();
    let number = registry.take_number();
    registry.worlds.insert(number, Arc::new(world));
    number
}

/// Registers a device with its virtual functions; the handle of the first of them.
///
/// # Errors
///
/// [`Code::Handle`] where its world ended meanwhile.
pub(crate) fn add_devices(world: u64, devices: Vec<Device>) -> Result<u64, Code> {
    let mut registry = registry();
    if !registry.worlds.contains_key(&world) {
        devices.iter().for_each(Device::end);
        return Err(Code::Handle);
    }
    let first = registry.next;
    for device in devices {
        let number = registry.take_number();
        registry.devices.insert(number, Arc::new(device));
    }
    Ok(first)
}

/// Takes a world and all its devices away.
pub(crate) fn take_world(handle: u64) -> Result<Vec<Arc<Device>>, Code> {
    let mut registry = registry();
    let world = registry.worlds.remove(&handle).ok_or(Code::Handle)?;
    Ok(registry.take_devices(|device| Arc::ptr_eq(&device.world, &world)))
}

/// Takes a card away with its virtual functions.
///
/// # Errors
///
/// [`Code::Unsupported`] for a virtual function.
pub(crate) fn take_device(handle: u64) -> Result<Vec<Arc<Device>>, Code> {
    let mut registry = registry();
    let device = registry.devices.get(&handle).cloned().ok_or(Code::Handle)?;
    if device.is_virtual() {
        return Err(Code::Unsupported);
    }
    Ok(registry.take_devices(|other| other.belongs_to(&device)))
}

/// The handle of virtual function `n` of a card.
///
/// # Errors
///
/// [`Code::Unsupported`] where the card has no such function, or is none that has.
pub(crate) fn virtual_function(handle: u64, n: u16) -> Result<u64, Code> {
    let registry = registry();
    let card = registry.devices.get(&handle).ok_or(Code::Handle)?;
    let mut functions = registry.devices.iter();
    let function = functions.find(|(_, device)| !card.is_virtual() && device.is_function(card, n));
    function.map(|(handle, _)| *handle).ok_or(Code::Unsupported)
}

impl Registry {
    fn take_devices(&mut self, is_wanted: impl Fn(&Device) -> bool) -> Vec<Arc<Device>> {
        let mut taken = Vec::new();
        self.devices.retain(|_, device| {
            let wanted = is_wanted(device);
            if wanted {
                taken.push(device.clone());
            }
            !wanted
        });
        taken
    }
}
