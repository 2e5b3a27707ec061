//! Configuration space of a function that lies: capability lists, base addresses, MSI-X.

use core::cell::RefCell;
use std::collections::BTreeSet;

use parakernel_core::{
    mmio::{Registers, Width},
    pci::{Capability, Config, PciError},
};

use crate::{Report, Target, input::Input};

pub(super) const TARGET: Target = Target {
    name: "pci",
    run,
    is_validator: false,
    max_len: 256,
};

/// A configuration space whose base address registers keep only some of the bits written.
struct Space {
    bytes: RefCell<Vec<u8>>,
    kept: [u32; 6],
}

impl Registers for Space {
    fn read(&self, offset: usize, width: Width) -> u64 {
        let bytes = self.bytes.borrow();
        let mut word = [0; 8];
        word[..width.bytes()].copy_from_slice(&bytes[offset..offset + width.bytes()]);
        u64::from_le_bytes(word)
    }

    fn write(&self, offset: usize, width: Width, value: u64) {
        let kept = match offset.checked_sub(0x10).map(|at| at / 4) {
            Some(bar @ 0..6) => self.kept[bar].into(),
            _ => u64::MAX,
        };
        let mut bytes = self.bytes.borrow_mut();
        let old = &mut bytes[offset..offset + width.bytes()];
        old.iter_mut()
            .zip(value.to_le_bytes())
            .zip(kept.to_le_bytes())
            .for_each(|((old, new), kept)| *old = *old & !kept | new & kept);
    }

    fn len(&self) -> usize {
        self.bytes.borrow().len()
    }
}

fn run(bytes: &[u8]) -> Report {
    let input = &mut Input::new(bytes);
    let space = space(input);
    let mut report = Report::default();
    let Ok(config) = Config::new(&space) else {
        report.note("function", false);
        return report;
    };
    report.note("function", true);
    config.identity();
    let found: Vec<_> = config.capabilities().collect();
    let (expected, ends) = walk(&space, 0x40, 0x100, conventional);
    expect_list(&found, &expected, ends);
    report.note("capability list", ends);
    if space.len() == 4096 {
        let found: Vec<_> = config.extended_capabilities().collect();
        let (expected, ends) = walk(&space, 0x100, 0x1000, extended);
        expect_list(&found, &expected, ends);
        report.note("extended capability list", ends);
    }
    probe(input, &config, &space, &mut report);
    report
}

/// A header that is mostly right, some capabilities, and some bytes that are anything.
fn space(input: &mut Input<'_>) -> Space {
    let len = input.choose(&[4096, 4096, 256]);
    let mut bytes = vec![0; len];
    bytes[..4].copy_from_slice(&[0xf4, 0x1a, 0x41, 0x10]);
    bytes[6] = 0x10;
    bytes[0x34] = 0x40;
    let mut at = 0x40_u8;
    for _ in 0..input.below(5) {
        let next = if input.one_in(8) {
            input.byte()
        } else {
            at.wrapping_add(20) & 0xfc
        };
        let id = input.choose(&[0x09, 0x10, 0x11, 0x05]);
        bytes[usize::from(at)..][..2].copy_from_slice(&[id, next]);
        bytes[usize::from(at) + 2..][..2].copy_from_slice(&input.bytes::<2>());
        at = next.clamp(0x40, 0xec) & 0xfc;
    }
    if len == 4096 {
        let mut at = 0x100_u16;
        for _ in 0..input.below(4) {
            let next = if input.one_in(6) {
                u16::from_le_bytes(input.bytes()) >> 4
            } else {
                at + 16
            };
            let word = u32::from(input.byte()) | 1 << 16 | u32::from(next) << 20;
            bytes[usize::from(at)..][..4].copy_from_slice(&word.to_le_bytes());
            at = next.clamp(0x100, 0xff0) & 0xffc;
        }
    }
    for _ in 0..input.below(12) {
        let offset = usize::try_from(input.below(256)).expect("a byte");
        bytes[offset] = input.byte();
    }
    let kept = core::array::from_fn(|_| match input.byte() {
        0xff => 0x5555_5550,
        size => u32::MAX << (4 + size % 29).min(31),
    });
    Space {
        bytes: RefCell::new(bytes),
        kept,
    }
}

