use parakernel_core::address::BusAddress;

use super::*;
use crate::{
    World,
    memory::{DmaError, Lease, RequesterId},
};

struct Plain {
    function: Function,
    resets: u32,
}

impl Model for Plain {
    fn function(&mut self) -> &mut Function {
        &mut self.function
    }

    fn read_bar(&mut self, _bar: usize, offset: usize, _width: Width) -> u64 {
        offset as u64
    }

    fn write_bar(&mut self, _bar: usize, _offset: usize, _width: Width, _value: u64) {}

    fn reset(&mut self) {
        self.resets += 1;
    }
}

fn plain(world: &World) -> Arc<Mutex<Plain>> {
    let memory = world.memory(1 << 16);
    let identity = Identity {
        vendor: 0x1234,
        device: 0x5678,
        subsystem_vendor: 1,
        subsystem: 2,
        revision: 3,
        class: 0x01_08_02,
    };
    let mut function = Function::new(world, &memory, RequesterId(0x100), identity);
    function.add_bar(BarLayout {
        index: 0,
        len: 0x4000,
    });
    function.add_msix(70, 0, 0x2000, 0x3000);
    function.seal();
    Arc::new(Mutex::new(Plain {
        function,
        resets: 0,
    }))
}

#[test]
fn the_capability_list_holds_power_management_express_and_msix() {
    let world = World::new(0);
    let config = ConfigSpace::new(plain(&world));
    assert_eq!(config.read32(0), 0x5678_1234);
    assert_eq!(config.read32(8), 0x0108_0203);
    let mut ids = Vec::new();
    let mut at = usize::from(config.read8(0x34));
    while at != 0 {
        ids.push(config.read8(at));
        at = usize::from(config.read8(at + 1));
    }
    assert_eq!(ids, [0x01, 0x10, 0x11]);
}

#[test]
fn a_bar_tells_its_size_and_answers_only_with_memory_space_on() {
    let world = World::new(0);
    let model = plain(&world);
    let (config, bar) = (ConfigSpace::new(model.clone()), Bar::new(model, 0));
    config.write32(0x10, u32::MAX);
    config.write32(0x14, u32::MAX);
    assert_eq!(config.read32(0x10), 0xffff_c004);
    assert_eq!(config.read32(0x14), u32::MAX);
    assert_eq!(bar.read32(8), u32::MAX);
    assert_eq!(world.trace().violations().len(), 1);
    config.enable();
    assert_eq!(bar.read32(8), 8);
    assert_eq!(bar.read32(6), u32::MAX);
    assert_eq!(bar.read32(0x4000), u32::MAX);
}

#[test]
fn a_masked_vector_waits_and_is_sent_when_unmasked() {
    let world = World::new(0);
    let model = plain(&world);
    let (config, bar) = (ConfigSpace::new(model.clone()), Bar::new(model.clone(), 0));
    config.enable();
    let msix = 0x40 + 8 + 0x3c;
    assert_eq!(config.read8(msix), 0x11);
    assert_eq!(config.read16(msix + 2), 69);
    config.write16(msix + 2, 0x8000);
    bar.write64(0x2000 + 16 * 65, 0xfee0_1000);
    bar.write32(0x2000 + 16 * 65 + 8, 0x42);
    lock(&model).function.interrupt(65);
    assert!(world.interrupts().take().is_none());
    assert_eq!(bar.read64(0x3008), 2);
    bar.write32(0x2000 + 16 * 65 + 12, 0);
    let message = world.interrupts().take().unwrap();
    assert_eq!(
        (message.vector, message.address, message.data),
        (65, 0xfee0_1000, 0x42)
    );
    assert_eq!(bar.read64(0x3008), 0);
    world.trace().assert_clean();
}

#[test]
fn without_bus_mastering_nothing_is_transferred() {
    let world = World::new(0);
    let model = plain(&world);
    let mut plain = lock(&model);
    let address = BusAddress::new(0x4_0000_0000);
    assert_eq!(
        plain.function().write(address, &[1]),
        Err(DmaError::NotMaster(address))
    );
    assert_eq!(world.trace().violations().len(), 1);
    let _unused = Lease(0);
}

#[test]
fn a_function_level_reset_resets_and_forgets() {
    let world = World::new(0);
    let model = plain(&world);
    let config = ConfigSpace::new(model.clone());
    config.enable();
    let express = 0x48;
    assert_eq!(config.read8(express), 0x10);
    config.write16(express + 8, 0x8000);
    assert_eq!(lock(&model).resets, 1);
    assert_eq!(config.read16(4), 0);
}
