//! A model of the Mirror, written from its specification. It shares no constant with the driver.

use std::sync::{Arc, Mutex, MutexGuard};

use parakernel_core::{
    address::BusAddress,
    mmio::{Registers, Width},
};
use parakernel_mock_hw::{
    Memory, World,
    memory::{Bus, RequesterId},
    world::{Activity, Device, Turn},
};

/// What goes wrong with the device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Trouble {
    None,
    /// It says that it was given more than it was.
    LongLength,
    /// ACTIVE never changes.
    Stuck,
}

#[derive(Debug)]
struct State {
    bus: Bus,
    trouble: Trouble,
    enabled: bool,
    active: bool,
    ring: u64,
    size: u32,
    tail: u32,
    head: u32,
}

/// The device; a clone is the same one, and its register file.
#[derive(Clone, Debug)]
pub(crate) struct Model(Arc<Mutex<State>>);

impl Model {
    pub(crate) fn new(
        world: &World,
        memory: &Memory,
        requester: RequesterId,
        trouble: Trouble,
    ) -> Self {
        let state = State {
            bus: memory.bus(requester),
            trouble,
            enabled: false,
            // As firmware may leave it.
            active: true,
            ring: 0,
            size: 0,
            tail: 0,
            head: 0,
        };
        let model = Self(Arc::new(Mutex::new(state)));
        world.attach(model.0.clone());
        model
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

impl Registers for Model {
    fn read(&self, offset: usize, width: Width) -> u64 {
        let state = self.state();
        match (offset, width) {
            (0x00, Width::U32) => 0x4d49_5252,
            (0x04, Width::U32) => state.enabled.into(),
            (0x08, Width::U32) => {
                u64::from(state.active) | u64::from(state.head != state.tail) << 1
            }
            other => panic!("the driver read {other:x?}"),
        }
    }

    fn write(&self, offset: usize, width: Width, value: u64) {
        let mut state = self.state();
        let value32 = u32::try_from(value & 0xffff_ffff).unwrap();
        match (offset, width) {
            (0x04, Width::U32) => state.enabled = value & 1 == 1,
            (0x10, Width::U64) if !state.active && value.is_multiple_of(16) => state.ring = value,
            (0x18, Width::U32) if !state.active && (2..=256).contains(&value) => {
                state.size = value32;
            }
            (0x1000, Width::U32) => {
                assert!(
                    value32.wrapping_sub(state.head) <= state.size,
                    "the tail passed a whole ring (§1)"
                );
                state.tail = value32;
            }
            other => panic!("the driver wrote {value:#x} to {other:x?}"),
        }
    }

    fn len(&self) -> usize {
        0x2000
    }
}

impl Device for State {
    fn step(&mut self, _turn: &mut Turn<'_>) -> Activity {
        if self.active != self.enabled && self.trouble != Trouble::Stuck {
            self.active = self.enabled;
            (self.head, self.tail) = (0, 0);
            return Activity::Worked;
        }
        if !self.enabled || self.head == self.tail {
            return Activity::Idle;
        }
        self.mirror();
        Activity::Worked
    }
}

impl State {
    /// Does the next entry, §5.
    fn mirror(&mut self) {
        let entry = BusAddress::new(self.ring + u64::from(self.head % self.size) * 16);
        self.head = self.head.wrapping_add(1);
        let words: [u8; 16] = self.bus.read_array(entry).unwrap_or_default();
        let address = BusAddress::new(u64::from_le_bytes(words[..8].try_into().unwrap()));
        let mut state = u64::from_le_bytes(words[8..].try_into().unwrap());
        let mut frame = vec![0; usize::try_from(state & 0xffff).unwrap()];
        if self.bus.read(address, &mut frame).is_err() || frame.len() < 14 {
            return;
        }
        let (first, second) = frame.split_at_mut(6);
        first.swap_with_slice(&mut second[..6]);
        let written = self.bus.write(address, &frame);
        state += u64::from(self.trouble == Trouble::LongLength);
        let done = (state | 1 << 63).to_le_bytes();
        let at = entry.checked_add(8).unwrap();
        // What cannot be written is in the audit.
        let _is_done = written.and_then(|()| self.bus.write(at, &done)).is_ok();
    }
}
