//! A controller as lean as can be, written from NVMe 1.4 §3.1, §4.6 and §5; the input says when it lies.

use core::cell::{Cell, RefCell};

use parakernel_core::mmio::{Registers, Width};

use super::{Memory, N};
use crate::{input::Input, memory::Pages};

/// Registers: Capabilities, Version, Configuration, Status, Admin Queue Attributes, the first doorbell.
const CAP: usize = 0x00;
const VS: usize = 0x08;
const CC: usize = 0x14;
const CSTS: usize = 0x1c;
const AQA: usize = 0x24;
const CRTO: usize = 0x68;
const DOORBELLS: usize = 0x1000;

/// 64 entries at most, contiguous queues, ready within 500 ms, the NVM command set; doorbells 4 bytes apart.
const CAPABILITIES: u64 = 63 | 1 << 16 | 1 << 24 | 1 << 37;

pub(super) struct Device<'m> {
    memory: &'m Memory,
    input: &'m RefCell<Input<'m>>,
    /// One value in so many is a lie.
    rarity: u8,
    /// With or without the bit that says that `CRTO` holds a time.
    capabilities: u64,
    configuration: Cell<u64>,
    status: Cell<u64>,
    attributes: Cell<u64>,
    /// Admin commands taken, completions posted.
    taken: Cell<usize>,
    posted: Cell<usize>,
    /// Tail of the I/O queue as it was rung; commands taken and completed.
    tail: Cell<u64>,
    io_posted: Cell<usize>,
}

impl Registers for Device<'_> {
    fn read(&self, offset: usize, width: Width) -> u64 {
        let truth = match offset {
            CAP => self.capabilities,
            VS => 0x1_0400,
            CC => self.configuration.get(),
            CSTS => self.status.get(),
            AQA => self.attributes.get(),
            CRTO => 1,
            _ => 0,
        };
        self.bend(truth) & (u64::MAX >> (64 - 8 * width.bytes()))
    }

    fn write(&self, offset: usize, _width: Width, value: u64) {
        match offset {
            CC => self.configure(value),
            AQA => self.attributes.set(value),
            DOORBELLS => self.administrate(usize::try_from(value).expect("32 bits")),
            _ if offset == DOORBELLS + 8 => self.tail.set(value),
            _ => {}
        }
    }

    fn len(&self) -> usize {
        0x2000
    }
}

impl<'m> Device<'m> {
    pub(super) fn new(memory: &'m Memory, input: &'m RefCell<Input<'m>>) -> Self {
        let mut choices = input.borrow_mut();
        let rarity = choices.choose(&[128, 64, 32, 255, 64, 16]);
        let more = choices.choose(&[0, 1 << 59]);
        drop(choices);
        Self {
            memory,
            input,
            rarity,
            capabilities: CAPABILITIES | more,
            configuration: Cell::new(0),
            status: Cell::new(0),
            attributes: Cell::new(0),
            taken: Cell::new(0),
            posted: Cell::new(0),
            tail: Cell::new(0),
            io_posted: Cell::new(0),
        }
    }

    /// The truth, mostly.
    fn bend(&self, truth: u64) -> u64 {
        let mut input = self.input.borrow_mut();
        if !input.one_in(self.rarity) {
            return truth;
        }
        match input.byte() % 6 {
            0 => u64::MAX,
            1 => 0,
            2 => truth.wrapping_add(1),
            3 => truth.wrapping_sub(1),
            4 => truth ^ 1 << input.below(64),
            _ => input.word(),
        }
    }

    /// Enable and ready, shutdown and its end.
    fn configure(&self, value: u64) {
        let was_enabled = self.configuration.replace(value) & 1 == 1;
        let is_enabled = value & 1 == 1;
        if !is_enabled || !was_enabled {
            self.taken.set(0);
            self.posted.set(0);
            self.io_posted.set(0);
        }
        let shutdown = if value >> 14 & 3 == 0 { 0 } else { 2 << 2 };
        self.status.set(self.bend(u64::from(is_enabled) | shutdown));
    }

