//! A capture file as the other end of a wire: its frames come in as they were captured, and what is sent may go into
//! another file.

use core::time::Duration;
use std::{
    fs::File,
    io::{self, BufReader, Read},
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::Path,
    time::Instant,
};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use super::{Capture, Plug};

/// The frames of a capture file, in their order: classic pcap in either byte order, with micro- or nanoseconds.
///
/// What a file says is not trusted: a frame is read only as far as any device here takes one.
#[derive(Debug)]
pub struct Recorded<R = BufReader<File>> {
    file: R,
    is_swapped: bool,
    /// Nanoseconds of one unit of the small half of a time.
    unit: u32,
    /// Frames so far.
    count: u64,
}

/// A frame of a capture.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecordedFrame {
    /// When, since 1970 or whenever the capture began to count.
    pub at: Duration,
    /// From the destination address on.
    pub bytes: Vec<u8>,
}

impl Recorded {
    /// Opens the capture at `path`.
    ///
    /// # Errors
    ///
    /// Where the file cannot be read, is no classic pcap, or one of another medium than Ethernet.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::new(BufReader::new(File::open(path)?))
    }
}

impl<R: Read> Recorded<R> {
    /// Frames longer than this are refused, with their length.
    pub const LONGEST: usize = 65_536;

    /// Reads the capture that `file` holds.
    ///
    /// # Errors
    ///
    /// As [`open`](Recorded::open).
    pub fn new(mut file: R) -> io::Result<Self> {
        let mut header = [0; 24];
        file.read_exact(&mut header)
            .map_err(|_| wrong("no capture: it is too short".to_owned()))?;
        let magic = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
        let (is_swapped, unit) = match magic {
            0xa1b2_c3d4 => (false, 1000),
            0xa1b2_3c4d => (false, 1),
            0xd4c3_b2a1 => (true, 1000),
            0x4d3c_b2a1 => (true, 1),
            0x0a0d_0d0a => {
                let text = "a pcapng file; `editcap -F pcap IN OUT` makes a pcap file of it";
                return Err(wrong(text.to_owned()));
            }
            _ => return Err(wrong(format!("no capture: it begins with {magic:#010x}"))),
        };
        let recorded = Self {
            file,
            is_swapped,
            unit,
            count: 0,
        };
        // The high bits tell of checksums at the end of frames.
        let medium = recorded.word(&header, 20) & 0x0fff_ffff;
        if medium != 1 {
            let text = format!("a capture of medium {medium}, and Ethernet is 1");
            return Err(wrong(text));
        }
        Ok(recorded)
    }

    fn word(&self, bytes: &[u8], at: usize) -> u32 {
        let word = crate::bytes::array_at(bytes, at);
        if self.is_swapped {
            u32::from_be_bytes(word)
        } else {
            u32::from_le_bytes(word)
        }
    }

    /// The next frame; `None` at the end of the file.
    fn read(&mut self) -> io::Result<Option<RecordedFrame>> {
        let mut header = [0; 16];
        if !fill(&mut self.file, &mut header)? {
            return Ok(None);
        }
        self.count += 1;
        let [seconds, small, kept, len] = [0, 4, 8, 12].map(|at| self.word(&header, at));
        let here = |text: String| wrong(format!("frame {}: {text}", self.count));
        if kept != len {
            return Err(here(format!("only {kept} of {len} bytes were captured")));
        }
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        if len > Self::LONGEST {
            return Err(here(format!("{len} bytes, more than {}", Self::LONGEST)));
        }
        let mut bytes = vec![0; len];
        if self.file.read_exact(&mut bytes).is_err() {
            return Err(here("the file ends in it".to_owned()));
        }
        let small = Duration::from_nanos(u64::from(small) * u64::from(self.unit));
        Ok(Some(RecordedFrame {
            at: Duration::from_secs(seconds.into()) + small,
            bytes,
        }))
    }
}

