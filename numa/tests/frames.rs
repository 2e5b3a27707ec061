//! The frame allocator against a list that states who has each frame.
#![expect(clippy::unwrap_used, reason = "test helpers fail by panicking")]

use core::num::NonZeroU8;

use parakernel_core::address::{NodeId, PhysAddr};
use parakernel_numa::frames::{
    AllocateError, FRAME_LEN, FrameAllocator, FrameError, FrameSize, Run, Zone, ZoneError,
    ZoneStorage,
};
use proptest::prelude::*;

type Owner = NonZeroU8;

/// Node, first frame and frames of each zone: the second starts at no multiple of 2 MiB, the third is tiny.
const ZONES: [(u32, u64, usize); 3] = [(0, 0x200, 1100), (1, 0x1234, 1600), (0, 0x5000, 3)];

/// What a frame is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Reserved,
    Free,
    Owned(Owner),
}

/// The slow and obvious allocator: a list of frames by number.
struct Oracle {
    frames: Vec<(u64, NodeId, State)>,
}

impl Oracle {
    fn new() -> Self {
        let zones = ZONES.iter();
        let frames = zones.flat_map(|&(node, first, count)| {
            let frames = first..first + count as u64;
            frames.map(move |frame| (frame, NodeId::new(node), State::Reserved))
        });
        Self {
            frames: frames.collect(),
        }
    }

    /// The positions in the list of `count` frames from number `first` on, if they are in one zone.
    fn find(&self, first: u64, count: usize) -> Option<core::ops::Range<usize>> {
        let mut start = 0;
        for (_, base, len) in ZONES {
            if let Some(offset) = first
                .checked_sub(base)
                .filter(|offset| *offset < len as u64)
            {
                let offset = usize::try_from(offset).unwrap();
                let range = start + offset..start + offset + count;
                return (range.end <= start + len).then_some(range);
            }
            start += len;
        }
        None
    }

    fn set(&mut self, first: u64, count: usize, state: State) {
        let range = self.find(first, count).unwrap();
        self.frames[range]
            .iter_mut()
            .for_each(|frame| frame.2 = state);
    }

    /// Whether all of `count` frames are in `state`, or which is the first that is not.
    fn check(&self, first: u64, count: usize, state: State) -> Result<(), FrameError> {
        let range = self.find(first, count).ok_or(FrameError::Outside)?;
        let other = self.frames[range].iter().find(|frame| frame.2 != state);
        other.map_or(Ok(()), |(frame, _, found)| {
            let address = address(*frame);
            Err(match found {
                State::Reserved => FrameError::Reserved(address),
                State::Free => FrameError::Free(address),
                State::Owned(_) => FrameError::Foreign(address),
            })
        })
    }

    /// Whether `node` has a run of free frames that may be allocated.
    fn has_run(&self, node: NodeId, count: usize, size: FrameSize) -> bool {
        let starts = self.frames.iter().filter(|frame| frame.1 == node);
        starts
            .filter(|frame| frame.0.is_multiple_of(size.frames() as u64))
            .any(|frame| self.check(frame.0, count, State::Free).is_ok())
    }

    fn count(&self, wanted: impl Fn(&(u64, NodeId, State)) -> bool) -> usize {
        self.frames.iter().filter(|frame| wanted(frame)).count()
    }
}

fn address(frame: u64) -> PhysAddr {
    PhysAddr::new(frame * FRAME_LEN)
}

fn number(address: PhysAddr) -> u64 {
    address.as_u64() / FRAME_LEN
}

fn with_allocator(test: impl FnOnce(FrameAllocator<'_, '_, Owner>)) {
    let mut bits = ZONES.map(|zone| vec![u64::MAX; Zone::<Owner>::words(zone.2)]);
    let mut owners = ZONES.map(|zone| vec![Some(Owner::MAX); zone.2]);
    let storage = bits.iter_mut().zip(&mut owners);
    let mut zones: Vec<_> = storage
        .zip(ZONES)
        .map(|((free, owners), (node, first, _))| {
            let storage = ZoneStorage { free, owners };
            Zone::new(NodeId::new(node), address(first), storage).unwrap()
        })
        .collect();
    zones.reverse();
    zones.push(Zone::default());
    test(FrameAllocator::new(&mut zones).unwrap());
}

