//! The control queue: commands to the device, one at a time, never waited for.

use core::{
    sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed},
    task::Poll,
    time::Duration,
};

use parakernel_core::{
    memory::{DmaBlock, PAGE_SIZE},
    mmio::Registers,
    ring::Position,
    time::{Deadline, Instant},
};

use crate::{
    error::CommandError,
    features::Features,
    link::MacAddress,
    notify::NotifyRegister,
    steering::{CLASSES, Classes, KEY, KEY_LEN},
    transport::RingAddresses,
    virtqueue::{
        DescriptorFlags, Entry, TransmitFormat, low16,
        packed::Packed,
        split::{Split, USED_OFFSET},
    },
};

/// Entries of the control queue: a command is a chain of two.
const ENTRIES: usize = 4;

/// The same, as queue registers hold it.
pub(crate) const ENTRY_COUNT: u16 = 4;
const _: () = assert!(ENTRY_COUNT as usize == ENTRIES);

/// How long a command may take. The specification names no limit; Linux waits for ever, and was seen to hang.
pub const TIME_LIMIT: Duration = Duration::from_secs(1);

/// A command, §5.1.6.5.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Command<'a> {
    /// Receive all frames, or not; `CTRL_RX`.
    Promiscuous(bool),
    /// Receive all multicast frames, or not; `CTRL_RX`.
    AllMulticast(bool),
    /// Receive frames for these addresses besides the device's own; `CTRL_RX`. Devices may let more through.
    MacTable {
        /// Addresses of one station.
        unicast: &'a [MacAddress],
        /// Addresses of several.
        multicast: &'a [MacAddress],
    },
    /// Sets the device's own address; `CTRL_MAC_ADDR`.
    MacAddress(MacAddress),
    /// Receive frames with this VLAN identifier, 0 to 4095, too; `CTRL_VLAN`.
    AddVlan(u16),
    /// No longer; `CTRL_VLAN`.
    RemoveVlan(u16),
    /// Use the first so many pairs, at least one; `MQ`. The device then steers by what it learned from sent frames, which
    /// whoever sends can turn to itself: never a partition.
    Pairs(u16),
    /// Steer by exact classes of the IPv4 destination address, with this many pairs to send from; `RSS`.
    Steer {
        /// Where frames go.
        classes: &'a Classes,
        /// Pairs that may be sent from.
        pairs: u16,
    },
}

impl Command<'_> {
    /// Class and command, §5.1.6.5, and the feature without which it may not be sent.
    pub(crate) const fn code(&self) -> ([u8; 2], Features) {
        match self {
            Self::Promiscuous(_) => ([0, 0], Features::CTRL_RX),
            Self::AllMulticast(_) => ([0, 1], Features::CTRL_RX),
            Self::MacTable { .. } => ([1, 0], Features::CTRL_RX),
            Self::MacAddress(_) => ([1, 1], Features::CTRL_MAC_ADDR),
            Self::AddVlan(_) => ([2, 0], Features::CTRL_VLAN),
            Self::RemoveVlan(_) => ([2, 1], Features::CTRL_VLAN),
            Self::Pairs(_) => ([4, 0], Features::MQ),
            Self::Steer { .. } => ([4, 1], Features::RSS),
        }
    }

    /// Writes what follows class and command.
    fn write(&self, out: &mut Writer<'_>) {
        match *self {
            Self::Promiscuous(on) | Self::AllMulticast(on) => out.bytes(&[u8::from(on)]),
            Self::MacTable { unicast, multicast } => {
                for table in [unicast, multicast] {
                    let count = u32::try_from(table.len()).unwrap_or(u32::MAX);
                    out.bytes(&count.to_le_bytes());
                    table.iter().for_each(|address| out.bytes(address));
                }
            }
            Self::MacAddress(address) => out.bytes(&address),
            Self::AddVlan(number) | Self::RemoveVlan(number) | Self::Pairs(number) => {
                out.bytes(&number.to_le_bytes());
            }
            Self::Steer { classes, pairs } => write_rss(out, classes, pairs),
        }
    }
}

