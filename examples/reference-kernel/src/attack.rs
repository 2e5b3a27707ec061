//! A process that attacks another, for tests: the manifest says which does, and whom. What became of an attack is what the
//! kernel sees; the attacker's word only opens an attack, and can make the verdict no better.
//!
//! | line of its log | means |
//! |---|---|
//! | `attack NAME DEVICE` | what comes next must not work |
//! | `survived NAME DEVICE WHAT` | it did, or nobody stopped it: `WHAT` is what the process sees |
//!
//! The attack counts as stopped if no harm is seen, the process has not said that it survived, and either the kernel ended
//! it or every call that it made since, with a pointer or a lease in it, was refused. Whether what ended it is what the attack is
//! there to meet, and no bug of the attacker's own, the host judges, by the reason that it is told.
#![expect(
    unsafe_code,
    reason = "looks into memory of the processes that an attack is about"
)]

use core::fmt::{self, Display, Write};

use heapless::{String, Vec};
use parakernel_core::address::{BusAddress, CoreId, Direction};
use parakernel_core::memory::{Extent, PAGE_SIZE, RegionTable};
use parakernel_core::steering::FrameMemory;

use crate::arch::paging;
use crate::boot::Kernel;
use crate::control::Control;
use crate::cores::{self, Calls};
use crate::mailbox::Text;
use crate::memory::{AllMemory, Owner};
use crate::report::{self, Outcome};
use crate::runner::End;
use crate::seats::{Seat, Seats};

/// Longest name of an attack, or of a device.
const NAME_MAX: usize = 32;
/// Longest explanation.
const WHY_MAX: usize = 160;
/// Longest text of what an attacker is told.
const WORDS_MAX: usize = 128;
/// Most pieces of the region that is attacked.
const EXTENTS_MAX: usize = 8;
/// How many pages an attacker's lives aim at in turn, the last of the region: so far in, the victim's stack of buffers is
/// never used up.
const TARGETS: u64 = 16;

/// What an attacker fills frames and blocks with, as words that begin with each of its letters.
const MARKS: [[u8; 8]; 5] = [
    *b"ROGUEROG",
    *b"OGUEROGU",
    *b"GUEROGUE",
    *b"UEROGUER",
    *b"EROGUERO",
];

/// What a line says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Said {
    /// An attack comes.
    Begins,
    /// It was not stopped.
    Survived,
}

impl Said {
    /// What `text` says, if it speaks of an attack.
    pub(crate) fn of(text: &str) -> Option<Self> {
        match text.split(' ').next()? {
            "attack" => Some(Self::Begins),
            "survived" => Some(Self::Survived),
            _ => None,
        }
    }
}

/// What an attacker aims at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Aim {
    /// The core of the process that it attacks.
    victim: CoreId,
    /// A page that is nobody's.
    spare: BusAddress,
}

/// What can be seen of an attack where it aims.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Look {
    /// Words in the victim's first region that are the attacker's.
    marks: usize,
    /// What is in the page that is nobody's.
    spare: u64,
    /// How often a device had to be reset.
    failures: u32,
}

impl Aim {
    /// An aim at the process on `core`; `None` where there is no memory.
    pub(crate) fn take(kernel: &mut Kernel, core: CoreId) -> Option<Self> {
        let node = cores::by_id(core)?.node;
        let spare = kernel.frames.take_one(node, Owner::KERNEL)?;
        Some(Self {
            victim: core,
            spare: BusAddress::new(spare.as_u64()),
        })
    }

    /// What the attacker is told at the start of its life number `life`, from 0: what it could find out by guessing.
    pub(crate) fn words(&self, seats: &Seats, life: u32) -> String<WORDS_MAX> {
        let victim = seats.get(self.victim);
        let region = victim.map(first_region).unwrap_or_default();
        let target = region.last().and_then(|last| {
            let page = (last.len / PAGE).checked_sub(1 + u64::from(life) % TARGETS)?;
            Some(last.bus.as_u64() + page * PAGE)
        });
        let secret = victim.and_then(|seat| {
            let (frame, offset) = seat.process.as_ref()?.arguments()?;
            Some(paging::physical(frame).expose_provenance() as u64 + offset)
        });
        let (target, secret) = (target.unwrap_or(0), secret.unwrap_or(0));
        let spare = self.spare.as_u64();
        cut(format_args!(
            "life={life} victim={target:#x} spare={spare:#x} secret={secret:#x}"
        ))
    }

    /// Looks where it aims.
    pub(crate) fn look(&self, control: &Control) -> Look {
        let victim = control.seats().get(self.victim);
        let region = victim.map(first_region).unwrap_or_default();
        let mut spare = Sum::new();
        read_pages(self.spare, PAGE, |page| spare.add(page));
        let mut marks = 0;
        for extent in &region {
            read_pages(extent.bus, extent.len, |page| marks += count_marks(page));
        }
        Look {
            marks,
            spare: spare.0,
            failures: control.failures(),
        }
    }
}

/// What can be seen of an attack in the attacker itself, as long as it is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Inside {
    /// A sum over all that devices may read of it, and not write.
    sources: u64,
    /// Whether a device has more of its entries than a ring holds.
    is_overfull: bool,
}

impl Inside {
    /// Looks into the process in `seat`.
    pub(crate) fn look(seat: &Seat) -> Self {
        Self {
            sources: sum_of_sources(seat),
            is_overfull: seat.queues.pass().is_overfull(),
        }
    }
}