#[derive(Clone, Debug)]
enum Step {
    Offer {
        first: u64,
        count: usize,
    },
    Allocate {
        node: NodeId,
        count: usize,
        size: FrameSize,
        owner: Owner,
    },
    Free {
        first: u64,
        count: usize,
        owner: Owner,
    },
    FreeRun {
        which: prop::sample::Index,
    },
    Transfer {
        which: prop::sample::Index,
        to: Owner,
    },
    FreeAll {
        owner: Owner,
    },
}

fn owner() -> impl Strategy<Value = Owner> {
    (1..4_u8).prop_map(|owner| Owner::new(owner).unwrap())
}

fn frame() -> impl Strategy<Value = u64> {
    let zone = prop::sample::select(&ZONES[..]);
    (zone, 0..1700_u64).prop_map(|(zone, offset)| zone.1 + offset % (zone.2 as u64 + 2))
}

fn count() -> impl Strategy<Value = usize> {
    prop_oneof![0..4_usize, 0..70_usize, Just(512), 500..1100_usize]
}

fn size() -> impl Strategy<Value = FrameSize> {
    prop_oneof![Just(FrameSize::Small), Just(FrameSize::Huge)]
}

fn step() -> impl Strategy<Value = Step> {
    let node = (0..3_u32).prop_map(NodeId::new);
    prop_oneof![
        2 => (frame(), count()).prop_map(|(first, count)| Step::Offer { first, count }),
        8 => (node, count(), size(), owner())
            .prop_map(|(node, count, size, owner)| Step::Allocate { node, count, size, owner }),
        2 => (frame(), count(), owner())
            .prop_map(|(first, count, owner)| Step::Free { first, count, owner }),
        5 => any::<prop::sample::Index>().prop_map(|which| Step::FreeRun { which }),
        1 => (any::<prop::sample::Index>(), owner())
            .prop_map(|(which, to)| Step::Transfer { which, to }),
        1 => owner().prop_map(|owner| Step::FreeAll { owner }),
    ]
}

/// The allocator, the oracle, and what was allocated, freed since or not.
struct Pair<'z, 's> {
    frames: FrameAllocator<'z, 's, Owner>,
    oracle: Oracle,
    runs: Vec<(Run, Owner)>,
}

