//! The key-value store against a slow and obvious model, whatever the pieces that bytes come in, and short of memory.
#![expect(clippy::unwrap_used, reason = "tests")]

extern crate alloc;

mod model;

use alloc::collections::BTreeMap;

use model::{Model, Offer, Request, key};
use parakernel_apps::kv::{
    session::{Next, Session, UnixTime},
    store::{Chunk, Expiry, Item, Memory, Mode, Store, Stored, Tags},
};
use parakernel_core::time::Instant;
use proptest::prelude::*;

/// Memory of a store.
struct Space {
    items: Vec<Item>,
    buckets: Vec<u32>,
    chunks: Vec<Chunk>,
}

impl Space {
    fn new(items: usize, buckets: usize, chunks: usize) -> Self {
        Self {
            items: vec![Item::EMPTY; items],
            buckets: vec![0; buckets],
            chunks: vec![Chunk::EMPTY; chunks],
        }
    }

    /// Room for everything that a test stores.
    fn ample() -> Self {
        Self::new(64, 16, 4096)
    }

    fn store(&mut self) -> Store<'_> {
        Store::in_slices(&mut self.items, &mut self.buckets, &mut self.chunks, 1)
    }
}

fn at(milliseconds: u64) -> Instant {
    Instant::from_nanos(milliseconds * 1_000_000)
}

/// In what pieces bytes come and go.
#[derive(Clone, Copy, Debug)]
struct Pieces {
    /// Bytes of input that are shown at a time.
    cut: usize,
    /// Bytes of output that there is room for at a time.
    room: usize,
}

const WHOLE: Pieces = Pieces {
    cut: usize::MAX / 2,
    room: 4096,
};

/// Feeds all of `input`, and returns the answers.
fn talk(
    session: &mut Session,
    store: &mut Store<'_>,
    now: Instant,
    input: &[u8],
    Pieces { cut, room }: Pieces,
) -> Vec<u8> {
    let (mut rest, mut answer) = (input, Vec::new());
    let mut shown = 0;
    loop {
        shown = (shown + cut).min(rest.len());
        let mut output = vec![0; room];
        let progress = session.feed(store, now, &rest[..shown], &mut output);
        answer.extend_from_slice(&output[..progress.produced]);
        rest = &rest[progress.consumed..];
        shown -= progress.consumed;
        match progress.next {
            Next::Room => assert_eq!(progress.produced, room, "room that was not used"),
            Next::Input => {
                assert_eq!(shown, 0, "input that was not used");
                if rest.is_empty() {
                    return answer;
                }
            }
            Next::End => return answer,
        }
    }
}

/// What a new store answers to a new client.
fn answers(input: &[u8]) -> String {
    let mut space = Space::ample();
    let mut store = space.store();
    let mut session = Session::new(UnixTime(0));
    let answer = talk(&mut session, &mut store, at(0), input, WHOLE);
    String::from_utf8(answer).unwrap()
}

#[test]
fn a_conversation() {
    let (asked, answered) = CONVERSATION;
    assert_eq!(answers(asked.as_bytes()), answered);
}

