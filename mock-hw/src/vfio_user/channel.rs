//! The socket: whole messages with their file descriptors, in both directions.

use alloc::{collections::VecDeque, sync::Arc};
use core::{
    fmt,
    mem::MaybeUninit,
    sync::atomic::{AtomicU16, AtomicU64, Ordering},
    time::Duration,
};
use std::{
    io::{self, IoSlice, IoSliceMut},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    sync::Mutex,
    time::Instant,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
        SendFlags, recvmsg, sendmsg,
    },
};
use zerocopy::{FromBytes as _, IntoBytes as _};

use super::wire::Header;
use crate::sync::lock;

/// Why a client is left.
#[derive(Debug)]
#[non_exhaustive]
pub enum Broken {
    /// It went away.
    Gone,
    /// It broke the protocol, as this sentence says.
    Protocol(String),
    /// The socket failed, or the client took too long.
    Io(io::Error),
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone => f.write_str("the client went away"),
            Self::Protocol(what) => write!(f, "the client broke the protocol: {what}"),
            Self::Io(_) => f.write_str("the client's socket failed"),
        }
    }
}

impl core::error::Error for Broken {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            Self::Gone | Self::Protocol(_) => None,
        }
    }
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        const GONE: [io::ErrorKind; 3] = [
            io::ErrorKind::UnexpectedEof,
            io::ErrorKind::BrokenPipe,
            io::ErrorKind::ConnectionReset,
        ];
        if GONE.contains(&error.kind()) {
            Self::Gone
        } else {
            Self::Io(error)
        }
    }
}

impl From<Errno> for Broken {
    fn from(error: Errno) -> Self {
        io::Error::from(error).into()
    }
}

/// A message as it arrived.
#[derive(Debug)]
pub struct Message {
    pub(super) header: Header,
    pub(super) body: Vec<u8>,
    pub(super) files: Vec<OwnedFd>,
}

impl Message {
    /// A message of the bytes `header` and `body` and of `files`; `None` where the header is one that is not read.
    #[must_use]
    pub fn parse(header: [u8; 16], body: Vec<u8>, files: Vec<OwnedFd>) -> Option<Self> {
        let header = Header::read_from_bytes(&header).ok()?;
        let fits = header.size as usize == Header::LEN + body.len();
        fits.then_some(Self {
            header,
            body,
            files,
        })
    }
}

/// The connection to one client. Clones are the same connection.
#[derive(Clone, Debug)]
pub(super) struct Channel(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    stream: UnixStream,
    limit: Duration,
    /// Requests that arrived while an answer was waited for.
    waiting: Mutex<VecDeque<Message>>,
    next_id: AtomicU16,
    /// The most data that the client takes in one message.
    largest_data: AtomicU64,
}

impl Channel {
    /// The most data that one message to us may carry; the specification's default.
    pub(super) const LARGEST_DATA: usize = 1 << 20;

    /// The most file descriptors that one message to us may carry.
    pub(super) const FILES: usize = 16;

    /// The largest body: data and what comes before it.
    const LARGEST_BODY: usize = Self::LARGEST_DATA + 64;

    /// Requests that may arrive while one answer is waited for.
    const WAITING: usize = 4096;

    /// How long a whole message, in either direction, or an answer of the client's may take.
    const LIMIT: Duration = Duration::from_secs(10);

    pub(super) fn new(stream: UnixStream) -> io::Result<Self> {
        Self::with_limit(stream, Self::LIMIT)
    }

