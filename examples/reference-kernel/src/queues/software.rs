//! Virtual queue pairs: frames that the kernel copies in and out.

use core::sync::atomic::Ordering;

use heapless::Vec;
use parakernel_core::abi::{LeaseRing, StatusPage, SubmissionPage};
use parakernel_core::ring::Position;
use parakernel_core::steering::{NameGrant, Way};
use parakernel_core::validate::Violation;
use parakernel_core::virtual_queue::{Delivery, ReceivePort, TransmitPort};

use super::Fault;
use super::network::GRANTS_MAX;

/// A virtual queue pair. Its process's core takes note of what is offered; core 0 moves the frames.
#[derive(Debug)]
pub(crate) struct VirtualQueue {
    pub(crate) receive: ReceivePort<'static>,
    pub(crate) transmit: TransmitPort<'static>,
    /// What the process may call itself.
    pub(crate) grants: Vec<NameGrant, GRANTS_MAX>,
    /// Whether the process has ever offered a slot.
    pub(crate) is_open: bool,
    /// Whether a frame has been delivered that no wait has returned for.
    pub(crate) has_news: bool,
    /// Frames and bytes received and sent, and frames that found no room.
    pub(crate) received: u64,
    pub(crate) received_bytes: u64,
    pub(crate) sent: u64,
    pub(crate) sent_bytes: u64,
    pub(crate) dropped: u64,
}

impl VirtualQueue {
    /// Takes note of what the process offers. Whether core 0 has something to send is [`has_frames`](Self::has_frames).
    pub(super) fn serve(&mut self, submission: &SubmissionPage) -> Result<bool, Fault> {
        let word = &submission.tails[LeaseRing::First as usize];
        let offered = Position::new(word.load(Ordering::Acquire));
        self.receive.offer(offered).map_err(Fault::Process)?;
        self.is_open |= offered != Position::START;
        Ok(self.look())
    }

    pub(super) const fn look(&mut self) -> bool {
        core::mem::replace(&mut self.has_news, false)
    }

    /// Whether the process has published frames that core 0 has not taken.
    pub(super) fn has_frames(&self, submission: &SubmissionPage) -> bool {
        self.claimed(submission) != self.transmit.emptied()
    }

    fn claimed(&self, submission: &SubmissionPage) -> Position {
        Position::new(submission.tails[LeaseRing::Second as usize].load(Ordering::Acquire))
    }

    /// Copies a frame to the process, or drops it where there is no room.
    pub(super) fn deliver(&mut self, status: &StatusPage, frame: &[u8]) {
        match self.receive.deliver(frame) {
            Delivery::Delivered => {
                self.received += 1;
                self.received_bytes += frame.len() as u64;
                self.has_news = true;
                let filled = self.receive.filled().as_u32();
                status.accepted[LeaseRing::First as usize].store(filled, Ordering::Release);
            }
            // A queue that its process has not opened yet drops nothing: there is nobody to miss it.
            Delivery::Full | Delivery::TooLong => self.dropped += u64::from(self.is_open),
        }
    }

    /// Takes one frame of the process, checked for its source, into `buffer`, which is as long as a frame may be; its
    /// length, or `None` where there is no frame.
    pub(super) fn take(
        &mut self,
        (submission, status): (&SubmissionPage, &StatusPage),
        buffer: &mut [u8],
    ) -> Result<Option<usize>, Violation> {
        let claimed = self.claimed(submission);
        let (grants, mut len) = (&self.grants, None);
        self.transmit.take(claimed, 1, buffer, |frame| {
            NameGrant::check_any(grants, frame, Way::Virtual)
                .map_err(|field| Violation::Spoofed { field })?;
            len = Some(frame.len());
            Ok(true)
        })?;
        let emptied = self.transmit.emptied().as_u32();
        status.accepted[LeaseRing::Second as usize].store(emptied, Ordering::Release);
        self.sent += u64::from(len.is_some());
        self.sent_bytes += len.unwrap_or(0) as u64;
        Ok(len)
    }
}
