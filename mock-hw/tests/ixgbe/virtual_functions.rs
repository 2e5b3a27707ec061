//! Virtual functions: mailbox, queues of their own, memory of their own, interrupts of their own.

use parakernel_core::{address::BusAddress, mmio::Registers};
use parakernel_mock_hw::{
    ixgbe::Config,
    memory::{Lease, RequesterId},
    pci::{Bar, Endpoint},
};

use super::{
    between,
    driver::{DEVICE, Driver, LEASE},
    with_pools,
};

/// The third virtual function: pool 2, 132 functions after the physical one.
const N: usize = 2;
const FUNCTION: RequesterId = RequesterId(DEVICE.0 + 128 + 4);
const OWN: Lease = Lease(99);
const ADDRESS: [u8; 6] = [2, 0, 0, 0, 0, 0x12];

struct Virtual {
    endpoint: Endpoint,
    bar: Bar,
}

/// A card with four virtual functions, as its physical function's driver leaves it, and the third of them.
fn card(seed: u64) -> (Driver, Virtual) {
    let config = Config {
        virtual_functions: 4,
        ..Config::default()
    };
    let driver = Driver::with(seed, config);
    enable(&driver, 4);
    let _of_the_physical_function = with_pools(&driver);
    driver.write(0x1_1050, 0x8000_0003); // GCR_EXT: 64 pools
    driver.write(0x0720, 1 << N); // PFMBIMR
    driver.write(0x0018, 1 << 14); // CTRL_EXT.PFRSTD
    let endpoint = driver.card.virtual_function(N).unwrap();
    endpoint.config_space().enable();
    let bar = endpoint.bar(0);
    (driver, Virtual { endpoint, bar })
}

/// What a kernel writes into the SR-IOV capability for `count` virtual functions.
fn enable(driver: &Driver, count: u16) {
    let config = driver.card.config_space();
    config.write16(0x170, count);
    config.write16(0x168, 0x19);
}

/// The capability as the datasheet has it (9.4.4), its place in the list, and its base address registers.
#[test]
fn the_capability_says_where_virtual_functions_are() {
    let config = Config {
        virtual_functions: 4,
        ..Config::default()
    };
    let driver = Driver::with(34, config);
    let space = driver.card.config_space();
    let mut at = 0x100;
    let mut list = Vec::new();
    while at != 0 {
        let header = space.read32(at);
        list.push((at, header & 0xffff));
        at = (header >> 20) as usize;
    }
    assert_eq!(list, [(0x100, 0x0001), (0x150, 0x000e), (0x160, 0x0010)]);
    assert_eq!(space.read32(0x16c), 4 << 16 | 4); // InitialVFs, TotalVFs
    assert_eq!(space.read32(0x174), 2 << 16 | 0x80); // offset, stride
    assert_eq!(space.read16(0x17a), 0x10ed);
    assert_eq!(space.read32(0x17c) & 1, 1); // 4 KiB pages
    for bar in [0x184, 0x190] {
        space.write32(bar, u32::MAX);
        space.write32(bar + 4, u32::MAX);
        assert_eq!(
            (space.read32(bar), space.read32(bar + 4)),
            (0xffff_c004, u32::MAX)
        );
    }
    // There is no third one, and no way to have it.
    space.write32(0x18c, u32::MAX);
    assert_eq!(space.read32(0x18c), 0);
    // A card without virtual functions has no such capability.
    assert_eq!(Driver::new(34).card.config_space().read32(0x150) >> 20, 0);
}

