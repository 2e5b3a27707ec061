//! The Flow Director: what its registers are told, and a port that does not obey.

use std::{net::Ipv4Addr, task::Poll, time::Duration};

use parakernel_core::{
    error::ErrorKind,
    handle::RuleId,
    time::{Instant, Timeout},
};
use parakernel_nic_ixgbe::{
    device::{Device, Pair, Setup},
    director::{COMMAND_LIMIT, Capacity, Config, Director, Entry, Field, Flow, L4, Masks},
    error::{InitError, SteerError},
    id::Kind,
};

use crate::fake::{Fault, Port};

const FLOW: Flow = Flow {
    vlan: 0,
    protocol: Some(L4::Udp),
    destination: Ipv4Addr::new(10, 1, 2, 3),
    source: Ipv4Addr::new(10, 4, 0, 0),
    port: 0x1234,
    source_port: 0,
    flex: [0x0A, 0x0B],
};

fn directed(port: &Port) -> Result<Device<'static, &Port>, InitError> {
    let masks = Masks {
        source_bits: 20,
        source_port: Field::Ignored,
        flex: Some(12),
        ..Masks::CONNECTION
    };
    let capacity = Capacity::Medium;
    let setup = Setup {
        director: Some(Config { capacity, masks }),
        ..Setup::new(Kind::Sfp, vec![Pair::EMPTY; 8].leak())
    };
    Device::bring_up(port, &mut port.clock.clone(), setup)
}

const fn rule(number: u32) -> RuleId {
    RuleId::new(number, 0)
}

/// Polls as time passes, for a second at most.
fn poll(
    director: &mut Director<'_>,
    device: &Device<'_, &Port>,
    from_ns: u64,
) -> Result<(), SteerError> {
    let mut times = (from_ns..from_ns + 1_000_000_000).step_by(10_000);
    let ready = times.find_map(|ns| match director.poll(device, Instant::from_nanos(ns)) {
        Poll::Ready(result) => Some(result),
        Poll::Pending => None,
    });
    ready.unwrap()
}

#[test]
fn it_is_set_up_after_its_table_was_cleared() {
    let port = Port::new(Fault::None);
    directed(&port).unwrap();
    // 128 KiB for perfect filters, bytes 12 and 13, drop queue 127; the packet buffer has the rest, and its mark is lower.
    let control = 4 << 28 | 10 << 24 | 6 << 16 | 127 << 8 | 1 << 4 | 2;
    assert_eq!(port.peek(0xEE00), control);
    assert_eq!(port.peek(0x3C00), 384 << 10);
    assert_eq!(port.peek(0x3260), 384 * 1024 - 0x6000);
    // Neither pool, priority, VLAN nor IPv6; 12 bits of the source's address do not count, nor does its port.
    assert_eq!(port.peek(0xEE70), 0b10_0111);
    assert_eq!(port.peek(0xEE74), u32::MAX);
    assert_eq!((port.peek(0xEE40), port.peek(0xEE3C)), (0xFF0F_0000, 0));
    assert_eq!((port.peek(0xEE44), port.peek(0xEE48)), (0xFFFF, 0xFFFF));
    assert_eq!(port.peek(0xEE68), 0x3DAD_14E2);
    let log = port.log.borrow();
    let place = |wanted| log.iter().position(|it| *it == wanted).unwrap();
    assert!(place((0xEE2C, 1 << 8)) < place((0xEE2C, 0)));
    assert!(place((0xEE2C, 0)) < place((0xEE00, control)));
    assert!(place((0x3C00, 384 << 10)) < place((0xEE00, control)));
}

