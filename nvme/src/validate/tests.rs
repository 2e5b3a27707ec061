//! The validator against a second, slow and obvious statement of what it promises.

use core::{
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use parakernel_core::{
    address::{BusAddress, NodeId},
    device::DeviceId,
    handle::{ProcessId, Slot},
    memory::{DmaBlock, Extent, ExtentSlot, PageSlot, Region, RegionStorage, SharedMemory},
    volume::Identity,
};
use proptest::prelude::*;

use super::*;
use crate::prp::write_tables;

const NAMESPACE: u32 = 3;
const FIRST: u64 = 1000;
const BLOCKS: u64 = 5000;
const BLOCK: u64 = 512;
/// The aperture, and the first region: 600 pages both ways, the last 100 of them elsewhere on the bus.
const MAIN: u64 = 0x10_0000;
const MAIN_PAGES: u64 = 600;
/// Pages that only the controller may write, and those that it may only read.
const INBOX: u64 = MAIN + 700 * PAGE;
const OUTBOX: u64 = MAIN + 710 * PAGE;
const APERTURE_PAGES: usize = 800;
const LISTS: u64 = 0x5_0000_0000;
const MAX: u64 = 256 << 10;

/// The regions, and what the obvious statement knows of them: for each page where it lies, and what is allowed.
struct Process {
    regions: RegionTable<'static>,
    pages: Vec<Option<(u64, Direction)>>,
    lists: SharedMemory<'static>,
}

/// Number of the page at `iova` in the aperture; a huge one below it.
fn index(iova: u64) -> usize {
    usize::try_from(iova.wrapping_sub(MAIN) / PAGE).unwrap()
}

fn leaked_words(count: usize) -> SharedMemory<'static> {
    #[repr(align(4096))]
    struct Page([AtomicU64; 512]);
    let pages: Vec<_> = (0..count.div_ceil(512))
        .map(|_| Page([const { AtomicU64::new(0) }; 512]))
        .collect();
    let pages: &'static [Page] = pages.leak();
    assert_eq!(pages[0].0.len(), 512);
    // SAFETY: atomics that live for ever.
    #[expect(unsafe_code, reason = "views the words as shared memory")]
    unsafe {
        SharedMemory::new(NonNull::from(pages).cast(), size_of_val(pages))
    }
}

impl Process {
    fn new() -> Self {
        let storage = RegionStorage {
            regions: Box::leak(Box::new([const { Slot::EMPTY }; 4])),
            extents: Box::leak(Box::new([ExtentSlot::EMPTY; 8])),
            pages: Box::leak(Box::new([PageSlot::EMPTY; APERTURE_PAGES])),
        };
        let regions =
            RegionTable::new(ProcessId::new(1, 1), Iova::new(MAIN), storage, &[]).unwrap();
        let lists = leaked_words(4096);
        let mut process = Self {
            regions,
            pages: vec![None; APERTURE_PAGES],
            lists,
        };
        let main = [(0x1_0000_0000, 500), (0x2_0000_0000, 100)];
        let id = process.add(MAIN, &main, Direction::Bidirectional);
        process.add(INBOX, &[(0x3_0000_0000, 4)], Direction::FromDevice);
        process.add(OUTBOX, &[(0x4_0000_0000, 4)], Direction::ToDevice);
        // SAFETY: no device; the addresses are only compared.
        #[expect(unsafe_code, reason = "a block for the tables")]
        let block = unsafe { DmaBlock::new(lists, BusAddress::new(LISTS)) };
        let pages: Vec<_> = (0..MAIN_PAGES)
            .map(|n| BusAddress::new(process.page(MAIN + n * PAGE).unwrap().0))
            .collect();
        let tables = write_tables(&block, pages.into_iter()).unwrap();
        process.regions.attach_lists(id, tables).unwrap();
        process
    }

    fn add(
        &mut self,
        iova: u64,
        parts: &[(u64, u64)],
        direction: Direction,
    ) -> parakernel_core::handle::RegionId {
        let extents: Vec<_> = parts
            .iter()
            .map(|&(bus, pages)| Extent {
                bus: BusAddress::new(bus),
                len: pages * PAGE,
            })
            .collect();
        let pages = parts
            .iter()
            .flat_map(|&(bus, pages)| (0..pages).map(move |n| bus + n * PAGE));
        for (n, bus) in (0..).zip(pages) {
            self.pages[index(iova + n * PAGE)] = Some((bus, direction));
        }
        let region = Region {
            iova: Iova::new(iova),
            len: extents.iter().map(|extent| extent.len).sum(),
            direction,
            node: NodeId::new(0),
        };
        self.regions.insert(region, &extents).unwrap()
    }