fn conventional(space: &Space, at: u16) -> (Option<Capability>, u16) {
    let [id, next] = space.read16(at.into()).to_le_bytes();
    let capability = Capability {
        id: id.into(),
        offset: at,
    };
    ((id, next) != (0xff, 0xff))
        .then_some(())
        .map_or((None, 0), |()| (Some(capability), u16::from(next) & !3))
}

fn extended(space: &Space, at: u16) -> (Option<Capability>, u16) {
    let header = space.read32(at.into());
    let id = u16::try_from(header & 0xffff).expect("16 bits");
    let next = u16::try_from(header >> 20).expect("12 bits") & !3;
    let is_there = header != 0 && header != u32::MAX;
    (is_there.then_some(Capability { id, offset: at }), next)
}

/// The capabilities of a list, and whether it ends as a list must: never twice at one place.
fn walk(
    space: &Space,
    first: u16,
    end: u16,
    read: impl Fn(&Space, u16) -> (Option<Capability>, u16),
) -> (Vec<Capability>, bool) {
    let has_list = space.read16(6) & 0x10 != 0;
    let start = if first == 0x100 {
        0x100
    } else {
        u16::from(space.read8(0x34)) & !3
    };
    let mut at = if has_list || first == 0x100 { start } else { 0 };
    let (mut seen, mut found) = (BTreeSet::new(), Vec::new());
    while at != 0 {
        if !(first..end).contains(&at) || !seen.insert(at) {
            return (found, false);
        }
        let (capability, next) = read(space, at);
        let Some(capability) = capability else {
            // Nobody at the head of the extended list, or no capability at all, is an empty list.
            let word = space.read32(at.into());
            let is_end = first == 0x100 && (word == 0 || at == 0x100);
            return (found, is_end);
        };
        found.push(capability);
        at = next;
    }
    (found, true)
}

/// A list that ends is found whole; of another, nothing that is not there, and an error.
fn expect_list(found: &[Result<Capability, PciError>], expected: &[Capability], ends: bool) {
    assert!(found.len() <= 481, "a list without a bound");
    let capabilities: Vec<_> = found.iter().copied().filter_map(Result::ok).collect();
    assert!(
        capabilities.starts_with(expected),
        "{found:?} is not {expected:?}"
    );
    let is_whole = found.iter().all(Result::is_ok);
    assert_eq!(is_whole, ends, "{found:?}");
    if ends {
        assert_eq!(capabilities, expected);
    }
}

fn probe(input: &mut Input<'_>, config: &Config<&Space>, space: &Space, report: &mut Report) {
    let command = space.read16(4);
    for index in 0..8 {
        let bar = config.bar(index);
        if let Some(bar) = bar {
            assert!(index < 6 && bar.len.is_power_of_two(), "{bar:?}");
        }
        report.note("base address", bar.is_some());
    }
    assert_eq!(
        space.read16(4),
        command,
        "the function was left off the bus"
    );
    if let Ok(Some(msi_x)) = config.msi_x() {
        assert!((1..=2048).contains(&msi_x.vectors()));
        for part in [msi_x.table(), msi_x.pending()] {
            let len = input.word() >> input.below(64);
            let fits = u128::from(part.offset) + u128::from(part.len) <= u128::from(len);
            assert!(part.bar < 6 && part.check(len).is_ok() == fits);
            report.note("MSI-X table in its base address", fits);
        }
        msi_x.set_enabled(true);
    }
    let may_master = config.set_bus_master(true).is_ok();
    assert!(
        may_master || space.read16(4) == command,
        "a broken function on the bus"
    );
    // Whatever the list says, nothing panics.
    let _: Result<bool, PciError> = config.can_reset();
    let _: Result<(), PciError> = config.start_reset();
    let _: Result<bool, PciError> = config.has_transactions_pending();
}
