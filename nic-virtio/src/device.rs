//! The control half: the device from its reset to its queues, one named step after the other.

use core::{task::Poll, time::Duration};

use embedded_hal::delay::DelayNs;
use parakernel_core::{
    memory::{DmaBlock, PAGE_SIZE},
    mmio::Registers as _,
    time::{Deadline, Instant},
};

use crate::{
    control::{Command, ControlQueue},
    error::{CommandError, InitError, PairError},
    features::Features,
    link::{self, Limits, Link},
    notify::{Data, NotifyRegister},
    steering::{CLASSES, Classes, HashTypes, KEY_LEN},
    transport::{Cause, RingAddresses, Status, Transport},
    virtqueue::{Events, Order},
};

mod pair;
mod steps;

use steps::{go, negotiate, reset, set_config_vector, set_up_control, set_up_idle};

pub use pair::{Pair, PairRings, PairState, QUEUE_RESET_LIMIT, Queues, Vectors, Woken, queues_of};

/// How long a reset may take. The specification names no limit; devices that stop their queues first are seen to take
/// milliseconds.
pub const RESET_LIMIT: Duration = Duration::from_secs(1);

/// What [`Device::bring_up`] needs besides the device.
#[derive(Debug)]
pub struct Setup<'a> {
    /// Features to accept where the device offers them, such as [`Features::PARTITION`].
    pub wanted: Features,
    /// A page for the control queue.
    pub control: DmaBlock<'a>,
    /// A page for the ring of queues that nobody has claimed. The device finds nothing in it.
    pub idle: DmaBlock<'a>,
    /// Room for the state of as many queue pairs as are to be used.
    pub pairs: &'a mut [Pair],
    /// Where configuration changes are told, if anywhere.
    pub config_vector: Option<u16>,
    /// Bytes that each receive buffer, of whichever process, has room for behind the header; the caller answers for it. Without [`Features::MRG_RXBUF`] that is a frame's
    /// most: at least 1,514, or what the device's MTU allows if that is less; where its MTU allows more, `MTU` is not agreed
    /// on.
    pub capacity: usize,
}

/// A virtio network device in service.
#[derive(Debug)]
pub struct Device<'a, T> {
    transport: T,
    features: Features,
    limits: Limits,
    control: Control<'a>,
    pairs: &'a mut [Pair],
    config_vector: Option<u16>,
    /// The ring of queues that nobody has claimed.
    idle: RingAddresses,
    capacity: usize,
    reset: Option<Deadline>,
}

