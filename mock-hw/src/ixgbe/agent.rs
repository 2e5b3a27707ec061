//! The host's half of virtual functions: a driver of the physical function that does nothing but serve them.
//!
//! A virtual function's driver asks the physical function's for everything that concerns others: an address, VLANs,
//! larger frames. Where a machine has only virtual functions, its host has that driver; this is one, played over the
//! card's registers as any other driver would. What the two say to each other is no part of the datasheet but an agreement
//! of drivers, version 1.0 to 1.4 of which DPDK and Linux tell alike in their `ixgbe_mbx.h`.

mod card;
mod request;

use core::time::Duration;

use parakernel_core::mmio::Registers as _;

use crate::{
    pci::{Bar, ConfigSpace},
    world::{self, Activity, Turn},
};

/// Messages: what the low half says, and what became of it.
const RESET: u32 = 0x01;
const CONTROL: u32 = 0x100;
const SUCCESS: u32 = 1 << 31;
const FAILURE: u32 = 1 << 30;
/// The virtual function may ask for things: it was reset.
const CLEAR_TO_SEND: u32 = 1 << 29;

/// Registers of the mailbox (8.2.3.27).
const PFMAILBOX: usize = 0x0_4b00;
const PFMBMEM: usize = 0x1_3000;
const PFMBICR: usize = 0x0_0710;
const PFVFLRE: [usize; 2] = [0x0_0600, 0x0_01c0];
const PFVFLREC: usize = 0x0_0700;
const LINKS: usize = 0x0_42a4;

/// PFMAILBOX: a message is there, one was read, the memory is this side's.
const SENT: u32 = 1;
const ACKNOWLEDGED: u32 = 2;
const OURS: u32 = 8;

/// Words of a mailbox.
const WORDS: usize = 16;

/// How long to wait where the other side has the mailbox's memory.
const PATIENCE: Duration = Duration::from_micros(10);

/// The driver.
#[derive(Debug)]
pub(super) struct Agent {
    config: ConfigSpace,
    bar: Bar,
    functions: Vec<Function>,
    is_up: bool,
    link: u32,
}

/// What it knows of a virtual function.
#[derive(Clone, Debug, Default)]
struct Function {
    /// The address that it was given, or asked for.
    address: [u8; 6],
    /// Once it was reset it may ask, in this version of the agreement: 0 is 1.0, 2 is 1.1, and so on.
    version: Option<u32>,
    /// What it has to be told, once the memory is free.
    reply: Option<Vec<u32>>,
    /// It has to be told that something changed.
    is_news: bool,
    /// What it was told last, it has not acknowledged: news must not overwrite an answer.
    is_unread: bool,
}

impl Agent {
    /// A driver for `count` virtual functions.
    pub(super) fn new(config: ConfigSpace, bar: Bar, count: usize) -> Self {
        Self {
            config,
            bar,
            functions: vec![Function::default(); count],
            is_up: false,
            link: 0,
        }
    }

    fn read(&self, offset: usize) -> u32 {
        self.bar.read32(offset)
    }

    fn write(&self, offset: usize, value: u32) {
        self.bar.write32(offset, value);
    }

    fn update(&self, offset: usize, change: impl FnOnce(u32) -> u32) {
        self.write(offset, change(self.read(offset)));
    }

    /// Takes the bits of a register that clear where they are written, with those of other functions.
    fn take(&self, from: usize, clear: usize) -> u32 {
        let bits = self.read(from);
        if bits != 0 {
            self.write(clear, bits);
        }
        bits
    }

    /// Virtual functions that were reset from outside.
    fn take_resets(&mut self) -> bool {
        let mut any = false;
        for (half, place) in PFVFLRE.into_iter().enumerate() {
            let bits = self.take(place, PFVFLREC + 4 * half);
            for n in ones(bits).map(|bit| 32 * half + bit) {
                any |= n < self.functions.len();
                self.forget(n);
            }
        }
        any
    }

    /// The first step of everything else: what a function was lent is taken back.
    fn forget(&mut self, n: usize) {
        if n >= self.functions.len() {
            return;
        }
        self.functions[n] = Function::default();
        self.close_pool(n);
    }

    /// Reads the messages that came, and prepares the replies.
    fn take_messages(&mut self) -> bool {
        let mut any = false;
        for word in 0..4 {
            let place = PFMBICR + 4 * word;
            let causes = self.take(place, place);
            for n in ones(causes >> 16).map(|bit| 16 * word + bit) {
                any |= n < self.functions.len();
                self.acknowledged(n);
            }
            for n in ones(causes & 0xffff).map(|bit| 16 * word + bit) {
                any |= n < self.functions.len();
                self.take_message(n);
            }
        }
        any
    }

    fn acknowledged(&mut self, n: usize) {
        if let Some(function) = self.functions.get_mut(n) {
            function.is_unread = false;
        }
    }

    fn take_message(&mut self, n: usize) {
        if n >= self.functions.len() {
            return;
        }
        self.acknowledged(n);
        let memory = PFMBMEM + 4 * WORDS * n;
        let message = core::array::from_fn(|word| self.read(memory + 4 * word));
        self.write(PFMAILBOX + 4 * n, ACKNOWLEDGED);
        self.functions[n].reply = self.answer(n, message);
    }

    /// Sends what has to be said; whether something was said, and whether something waits.
    fn send(&mut self) -> (bool, bool) {
        let (mut said, mut waits) = (false, false);
        for n in 0..self.functions.len() {
            let function = &self.functions[n];
            let Some(message) = function.reply.clone().or_else(|| function.news()) else {
                continue;
            };
            let control = PFMAILBOX + 4 * n;
            self.write(control, OURS);
            if self.read(control) & OURS == 0 {
                waits = true;
                continue;
            }
            for (word, value) in (0..WORDS).zip(message) {
                self.write(PFMBMEM + 4 * (WORDS * n + word), value);
            }
            // Gives the memory back, too.
            self.write(control, SENT);
            let function = &mut self.functions[n];
            function.is_unread = true;
            if function.reply.take().is_none() {
                function.is_news = false;
            }
            said = true;
        }
        (said, waits)
    }

    /// Tells all functions when the link changed.
    fn watch_link(&mut self) -> bool {
        let link = self.read(LINKS) & 1 << 30;
        let changed = link != self.link;
        self.link = link;
        if changed {
            self.functions
                .iter_mut()
                .for_each(|function| function.is_news = true);
        }
        changed
    }
}

impl Function {
    fn news(&self) -> Option<Vec<u32>> {
        let clear = self.version.map_or(0, |_| CLEAR_TO_SEND);
        (self.is_news && !self.is_unread).then(|| vec![CONTROL | clear])
    }
}

impl world::Device for Agent {
    fn step(&mut self, turn: &mut Turn<'_>) -> Activity {
        if !self.is_up {
            self.bring_up();
            self.is_up = true;
            return Activity::Worked;
        }
        if self.read(LINKS) == u32::MAX {
            // The card was pulled.
            return Activity::Idle;
        }
        let reset = self.take_resets();
        let asked = self.take_messages();
        let changed = self.watch_link();
        let (said, waits) = self.send();
        if reset || asked || changed || said {
            Activity::Worked
        } else if waits {
            Activity::Waiting(turn.now.saturating_add(PATIENCE))
        } else {
            Activity::Idle
        }
    }
}

/// The places of the bits of `word` that are 1.
fn ones(word: u32) -> impl Iterator<Item = usize> {
    (0..32).filter(move |bit| word >> bit & 1 == 1)
}
