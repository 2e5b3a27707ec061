//! What is left out is reported: every register of the table, and every place that is none.

use core::time::Duration;

use parakernel_core::mmio::Registers as _;

use super::{
    Config, Ixgbe,
    entry::{Does, Entry},
    registers::{self, Registers, canonical},
    table::VIRTUAL,
    virtual_function,
};
use crate::{World, memory::RequesterId, pci::Bar};

/// A card that was left alone until its link is up.
fn card() -> (World, Bar) {
    let world = World::new(1);
    let memory = world.memory(1 << 16);
    let card = Ixgbe::new(&world, &memory, RequesterId(0x100), Config::default());
    card.config_space().enable();
    world.run_for(Duration::from_millis(30));
    (world, card.bar0())
}

/// How many reports of something left out `act` causes.
fn reports(world: &World, act: impl FnOnce()) -> usize {
    world.trace().clear();
    act();
    world.trace().left_out().len()
}

/// The entry at each offset, where there is one.
fn entries() -> Vec<(usize, Option<Entry>)> {
    let registers = Registers::new();
    let offsets = (0..registers::LEN).step_by(4);
    let entry = |offset| registers.at(canonical(offset)).map(|(entry, _)| entry);
    offsets.map(|offset| (offset, entry(offset))).collect()
}

#[test]
fn reading_what_is_left_out_is_reported_and_nothing_else_is() {
    let (world, bar) = card();
    for (offset, entry) in entries() {
        let left_out = entry.is_none_or(|entry| entry.does == Does::LeftOut);
        let reported = reports(&world, || {
            let _value = bar.read32(offset);
        });
        assert_eq!(reported, usize::from(left_out), "{offset:#x} {entry:?}");
    }
}

#[test]
fn writing_what_is_left_out_is_reported() {
    for (offset, entry) in entries() {
        let left_out = match entry {
            None => u32::MAX,
            Some(Entry {
                does: Does::LeftOut,
                ..
            }) => u32::MAX,
            Some(entry) => entry.left_out,
        };
        if left_out == 0 {
            continue;
        }
        let (world, bar) = card();
        for bit in (0..32).filter(|bit| left_out >> bit & 1 == 1) {
            let reported = reports(&world, || bar.write32(offset, 1 << bit));
            assert_eq!(reported, 1, "{offset:#x} bit {bit} {entry:?}");
        }
        // Turning it off is in order.
        if entry.is_some() {
            let reported = reports(&world, || bar.write32(offset, 0));
            assert_eq!(reported, 0, "{offset:#x} {entry:?}");
        }
    }
}

/// A register may not claim to do at once what bits turn on, and leave the same bits out.
#[test]
fn bits_that_are_left_out_are_not_kept_as_if_they_did_something() {
    for (offset, entry) in entries() {
        let Some(entry) = entry.filter(|entry| entry.left_out != 0) else {
            continue;
        };
        let whole = matches!(entry.does, Does::LeftOut | Does::Tells | Does::Counts);
        assert!(!whole, "{offset:#x} {entry:?} has no bits to be left out");
    }
}

/// Each place of a virtual function's registers that is in no list is reported, and no other.
#[test]
fn a_virtual_functions_registers_are_known_or_reported() {
    let world = World::new(1);
    let memory = world.memory(1 << 16);
    let config = Config {
        virtual_functions: 2,
        ..Config::default()
    };
    let card = Ixgbe::new(&world, &memory, RequesterId(0x100), config);
    card.keep_virtual_functions();
    card.config_space().enable();
    // 64 pools of two queues.
    card.bar0().write32(0x5818, 8);
    let function = card.virtual_function(1).unwrap();
    function.config_space().enable();
    world.run_for(Duration::from_millis(30));
    let is_known = |offset: usize| {
        // The second queue's registers lie like the first one's; the counters are no queue's.
        let again = matches!(offset, 0x1040..0x1080 | 0x2040..0x2080);
        let place = if again { offset - 0x40 } else { offset };
        VIRTUAL.iter().any(|(name, first, count, _)| {
            let counts = name.starts_with("VFG") || *name == "VFMPRC";
            (*first..first + 4 * count).contains(&place) && !(again && counts)
        })
    };
    for offset in (0..virtual_function::LEN).step_by(4) {
        let known = usize::from(!is_known(offset));
        let reported = reports(&world, || {
            let _value = function.bar(0).read32(offset);
        });
        assert_eq!(reported, known, "{offset:#x} read");
        let reported = reports(&world, || function.bar(0).write32(offset, 0));
        assert_eq!(reported, known, "{offset:#x} written");
    }
    let reported = reports(&world, || function.bar(0).write32(0x0180, 1));
    assert_eq!(reported, 1);
}
