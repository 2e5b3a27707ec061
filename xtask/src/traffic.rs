//! Requests to the nonce service of one process: sent, verified, timed, the lost ones counted.

use anyhow::{Context, Result};
use core::{net::SocketAddr, time::Duration};
use hdrhistogram::Histogram;
use parakernel_apps::nonce::{self, Message, answer};
use std::{
    collections::HashMap,
    io::ErrorKind,
    net::UdpSocket,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Instant,
};

/// Requests without an answer at any time.
const WINDOW: usize = 16;
/// A request without an answer for so long is lost.
const LOST_AFTER: Duration = Duration::from_secs(5);
/// Pause between requests once the wanted number is reached and only the company of others is waited for.
const PAUSE: Duration = Duration::from_millis(5);
/// How long an answer is waited for before the next look at the clock.
const POLL: Duration = Duration::from_millis(2);
/// How often the very first request is tried; until then address resolution may still be under way.
const FIRST_TRIES: u32 = 20;
/// Longest request.
const LONGEST: usize = 1400;

/// Whom to ask, and how often.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) target: SocketAddr,
    /// Key that the process transforms nonces with.
    pub(crate) key: u64,
    /// Requests at least.
    pub(crate) requests: u64,
    /// Makes the nonces of two runs differ.
    pub(crate) seed: u64,
}

/// What those who send requests and those who wait for them know of each other.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// Set while requests are wanted beyond the number that was asked for.
    pub(crate) company: AtomicBool,
    /// How many loads have sent their number.
    pub(crate) satisfied: AtomicUsize,
}

/// What came of it.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    pub(crate) sent: u64,
    pub(crate) verified: u64,
    pub(crate) lost: u64,
    /// Answers that do not fit any open request: wrong key, wrong nonce, twice, unknown.
    pub(crate) wrong: u64,
    /// Datagrams sent before the first answer, not counted above.
    pub(crate) first_tries: u64,
    /// Answers to those.
    pub(crate) first_answers: u64,
    /// Times from request to answer, in microseconds.
    pub(crate) latency: Histogram<u64>,
}

impl Tally {
    /// Nothing yet. Latencies up to a minute are kept to three digits.
    pub(crate) fn new() -> Result<Self> {
        let latency =
            Histogram::new_with_max(60_000_000, 3).context("no histogram of that size")?;
        Ok(Self {
            sent: 0,
            verified: 0,
            lost: 0,
            wrong: 0,
            first_tries: 0,
            first_answers: 0,
            latency,
        })
    }

    /// Adds what another process's load came to.
    pub(crate) fn add(&mut self, other: &Self) -> Result<()> {
        self.sent += other.sent;
        self.verified += other.verified;
        self.lost += other.lost;
        self.wrong += other.wrong;
        self.latency
            .add(&other.latency)
            .context("histograms of different sizes")
    }
}

/// A conversation with one process.
#[derive(Debug)]
struct Client<'a> {
    load: &'a Load,
    socket: UdpSocket,
    open: HashMap<u64, (u64, Instant)>,
    tally: Tally,
}

/// Sends at least the wanted number of requests, and further ones at leisure while company is wanted.
pub(crate) fn drive(load: &Load, pace: &Pace) -> Result<Tally> {
    let mut client = Client::connect(load)?;
    client.first_contact()?;
    while client.tally.sent < load.requests {
        client.exchange(WINDOW)?;
    }
    pace.satisfied.fetch_add(1, Ordering::Relaxed);
    while pace.company.load(Ordering::Relaxed) {
        client.exchange(1)?;
        std::thread::sleep(PAUSE);
    }
    while !client.open.is_empty() {
        client.receive()?;
        client.give_up();
    }
    Ok(client.tally)
}