/// `virtio_net_rss_config`, §5.1.6.5.7.1: a receive queue is named by half its index, which is its pair's number.
fn write_rss(out: &mut Writer<'_>, classes: &Classes, pairs: u16) {
    #[expect(clippy::cast_possible_truncation, reason = "127")]
    const MASK: u16 = (CLASSES - 1) as u16;
    #[expect(clippy::cast_possible_truncation, reason = "40")]
    const KEY_BYTES: u8 = KEY_LEN as u8;
    out.bytes(&Classes::HASH_TYPES.bits().to_le_bytes());
    out.bytes(&MASK.to_le_bytes());
    out.bytes(&classes.default.to_le_bytes());
    for pair in classes.pairs {
        out.bytes(&pair.to_le_bytes());
    }
    out.bytes(&pairs.to_le_bytes());
    out.bytes(&[KEY_BYTES]);
    out.bytes(&KEY.key::<KEY_LEN>());
}

/// Fills the command buffer; remembers whether it was too small.
struct Writer<'a> {
    bytes: &'a [AtomicU8],
    len: usize,
}

impl Writer<'_> {
    fn bytes(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if let Some(place) = self.bytes.get(self.len) {
                place.store(byte, Relaxed);
            }
            self.len += 1;
        }
    }
}

/// Where the parts of the queue lie in its page.
mod place {
    pub(super) const DRIVER: usize = 64;
    pub(super) const DEVICE: usize = 128;
    pub(super) const ACK: usize = 192;
    pub(super) const COMMAND: usize = 256;
}

/// The ring in one of its two layouts.
#[derive(Debug)]
enum Ring<'a> {
    Split(Split<'a, ENTRIES>),
    Packed(Packed<'a, ENTRIES>),
}

/// What the queue is doing.
#[derive(Debug)]
enum State {
    Idle,
    Waiting(Deadline),
    Broken,
}

/// A chain of a command: the bytes that the device reads, and the one that it writes.
#[derive(Clone, Copy)]
struct Chain {
    command: u64,
    len: u32,
    ack: u64,
}

/// The control queue.
#[derive(Debug)]
pub(crate) struct ControlQueue<'a> {
    page: DmaBlock<'a>,
    ring: Ring<'a>,
    /// Chains so far.
    chains: Position,
    register: NotifyRegister,
    state: State,
}

impl<'a> ControlQueue<'a> {
    /// A queue in `page`, whose register is `register`; `None` where the page is none.
    pub(crate) fn new(
        page: DmaBlock<'a>,
        features: Features,
        register: NotifyRegister,
    ) -> Option<Self> {
        let memory = page.memory();
        if page.len() < PAGE_SIZE || !page.bus_address().is_aligned(PAGE_SIZE as u64) {
            return None;
        }
        let ring = if features.contains(Features::RING_PACKED) {
            let events = memory.part(place::DRIVER, place::ACK - place::DRIVER)?;
            Ring::Packed(Packed::new(memory, memory, events)?)
        } else {
            let available = memory.part(place::DRIVER, place::DEVICE - place::DRIVER)?;
            let used = memory.part(place::DEVICE, place::ACK - place::DEVICE)?;
            Ring::Split(Split::new(memory, available, used)?)
        };
        Some(Self {
            page,
            ring,
            chains: Position::START,
            register,
            state: State::Idle,
        })
    }

