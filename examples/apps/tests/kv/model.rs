//! A slow and obvious statement of what the store answers, with all the memory that it wants.

use alloc::collections::BTreeMap;

/// One request of a client.
#[derive(Clone, Debug)]
pub(crate) enum Request {
    Get {
        keys: Vec<usize>,
        with_cas: bool,
    },
    Store(Offer),
    Cas {
        key: usize,
        data: Vec<u8>,
        fresh: bool,
        quiet: bool,
    },
    Delete {
        key: usize,
        quiet: bool,
    },
    Count {
        up: bool,
        key: usize,
        by: u64,
        quiet: bool,
    },
    Touch {
        key: usize,
        time: i64,
        quiet: bool,
    },
    Flush {
        time: i64,
        quiet: bool,
    },
    Nonsense(Vec<u8>),
}

/// What a client wants to store, and how.
#[derive(Clone, Debug)]
pub(crate) struct Offer {
    pub(crate) name: &'static str,
    pub(crate) key: usize,
    pub(crate) flags: u32,
    pub(crate) time: i64,
    pub(crate) data: Vec<u8>,
    pub(crate) quiet: bool,
}

struct Item {
    flags: u32,
    data: Vec<u8>,
    cas: u64,
    /// Milliseconds; `None` for never.
    expires: Option<u64>,
}

/// Keys and values, the time in milliseconds, and the numbers given so far.
#[derive(Default)]
pub(crate) struct Model {
    items: BTreeMap<usize, Item>,
    pub(crate) now: u64,
    cas: u64,
    flush: Option<u64>,
}

/// The key with this number: short, long, and of every byte that a key may have.
pub(crate) fn key(number: usize) -> Vec<u8> {
    let unusual: Vec<u8> = (33..=255).filter(|&byte| byte != 127).collect();
    match number {
        0 => b"k".to_vec(),
        1 => vec![b'x'; 250],
        2 => unusual,
        _ => format!("key{number}").into_bytes(),
    }
}

impl Request {
    /// The key of a `cas`, or any.
    pub(crate) const fn key(&self) -> usize {
        if let Self::Cas { key, .. } = self {
            *key
        } else {
            0
        }
    }

    /// The request as a client sends it, with `cas` for the number that `gets` told last.
    pub(crate) fn bytes(&self, cas: u64) -> Vec<u8> {
        let mut bytes = self.words(cas).join(&b' ');
        if self.is_quiet() {
            bytes.extend_from_slice(b" noreply");
        }
        bytes.extend_from_slice(b"\r\n");
        if let Self::Store(Offer { data, .. }) | Self::Cas { data, .. } = self {
            bytes.extend_from_slice(data);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes
    }

    fn words(&self, cas: u64) -> Vec<Vec<u8>> {
        match self {
            Self::Get { keys, with_cas } => {
                let name = if *with_cas { "gets" } else { "get" };
                let keys = keys.iter().map(|&number| key(number));
                [word(name)].into_iter().chain(keys).collect()
            }
            Self::Store(offer) => vec![
                word(offer.name),
                key(offer.key),
                word(offer.flags),
                word(offer.time),
                word(offer.data.len()),
            ],
            Self::Cas {
                key: number,
                data,
                fresh,
                ..
            } => {
                let cas = if *fresh { cas } else { cas + 1000 };
                let len = data.len();
                vec![
                    word("cas"),
                    key(*number),
                    word(0),
                    word(0),
                    word(len),
                    word(cas),
                ]
            }
            Self::Delete { key: number, .. } => vec![word("delete"), key(*number)],
            Self::Count {
                up,
                key: number,
                by,
                ..
            } => {
                let name = if *up { "incr" } else { "decr" };
                vec![word(name), key(*number), word(by)]
            }
            Self::Touch {
                key: number, time, ..
            } => vec![word("touch"), key(*number), word(time)],
            Self::Flush { time, .. } => vec![word("flush_all"), word(time)],
            Self::Nonsense(bytes) => vec![bytes.clone()],
        }
    }

    const fn is_quiet(&self) -> bool {
        match self {
            Self::Get { .. } | Self::Nonsense(_) => false,
            Self::Store(Offer { quiet, .. })
            | Self::Cas { quiet, .. }
            | Self::Delete { quiet, .. }
            | Self::Count { quiet, .. }
            | Self::Touch { quiet, .. }
            | Self::Flush { quiet, .. } => *quiet,
        }
    }
}

fn word(text: impl ToString) -> Vec<u8> {
    text.to_string().into_bytes()
}

impl Model {
    /// The answer to `request`, and the number of the item that `cas` would mean.
    pub(crate) fn answer(&mut self, request: &Request) -> Vec<u8> {
        self.pass();
        match request {
            Request::Get { keys, with_cas } => self.get(keys, *with_cas),
            Request::Store(offer) => unless(offer.quiet, self.store(offer)),
            Request::Cas {
                key,
                data,
                fresh,
                quiet,
            } => {
                let answer = match self.items.get(key) {
                    None => "NOT_FOUND\r\n",
                    Some(_) if !fresh => "EXISTS\r\n",
                    Some(_) => self.store(&Offer {
                        name: "set",
                        key: *key,
                        flags: 0,
                        time: 0,
                        data: data.clone(),
                        quiet: false,
                    }),
                };
                unless(*quiet, answer)
            }
            Request::Delete { key, quiet } => {
                let found = self.items.remove(key).is_some();
                unless(
                    *quiet,
                    if found {
                        "DELETED\r\n"
                    } else {
                        "NOT_FOUND\r\n"
                    },
                )
            }
            Request::Count { up, key, by, quiet } => {
                let answer = self.count(*up, *key, *by);
                unless(*quiet, &answer)
            }
            Request::Touch { key, time, quiet } => {
                let expires = self.expires(*time);
                let item = self.items.get_mut(key);
                let found = item.map(|item| item.expires = expires).is_some();
                unless(
                    *quiet,
                    if found {
                        "TOUCHED\r\n"
                    } else {
                        "NOT_FOUND\r\n"
                    },
                )
            }
            Request::Flush { time, quiet } => {
                self.flush = Some(self.now + u64::try_from(*time).unwrap_or(0) * 1000);
                unless(*quiet, "OK\r\n")
            }
            Request::Nonsense(_) => b"ERROR\r\n".to_vec(),
        }
    }