/// Sends requests to services that come and go, and counts no answers, as long as company is wanted.
pub(crate) fn pester(targets: &[SocketAddr], pace: &Pace) -> Result<()> {
    let socket = UdpSocket::bind((core::net::Ipv4Addr::UNSPECIFIED, 0))
        .context("cannot open a UDP socket")?;
    let mut datagram = [0_u8; LONGEST];
    for sequence in 0.. {
        if !pace.company.load(Ordering::Relaxed) {
            break;
        }
        Message {
            sequence,
            nonce: sequence,
            sent_at: 0,
        }
        .write_request(&mut datagram);
        for target in targets {
            // A neighbour that is not there is an error like any other here: it may be back for the next one.
            drop(socket.send_to(&datagram, target));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

impl<'a> Client<'a> {
    fn connect(load: &'a Load) -> Result<Self> {
        let socket = UdpSocket::bind((core::net::Ipv4Addr::UNSPECIFIED, 0))
            .context("cannot open a UDP socket")?;
        socket
            .connect(load.target)
            .with_context(|| format!("no way to {}", load.target))?;
        socket.set_read_timeout(Some(POLL))?;
        Ok(Self {
            load,
            socket,
            open: HashMap::new(),
            tally: Tally::new()?,
        })
    }

    /// Asks until the process answers for the first time.
    fn first_contact(&mut self) -> Result<()> {
        for attempt in 0..FIRST_TRIES {
            // Sequence numbers of their own: a late answer to one of these is no answer to a counted request.
            let sequence = u64::MAX - u64::from(attempt);
            self.transmit(sequence, sequence)?;
            self.tally.first_tries += 1;
            let deadline = Instant::now() + Duration::from_millis(500);
            while Instant::now() < deadline {
                self.receive()?;
                if self.tally.first_answers > 0 {
                    return Ok(());
                }
            }
        }
        anyhow::bail!("{} does not answer", self.load.target)
    }

    /// Opens requests up to `window` and takes what answers there are.
    fn exchange(&mut self, window: usize) -> Result<()> {
        while self.open.len() < window {
            self.send()?;
        }
        self.receive()?;
        self.give_up();
        Ok(())
    }

    fn send(&mut self) -> Result<()> {
        let sequence = self.tally.sent;
        let nonce = answer(self.load.seed, sequence);
        self.transmit(sequence, nonce)?;
        self.open.insert(sequence, (nonce, Instant::now()));
        self.tally.sent += 1;
        Ok(())
    }

    fn transmit(&self, sequence: u64, nonce: u64) -> Result<()> {
        let mut datagram = [0_u8; LONGEST];
        let message = Message {
            sequence,
            nonce,
            sent_at: sequence,
        };
        message.write_request(&mut datagram);
        // Every eighth is as long as a frame may be, the others as short.
        let len = if sequence % 8 == 7 {
            LONGEST
        } else {
            nonce::LEN
        };
        match self.socket.send(&datagram[..len]) {
            Ok(_) => Ok(()),
            // An earlier datagram met nobody; whoever waits for this one's answer counts it as lost.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
            Err(error) => {
                Err(error).with_context(|| format!("cannot send to {}", self.load.target))
            }
        }
    }

    /// Takes every answer that is there, waiting for the first one a little.
    fn receive(&mut self) -> Result<()> {
        let mut datagram = [0_u8; 2048];
        match self.socket.recv(&mut datagram) {
            Ok(len) => {
                self.take(&datagram[..len]);
                Ok(())
            }
            Err(error) if is_transient(error.kind()) => Ok(()),
            Err(error) => {
                Err(error).with_context(|| format!("cannot receive from {}", self.load.target))
            }
        }
    }

    fn take(&mut self, datagram: &[u8]) {
        let Some(message) = Message::parse_answer(datagram) else {
            self.tally.wrong += 1;
            return;
        };
        let is_first = message.sequence > u64::MAX - u64::from(FIRST_TRIES);
        if is_first && message.nonce == answer(self.load.key, message.sequence) {
            self.tally.first_answers += 1;
            return;
        }
        match self.open.remove(&message.sequence) {
            Some((nonce, sent)) if message.nonce == answer(self.load.key, nonce) => {
                self.tally.verified += 1;
                let time = u64::try_from(sent.elapsed().as_micros()).unwrap_or(u64::MAX);
                self.tally.latency.saturating_record(time);
            }
            _ => self.tally.wrong += 1,
        }
    }

    fn give_up(&mut self) {
        let before = self.open.len();
        self.open.retain(|_, (_, sent)| sent.elapsed() < LOST_AFTER);
        self.tally.lost += u64::try_from(before - self.open.len()).unwrap_or(u64::MAX);
    }
}

const fn is_transient(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::WouldBlock
            | ErrorKind::TimedOut
            | ErrorKind::Interrupted
            | ErrorKind::ConnectionRefused
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    /// A server that answers with `key`, but leaves out every request whose sequence number `drops` names.
    fn server(key: u64, drops: fn(u64) -> bool) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        thread::spawn(move || {
            let mut datagram = [0; 2048];
            while let Ok((len, from)) = socket.recv_from(&mut datagram) {
                let sequence = u64::from_le_bytes(datagram[8..16].try_into().unwrap());
                if !drops(sequence) && nonce::answer_in_place(key, &mut datagram[..len]) {
                    drop(socket.send_to(&datagram[..len], from));
                }
            }
        });
        address
    }

    fn driven(target: SocketAddr) -> Result<Tally> {
        drive(
            &Load {
                target,
                key: 5,
                requests: 100,
                seed: 1,
            },
            &Pace::default(),
        )
    }

    #[test]
    fn an_honest_server_verifies() {
        let tally = driven(server(5, |_| false)).unwrap();
        assert_eq!(
            (tally.sent, tally.verified, tally.lost, tally.wrong),
            (100, 100, 0, 0)
        );
        assert_eq!(tally.latency.len(), 100);
    }

    #[test]
    fn what_is_not_answered_is_lost() {
        let tally = driven(server(5, |sequence| sequence == 40)).unwrap();
        assert_eq!((tally.sent, tally.verified, tally.lost), (100, 99, 1));
    }

    #[test]
    fn another_key_is_wrong() {
        let load = Load {
            target: server(6, |_| false),
            key: 5,
            requests: 1,
            seed: 1,
        };
        let mut client = Client::connect(&load).unwrap();
        client.send().unwrap();
        while client.tally.wrong == 0 {
            client.receive().unwrap();
        }
        assert_eq!((client.tally.verified, client.open.len()), (0, 0));
    }
}
