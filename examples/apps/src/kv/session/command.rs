//! What a whole line leads to.

use parakernel_core::time::Instant;

use super::{Block, Fate, Line, State, Style, Talk};
use crate::kv::{
    protocol::{self, Command, Misunderstood, Topic, parse},
    store::{Counted, Full, Mode, Store, Tags},
};

/// What `version` and `stats` tell.
///
/// Clients read it as memcached's version, to know what they may ask for, and refuse one that begins with 0: this is the
/// generation of the text protocol that the store speaks.
pub(super) const VERSION: &[u8] = b"1.4.0-parakernel";

/// The answer where there is no room.
pub(super) const fn server_error(full: Full) -> &'static [u8] {
    match full {
        Full::TooLarge => b"SERVER_ERROR object too large for cache\r\n",
        Full::Busy => b"SERVER_ERROR out of memory storing object\r\n",
    }
}

impl Talk {
    /// Does what a whole line asks for, and goes to the state that follows from it.
    pub(super) fn execute(&mut self, line: &Line, store: &mut Store<'_>, now: Instant) {
        match parse(line.text()) {
            Ok(Command::Get { keys, with_cas }) => {
                let span = line.whole(line.text().len() - keys.as_bytes().len());
                let style = if with_cas {
                    Style::WithCas
                } else {
                    Style::Plain
                };
                self.keys(style, Some(span));
            }
            Ok(Command::Store(command)) => self.begin_block(command, store, now),
            Ok(Command::Statistics(Topic::General)) => self.state = State::Statistics(0),
            Ok(Command::Quit) => self.state = State::End,
            Ok(command) => self.at_once(command, store, now),
            Err(Misunderstood::Format { skip: Some(left) }) => {
                let answer = Misunderstood::Format { skip: None }.answer();
                self.state = State::Data(Block {
                    fate: Fate::Refuse(answer),
                    left,
                    quiet: false,
                });
            }
            Err(misunderstood) => self.answer(misunderstood.answer()),
        }
    }

    /// Makes room for the data block that follows.
    fn begin_block(&mut self, command: protocol::Store<'_>, store: &mut Store<'_>, now: Instant) {
        let tags = Tags {
            flags: command.flags,
            expiry: self.started.expiry(command.time, now),
        };
        let fate = match store.reserve(command.key, command.len, tags, now) {
            Ok(draft) => Fate::Store(draft, command.mode),
            Err(full) => {
                if command.mode == Mode::Set {
                    // Better nothing than what the client wanted to replace.
                    store.delete(command.key, now);
                }
                Fate::Refuse(server_error(full))
            }
        };
        self.state = State::Data(Block {
            fate,
            left: command.len,
            quiet: command.quiet,
        });
    }

    /// Does what takes one step.
    fn at_once(&mut self, command: Command<'_>, store: &mut Store<'_>, now: Instant) {
        match command {
            Command::Delete { key, quiet } => {
                let found = store.delete(key, now);
                self.answer_unless(quiet, either(found, b"DELETED\r\n"));
            }
            Command::Touch { key, time, quiet } => {
                let found = store.touch(key, self.started.expiry(time, now), now);
                self.answer_unless(quiet, either(found, b"TOUCHED\r\n"));
            }
            Command::Count {
                key,
                direction,
                by,
                quiet,
            } => {
                let counted = store.count(key, |number| direction.apply(number, by), now);
                self.counted(counted, quiet);
            }
            Command::FlushAll { time, quiet } => {
                store.flush(self.started.instant(time, now), now);
                self.answer_unless(quiet, b"OK\r\n");
            }
            Command::Verbosity { quiet } => self.answer_unless(quiet, b"OK\r\n"),
            Command::Version => {
                self.reply.push(b"VERSION ");
                self.reply.push(VERSION);
                self.answer(b"\r\n");
            }
            Command::Statistics(Topic::Reset) => {
                store.reset_totals();
                self.answer(b"RESET\r\n");
            }
            Command::Statistics(_) => self.answer(b"END\r\n"),
            // Those that take more than one step.
            Command::Get { .. } | Command::Store(_) | Command::Quit => {}
        }
    }

    fn counted(&mut self, counted: Counted, quiet: bool) {
        match counted {
            Counted::Now(number) if !quiet => {
                self.reply.push_number(number);
                self.answer(b"\r\n");
            }
            Counted::Now(_) => self.answer(b""),
            Counted::NotFound => self.answer_unless(quiet, b"NOT_FOUND\r\n"),
            Counted::NotNumeric => self.answer_unless(
                quiet,
                b"CLIENT_ERROR cannot increment or decrement non-numeric value\r\n",
            ),
            Counted::Full(full) => self.answer_unless(quiet, server_error(full)),
        }
    }
}

const fn either(found: bool, answer: &'static [u8]) -> &'static [u8] {
    if found { answer } else { b"NOT_FOUND\r\n" }
}