/// What is asked, and what is answered.
const CONVERSATION: (&str, &str) = (
    "set a 7 0 3\r\nabc\r\nget a\r\ngets a b a\r\nadd a 0 0 1\r\nx\r\nadd b 0 0 1\r\nx\r\n\
     append a 9 9 2\r\nde\r\nprepend a 9 9 1\r\n_\r\nget a b\r\nreplace c 0 0 1\r\nx\r\n\
     cas a 0 0 1 99\r\nx\r\ncas c 0 0 1 1\r\nx\r\ncas b 1 0 2 2\r\nok\r\ngets b\r\n\
     delete b\r\ndelete b\r\nset n 0 0 2\r\n41\r\nincr n 1\r\ndecr n 50\r\nincr a 1\r\nincr c 1\r\n\
     touch n 100\r\ntouch c 100\r\nverbosity 1\r\nset q 0 0 1 noreply\r\nz\r\nget q\r\n\
     flush_all\r\nget q a\r\nversion\r\nquit\r\nget a\r\n",
    "STORED\r\nVALUE a 7 3\r\nabc\r\nEND\r\nVALUE a 7 3 1\r\nabc\r\nVALUE a 7 3 1\r\nabc\r\nEND\r\n\
     NOT_STORED\r\nSTORED\r\nSTORED\r\nSTORED\r\nVALUE a 7 6\r\n_abcde\r\nVALUE b 0 1\r\nx\r\nEND\r\n\
     NOT_STORED\r\nEXISTS\r\nNOT_FOUND\r\nSTORED\r\nVALUE b 1 2 5\r\nok\r\nEND\r\n\
     DELETED\r\nNOT_FOUND\r\nSTORED\r\n42\r\n0\r\n\
     CLIENT_ERROR cannot increment or decrement non-numeric value\r\nNOT_FOUND\r\n\
     TOUCHED\r\nNOT_FOUND\r\nOK\r\nVALUE q 0 1\r\nz\r\nEND\r\n\
     OK\r\nEND\r\nVERSION 1.4.0-parakernel\r\n",
);

#[test]
fn after_every_error_the_next_request_is_understood() {
    let long = "k".repeat(251);
    let line = "x".repeat(5000);
    let many = format!("get {}", "key ".repeat(2000));
    let large = format!("set a 0 0 2000000\r\n{}", "v".repeat(2_000_000));
    for (wrong, complaint) in [
        ("", "ERROR"),
        ("foo", "ERROR"),
        ("get", "ERROR"),
        ("set a 0 0", "ERROR"),
        ("version now", "ERROR"),
        ("quit noreply", "ERROR"),
        ("delete a b c", "ERROR"),
        ("delete a 5", "CLIENT_ERROR bad command line format"),
        ("set a x 0 2\r\nab", "CLIENT_ERROR bad command line format"),
        ("set a 0 x 2\r\nab", "CLIENT_ERROR bad command line format"),
        ("set a 0 0 -1", "CLIENT_ERROR bad command line format"),
        (
            "set a 0 0 4294967296",
            "CLIENT_ERROR bad command line format",
        ),
        (
            &format!("set {long} 0 0 2\r\nab"),
            "CLIENT_ERROR bad command line format",
        ),
        (
            &format!("get {long}"),
            "CLIENT_ERROR bad command line format",
        ),
        (
            &format!("get {}{long}", "key ".repeat(300)),
            "CLIENT_ERROR bad command line format",
        ),
        (&format!("get {line}"), "CLIENT_ERROR line too long"),
        (&format!("get  {line}"), "CLIENT_ERROR line too long"),
        (&format!("get a {line}"), "CLIENT_ERROR line too long"),
        (&line, "CLIENT_ERROR line too long"),
        (&many, "END"),
        ("incr a x", "CLIENT_ERROR invalid numeric delta argument"),
        ("touch a x", "CLIENT_ERROR invalid exptime argument"),
        ("flush_all x", "CLIENT_ERROR invalid exptime argument"),
        ("set a 0 0 2\r\nabc", "CLIENT_ERROR bad data chunk"),
        ("set a 0 0 2\r\nabcd", "CLIENT_ERROR bad data chunk"),
        ("set a 0 0 2\r\nab\rc", "CLIENT_ERROR bad data chunk"),
        ("set a 0 0 5\r\nab\r\nget b", "CLIENT_ERROR bad data chunk"),
        (&large, "SERVER_ERROR object too large for cache"),
    ] {
        let asked = format!("{wrong}\r\nset b 0 0 1\r\nz\r\nget a b\r\n");
        let expected = format!("{complaint}\r\nSTORED\r\nVALUE b 0 1\r\nz\r\nEND\r\n");
        let shown = &wrong[..wrong.len().min(60)];
        assert_eq!(answers(asked.as_bytes()), expected, "{shown}");
    }
}

