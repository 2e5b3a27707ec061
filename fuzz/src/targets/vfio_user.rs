//! The vfio-user server of the models, and a client that sends anything: no panic, no answer but the one that the protocol
//! has, maps and accesses to regions answered as a list of ranges says.

use std::{
    io::{ErrorKind, Read as _},
    net::Shutdown,
    os::unix::net::UnixStream,
};

use parakernel_mock_hw::{
    Nvme, World,
    memory::RequesterId,
    nvme::Config,
    vfio_user::{Guest, Message, Session},
};

use crate::{Report, Target, input::Input};

pub(super) const TARGET: Target = Target {
    name: "vfio_user",
    run,
    is_validator: false,
    max_len: 1024,
};

/// Commands of the protocol that a client sends, one that it does not know, and one that only the server sends.
const COMMANDS: [u16; 14] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 13, 15, 11, 99];

/// What the server must have mapped: first and last address.
#[derive(Default)]
struct Maps(Vec<(u64, u64)>);

impl Maps {
    /// Whether the range may be mapped; notes it then.
    fn map(&mut self, flags: u32, address: u64, size: u64) -> bool {
        let Some(last) = size
            .checked_sub(1)
            .and_then(|less| address.checked_add(less))
        else {
            return false;
        };
        let overlaps = self
            .0
            .iter()
            .any(|(start, end)| *start <= last && address <= *end);
        let fine = matches!(flags, 1..=3) && !overlaps;
        if fine {
            self.0.push((address, last));
        }
        fine
    }

    /// Whether the range may be unmapped: nothing may be cut.
    fn unmap(&mut self, flags: u32, address: u64, size: u64) -> bool {
        if flags & 2 != 0 {
            self.0.clear();
            return true;
        }
        let Some(last) = size
            .checked_sub(1)
            .and_then(|less| address.checked_add(less))
        else {
            return false;
        };
        let inside = |(start, end): &(u64, u64)| address <= *start && *end <= last;
        let apart = |(start, end): &(u64, u64)| last < *start || *end < address;
        let fine = flags == 0 && self.0.iter().all(|range| inside(range) || apart(range));
        if fine {
            self.0.retain(|range| !inside(range));
        }
        fine
    }
}

fn run(bytes: &[u8]) -> Report {
    let input = &mut Input::new(bytes);
    let mut report = Report::default();
    let world = World::new(1);
    let guest = Guest::default();
    let memory = world.host_memory(guest.memory());
    let nvme = Nvme::new(&world, &memory, RequesterId(0x0100), Config::default());
    let (client, server) = UnixStream::pair().expect("sockets can be made");
    client.set_nonblocking(true).expect("a socket of ours");
    // Whoever asks this client for memory finds it gone.
    client.shutdown(Shutdown::Write).expect("a socket of ours");
    let mut session = Session::new(server, &nvme.endpoint(), &guest).expect("a socket of ours");
    let greeting = message(1, 0, vec![0, 0, 1, 0]);
    session.handle(greeting).expect("a greeting is fine");
    drain(&client);
    let mut maps = Maps::default();
    while !input.is_empty() {
        let command = input.choose(&COMMANDS);
        let flags = if input.one_in(8) {
            input.byte().into()
        } else {
            0
        };
        let body = body(input, command);
        let expected = expected(&mut maps, command, &body);
        let handled = session.handle(message(command, flags, body));
        report.note("message", handled.is_ok());
        if handled.is_err() {
            break;
        }
        let answer = drain(&client);
        if flags & 0x10 == 0 {
            check(&mut report, command, &answer, expected);
        }
        world.settle(64);
    }
    report
}

fn message(command: u16, flags: u32, body: Vec<u8>) -> Message {
    let mut header = [0; 16];
    header[2..4].copy_from_slice(&command.to_le_bytes());
    let size = u32::try_from(16 + body.len()).expect("a short message");
    header[4..8].copy_from_slice(&size.to_le_bytes());
    header[8..12].copy_from_slice(&flags.to_le_bytes());
    Message::parse(header, body, Vec::new()).expect("the size is right")
}

