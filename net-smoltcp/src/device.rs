use core::fmt;

use parakernel_core::{
    memory::{Pool, Segment, SegmentList},
    time,
};
use smoltcp::{
    phy::{self, ChecksumCapabilities, DeviceCapabilities, Medium},
    time::Instant,
};

use crate::link::Link;

/// What went through a [`Device`], and what did not.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Counters {
    /// Frames handed to the stack.
    pub received: u64,
    /// Of these, frames of several segments, which were copied together.
    pub gathered: u64,
    /// Received frames dropped because they were longer than the device's MTU, or had several segments and were longer
    /// than the scratch memory.
    pub oversized: u64,
    /// Frames of the stack handed to the link.
    pub sent: u64,
    /// Frames of the stack dropped because the link had no room to let them wait.
    pub unsent: u64,
}

/// The memory of a [`Device`].
#[derive(Debug)]
pub struct Memory<'a> {
    /// Buffers for received frames.
    pub receive: Pool<'a>,
    /// Buffers for frames to send, of the same arena: kept apart, so that neither direction can starve the other.
    pub transmit: Pool<'a>,
    /// Received frames that the stack has not taken yet: one word for each segment of a turn's budget.
    pub words: &'a mut [u32],
    /// Where frames of several segments are copied together; may be empty where no frame has several.
    pub scratch: &'a mut [u8],
}

/// A `smoltcp` device over a [`Link`].
///
/// Work comes in *turns*: [`fill`](Self::fill) takes a batch of frames from the link,
/// [`Interface::poll`](smoltcp::iface::Interface::poll) works on exactly that batch, and [`flush`](Self::flush) submits
/// everything that was sent, in one batch.
///
/// A received frame of one segment is shown to the stack where the hardware put it, and the stack writes what it sends
/// straight into the buffer that the hardware reads.
///
/// An error of the link is kept: [`fill`](Self::fill) and [`flush`](Self::flush) return it from then on, and the stack
/// sees a device that is silent.
#[derive(Debug)]
pub struct Device<'a, L: Link> {
    incoming: Incoming<'a>,
    outgoing: Outgoing<'a, L>,
    capabilities: DeviceCapabilities,
    failure: Option<L::Error>,
}

impl<'a, L: Link> Device<'a, L> {
    /// A device whose frames, from the Ethernet header on and without the frame check sequence, have up to `mtu` bytes.
    ///
    /// The MTU is cut to what one buffer holds.
    #[must_use]
    pub fn new(link: L, memory: Memory<'a>, mtu: usize) -> Self {
        let layout = memory.transmit.arena().layout();
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = mtu.min(layout.capacity()).min(Segment::MAX_LEN);
        Self {
            incoming: Incoming {
                pool: memory.receive,
                frames: SegmentList::new(memory.words),
                scratch: memory.scratch,
                mtu: capabilities.max_transmission_unit,
                counters: Counters::default(),
            },
            outgoing: Outgoing {
                pool: memory.transmit,
                link,
                sent: 0,
                unsent: 0,
            },
            capabilities,
            failure: None,
        }
    }

    /// The same device, with checksums that hardware verifies or computes left out of the stack's work.
    #[must_use]
    pub fn with_checksums(mut self, checksums: ChecksumCapabilities) -> Self {
        self.capabilities.checksum = checksums;
        self
    }

    /// Begins a turn: takes up to `budget` frames from the link, and keeps it armed. Returns how many frames wait for
    /// the stack.
    ///
    /// # Errors
    ///
    /// The link's error, now or earlier.
    pub fn fill(&mut self, budget: usize) -> Result<usize, &L::Error> {
        if self.failure.is_none() {
            let Incoming { pool, frames, .. } = &mut self.incoming;
            frames.compact();
            self.failure = self.outgoing.link.receive(pool, frames, budget).err();
        }
        let waiting = self.incoming.frames.iter().filter(|part| !part.has_more());
        self.failure.as_ref().map_or(Ok(waiting.count()), Err)
    }

    /// Ends a turn: submits what the stack sent, in one batch, and takes back the buffers of what went out.
    ///
    /// # Errors
    ///
    /// The link's error, now or earlier.
    pub fn flush(&mut self) -> Result<(), &L::Error> {
        if self.failure.is_none() {
            let Outgoing { pool, link, .. } = &mut self.outgoing;
            self.failure = link.flush(pool).err();
        }
        self.failure.as_ref().map_or(Ok(()), Err)
    }

    /// What went through, since the device was made.
    #[must_use]
    pub const fn counters(&self) -> Counters {
        Counters {
            sent: self.outgoing.sent,
            unsent: self.outgoing.unsent,
            ..self.incoming.counters
        }
    }
}

impl<'a, L: Link> phy::Device for Device<'a, L> {
    type RxToken<'t>
        = RxToken<'t, 'a>
    where
        Self: 't;
    type TxToken<'t>
        = TxToken<'t, 'a, L>
    where
        Self: 't;

