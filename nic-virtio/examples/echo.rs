//! A network card that is a model, its driver, and an owner of a queue pair that sends back what it receives.

use parakernel_core::{
    memory::{ArenaLayout, Pool, SegmentList},
    queue::{RxQueue, TxQueue},
};
use parakernel_mock_hw::{
    World,
    memory::{Lease, RequesterId},
    virtio_net::{Config, VirtioNet},
};
use parakernel_nic_virtio::{
    device::{Device, Pair, PairRings, Setup, Vectors},
    features::Features,
    transport::{Transport, mmio::MmioTransport},
    virtqueue::split::Split,
};

type Ring<'a> = Split<'a, 16>;
const LAYOUT: ArenaLayout = ArenaLayout {
    stride: 2112,
    headroom: 64,
    header: 12,
    count: 64,
};

fn main() -> Result<(), Box<dyn core::error::Error>> {
    // A machine with a network card, in this process.
    let (world, card) = (World::new(1), RequesterId(1));
    let memory = world.memory(1 << 20);
    let net = VirtioNet::mmio(&world, &memory, card, Config::default());
    let block = |len| memory.lend(card, len, Lease(1)).ok_or("no memory");

    // The kernel brings it up, and gives its first queue pair away.
    let (control, idle, pairs) = (block(4096)?, block(4096)?, &mut [Pair::EMPTY]);
    let setup = Setup {
        wanted: Features::PARTITION,
        control,
        idle,
        pairs,
        config_vector: None,
        capacity: LAYOUT.capacity(),
    };
    let transport = MmioTransport::new(net.mmio_registers())?;
    let mut device = Device::bring_up(transport, &mut world.clone(), setup)?;
    let [rx, tx] = [block(Ring::BYTES)?, block(Ring::BYTES)?];
    let rings = PairRings {
        receive: Ring::addresses(&rx),
        transmit: Ring::addresses(&tx),
    };
    device.begin_claim(0, rings, Vectors::default(), world.now())?;
    while device.poll_claim(0, world.now())?.is_pending() {}

    // Its owner sends back what it receives.
    let (mut words, mut list) = ([0; 64], [0; 16]);
    let arena = memory
        .lend_arena(card, LAYOUT, Lease(1))
        .ok_or("no memory")?;
    let mut pool = Pool::new(arena, &mut words);
    let [rx, tx] = [rx, tx].map(|block| Ring::in_block(block.memory()));
    let (rings, registers) = (
        [rx.ok_or("no ring")?, tx.ok_or("no ring")?],
        device.transport().notify_registers(),
    );
    let (mut rx, mut tx) = device.queues::<_, _, 16>(0, rings, registers, &pool)?;
    rx.arm(&mut pool);
    net.wire().send(b"\x52\x54\x00\x12\x34\x56 hello, world");
    world.settle(1000);
    let mut frames = SegmentList::new(&mut list);
    rx.poll(&mut pool, &mut frames, 16)?;
    tx.submit(&mut frames)?;
    world.settle(1000);
    let frame = net.wire().take().ok_or("nothing came back")?;
    println!("{}", frame.escape_ascii());
    Ok(())
}