    /// The number that `gets` would tell of `key` now.
    pub(crate) fn cas(&self, key: usize) -> u64 {
        self.items.get(&key).map_or(0, |item| item.cas)
    }

    /// Forgets what the time has come for.
    pub(crate) fn pass(&mut self) {
        let now = self.now;
        if self.flush.is_some_and(|at| at <= now) {
            self.flush = None;
            self.items.clear();
        }
        self.items
            .retain(|_, item| item.expires.is_none_or(|at| at > now));
    }

    fn expires(&self, time: i64) -> Option<u64> {
        (time != 0).then(|| self.now + u64::try_from(time).unwrap_or(0) * 1000)
    }

    fn get(&self, keys: &[usize], with_cas: bool) -> Vec<u8> {
        let mut answer = Vec::new();
        for number in keys {
            let Some(item) = self.items.get(number) else {
                continue;
            };
            answer.extend_from_slice(b"VALUE ");
            answer.extend_from_slice(&key(*number));
            answer.extend_from_slice(format!(" {} {}", item.flags, item.data.len()).as_bytes());
            if with_cas {
                answer.extend_from_slice(format!(" {}", item.cas).as_bytes());
            }
            answer.extend_from_slice(b"\r\n");
            answer.extend_from_slice(&item.data);
            answer.extend_from_slice(b"\r\n");
        }
        answer.extend_from_slice(b"END\r\n");
        answer
    }

    fn store(&mut self, offer: &Offer) -> &'static str {
        let expires = self.expires(offer.time);
        let new = &offer.data;
        let (flags, expires, data) = match (offer.name, self.items.get(&offer.key)) {
            ("add", Some(_)) | ("replace" | "append" | "prepend", None) => return "NOT_STORED\r\n",
            ("append", Some(old)) => (old.flags, old.expires, [&old.data[..], new].concat()),
            ("prepend", Some(old)) => (old.flags, old.expires, [new, &old.data[..]].concat()),
            _ => (offer.flags, expires, new.clone()),
        };
        self.cas += 1;
        let cas = self.cas;
        let item = Item {
            flags,
            data,
            cas,
            expires,
        };
        self.items.insert(offer.key, item);
        "STORED\r\n"
    }

    fn count(&mut self, up: bool, key: usize, by: u64) -> String {
        let Some(item) = self.items.get_mut(&key) else {
            return "NOT_FOUND\r\n".into();
        };
        let digits = !item.data.is_empty() && item.data.iter().all(u8::is_ascii_digit);
        let number = str::from_utf8(&item.data)
            .ok()
            .and_then(|text| text.parse::<u64>().ok());
        let Some(number) = number.filter(|_| digits) else {
            return "CLIENT_ERROR cannot increment or decrement non-numeric value\r\n".into();
        };
        let number = if up {
            number.wrapping_add(by)
        } else {
            number.saturating_sub(by)
        };
        self.cas += 1;
        item.cas = self.cas;
        item.data = number.to_string().into_bytes();
        format!("{number}\r\n")
    }
}

fn unless(quiet: bool, answer: &str) -> Vec<u8> {
    if quiet { Vec::new() } else { answer.into() }
}
