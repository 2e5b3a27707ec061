//! One client's conversation: its bytes in, the answer's bytes out, in whatever pieces they come.

use parakernel_core::time::Instant;

use super::{
    protocol::Misunderstood,
    store::{Draft, KEY_MAX, Mode, Reader, Store, Stored},
};

mod command;
mod line;
mod reply;
mod statistics;
mod time;

use line::{Extent, Line, Span};
use reply::Reply;
pub use time::UnixTime;

/// What a call of [`Session::feed`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    /// Bytes of the input that are done with.
    pub consumed: usize,
    /// Bytes of the output that were written.
    pub produced: usize,
    /// What comes next.
    pub next: Next,
}

/// What a [`Session`] waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// More input.
    Input,
    /// Room for more output.
    Room,
    /// Nothing: the client said goodbye, and everything was answered.
    End,
}

/// A client's conversation with a store.
///
/// Every byte is looked at once, and no more than the session's own memory is kept of a line: values go straight from
/// the input to the store, and from the store to the output.
#[derive(Debug)]
pub struct Session {
    line: Line,
    talk: Talk,
}

/// A session, apart from the line that it works on.
#[derive(Debug)]
struct Talk {
    reply: Reply,
    state: State,
    started: UnixTime,
}

/// Where in the conversation a session is.
#[derive(Debug)]
enum State {
    /// In a line; the part of it that has come is in the buffer.
    Line,
    /// In a line of keys that was longer than the buffer: keys that are answered are no longer in it.
    MoreKeys(Style),
    /// Answering keys.
    Keys(Query),
    /// Answering with a value.
    Value(Query, Reader),
    /// In a data block.
    Data(Block),
    /// Behind a data block, in the line end that must follow.
    LineEnd(Block, Seen),
    /// In the rest of a line that will be answered so.
    Skip(&'static [u8]),
    /// Answering with counters, from this one on.
    Statistics(usize),
    /// The client said goodbye.
    End,
}

/// Keys that wait for their answers.
#[derive(Clone, Copy, Debug)]
struct Query {
    span: Span,
    style: Style,
}

/// How keys are answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Style {
    Plain,
    /// With the number that `cas` compares.
    WithCas,
}

/// A data block on its way.
#[derive(Debug)]
struct Block {
    fate: Fate,
    left: u32,
    quiet: bool,
}

/// What becomes of a data block.
#[derive(Debug)]
enum Fate {
    Store(Draft, Mode),
    /// It is skipped, and this is why.
    Refuse(&'static [u8]),
}

/// How much of a line end was seen.
#[derive(Clone, Copy, Debug)]
enum Seen {
    Nothing,
    CarriageReturn,
}

/// Whether a step can be followed by another.
enum Flow {
    Again,
    Wait(Next),
}

const BAD_BLOCK: &[u8] = b"CLIENT_ERROR bad data chunk\r\n";
const LONG_LINE: &[u8] = b"CLIENT_ERROR line too long\r\n";

impl Session {
    /// The start of a conversation. `started` says what the time of day was at the clock's start.
    #[must_use]
    pub const fn new(started: UnixTime) -> Self {
        Self {
            line: Line::new(),
            talk: Talk {
                reply: Reply::new(),
                state: State::Line,
                started,
            },
        }
    }

    /// Takes from `input` and writes to `output` as much as possible.
    ///
    /// With what is not consumed the input of the next call begins.
    pub fn feed(
        &mut self,
        store: &mut Store<'_>,
        now: Instant,
        input: &[u8],
        output: &mut [u8],
    ) -> Progress {
        let all = output.len();
        let (mut rest, mut room) = (input, output);
        let next = loop {
            room = self.talk.reply.drain(room);
            if !self.talk.reply.is_empty() {
                break Next::Room;
            }
            match self.step(store, now, &mut rest, &mut room) {
                Flow::Again => {}
                Flow::Wait(next) => break next,
            }
        };
        Progress {
            consumed: input.len() - rest.len(),
            produced: all - room.len(),
            next,
        }
    }

