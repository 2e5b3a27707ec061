//! A model of the Shelf, written from its specification. It shares no constant with the driver.

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

/// Blocks of the disk.
const BLOCKS: u64 = 64;

/// What is wrong with the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Defect {
    None,
    NeverStops,
    WrongId,
    Removed,
    AnswersStrangers,
    AnswersTwice,
}

#[derive(Debug)]
struct State {
    bus: Bus,
    defect: Defect,
    blocks: Vec<u8>,
    control: u64,
    running: bool,
    failed: bool,
    commands: u64,
    answers: u64,
    size: u32,
    tail: u32,
    fetched: u32,
    answered: u32,
    /// Commands that were fetched and not answered.
    held: Vec<[u64; 4]>,
}

/// The device; a clone is the same one, and its register file.
#[derive(Clone, Debug)]
pub(crate) struct Model(Arc<Mutex<State>>);

impl Model {
    pub(crate) fn new(world: &World, memory: &Memory, disk: RequesterId, defect: Defect) -> Self {
        let state = State {
            bus: memory.bus(disk),
            defect,
            blocks: vec![0; 64 * 512],
            // As firmware may leave it.
            control: 1,
            running: true,
            failed: false,
            commands: 0,
            answers: 0,
            size: 0,
            tail: 0,
            fetched: 0,
            answered: 0,
            held: Vec::new(),
        };
        let model = Self(Arc::new(Mutex::new(state)));
        world.attach(model.0.clone());
        model
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// What was published to the device and not answered.
    pub(crate) fn unanswered(&self) -> u32 {
        let state = self.state();
        state.tail.wrapping_sub(state.answered)
    }

    /// Whether the driver broke a rule of §2 or §6.
    pub(crate) fn has_failed(&self) -> bool {
        self.state().failed
    }
}

impl Registers for Model {
    fn read(&self, offset: usize, width: Width) -> u64 {
        let state = self.state();
        match (offset, width) {
            (_, Width::U32) if state.defect == Defect::Removed => 0xffff_ffff,
            (0x00, Width::U32) if state.defect == Defect::WrongId => 0x1234,
            (0x00, Width::U32) => 0x4648_4c53,
            (0x04, Width::U32) => state.control,
            (0x08, Width::U32) => {
                let busy = state.tail != state.answered;
                u64::from(state.running) | u64::from(busy) << 1 | u64::from(state.failed) << 2
            }
            (0x10, Width::U64) => BLOCKS,
            other => panic!("the driver read {other:x?}"),
        }
    }

    fn write(&self, offset: usize, width: Width, value: u64) {
        let mut state = self.state();
        let value32 = u32::try_from(value & 0xffff_ffff).unwrap();
        let is_idle = !state.running;
        match (offset, width) {
            (0x04, Width::U32) if value < 4 => state.control = value,
            (0x18, Width::U64) if is_idle && value.is_multiple_of(64) => state.commands = value,
            (0x20, Width::U64) if is_idle && value.is_multiple_of(64) => state.answers = value,
            (0x28, Width::U32) if is_idle && (2..=256).contains(&value) => {
                assert!(value.is_power_of_two(), "SIZE is {value} (§1)");
                state.size = value32;
            }
            (0x1000, Width::U32) => state.tail = value32,
            other => panic!("the driver wrote {value:#x} to {other:x?}"),
        }
    }

    fn len(&self) -> usize {
        0x2000
    }
}

impl Device for State {
    fn step(&mut self, turn: &mut Turn<'_>) -> Activity {
        let (runs, is_master) = (self.control & 1 != 0, self.control & 2 != 0);
        let has_more = runs && !self.failed && self.fetched != self.tail;
        if runs && !self.running {
            (self.running, self.failed) = (true, false);
            (self.tail, self.fetched, self.answered) = (0, 0, 0);
        } else if is_master && has_more && (self.held.is_empty() || turn.random.chance(500)) {
            self.fetch();
        } else if is_master && !self.held.is_empty() {
            self.execute(turn.random.index(self.held.len()));
        } else if self.running && !runs && self.held.is_empty() && self.defect != Defect::NeverStops
        {
            self.running = false;
        } else {
            return Activity::Idle;
        }
        Activity::Worked
    }
}

impl State {
    /// Takes the next command, §6. What cannot be read is in the audit.
    fn fetch(&mut self) {
        let at = BusAddress::new(self.commands + u64::from(self.fetched % self.size) * 32);
        let bytes: [u8; 32] = self.bus.read_array(at).unwrap_or_default();
        let word = |index: usize| u64::from_le_bytes(bytes[index * 8..][..8].try_into().unwrap());
        let words = [word(0), word(1), word(2), word(3)];
        let is_ahead = self.tail.wrapping_sub(self.fetched) > self.size;
        self.failed = is_ahead || !self.is_allowed(words);
        if !self.failed {
            self.fetched = self.fetched.wrapping_add(1);
            self.held.push(words);
        }
    }

    /// §2.
    fn is_allowed(&self, words: [u64; 4]) -> bool {
        let (id, blocks) = (words[0] >> 16 & 0xffff, words[0] >> 32 & 0xff);
        let is_free = self.held.iter().all(|held| held[0] >> 16 & 0xffff != id);
        let is_shaped = match words[0] & 0xff {
            1 | 2 => (1..=8).contains(&blocks) && words[2].is_multiple_of(512),
            3 => blocks == 0 && words[2] == 0,
            _ => false,
        };
        let others = words[0] & !0xff_ffff_00ff | words[3];
        is_shaped && is_free && id < self.size.into() && others == 0
    }

    fn execute(&mut self, which: usize) {
        let words = self.held.swap_remove(which);
        let (id, status) = (words[0] >> 16 & 0xffff, self.transfer(words));
        match self.defect {
            Defect::AnswersStrangers => self.answer(id + 1, status),
            Defect::AnswersTwice => {
                self.answer(id, status);
                self.answer(id, status);
            }
            Defect::None | Defect::NeverStops | Defect::WrongId | Defect::Removed => {
                self.answer(id, status);
            }
        }
    }

    /// Moves a command's data and returns the status, §3.
    fn transfer(&mut self, words: [u64; 4]) -> u64 {
        let (opcode, count, address) = (words[0] & 0xff, words[0] >> 32 & 0xff, words[2]);
        if words[1].checked_add(count).is_none_or(|end| end > BLOCKS) {
            return 1;
        }
        let bytes = |blocks: u64| usize::try_from(blocks * 512).unwrap();
        let place = &mut self.blocks[bytes(words[1])..][..bytes(count)];
        let moved = match opcode {
            1 => self.bus.write(BusAddress::new(address), place),
            2 => self.bus.read(BusAddress::new(address), place),
            _ => Ok(()),
        };
        if moved.is_ok() { 0 } else { 3 }
    }

    /// §3. What cannot be written is in the audit.
    fn answer(&mut self, id: u64, status: u64) {
        let at = BusAddress::new(self.answers + u64::from(self.answered % self.size) * 8);
        self.answered = self.answered.wrapping_add(1);
        let word = id | status << 16 | u64::from(self.answered) << 32;
        let _is_written = self.bus.write(at, &word.to_le_bytes()).is_ok();
    }
}