#[test]
fn virtual_functions_come_and_go_with_the_capability() {
    let config = Config {
        virtual_functions: 4,
        ..Config::default()
    };
    let driver = Driver::with(35, config);
    let id = |n: usize| {
        driver
            .card
            .virtual_function(n)
            .unwrap()
            .config_space()
            .read32(0)
    };
    assert_eq!([id(0), id(3)], [u32::MAX; 2]);
    enable(&driver, 3);
    assert_eq!([id(0), id(2), id(3)], [0x10ed_8086, 0x10ed_8086, u32::MAX]);
    let first = driver.card.virtual_function(0).unwrap();
    first.config_space().enable();
    let links = |bar: &Bar| bar.read32(0x0010) >> 30 & 1;
    assert_eq!(links(&first.bar(0)), 1);
    // Without VF Memory Space Enable the registers do not answer, the configuration space does.
    let space = driver.card.config_space();
    space.write16(0x168, 0x11);
    driver.world.trace().assert_clean();
    assert_eq!(first.bar(0).read32(0x0010), u32::MAX);
    assert_eq!(driver.world.trace().violations().len(), 1);
    assert_eq!(id(0), 0x10ed_8086);
    // Gone and back: as after power-up.
    space.write16(0x168, 0);
    assert_eq!(id(0), u32::MAX);
    space.write16(0x168, 0x19);
    assert_eq!(first.config_space().read16(4) & 6, 0);
    driver.world.trace().clear();
    // NumVFs may not change while they are there, nor be more than there can be.
    space.write16(0x170, 2);
    assert_eq!(driver.world.trace().violations().len(), 1);
    space.write16(0x168, 0);
    space.write16(0x170, 5);
    space.write16(0x168, 0x19);
    assert_eq!(driver.world.trace().violations().len(), 2);
    driver.world.trace().clear();
    // The physical function's reset takes them with it.
    space.write16(0xa8, 0x8000);
    assert_eq!([id(0), id(3)], [u32::MAX; 2]);
    assert_eq!(space.read16(0x168), 0);
}

/// A function that goes takes its transfers with it, and a machine may keep it against the capability.
#[test]
fn a_virtual_function_that_went_transfers_nothing() {
    let (driver, own) = card(36);
    let block = driver.memory.lend(FUNCTION, 8192, OWN).unwrap();
    let ring = block.bus_address().as_u64();
    let bus = driver.memory.bus(FUNCTION);
    let arm = || {
        own.bar.write64(0x1000, ring);
        own.bar.write32(0x1008, 8 * 16);
        own.bar.write32(0x1014, 0x0200_0002);
        let address = (ring + 4096).to_le_bytes();
        bus.write(BusAddress::new(ring), &address).unwrap();
        bus.write(BusAddress::new(ring + 8), &[0; 8]).unwrap();
        own.bar.write32(0x1028, 1 << 25);
        own.bar.write32(0x1018, 1);
    };
    let arrived = || {
        driver.wire.send(&between([2, 0, 0, 0, 0, 9], ADDRESS));
        driver.settle();
        bus.read_array::<8>(BusAddress::new(ring + 8)).unwrap()[0] & 1 == 1
    };
    let place = 0x1000 + 0x40 * 2 * N;
    driver.write(place + 0x28, 0);
    driver.world.run_for(core::time::Duration::from_micros(200));
    arm();
    assert!(arrived());
    let space = driver.card.config_space();
    space.write16(0x168, 0);
    driver.world.run_for(core::time::Duration::from_micros(200));
    assert_eq!(driver.read(place + 0x28) & 1 << 25, 0);
    assert_eq!(driver.read(0x1_1050) & 3, 3);
    arm();
    assert!(!arrived());
    driver.card.keep_virtual_functions();
    own.endpoint.config_space().enable();
    space.write16(0xa8, 0x8000);
    assert_eq!(own.endpoint.config_space().read32(0), 0x10ed_8086);
}

