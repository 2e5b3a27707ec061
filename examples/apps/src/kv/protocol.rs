//! Lines of the memcached text protocol, and what they ask for.
//!
//! Written from memcached's `doc/protocol.txt`.

use super::{
    decimal,
    store::{KEY_MAX, Mode},
};

/// What a client asks for. Data blocks follow their line, and are none of the parser's business.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command<'a> {
    /// The values of keys.
    Get {
        /// One key or more, between spaces.
        keys: Keys<'a>,
        /// Whether to say the number that `cas` compares.
        with_cas: bool,
    },
    /// Store the data block that follows.
    Store(Store<'a>),
    /// Forget a key.
    Delete {
        /// The key.
        key: &'a [u8],
        /// Whether the client wants no answer.
        quiet: bool,
    },
    /// Change a number.
    Count {
        /// The key.
        key: &'a [u8],
        /// Which way.
        direction: Direction,
        /// By how much.
        by: u64,
        /// Whether the client wants no answer.
        quiet: bool,
    },
    /// Change when a key expires.
    Touch {
        /// The key.
        key: &'a [u8],
        /// The new time.
        time: i64,
        /// Whether the client wants no answer.
        quiet: bool,
    },
    /// Forget everything.
    FlushAll {
        /// When: seconds from now, or an absolute time.
        time: i64,
        /// Whether the client wants no answer.
        quiet: bool,
    },
    /// Counters.
    Statistics(Topic),
    /// The server's version.
    Version,
    /// Say more or less in the log: accepted, and without effect.
    Verbosity {
        /// Whether the client wants no answer.
        quiet: bool,
    },
    /// End the connection.
    Quit,
}

/// The line before a data block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Store<'a> {
    /// The key.
    pub key: &'a [u8],
    /// Opaque number to store along.
    pub flags: u32,
    /// When it expires: 0 for never, negative for at once, seconds up to 30 days, or an absolute time.
    pub time: i64,
    /// Bytes of the data block, the line end after it not counted.
    pub len: u32,
    /// Under which condition to store.
    pub mode: Mode,
    /// Whether the client wants no answer.
    pub quiet: bool,
}

/// Which way a number changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// Up; past the largest 64-bit number it goes on at 0.
    Up,
    /// Down, to 0 at the lowest.
    Down,
}

impl Direction {
    /// `number` after a change by `by`.
    #[must_use]
    pub const fn apply(self, number: u64, by: u64) -> u64 {
        match self {
            Self::Up => number.wrapping_add(by),
            Self::Down => number.saturating_sub(by),
        }
    }
}

/// Which counters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Topic {
    /// The general ones.
    General,
    /// None, but set those of commands to zero.
    Reset,
    /// Some that this store does not have: an empty list.
    Other,
}

/// Why a line is not understood.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Misunderstood {
    /// There is no such command, or not with so many words.
    Command,
    /// A key is too long, or a number none.
    Format {
        /// Bytes of the data block that follows nevertheless, where the line says so.
        skip: Option<u32>,
    },
    /// What a number is to be changed by is no number.
    Delta,
    /// A time is no number.
    Time,
}

impl Misunderstood {
    /// The answer to the line.
    #[must_use]
    pub const fn answer(self) -> &'static [u8] {
        match self {
            Self::Command => b"ERROR\r\n",
            Self::Format { .. } => b"CLIENT_ERROR bad command line format\r\n",
            Self::Delta => b"CLIENT_ERROR invalid numeric delta argument\r\n",
            Self::Time => b"CLIENT_ERROR invalid exptime argument\r\n",
        }
    }
}

/// Keys between spaces, each of [`KEY_MAX`] bytes at most.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Keys<'a>(&'a [u8]);

impl<'a> Keys<'a> {
    /// The keys in `text`.
    ///
    /// # Errors
    ///
    /// Where there is none, or one is too long.
    pub fn new(text: &'a [u8]) -> Result<Self, Misunderstood> {
        let mut longest = None;
        for word in words(text) {
            longest = longest.max(Some(word.len()));
        }
        match longest {
            None => Err(Misunderstood::Command),
            Some(len) if len > KEY_MAX => Err(Misunderstood::Format { skip: None }),
            Some(_) => Ok(Self(text)),
        }
    }

    /// The end of the line, from the first key on or from spaces before it.
    #[must_use]
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.0
    }

    /// The keys, in order.
    pub fn iter(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        words(self.0)
    }
}

/// The command in `line`, which is given without its end.
///
/// # Errors
///
/// What of it is not understood.
pub fn parse(line: &[u8]) -> Result<Command<'_>, Misunderstood> {
    let line = line.trim_ascii_start();
    let end = line.iter().position(|&byte| byte == b' ');
    let (name, rest) = line.split_at(end.unwrap_or(line.len()));
    let store = |mode| store(rest, mode).map(Command::Store);
    match name {
        b"get" | b"gets" => Ok(Command::Get {
            keys: Keys::new(rest)?,
            with_cas: name == b"gets",
        }),
        b"set" => store(Mode::Set),
        b"add" => store(Mode::Add),
        b"replace" => store(Mode::Replace),
        b"append" => store(Mode::Append),
        b"prepend" => store(Mode::Prepend),
        b"cas" => compare_and_swap(rest),
        b"delete" => delete(rest),
        b"incr" => count(rest, Direction::Up),
        b"decr" => count(rest, Direction::Down),
        b"touch" => touch(rest),
        _ => administration(name, rest),
    }
}