#[test]
fn a_filter_is_written_whole_before_its_command() {
    let port = Port::new(Fault::None);
    let device = directed(&port).unwrap();
    let mut entries = [Entry::UNUSED; 4];
    let mut director = Director::new(&mut entries);
    port.log.borrow_mut().clear();
    director
        .begin_add(&device, (rule(1), FLOW), Some(5))
        .unwrap();
    poll(&mut director, &device, 0).unwrap();
    let log = port.log.take();
    let add = log
        .iter()
        .position(|&(offset, _)| offset == 0xEE2C)
        .unwrap();
    assert_eq!(
        log[add].1,
        5 << 16 | 1 << 15 | 1 << 11 | 1 << 5 | 1 << 3 | 1
    );
    let flow = &log[..add];
    for write in [
        (0xEE18, 0x0000_040A),
        (0xEE1C, 0x0302_010A),
        (0xEE20, 0x1234_0000),
        (0xEE24, 0x0B0A_0000),
    ] {
        assert!(flow.contains(&write), "{write:x?}");
    }
    director.begin_remove(&device, rule(1)).unwrap();
    poll(&mut director, &device, 0).unwrap();
    // The same filter, by the same number, drops.
    let hashes = |&(offset, value): &(u32, u32)| (offset == 0xEE28).then_some(value);
    let mut all: Vec<_> = log
        .iter()
        .chain(&*port.log.borrow())
        .filter_map(hashes)
        .collect();
    all.dedup();
    assert_eq!(all.len(), 1);
    let drop = 127 << 16 | 1 << 15 | 1 << 11 | 1 << 9 | 1 << 5 | 1 << 3 | 1;
    assert!(port.log.borrow().contains(&(0xEE2C, drop)));
}

#[test]
fn a_director_that_is_not_set_up_is_said() {
    let port = Port::new(Fault::NoDirector);
    let limit = Duration::from_millis(100);
    let error = directed(&port).unwrap_err();
    assert_eq!(error, InitError::Director(Timeout { limit }));
}

#[test]
fn a_command_that_does_not_end_is_said_until_a_reset() {
    let port = Port::new(Fault::None);
    let mut device = directed(&port).unwrap();
    let mut entries = [Entry::UNUSED; 4];
    let mut director = Director::new(&mut entries);
    port.fault.set(Fault::StuckDirector);
    director
        .begin_add(&device, (rule(1), FLOW), Some(1))
        .unwrap();
    let second = director.begin_remove(&device, rule(1));
    assert_eq!(second, Err(SteerError::Busy));
    let stuck = poll(&mut director, &device, 0).unwrap_err();
    let limit = COMMAND_LIMIT;
    assert_eq!(stuck, SteerError::Director(Timeout { limit }));
    assert_eq!(stuck.kind(), ErrorKind::Timeout);
    // Asked again, the same.
    assert_eq!(poll(&mut director, &device, 0), Err(stuck));
    // The filter may be there, so its removal is tried, and does not end well either.
    director.begin_remove(&device, rule(1)).unwrap();
    assert_eq!(poll(&mut director, &device, 5_000_000), Err(stuck));
    port.fault.set(Fault::None);
    device.begin_reset(Instant::from_nanos(0));
    while device
        .poll_reset(Instant::from_nanos(port.clock.0.get()))
        .is_pending()
    {
        port.clock.0.set(port.clock.0.get() + 50_000);
    }
    director.begin_restore();
    poll(&mut director, &device, 0).unwrap();
    // Dropped, whoever has queue 1 by now.
    assert_eq!(port.peek(0xEE2C) >> 16 & 0x7F, 127);
}

#[test]
fn a_filter_that_is_not_taken_is_said() {
    let port = Port::new(Fault::FullDirector);
    let device = directed(&port).unwrap();
    let mut entries = [Entry::UNUSED; 1];
    let mut director = Director::new(&mut entries);
    director
        .begin_add(&device, (rule(1), FLOW), Some(1))
        .unwrap();
    assert_eq!(poll(&mut director, &device, 0), Err(SteerError::Refused));
    // Its place is free again.
    port.fault.set(Fault::None);
    director
        .begin_add(&device, (rule(2), FLOW), Some(1))
        .unwrap();
    poll(&mut director, &device, 0).unwrap();
    let other = Flow { port: 1, ..FLOW };
    assert_eq!(
        director.begin_add(&device, (rule(3), other), Some(1)),
        Err(SteerError::Full)
    );
}