    /// Takes the admin commands up to `tail`.
    fn administrate(&self, tail: usize) {
        // ASQS and ACQS, less one.
        let attributes = self.attributes.get();
        let size = |shift: u32| usize::try_from(attributes >> shift & 0xfff).expect("12 bits") + 1;
        let (submissions, completions) = (size(0).min(64), size(16).min(256));
        for _ in 0..64 {
            if self.taken.get() % submissions == tail % submissions {
                break;
            }
            let slot = self.taken.get() % submissions;
            self.taken.set(self.taken.get() + 1);
            let words: [u64; 8] =
                core::array::from_fn(|index| self.memory.admin_submission.load(8 * slot + index));
            let Some(result) = self.execute(&words) else {
                continue;
            };
            let head = (self.taken.get() % submissions) as u64;
            let state = head | (words[0] >> 16 & 0xffff) << 32;
            self.post(
                &self.memory.admin_completion,
                (&self.posted, completions),
                (result, state),
            );
        }
    }

    /// What a command's result is; `None` where it is not answered.
    fn execute(&self, words: &[u64; 8]) -> Option<u64> {
        let dword10 = words[5] & 0xffff_ffff;
        match words[0] & 0xff {
            // Identify, by CNS.
            0x06 => self.identify(dword10 & 0xff, words[0] >> 32),
            // Get Log Page.
            0x02 => self.fill(&[]),
            // Number of Queues: as many as asked for.
            0x09 if dword10 == 7 => return Some(words[5] >> 32),
            // An event is for later.
            0x0c if !self.input.borrow_mut().one_in(16) => return None,
            _ => {}
        }
        Some(0)
    }

    fn identify(&self, cns: u64, namespace: u64) {
        match cns {
            // A namespace of 4,096 blocks of 512 bytes.
            0 => self.fill(&[(0, 4096), (8, 4096), (128, 9 << 16)]),
            // A controller: 32 pages at once, entries of 64 and 16 bytes, 2 namespaces, deallocation and zeroing.
            1 => self.fill(&[
                (72, 5 << 40),
                (256, 1 << 8),
                (512, 0x4466 | 2 << 32),
                (520, 0xc),
                (536, 1),
            ]),
            // Namespaces of greater ids than this.
            _ if namespace < 2 => self.fill(&[(0, namespace + 1)]),
            _ => self.fill(&[]),
        }
    }

    /// Fills the data page with words at their offsets, and with a few lies.
    fn fill(&self, words: &[(usize, u64)]) {
        let page = &self.memory.data;
        (0..512).for_each(|index| page.store(index, 0));
        for &(offset, word) in words {
            page.store(offset / 8, self.bend(word));
        }
        let mut input = self.input.borrow_mut();
        if input.one_in(self.rarity / 4) {
            for _ in 0..input.below(4) {
                let index = usize::try_from(input.below(512)).expect("few");
                page.store(index, input.word());
            }
        }
    }

    /// Posts a completion: the right one, none, or one with something bent.
    fn post(
        &self,
        ring: &Pages,
        (count, entries): (&Cell<usize>, usize),
        (result, state): (u64, u64),
    ) {
        let how = self.input.borrow_mut().byte();
        let is_liar = self.rarity < 255 || how == 0xfe;
        if how == 0xff && is_liar {
            return;
        }
        let slot = count.get() % entries;
        let phase = u64::from((count.get() / entries).is_multiple_of(2)) << 48;
        let state = if how > 0xd0 && is_liar {
            self.bend(state | phase)
        } else {
            state | phase
        };
        ring.store(2 * slot, self.bend(result));
        ring.store(2 * slot + 1, state);
        count.set(count.get() + 1);
        if how == 0xf0 && is_liar {
            // Twice.
            self.post(ring, (count, entries), (result, state & !(1 << 48)));
        }
    }

    /// Completes some I/O commands, or says so.
    pub(super) fn complete(&self, memory: &Memory) {
        // Where the driver writes shadow doorbells, that of the first I/O queue is the third word (§7.13).
        let shadow = memory.shadow_values.load(1) & 0xffff_ffff;
        let tail = if shadow == 0 { self.tail.get() } else { shadow };
        let tail = usize::try_from(tail).expect("32 bits") % N;
        for _ in 0..N {
            if self.io_posted.get() % N == tail || self.input.borrow_mut().one_in(4) {
                break;
            }
            let slot = self.io_posted.get() % N;
            let id = memory.submission.load(8 * slot) >> 16 & 0xffff;
            let state = id << 32 | 1 << 16;
            self.post(&memory.completion, (&self.io_posted, N), (0, state));
        }
    }
}
