//! Steering, pools, rates, counters.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    task::Poll,
};

use parakernel_core::{
    device::QueueIndex,
    handle::RuleId,
    steering::{
        Change, IpPrefix, Ipv4Prefix, Mac, Matches, PortRange, Protocol, Steering as _, Vlan,
    },
    time::Instant,
};
use parakernel_nic_ixgbe::{
    device::Sharing,
    error::{PoolError, SteerError},
    filter::Reach,
    pool::PoolNames,
    stats::QueueStatistics,
    steering::{Filter, Filters, Steered, set_ether_type},
};

use crate::{
    bring_up::{bring_up, bring_up_with},
    fake::{Fault, Port},
};

const MAC: Mac = Mac([0x02, 0x12, 0x34, 0x56, 0x78, 0x9A]);

fn to(last: u8) -> Matches {
    let address = Ipv4Prefix::host(Ipv4Addr::new(10, 1, 2, last));
    Matches::to(MAC, IpPrefix::V4(address))
}

fn add(rule: u32, matches: Matches, queue: u32) -> Change {
    Change::Add {
        rule: RuleId::new(rule, 0),
        matches,
        queue: QueueIndex::new(queue),
    }
}

const fn remove(rule: u32) -> Change {
    Change::Remove {
        rule: RuleId::new(rule, 0),
    }
}

/// A filter as the port has it: source, destination, ports, tuple, queue.
fn filter(port: &Port, index: u32) -> [u32; 5] {
    [0xE000, 0xE200, 0xE400, 0xE600, 0xE800].map(|row| port.peek(row + 4 * index))
}

const ON: u32 = 1 << 31 | 1 << 30;
const IN_FORCE: u32 = 7 << 2;
const REMOVED: u32 = 1 << 2;

#[test]
fn a_rule_becomes_a_filter_and_then_a_dropping_one() {
    let port = Port::new(Fault::None);
    let device = bring_up(&port, Sharing::Queues).unwrap();
    let mut memory = [Filter::UNUSED; 4];
    let mut filters = Filters::new(&mut memory, 1);
    let flow = Matches {
        protocol: Some(Protocol::Udp),
        ports: PortRange::one(0x1234),
        ..to(3)
    };
    let now = Instant::from_nanos(0);
    let mut steered = Steered {
        device: &device,
        filters: &mut filters,
    };
    assert!(steered.can_express(&flow));
    steered.begin_change(add(1, flow, 4), now).unwrap();
    let done = steered.poll_change(add(1, flow, 4), now);
    assert_eq!(done, Poll::Ready(Ok(())));
    let masks = 1 << 25 | 1 << 27;
    assert_eq!(
        filter(&port, 0),
        [
            0,
            0x0302_010A,
            0x3412_0000,
            ON | IN_FORCE | masks | 1,
            5 << 21 | 0x40 << 13
        ]
    );
    filters.change(&device, add(2, to(4), 0)).unwrap();
    let masks = 1 << 25 | 1 << 27 | 1 << 28 | 1 << 29;
    assert_eq!(
        filter(&port, 1),
        [
            0,
            0x0402_010A,
            0,
            ON | IN_FORCE | masks,
            1 << 21 | 0x40 << 13
        ]
    );
    // Its frames go where nobody listens; the other rule stays as it is.
    filters.change(&device, remove(2)).unwrap();
    assert_eq!(
        filter(&port, 1)[3..],
        [ON | REMOVED | masks, 127 << 21 | 0x40 << 13]
    );
    assert_eq!(filter(&port, 0)[3] & ON, ON);
    filters.change(&device, remove(9)).unwrap();
    // Added again it has the same place, and never goes through the kernel's queue.
    port.log.borrow_mut().clear();
    filters.change(&device, add(3, to(4), 7)).unwrap();
    assert_eq!(
        filter(&port, 1)[3..],
        [ON | IN_FORCE | masks, 8 << 21 | 0x40 << 13]
    );
    let off = |&(offset, value): &(u32, u32)| offset == 0xE604 && value & 1 << 31 == 0;
    assert!(!port.log.borrow().iter().any(off));
}