#[test]
fn a_message_goes_through_the_mailbox_and_its_answer_comes_back() {
    let (driver, own) = card(31);
    assert_eq!(own.endpoint.config_space().read32(0), 0x10ed_8086);
    // The physical function is done with its reset: told once.
    assert_eq!(own.bar.read32(0x02fc), 1 << 7);
    assert_eq!(own.bar.read32(0x02fc), 0);
    own.bar.write32(0x02fc, 4);
    assert_eq!(own.bar.read32(0x02fc), 4);
    // The other side cannot have the memory meanwhile.
    driver.write(0x4b00 + 4 * N, 8);
    assert_eq!(driver.read(0x4b00 + 4 * N), 4);
    own.bar.write32(0x0200, 0x1234_5678);
    own.bar.write32(0x02fc, 1);
    assert_eq!(driver.read(0x0710), 1 << N);
    assert_eq!(driver.read(0x0808) & 1 << 19, 1 << 19);
    assert_eq!(driver.read(0x1_3000 + 64 * N), 0x1234_5678);
    driver.write(0x0710, 1 << N);
    assert_eq!(driver.read(0x0710), 0);
    driver.write(0x1_3000 + 64 * N, 0x8000_0001);
    driver.write(0x4b00 + 4 * N, 3);
    assert_eq!(own.bar.read32(0x02fc), 0x30);
    assert_eq!(own.bar.read32(0x0200), 0x8000_0001);
    // Another function's mailbox is another one.
    assert_eq!(
        driver
            .card
            .virtual_function(1)
            .unwrap()
            .bar(0)
            .read32(0x0200),
        u32::MAX
    );
    driver.world.trace().clear();
}

#[test]
fn its_queues_move_its_own_memory_and_signal_its_own_vectors() {
    let (driver, own) = card(32);
    let lend = |len| {
        let block = driver.memory.lend(FUNCTION, len, OWN).unwrap();
        block.bus_address().as_u64()
    };
    let poke = |at: u64, value: u64| {
        let bus = driver.memory.bus(FUNCTION);
        bus.write(BusAddress::new(at), &value.to_le_bytes())
            .unwrap();
    };
    let (ring, buffer) = (lend(4096), lend(4096));
    own.endpoint.config_space().write16(0x72, 0x8000);
    let msix = own.endpoint.bar(3);
    msix.write32(0, 0xfee0_0000);
    msix.write32(8, 0x55);
    msix.write32(12, 0);
    own.bar.write32(0x0120, 0x80); // VTIVAR: receive queue 0 to vector 0
    own.bar.write32(0x0110, 7); // VTEIAC
    own.bar.write32(0x0108, 7); // VTEIMS
    // Its first receive queue.
    own.bar.write32(0x1028, 0);
    driver.world.run_for(core::time::Duration::from_micros(200));
    own.bar.write64(0x1000, ring);
    own.bar.write32(0x1008, 8 * 16);
    own.bar.write32(0x1010, 0);
    own.bar.write32(0x1014, 0x0200_0002);
    poke(ring, buffer);
    own.bar.write32(0x1028, 1 << 25);
    own.bar.write32(0x1018, 1);
    // Nothing of it is the physical function's memory.
    driver.memory.end(LEASE);
    let frame = between([2, 0, 0, 0, 0, 9], ADDRESS);
    driver.wire.send(&frame);
    driver.settle();
    let mut got = vec![0; frame.len()];
    driver
        .memory
        .bus(FUNCTION)
        .read(BusAddress::new(buffer), &mut got)
        .unwrap();
    assert_eq!(got, frame);
    let messages = driver.world.interrupts().take_all();
    assert_eq!(messages.len(), 1);
    assert_eq!((messages[0].requester, messages[0].data), (FUNCTION, 0x55));
    assert_eq!((own.bar.read32(0x101c), own.bar.read32(0x1034)), (1, 0));
    // Without bus mastering nothing is moved.
    own.endpoint.config_space().write16(0x04, 2);
    own.bar.write32(0x1018, 2);
    driver.wire.send(&frame);
    driver.settle();
    assert!(driver.memory.escapes().is_empty());
}

#[test]
fn its_reset_is_its_own_and_told_to_the_physical_function() {
    let (driver, own) = card(33);
    let express = 0xa0;
    own.bar.write32(0x2028, 1 << 25);
    own.endpoint.config_space().write16(express + 8, 0x8000);
    assert_eq!(driver.read(0x0600), 1 << N);
    assert_eq!(driver.read(0x6028 + 0x40 * 2 * N) & 1 << 25, 0);
    // The neighbour goes on.
    assert_ne!(driver.read(0x6028 + 0x40 * 2) & 1 << 25, 0);
    driver.write(0x0700, 1 << N); // PFVFLREC
    assert_eq!(driver.read(0x0600), 0);
}
