//! An 82599 that is a model, its driver, and the owner of a queue pair, who sends back what it receives.

use parakernel_core::memory::{Pool, SegmentList};
use parakernel_core::queue::{RxQueue, TxQueue};
use parakernel_mock_hw::{Ixgbe, World, ixgbe::Config, memory::Lease, memory::RequesterId};
use parakernel_nic_ixgbe::device::{Device, Pair, Setup};
use parakernel_nic_ixgbe::{id::Kind, offload::Metadata, steering};

fn main() -> Result<(), Box<dyn core::error::Error>> {
    // A machine with a card in this process, and memory for a pair: rings of 256 entries, buffers.
    let (world, card) = (World::new(1), RequesterId(0x100));
    let memory = world.memory(4 << 20);
    let model = Ixgbe::new(&world, &memory, card, Config::default());
    model.config_space().enable();
    let page = || memory.lend(card, 4096, Lease(1)).ok_or("no memory");
    let rings = [page()?, page()?, page()?];
    let arena = memory.lend_arena(card, Metadata::None.layout(512), Lease(1));
    let (mut words, mut pairs) = ([0; 512], [Pair::EMPTY; 2]);
    let mut pool = Pool::new(arena.ok_or("no memory")?, &mut words);
    // The kernel brings the port up, gives pair 1 away, and leads frames of type 0x88B5 there.
    let setup = Setup::new(Kind::Sfp, &mut pairs);
    let mut port = Device::bring_up(model.bar0(), &mut world.clone(), setup)?;
    let mut owner = port.queues::<256>(1, &rings, &pool).ok_or("no pair")?;
    port.begin_claim(1, owner.rings, None, world.now())?;
    while port.poll_claim(1, world.now())?.is_pending() {}
    steering::set_ether_type(&port, 0, Some((0x88B5, 1)))?;
    // Its owner sends back what it receives, once the link is up.
    owner.rx.arm(&mut pool);
    let (wire, mut list) = (model.wire(), [0; 16]);
    wire.send(b"\x02\x1b\x21\0\0\x01 peer \x88\xb5 hello, world");
    world.run_for(core::time::Duration::from_millis(100));
    let mut frames = SegmentList::new(&mut list);
    println!("came: {}", owner.rx.poll(&mut pool, &mut frames, 16)?);
    println!("sent back: {}", owner.tx.submit(&mut frames)?);
    world.settle(1000);
    let frame = wire.take().ok_or("nothing came back")?;
    println!("on the wire: {}", frame.escape_ascii());
    Ok(())
}
