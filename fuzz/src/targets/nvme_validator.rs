//! The validator of NVMe queues in `Checked` mode, through the kernel's side of a queue pair.
//!
//! A process submits, a controller completes in any order, regions come and go; after each call the controller's ring
//! must hold what [`oracle`] says, and nothing else.

mod oracle;

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use parakernel_core::{
    address::Direction,
    device::DeviceId,
    queue::{Doorbell, Lba},
    ring::{Position, RingSize},
    validate::DescriptorValidator as _,
    volume::{Identity, Volume},
};
use parakernel_nvme::{
    checked::{CheckedMemory, CheckedQueue, Claim, ServiceError},
    command::Command,
    controller::QueueId,
    identify::NamespaceData,
    validate::{BusyMark, Rules, Validator},
};

use crate::{
    Report, Target,
    input::Input,
    memory::Pages,
    regions::{PAGE, Regions, Storage},
};
use oracle::Contract;

pub(super) const TARGET: Target = Target {
    name: "nvme_validator",
    run,
    is_validator: true,
    max_len: 384,
};

/// Entries of the rings.
const ENTRIES: usize = 8;
/// The queue's number.
const QUEUE: u16 = 5;
const FLUSH: u64 = 0;
const WRITE: u64 = 1;
const READ: u64 = 2;
const WRITE_ZEROES: u64 = 8;

/// A doorbell that says where it was rung last.
#[derive(Debug)]
struct Rung<'a>(&'a AtomicU32);

impl Doorbell for Rung<'_> {
    fn ring(&mut self, tail: Position) {
        self.0.store(tail.as_u32(), Relaxed);
    }

    fn accepted(&self, rung: Position) -> Position {
        rung
    }
}

/// The memory of one queue pair.
struct Rings {
    shadow: Pages,
    submission: Pages,
    completion: Pages,
    tail: AtomicU32,
    head: AtomicU32,
}

/// The process, the controller, and what both have done so far.
struct Bench<'a> {
    queue: CheckedQueue<'a, Rung<'a>>,
    /// A second one, which is asked for each command alone.
    validator: Validator<'a>,
    rings: &'a Rings,
    contract: Contract,
    /// What the controller's ring must hold.
    expected: [[u64; 8]; ENTRIES],
    /// Ids of commands that the controller has.
    in_flight: Vec<u16>,
    /// Commands written, taken over; completions written, seen by the kernel, given back to the controller.
    written: u32,
    accepted: u32,
    completed: u32,
    harvested: u32,
    released: u32,
    report: Report,
}

fn run(bytes: &[u8]) -> Report {
    let input = &mut Input::new(bytes);
    let mut storage = Storage::new();
    let mut regions = Regions::new(&mut storage);
    regions.insert(input, Direction::Bidirectional, 600);
    regions.insert(input, Direction::ToDevice, 4);
    regions.insert(input, Direction::FromDevice, 24);
    let rings = Rings {
        shadow: Pages::new(1, 0),
        submission: Pages::new(1, 0),
        completion: Pages::new(1, 0),
        tail: AtomicU32::new(0),
        head: AtomicU32::new(0),
    };
    let mut busy = [[BusyMark::FREE; ENTRIES]; 2];
    match Bench::new(input, &rings, &mut busy) {
        Some(mut bench) => {
            bench.drive(input, &mut regions);
            bench.report
        }
        None => Report::default(),
    }
}

impl<'a> Bench<'a> {
    fn new(
        input: &mut Input<'_>,
        rings: &'a Rings,
        busy: &'a mut [[BusyMark; ENTRIES]; 2],
    ) -> Option<Self> {
        let (contract, rules) = contract(input)?;
        let [first, second] = busy;
        let memory = CheckedMemory {
            shadow: rings.shadow.shared(),
            submission: rings.submission.shared(),
            completion: rings.completion.shared(),
            busy: first,
        };
        let doorbells = [Rung(&rings.tail), Rung(&rings.head)];
        let queue = QueueId::new(QUEUE).expect("not the admin queue");
        let size = RingSize::new(8).expect("a power of two");
        Some(Self {
            queue: CheckedQueue::new(queue, size, memory, rules, doorbells).expect("room"),
            validator: Validator::new(rules, second),
            rings,
            contract,
            expected: [[0; 8]; ENTRIES],
            in_flight: Vec::with_capacity(ENTRIES),
            written: 0,
            accepted: 0,
            completed: 0,
            harvested: 0,
            released: 0,
            report: Report::default(),
        })
    }

    fn drive(&mut self, input: &mut Input<'_>, regions: &mut Regions<'_>) {
        while !input.is_empty() {
            let goes_on = match input.byte() & 15 {
                0 => {
                    regions.remove(input);
                    true
                }
                1 => {
                    let direction = input.choose(&[
                        Direction::Bidirectional,
                        Direction::ToDevice,
                        Direction::FromDevice,
                    ]);
                    regions.insert(input, direction, 40);
                    true
                }
                2..=5 => {
                    self.complete(input);
                    true
                }
                _ => self.submit(input, regions),
            };
            if !goes_on {
                break;
            }
        }
        self.end(input);
    }