impl Pair<'_, '_> {
    fn apply(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Offer { first, count } => self.offer(first, count)?,
            Step::Allocate {
                node,
                count,
                size,
                owner,
            } => {
                self.allocate(node, count, size, owner)?;
            }
            Step::Free {
                first,
                count,
                owner,
            } => self.free(first, count, owner)?,
            Step::FreeRun { which } if !self.runs.is_empty() => {
                let (run, owner) = *which.get(&self.runs);
                self.free(number(run.base), run.frames, owner)?;
            }
            Step::Transfer { which, to } if !self.runs.is_empty() => {
                let (run, from) = *which.get(&self.runs);
                let expected = self
                    .oracle
                    .check(number(run.base), run.frames, State::Owned(from));
                prop_assert_eq!(self.frames.transfer(run, from, to), expected);
                if expected.is_ok() {
                    self.oracle
                        .set(number(run.base), run.frames, State::Owned(to));
                    self.runs.push((run, to));
                }
            }
            Step::FreeRun { .. } | Step::Transfer { .. } => {}
            Step::FreeAll { owner } => {
                let owned = State::Owned(owner);
                let expected = self.oracle.count(|frame| frame.2 == owned);
                prop_assert_eq!(self.frames.free_all(owner), expected);
                let frames = self.oracle.frames.iter_mut();
                frames
                    .filter(|frame| frame.2 == owned)
                    .for_each(|frame| frame.2 = State::Free);
            }
        }
        Ok(())
    }

    /// Offers, one by one, the frames that are in none of the `reserved` ranges.
    fn offer_all_but(&mut self, reserved: &[(u64, usize)]) -> Result<(), TestCaseError> {
        let is_reserved = |frame: u64| {
            let mut ranges = reserved.iter();
            ranges.any(|&(first, count)| (first..first + count as u64).contains(&frame))
        };
        let frames: Vec<_> = self.oracle.frames.iter().map(|frame| frame.0).collect();
        let mut offered = frames.into_iter().filter(|frame| !is_reserved(*frame));
        offered.try_for_each(|frame| self.offer(frame, 1))
    }

    fn offer(&mut self, first: u64, count: usize) -> Result<(), TestCaseError> {
        let expected = self.oracle.check(first, count, State::Reserved);
        let offered = self.frames.offer(address(first), count as u64 * FRAME_LEN);
        prop_assert_eq!(offered, expected.map(|()| count));
        if expected.is_ok() {
            self.oracle.set(first, count, State::Free);
        }
        Ok(())
    }

    fn allocate(
        &mut self,
        node: NodeId,
        count: usize,
        size: FrameSize,
        owner: Owner,
    ) -> Result<(), TestCaseError> {
        match self.frames.allocate(node, count, size, owner) {
            Ok(run) => {
                prop_assert_eq!(run.frames, count);
                prop_assert!(run.base.is_aligned(size.bytes()));
                let first = number(run.base);
                prop_assert_eq!(self.oracle.check(first, count, State::Free), Ok(()));
                let range = self.oracle.find(first, count).unwrap();
                prop_assert_eq!(self.oracle.frames[range.start].1, node);
                self.oracle.set(first, count, State::Owned(owner));
                self.runs.push((run, owner));
            }
            Err(AllocateError::Nothing) => prop_assert_eq!(count, 0),
            Err(error) => {
                prop_assert_eq!(error, AllocateError::Exhausted);
                prop_assert!(!self.oracle.has_run(node, count, size));
            }
        }
        Ok(())
    }

    fn free(&mut self, first: u64, count: usize, owner: Owner) -> Result<(), TestCaseError> {
        let run = Run {
            base: address(first),
            frames: count,
        };
        let expected = self.oracle.check(first, count, State::Owned(owner));
        prop_assert_eq!(self.frames.free(run, owner), expected);
        if expected.is_ok() {
            self.oracle.set(first, count, State::Free);
        }
        Ok(())
    }

    fn compare(&self) -> Result<(), TestCaseError> {
        for (frame, _, state) in &self.oracle.frames {
            let owner = match state {
                State::Owned(owner) => Some(*owner),
                State::Reserved | State::Free => None,
            };
            prop_assert_eq!(self.frames.owner(address(*frame)), owner);
        }
        for node in (0..3).map(NodeId::new) {
            let free = self
                .oracle
                .count(|frame| frame.1 == node && frame.2 == State::Free);
            prop_assert_eq!(self.frames.free_frames(node), free);
        }
        for owner in (1..4).filter_map(Owner::new) {
            let runs = self.frames.owned_by(owner);
            let owned: Vec<_> = runs.flat_map(|run| run.addresses()).map(number).collect();
            let frames = self.oracle.frames.iter();
            let expected = frames.filter(|frame| frame.2 == State::Owned(owner));
            prop_assert_eq!(owned, expected.map(|frame| frame.0).collect::<Vec<_>>());
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_sequence_of_calls_agrees_with_the_list(
        reserved in prop::collection::vec((frame(), 0..300_usize), 0..3),
        steps in prop::collection::vec(step(), 0..40),
    ) {
        let mut result = Ok(());
        with_allocator(|frames| {
            let mut pair = Pair { frames, oracle: Oracle::new(), runs: vec![] };
            result = pair.offer_all_but(&reserved).and_then(|()| {
                steps.into_iter().try_for_each(|step| {
                    pair.apply(step)?;
                    pair.compare()
                })
            });
        });
        result?;
    }
}

#[test]
fn small_runs_come_from_below_and_huge_ones_from_above() {
    with_allocator(|mut frames| {
        frames.offer(address(0x1234), 1600 * FRAME_LEN).unwrap();
        let one = Owner::MIN;
        let mut allocate = |count, size| {
            let run = frames.allocate(NodeId::new(1), count, size, one);
            run.map(|run| number(run.base))
        };
        // The zone ends at frame 0x1874: the huge pages in it start at 0x1400 and 0x1600.
        assert_eq!(allocate(512, FrameSize::Huge), Ok(0x1600));
        assert_eq!(allocate(1, FrameSize::Small), Ok(0x1234));
        assert_eq!(allocate(3, FrameSize::Small), Ok(0x1235));
        assert_eq!(allocate(512, FrameSize::Huge), Ok(0x1400));
        assert_eq!(allocate(1, FrameSize::Small), Ok(0x1238));
        assert_eq!(
            allocate(512, FrameSize::Huge),
            Err(AllocateError::Exhausted)
        );
        assert_eq!(allocate(0, FrameSize::Small), Err(AllocateError::Nothing));
    });
}

#[test]
fn what_was_given_back_is_given_again() {
    with_allocator(|mut frames| {
        frames.offer(address(0x200), 1100 * FRAME_LEN).unwrap();
        let one = Owner::MIN;
        let node = NodeId::new(0);
        let all: Vec<_> = (0..1100)
            .map(|_| frames.allocate(node, 1, FrameSize::Small, one).unwrap())
            .collect();
        assert_eq!(frames.free_frames(node), 0);
        for run in &all[700..703] {
            frames.free(*run, one).unwrap();
        }
        let again = frames.allocate(node, 3, FrameSize::Small, one).unwrap();
        assert_eq!(again.base, all[700].base);
        assert_eq!(frames.owned_by(one).count(), 1);
    });
}

#[test]
fn partial_frames_are_not_offered() {
    with_allocator(|mut frames| {
        let base = PhysAddr::new(0x20_0001);
        assert_eq!(frames.offer(base, 3 * FRAME_LEN), Ok(2));
        assert_eq!(frames.offer(base, FRAME_LEN), Ok(0));
        assert_eq!(frames.owner(PhysAddr::new(0x20_1FFF)), None);
        let run = frames
            .allocate(NodeId::new(0), 2, FrameSize::Small, Owner::MIN)
            .unwrap();
        assert_eq!(run.base, PhysAddr::new(0x20_1000));
        assert_eq!(frames.owner(PhysAddr::new(0x20_1FFF)), Some(Owner::MIN));
        assert_eq!(run.bytes(), 8192);
    });
}

#[test]
fn ranges_that_are_not_runs_are_refused() {
    with_allocator(|mut frames| {
        let base = PhysAddr::new(0x20_0008);
        let run = Run { base, frames: 1 };
        assert_eq!(frames.free(run, Owner::MIN), Err(FrameError::Misaligned));
        let run = Run {
            base: address(0x200),
            frames: usize::MAX,
        };
        assert_eq!(frames.free(run, Owner::MIN), Err(FrameError::Outside));
        assert_eq!(
            frames.offer(address(0x200), u64::MAX),
            Err(FrameError::Outside)
        );
        assert_eq!(frames.offer(PhysAddr::new(0), 1), Err(FrameError::Outside));
    });
}

#[test]
fn zones_that_cannot_be() {
    let error = |base, words: usize, frames: usize| {
        let (mut free, mut owners) = (vec![0; words], vec![None::<Owner>; frames]);
        let storage = ZoneStorage {
            free: &mut free,
            owners: &mut owners,
        };
        Zone::new(NodeId::new(0), PhysAddr::new(base), storage)
            .map(drop)
            .unwrap_err()
    };
    assert_eq!(error(0x800, 1, 1), ZoneError::Misaligned);
    assert_eq!(error(0xFFFF_FFFF_FFFF_F000, 1, 1), ZoneError::Range);
    let storage = ZoneError::Storage {
        words: 1,
        needed: 2,
    };
    assert_eq!(error(0, 1, 65), storage);
}

#[test]
fn zones_that_overlap() {
    let mut bits = [[0; 1]; 2];
    let mut owners = [[None::<Owner>; 16]; 2];
    let storage = bits.iter_mut().zip(&mut owners);
    let mut zones: Vec<_> = storage
        .zip([0x10_F000, 0x10_0000])
        .map(|((free, owners), base)| {
            let storage = ZoneStorage { free, owners };
            Zone::new(NodeId::new(0), PhysAddr::new(base), storage).unwrap()
        })
        .collect();
    let overlap = ZoneError::Overlap(PhysAddr::new(0x10_F000));
    assert_eq!(FrameAllocator::new(&mut zones).map(drop), Err(overlap));
}