    /// Where the page at `iova` lies, and what is allowed there.
    fn page(&self, iova: u64) -> Option<(u64, Direction)> {
        self.pages.get(index(iova)).copied().flatten()
    }

    /// The list that PRP 2 points to, as the controller would read it.
    fn list(&self, at: u64, count: u64) -> Vec<u64> {
        let words = self
            .lists
            .slice::<AtomicU64>(0, self.lists.len() / 8)
            .unwrap();
        let first = usize::try_from((at - LISTS) / 8).unwrap();
        let last = first + usize::try_from(count).unwrap() - 1;
        assert_eq!(first / 512, last / 512, "the list crosses a page");
        words[first..=last]
            .iter()
            .map(|word| u64::from_le(word.load(Relaxed)))
            .collect()
    }
}

fn rules() -> Rules {
    let volume = Volume {
        device: DeviceId::new(0),
        namespace: NAMESPACE,
        start: Lba::new(FIRST),
        blocks: BLOCKS,
        owner: Identity(1),
    };
    let data = NamespaceData {
        blocks: 1 << 20,
        block_shift: 9,
        write_protected: false,
    };
    Rules::new(&volume, &data, Some(MAX)).unwrap()
}

/// Where a command would make the controller move data: bus pages, the first with its offset.
#[derive(PartialEq, Eq, Debug)]
struct Transfer(Vec<u64>);

/// The contract, read off dword by dword: `None` where the command must be refused.
fn obvious(process: &Process, words: &[u64; 8]) -> Option<Transfer> {
    let dword = |n: usize| words[n / 2] >> (n % 2 * 32) & 0xffff_ffff;
    let opcode = dword(0) & 0xff;
    let everything_else = [
        (dword(0) >> 8) & 0xff,
        dword(2),
        dword(3),
        words[2],
        dword(13),
        dword(14),
        dword(15),
    ];
    if ![0, 1, 2, 8].contains(&opcode) || everything_else.iter().any(|&field| field != 0) {
        return None;
    }
    if dword(1) != u64::from(NAMESPACE) {
        return None;
    }
    if opcode == 0 {
        return (words[3] | words[4] | words[5] | words[6] == 0).then_some(Transfer(vec![]));
    }
    // NLB, and FUA.
    if dword(12) & !(0xffff | 1 << 30) != 0 {
        return None;
    }
    let blocks = (dword(12) & 0xffff) + 1;
    let inside = |lba: u128| (u128::from(FIRST)..u128::from(FIRST + BLOCKS)).contains(&lba);
    if !(0..blocks).all(|n| inside(u128::from(words[5]) + u128::from(n))) {
        return None;
    }
    if blocks * BLOCK > MAX {
        return None;
    }
    if opcode == 8 {
        return (words[3] | words[4] == 0).then_some(Transfer(vec![]));
    }
    obvious_data(process, words, blocks * BLOCK)
}

/// The same for where the `len` bytes of data are.
fn obvious_data(process: &Process, words: &[u64; 8], len: u64) -> Option<Transfer> {
    let wanted = if words[0] & 0xff == 1 {
        Direction::ToDevice
    } else {
        Direction::FromDevice
    };
    let starts = |first: u64| {
        let last = first.checked_add(len - 1)?;
        let pages = (first / PAGE..=last / PAGE).map(|page| page * PAGE);
        Some(pages.collect::<Vec<_>>())
    };
    let touched = starts(words[3])?;
    let owner = |page: u64| {
        [MAIN, INBOX, OUTBOX]
            .into_iter()
            .rfind(|&start| start <= page)
    };
    let bus: Option<Vec<_>> = touched
        .iter()
        .map(|&page| {
            process
                .page(page)
                .filter(|known| known.1.allows(wanted))
                .map(|known| known.0)
        })
        .collect();
    let bus = bus?;
    let same_region = touched.iter().all(|&page| owner(page) == owner(touched[0]));
    let second = if touched.len() == 2 { touched[1] } else { 0 };
    let has_lists = touched.len() <= 2 || owner(touched[0]) == Some(MAIN);
    let fits =
        len <= MAX && words[3].is_multiple_of(4) && words[4] == second && same_region && has_lists;
    fits.then(|| {
        Transfer(
            [bus[0] + words[3] % PAGE]
                .into_iter()
                .chain(bus[1..].iter().copied())
                .collect(),
        )
    })
}

