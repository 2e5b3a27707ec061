//! Attacks by way of a storage queue pair.
//!
//! Layouts as in the NVMe base specification 2.0, §3.3.3, and the NVM command set specification 1.0, §3.2, written
//! down here once more: none of the driver's code, which would refuse what is tried here.

use core::{
    sync::atomic::{
        AtomicU64,
        Ordering::{Acquire, Relaxed},
    },
    time::Duration,
};

use parakernel_apps::{pattern::Stamp, runtime::Runtime};
use parakernel_core::{
    abi::{BlockMap, LeaseRing, SharedDoorbell},
    address::Direction,
    device::DeviceId,
    handle::VolumeId,
    queue::Doorbell,
    ring::Position,
};
use parakernel_process::{Lease, Process, system_call};

use crate::{
    plan::Attack,
    stage::{MARK, Seen, Stage, deface},
    system,
};

const WRITE: u8 = 0x01;
const READ: u8 = 0x02;
/// Copies ranges of blocks that a list in memory names: the command itself says neither from where nor how many.
const COPY: u8 = 0x19;

const PAGE: usize = 4096;
/// Words of eight bytes in a page, a command and a completion.
const PAGE_WORDS: usize = PAGE / 8;
const COMMAND_WORDS: usize = 8;
const COMPLETION_WORDS: usize = 2;

/// How long an honest command may take.
const LIMIT: Duration = Duration::from_secs(2);

/// The fields of a command that matter here.
#[derive(Clone, Copy, Debug)]
struct Command {
    opcode: u8,
    id: u16,
    namespace: u32,
    /// First data pointer.
    data: u64,
    lba: u64,
    /// Dword 12: of reads and writes, the number of blocks less one.
    dword12: u32,
}

impl Command {
    const fn words(self) -> [u64; COMMAND_WORDS] {
        let head = self.opcode as u64 | (self.id as u64) << 16 | (self.namespace as u64) << 32;
        [head, 0, 0, self.data, 0, self.lba, self.dword12 as u64, 0]
    }
}

/// What the controller said of a command.
#[derive(Clone, Copy, Debug)]
struct Completion {
    id: u16,
    is_success: bool,
}

/// The rings of a queue pair, and two pages of data.
#[derive(Debug)]
struct Pair {
    lease: Lease,
    map: BlockMap,
    entries: usize,
    commands: &'static [AtomicU64],
    completions: &'static [AtomicU64],
    tail: u32,
    head: u32,
    /// The pages, and their address.
    pages: &'static [AtomicU64],
    data: u64,
}

/// Tries one of the attacks.
pub(crate) fn perform(stage: &mut Stage, attack: Attack) -> Result<Seen, &'static str> {
    let mut pair = Pair::open(&mut stage.process)?;
    match attack {
        Attack::OutsideRegions => pair.read_into(stage, "spare"),
        Attack::ForeignRegion => pair.read_into(stage, "victim"),
        Attack::ReadOnlyTarget => pair.read_only_target(stage),
        Attack::ForeignLba => Ok(pair.foreign_lba(stage)),
        Attack::ForeignNamespace => Ok(pair.foreign_namespace(stage)),
        Attack::ForbiddenOpcode => pair.forbidden_opcode(stage),
        Attack::SlotInFlight => Ok(pair.slot_in_flight(stage)),
        Attack::TailJump => Ok(pair.tail_jump(stage)),
        Attack::ForeignDoorbell => Ok(system::foreign_doorbell(stage, &pair.lease)),
        Attack::NoStop => system::no_stop(stage),
        Attack::WildPointer
        | Attack::ForeignSource
        | Attack::ForeignMac
        | Attack::Pause
        | Attack::Lldp
        | Attack::ForeignArp
        | Attack::LegacyDescriptor
        | Attack::HeaderLies
        | Attack::ForeignTag
        | Attack::TinySegments
        | Attack::LongFrame
        | Attack::EndlessPacket => Err("there is no such attack"),
    }
}