#[test]
fn what_no_filter_can_say_is_refused() {
    let port = Port::new(Fault::None);
    let device = bring_up(&port, Sharing::Queues).unwrap();
    let wide = Ipv4Prefix::new(Ipv4Addr::new(10, 0, 0, 0), 24).map(IpPrefix::V4);
    let v6 = IpPrefix::V6(parakernel_core::steering::Ipv6Prefix::host(
        Ipv6Addr::LOCALHOST,
    ));
    let refused = [
        Matches {
            mac: Mac([2; 6]),
            ..to(1)
        },
        Matches {
            vlan: Vlan::new(5),
            ..to(1)
        },
        Matches {
            address: None,
            ..to(1)
        },
        Matches {
            address: wide,
            ..to(1)
        },
        Matches {
            address: Some(v6),
            ..to(1)
        },
        Matches {
            source: wide,
            ..to(1)
        },
        Matches {
            ports: PortRange::one(80),
            ..to(1)
        },
        Matches {
            protocol: Some(Protocol::Tcp),
            ports: PortRange::new(1, 2).unwrap(),
            ..to(1)
        },
    ];
    let mut memory = [Filter::UNUSED; 4];
    let mut filters = Filters::new(&mut memory, 1);
    for matches in refused {
        assert!(!Filters::can_express(&device, &matches));
        assert_eq!(
            filters.change(&device, add(1, matches, 0)),
            Err(SteerError::Unsupported)
        );
    }
    assert!(Filters::can_express(&device, &to(1)));
    // Neither the drop queue nor one that there is not.
    for queue in [126, 127, 255, 256] {
        assert_eq!(
            filters.change(&device, add(1, to(1), queue)),
            Err(SteerError::NoSuchQueue)
        );
    }
    assert!((0..128).all(|index| filter(&port, index)[3] == 0));
}

#[test]
fn filters_run_out_and_come_back() {
    let port = Port::new(Fault::None);
    let device = bring_up(&port, Sharing::Queues).unwrap();
    let mut memory = [Filter::UNUSED; 2];
    let mut filters = Filters::new(&mut memory, 1);
    filters.change(&device, add(1, to(1), 0)).unwrap();
    filters.change(&device, add(2, to(2), 0)).unwrap();
    assert_eq!(
        filters.change(&device, add(3, to(3), 0)),
        Err(SteerError::Full)
    );
    filters.change(&device, remove(1)).unwrap();
    filters.change(&device, add(3, to(3), 0)).unwrap();
    assert_eq!(filter(&port, 0)[1], 0x0302_010A);
    // A wider rule makes the narrower one's leftover go.
    filters.change(&device, remove(2)).unwrap();
    filters.change(&device, remove(3)).unwrap();
    let narrow = Matches {
        protocol: Some(Protocol::Tcp),
        ..to(2)
    };
    filters.change(&device, add(4, narrow, 0)).unwrap();
    let on: Vec<_> = (0..2)
        .filter(|&index| filter(&port, index)[3] & IN_FORCE == IN_FORCE)
        .collect();
    assert_eq!(on.len(), 1);
}

#[test]
fn after_a_reset_all_rules_drop() {
    let port = Port::new(Fault::None);
    let device = bring_up(&port, Sharing::Queues).unwrap();
    let mut memory = [Filter::UNUSED; 4];
    let mut filters = Filters::new(&mut memory, 1);
    filters.change(&device, add(1, to(1), 0)).unwrap();
    let before = filter(&port, 0);
    for row in [0xE000, 0xE200, 0xE400, 0xE600, 0xE800] {
        port.poke(row, 0);
    }
    filters.restore(&device);
    let after = filter(&port, 0);
    assert_eq!(after[..3], before[..3]);
    assert_eq!((after[3] & 0x1C, after[4] >> 21), (REMOVED, 127));
}

