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
    to_device: Arc<Mutex<VecDeque<Vec<u8>>>>,
    from_device: Arc<Mutex<Far>>,
}

/// Where the frames of a device go.
#[derive(Debug, Default)]
struct Far {
    kept: VecDeque<Vec<u8>>,
    /// The frames to another device, or to the same one; they are not kept then.
    peer: Option<Arc<Mutex<VecDeque<Vec<u8>>>>>,
}

impl Wire {
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

    /// A frame that the device sends.
    pub(crate) fn transmit(&self, frame: Vec<u8>) {
        let peer = {
            let mut far = lock(&self.from_device);
            if far.peer.is_none() {
                far.kept.push_back(frame);
                return;
            }
            far.peer.clone()
        };
        if let Some(peer) = peer {
            lock(&peer).push_back(frame);
        }
    }

    /// A frame for the device.
    pub(crate) fn receive(&self) -> Option<Vec<u8>> {
        lock(&self.to_device).pop_front()
    }
}