/// A block to be written: what publishes it.
pub(crate) fn bait(
    process: &mut Process,
) -> Result<(SharedDoorbell<'static>, Position), &'static str> {
    let mut pair = Pair::open(process)?;
    let lba = pair.map.first;
    pair.stamp(process, lba)?;
    let write = pair.command(WRITE, 0);
    pair.push(write);
    let doorbell = pair.lease.doorbell(LeaseRing::First);
    Ok((doorbell, Position::new(pair.tail)))
}

impl Pair {
    fn open(process: &mut Process) -> Result<Self, &'static str> {
        let arguments = process.arguments();
        let device = arguments
            .number("nvme")
            .and_then(|it| u32::try_from(it).ok());
        let device = DeviceId::new(device.ok_or("no NVMe device")?);
        let volume = arguments.numbers("volumes").next().ok_or("no volume")?;
        let (lease, map) = process
            .claim_block(device, VolumeId::from_bits(volume))
            .map_err(|_| "no queue pair")?;
        let (pages, data) = process
            .shared_memory(2 * PAGE, Direction::Bidirectional)
            .map_err(|_| "no memory")?;
        let entries = lease.map().rings[0].entries.entries() as usize;
        let commands = lease.submissions(LeaseRing::First);
        let completions = lease.completions(LeaseRing::First);
        let rings = (|| {
            let commands = commands?.slice(0, entries * COMMAND_WORDS)?;
            let completions = completions?.slice(0, entries * COMPLETION_WORDS)?;
            Some((commands, completions, pages.slice(0, 2 * PAGE_WORDS)?))
        })();
        let (commands, completions, pages) = rings.ok_or("a map that makes no sense")?;
        Ok(Self {
            lease,
            map,
            entries,
            commands,
            completions,
            tail: 0,
            head: 0,
            pages,
            data: data.as_u64(),
        })
    }

    /// A command on the first block of the volume, with the first page.
    const fn command(&self, opcode: u8, id: u16) -> Command {
        Command {
            opcode,
            id,
            namespace: self.map.namespace,
            data: self.data,
            lba: self.map.first,
            dword12: 0,
        }
    }

    /// Puts a command into the ring, whatever was there.
    fn push(&mut self, command: Command) {
        let slot = self.tail as usize % self.entries;
        let (slots, _) = self.commands.as_chunks::<COMMAND_WORDS>();
        for (place, word) in slots[slot].iter().zip(command.words()) {
            place.store(word, Relaxed);
        }
        self.tail = self.tail.wrapping_add(1);
    }

    /// Publishes all that was pushed. Nothing is said about completions that were seen.
    fn publish(&self) {
        let mut doorbell = self.lease.doorbell(LeaseRing::First);
        doorbell.ring(Position::new(self.tail));
        // Whether the kernel likes it shows by what becomes of the process.
        let _refused = system_call::submit(self.lease.id()).is_err();
    }

    /// The next completion.
    fn completion(&mut self) -> Option<Completion> {
        let slot = self.head as usize % self.entries;
        let word = self.completions[slot * COMPLETION_WORDS + 1].load(Acquire);
        let is_even_round = (self.head as usize / self.entries).is_multiple_of(2);
        if (word >> 48 & 1 == 1) != is_even_round {
            return None;
        }
        self.head = self.head.wrapping_add(1);
        #[expect(clippy::cast_possible_truncation, reason = "takes the word apart")]
        let id = (word >> 32) as u16;
        let is_success = word >> 49 == 0;
        Some(Completion { id, is_success })
    }

    /// Pushes, publishes and waits until all is completed, with success.
    fn run(&mut self, process: &mut Process, commands: &[Command]) -> Result<(), &'static str> {
        for command in commands {
            self.push(*command);
        }
        self.publish();
        let limit = process.now().saturating_add(LIMIT);
        for _ in commands {
            let completion = loop {
                match self.completion() {
                    Some(completion) => break completion,
                    None if process.now() > limit => return Err("the controller does not answer"),
                    None => process.wait(Some(limit)),
                }
            };
            if !completion.is_success {
                return Err("the controller refuses an honest command");
            }
        }
        Ok(())
    }

    /// Publishes what was pushed and stays around; whether so many commands were completed with success.
    fn strike(&mut self, stage: &mut Stage, count: usize) -> bool {
        self.publish();
        let mut done = 0;
        stage.linger(|_| {
            while let Some(Completion { is_success, .. }) = self.completion() {
                done += usize::from(is_success);
            }
            done >= count
        })
    }

    /// Fills the first `count` blocks of the volume, so that it is seen where they come from: with what the process may
    /// write there, and a generation that reads as the pattern.
    fn sign(&mut self, process: &mut Process, count: u64) -> Result<(), &'static str> {
        for lba in self.map.first..self.map.first + count {
            self.stamp(process, lba)?;
            let write = Command {
                lba,
                ..self.command(WRITE, 0)
            };
            self.run(process, &[write])?;
        }
        Ok(())
    }

    /// Puts what the process may write to block `lba` into the first page.
    fn stamp(&self, process: &Process, lba: u64) -> Result<(), &'static str> {
        let mut block = [0; PAGE];
        let len = 1_usize << self.map.block_shift;
        let block = block.get_mut(..len).ok_or("blocks are too large")?;
        let stamp = Stamp {
            owner: process.arguments().number("owner").unwrap_or(0),
            namespace: self.map.namespace,
            lba,
            generation: MARK,
        };
        stamp.write(block).map_err(|_| "blocks are too small")?;
        let (words, _) = block.as_chunks();
        for (place, word) in self.pages.iter().zip(words) {
            place.store(u64::from_le_bytes(*word), Relaxed);
        }
        Ok(())
    }

    /// Has the controller write the process's block to the address that the argument `aim` gives.
    fn read_into(&mut self, stage: &mut Stage, aim: &str) -> Result<Seen, &'static str> {
        let target = stage.aim(aim)?;
        self.sign(&mut stage.process, 1)?;
        stage.announce();
        self.push(Command {
            data: target,
            ..self.command(READ, 1)
        });
        Ok(Seen::effect(
            self.strike(stage, 1),
            "the controller says that it wrote a block there",
        ))
    }

    fn read_only_target(&mut self, stage: &mut Stage) -> Result<Seen, &'static str> {
        self.sign(&mut stage.process, 1)?;
        let (memory, iova) = stage
            .process
            .shared_memory(PAGE, Direction::ToDevice)
            .map_err(|_| "no memory")?;
        let first = memory.view::<AtomicU64>(0).ok_or("no memory")?;
        deface(memory.slice(0, PAGE_WORDS).unwrap_or_default());
        let before = first.load(Relaxed);
        stage.announce();
        self.push(Command {
            data: iova.as_u64(),
            ..self.command(READ, 1)
        });
        self.publish();
        let is_changed = stage.linger(|_| first.load(Relaxed) != before);
        Ok(Seen::effect(
            is_changed,
            "the region was written by the controller",
        ))
    }

    /// Writes the block behind the volume, or the one before.
    fn foreign_lba(&mut self, stage: &mut Stage) -> Seen {
        let end = self.map.first + self.map.blocks;
        let lba = if end < self.map.namespace_blocks {
            end
        } else {
            self.map.first.wrapping_sub(1)
        };
        let command = Command {
            lba,
            ..self.command(WRITE, 1)
        };
        self.deface_by(stage, command, "a block outside the volume was written")
    }

    /// Writes the same block of another namespace: of the third, which is nobody's, where there is one.
    fn foreign_namespace(&mut self, stage: &mut Stage) -> Seen {
        let namespace = if self.map.namespace == 3 { 1 } else { 3 };
        let command = Command {
            namespace,
            ..self.command(WRITE, 1)
        };
        self.deface_by(stage, command, "a block of another namespace was written")
    }

    fn deface_by(&mut self, stage: &mut Stage, command: Command, what: &'static str) -> Seen {
        deface(self.pages);
        stage.announce();
        self.push(command);
        Seen::effect(self.strike(stage, 1), what)
    }

    /// Copies the first blocks of the volume to its last block and beyond its end.
    ///
    /// All that the command says is one range and one block of the volume. The range's length is in the list.
    fn forbidden_opcode(&mut self, stage: &mut Stage) -> Result<Seen, &'static str> {
        const BLOCKS: u64 = 8;
        self.sign(&mut stage.process, BLOCKS)?;
        // A source range of format 0: first block in bytes 8 to 15, the number of blocks less one in 16 and 17.
        let range = [0, self.map.first, BLOCKS - 1, 0];
        for (place, word) in self.pages.iter().zip(range) {
            place.store(word, Relaxed);
        }
        stage.announce();
        self.push(Command {
            lba: self.map.first + self.map.blocks - 1,
            ..self.command(COPY, 1)
        });
        Ok(Seen::effect(
            self.strike(stage, 1),
            "blocks were copied beyond the end of the volume",
        ))
    }

    /// Uses one id for two commands at a time, with different data.
    fn slot_in_flight(&mut self, stage: &mut Stage) -> Seen {
        const ID: u16 = 7;
        deface(self.pages);
        stage.announce();
        let first = self.command(READ, ID);
        self.push(first);
        self.push(Command {
            data: self.data + PAGE as u64,
            ..first
        });
        self.publish();
        let mut count = 0;
        let is_doubled = stage.linger(|_| {
            while let Some(Completion { id, .. }) = self.completion() {
                count += u32::from(id == ID);
            }
            count > 1
        });
        Seen::effect(is_doubled, "one id was completed twice")
    }

    /// Publishes one command more than the ring holds, so that its tail is back where it was.
    fn tail_jump(&mut self, stage: &mut Stage) -> Seen {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "ids are below the number of entries"
        )]
        for id in 0..self.entries as u16 {
            self.push(self.command(READ, id));
        }
        stage.announce();
        self.publish();
        let tail = Position::new(self.tail);
        let doorbell = self.lease.doorbell(LeaseRing::First);
        let is_accepted = stage.linger(|_| doorbell.accepted(tail) == tail);
        Seen::effect(
            is_accepted,
            "more commands were taken over than the ring holds",
        )
    }
}
