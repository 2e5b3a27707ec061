//! The validator of `Checked` mode: what a process's command may become.
//!
//! A command arrives as a copy, so nothing can change after it was looked at. It goes to the controller if it is one
//! that a process may give, in the process's namespace and volume, with data in the process's regions; its data pointer
//! is made anew from the region table. Why that is enough is argued in `docs/soundness-nvme.md`.

use parakernel_core::{
    address::{Direction, Iova},
    memory::{PAGE_SIZE, RegionTable, RegionWindow},
    queue::Lba,
    validate::{DescriptorValidator, Validated, Violation},
    volume::Volume,
};

use crate::{
    command::{Command, FUA, IoWords, opcode},
    identify::NamespaceData,
    namespace::NamespaceId,
    prp::{ListTables, MAX_TRANSFER, PAGE_MASK, pages},
};

const PAGE: u64 = PAGE_SIZE as u64;
/// Bits of the command id in the first word.
const ID: u64 = 0xffff << 16;
/// Bits of the block count in the length word.
const COUNT: u64 = 0xffff;

/// What the commands of a queue are checked against.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// What the first word has apart from opcode and id: the namespace.
    head: u64,
    first: u64,
    blocks: u64,
    block_shift: u8,
    max_bytes: u64,
}

impl Rules {
    /// The rules for a queue that is confined to `volume`, whose namespace is described by `data`; the controller moves
    /// `max_transfer` bytes at most, and is asked for no more zeroes than that in one command. `None` where there is no such namespace, or the volume does not lie in it.
    #[must_use]
    pub fn new(volume: &Volume, data: &NamespaceData, max_transfer: Option<u64>) -> Option<Self> {
        let namespace = NamespaceId::new(volume.namespace)?;
        let first = volume.start.as_u64();
        let end = first.checked_add(volume.blocks)?;
        (volume.blocks > 0 && end <= data.blocks).then_some(Self {
            head: u64::from(namespace.as_u32()) << 32,
            first,
            blocks: volume.blocks,
            block_shift: data.block_shift,
            max_bytes: max_transfer.unwrap_or(u64::MAX).min(MAX_TRANSFER),
        })
    }

    /// The number of blocks of a command, if all of them lie in the volume.
    #[inline]
    fn blocks(&self, lba: u64, length: u64) -> Option<u64> {
        // The field counts less one. A block before the volume becomes a huge offset.
        let last = lba.wrapping_sub(self.first).checked_add(length & COUNT)?;
        (last < self.blocks).then_some((length & COUNT) + 1)
    }

    /// The most bytes that one command may move, or fill with zeroes.
    #[must_use]
    pub const fn max_transfer(&self) -> u64 {
        self.max_bytes
    }
}

/// A process's regions, the largest of them at hand: for the length of one batch.
#[derive(Clone, Copy, Debug)]
pub struct Access<'a> {
    /// For data to the controller, and from it: in the order of the opcodes for write and read.
    windows: [&'a RegionWindow; 2],
    regions: &'a RegionTable<'a>,
}

/// The directions in the same order.
const DIRECTIONS: [Direction; 2] = [Direction::ToDevice, Direction::FromDevice];

impl<'a> Access<'a> {
    /// Access to `regions`.
    #[inline]
    #[must_use]
    pub const fn new(regions: &'a RegionTable<'a>) -> Self {
        Self {
            windows: [
                regions.window_ref(DIRECTIONS[0]),
                regions.window_ref(DIRECTIONS[1]),
            ],
            regions,
        }
    }
}

/// Room for the mark that says whether a command id is in flight.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(transparent)]
pub struct BusyMark(bool);

impl BusyMark {
    /// A mark of an id that is not in flight, to fill the table with.
    pub const FREE: Self = Self(false);

    /// Marks the id as in flight; `false` where it is already.
    #[inline]
    pub(crate) const fn set(&mut self) -> bool {
        !core::mem::replace(&mut self.0, true)
    }

    /// Marks the id as free; `false` where it is already.
    #[inline]
    pub(crate) const fn clear(&mut self) -> bool {
        core::mem::replace(&mut self.0, false)
    }
}

/// Proof that a command comes from this module.
#[derive(Debug)]
pub struct Seal(());

/// A command with bus addresses, as the controller gets it.
#[derive(Clone, Copy, Debug)]
pub struct HardwareCommand(pub(crate) IoWords);

