//! Clients of the key-value store: one of our own that knows every answer, and the stock ones of libmemcached.

use crate::{
    process,
    tools::{self, MEMCACHED_TOOLS},
};
use anyhow::{Context, Result, ensure};
use core::{net::SocketAddr, time::Duration};
use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::Path,
    process::Command,
};

/// How long the store may take to accept, and to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// How many new connections are made: enough that each queue of a tap gets some.
const NEWCOMERS: usize = 40;
/// After how many failures no more are made.
const ENOUGH: usize = 3;

/// What is said, and what has to come back; the text protocol of memcached's `doc/protocol.txt`.
const CONVERSATION: &[(&str, &str)] = &[
    ("set a 7 0 5\r\nhello\r\n", "STORED\r\n"),
    ("get a\r\n", "VALUE a 7 5\r\nhello\r\nEND\r\n"),
    ("get none\r\n", "END\r\n"),
    ("add a 0 0 1\r\nx\r\n", "NOT_STORED\r\n"),
    ("add b 0 0 1\r\n5\r\n", "STORED\r\n"),
    ("replace none 0 0 1\r\nx\r\n", "NOT_STORED\r\n"),
    ("replace a 8 0 3\r\nbye\r\n", "STORED\r\n"),
    (
        "get a b\r\n",
        "VALUE a 8 3\r\nbye\r\nVALUE b 0 1\r\n5\r\nEND\r\n",
    ),
    ("incr b 10\r\n", "15\r\n"),
    ("decr b 20\r\n", "0\r\n"),
    ("incr none 1\r\n", "NOT_FOUND\r\n"),
    ("touch a 100\r\n", "TOUCHED\r\n"),
    ("touch none 100\r\n", "NOT_FOUND\r\n"),
    ("cas none 0 0 1 1\r\nx\r\n", "NOT_FOUND\r\n"),
    ("delete b\r\n", "DELETED\r\n"),
    ("delete b\r\n", "NOT_FOUND\r\n"),
    // Silent commands, and several in one segment.
    (
        "set c 0 0 1 noreply\r\n1\r\nincr c 1 noreply\r\nget c\r\nget c\r\n",
        "VALUE c 0 1\r\n2\r\nEND\r\nVALUE c 0 1\r\n2\r\nEND\r\n",
    ),
    ("nonsense\r\n", "ERROR\r\n"),
];

