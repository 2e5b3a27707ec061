//! Pauses: forced with a module, negotiated on a backplane.

use parakernel_nic_ixgbe::{
    device::{Device, Setup},
    id::Kind,
    pause::Pauses,
};

use crate::fake::{Fault, Port};

fn bring_up(port: &Port, kind: Kind, pauses: Pauses) -> Device<'static, &Port> {
    let setup = Setup {
        pauses,
        ..Setup::new(kind, &mut [])
    };
    Device::bring_up(port, &mut port.clock.clone(), setup).unwrap()
}

/// Whether pauses are obeyed and asked for, as all registers about them say.
fn told(port: &Port) -> (bool, bool) {
    let high = 512 * 1024 - 0x6000;
    let asks = port.peek(0x3D00) == 1 << 3;
    let expected = if asks {
        let low = high / 2;
        [1 << 31 | high, 1 << 31 | low, 0xFFFF_FFFF, 0x7FFF]
    } else {
        [high, 0, 0, 0]
    };
    let seen = [0x3260, 0x3220, 0x320C, 0x32A0].map(|offset| port.peek(offset));
    assert_eq!(seen, expected);
    // Pause frames never reach a queue.
    assert_eq!(port.peek(0x4294) & 3, 2);
    (port.peek(0x4294) & 8 != 0, asks)
}

#[test]
fn with_a_module_they_are_as_they_are_wanted() {
    for (pauses, expected) in [
        (Pauses::None, (false, false)),
        (Pauses::Obeyed, (true, false)),
        (Pauses::Asked, (false, true)),
        (Pauses::Both, (true, true)),
    ] {
        let port = Port::new(Fault::None);
        let device = bring_up(&port, Kind::Sfp, pauses);
        assert_eq!(told(&port), expected);
        assert_eq!(device.settle_pauses(), pauses);
        assert_eq!(told(&port), expected);
        // Nothing is offered where nobody negotiates.
        assert_eq!(port.peek(0x42A0) >> 28, 0);
    }
}

#[test]
fn on_a_backplane_they_are_as_both_sides_agree() {
    let port = Port::new(Fault::None);
    let device = bring_up(&port, Kind::Backplane, Pauses::Both);
    assert_eq!(port.peek(0x42A0) >> 28, 1);
    assert_eq!(told(&port), (false, false));
    // Not negotiated yet.
    assert_eq!(device.settle_pauses(), Pauses::None);
    port.poke(0x42A4, 1 << 31 | 1 << 30);
    port.poke(0x42B0, 1 << 10);
    assert_eq!(device.settle_pauses(), Pauses::Both);
    assert_eq!(told(&port), (true, true));
    // The peer has changed its mind.
    port.poke(0x42B0, 0);
    assert_eq!(device.settle_pauses(), Pauses::None);
    assert_eq!(told(&port), (false, false));
    for (wanted, offer, peer, agreed) in [
        (Pauses::Asked, 2, 3, Pauses::Asked),
        (Pauses::Obeyed, 3, 2, Pauses::Obeyed),
        (Pauses::Obeyed, 3, 3, Pauses::Obeyed),
        (Pauses::None, 0, 3, Pauses::None),
    ] {
        let port = Port::new(Fault::None);
        let device = bring_up(&port, Kind::Backplane, wanted);
        assert_eq!(port.peek(0x42A0) >> 28, offer);
        port.poke(0x42A4, 1 << 31 | 1 << 30);
        port.poke(0x42B0, peer << 10);
        assert_eq!(device.settle_pauses(), agreed);
    }
}
