//! The counters that `stats` tells.

use parakernel_core::time::Instant;

use super::{State, Talk, command::VERSION, time::seconds};
use crate::kv::store::{Store, Totals};

/// A counter's name and where it is.
type Counter = (&'static str, fn(&Totals) -> u64);

/// The names are memcached's.
const COUNTERS: &[Counter] = &[
    ("pointer_size", |_| usize::BITS.into()),
    ("threads", |_| 1),
    ("curr_items", |totals| totals.items.into()),
    ("total_items", |totals| totals.stored),
    ("bytes", |totals| totals.bytes),
    ("limit_maxbytes", |totals| totals.limit),
    ("evictions", |totals| totals.evicted),
    ("cmd_get", |totals| totals.get.hits + totals.get.misses),
    ("get_hits", |totals| totals.get.hits),
    ("get_misses", |totals| totals.get.misses),
    ("cmd_set", |totals| totals.writes),
    ("cmd_flush", |totals| totals.flushes),
    ("cmd_touch", |totals| {
        totals.touch.hits + totals.touch.misses
    }),
    ("touch_hits", |totals| totals.touch.hits),
    ("touch_misses", |totals| totals.touch.misses),
    ("delete_hits", |totals| totals.delete.hits),
    ("delete_misses", |totals| totals.delete.misses),
];

impl Talk {
    /// Tells counter `index`, or ends the list.
    pub(super) fn statistics(&mut self, index: usize, store: &Store<'_>, now: Instant) {
        let totals = store.totals();
        match index {
            0 => self.counter("uptime", seconds(now)),
            1 => self.counter("time", self.started.at(now)),
            2 => {
                self.reply.push(b"STAT version ");
                self.reply.push(VERSION);
                self.reply.push(b"\r\n");
            }
            _ => match COUNTERS.get(index - 3) {
                Some((name, value)) => self.counter(name, value(&totals)),
                None => return self.answer(b"END\r\n"),
            },
        }
        self.state = State::Statistics(index + 1);
    }

    fn counter(&mut self, name: &str, value: u64) {
        self.reply.push(b"STAT ");
        self.reply.push(name.as_bytes());
        self.reply.push(b" ");
        self.reply.push_number(value);
        self.reply.push(b"\r\n");
    }
}