impl HardwareCommand {
    /// The command's eight words.
    #[must_use]
    pub const fn words(&self) -> [u64; 8] {
        let IoWords {
            head,
            prp1,
            prp2,
            lba,
            length,
        } = self.0;
        [head, 0, 0, prp1, prp2, lba, length, 0]
    }
}

/// The validator of one queue: its rules, and which ids are in flight.
#[derive(Debug)]
pub struct Validator<'m> {
    pub(crate) rules: Rules,
    pub(crate) busy: &'m mut [BusyMark],
}

impl<'m> Validator<'m> {
    /// A validator for ids below the length of `busy`, none of which is in flight.
    #[must_use]
    pub fn new(rules: Rules, busy: &'m mut [BusyMark]) -> Self {
        busy.fill(BusyMark::FREE);
        Self { rules, busy }
    }

    /// Marks the id of a command that completed as free; `false` where it was not in flight.
    #[inline]
    pub fn complete(&mut self, id: u16) -> bool {
        self.busy
            .get_mut(usize::from(id))
            .is_some_and(BusyMark::clear)
    }

    /// Checks a command and marks its id as in flight.
    ///
    /// # Errors
    ///
    /// The rule that the command breaks.
    pub fn accept(
        &mut self,
        command: Command,
        access: &Access<'_>,
    ) -> Result<Validated<Self>, Violation> {
        let words = check(self.rules, command, access)?;
        let id = command.id();
        let Some(mark) = self.busy.get_mut(usize::from(id)) else {
            return Err(Violation::IndexOutOfRange { index: id.into() });
        };
        if !mark.set() {
            return Err(Violation::Busy { id: id.into() });
        }
        Ok(Validated::new(HardwareCommand(words), Seal(())))
    }

    /// The same for the usual commands: reads and writes with data in the largest region. `None` means that
    /// [`accept`](Self::accept) has to look closer; nothing has changed then.
    #[inline]
    pub(crate) fn accept_usual(
        rules: &Rules,
        busy: &mut [BusyMark],
        command: &Command,
        access: &Access<'_>,
    ) -> Option<Validated<Self>> {
        let words = check_usual(rules, command, access)?;
        let mark = busy.get_mut(usize::from(command.id()))?;
        mark.set()
            .then(|| Validated::new(HardwareCommand(words), Seal(())))
    }
}

impl DescriptorValidator for Validator<'_> {
    type Submission = Command;
    type Accepted = HardwareCommand;
    type Seal = Seal;

    fn validate(
        &mut self,
        submission: Command,
        regions: &RegionTable<'_>,
    ) -> Result<Validated<Self>, Violation> {
        self.accept(submission, &Access::new(regions))
    }
}

/// What [`check`] says about a command, if it is an ordinary one; in as few instructions as that takes.
#[inline]
fn check_usual(rules: &Rules, command: &Command, access: &Access<'_>) -> Option<IoWords> {
    let [head, reserved, metadata, prp1, prp2, lba, length, tags] = command.0;
    // Apart from the id, the first word of a write or read is fixed: opcode 1 or 2, no fusing, PRPs, namespace.
    let kind = (head & !ID ^ rules.head).wrapping_sub(1);
    let unused = reserved | metadata | tags | length & !(COUNT | FUA);
    if kind > 1 || unused != 0 {
        return None;
    }
    let len = rules.blocks(lba, length)? << rules.block_shift;
    if len > rules.max_bytes {
        return None;
    }
    let place = access.windows[usize::from(kind != 0)].translate_paged(Iova::new(prp1), len)?;
    let (bus, end) = (place.bus.as_u64(), (prp1 & PAGE_MASK) + len);
    // What PRP 2 has to be, and what it becomes. Pages that follow each other in the window do so on the bus.
    let (expected, second) = if end <= PAGE {
        (0, 0)
    } else if end <= 2 * PAGE {
        ((prp1 | PAGE_MASK) + 1, (bus | PAGE_MASK) + 1)
    } else {
        (0, ListTables::from(place.lists?).list(place.page + 1))
    };
    if prp2 != expected || prp1 & 3 != 0 {
        return None;
    }
    Some(IoWords {
        head,
        prp1: bus,
        prp2: second,
        lba,
        length,
    })
}