    fn with_limit(stream: UnixStream, limit: Duration) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self(Arc::new(Inner {
            stream,
            limit,
            waiting: Mutex::new(VecDeque::new()),
            next_id: AtomicU16::new(0),
            largest_data: AtomicU64::new(Self::LARGEST_DATA as u64),
        })))
    }

    /// When what begins now has to be over.
    fn deadline(&self) -> Instant {
        Instant::now() + self.0.limit
    }

    /// What `act`, a call that does not wait, yields once the socket is ready for it.
    fn patiently<T>(
        &self,
        events: PollFlags,
        deadline: Instant,
        mut act: impl FnMut() -> Result<T, Errno>,
    ) -> Result<T, Broken> {
        loop {
            match act() {
                Err(Errno::AGAIN) => self.wait(events, deadline)?,
                Err(Errno::INTR) => {}
                result => return Ok(result?),
            }
        }
    }

    /// Waits until the socket is ready, or has failed, but not beyond `deadline`.
    fn wait(&self, events: PollFlags, deadline: Instant) -> Result<(), Broken> {
        let left = deadline.saturating_duration_since(Instant::now());
        let patience = Timespec::try_from(left).unwrap_or_default();
        match poll(&mut [PollFd::new(&self.0.stream, events)], Some(&patience)) {
            Ok(0) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn file(&self) -> BorrowedFd<'_> {
        self.0.stream.as_fd()
    }

    /// How much data the client takes in one message.
    pub(super) fn largest_data(&self) -> u64 {
        self.0.largest_data.load(Ordering::Relaxed)
    }

    /// Sets it, in the bounds of what is useful.
    pub(super) fn set_largest_data(&self, bytes: u64) {
        let bytes = bytes.clamp(8, Self::LARGEST_DATA as u64);
        self.0.largest_data.store(bytes, Ordering::Relaxed);
    }

    /// A request that arrived while an answer was waited for.
    pub(super) fn take_waiting(&self) -> Option<Message> {
        lock(&self.0.waiting).pop_front()
    }

    /// Whether there is such a request.
    pub(super) fn has_waiting(&self) -> bool {
        !lock(&self.0.waiting).is_empty()
    }

    /// The next message from the socket; waits for it.
    pub(super) fn receive(&self) -> Result<Message, Broken> {
        self.receive_by(self.deadline())
    }

    fn receive_by(&self, deadline: Instant) -> Result<Message, Broken> {
        let mut bytes = [0; Header::LEN];
        let mut files = Vec::new();
        let first = self.receive_some(&mut bytes, &mut files, deadline)?;
        self.receive_rest(&mut bytes[first..], deadline)?;
        let header = Header::read_from_bytes(&bytes).unwrap_or_default();
        let body = (header.size as usize).checked_sub(Header::LEN);
        let Some(len) = body.filter(|len| *len <= Self::LARGEST_BODY) else {
            let what = format!("a message of {} bytes", header.size);
            return Err(Broken::Protocol(what));
        };
        let mut body = vec![0; len];
        self.receive_rest(&mut body, deadline)?;
        Ok(Message {
            header,
            body,
            files,
        })
    }

    /// The first bytes of a message, and the descriptors that came with them.
    fn receive_some(
        &self,
        bytes: &mut [u8],
        files: &mut Vec<OwnedFd>,
        deadline: Instant,
    ) -> Result<usize, Broken> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(Channel::FILES))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(bytes)];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let received = self.patiently(PollFlags::IN, deadline, || {
            recvmsg(&self.0.stream, &mut parts, &mut control, flags)
        })?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                files.extend(rights);
            }
        }
        if received.flags.contains(ReturnFlags::CTRUNC) {
            let what = format!("more than {} file descriptors at once", Self::FILES);
            return Err(Broken::Protocol(what));
        }
        if received.bytes == 0 {
            return Err(Broken::Gone);
        }
        Ok(received.bytes)
    }

    /// The further bytes of a message; descriptors come only with the first ones.
    fn receive_rest(&self, mut rest: &mut [u8], deadline: Instant) -> Result<(), Broken> {
        while !rest.is_empty() {
            let received = self.patiently(PollFlags::IN, deadline, || {
                let mut control = RecvAncillaryBuffer::default();
                let mut parts = [IoSliceMut::new(rest)];
                let flags = RecvFlags::CMSG_CLOEXEC;
                recvmsg(&self.0.stream, &mut parts, &mut control, flags)
            })?;
            if received.bytes == 0 {
                return Err(Broken::Gone);
            }
            rest = rest.get_mut(received.bytes..).unwrap_or_default();
        }
        Ok(())
    }

    /// Sends `header`, with the size that it needs, and `parts`.
    pub(super) fn send(&self, mut header: Header, parts: &[&[u8]]) -> Result<(), Broken> {
        let len = Header::LEN + parts.iter().map(|part| part.len()).sum::<usize>();
        header.size = u32::try_from(len).unwrap_or(u32::MAX);
        let mut bytes = header.as_bytes().to_vec();
        for part in parts {
            bytes.extend_from_slice(part);
        }
        let deadline = self.deadline();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let sent = self.patiently(PollFlags::OUT, deadline, || {
                let mut control = SendAncillaryBuffer::default();
                let flags = SendFlags::NOSIGNAL;
                sendmsg(&self.0.stream, &[IoSlice::new(rest)], &mut control, flags)
            })?;
            rest = rest.get(sent..).unwrap_or_default();
        }
        Ok(())
    }

    /// Sends a command of ours and waits for the answer; requests that arrive meanwhile are kept for later.
    pub(super) fn ask(&self, command: u16, parts: &[&[u8]]) -> Result<Message, Broken> {
        let id = self.0.next_id.fetch_add(1, Ordering::Relaxed);
        self.send(Header::request(id, command), parts)?;
        let deadline = self.deadline();
        loop {
            let message = self.receive_by(deadline)?;
            if message.header.is_request() {
                let mut waiting = lock(&self.0.waiting);
                if waiting.len() == Self::WAITING {
                    let what = format!("{} requests before an answer", Self::WAITING);
                    return Err(Broken::Protocol(what));
                }
                waiting.push_back(message);
                continue;
            }
            let header = message.header;
            if header.is_reply() && header.id == id && header.command == command {
                return Ok(message);
            }
            let what = format!("an answer to something else: {header:?}");
            return Err(Broken::Protocol(what));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, thread};

    use super::*;
    use crate::vfio_user::wire::command;

    const LIMIT: Duration = Duration::from_millis(300);

    /// A channel, and a client that sends `bytes` one by one, each well within the time that there is for all of them.
    fn slowly(bytes: Vec<u8>) -> Channel {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        thread::spawn(move || {
            for byte in bytes {
                thread::sleep(LIMIT / 6);
                if theirs.write_all(&[byte]).is_err() {
                    break;
                }
            }
        });
        Channel::with_limit(ours, LIMIT).unwrap()
    }

    fn is_late<T>(result: &Result<T, Broken>) -> bool {
        matches!(result, Err(Broken::Io(error)) if error.kind() == io::ErrorKind::TimedOut)
    }

    #[test]
    fn a_message_that_comes_byte_by_byte_has_no_more_time_than_another() {
        let mut message = Header::request(1, command::DEVICE_RESET);
        message.size = 16;
        let result = slowly(message.as_bytes().to_vec()).receive();
        assert!(is_late(&result), "{result:?}");
    }

    #[test]
    fn requests_before_an_answer_do_not_put_its_end_off() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut message = Header::request(1, command::DEVICE_RESET);
        message.size = 16;
        thread::spawn(move || {
            while theirs.write_all(message.as_bytes()).is_ok() {
                thread::sleep(LIMIT / 6);
            }
        });
        let result = Channel::with_limit(ours, LIMIT)
            .unwrap()
            .ask(command::DMA_READ, &[&[0; 16]]);
        assert!(is_late(&result), "{result:?}");
    }

    #[test]
    fn a_client_that_takes_byte_by_byte_is_left_too() {
        use std::io::Read as _;

        let (ours, mut theirs) = UnixStream::pair().unwrap();
        thread::spawn(move || {
            let mut some = [0; 4096];
            while matches!(theirs.read(&mut some), Ok(1..)) {
                thread::sleep(LIMIT / 6);
            }
        });
        let channel = Channel::with_limit(ours, LIMIT).unwrap();
        let result = channel.send(Header::request(1, command::DMA_WRITE), &[&[0; 1 << 20]]);
        assert!(is_late(&result), "{result:?}");
    }
}