#[test]
fn lines_may_end_without_a_carriage_return() {
    let asked = b"set a 0 0 1\nx\r\nget a\nversion\n";
    let expected = "STORED\r\nVALUE a 0 1\r\nx\r\nEND\r\nVERSION 1.4.0-parakernel\r\n";
    assert_eq!(answers(asked), expected);
}

#[test]
fn counters_count() {
    let asked = b"set a 0 0 1\r\nx\r\nget a b\r\ndelete b\r\ntouch a 5\r\nstats\r\n";
    let answer = answers(asked);
    for line in [
        "STAT cmd_set 1",
        "STAT get_hits 1",
        "STAT get_misses 1",
        "STAT delete_misses 1",
        "STAT touch_hits 1",
        "STAT curr_items 1",
        "STAT bytes 256",
        "STAT limit_maxbytes 1048576",
    ] {
        assert!(answer.contains(&format!("{line}\r\n")), "{line}: {answer}");
    }
    assert!(answer.ends_with("END\r\n"));
    assert_eq!(
        answers(b"get a\r\nstats reset\r\nstats items\r\n"),
        "END\r\nRESET\r\nEND\r\n"
    );
    let reset = answers(b"get a\r\nstats reset\r\nstats\r\n");
    assert!(reset.contains("STAT get_misses 0\r\n"), "{reset}");
}

/// Items that a test stores: from none to more than a chunk, and numbers.
fn data() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        (0..u64::MAX).prop_map(|number| number.to_string().into_bytes()),
        (0..30_u64).prop_map(|number| number.to_string().into_bytes()),
        prop::collection::vec(any::<u8>(), 0..20),
        (0..900_usize).prop_map(|len| (0..len).map(|at| at.to_le_bytes()[0]).collect()),
    ]
}

fn request() -> impl Strategy<Value = Request> {
    let keys = 0..5_usize;
    let time = prop_oneof![Just(0), Just(-1), 1..4_i64];
    let name = prop::sample::select(vec!["set", "add", "replace", "append", "prepend"]);
    prop_oneof![
        3 => (prop::collection::vec(keys.clone(), 1..40), any::<bool>())
            .prop_map(|(keys, with_cas)| Request::Get { keys, with_cas }),
        4 => (name, keys.clone(), any::<u32>(), time.clone(), data(), any::<bool>())
            .prop_map(|(name, key, flags, time, data, quiet)| Request::Store(Offer { name, key, flags, time, data, quiet })),
        2 => (keys.clone(), data(), any::<bool>(), any::<bool>())
            .prop_map(|(key, data, fresh, quiet)| Request::Cas { key, data, fresh, quiet }),
        1 => (keys.clone(), any::<bool>()).prop_map(|(key, quiet)| Request::Delete { key, quiet }),
        2 => (any::<bool>(), keys.clone(), prop_oneof![0..9_u64, any::<u64>()], any::<bool>())
            .prop_map(|(up, key, by, quiet)| Request::Count { up, key, by, quiet }),
        1 => (keys, time.clone(), any::<bool>())
            .prop_map(|(key, time, quiet)| Request::Touch { key, time, quiet }),
        1 => (time, any::<bool>()).prop_map(|(time, quiet)| Request::Flush { time, quiet }),
        1 => "[a-z]{0,9}!".prop_map(|text| Request::Nonsense(text.into_bytes())),
    ]
}