    /// The page, zeroed, of a queue that the device no longer uses.
    pub(crate) fn into_page(self) -> DmaBlock<'a> {
        let words = PAGE_SIZE / size_of::<AtomicU64>();
        let words = self.page.memory().slice::<AtomicU64>(0, words);
        words
            .unwrap_or_default()
            .iter()
            .for_each(|word| word.store(0, Relaxed));
        self.page
    }

    /// Where the device finds the ring.
    pub(crate) fn addresses(&self) -> RingAddresses {
        let device = match self.ring {
            Ring::Split(_) => place::DEVICE + USED_OFFSET,
            Ring::Packed(_) => place::DEVICE,
        };
        RingAddresses::in_block(&self.page, ENTRY_COUNT, [0, place::DRIVER, device])
    }

    /// Hands a command to the device.
    pub(crate) fn begin(
        &mut self,
        command: &Command<'_>,
        registers: &impl Registers,
        now: Instant,
    ) -> Result<(), CommandError> {
        match self.state {
            State::Idle => {}
            State::Waiting(_) => return Err(CommandError::Busy),
            State::Broken => return Err(CommandError::Broken),
        }
        let chain = self.write(command).ok_or(CommandError::Argument)?;
        let at = self.chains.advanced(self.chains.as_u32());
        self.chains = self.chains.after();
        let data = match &self.ring {
            Ring::Split(ring) => post(ring, at, self.chains, chain),
            Ring::Packed(ring) => post(ring, at, self.chains, chain),
        };
        self.register.notify(registers, data);
        self.state = State::Waiting(Deadline::after(now, TIME_LIMIT));
        Ok(())
    }

    /// Looks whether the device has answered.
    pub(crate) fn poll(&mut self, now: Instant) -> Poll<Result<(), CommandError>> {
        let deadline = match self.state {
            State::Idle => return Poll::Ready(Ok(())),
            State::Broken => return Poll::Ready(Err(CommandError::Broken)),
            State::Waiting(deadline) => deadline,
        };
        let chain = self.chains.advanced(u32::MAX);
        let answer = match &self.ring {
            Ring::Split(ring) => answer(ring, chain),
            Ring::Packed(ring) => answer(ring, chain),
        };
        match answer {
            Ok(true) => {
                self.state = State::Idle;
                Poll::Ready(self.acknowledged())
            }
            Ok(false) => match deadline.check(now) {
                Ok(()) => Poll::Pending,
                Err(timeout) => {
                    self.state = State::Broken;
                    Poll::Ready(Err(CommandError::Timeout(timeout)))
                }
            },
            Err(error) => {
                self.state = State::Broken;
                Poll::Ready(Err(error))
            }
        }
    }

    /// Writes the command's bytes; `None` where they do not fit.
    fn write(&self, command: &Command<'_>) -> Option<Chain> {
        let memory = self.page.memory();
        let mut writer = Writer {
            bytes: memory.slice(place::COMMAND, PAGE_SIZE - place::COMMAND)?,
            len: 0,
        };
        let (code, _) = command.code();
        writer.bytes(&code);
        command.write(&mut writer);
        if writer.len > writer.bytes.len() {
            return None;
        }
        memory
            .view::<AtomicU8>(place::ACK)?
            .store(NO_ANSWER, Relaxed);
        let bus = self.page.bus_address();
        Some(Chain {
            command: bus.checked_add(place::COMMAND as u64)?.as_u64(),
            len: u32::try_from(writer.len).ok()?,
            ack: bus.checked_add(place::ACK as u64)?.as_u64(),
        })
    }

    fn acknowledged(&self) -> Result<(), CommandError> {
        let answer = self.page.memory().view::<AtomicU8>(place::ACK);
        match answer.map_or(NO_ANSWER, |byte| byte.load(Relaxed)) {
            0 => Ok(()),
            other => Err(CommandError::Refused(other)),
        }
    }
}

/// Not one of the answers, `VIRTIO_NET_OK` (0) and `VIRTIO_NET_ERR` (1).
const NO_ANSWER: u8 = 0xFF;

/// Makes the chain available whose first descriptor is at `at`, and which ends the first `chains`; returns what a
/// notification says of it.
fn post<F: TransmitFormat>(ring: &F, at: Position, chains: Position, chain: Chain) -> u16 {
    let head = head(at);
    let ack = Entry {
        address: chain.ack,
        len: 1,
        flags: DescriptorFlags::WRITE,
    };
    let command = Entry {
        address: chain.command,
        len: chain.len,
        flags: DescriptorFlags::NEXT,
    };
    ring.write(at.after(), head, ack);
    ring.write(at, head, command);
    ring.offer(chains.advanced(u32::MAX), head);
    let tail = F::tail(at.advanced(2), chains);
    ring.publish(tail);
    F::notification_data(tail)
}

/// Whether chain number `chain` came back.
fn answer<F: TransmitFormat>(ring: &F, chain: Position) -> Result<bool, CommandError> {
    let at = Position::new(chain.as_u32().wrapping_mul(F::used_step(2)));
    let ready = ring.ready(at, 1).map_err(|_| CommandError::Broken)?;
    let Some(used) = ring.used(at).filter(|_| ready > 0) else {
        return Ok(false);
    };
    let expected = head(chain.advanced(chain.as_u32()));
    if used.id == u32::from(expected) && used.len <= 1 {
        Ok(true)
    } else {
        Err(CommandError::Broken)
    }
}

/// The id of the chain that starts at `at`: its slot.
fn head(at: Position) -> u16 {
    low16(at) & (ENTRY_COUNT - 1)
}