/// Talks to the store and names every wrong answer.
pub(crate) fn converse(address: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)
        .with_context(|| format!("the store at {address} does not accept"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    for (said, expected) in CONVERSATION {
        stream.write_all(said.as_bytes())?;
        expect(&mut stream, said, expected)?;
    }
    compare_and_swap(&mut stream)?;
    in_pieces(&mut stream)
}

/// Comes to the store anew, so often, each time from another port, and names those ports from which it is not served.
///
/// A multi-queue tap spreads new flows over all its queues, those of pairs that nobody has included: each of them has to
/// be read by the card.
pub(crate) fn newcomers(address: SocketAddr) -> Result<()> {
    let mut turned_away = Vec::new();
    for _ in 0..NEWCOMERS {
        if let Err(error) = newcomer(address) {
            turned_away.push(format!("{error:#}"));
        }
        if turned_away.len() == ENOUGH {
            break;
        }
    }
    ensure!(
        turned_away.is_empty(),
        "new connections to the store fail: {}",
        turned_away.join("; ")
    );
    Ok(())
}

fn newcomer(address: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)
        .with_context(|| format!("the store at {address} does not accept"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let from = stream.local_addr()?.port();
    stream.write_all(b"get none\r\n")?;
    expect(&mut stream, "get none", "END\r\n").with_context(|| format!("port {from} is not served"))
}

/// A swap with the right unique number succeeds once.
fn compare_and_swap(stream: &mut TcpStream) -> Result<()> {
    stream.write_all(b"gets a\r\n")?;
    let answer = read_until(stream, "END\r\n")?;
    let unique = answer
        .lines()
        .next()
        .and_then(|line| line.split(' ').nth(4))
        .context("`gets` brings no unique number")?
        .to_owned();
    for expected in ["STORED\r\n", "EXISTS\r\n"] {
        let said = format!("cas a 0 0 1 {unique}\r\nx\r\n");
        stream.write_all(said.as_bytes())?;
        expect(stream, &said, expected)?;
    }
    Ok(())
}

/// A command that comes in small pieces, and a value of several segments.
fn in_pieces(stream: &mut TcpStream) -> Result<()> {
    for piece in ["se", "t d 0 0", " 4\r", "\nab", "cd", "\r", "\n"] {
        stream.write_all(piece.as_bytes())?;
        std::thread::sleep(Duration::from_millis(20));
    }
    expect(stream, "set d, in pieces", "STORED\r\n")?;
    let value = "0123456789abcdef".repeat(200);
    let said = format!("set e 0 0 {}\r\n{value}\r\n", value.len());
    stream.write_all(said.as_bytes())?;
    expect(stream, "set e, 3200 bytes", "STORED\r\n")?;
    stream.write_all(b"get e\r\n")?;
    expect(
        stream,
        "get e",
        &format!("VALUE e 0 {}\r\n{value}\r\nEND\r\n", value.len()),
    )
}

fn expect(stream: &mut TcpStream, said: &str, expected: &str) -> Result<()> {
    let mut answer = vec![0; expected.len()];
    let mut filled = 0;
    while filled < answer.len() {
        let count = stream
            .read(&mut answer[filled..])
            .with_context(|| format!("no answer to {said:?}"))?;
        ensure!(count > 0, "the store closed the connection after {said:?}");
        filled += count;
        let so_far = &answer[..filled];
        ensure!(
            expected.as_bytes().starts_with(so_far),
            "the store answered {said:?} with {:?}",
            String::from_utf8_lossy(so_far)
        );
    }
    Ok(())
}

fn read_until(stream: &mut TcpStream, end: &str) -> Result<String> {
    let mut answer = Vec::new();
    let mut byte = [0];
    while !answer.ends_with(end.as_bytes()) {
        ensure!(
            stream.read(&mut byte)? == 1 && answer.len() < 4096,
            "the store's answer does not end with {end:?}"
        );
        answer.extend(byte);
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Stores a file and gets it back with libmemcached's programs.
pub(crate) fn stock_clients(address: SocketAddr, folder: &Path) -> Result<()> {
    MEMCACHED_TOOLS.need()?;
    let file = folder.join("stored-by-memccp");
    let content = "stored by a client that was not written here\n".repeat(20);
    fs::write(&file, &content)?;
    let servers = format!("--servers={address}");
    let run = |program: &str, arguments: &[&str]| {
        let path = tools::find(program)
            .with_context(|| format!("libmemcached-tools has no `{program}`"))?;
        process::read(
            Command::new("timeout")
                .arg("20")
                .arg(path)
                .arg(&servers)
                .args(arguments),
        )
    };
    run("memccp", &["--set", &file.display().to_string()])?;
    let got = run("memccat", &["stored-by-memccp"])?;
    ensure!(
        got.trim_end() == content.trim_end(),
        "memccat brought {} bytes of {}",
        got.len(),
        content.len()
    );
    run("memcexist", &["stored-by-memccp"])?;
    run("memcrm", &["stored-by-memccp"])?;
    let statistics = run("memcstat", &[])?;
    ensure!(
        statistics.contains("curr_items"),
        "memcstat shows no `curr_items`: {statistics}"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{process::Group, tools::MEMCACHED};
    use std::{net::TcpListener, thread, time::Instant};

    /// What is expected of our store is what memcached does.
    #[test]
    fn memcached_itself_passes() {
        let server = MEMCACHED.present();
        MEMCACHED_TOOLS.present();
        let free = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let mut command = Command::new(server);
        command.args([
            "-l",
            "127.0.0.1",
            "-u",
            "nobody",
            "-p",
            &free.port().to_string(),
        ]);
        let _server = Group::spawn(&mut command).unwrap();
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(free).is_err() {
            assert!(Instant::now() < deadline, "memcached does not start");
            thread::sleep(Duration::from_millis(20));
        }
        converse(free).unwrap();
        let folder = std::env::temp_dir().join(format!("xtask-store-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        stock_clients(free, &folder).unwrap();
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_wrong_answer_is_quoted() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(b"STUPID\r\n").unwrap();
        });
        let error = converse(address).unwrap_err().to_string();
        assert!(
            error.contains("the store answered \"set a 7 0 5\\r\\nhello\\r\\n\" with \"STUPID"),
            "{error}"
        );
    }
}