proptest! {
    #[test]
    fn the_store_answers_as_the_model_does(
        requests in prop::collection::vec((request(), 0..1500_u64), 1..80),
        cut in 1..3000_usize,
        room in 1..3000_usize,
    ) {
        let mut space = Space::ample();
        let mut store = space.store();
        let mut session = Session::new(UnixTime(1_700_000_000));
        let mut model = Model::default();
        for (request, pause) in requests {
            model.now += pause;
            model.pass();
            let cas = model.cas(request.key());
            let bytes = request.bytes(cas);
            let expected = model.answer(&request);
            let answer = talk(&mut session, &mut store, at(model.now), &bytes, Pieces { cut, room });
            prop_assert!(
                answer == expected,
                "{:?}: {} instead of {}",
                request,
                String::from_utf8_lossy(&answer),
                String::from_utf8_lossy(&expected)
            );
        }
        prop_assert_eq!(store.totals().evicted, 0);
        for number in 0..5 {
            store.delete(&key(number), at(model.now));
        }
        prop_assert_eq!((store.totals().items, store.totals().bytes), (0, 0));
    }

    #[test]
    fn answers_do_not_depend_on_the_pieces_that_bytes_come_in(cut in 1..200_usize, room in 1..200_usize) {
        let (asked, answered) = CONVERSATION;
        let mut space = Space::ample();
        let mut store = space.store();
        let mut session = Session::new(UnixTime(0));
        let answer = talk(&mut session, &mut store, at(0), asked.as_bytes(), Pieces { cut, room });
        prop_assert_eq!(String::from_utf8(answer).unwrap(), answered);
    }

    #[test]
    fn no_bytes_make_a_session_panic_or_keep_memory(
        pieces in prop::collection::vec(prop_oneof![
            prop::collection::vec(any::<u8>(), 0..300),
            "(get|gets|set|add|cas|incr|append|delete|touch|flush_all|stats|\r\n| |k|[0-9]{1,3}|noreply){1,12}"
                .prop_map(String::into_bytes),
        ], 0..12),
        room in 1..400_usize,
    ) {
        let mut space = Space::new(4, 2, 8);
        let mut store = space.store();
        let mut session = Session::new(UnixTime(0));
        for piece in pieces {
            talk(&mut session, &mut store, at(0), &piece, Pieces { room, ..WHOLE });
        }
        session.end(&mut store);
        store.flush(at(0), at(0));
        // Something as large as everything makes the store forget what was flushed.
        let tags = Tags { flags: 0, expiry: Expiry::Never };
        let draft = store.reserve(b"k", 8 * 252 - 1, tags, at(0));
        prop_assert!(draft.is_ok());
        store.discard(draft.unwrap());
        prop_assert_eq!(store.totals().bytes, 0);
    }

    /// Short of memory a key may be missing, but what is there is what was stored last.
    #[test]
    fn what_is_evicted_is_missing_and_nothing_else_changes(
        operations in prop::collection::vec((0..30_u8, 0..1200_u32, any::<bool>()), 1..300),
        items in 2..20_usize,
        chunks in 6..40_usize,
        buckets in 1..8_usize,
    ) {
        let mut space = Space::new(items, buckets, chunks);
        let mut store = space.store();
        let mut last = BTreeMap::new();
        let tags = Tags { flags: 0, expiry: Expiry::Never };
        for (round, (number, len, write)) in operations.into_iter().enumerate() {
            let key = [b'k', number];
            if write {
                let value: Vec<u8> = (0..len as usize).map(|at| (at * 7 + round).to_le_bytes()[0]).collect();
                let mut draft = store.reserve(&key, len, tags, at(0)).unwrap();
                value.chunks(100).for_each(|piece| store.write(&mut draft, piece));
                prop_assert_eq!(store.commit(draft, Mode::Set, at(0)), Stored::Stored);
                last.insert(number, value);
            } else if let Some(mut reader) = store.get(&key, at(0)) {
                let mut value = vec![0; reader.len as usize];
                prop_assert_eq!(store.read(&mut reader, &mut value), value.len());
                prop_assert!(reader.is_done());
                store.release(reader);
                prop_assert_eq!(last.get(&number), Some(&value));
            }
            prop_assert!(store.totals().bytes <= chunks as u64 * 256);
        }
        for number in 0..30 {
            store.delete(&[b'k', number], at(0));
        }
        prop_assert_eq!((store.totals().items, store.totals().bytes), (0, 0));
    }
}