impl<R: Read> Iterator for Recorded<R> {
    type Item = io::Result<RecordedFrame>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

/// Fills `bytes`; `false` where the file ends before the first of them.
fn fill(file: &mut impl Read, bytes: &mut [u8]) -> io::Result<bool> {
    let mut done = 0;
    while done < bytes.len() {
        match file.read(&mut bytes[done..]) {
            Ok(0) if done == 0 => return Ok(false),
            Ok(0) => return Err(wrong("the file ends in the middle of a header".to_owned())),
            Ok(len) => done += len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

fn wrong(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// A plug that replays a capture, with the gaps it was captured with, from when the device takes frames.
pub struct Replay {
    recorded: Option<Recorded>,
    next: Option<RecordedFrame>,
    capture: Option<Capture>,
    /// Whether the device takes frames.
    is_ready: Box<dyn Fn() -> bool + Send>,
    /// When the first frame came, and its time in the file.
    began: Option<(Instant, Duration)>,
    timer: OwnedFd,
}

impl Replay {
    /// How often to look whether the device takes frames.
    const LOOK: Duration = Duration::from_millis(10);

    /// Replays `recorded`, if given, as soon as `is_ready`; what is sent goes to `capture`, if given.
    ///
    /// # Errors
    ///
    /// Where there is no timer to be had, or the first frame cannot be read.
    pub fn new(
        recorded: Option<Recorded>,
        capture: Option<Capture>,
        is_ready: impl Fn() -> bool + Send + 'static,
    ) -> io::Result<Self> {
        let timer = timerfd_create(
            TimerfdClockId::Monotonic,
            TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC,
        )?;
        let mut replay = Self {
            recorded,
            next: None,
            capture,
            is_ready: Box::new(is_ready),
            began: None,
            timer,
        };
        replay.advance()?;
        replay.wake_in(Self::LOOK)?;
        Ok(replay)
    }

    fn advance(&mut self) -> io::Result<()> {
        let next = self.recorded.as_mut().and_then(Iterator::next);
        self.next = next.transpose()?;
        Ok(())
    }

    /// Becomes readable after `delay`; never where nothing is left.
    fn wake_in(&self, delay: Duration) -> io::Result<()> {
        let delay = if self.next.is_some() {
            delay.max(Duration::from_nanos(1))
        } else {
            Duration::ZERO
        };
        let setting = Itimerspec {
            it_interval: Timespec::default(),
            it_value: Timespec::try_from(delay).unwrap_or_default(),
        };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &setting)?;
        Ok(())
    }

    /// How long until the next frame is due, from when the device takes frames.
    fn due(&mut self) -> Option<Duration> {
        let next = self.next.as_ref()?;
        if self.began.is_none() && (self.is_ready)() {
            self.began = Some((Instant::now(), next.at));
        }
        let Some((began, first)) = self.began else {
            return Some(Self::LOOK);
        };
        Some(
            next.at
                .saturating_sub(first)
                .saturating_sub(began.elapsed()),
        )
    }
}

impl Plug for Replay {
    fn file(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }

    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let Some(due) = self.due() else {
            return Ok(None);
        };
        if !due.is_zero() || self.began.is_none() {
            self.wake_in(due)?;
            return Ok(None);
        }
        let Some(frame) = self.next.take() else {
            return Ok(None);
        };
        self.advance()?;
        self.wake_in(Duration::ZERO)?;
        let room = buffer.get_mut(..frame.bytes.len());
        let room = room.ok_or_else(|| wrong("a frame longer than the buffer".to_owned()))?;
        room.copy_from_slice(&frame.bytes);
        Ok(Some(frame.bytes.len()))
    }

    fn send(&mut self, frame: &[u8]) -> io::Result<()> {
        match &mut self.capture {
            Some(capture) => capture.record(frame),
            None => Ok(()),
        }
    }
}

impl core::fmt::Debug for Replay {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Replay")
            .field("recorded", &self.recorded)
            .field("began", &self.began)
            .finish_non_exhaustive()
    }
}