/// The control queue, or the page that it would need.
#[derive(Debug)]
enum Control<'a> {
    Queue(ControlQueue<'a>),
    None(DmaBlock<'a>),
    /// Neither: bringing the device up again has failed on the way.
    Lost,
}

impl<'a, T: Transport> Device<'a, T> {
    /// The most queue pairs that the device behind `transport` offers: so many [`Pair`]s in [`Setup::pairs`] are enough.
    #[must_use]
    pub fn most_pairs(transport: &T) -> u16 {
        link::most_pairs(transport)
    }

    /// Brings the device behind `transport` to service: the sequence of §3.1.1.
    ///
    /// No queue pair works yet: unclaimed ones have a ring with nothing in it.
    ///
    /// # Errors
    ///
    /// Where the device does not do what its specification says; it is then marked as failed.
    pub fn bring_up(
        transport: T,
        delay: &mut impl DelayNs,
        setup: Setup<'a>,
    ) -> Result<Self, InitError> {
        let result = reset(&transport, delay).and_then(|()| configure(&transport, setup));
        match result {
            Ok(parts) => Ok(parts.into_device(transport)),
            Err(error) => {
                transport.set_status(transport.status() | Status::FAILED);
                Err(error)
            }
        }
    }

    /// Resets the device: all queues of all leases end with it, and rings and buffers are the device's until
    /// [`poll_reset`](Self::poll_reset) says that it is done.
    pub fn begin_reset(&mut self, now: Instant) {
        self.transport.set_status(Status::empty());
        self.reset = Some(Deadline::after(now, RESET_LIMIT));
        self.pairs.iter_mut().for_each(|pair| *pair = Pair::EMPTY);
    }

    /// Looks whether the reset is done, and brings the device to service again; steering and filters are as at first.
    ///
    /// # Errors
    ///
    /// [`InitError::Reset`] where the device does not come out of its reset in time, and as
    /// [`bring_up`](Self::bring_up). Then the device must be kept from memory: bus mastering off.
    pub fn poll_reset(&mut self, now: Instant) -> Poll<Result<(), InitError>> {
        let Some(deadline) = self.reset else {
            return Poll::Ready(Ok(()));
        };
        let status = self.transport.status();
        if !status.is_empty() {
            return match deadline.check(now) {
                Ok(()) => Poll::Pending,
                Err(_) if status.is_gone() => Poll::Ready(Err(InitError::Removed)),
                Err(timeout) => Poll::Ready(Err(InitError::Reset(timeout))),
            };
        }
        self.reset = None;
        let result = self.configure_again();
        if result.is_err() {
            self.transport
                .set_status(self.transport.status() | Status::FAILED);
        }
        Poll::Ready(result)
    }

    fn configure_again(&mut self) -> Result<(), InitError> {
        let page = match core::mem::replace(&mut self.control, Control::Lost) {
            Control::Queue(queue) => queue.into_page(),
            Control::None(page) => page,
            Control::Lost => return Err(InitError::Memory),
        };
        self.features = negotiate(&self.transport, self.features, self.capacity)?;
        self.limits = link::limits(&self.transport, self.features)?;
        self.control = set_up_control(&self.transport, self.features, &self.limits, page)?;
        set_up_idle(&self.transport, self.features, self.pairs, &self.idle)?;
        self.config_vector = set_config_vector(&self.transport, self.config_vector);
        go(&self.transport)
    }

    /// What device and driver agreed on.
    #[must_use]
    pub const fn features(&self) -> Features {
        self.features
    }

    /// What the device can do.
    #[must_use]
    pub const fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The transport.
    #[must_use]
    pub const fn transport(&self) -> &T {
        &self.transport
    }

    /// Whether configuration changes have an interrupt vector; else look at the link now and then.
    #[must_use]
    pub const fn has_config_vector(&self) -> bool {
        self.config_vector.is_some()
    }

    /// How notifications are suppressed on this device's queues.
    #[must_use]
    pub const fn events(&self) -> Events {
        if self.features.contains(Features::EVENT_IDX) {
            Events::Index
        } else {
            Events::Flags
        }
    }

    /// In which order this device returns buffers.
    #[must_use]
    pub const fn order(&self) -> Order {
        if self.features.contains(Features::IN_ORDER) {
            Order::InOrder
        } else {
            Order::Any
        }
    }

    /// The state of the link.
    ///
    /// # Errors
    ///
    /// [`InitError::ConfigUnstable`] where the configuration changed at each of several attempts to read it.
    pub fn link(&self) -> Result<Link, InitError> {
        link::link(&self.transport, self.features)
    }

    /// Whether the device has failed, and does no more before it is reset, or is gone.
    #[must_use]
    pub fn needs_reset(&self) -> bool {
        let status = self.transport.status();
        status.contains(Status::DEVICE_NEEDS_RESET) || !status.contains(Status::DRIVER_OK)
    }

    /// Why the device interrupted; reading it acknowledges the interrupt.
    ///
    /// Only for interrupts that do not tell by their number: those of MMIO devices and PCI lines.
    #[must_use]
    pub fn take_cause(&self) -> Cause {
        self.transport.take_cause()
    }

    /// Hands a command to the device, which answers later: see [`poll_command`](Self::poll_command).
    ///
    /// # Errors
    ///
    /// [`CommandError::Unsupported`] where its feature was not agreed on, [`CommandError::Busy`] while another is
    /// under way, [`CommandError::Argument`] where it names a queue that is not enabled or does not fit.
    pub fn begin_command(
        &mut self,
        command: &Command<'_>,
        now: Instant,
    ) -> Result<(), CommandError> {
        let (_, needed) = command.code();
        if !self.features.contains(needed) {
            return Err(CommandError::Unsupported);
        }
        self.check_pairs(command)?;
        let Control::Queue(control) = &mut self.control else {
            return Err(CommandError::Unsupported);
        };
        control.begin(command, self.transport.notify_registers(), now)
    }

    /// Looks whether the device has carried out the last command; ready at once where none is under way.
    ///
    /// # Errors
    ///
    /// What the device answered, or that it did not within [`TIME_LIMIT`](crate::control::TIME_LIMIT).
    pub fn poll_command(&mut self, now: Instant) -> Poll<Result<(), CommandError>> {
        match &mut self.control {
            Control::Queue(control) => control.poll(now),
            Control::None(_) | Control::Lost => Poll::Ready(Ok(())),
        }
    }

    /// "Fill the table only with enabled receive queues" (§5.1.6.5.7.1), and "configure the queues before enabling
    /// them" (§5.1.6.5.5.1).
    fn check_pairs(&self, command: &Command<'_>) -> Result<(), CommandError> {
        let is_enabled = |pair: u16| {
            let slot = self.pairs.get(usize::from(pair));
            slot.is_some_and(Pair::is_enabled)
        };
        let is_right = match *command {
            Command::Pairs(count) => count > 0 && (0..count).all(is_enabled),
            Command::Steer { classes, pairs } => {
                pairs > classes.largest()
                    && usize::from(pairs) <= self.pairs.len()
                    && self.can_steer()
                    && classes.pairs.iter().copied().all(is_enabled)
                    && is_enabled(classes.default)
            }
            Command::AddVlan(id) | Command::RemoveVlan(id) => id < 4096,
            Command::Promiscuous(_)
            | Command::AllMulticast(_)
            | Command::MacTable { .. }
            | Command::MacAddress(_) => true,
        };
        if is_right {
            Ok(())
        } else {
            Err(CommandError::Argument)
        }
    }

    /// Whether the device hashes what [`Classes`] are made of, with a key and a table as long.
    #[must_use]
    pub fn can_steer(&self) -> bool {
        let types = HashTypes::from_bits_truncate(self.limits.hash_types);
        types.contains(Classes::HASH_TYPES)
            && usize::from(self.limits.rss_entries) >= CLASSES
            && usize::from(self.limits.rss_key_len) >= KEY_LEN
    }

    /// The notification register of queue `queue`.
    ///
    /// # Errors
    ///
    /// [`PairError::Refused`] where it lies outside the notification registers.
    pub fn notify_register(&self, queue: u16) -> Result<NotifyRegister, PairError> {
        notify_register(&self.transport, self.features, queue).ok_or(PairError::Refused { queue })
    }

    /// Whether the page with the notification register of `queue` holds no other queue's, so that it may be given away.
    ///
    /// That is so with a multiplier of a page and more, as QEMU has it with `page-per-vq=on`, where the structure
    /// itself begins at a page; the caller answers for that, who mapped it.
    #[must_use]
    pub fn has_doorbell_page(&self, queue: u16) -> bool {
        let address = self.transport.notify_address(queue);
        let stride = self.transport.notify_stride();
        stride >= PAGE_SIZE
            && stride.is_multiple_of(PAGE_SIZE)
            && address.is_some_and(|address| address.offset.is_multiple_of(PAGE_SIZE))
    }

    /// Ends all service: resets the device, so that it no longer touches memory, and gives the transport back.
    ///
    /// Every queue of every lease ends with it.
    ///
    /// # Errors
    ///
    /// [`InitError::Reset`] where the device does not confirm: then its memory must stay as it is, and its bus mastering
    /// be turned off.
    pub fn shut_down(self, delay: &mut impl DelayNs) -> Result<T, InitError> {
        reset(&self.transport, delay)?;
        Ok(self.transport)
    }
}

/// What bring-up made.
struct Parts<'a> {
    features: Features,
    limits: Limits,
    control: Control<'a>,
    pairs: &'a mut [Pair],
    config_vector: Option<u16>,
    /// The ring of queues that nobody has claimed.
    idle: RingAddresses,
    capacity: usize,
}