    /// Ends the conversation, wherever it is, and gives back what it holds of the store.
    pub fn end(&mut self, store: &mut Store<'_>) {
        match core::mem::replace(&mut self.talk.state, State::End) {
            State::Value(_, reader) => store.release(reader),
            State::Data(block) | State::LineEnd(block, _) => {
                if let Fate::Store(draft, _) = block.fate {
                    store.discard(draft);
                }
            }
            State::Line
            | State::MoreKeys(_)
            | State::Keys(..)
            | State::Skip(_)
            | State::Statistics(_)
            | State::End => {}
        }
    }

    fn step(
        &mut self,
        store: &mut Store<'_>,
        now: Instant,
        input: &mut &[u8],
        room: &mut &mut [u8],
    ) -> Flow {
        let Self { line, talk } = self;
        match core::mem::replace(&mut talk.state, State::Line) {
            State::Line => match line.take(input) {
                Extent::Part => return Flow::Wait(Next::Input),
                Extent::Whole => talk.execute(line, store, now),
                Extent::Full => talk.long_line(line),
            },
            State::MoreKeys(style) => match line.take(input) {
                Extent::Part => return talk.wait(State::MoreKeys(style), Next::Input),
                Extent::Whole => talk.keys(style, Some(line.whole(0))),
                Extent::Full => talk.keys(style, line.words(0)),
            },
            State::Keys(query) => talk.key(query, line, store, now),
            State::Value(query, reader) => return talk.value(query, reader, store, room),
            State::Data(block) => return talk.data(block, store, input),
            State::LineEnd(block, seen) => return talk.line_end((block, seen), store, now, input),
            State::Skip(answer) => return talk.skip(answer, input),
            State::Statistics(index) => talk.statistics(index, store, now),
            State::End => return talk.wait(State::End, Next::End),
        }
        if talk.is_done_with_line() {
            line.clear();
        }
        Flow::Again
    }
}

impl Talk {
    /// Stays in `state` until there is what it needs.
    fn wait(&mut self, state: State, next: Next) -> Flow {
        self.state = state;
        Flow::Wait(next)
    }

    /// Whether nothing of the line in the buffer is needed any more.
    const fn is_done_with_line(&self) -> bool {
        !matches!(
            self.state,
            State::MoreKeys(_) | State::Keys(..) | State::Value(..)
        )
    }

    /// A line is longer than the buffer.
    fn long_line(&mut self, line: &Line) {
        for (name, style) in [(&b"get "[..], Style::Plain), (b"gets ", Style::WithCas)] {
            if line.text().starts_with(name) {
                return self.keys(style, line.words(name.len()));
            }
        }
        self.state = State::Skip(LONG_LINE);
    }

    /// Answers the keys of `span`, or complains of a line without a word that ends.
    fn keys(&mut self, style: Style, span: Option<Span>) {
        self.state = span.map_or(State::Skip(LONG_LINE), |span| {
            State::Keys(Query { span, style })
        });
    }

    /// Answers the next key of `query`.
    fn key(&mut self, query: Query, line: &mut Line, store: &mut Store<'_>, now: Instant) {
        let Query { span, style } = query;
        let text = line.part(span);
        let Some(indent) = text.iter().position(|&byte| byte != b' ') else {
            if span.last {
                return self.answer(b"END\r\n");
            }
            line.forget(span.end);
            self.state = State::MoreKeys(style);
            return;
        };
        let word = text.get(indent..).unwrap_or_default();
        let key = word.split(|&byte| byte == b' ').next().unwrap_or_default();
        if key.len() > KEY_MAX {
            let answer = Misunderstood::Format { skip: None }.answer();
            return self.after_line(answer, span.last);
        }
        let start = span.start + indent + key.len();
        let rest = Query {
            span: Span { start, ..span },
            style,
        };
        self.state = match store.get(key, now) {
            Some(reader) => {
                self.reply.value(key, &reader, style == Style::WithCas);
                State::Value(rest, reader)
            }
            None => State::Keys(rest),
        };
    }