    fn receive(&mut self, _timestamp: Instant) -> Option<(RxToken<'_, 'a>, TxToken<'_, 'a, L>)> {
        self.incoming.drop_oversized();
        let ready = self.failure.is_none() && !self.incoming.frames.is_empty();
        // The stack may answer each frame at once, so there must be a buffer for the answer.
        (ready && self.outgoing.is_ready())
            .then_some((RxToken(&mut self.incoming), TxToken(&mut self.outgoing)))
    }

    fn transmit(&mut self, _timestamp: Instant) -> Option<TxToken<'_, 'a, L>> {
        let ready = self.failure.is_none() && self.outgoing.is_ready();
        ready.then_some(TxToken(&mut self.outgoing))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        self.capabilities.clone()
    }
}

/// The right to look at one received frame.
#[derive(Debug)]
pub struct RxToken<'t, 'a>(&'t mut Incoming<'a>);

impl phy::RxToken for RxToken<'_, '_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        self.0.show(f)
    }
}

/// The right to send one frame.
pub struct TxToken<'t, 'a, L>(&'t mut Outgoing<'a, L>);

impl<L: Link> phy::TxToken for TxToken<'_, '_, L> {
    /// Lets `f` write a frame of `len` bytes.
    ///
    /// # Panics
    ///
    /// If `len` is more than the device's MTU.
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        self.0.send(len, f)
    }
}

impl<L> fmt::Debug for TxToken<'_, '_, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TxToken").finish_non_exhaustive()
    }
}

/// `now` as the stack counts it.
#[must_use]
pub fn instant(now: time::Instant) -> Instant {
    Instant::from_micros(i64::try_from(now.as_nanos() / 1000).unwrap_or(i64::MAX))
}

/// Received frames on their way to the stack. `frames` holds whole frames only.
#[derive(Debug)]
struct Incoming<'a> {
    pool: Pool<'a>,
    frames: SegmentList<'a>,
    scratch: &'a mut [u8],
    mtu: usize,
    counters: Counters,
}

impl Incoming<'_> {
    /// Drops frames from the front until the first one can be shown.
    fn drop_oversized(&mut self) {
        while let Some(first) = self.frames.segments().first() {
            let limit = if first.has_more() {
                self.mtu.min(self.scratch.len())
            } else {
                self.mtu
            };
            let parts = self.frames.first_frame();
            let frame = self.frames.iter().take(parts);
            if frame.map(Segment::len).sum::<usize>() <= limit {
                return;
            }
            self.counters.oversized += 1;
            while let Some(part) = self.frames.pop() {
                let more = part.has_more();
                self.pool.put(part);
                if !more {
                    break;
                }
            }
        }
    }

    /// Shows the first frame to `f` and returns its buffers to the pool.
    fn show<R>(&mut self, f: impl FnOnce(&[u8]) -> R) -> R {
        let Some(first) = self.frames.pop() else {
            return f(&[]);
        };
        self.counters.received += 1;
        if first.has_more() {
            return self.gather(first, f);
        }
        let result = f(self.pool.arena().bytes(&first));
        self.pool.put(first);
        result
    }

    /// Copies the frame that begins with `first` together, and shows it to `f`.
    fn gather<R>(&mut self, first: Segment, f: impl FnOnce(&[u8]) -> R) -> R {
        self.counters.gathered += 1;
        let mut len = 0;
        let mut next = Some(first);
        while let Some(part) = next {
            let bytes = self.pool.arena().bytes(&part);
            // Fits: `drop_oversized` summed the lengths.
            if let Some(place) = self.scratch.get_mut(len..len + bytes.len()) {
                place.copy_from_slice(bytes);
                len += bytes.len();
            }
            let more = part.has_more();
            self.pool.put(part);
            next = if more { self.frames.pop() } else { None };
        }
        f(self.scratch.get(..len).unwrap_or_default())
    }
}

/// Frames of the stack on their way to the link.
#[derive(Debug)]
struct Outgoing<'a, L> {
    pool: Pool<'a>,
    link: L,
    sent: u64,
    unsent: u64,
}

impl<L: Link> Outgoing<'_, L> {
    /// Whether there is a buffer for a frame.
    const fn is_ready(&self) -> bool {
        self.pool.free() > 0
    }

    /// Lets `f` write a frame of `len` bytes, and hands it to the link.
    fn send<R>(&mut self, len: usize, f: impl FnOnce(&mut [u8]) -> R) -> R {
        #[expect(
            clippy::expect_used,
            reason = "a token is made only while a buffer is free, and borrows the pool until here"
        )]
        let mut frame = self.pool.take().expect("a free buffer").with_len(len);
        let result = f(self.pool.arena().bytes_mut(&mut frame));
        match self.link.send(self.pool.arena(), frame) {
            Ok(()) => self.sent += 1,
            Err(frame) => {
                self.unsent += 1;
                self.pool.put(frame);
            }
        }
        result
    }
}
