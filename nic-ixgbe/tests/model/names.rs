//! Further addresses of pools, and what frames are spread by.

use parakernel_core::steering::Mac;
use parakernel_mock_hw::memory::Lease;
use parakernel_nic_ixgbe::{
    device::Pair,
    error::PoolError,
    filter::{Hashed, SPREAD_QUEUES},
    offload::Metadata,
    pool::PoolNames,
};

use crate::rig::{Card, MAC, Machine, POOLS, QUEUES, claim, udp};

fn frame(from: Mac, to: Mac) -> Vec<u8> {
    let mut frame = udp(to.0, [10, 0, 0, 1], [10, 0, 0, 2], 100);
    frame[6..12].copy_from_slice(&from.0);
    frame
}

#[test]
fn a_pool_has_as_many_addresses_as_it_is_given() {
    let machine = Machine::new(81);
    let mut pairs = [Pair::EMPTY; 8];
    let mut device = machine.with_link(POOLS, &mut pairs);
    let (own, outside) = (Mac([2, 0, 0, 0, 1, 1]), Mac([6; 6]));
    let further = |number| Mac([2, 0, 0, 0, 3, number]);
    let names = PoolNames {
        mac: own,
        vlan: None,
    };
    let open = |device: &Card<'_>| {
        device.open_pool(1, names).unwrap();
        for number in 0..64 {
            device.add_address(1, further(number)).unwrap();
        }
        assert_eq!(
            device.add_address(1, further(64)),
            Err(PoolError::NoAddress)
        );
    };
    open(&device);
    let group = Mac([1, 0, 0, 0, 0, 0]);
    assert_eq!(device.add_address(1, group), Err(PoolError::Mac(group)));
    // Nobody's, the port's own, another pool's.
    let nobody = Mac([0; 6]);
    assert_eq!(device.add_address(1, nobody), Err(PoolError::Mac(nobody)));
    for taken in [device.mac(), own, further(7)] {
        let names = PoolNames {
            mac: taken,
            vlan: None,
        };
        assert_eq!(device.open_pool(2, names), Err(PoolError::Taken(taken)));
        let added = device.add_address(2, taken);
        assert_eq!(added, Err(PoolError::Taken(taken)));
    }
    assert_eq!(device.add_address(0, own), Err(PoolError::NoSuchPool(0)));
    let mut owned = claim(&machine, &mut device, 2, (Lease(1), Metadata::None)).unwrap();
    for to in [own, further(0), further(63), further(64)] {
        machine.wire.send(&frame(outside, to));
    }
    machine.settle();
    let expected = [own, further(0), further(63)].map(|to| frame(outside, to));
    assert_eq!(owned.receive().unwrap(), expected);
    for from in [further(5), further(64), own] {
        assert!(owned.send(&frame(from, outside), 200).unwrap());
    }
    machine.settle();
    let expected = [further(5), own].map(|from| frame(from, outside));
    assert_eq!(machine.wire.take_all(), expected);
    // They go with the pool, and are there for the next one.
    device.close_pool(1).unwrap();
    machine.wire.send(&frame(outside, further(0)));
    machine.settle();
    assert_eq!(owned.receive().unwrap(), Vec::<Vec<u8>>::new());
    open(&device);
    machine.assert_clean();
}

/// Flows that differ in their ports only are spread where ports are hashed, and stay together where they are not.
#[test]
fn frames_are_spread_by_what_is_hashed() {
    let key: [u8; 40] = core::array::from_fn(|index| (7 * index + 3) as u8);
    let table: [u8; 128] = core::array::from_fn(|index| index as u8 % 4);
    for (hashed, is_spread) in [
        (Hashed::ALL, true),
        (Hashed::IPV4.and(Hashed::UDP_IPV4), true),
        (Hashed::IPV4, false),
        (
            Hashed::IPV4.and(Hashed::TCP_IPV4).and(Hashed::UDP_IPV6),
            false,
        ),
    ] {
        let machine = Machine::new(82);
        let mut pairs = [Pair::EMPTY; 4];
        let mut device = machine.with_link(QUEUES, &mut pairs);
        let mut owners: Vec<_> = (0..4)
            .map(|pair| {
                let terms = (Lease(pair.into()), Metadata::None);
                claim(&machine, &mut device, pair, terms).unwrap()
            })
            .collect();
        device.spread_by(hashed, &key, &table).unwrap();
        for port in 0..20_u16 {
            let mut frame = frame(Mac([6; 6]), Mac(MAC));
            frame[34..36].copy_from_slice(&port.to_be_bytes());
            machine.wire.send(&frame);
        }
        machine.settle();
        let counts: Vec<_> = owners
            .iter_mut()
            .map(|it| it.receive().unwrap().len())
            .collect();
        assert_eq!(counts.iter().sum::<usize>(), 20);
        let used = counts.iter().filter(|&&count| count > 0).count();
        assert_eq!(used > 1, is_spread, "{hashed:?}: {counts:?}");
        machine.assert_clean();
    }
    assert!(Hashed::ALL.contains(Hashed::IPV6) && !Hashed::IPV4.contains(Hashed::ALL));
    assert_eq!(SPREAD_QUEUES, 16);
}
