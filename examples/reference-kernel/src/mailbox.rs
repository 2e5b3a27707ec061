//! What core 0 and another core send each other: a lock-free queue in each direction, with one sender and one receiver.

use heapless::String;
use heapless::spsc::{Consumer, Producer, Queue};
use parakernel_core::abi::{self, LOG_MAX};
use parakernel_core::address::NodeId;
use parakernel_core::device::DeviceId;

use crate::cores::Calls;
use crate::gate::Gate;
use crate::memory::Frames;
use crate::queues::Queues;
use crate::runner::{End, Launch};

/// Most orders under way to one core, plus one.
const ORDERS: usize = 4;
/// Most messages under way from one core, plus one.
const MESSAGES: usize = 32;

/// From core 0 to a core.
#[derive(Debug)]
pub(crate) enum Order {
    /// Run a process.
    Run(Launch),
}

/// From a core to core 0.
#[derive(Debug)]
pub(crate) enum Message {
    /// The process asks for something.
    Request(abi::Message),
    /// The process has ended, and the core no longer uses its address space.
    Ended(End),
    /// A device broke its protocol.
    Failed(DeviceId),
    /// The process speaks of an attack, having made so many calls.
    Said(Text, Calls),
}

/// A line of a process's log.
pub(crate) type Text = String<LOG_MAX>;

/// The core's end.
pub(crate) struct CoreEnd {
    /// The queues of its process.
    pub(crate) queues: &'static Gate<Queues>,
    /// What it is to do.
    pub(crate) orders: Consumer<'static, Order>,
    messages: Producer<'static, Message>,
}

/// Core 0's end.
pub(crate) struct KernelEnd {
    /// The queues of its process.
    pub(crate) queues: &'static Gate<Queues>,
    orders: Producer<'static, Order>,
    messages: Consumer<'static, Message>,
}

/// The two ends of a new mailbox in memory of `node`.
pub(crate) fn pair(frames: &mut Frames, node: NodeId) -> Option<(KernelEnd, CoreEnd)> {
    let (order_sender, orders) = frames.place(node, Queue::<Order, ORDERS>::new())?.split();
    let (message_sender, messages) = frames
        .place(node, Queue::<Message, MESSAGES>::new())?
        .split();
    let queues = Queues::place(frames, node)?;
    let kernel = KernelEnd {
        queues,
        orders: order_sender,
        messages,
    };
    let core = CoreEnd {
        queues,
        orders,
        messages: message_sender,
    };
    Some((kernel, core))
}

impl CoreEnd {
    /// Passes a request on; one place always stays free for the end of the process.
    pub(crate) fn request(&mut self, request: abi::Message) -> Result<(), Full> {
        if self.messages.len() + 1 >= self.messages.capacity() {
            return Err(Full);
        }
        self.messages
            .enqueue(Message::Request(request))
            .map_err(|_| Full)
    }

    /// Passes a line on; where there is no room it is only in the log.
    pub(crate) fn said(&mut self, text: Text, calls: Calls) {
        if self.messages.len() + 1 < self.messages.capacity() {
            let _sent = self.messages.enqueue(Message::Said(text, calls)).is_ok();
        }
    }

    /// Says that a device broke its protocol; where there is no room, core 0 hears of it the next time.
    pub(crate) fn failed(&mut self, device: DeviceId) {
        if self.messages.len() + 1 < self.messages.capacity() {
            let _sent = self.messages.enqueue(Message::Failed(device)).is_ok();
        }
    }

    /// Says how the process ended.
    pub(crate) fn ended(&mut self, end: End) {
        let sent = self.messages.enqueue(Message::Ended(end));
        debug_assert!(sent.is_ok(), "requests leave one place free");
    }
}

impl KernelEnd {
    /// Gives the core something to do; it must be woken then.
    pub(crate) fn order(&mut self, order: Order) -> Result<(), Full> {
        self.orders.enqueue(order).map_err(|_| Full)
    }

    /// The oldest message that has not been received.
    pub(crate) fn receive(&mut self) -> Option<Message> {
        self.messages.dequeue()
    }
}

/// The receiver is too far behind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Full;
