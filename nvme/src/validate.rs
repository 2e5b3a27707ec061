//! The validator of `Checked` mode: what a process's command may become.
//!
//! A command arrives as a copy, so nothing can change after it was looked at. It goes to the controller if it is one
//! that a process may give, in the process's namespace and volume, with data in the process's regions; its data pointer
//! is made anew from the region table. Why that is enough is argued in `docs/soundness-nvme.md`.

use parakernel_core::{
    address::{BusAddress, Direction, Iova},
    memory::{PAGE_SIZE, PageLists, PagedAccess, RegionTable, RegionWindow},
    queue::Lba,
    validate::{DescriptorValidator, Validated, Violation},
    volume::Volume,
};

use crate::{
    command::{Command, FUA, IoWords, opcode, word},
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
    /// `max_transfer` bytes at most. `None` where there is no such namespace, or the volume does not lie in it.
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

    /// The most bytes that one command may move.
    #[must_use]
    pub const fn max_transfer(&self) -> u64 {
        self.max_bytes
    }
}

/// A process's regions, the largest of them at hand: for the length of one batch.
#[derive(Clone, Copy, Debug)]
pub struct Access<'a> {
    to_device: RegionWindow,
    from_device: RegionWindow,
    regions: &'a RegionTable<'a>,
}