/// With every queue somebody's there is none that drops: frames of a removed rule go to the kernel's queue, as those of no
/// rule do, and never to the last pair.
#[test]
fn without_a_drop_queue_a_removed_rule_is_off() {
    let port = Port::new(Fault::None);
    let device = bring_up_with(&port, Sharing::Queues, 128).unwrap();
    assert_eq!((device.pairs(), device.drop_queue()), (128, None));
    let mut memory = [Filter::UNUSED; 4];
    let mut filters = Filters::new(&mut memory, 1);
    filters.change(&device, add(1, to(1), 126)).unwrap();
    filters.change(&device, add(2, to(2), 0)).unwrap();
    assert_eq!(filter(&port, 0)[4] >> 21, 127);
    filters.change(&device, remove(2)).unwrap();
    assert_eq!(filter(&port, 1)[3] & ON, 0);
    filters.restore(&device);
    assert!((0..4).all(|index| filter(&port, index)[3] & ON == 0));
    // The places are free again.
    for number in 0..4 {
        filters
            .change(&device, add(number, to(9 - number as u8), 0))
            .unwrap();
    }
}

#[test]
fn ether_types_lead_to_the_kernel_but_not_ip() {
    let port = Port::new(Fault::None);
    let device = bring_up(&port, Sharing::Queues).unwrap();
    set_ether_type(&device, 3, Some((0x88CC, 2))).unwrap();
    assert_eq!(
        (port.peek(0x5134), port.peek(0xEC0C)),
        (1 << 31 | 0x88CC, 1 << 31 | 2 << 16)
    );
    set_ether_type(&device, 3, None).unwrap();
    assert_eq!((port.peek(0x5134), port.peek(0xEC0C)), (0, 0));
    assert_eq!(
        set_ether_type(&device, 3, Some((0x0800, 2))),
        Err(SteerError::Unsupported)
    );
    assert_eq!(
        set_ether_type(&device, 8, None),
        Err(SteerError::NoSuchQueue)
    );
    assert_eq!(
        set_ether_type(&device, 0, Some((0x88CC, 128))),
        Err(SteerError::NoSuchQueue)
    );
    let dropped = device.drop_queue().unwrap();
    assert_eq!(
        set_ether_type(&device, 0, Some((0x88CC, dropped))),
        Err(SteerError::NoSuchQueue)
    );
}

#[test]
fn a_pool_gets_its_own_frames_and_sends_only_its_own() {
    let port = Port::new(Fault::None);
    let device = bring_up(&port, Sharing::Pools).unwrap();
    // 64 pools of two queues, on both sides; frames of nobody and broadcasts to pool 0.
    assert_eq!(
        (port.peek(0x5818) & 0xF, port.peek(0x8120)),
        (8, 1 << 1 | 1 << 2)
    );
    assert_eq!(port.peek(0x51B0), 1 | 1 << 30);
    assert_eq!((port.peek(0x51E0), port.peek(0x8110)), (1, 1));
    assert_eq!(port.peek(0xF000), 1 << 24 | 1 << 27 | 1 << 28);
    let mac = Mac([2, 0, 0, 0, 0, 9]);
    device
        .open_pool(
            33,
            PoolNames {
                mac,
                vlan: Vlan::new(100),
            },
        )
        .unwrap();
    assert_eq!(
        (port.peek(0xA200 + 8 * 33), port.peek(0xA204 + 8 * 33)),
        (2, 1 << 31 | 0x0900)
    );
    assert_eq!(
        (port.peek(0xA600 + 8 * 33), port.peek(0xA604 + 8 * 33)),
        (0, 2)
    );
    assert_eq!((port.peek(0x51E4), port.peek(0x8114)), (2, 2));
    // MAC and VLAN anti-spoofing of pool 33, in the fifth register; no tag is inserted.
    assert_eq!(port.peek(0x8210), 1 << 1 | 1 << 9);
    assert_eq!(port.peek(0x8000 + 4 * 33), 2 << 30);
    assert_eq!(port.peek(0xF000 + 4 * 33), 0);
    assert_eq!(
        (port.peek(0xF100), port.peek(0xF200), port.peek(0xF204)),
        (1 << 31 | 100, 0, 2)
    );
    assert_eq!(port.peek(0xA000 + 4 * 3), 1 << 4);
}

