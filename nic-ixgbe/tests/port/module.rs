//! A module's bus and an EEPROM that do not behave.

use std::time::Duration;

use parakernel_core::time::Timeout;
use parakernel_nic_ixgbe::{
    device::Sharing,
    error::{InitError, ModuleError},
};

use crate::{
    bring_up::bring_up,
    fake::{Fault, Port},
};

#[test]
fn an_eeprom_that_does_not_add_up_is_not_driven() {
    let (stored, computed) = (0xBABB, 0xBABA);
    let limit = Duration::from_secs(2);
    for (fault, expected) in [
        (Fault::BadChecksum, InitError::Checksum { stored, computed }),
        (Fault::StuckWords, InitError::Eeprom(Timeout { limit })),
    ] {
        let port = Port::new(fault);
        let error = bring_up(&port, Sharing::Queues).unwrap_err();
        assert_eq!(error, expected);
    }
}

#[test]
fn a_bus_that_is_stuck_or_silent_is_said_and_given_back() {
    for (fault, expected) in [
        (Fault::None, ModuleError::Stuck),
        (Fault::SilentModule, ModuleError::NoAnswer),
    ] {
        let port = Port::new(Fault::None);
        let device = bring_up(&port, Sharing::Queues).unwrap();
        let mut clock = port.clock.clone();
        // SDP2: no module.
        assert_eq!(
            device.identify_module(&mut clock),
            Err(ModuleError::Missing)
        );
        port.poke(0x20, 1 << 2);
        port.fault.set(fault);
        let before = clock.0.get();
        assert_eq!(device.identify_module(&mut clock), Err(expected));
        assert!(clock.0.get() - before < 20_000_000, "in 20 ms");
        // The first port's bus is taken meanwhile, and given back.
        let log = port.log.borrow();
        let owners: Vec<_> = log
            .iter()
            .filter(|(offset, _)| *offset == 0x1_0160)
            .collect();
        assert!(owners.contains(&&(0x1_0160, 1 << 1)));
        assert_eq!(owners.last(), Some(&&(0x1_0160, 0)));
        assert_eq!(port.peek(0x1_0140) & 3, 0);
    }
}

#[test]
fn a_firmware_that_keeps_the_bus_is_waited_for_and_said() {
    let port = Port::new(Fault::None);
    let device = bring_up(&port, Sharing::Queues).unwrap();
    let mut clock = port.clock.clone();
    port.poke(0x20, 1 << 2);
    port.poke(0x1_0160, 1 << 6);
    let before = clock.0.get();
    let limit = Duration::from_secs(1);
    let expected = ModuleError::Semaphore(Timeout { limit });
    assert_eq!(device.identify_module(&mut clock), Err(expected));
    assert_eq!(clock.0.get() - before, 1_000_000_000);
    // The second port's bus is another one.
    port.poke(0x8, 1 << 2);
    assert_eq!(device.identify_module(&mut clock), Err(ModuleError::Stuck));
}
