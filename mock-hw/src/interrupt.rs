//! Interrupt messages, as they arrive at the machine's interrupt controller.

use alloc::{collections::VecDeque, sync::Arc};
use std::sync::Mutex;

use parakernel_core::time::Instant;

use crate::{memory::RequesterId, sync::lock};

/// A message-signalled interrupt: a device's write of `data` to `address`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Message {
    /// The device.
    pub requester: RequesterId,
    /// The entry of the device's MSI-X table.
    pub vector: u16,
    /// The address that the table names.
    pub address: u64,
    /// The data that the table names.
    pub data: u32,
    /// When.
    pub at: Instant,
}

/// The messages that arrived and were not yet taken. Clones are the same queue.
///
/// At most 65,536 are kept, the latest ones.
#[derive(Clone, Debug, Default)]
pub struct Interrupts(Arc<Mutex<VecDeque<Message>>>);

impl Interrupts {
    const LIMIT: usize = 65_536;

    /// Takes the oldest message.
    #[must_use]
    pub fn take(&self) -> Option<Message> {
        lock(&self.0).pop_front()
    }

    /// Takes all messages, oldest first.
    #[must_use]
    pub fn take_all(&self) -> Vec<Message> {
        lock(&self.0).drain(..).collect()
    }

    pub(crate) fn deliver(&self, message: Message) {
        let mut queue = lock(&self.0);
        if queue.len() == Self::LIMIT {
            queue.pop_front();
        }
        queue.push_back(message);
    }
}
