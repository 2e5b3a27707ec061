//! What a network device is plugged into: the test's hands, itself, or another device.

use alloc::{collections::VecDeque, sync::Arc};
use std::sync::Mutex;

use crate::sync::lock;

/// The cable of one device: frames to it, and frames from it. Clones are the same cable.
///
/// ```
/// use parakernel_mock_hw::wire::Wire;
///
/// let wire = Wire::default();
/// wire.send(&[0; 60]);
/// assert_eq!(wire.waiting(), 1);
/// ```
#[derive(Clone, Debug, Default)]
pub struct Wire {
    to_device: Queue,
    from_device: Arc<Mutex<Far>>,
    observed: Arc<Mutex<Option<Vec<Vec<u8>>>>>,
}

type Queue = Arc<Mutex<VecDeque<Vec<u8>>>>;

/// Where the frames of a device go.
#[derive(Debug, Default)]
struct Far {
    kept: VecDeque<Vec<u8>>,
    /// The frames to another device, or to the same one; they are not kept then.
    peer: Option<Queue>,
    /// Frames that found no room.
    lost: u64,
}

impl Wire {
    /// Frames that a wire holds in each direction; later ones are lost.
    pub const LIMIT: usize = 65_536;

    /// Sends a frame to the device, starting with the destination address, without checksum at the end.
    pub fn send(&self, frame: &[u8]) {
        lock(&self.to_device).push_back(frame.to_vec());
    }

    /// Takes the oldest frame that the device sent.
    #[must_use]
    pub fn take(&self) -> Option<Vec<u8>> {
        lock(&self.from_device).kept.pop_front()
    }

    /// Takes all frames that the device sent.
    #[must_use]
    pub fn take_all(&self) -> Vec<Vec<u8>> {
        lock(&self.from_device).kept.drain(..).collect()
    }

    /// How many frames wait for the device.
    #[must_use]
    pub fn waiting(&self) -> usize {
        lock(&self.to_device).len()
    }

    /// Lets what the device sends come back to it.
    pub fn loop_back(&self) {
        lock(&self.from_device).peer = Some(self.to_device.clone());
    }

    /// Lets what each of two devices sends go to the other.
    pub fn connect(one: &Self, other: &Self) {
        lock(&one.from_device).peer = Some(other.to_device.clone());
        lock(&other.from_device).peer = Some(one.to_device.clone());
    }

    /// How many frames that the device sent found no room.
    #[must_use]
    pub fn lost(&self) -> u64 {
        lock(&self.from_device).lost
    }

    /// Keeps a copy of all frames in both directions from now on, for [`take_observed`](Self::take_observed).
    pub fn observe(&self) {
        lock(&self.observed).get_or_insert_default();
    }

    /// The frames that passed since the last call, oldest first; none where nobody observes.
    #[must_use]
    pub fn take_observed(&self) -> Vec<Vec<u8>> {
        lock(&self.observed)
            .as_mut()
            .map(core::mem::take)
            .unwrap_or_default()
    }

    /// A frame that the device sends.
    pub(crate) fn transmit(&self, frame: Vec<u8>) {
        self.note(&frame);
        let mut far = lock(&self.from_device);
        let has_room = match far.peer.clone() {
            None => push(&mut far.kept, frame),
            Some(peer) => push(&mut lock(&peer), frame),
        };
        far.lost += u64::from(!has_room);
    }

    /// A frame for the device.
    pub(crate) fn receive(&self) -> Option<Vec<u8>> {
        let frame = lock(&self.to_device).pop_front();
        if let Some(frame) = &frame {
            self.note(frame);
        }
        frame
    }

    fn note(&self, frame: &[u8]) {
        if let Some(observed) = lock(&self.observed).as_mut() {
            observed.push(frame.to_vec());
        }
    }
}

/// Adds `frame` where there is room; whether there was.
fn push(queue: &mut VecDeque<Vec<u8>>, frame: Vec<u8>) -> bool {
    let has_room = queue.len() < Wire::LIMIT;
    if has_room {
        queue.push_back(frame);
    }
    has_room
}