#[test]
fn pools_share_a_vlan_as_long_as_one_of_them_is_open() {
    let port = Port::new(Fault::None);
    let device = bring_up(&port, Sharing::Pools).unwrap();
    let mac = Mac([2, 0, 0, 0, 0, 9]);
    let names = PoolNames {
        mac,
        vlan: Vlan::new(100),
    };
    device.open_pool(33, names).unwrap();
    device
        .open_pool(
            1,
            PoolNames {
                mac: Mac([2, 0, 0, 0, 0, 8]),
                vlan: Vlan::new(100),
            },
        )
        .unwrap();
    assert_eq!(
        (port.peek(0xF100), port.peek(0xF200), port.peek(0xF104)),
        (1 << 31 | 100, 2, 0)
    );
    device.close_pool(33).unwrap();
    assert_eq!(port.peek(0xA000 + 4 * 3), 1 << 4);
    assert_eq!(
        (
            port.peek(0xA204 + 8 * 33),
            port.peek(0x51E4),
            port.peek(0x8114)
        ),
        (0, 0, 0)
    );
    device.close_pool(1).unwrap();
    assert_eq!((port.peek(0xA000 + 4 * 3), port.peek(0xF100)), (0, 0));
    // An untagged pool gets untagged frames, and inserts no tag whatever its descriptors say.
    device.open_pool(2, PoolNames { mac, vlan: None }).unwrap();
    assert_eq!((port.peek(0xF008), port.peek(0x8008)), (1 << 24, 2 << 30));
}

#[test]
fn pools_that_there_are_not_are_refused() {
    let port = Port::new(Fault::None);
    let names = PoolNames {
        mac: Mac([2, 0, 0, 0, 0, 9]),
        vlan: None,
    };
    let device = bring_up(&port, Sharing::Queues).unwrap();
    assert_eq!(device.open_pool(1, names), Err(PoolError::NoPools));
    let port = Port::new(Fault::None);
    let device = bring_up(&port, Sharing::Pools).unwrap();
    for pool in [0, 64, 255] {
        assert_eq!(
            device.open_pool(pool, names),
            Err(PoolError::NoSuchPool(pool))
        );
    }
    let group = PoolNames {
        mac: Mac([1, 0, 0, 0, 0, 9]),
        vlan: None,
    };
    assert_eq!(device.open_pool(1, group), Err(PoolError::Mac(group.mac)));
    for number in 1..=64 {
        let vlan = Vlan::new(number);
        let result = device.open_pool(1, PoolNames { vlan, ..names });
        assert_eq!(result, Ok(()), "{number}");
    }
    let one_more = PoolNames {
        vlan: Vlan::new(65),
        ..names
    };
    assert_eq!(device.open_pool(1, one_more), Err(PoolError::NoVlanFilter));
}

#[test]
fn a_rate_is_a_fraction_of_the_links() {
    let port = Port::new(Fault::None);
    let device = bring_up(&port, Sharing::Queues).unwrap();
    device.set_rate(9, Some(1000), 10_000).unwrap();
    assert_eq!(
        (port.peek(0x4904), port.peek(0x4984)),
        (9, 1 << 31 | 10 << 14)
    );
    device.set_rate(9, Some(3000), 10_000).unwrap();
    // 3 and a third, 14 binary places.
    assert_eq!(port.peek(0x4984), 1 << 31 | 3 << 14 | 5461);
    device.set_rate(9, None, 10_000).unwrap();
    assert_eq!(port.peek(0x4984), 0);
    for rate_mbps in [0, 9] {
        let result = device.set_rate(9, Some(rate_mbps), 10_000);
        assert_eq!(result, Err(PoolError::Rate { rate_mbps }));
    }
}