/// What the controller would do with an accepted command.
fn followed(process: &Process, accepted: IoWords) -> Transfer {
    let opcode = accepted.head & 0xff;
    if opcode != 1 && opcode != 2 {
        assert_eq!(accepted.prp1 | accepted.prp2, 0);
        return Transfer(vec![]);
    }
    let len = ((accepted.length & 0xffff) + 1) * BLOCK;
    let rest = pages(accepted.prp1 & PAGE_MASK, len) - 1;
    let others = match rest {
        0 => {
            assert_eq!(accepted.prp2, 0);
            vec![]
        }
        1 => vec![accepted.prp2],
        _ => process.list(accepted.prp2, rest),
    };
    Transfer([accepted.prp1].into_iter().chain(others).collect())
}

/// Holds both ways of the validator against the obvious statement; whether the command was accepted.
fn compare(process: &Process, words: [u64; 8]) -> bool {
    let access = Access::new(&process.regions);
    let command = Command(words);
    let expected = obvious(process, &words);
    let accepted = check(rules(), command, &access).ok();
    let found = accepted.map(|words| followed(process, words));
    assert_eq!(found, expected, "{words:#x?}");
    if let Some(usual) = check_usual(&rules(), &command, &access) {
        assert_eq!(Some(followed(process, usual)), expected, "{words:#x?}");
    }
    let unchanged = |accepted: IoWords| {
        [accepted.head, accepted.lba, accepted.length] == [words[0], words[5], words[6]]
    };
    assert!(accepted.is_none_or(unchanged));
    expected.is_some()
}

fn head(opcode: u64) -> u64 {
    opcode | u64::from(NAMESPACE) << 32
}

#[test]
fn every_opcode_with_every_fuse_and_psdt() {
    let process = Process::new();
    let mut accepted = Vec::new();
    for low in 0..=u16::MAX {
        for rest in [[0, 0, 0, 0], [MAIN, 0, FIRST, 7]] {
            let [prp1, prp2, lba, length] = rest;
            let words = [head(low.into()), 0, 0, prp1, prp2, lba, length, 0];
            if compare(&process, words) {
                accepted.push((low, prp1));
            }
        }
    }
    assert_eq!(accepted, [(0, 0), (1, MAIN), (2, MAIN)]);
}

#[test]
fn every_shape_of_prps_from_1_to_33_pages_at_every_offset() {
    let process = Process::new();
    let mut accepted = 0;
    let mut single = 0;
    // The first is all in one extent, the second crosses into the next, the third ends with the region.
    for start in [MAIN + 7 * PAGE, MAIN + 480 * PAGE, MAIN + 567 * PAGE] {
        for offset in 0..PAGE {
            for wanted in 1..=33 {
                // The shortest and the longest transfer of whole blocks that touches this many pages.
                let shortest = ((wanted - 1) * PAGE + 1)
                    .saturating_sub(offset)
                    .div_ceil(BLOCK)
                    .max(1);
                let longest = (wanted * PAGE - offset) / BLOCK;
                for blocks in [shortest, longest] {
                    if blocks == 0 || pages(offset, blocks * BLOCK) != wanted {
                        continue;
                    }
                    let second = if wanted == 2 { start + PAGE } else { 0 };
                    let words = [head(2), 0, 0, start + offset, second, FIRST, blocks - 1, 0];
                    accepted += u64::from(compare(&process, words));
                    single += u64::from(wanted == 1);
                }
            }
        }
    }
    assert!(accepted > 100_000 && single > 10_000, "{accepted} {single}");
}

#[test]
fn marks_keep_ids_apart_and_inside_the_ring() {
    let process = Process::new();
    let access = Access::new(&process.regions);
    let mut busy = [BusyMark::FREE; 16];
    let mut validator = Validator::new(rules(), &mut busy);
    let flush = |id: u16| Command([head(0), 0, 0, 0, 0, 0, 0, 0]).with_id(id);
    for id in 0..16 {
        assert!(validator.accept(flush(id), &access).is_ok());
        assert_eq!(
            validator.accept(flush(id), &access).unwrap_err(),
            Violation::Busy { id: id.into() }
        );
    }
    for id in 16..=u16::MAX {
        let error = validator.accept(flush(id), &access).unwrap_err();
        assert_eq!(error, Violation::IndexOutOfRange { index: id.into() });
        assert!(!validator.complete(id));
    }
    assert!(validator.complete(7));
    assert!(!validator.complete(7));
    assert!(validator.accept(flush(7), &access).is_ok());
}