/// A body as the command has it, or something else.
fn body(input: &mut Input<'_>, command: u16) -> Vec<u8> {
    let len = match command {
        2 => 32,
        3 => 24,
        4 | 7 | 9 => 16,
        5 => 32,
        8 => 20,
        10 => 16 + usize::try_from(input.below(9)).unwrap_or(0),
        _ => usize::from(input.byte() % 64),
    };
    let len = if input.one_in(16) {
        usize::from(input.byte())
    } else {
        len
    };
    let mut body: Vec<u8> = (0..len).map(|_| input.byte()).collect();
    // Small numbers are the interesting ones.
    let mut put = |at: usize, value: u64, width: usize| {
        if let Some(place) = body.get_mut(at..at + width) {
            place.copy_from_slice(&value.to_le_bytes()[..width]);
        }
    };
    match command {
        2 => {
            put(4, input.below(5), 4);
            put(16, input.below(64) << 12, 8);
            put(24, input.below(8) << 12, 8);
        }
        3 => {
            put(4, input.below(4), 4);
            put(8, input.below(64) << 12, 8);
            put(16, input.below(16) << 12, 8);
        }
        5 | 7 => put(8, input.below(12), 4),
        8 => {
            put(4, u64::from(input.byte()), 4);
            put(8, input.below(6), 4);
            put(12, input.below(80), 4);
            put(16, input.below(80), 4);
        }
        9 | 10 => {
            put(0, input.below(0x3000), 8);
            put(8, input.choose(&[0, 7, 7, 0, 4, 9]), 4);
            let count = len.saturating_sub(16);
            put(
                12,
                if command == 9 {
                    input.below(20)
                } else {
                    count as u64
                },
                4,
            );
        }
        _ => {}
    }
    body
}

/// Whether the server must accept the command; `None` where this client does not say.
fn expected(maps: &mut Maps, command: u16, body: &[u8]) -> Option<bool> {
    let word = |at: usize| {
        body.get(at..at + 4)
            .map(|b| u32::from_le_bytes(b.try_into().expect("4 bytes")))
    };
    let long = |at: usize| {
        body.get(at..at + 8)
            .map(|b| u64::from_le_bytes(b.try_into().expect("8 bytes")))
    };
    match (command, body.len()) {
        (2, 32) => Some(maps.map(word(4)?, long(16)?, long(24)?)),
        (3, 24) => Some(maps.unmap(word(4)?, long(8)?, long(16)?)),
        (2 | 3, _) => Some(false),
        (5, 32) => Some(word(8)? < 9),
        (7, 16) => Some(word(8)? < 5),
        (9, 16) if word(8)? == 7 => {
            let (offset, count) = (long(0)?, u64::from(word(12)?));
            Some(count > 0 && offset.checked_add(count)? <= 4096)
        }
        (6 | 11 | 15 | 99, _) => Some(false),
        _ => None,
    }
}

/// All that the server said.
fn drain(mut client: &UnixStream) -> Vec<u8> {
    let mut all = Vec::new();
    let mut some = [0; 4096];
    loop {
        match client.read(&mut some) {
            Ok(0) => return all,
            Ok(len) => all.extend_from_slice(&some[..len]),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock, "a socket of ours");
                return all;
            }
        }
    }
}

/// One answer, to this command, that accepts or refuses as expected.
fn check(report: &mut Report, command: u16, answer: &[u8], expected: Option<bool>) {
    let size = u32::from_le_bytes(answer[4..8].try_into().expect("4 bytes"));
    assert_eq!(size as usize, answer.len(), "one answer and nothing else");
    assert_eq!(
        answer[2..4],
        command.to_le_bytes(),
        "an answer to something else"
    );
    assert_eq!(answer[8] & 0xf, 1, "no answer");
    let accepted = answer[8] & 0x20 == 0;
    let name = match command {
        2 => "map",
        3 => "unmap",
        9 => "read of a region",
        10 => "write of a region",
        _ => "another command",
    };
    report.note(name, accepted);
    if let Some(expected) = expected {
        assert_eq!(accepted, expected, "{name}");
    }
}