    fn value(
        &mut self,
        query: Query,
        mut reader: Reader,
        store: &mut Store<'_>,
        room: &mut &mut [u8],
    ) -> Flow {
        let len = store.read(&mut reader, room);
        *room = core::mem::take(room).get_mut(len..).unwrap_or_default();
        if !reader.is_done() {
            return self.wait(State::Value(query, reader), Next::Room);
        }
        store.release(reader);
        self.reply.push(b"\r\n");
        self.state = State::Keys(query);
        Flow::Again
    }

    fn data(&mut self, mut block: Block, store: &mut Store<'_>, input: &mut &[u8]) -> Flow {
        let len = input.len().min(block.left as usize);
        let (bytes, rest) = input.split_at(len);
        *input = rest;
        if let Fate::Store(draft, _) = &mut block.fate {
            store.write(draft, bytes);
        }
        // At most `left`, which is a u32.
        block.left -= u32::try_from(len).unwrap_or(0);
        if block.left > 0 {
            return self.wait(State::Data(block), Next::Input);
        }
        self.state = State::LineEnd(block, Seen::Nothing);
        Flow::Again
    }

    fn line_end(
        &mut self,
        (block, seen): (Block, Seen),
        store: &mut Store<'_>,
        now: Instant,
        input: &mut &[u8],
    ) -> Flow {
        let Some((&byte, rest)) = input.split_first() else {
            return self.wait(State::LineEnd(block, seen), Next::Input);
        };
        *input = rest;
        match (seen, byte) {
            (Seen::Nothing, b'\r') => self.state = State::LineEnd(block, Seen::CarriageReturn),
            (Seen::CarriageReturn, b'\n') => self.finish(block, store, now),
            (_, byte) => {
                let quiet = block.quiet;
                let answer = refuse(block, store);
                let answer = if quiet { &[] } else { answer };
                self.after_line(answer, byte == b'\n');
            }
        }
        Flow::Again
    }

    /// A whole block has come.
    fn finish(&mut self, block: Block, store: &mut Store<'_>, now: Instant) {
        let answer: &[u8] = match block.fate {
            Fate::Refuse(answer) => answer,
            Fate::Store(draft, mode) => match store.commit(draft, mode, now) {
                Stored::Stored => b"STORED\r\n",
                Stored::NotStored => b"NOT_STORED\r\n",
                Stored::Exists => b"EXISTS\r\n",
                Stored::NotFound => b"NOT_FOUND\r\n",
                Stored::Full(full) => command::server_error(full),
            },
        };
        self.answer_unless(block.quiet, answer);
    }

    fn skip(&mut self, answer: &'static [u8], input: &mut &[u8]) -> Flow {
        let Some(end) = input.iter().position(|&byte| byte == b'\n') else {
            *input = &[];
            return self.wait(State::Skip(answer), Next::Input);
        };
        *input = input.get(end + 1..).unwrap_or_default();
        self.answer(answer);
        Flow::Again
    }

    /// Answers when the line has ended: it has, or what is left of it is skipped first.
    fn after_line(&mut self, answer: &'static [u8], ended: bool) {
        if ended {
            self.answer(answer);
        } else {
            self.state = State::Skip(answer);
        }
    }

    /// Answers, and goes on with the next line.
    fn answer(&mut self, answer: &[u8]) {
        self.reply.push(answer);
        self.state = State::Line;
    }

    fn answer_unless(&mut self, quiet: bool, answer: &[u8]) {
        self.answer(if quiet { &[] } else { answer });
    }
}

/// A block does not end where its line said; returns the answer.
fn refuse(block: Block, store: &mut Store<'_>) -> &'static [u8] {
    match block.fate {
        Fate::Refuse(answer) => answer,
        Fate::Store(draft, _) => {
            store.discard(draft);
            BAD_BLOCK
        }
    }
}