#[test]
fn counters_add_up() {
    let port = Port::new(Fault::None);
    let device = bring_up(&port, Sharing::Queues).unwrap();
    device.set_counter(6, 9);
    assert_eq!((port.peek(0x2304), port.peek(0x8604)), (9 << 16, 9 << 16));
    let mut sum = QueueStatistics {
        received: 5,
        ..QueueStatistics::default()
    };
    for (offset, value) in [
        (0x1030, 7),
        (0x1034, 0xFFFF_FFFF),
        (0x1038, 0xF1),
        (0x1430, 3),
        (0x6030, 4),
    ] {
        port.poke(offset + 0x40 * 9, value);
    }
    device.add_statistics(9, &mut sum);
    let expected = QueueStatistics {
        received: 12,
        received_bytes: 0x1_FFFF_FFFF,
        dropped: 3,
        transmitted: 4,
    };
    assert_eq!(sum, expected);
}

#[test]
fn no_rule_is_exact_while_everything_comes_in() {
    let port = Port::new(Fault::None);
    let device = bring_up(&port, Sharing::Queues).unwrap();
    device.set_reach(Reach::Everything);
    assert_eq!(port.peek(0x5080), 1 << 8 | 1 << 9 | 1 << 10);
    assert!(!Filters::can_express(&device, &to(1)));
    device.set_reach(Reach::AllGroups);
    assert_eq!(port.peek(0x5080), 1 << 8 | 1 << 10);
    assert!(Filters::can_express(&device, &to(1)));
    device.set_reach(Reach::Own);
    assert_eq!(port.peek(0x5080), 1 << 10);
}

#[test]
fn groups_are_let_in_by_twelve_bits_of_their_address() {
    let port = Port::new(Fault::None);
    let device = bring_up(&port, Sharing::Queues).unwrap();
    // Bits 47 to 36: 0xFE and the upper half of 0xD1, so number 0xFED, in word 127.
    let group = Mac([0x01, 0x00, 0x5E, 0x00, 0xD1, 0xFE]);
    let other = Mac([0x33, 0x33, 0, 0, 0, 0x01]);
    device.set_groups(&[group, other]).unwrap();
    assert_eq!(port.peek(0x5200 + 4 * 127), 1 << 13);
    assert_eq!(port.peek(0x5200), 1 << 16);
    assert_eq!(port.peek(0x5090), 4);
    assert_eq!(device.set_groups(&[MAC]), Err(SteerError::Unsupported));
    device.set_groups(&[]).unwrap();
    assert!((0..128).all(|word| port.peek(0x5200 + 4 * word) == 0));
    assert_eq!(port.peek(0x5090), 0);
}

#[test]
fn one_owners_queues_share_by_hash() {
    let port = Port::new(Fault::None);
    let device = bring_up(&port, Sharing::Queues).unwrap();
    let key = core::array::from_fn(|n| n as u8);
    let mut table = core::array::from_fn(|n| n as u8 % 3);
    device.spread(&key, &table).unwrap();
    assert_eq!(
        (port.peek(0x5C80), port.peek(0x5CA4)),
        (0x0302_0100, 0x2726_2524)
    );
    assert_eq!(
        (port.peek(0x5C00), port.peek(0x5C7C)),
        (0x0002_0100, 0x0100_0201)
    );
    assert_eq!(port.peek(0x5818), 1 | 0xF3 << 16);
    table[5] = 16;
    assert_eq!(device.spread(&key, &table), Err(SteerError::NoSuchQueue));
    let port = Port::new(Fault::None);
    let device = bring_up(&port, Sharing::Pools).unwrap();
    assert_eq!(device.spread(&key, &[0; 128]), Err(SteerError::Unsupported));
}