/// Commands that concern no key.
fn administration<'a>(name: &[u8], rest: &'a [u8]) -> Result<Command<'a>, Misunderstood> {
    let Arguments { words, quiet } = arguments::<1>(rest, 0)?;
    let [word] = words;
    match name {
        b"flush_all" => Ok(Command::FlushAll {
            time: word.map_or(Ok(0), time)?,
            quiet,
        }),
        b"verbosity" if word.is_some() || quiet => Ok(Command::Verbosity { quiet }),
        b"stats" if !quiet => Ok(Command::Statistics(match word {
            None => Topic::General,
            Some(b"reset") => Topic::Reset,
            Some(_) => Topic::Other,
        })),
        b"version" if word.is_none() && !quiet => Ok(Command::Version),
        b"quit" if word.is_none() && !quiet => Ok(Command::Quit),
        _ => Err(Misunderstood::Command),
    }
}

fn store(rest: &[u8], mode: Mode) -> Result<Store<'_>, Misunderstood> {
    let Arguments { words, quiet } = arguments::<4>(rest, 4)?;
    let [key, flags, time, len] = words.map(Option::unwrap_or_default);
    let len = number(len).ok_or(Misunderstood::Format { skip: None })?;
    let wrong = Misunderstood::Format { skip: Some(len) };
    Ok(Store {
        key: fitting(key).ok_or(wrong)?,
        flags: number(flags).ok_or(wrong)?,
        time: decimal::parse_signed(time).ok_or(wrong)?,
        len,
        mode,
        quiet,
    })
}

fn compare_and_swap(rest: &[u8]) -> Result<Command<'_>, Misunderstood> {
    let Arguments { words, quiet } = arguments::<5>(rest, 5)?;
    let [key, flags, time, len, cas] = words.map(Option::unwrap_or_default);
    let len = number(len).ok_or(Misunderstood::Format { skip: None })?;
    let wrong = Misunderstood::Format { skip: Some(len) };
    Ok(Command::Store(Store {
        key: fitting(key).ok_or(wrong)?,
        flags: number(flags).ok_or(wrong)?,
        time: decimal::parse_signed(time).ok_or(wrong)?,
        len,
        mode: Mode::CompareAndSwap(decimal::parse(cas).ok_or(wrong)?),
        quiet,
    }))
}

fn delete(rest: &[u8]) -> Result<Command<'_>, Misunderstood> {
    let Arguments { words, quiet } = arguments::<2>(rest, 1)?;
    let [key, time] = words;
    // Old clients say a time, which must be 0.
    if time.is_some_and(|time| time != b"0") {
        return Err(Misunderstood::Format { skip: None });
    }
    Ok(Command::Delete {
        key: key_of(key)?,
        quiet,
    })
}

fn count(rest: &[u8], direction: Direction) -> Result<Command<'_>, Misunderstood> {
    let Arguments { words, quiet } = arguments::<2>(rest, 2)?;
    let [key, by] = words;
    Ok(Command::Count {
        key: key_of(key)?,
        direction,
        by: by.and_then(decimal::parse).ok_or(Misunderstood::Delta)?,
        quiet,
    })
}

fn touch(rest: &[u8]) -> Result<Command<'_>, Misunderstood> {
    let Arguments { words, quiet } = arguments::<2>(rest, 2)?;
    let [key, word] = words;
    Ok(Command::Touch {
        key: key_of(key)?,
        time: word.map_or(Err(Misunderstood::Time), time)?,
        quiet,
    })
}

fn key_of(word: Option<&[u8]>) -> Result<&[u8], Misunderstood> {
    word.and_then(fitting)
        .ok_or(Misunderstood::Format { skip: None })
}

fn fitting(key: &[u8]) -> Option<&[u8]> {
    (key.len() <= KEY_MAX).then_some(key)
}

fn time(word: &[u8]) -> Result<i64, Misunderstood> {
    decimal::parse_signed(word).ok_or(Misunderstood::Time)
}

fn number(word: &[u8]) -> Option<u32> {
    decimal::parse(word)?.try_into().ok()
}

fn words(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|&byte| byte == b' ')
        .filter(|word| !word.is_empty())
}

/// Up to `N` words, and whether `noreply` comes after them.
struct Arguments<'a, const N: usize> {
    words: [Option<&'a [u8]>; N],
    quiet: bool,
}

/// The words of `text`, of which there must be `least` and may be `N`, and `noreply` after them.
fn arguments<const N: usize>(text: &[u8], least: usize) -> Result<Arguments<'_, N>, Misunderstood> {
    let mut found = [None; N];
    let (mut count, mut quiet) = (0, false);
    for word in words(text) {
        if quiet {
            return Err(Misunderstood::Command);
        }
        if count >= least && word == b"noreply" {
            quiet = true;
            continue;
        }
        *found.get_mut(count).ok_or(Misunderstood::Command)? = Some(word);
        count += 1;
    }
    if count < least {
        return Err(Misunderstood::Command);
    }
    Ok(Arguments {
        words: found,
        quiet,
    })
}
