//! From nothing to service, and all that may go wrong on the way.

use core::time::Duration;

use parakernel_core::{
    error::ErrorKind,
    mmio::{Registers, Width},
    time::Instant,
};
use parakernel_nic_ixgbe::{
    device::{Device, Pair, Setup, Sharing, Vector},
    error::InitError,
    id::Kind,
};

use crate::fake::{Fault, Port};

pub(crate) fn bring_up(port: &Port, sharing: Sharing) -> Result<Device<'static, &Port>, InitError> {
    let room = match sharing {
        Sharing::Queues => 127,
        Sharing::Pools => 128,
    };
    bring_up_with(port, sharing, room)
}

/// The same, with room for `room` pairs.
pub(crate) fn bring_up_with(
    port: &Port,
    sharing: Sharing,
    room: usize,
) -> Result<Device<'static, &Port>, InitError> {
    let setup = Setup {
        sharing,
        ..Setup::new(Kind::Sfp, vec![Pair::EMPTY; room].leak())
    };
    Device::bring_up(port, &mut port.clock.clone(), setup)
}

#[test]
fn a_port_comes_to_service() {
    let port = Port::new(Fault::None);
    let device = bring_up(&port, Sharing::Queues).unwrap();
    assert_eq!(device.mac().0, [0x02, 0x12, 0x34, 0x56, 0x78, 0x9A]);
    assert_eq!(port.resets.get(), 1);
    // Receive and transmit are on, CRCs are stripped on both sides alike, and no VLAN is let in.
    assert_eq!(port.peek(0x3000) & 1, 1);
    assert_eq!(port.peek(0x8D00) & 2, 0);
    assert_eq!(port.peek(0x4A80), 0x8100 << 16 | 1);
    assert_eq!((port.peek(0x4240) & 2, port.peek(0x2F00) & 2), (2, 2));
    assert_eq!(port.peek(0x2F00) >> 17 & 0x1F, 0);
    assert_eq!(port.peek(0x5088), 1 << 30 | 0x8100);
    assert_eq!(port.peek(0x5080), 1 << 10);
}

#[test]
fn the_link_is_begun_with_under_the_semaphore() {
    let port = Port::new(Fault::None);
    bring_up(&port, Sharing::Queues).unwrap();
    // 10 Gb/s serial by SFI, link enabled, transmitter on, begun anew.
    assert_eq!(port.peek(0x42A0) & 0xF000, 3 << 13 | 1 << 12);
    assert_eq!(port.peek(0x42A8), 2 << 16);
    assert_eq!(port.peek(0x20) & 8, 0);
    assert_eq!(port.peek(0x1_0160), 0);
    assert_eq!(port.peek(0x1_0140) & 3, 0);
}

#[test]
fn nothing_pauses_snoops_or_overtakes() {
    let port = Port::new(Fault::None);
    bring_up(&port, Sharing::Queues).unwrap();
    // Flow control is off, and its high water mark set nevertheless.
    assert_eq!((port.peek(0x3D00), port.peek(0x4294) & 8), (0, 0));
    assert_eq!(port.peek(0x3260), 512 * 1024 - 0x6000);
    // No snooping and no relaxed order, whatever the platform would like.
    assert_eq!(port.peek(0x18), 1 << 16 | 1 << 17 | 1 << 28);
    assert!((0..128).all(|index| port.peek(0xE600 + 4 * index) == 0));
}

#[test]
fn jumbo_frames_are_a_setting_of_the_port() {
    for (max_frame, is_right) in [(9014, true), (15_868, true), (15_869, false)] {
        let port = Port::new(Fault::None);
        let pairs: &mut [Pair] = &mut [];
        let setup = Setup {
            max_frame,
            ..Setup::new(Kind::Sfp, pairs)
        };
        let result = Device::bring_up(&port, &mut port.clock.clone(), setup);
        assert_eq!(result.is_ok(), is_right);
        if is_right {
            assert_eq!(port.peek(0x4268) >> 16, u32::from(max_frame) + 4);
            assert_eq!(port.peek(0x4240) & 4, 4);
        }
    }
}

#[test]
fn a_backplane_keeps_what_its_eeprom_says() {
    let port = Port::new(Fault::None);
    let setup = Setup::new(Kind::Backplane, &mut []);
    Device::bring_up(&port, &mut port.clock.clone(), setup).unwrap();
    assert_eq!(port.peek(0x42A0), 4 << 13 | 1 << 12);
    assert_eq!(port.peek(0x20) & 8, 8);
}