impl<'a> Parts<'a> {
    fn into_device<T>(self, transport: T) -> Device<'a, T> {
        Device {
            transport,
            features: self.features,
            limits: self.limits,
            control: self.control,
            pairs: self.pairs,
            config_vector: self.config_vector,
            idle: self.idle,
            capacity: self.capacity,
            reset: None,
        }
    }
}

/// All steps but the first, none of which waits.
fn configure<'a, T: Transport>(transport: &T, setup: Setup<'a>) -> Result<Parts<'a>, InitError> {
    let features = negotiate(transport, setup.wanted, setup.capacity)?;
    let limits = link::limits(transport, features)?;
    let control = set_up_control(transport, features, &limits, setup.control)?;
    let count = setup.pairs.len().min(limits.pairs.into());
    let pairs = setup.pairs.get_mut(..count).ok_or(InitError::Memory)?;
    let idle = pair::idle_ring(&setup.idle).ok_or(InitError::Memory)?;
    set_up_idle(transport, features, pairs, &idle)?;
    let config_vector = set_config_vector(transport, setup.config_vector);
    go(transport)?;
    Ok(Parts {
        features,
        limits,
        control,
        pairs,
        config_vector,
        idle,
        capacity: setup.capacity,
    })
}

/// The notification register of a queue; `None` where it does not lie inside the registers.
fn notify_register<T: Transport>(
    transport: &T,
    features: Features,
    queue: u16,
) -> Option<NotifyRegister> {
    let address = transport.notify_address(queue)?;
    let (data, width) = if features.contains(Features::NOTIFICATION_DATA) {
        (Data::IndexAndTail, 4)
    } else {
        (Data::Index, if address.wide { 4 } else { 2 })
    };
    let end = address.offset.checked_add(width)?;
    (end <= transport.notify_registers().len()).then_some(NotifyRegister {
        queue,
        address,
        data,
    })
}
