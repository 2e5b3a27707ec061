//! From a reset to link, and what may go wrong on the way.

use core::time::Duration;

use parakernel_core::steering::Mac;
use parakernel_mock_hw::fault::{Fault, When};
use parakernel_nic_ixgbe::{
    device::Pair,
    error::{InitError, ModuleError},
    module::Module,
};

use crate::rig::{JUMBO, MAC, Machine, POOLS, QUEUES, poll};

#[test]
fn a_port_comes_up_with_its_link() {
    for terms in [QUEUES, POOLS, JUMBO] {
        let machine = Machine::new(1);
        let mut pairs = [Pair::EMPTY; 4];
        let device = machine.with_link(terms, &mut pairs);
        assert_eq!(device.mac(), Mac(MAC));
        assert_eq!(device.link().speed_mbps, Some(10_000));
        assert_eq!(device.has_module(), Some(true));
        machine.assert_clean();
    }
}

/// The module says what it is, over its two wires.
#[test]
fn a_module_is_identified() {
    let machine = Machine::new(5);
    let mut pairs = [Pair::EMPTY; 1];
    let device = machine.bring_up(QUEUES, &mut pairs).unwrap();
    let identify = || device.identify_module(&mut machine.world.clone());
    assert_eq!(identify(), Ok(Module::ShortRange));
    assert_eq!(identify(), Ok(Module::ShortRange));
    machine.card.set_module(false);
    assert_eq!(identify(), Err(ModuleError::Missing));
    machine.card.set_module(true);
    assert_eq!(identify(), Ok(Module::ShortRange));
    machine.assert_clean();
}

/// An EEPROM that gives no word, or is slow to.
#[test]
fn an_eeprom_that_is_not_read_is_said() {
    let machine = Machine::new(6);
    machine
        .card
        .faults()
        .inject(Fault::AdminTimeout, When::Always);
    let mut pairs = [Pair::EMPTY; 1];
    let result = machine.bring_up(QUEUES, &mut pairs).map(|_| ());
    assert!(matches!(result, Err(InitError::Eeprom(_))), "{result:?}");
}

#[test]
fn a_link_that_goes_is_seen_and_comes_back() {
    let machine = Machine::new(2);
    let mut pairs = [Pair::EMPTY; 1];
    let device = machine.with_link(QUEUES, &mut pairs);
    machine.card.set_link(false);
    machine.world.run_for(Duration::from_millis(1));
    assert!(!device.link().is_up);
    machine.card.set_link(true);
    machine.world.run_for(Duration::from_millis(100));
    assert!(device.link().is_up);
    machine.card.set_module(false);
    machine.world.run_for(Duration::from_millis(1));
    assert_eq!(
        (device.has_module(), device.link().is_up),
        (Some(false), false)
    );
    machine.assert_clean();
}

#[test]
fn a_port_is_reset_again_and_again() {
    let machine = Machine::new(3);
    let mut pairs = [Pair::EMPTY; 1];
    let mut device = machine.with_link(QUEUES, &mut pairs);
    for _ in 0..3 {
        device.begin_reset(machine.world.now());
        poll(&machine, |now| device.poll_reset(now)).unwrap();
        machine.world.run_for(Duration::from_millis(100));
        assert!(device.link().is_up);
    }
    device.shut_down(&mut machine.world.clone()).unwrap();
    machine.assert_clean();
}

#[test]
fn what_does_not_happen_is_said() {
    let cases = [(Fault::SlowReady, "reset"), (Fault::Removal, "removed")];
    for (fault, name) in cases {
        let machine = Machine::new(4);
        machine.card.faults().inject(fault, When::Always);
        let mut pairs = [Pair::EMPTY; 1];
        let result = machine.bring_up(QUEUES, &mut pairs).map(|_| ());
        let is_expected = match result {
            Err(InitError::Reset(_)) => name == "reset",
            Err(InitError::Removed) => name == "removed",
            _ => false,
        };
        assert!(is_expected, "{fault:?}: {result:?}");
        assert!(machine.world.now().as_nanos() < 3_000_000_000);
    }
}