impl<'a> Access<'a> {
    /// Access to `regions`.
    #[inline]
    #[must_use]
    pub const fn new(regions: &'a RegionTable<'a>) -> Self {
        Self {
            to_device: regions.window(Direction::ToDevice),
            from_device: regions.window(Direction::FromDevice),
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
    #[inline]
    pub fn accept(
        &mut self,
        command: &Command,
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
        self.accept(&submission, &Access::new(regions))
    }
}

/// The command for the controller, or the rule that it breaks. The id is not looked at.
#[inline]
fn check(rules: Rules, command: &Command, access: &Access<'_>) -> Result<IoWords, Violation> {
    let head = command.0[word::HEAD];
    let length = command.0[word::LENGTH];
    // Apart from the id, the first word of a read or write is fixed: opcode, no fusing, PRPs, namespace.
    let kind = (head & !ID) ^ rules.head;
    let unused = command.0[word::RESERVED] | command.0[word::METADATA] | command.0[word::TAGS];
    let is_transfer = kind == u64::from(opcode::WRITE) || kind == u64::from(opcode::READ);
    if !is_transfer || unused | length & !(COUNT | FUA) != 0 {
        return check_other(rules, command);
    }
    let lba = command.0[word::LBA];
    let blocks = check_blocks(rules, lba, length)?;
    let len = blocks << rules.block_shift;
    if len > rules.max_bytes {
        return Err(Violation::Length { len });
    }
    let (window, wanted) = if kind == u64::from(opcode::WRITE) {
        (&access.to_device, Direction::ToDevice)
    } else {
        (&access.from_device, Direction::FromDevice)
    };
    let pointer = Pointer {
        iova: Iova::new(command.0[word::PRP1]),
        second: command.0[word::PRP2],
        len,
    };
    let [prp1, prp2] = pointer.translate(window, wanted, access.regions)?;
    Ok(IoWords {
        head,
        prp1,
        prp2,
        lba,
        length,
    })
}

/// The number of blocks, all of which lie in the volume.
#[inline]
fn check_blocks(rules: Rules, lba: u64, length: u64) -> Result<u64, Violation> {
    // The field counts less one. A block before the volume becomes a huge offset.
    let last = lba.wrapping_sub(rules.first).checked_add(length & COUNT);
    let blocks = (length & COUNT) + 1;
    match last {
        Some(last) if last < rules.blocks => Ok(blocks),
        _ => Err(Violation::OutsideVolume {
            lba: Lba::new(lba),
            blocks,
        }),
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
    #[inline]
    fn translate(
        self,
        window: &RegionWindow,
        wanted: Direction,
        regions: &RegionTable<'_>,
    ) -> Result<[u64; 2], Violation> {
        let offset = self.iova.as_u64() & PAGE_MASK;
        if offset & 3 != 0 {
            return Err(Violation::Forbidden {
                field: self.iova.as_u64(),
            });
        }
        if offset + self.len > PAGE {
            return self.translate_pages(window, wanted, regions);
        }
        if self.second != 0 {
            return Err(Violation::Forbidden { field: self.second });
        }
        match window.translate(self.iova, self.len) {
            Some(bus) => Ok([bus.as_u64(), 0]),
            None => self
                .ask_table(wanted, regions)
                .map(|access| [access.bus.as_u64(), 0]),
        }
    }

    /// The same for data on several pages.
    fn translate_pages(
        self,
        window: &RegionWindow,
        wanted: Direction,
        regions: &RegionTable<'_>,
    ) -> Result<[u64; 2], Violation> {
        let offset = self.iova.as_u64() & PAGE_MASK;
        let next = (self.iova.as_u64() - offset).wrapping_add(PAGE);
        let has_two = offset + self.len <= 2 * PAGE;
        if self.second != if has_two { next } else { 0 } {
            return Err(Violation::Forbidden { field: self.second });
        }
        let windowed = window.translate_paged(self.iova, self.len);
        let access = match windowed {
            Some(access) => access,
            None => self.ask_table(wanted, regions)?,
        };
        let first = access.bus.as_u64();
        if !has_two {
            return Ok([first, self.list(&access)?]);
        }
        // In the window the pages follow each other; in the table they need not.
        let second = match windowed {
            Some(_) => first - offset + PAGE,
            None => regions.translate(Iova::new(next), 1, wanted)?.as_u64(),
        };
        Ok([first, second])
    }

    /// Where the list of all pages but the first lies. It has at most half a page of entries, as [`Rules`] see to.
    fn list(self, access: &PagedAccess) -> Result<u64, Violation> {
        let lists = access.lists.ok_or(Violation::Length { len: self.len })?;
        debug_assert!(pages(self.iova.as_u64() & PAGE_MASK, self.len) <= crate::prp::MAX_LIST + 1);
        Ok(ListTables::from(lists).list(access.page + 1))
    }

    /// The slower way, for data outside the largest extent.
    #[cold]
    fn ask_table(
        self,
        wanted: Direction,
        regions: &RegionTable<'_>,
    ) -> Result<PagedAccess, Violation> {
        regions.translate_paged(self.iova, self.len, wanted)
    }
}

impl From<PageLists> for ListTables {
    fn from(lists: PageLists) -> Self {
        let [even, odd] = [lists.even, lists.odd].map(BusAddress::as_u64);
        Self { even, odd }
    }
}

/// The same as [`check`], for commands that move no data, and to name the rule that a command breaks.
#[cold]
fn check_other(rules: Rules, command: &Command) -> Result<IoWords, Violation> {
    let [head, reserved, metadata, prp1, prp2, lba, length, tags] = command.0;
    let allowed_length = match command.opcode() {
        opcode::FLUSH => 0,
        opcode::WRITE_ZEROES => COUNT | FUA,
        opcode::READ | opcode::WRITE => COUNT | FUA,
        opcode => return Err(Violation::Opcode { opcode }),
    };
    let namespace = head >> 32;
    if namespace != rules.head >> 32 {
        return Err(Violation::Namespace {
            id: (namespace & 0xffff_ffff) as u32,
        });
    }
    let forbidden = [
        head & 0xff00,
        reserved,
        metadata,
        tags,
        length & !allowed_length,
    ];
    if let Some(&field) = forbidden.iter().find(|&&field| field != 0) {
        return Err(Violation::Forbidden { field });
    }
    // Only commands without data are left: a read or write breaks one of the rules above.
    let pointers = if command.opcode() == opcode::FLUSH {
        [prp1, prp2, lba]
    } else {
        [prp1, prp2, 0]
    };
    if let Some(&field) = pointers.iter().find(|&&field| field != 0) {
        return Err(Violation::Forbidden { field });
    }
    if command.opcode() == opcode::WRITE_ZEROES {
        check_blocks(rules, lba, length)?;
    }
    Ok(IoWords {
        head,
        prp1: 0,
        prp2: 0,
        lba,
        length,
    })
}