fn sum_of_sources(seat: &Seat) -> u64 {
    let queues = seat.queues.pass();
    let regions = &queues.regions;
    let mut sum = Sum::new();
    for (id, region) in regions.regions() {
        if region.direction == Direction::ToDevice {
            for extent in regions.extents(id) {
                read_pages(extent.bus, extent.len, |page| sum.add(page));
            }
        }
    }
    sum.0
}

/// An attack that has begun.
#[derive(Clone, Debug)]
pub(crate) struct Attack {
    name: String<NAME_MAX>,
    device: String<NAME_MAX>,
    /// What there was to see before, and what the process had been answered.
    before: Look,
    inside: Inside,
    calls: Calls,
    /// What the process said of having survived.
    confession: Option<String<WHY_MAX>>,
    harm: Option<&'static str>,
}

impl Attack {
    /// The attack that `text` announces; says that it begins.
    pub(crate) fn begin(text: &Text, calls: Calls, before: Look, inside: Inside) -> Option<Self> {
        let mut words = text.split(' ').skip(1);
        let attack = Self {
            name: cut(words.next()?),
            device: cut(words.next()?),
            before,
            inside,
            calls,
            confession: None,
            harm: None,
        };
        report::attempt(&attack.name, &attack.device);
        Some(attack)
    }

    /// Takes note that the process says that it was not stopped.
    pub(crate) fn confess(&mut self, text: &Text) {
        let what = text.splitn(4, ' ').nth(3).unwrap_or("");
        self.confession = Some(cut(what));
    }

    /// Takes note of what is seen in the attacker when it has ended.
    pub(crate) fn examine(&mut self, now: Inside) {
        if now.sources != self.inside.sources {
            self.harm = Some("a region that devices may only read was written");
        } else if now.is_overfull {
            self.harm = Some("the card has more of its entries than its ring holds");
        }
    }

    /// Says what became of it, now that nothing of its process is left and no device is at work for it any more. `end` is how
    /// the process ended, and why in words; `ms` how long it took to take back what it had.
    pub(crate) fn judge(&self, now: Look, calls: Calls, end: (Option<End>, &str), ms: u64) {
        let harm = self.harm.or_else(|| self.before.harm(now));
        let since = calls.since(self.calls);
        let refusals: String<WHY_MAX> =
            cut(format_args!("refusing all its {} calls", since.refused));
        let was_ended = !matches!(end.0, Some(End::Exited(_)) | None);
        let outcome = match (harm, &self.confession) {
            (Some(harm), _) => Outcome::Harm(harm),
            (None, Some(confession)) => Outcome::Survived(confession),
            (None, None) if was_ended => Outcome::Stopped(end.1),
            (None, None) if since.refused > 0 && since.taken == 0 => Outcome::Stopped(&refusals),
            (None, None) => Outcome::Survived("it ended by itself"),
        };
        report::attack(&report::Attack {
            name: &self.name,
            device: &self.device,
            outcome,
            ms,
        });
    }
}

impl Look {
    /// What was done to others in between.
    fn harm(self, now: Self) -> Option<&'static str> {
        if now.marks > self.marks {
            Some("the victim's memory holds what the attacker wrote")
        } else if now.spare != self.spare {
            Some("memory that is no process's was written")
        } else if now.failures != self.failures {
            Some("a device had to be reset, for all who use it")
        } else {
            None
        }
    }
}

const PAGE: u64 = PAGE_SIZE as u64;

/// The parts of the first region of the process in `seat`.
fn first_region(seat: &Seat) -> Vec<Extent, EXTENTS_MAX> {
    let queues = seat.queues.pass();
    let regions: &RegionTable<'_> = &queues.regions;
    let first = regions.regions().next();
    first.map_or_else(Vec::new, |(id, _)| {
        regions.extents(id).take(EXTENTS_MAX).collect()
    })
}

/// Hands copies of the pages of `len` bytes at `start`, which are a region's or the spare one, to `see`.
fn read_pages(start: BusAddress, len: u64, mut see: impl FnMut(&[u8; PAGE_SIZE])) {
    let mut page = [0; PAGE_SIZE];
    for offset in (0..len).step_by(PAGE_SIZE) {
        let at = BusAddress::new(start.as_u64() + offset);
        // SAFETY: a page of a region whose table is there, or the spare page, of which nobody has a reference.
        if unsafe { AllMemory.read(at, &mut page) } {
            see(&page);
        }
    }
}

/// How many words of a page are the attacker's.
fn count_marks(page: &[u8; PAGE_SIZE]) -> usize {
    let (words, _) = page.as_chunks::<8>();
    words.iter().filter(|word| MARKS.contains(word)).count()
}

/// A sum that almost any change changes: FNV-1a over words.
struct Sum(u64);

impl Sum {
    const fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn add(&mut self, page: &[u8; PAGE_SIZE]) {
        let (words, _) = page.as_chunks();
        for word in words {
            self.0 = (self.0 ^ u64::from_le_bytes(*word)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

/// As much of `text` as there is room for.
fn cut<const N: usize>(text: impl Display) -> String<N> {
    /// Takes what fits, and leaves out the rest.
    struct Cut<const N: usize>(String<N>);
    impl<const N: usize> Write for Cut<N> {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            text.chars()
                .try_for_each(|it| self.0.push(it))
                .map_err(|_| fmt::Error)
        }
    }
    let mut short = Cut(String::new());
    let _is_cut = write!(short, "{text}").is_err();
    short.0
}