#[test]
fn every_fault_ends_in_its_own_error_within_its_limit() {
    let cases: [(Fault, ErrorKind); 10] = [
        (Fault::StuckReset, ErrorKind::Timeout),
        (Fault::NoEeprom, ErrorKind::Device),
        (Fault::EepromNotRead, ErrorKind::Timeout),
        (Fault::BadFirmware, ErrorKind::Device),
        (Fault::StuckDma, ErrorKind::Timeout),
        (Fault::StuckSemaphore, ErrorKind::Timeout),
        (Fault::StuckReceivePath, ErrorKind::Timeout),
        (Fault::GroupAddress, ErrorKind::Protocol),
        (Fault::Gone, ErrorKind::Removed),
        (Fault::BusyMaster, ErrorKind::Other),
    ];
    for (fault, kind) in cases {
        let port = Port::new(fault);
        let result = bring_up(&port, Sharing::Queues);
        if fault == Fault::BusyMaster {
            // Requests that do not end take two resets, §5.2.5.3.2.
            assert!(result.is_ok());
            assert_eq!(port.resets.get(), 2);
            assert_eq!((port.peek(0x4240) >> 15 & 1, port.peek(0x1_1050)), (0, 0));
        } else {
            assert_eq!(result.unwrap_err().kind(), kind, "{fault:?}");
        }
        assert!(port.clock.0.get() < 2_000_000_000, "{fault:?}");
    }
}

#[test]
fn a_short_register_file_is_refused() {
    #[derive(Debug)]
    struct Short;
    impl Registers for Short {
        fn read(&self, _offset: usize, _width: Width) -> u64 {
            panic!("looked at before its length was");
        }
        fn write(&self, _offset: usize, _width: Width, _value: u64) {
            panic!("written before its length was looked at");
        }
        fn len(&self) -> usize {
            0x1_FFFF
        }
    }
    let setup = Setup::new(Kind::Sfp, &mut []);
    let mut clock = Port::new(Fault::None).clock;
    let error = Device::bring_up(Short, &mut clock, setup).unwrap_err();
    assert_eq!(error, InitError::Registers { len: 0x1_FFFF });
}

#[test]
fn a_failed_reset_says_so_whenever_it_is_asked() {
    let port = Port::new(Fault::None);
    let mut device = bring_up(&port, Sharing::Queues).unwrap();
    port.fault.set(Fault::StuckDma);
    let mut now = Instant::from_nanos(0);
    device.begin_reset(now);
    let error = loop {
        if let core::task::Poll::Ready(result) = device.poll_reset(now) {
            break result.unwrap_err();
        }
        now = now.saturating_add(Duration::from_micros(500));
        port.clock.0.set(port.clock.0.get() + 500_000);
    };
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert_eq!(device.poll_reset(now), core::task::Poll::Ready(Err(error)));
}

#[test]
fn interrupts_are_masked_until_armed_and_paced() {
    let port = Port::new(Fault::None);
    let device = bring_up(&port, Sharing::Queues).unwrap();
    // Auto mask for all vectors, messages for each, other causes to vector 0.
    assert_eq!(port.peek(0x898), 1 << 4 | 1 << 5 | 1 << 30 | 1 << 31);
    assert_eq!((port.peek(0xAD0), port.peek(0xAD4)), (u32::MAX, u32::MAX));
    assert_eq!(port.peek(0xA00), 0x8000);
    let vector = Vector::new(33).unwrap();
    assert_eq!(port.peek(0x1_2300 + 4 * 9), 24 << 3 | 1 << 31);
    device.set_interval(vector, Duration::ZERO);
    assert_eq!(
        port.peek(0x1_2300 + 4 * 9),
        1 << 3 | 1 << 31,
        "never unpaced"
    );
    device.set_interval(vector, Duration::from_secs(1));
    assert_eq!(port.peek(0x1_2300 + 4 * 9) >> 3 & 0x1FF, 0x1FF);
    device.arm(vector);
    assert_eq!(port.peek(0xAA4), 2);
    device.mask(vector);
    assert_eq!(port.peek(0xAB4), 2);
    device.watch_port();
    assert_eq!(port.peek(0x880), 1 << 20 | 1 << 17 | 1 << 18 | 1 << 28);
    port.poke(0x800, 1 << 20);
    let cause = device.take_cause();
    assert!(cause.is_link() && !cause.is_fatal() && !cause.is_gone());
}

#[test]
fn the_link_is_what_the_port_says() {
    let port = Port::new(Fault::None);
    let device = bring_up(&port, Sharing::Queues).unwrap();
    for (links, is_up, speed) in [
        (0, false, None),
        (1 << 30 | 3 << 28, true, Some(10_000)),
        (1 << 30 | 2 << 28, true, Some(1000)),
        (1 << 30 | 1 << 28, true, Some(100)),
        (1 << 30, true, None),
        (3 << 28, false, None),
    ] {
        port.poke(0x42A4, links);
        let link = device.link();
        assert_eq!((link.is_up, link.speed_mbps), (is_up, speed));
    }
    port.fault.set(Fault::Gone);
    assert!(!device.link().is_up);
    assert!(device.take_cause().is_gone());
}