#[test]
fn zeroes_are_bounded_like_a_transfer() {
    let process = Process::new();
    let zeroes = |blocks: u64| {
        let words = [head(8), 0, 0, 0, 0, FIRST, blocks - 1, 0];
        check(rules(), Command(words), &Access::new(&process.regions)).err()
    };
    let (most, one_more) = (MAX / BLOCK, MAX / BLOCK + 1);
    assert_eq!(zeroes(most), None);
    let len = one_more * BLOCK;
    assert_eq!(zeroes(one_more), Some(Violation::Length { len }));
}

#[test]
fn a_volume_that_is_not_in_the_namespace_has_no_rules() {
    let data = NamespaceData {
        blocks: 100,
        block_shift: 12,
        write_protected: false,
    };
    let made = |namespace, start, blocks| {
        let volume = Volume {
            device: DeviceId::new(0),
            namespace,
            start: Lba::new(start),
            blocks,
            owner: Identity(1),
        };
        Rules::new(&volume, &data, None).is_some()
    };
    assert!(made(1, 0, 100) && made(1, 99, 1));
    assert!(!made(1, 0, 101) && !made(1, 100, 1) && !made(1, 1, 0) && !made(1, u64::MAX, 2));
    assert!(!made(0, 0, 1) && !made(u32::MAX, 0, 1));
}

/// A command that is mostly right: each field is sometimes replaced by one at, or far beyond, its limit.
fn command() -> impl Strategy<Value = [u64; 8]> {
    let pick = |values: &'static [u64]| prop::sample::select(values);
    let opcode = prop_oneof![18 => pick(&[1, 2]), 1 => pick(&[0, 8]), 1 => 0..0x1_0000_u64];
    let place = prop_oneof![
        12 => (0..MAIN_PAGES * PAGE / 4).prop_map(|word| MAIN + word * 4),
        6 => (0..MAIN_PAGES).prop_map(|page| MAIN + page * PAGE),
        1 => (0..14 * PAGE).prop_map(|byte| INBOX + byte),
        1 => any::<u64>(),
    ];
    let blocks = prop_oneof![8 => 0..8_u64, 8 => 8..64_u64, 1 => 0..0x1_0000_u64];
    let lba = prop_oneof![
        24 => FIRST..FIRST + BLOCKS,
        1 => FIRST.saturating_sub(70)..FIRST,
        1 => FIRST + BLOCKS - 70..FIRST + BLOCKS + 2,
        1 => any::<u64>(),
    ];
    let rarely = || prop_oneof![90 => Just(0_u64), 1 => (0..64_u32).prop_map(|bit| 1 << bit), 1 => any::<u64>()];
    let namespace = prop_oneof![60 => Just(u64::from(NAMESPACE)), 1 => pick(&[0, 1, 0xffff_ffff])];
    let second =
        prop_oneof![20 => Just(None), 1 => any::<u64>().prop_map(Some), 1 => Just(Some(0))];
    (
        opcode,
        any::<u16>(),
        namespace,
        place,
        blocks,
        lba,
        second,
        [rarely(), rarely(), rarely(), rarely()],
    )
        .prop_map(|(opcode, id, namespace, place, blocks, lba, second, odd)| {
            let is_flush = opcode == 0;
            let has_data = opcode == 1 || opcode == 2;
            let end = (place & PAGE_MASK) + (blocks + 1) * BLOCK;
            let two = has_data && end > PAGE && end <= 2 * PAGE;
            let right = if two {
                (place & !PAGE_MASK).wrapping_add(PAGE)
            } else {
                0
            };
            let first = opcode | u64::from(id) << 16 | namespace << 32;
            [
                first,
                odd[0],
                odd[1],
                if has_data { place } else { 0 },
                second.unwrap_or(right),
                if is_flush { 0 } else { lba },
                if is_flush { 0 } else { blocks | odd[2] },
                odd[3],
            ]
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// No command is accepted that the obvious statement refuses, none refused that it accepts, none moved elsewhere;
    /// and enough are accepted for that to mean something.
    #[test]
    fn commands_are_accepted_exactly_when_they_are_harmless(
        commands in prop::collection::vec(command(), 512),
    ) {
        let process = Process::new();
        let accepted = commands.iter().filter(|words| compare(&process, **words)).count();
        prop_assert!(accepted * 10 >= commands.len() * 3, "{accepted} of {}", commands.len());
    }
}
