//! Where the wire of a served device leads: a tap, datagrams, a capture file, another model, itself; and a capture of all
//! frames.

mod capture;
mod datagram;
mod replay;
mod tap;

use core::fmt;
use std::{io, os::fd::BorrowedFd};

pub use capture::Capture;
pub use datagram::{Datagrams, remove_socket};
pub use replay::{Recorded, RecordedFrame, Replay};
pub use tap::Tap;

use crate::wire::Wire;

/// Something outside of this program that takes and gives frames.
pub trait Plug: Send {
    /// What becomes readable when a frame is there.
    fn file(&self) -> BorrowedFd<'_>;

    /// Takes the next frame into `buffer`, without waiting; its length, or `None` where there is none.
    ///
    /// # Errors
    ///
    /// Where the other side failed for good.
    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>>;

    /// Gives away `frame`, without waiting: one that finds no room is lost, as on a wire.
    ///
    /// # Errors
    ///
    /// Where the other side failed for good.
    fn send(&mut self, frame: &[u8]) -> io::Result<()>;
}

/// The wires of the served devices, each with its plug and its capture.
#[derive(Debug, Default)]
pub struct Plugs(Vec<Plugged>);

struct Plugged {
    wire: Wire,
    plug: Option<Box<dyn Plug>>,
    capture: Option<Capture>,
}

impl fmt::Debug for Plugged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plugged")
            .field("wire", &self.wire)
            .finish_non_exhaustive()
    }
}

impl Plugs {
    /// The longest frame: 64 KiB, more than any device here takes.
    const LONGEST: usize = 65_536;

    /// Frames that wait for the device; with more, the rest waits outside.
    const WAITING: usize = 512;

    /// Plugs `wire` into `plug`, and writes all frames to `capture`. Without a plug the wire leads to another device,
    /// or nowhere.
    pub fn add(&mut self, wire: Wire, plug: Option<Box<dyn Plug>>, capture: Option<Capture>) {
        if capture.is_some() {
            wire.observe();
        }
        self.0.push(Plugged {
            wire,
            plug,
            capture,
        });
    }

    /// What to wait for: the plugs whose wire has room.
    pub(crate) fn files(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.0
            .iter()
            .filter(|plugged| plugged.wire.waiting() < Self::WAITING)
            .filter_map(|plugged| plugged.plug.as_ref())
            .map(|plug| plug.file())
    }

    /// Lets the frames that devices sent leave.
    pub(crate) fn send(&mut self) -> io::Result<()> {
        for plugged in &mut self.0 {
            // Frames to another device went there directly.
            for frame in plugged.wire.take_all() {
                if let Some(plug) = &mut plugged.plug {
                    plug.send(&frame)?;
                }
            }
            if let Some(capture) = &mut plugged.capture {
                for frame in plugged.wire.take_observed() {
                    capture.record(&frame)?;
                }
            }
        }
        Ok(())
    }

    /// Takes the frames that are there.
    pub(crate) fn receive(&mut self) -> io::Result<()> {
        let mut buffer = [0; Self::LONGEST];
        for Plugged { wire, plug, .. } in &mut self.0 {
            let Some(plug) = plug else {
                continue;
            };
            while wire.waiting() < Self::WAITING {
                let Some(len) = plug.receive(&mut buffer)? else {
                    break;
                };
                wire.send(buffer.get(..len).unwrap_or_default());
            }
        }
        Ok(())
    }
}

/// What became of a frame sent without waiting: that it found no room is no failure.
fn sent(result: io::Result<usize>) -> io::Result<()> {
    match result {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NOBUFS.raw_os_error()) => {
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// What a read without waiting yielded.
fn received(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(len) => Ok(Some(len)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}