/// What a command that processes may give allows: bits of its length word, and which way its data moves.
const fn allowed(opcode: u8) -> Result<(u64, Option<Direction>), Violation> {
    match opcode {
        opcode::FLUSH => Ok((0, None)),
        opcode::WRITE => Ok((COUNT | FUA, Some(Direction::ToDevice))),
        opcode::READ => Ok((COUNT | FUA, Some(Direction::FromDevice))),
        opcode::WRITE_ZEROES => Ok((COUNT | FUA, None)),
        opcode => Err(Violation::Opcode { opcode }),
    }
}

/// The command for the controller, or the rule that it breaks. The id is not looked at.
fn check(rules: Rules, command: Command, access: &Access<'_>) -> Result<IoWords, Violation> {
    let [head, reserved, metadata, prp1, prp2, lba, length, tags] = command.0;
    let (allowed_length, data) = allowed(command.opcode())?;
    if head >> 32 != rules.head >> 32 {
        let id = (head >> 32) as u32;
        return Err(Violation::Namespace { id });
    }
    // FUSE, reserved bits and PSDT; then everything that belongs to no command here.
    let fuse_and_psdt = head & 0xff00;
    refuse_any([
        fuse_and_psdt,
        reserved,
        metadata,
        tags,
        length & !allowed_length,
    ])?;
    let [prp1, prp2] = match data {
        Some(wanted) => {
            let len = check_len(rules, lba, length)?;
            let (iova, second) = (Iova::new(prp1), prp2);
            Pointer { iova, second, len }.translate(wanted, access.regions)?
        }
        None => {
            refuse_any([prp1, prp2])?;
            if command.opcode() == opcode::FLUSH {
                refuse_any([lba])?;
            } else {
                check_len(rules, lba, length)?;
            }
            [0, 0]
        }
    };
    Ok(IoWords {
        head,
        prp1,
        prp2,
        lba,
        length,
    })
}

/// The number of bytes of the blocks of a command: all of them in the volume, and no more than one command may touch, whether it
/// moves data or has the controller write zeroes.
fn check_len(rules: Rules, lba: u64, length: u64) -> Result<u64, Violation> {
    let outside = Violation::OutsideVolume {
        lba: Lba::new(lba),
        blocks: (length & COUNT) + 1,
    };
    let len = rules.blocks(lba, length).ok_or(outside)? << rules.block_shift;
    if len > rules.max_bytes {
        return Err(Violation::Length { len });
    }
    Ok(len)
}

/// Refuses fields of which any bit is set.
fn refuse_any<const N: usize>(fields: [u64; N]) -> Result<(), Violation> {
    match fields.into_iter().find(|&field| field != 0) {
        None => Ok(()),
        Some(field) => Err(Violation::Forbidden { field }),
    }
}

/// The data pointer of a command as the process wrote it.
///
/// A process's data lies at consecutive I/O addresses from `iova` on. So its PRP 2 says nothing new, and must be what
/// that leaves: 0 for data on one page, the second page for data on two, 0 for more, where the kernel puts the list in.
#[derive(Clone, Copy, Debug)]
struct Pointer {
    iova: Iova,
    second: u64,
    len: u64,
}

impl Pointer {
    /// Both PRP entries with bus addresses.
    fn translate(
        self,
        wanted: Direction,
        regions: &RegionTable<'_>,
    ) -> Result<[u64; 2], Violation> {
        let offset = self.iova.as_u64() & PAGE_MASK;
        refuse_any([self.iova.as_u64() & 3])?;
        let place = regions.translate_paged(self.iova, self.len, wanted)?;
        let first = place.bus.as_u64();
        match pages(offset, self.len) {
            1 => {
                refuse_any([self.second])?;
                Ok([first, 0])
            }
            2 => {
                let next = Iova::new(self.iova.as_u64() - offset + PAGE);
                refuse_any([self.second ^ next.as_u64()])?;
                Ok([first, regions.translate(next, 1, wanted)?.as_u64()])
            }
            _ => {
                refuse_any([self.second])?;
                // A region without tables is one that nobody registered for transfers of this length.
                let lists = place.lists.ok_or(Violation::Length { len: self.len })?;
                Ok([first, ListTables::from(lists).list(place.page + 1)])
            }
        }
    }
}

#[cfg(test)]
mod tests;
