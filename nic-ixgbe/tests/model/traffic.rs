//! Frames, with nobody between rings and card.

use parakernel_core::queue::TxQueue;
use parakernel_mock_hw::memory::Lease;
use parakernel_nic_ixgbe::{device::Pair, offload::Metadata};

use crate::rig::{JUMBO, LAYOUT, MAC, Machine, QUEUES, claim, release, udp};

#[test]
fn frames_pass_as_they_are() {
    for (terms, most) in [(QUEUES, 1400), (JUMBO, 8900)] {
        let machine = Machine::new(1);
        let mut pairs = [Pair::EMPTY; 2];
        let mut device = machine.with_link(terms, &mut pairs);
        let mut owned = claim(&machine, &mut device, 0, (Lease(1), Metadata::None)).unwrap();
        for round in 0..300_usize {
            let frame = udp(MAC, [10, 0, 0, 1], [10, 0, 0, 2], 60 + (round * 37) % most);
            machine.wire.send(&frame);
            machine.settle();
            assert_eq!(owned.receive().unwrap(), std::slice::from_ref(&frame), "{round}");
            assert!(owned.send(&frame, 300 + round).unwrap(), "{round}");
            machine.settle();
            assert_eq!(machine.wire.take_all(), [frame], "{round}");
            owned.tx.reclaim(&mut owned.pool).unwrap();
        }
        release(&machine, &mut device, 0).unwrap();
        let mut pool = owned.pool;
        owned.rx.dismantle(&mut pool);
        owned.tx.dismantle(&mut pool);
        assert_eq!(pool.free(), usize::from(LAYOUT.count));
        machine.memory.end(Lease(1));
        machine.settle();
        machine.assert_clean();
    }
}