#[test]
fn a_value_that_is_being_read_stays_whatever_happens_to_its_key() {
    let mut space = Space::new(8, 4, 40);
    let mut store = space.store();
    let value = "v".repeat(5000);
    let set = format!("set a 0 0 5000\r\n{value}\r\n");
    let (mut one, mut other) = (Session::new(UnixTime(0)), Session::new(UnixTime(0)));
    talk(&mut other, &mut store, at(0), set.as_bytes(), WHOLE);
    let mut answer = vec![0; 100];
    let begun = one.feed(&mut store, at(0), b"get a\r\n", &mut answer);
    assert_eq!((begun.produced, begun.next), (100, Next::Room));
    // Deleted, flushed, stored anew, and everything else evicted that can be.
    let meanwhile = format!(
        "delete a\r\nset a 0 0 1\r\nx\r\nflush_all\r\nset b 0 0 4900\r\n{}\r\n",
        "w".repeat(4900)
    );
    let answers = talk(&mut other, &mut store, at(1), meanwhile.as_bytes(), WHOLE);
    assert_eq!(answers, b"DELETED\r\nSTORED\r\nOK\r\nSTORED\r\n");
    answer.extend(talk(&mut one, &mut store, at(2), b"get b a\r\n", WHOLE));
    let expected = format!(
        "VALUE a 0 5000\r\n{value}\r\nEND\r\nVALUE b 0 4900\r\n{}\r\nEND\r\n",
        "w".repeat(4900)
    );
    assert!(answer == expected.as_bytes());
}

#[test]
fn without_room_the_client_is_told_and_reads_no_stale_value() {
    let mut space = Space::new(2, 1, 4);
    let mut store = space.store();
    let mut session = Session::new(UnixTime(0));
    let set = |len: usize| format!("set a 0 0 {len}\r\n{}\r\nget a\r\n", "v".repeat(len));
    let mut ask = |text: &str, store: &mut Store<'_>| {
        let answer = talk(&mut session, store, at(0), text.as_bytes(), WHOLE);
        String::from_utf8(answer).unwrap()
    };
    assert!(ask(&set(300), &mut store).starts_with("STORED\r\nVALUE a 0 300\r\n"));
    let answer = ask(&set(2000), &mut store);
    assert_eq!(answer, "SERVER_ERROR object too large for cache\r\nEND\r\n");
    // Two clients that write leave no record for a third.
    let mut others = [Session::new(UnixTime(0)), Session::new(UnixTime(0))];
    for other in &mut others {
        talk(other, &mut store, at(0), b"set b 0 0 100\r\nhalf", WHOLE);
    }
    let answer = ask(&set(10), &mut store);
    assert_eq!(
        answer,
        "SERVER_ERROR out of memory storing object\r\nEND\r\n"
    );
    others.iter_mut().for_each(|other| other.end(&mut store));
    assert!(ask(&set(10), &mut store).starts_with("STORED\r\n"));
}

#[test]
fn absolute_times_are_those_of_the_clock() {
    let mut space = Space::ample();
    let mut store = space.store();
    let mut session = Session::new(UnixTime(1_700_000_000));
    let asked = b"set a 0 1700000010 1\r\nx\r\nset b 0 1600000000 1\r\nx\r\n";
    talk(&mut session, &mut store, at(0), asked, WHOLE);
    for (time, expected) in [(9_999, "VALUE a 0 1\r\nx\r\nEND\r\n"), (10_000, "END\r\n")] {
        let answer = talk(&mut session, &mut store, at(time), b"get a b\r\n", WHOLE);
        assert_eq!(String::from_utf8(answer).unwrap(), expected);
    }
}

/// A process has its memory in a `static`.
#[test]
fn memory_of_fixed_size_is_a_store_s_too() {
    static MEMORY: std::sync::Mutex<Memory<8, 4, 8>> = std::sync::Mutex::new(Memory::new());
    let mut memory = MEMORY.lock().unwrap();
    let mut store = Store::new(&mut memory, 1);
    let mut session = Session::new(UnixTime(0));
    let answer = talk(
        &mut session,
        &mut store,
        at(0),
        b"set a 0 0 1\r\nx\r\n",
        WHOLE,
    );
    assert_eq!(answer, b"STORED\r\n");
}