    /// The process writes some commands and calls the kernel; whether it may go on.
    fn submit(&mut self, input: &mut Input<'_>, regions: &Regions<'_>) -> bool {
        let room = u32::try_from(ENTRIES).expect("few") - 1 - (self.written - self.released);
        let count = u32::from(input.byte() & 3).min(room);
        for _ in 0..count {
            let words = self.command(input, regions);
            let slot = self.written as usize % ENTRIES;
            for (index, word) in words.into_iter().enumerate() {
                self.rings.shadow.store(slot * 8 + index, word);
            }
            self.written += 1;
        }
        let jump = if input.one_in(64) { input.below(16) } else { 0 };
        let claim = Claim {
            tail: Position::new(
                self.written
                    .wrapping_add(small(jump))
                    .wrapping_sub(small(jump & 8) * 2),
            ),
            head: self.head(input),
        };
        let budget = if input.one_in(4) { 1 } else { 32 };
        self.service(claim, regions, budget)
    }

    /// How many completions the process says it has taken.
    fn head(&self, input: &mut Input<'_>) -> Position {
        let head = match input.byte() & 7 {
            0 => self.released,
            1 => self
                .released
                .wrapping_add(small(input.below(20)))
                .wrapping_sub(10),
            _ => self.completed,
        };
        Position::new(head)
    }

    fn service(&mut self, claim: Claim, regions: &Regions<'_>, budget: u32) -> bool {
        let result = self.queue.service(claim, &regions.table, budget);
        self.harvested = self.completed;
        self.expect_head(claim.head.as_u32());
        let room = small(ENTRIES as u64) - 1 - (self.accepted - self.released);
        let wanted = claim.tail.as_u32().wrapping_sub(self.accepted);
        let mut is_refused = wanted > room;
        let count = if is_refused { 0 } else { wanted.min(budget) };
        for _ in 0..count {
            if !self.expect_command(regions) {
                is_refused = true;
                break;
            }
        }
        match result {
            Ok(accepted) => {
                assert!(!is_refused, "the kernel took over what breaks a rule");
                assert_eq!(accepted.as_u32(), self.accepted);
            }
            Err(ServiceError::Violation(violation)) => {
                assert!(
                    is_refused,
                    "the kernel refused what breaks no rule: {violation}"
                );
            }
            Err(ServiceError::Completion(error)) => panic!("an honest controller: {error}"),
        }
        self.expect_ring();
        !is_refused
    }

    /// The process gives back no completion that there is not, and none twice; what it says beside that is nothing.
    fn expect_head(&mut self, claimed: u32) {
        let there = self.harvested - self.released;
        let given = claimed.wrapping_sub(self.released).min(there);
        self.released += given;
        assert_eq!(self.rings.head.load(Relaxed), self.released);
    }

    /// What must have become of the next command in the shadow ring; whether it was taken over.
    fn expect_command(&mut self, regions: &Regions<'_>) -> bool {
        let slot = self.accepted as usize % ENTRIES;
        let words = core::array::from_fn(|index| self.rings.shadow.load(slot * 8 + index));
        let is_allowed = self.contract.allows(&words, &self.in_flight, regions);
        let alone = self
            .validator
            .validate(Command::from_words(words), &regions.table);
        for shape in self.contract.shapes(&words) {
            self.report.note(shape, is_allowed);
        }
        match (alone, is_allowed) {
            (Ok(command), true) => {
                let hardware: [u64; 8] =
                    core::array::from_fn(|index| self.rings.submission.load(slot * 8 + index));
                self.contract.check(&words, &hardware, regions);
                assert_eq!(
                    command.into_inner().words(),
                    hardware,
                    "the two paths differ"
                );
                self.expected[slot] = hardware;
                self.in_flight.push(id(&words));
                self.accepted += 1;
                true
            }
            (Err(_), false) => false,
            (Ok(command), false) => panic!("{words:x?} was accepted: {command:x?}"),
            (Err(violation), true) => panic!("{words:x?} was refused: {violation}"),
        }
    }

    /// Nothing but the commands that were taken over is in the controller's ring, and it was told about each.
    fn expect_ring(&self) {
        for (slot, words) in self.expected.iter().enumerate() {
            for (index, &word) in words.iter().enumerate() {
                assert_eq!(
                    self.rings.submission.load(slot * 8 + index),
                    word,
                    "slot {slot}"
                );
            }
        }
        assert_eq!(self.rings.tail.load(Relaxed), self.accepted);
        let outstanding = self.accepted - self.released;
        assert!((outstanding as usize) < ENTRIES, "completions have no room");
    }

