//! The key-value store's conversation with a client who says anything, in pieces of any size.
//!
//! The answer must not depend on how the bytes were cut, and a conversation that ends anywhere holds nothing of the
//! store any more.

use parakernel_apps::kv::{
    protocol::parse,
    session::{Next, Session, UnixTime},
    store::{Memory, Store},
};
use parakernel_core::time::Instant;

use crate::{Report, Target, input::Input};

pub(super) const TARGET: Target = Target {
    name: "kv_parser",
    run,
    is_validator: false,
    max_len: 96,
};

/// What clients say; some of it is wrong.
const WORDS: [&[u8]; 36] = [
    b"get ",
    b"gets ",
    b"set ",
    b"add ",
    b"replace ",
    b"cas ",
    b"delete ",
    b"incr ",
    b"decr ",
    b"touch ",
    b"stats\r\n",
    b"version\r\n",
    b"quit\r\n",
    b"flush_all\r\n",
    b"verbosity 1\r\n",
    b"a ",
    b"b ",
    b"key3 ",
    b"0 0 5\r\nhello\r\n",
    b"0 0 1\r\n7\r\n",
    b"1 -1 0\r\n\r\n",
    b"0 0 5 noreply\r\nworld\r\n",
    b"0 0 3 1\r\nabc\r\n",
    b"0 0 4294967296\r\n",
    b"0 0 -1\r\n",
    b"1\r\n",
    b"18446744073709551615\r\n",
    b"\r\n",
    b"\n",
    b" ",
    b"noreply\r\n",
    b"set a 0 0 5\r\nhello\r\n",
    b"set n 0 0 2\r\n41\r\n",
    b"incr n 1\r\n",
    b"get a b n\r\n",
    b"gat 0 a\r\n",
];

fn run(bytes: &[u8]) -> Report {
    let input = &mut Input::new(bytes);
    let sizes = input.bytes::<8>();
    let mut said = Vec::new();
    while !input.is_empty() {
        match input.byte() {
            0xff => said.push(input.byte()),
            0xfe => said.extend([b'x'; 300]),
            // Half of the time a whole command, which are the last in the list.
            byte @ 0..0x80 => said.extend(WORDS[WORDS.len() - 1 - usize::from(byte) % 6]),
            byte => said.extend(WORDS[usize::from(byte) % WORDS.len()]),
        }
    }
    let whole = converse(&said, &[0xff]);
    let pieces = converse(&said, &sizes);
    assert_eq!(
        whole, pieces,
        "the answer depends on how the bytes were cut"
    );
    let mut report = Report::default();
    for line in said.split(|&byte| byte == b'\n') {
        report.note("line", parse(line).is_ok());
    }
    report
}

/// The answer to all of `said`, in pieces of the `sizes` in turn.
fn converse(said: &[u8], sizes: &[u8]) -> Vec<u8> {
    let mut memory = Memory::<4, 4, 8>::new();
    let mut store = Store::new(&mut memory, 7);
    let mut session = Session::new(UnixTime::default());
    let (mut answer, mut done, mut buffer) = (Vec::new(), 0, [0; 256]);
    let mut sizes = sizes.iter().cycle().map(|&size| usize::from(size) + 1);
    let mut size = || sizes.next().unwrap_or(1);
    let mut end = size().min(said.len());
    // Each call consumes or produces a byte, or asks for more.
    for _ in 0..100_000 {
        let room = size().min(buffer.len());
        let now = Instant::from_nanos(1);
        let progress = session.feed(&mut store, now, &said[done..end], &mut buffer[..room]);
        assert!(progress.consumed <= end - done && progress.produced <= room);
        answer.extend(&buffer[..progress.produced]);
        done += progress.consumed;
        match progress.next {
            Next::Input if end == said.len() => break,
            Next::Input => end = (end + size()).min(said.len()),
            Next::Room => assert!(progress.produced > 0, "no step forward"),
            Next::End => break,
        }
    }
    session.end(&mut store);
    answer
}
