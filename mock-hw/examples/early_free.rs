//! A kernel that takes memory back before the device has let go of it, and the audit that catches it.
//!
//! `cargo run -p parakernel-mock-hw --example early_free`
#![expect(clippy::expect_used, reason = "an example: a failure ends it")]

use parakernel_core::{address::Direction, mmio::Registers};
use parakernel_mock_hw::{
    World,
    memory::{Lease, RequesterId},
    virtio_net::{Config, Features, VirtioNet},
};

fn main() {
    let world = World::new(1);
    let memory = world.memory(1 << 20);
    let (device, lease) = (RequesterId(0x0100), Lease(7));
    let features = Features::VERSION_1;
    let net = VirtioNet::mmio(
        &world,
        &memory,
        device,
        Config {
            features,
            ..Config::default()
        },
    );
    let ring = memory.allocate(3 * 4096).expect("there is enough memory");
    memory.grant(device, ring, Direction::Bidirectional, lease);
    let base = u32::try_from(ring.start.as_u64() & 0xffff_ffff).expect("a masked number fits");

    let registers = net.mmio_registers();
    let write = |offset, value| registers.write32(offset, value);
    for (offset, value) in [(0x070, 1), (0x070, 3), (0x024, 1), (0x020, 1), (0x070, 11)] {
        write(offset, value); // ACKNOWLEDGE, DRIVER, VERSION_1, FEATURES_OK
    }
    assert_eq!(registers.read32(0x070), 11);
    for (offset, page) in [(0x080, 0), (0x090, 4096), (0x0a0, 8192)] {
        write(offset, base + page);
        write(offset + 4, 4); // above 4 GiB
    }
    write(0x038, 8);
    write(0x044, 1); // receive queue 0: eight entries, ready
    write(0x070, 15); // DRIVER_OK

    net.wire().send(&[0; 60]);
    world.settle(1000);
    println!("while the lease lasts: {:?}", memory.allowed(lease));
    memory.end(lease); // too early: the queue was not reset
    net.wire().send(&[0; 60]);
    write(0x050, 0);
    world.settle(1000);
    for escape in memory.escapes() {
        println!("escape: {escape:?}");
    }
    assert!(!memory.escapes().is_empty());
}