    /// The controller ends one of the commands it has.
    fn complete(&mut self, input: &mut Input<'_>) {
        if self.in_flight.is_empty() {
            return;
        }
        let chosen = usize::from(input.byte()) % self.in_flight.len();
        let id = self.in_flight.swap_remove(chosen);
        assert!(self.validator.complete(id));
        let slot = self.completed as usize % ENTRIES;
        let phase = u64::from((self.completed as usize / ENTRIES).is_multiple_of(2));
        let status = if input.one_in(4) {
            input.word() << 49
        } else {
            0
        };
        let state = status | phase << 48 | u64::from(id) << 32 | u64::from(QUEUE) << 16;
        self.rings.completion.store(slot * 2 + 1, state);
        self.completed += 1;
    }

    /// The lease ends: the kernel waits until the controller has nothing of it any more.
    fn end(&mut self, input: &mut Input<'_>) {
        loop {
            let left = self.queue.drain().expect("an honest controller");
            assert_eq!(left as usize, self.in_flight.len());
            if left == 0 {
                break;
            }
            self.complete(input);
        }
        assert_eq!(self.rings.head.load(Relaxed), self.completed);
    }

    /// A command as a well-behaved process gives it; one in four has something wrong.
    fn command(&self, input: &mut Input<'_>, regions: &Regions<'_>) -> [u64; 8] {
        let opcode = input.choose(&[READ, WRITE, READ, WRITE, READ, WRITE, FLUSH, WRITE_ZEROES]);
        let id = self.free_id(input);
        let mut words = [0; 8];
        words[0] = opcode | u64::from(id) << 16 | u64::from(self.contract.namespace) << 32;
        if opcode != FLUSH {
            let (lba, blocks) = self.contract.blocks(input);
            words[5] = lba;
            words[6] = (blocks - 1) | u64::from(input.byte() & 1) << 30;
            if opcode != WRITE_ZEROES {
                let direction = if opcode == WRITE {
                    Direction::ToDevice
                } else {
                    Direction::FromDevice
                };
                let len = blocks << self.contract.block_shift;
                words[3] = regions.address(input, direction, len);
                if words[3] % PAGE + len > PAGE && words[3] % PAGE + len <= 2 * PAGE {
                    words[4] = (words[3] / PAGE + 1) * PAGE;
                }
            }
        }
        if input.one_in(8) {
            self.contract.spoil(input, &mut words);
        }
        words
    }

    /// An id that is not in flight, if there is one.
    fn free_id(&self, input: &mut Input<'_>) -> u16 {
        let wanted = u16::from(input.byte()) % 8;
        let is_free = |id: &u16| !self.in_flight.contains(id);
        let pending = self.accepted..self.written;
        let is_new = |id: &u16| {
            pending.clone().all(|at| {
                let head = self.rings.shadow.load(at as usize % ENTRIES * 8);
                head >> 16 & 0xffff != u64::from(*id)
            })
        };
        (0..8)
            .map(|n| (wanted + n) % 8)
            .find(|id| is_free(id) && is_new(id))
            .unwrap_or(wanted)
    }
}

/// What the queue's commands are to be confined to, and the rules that the driver makes of it, which is none where the
/// volume is none.
fn contract(input: &mut Input<'_>) -> Option<(Contract, Rules)> {
    let block_shift = input.choose(&[9, 12, 9, 12, 10, 16]);
    let blocks = input.choose(&[4096, 64, 4096, 1 << 20]);
    let start = input.choose(&[0, 1, 4096, u64::MAX - 4096, u64::MAX - 63]);
    let namespace = input.choose(&[1, 2, 0xffff_fffd, 7, 1, 2, 0, 0xffff_fffe, u32::MAX]);
    let size = input.choose(&[u64::MAX, u64::MAX, u64::MAX - 1, 4096 + 64]);
    let most = input.choose(&[None, Some(1 << 20), Some(128 << 10), Some(4096)]);
    let volume = Volume {
        device: DeviceId::new(0),
        namespace,
        start: Lba::new(start),
        blocks,
        owner: Identity(1),
    };
    let data = NamespaceData {
        blocks: size,
        block_shift,
        write_protected: false,
    };
    let rules = Rules::new(&volume, &data, most);
    let end = u128::from(start) + u128::from(blocks);
    let is_volume = namespace != 0 && namespace < 0xffff_fffe && end <= u128::from(size);
    assert_eq!(rules.is_some(), is_volume, "{volume:?} of {data:?}");
    let contract = Contract {
        namespace,
        start,
        blocks,
        block_shift,
        most: most.unwrap_or(1 << 20),
    };
    rules.map(|rules| (contract, rules))
}

fn id(words: &[u64; 8]) -> u16 {
    oracle::bits(words[0], 16..32).try_into().expect("16 bits")
}

fn small(number: u64) -> u32 {
    number.try_into().expect("a small number")
}
