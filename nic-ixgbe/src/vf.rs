//! A virtual function: queues of its own on a port that another driver owns.
//!
//! It is a PCI function of its own (8086:10ED), with its own registers and its own requester id, so a process may have it as a
//! whole (`Direct`) behind an IOMMU. The data half is that of a port's queues. What it does not have it asks its port's driver
//! for, through a mailbox: which address it has, how many queues, which groups. That driver may be
//! [this one](crate::functions), or Linux'.
//!
//! As on a port, only [`bring_up`](Function::bring_up) waits. When the port is reset, everything ends: see
//! [`was_reset`](Function::was_reset).

use core::{task::Poll, time::Duration};

use embedded_hal::delay::DelayNs;
use parakernel_core::{
    mmio::{Registers, Window},
    steering::{Mac, Vlan},
    time::Instant,
};

use crate::{
    device::{Pair, Vector},
    error::VfError,
    message,
    regs::function::{FUNCTION_BAR_LEN, FunctionBlock, Vfstatus},
};

mod interrupt;
mod mailbox;
mod queues;
mod start;
mod stats;

pub use mailbox::MESSAGE_LIMIT;
use mailbox::Mailbox;
use start::Start;
pub use stats::FunctionStatistics;

/// The device id of an 82599's virtual function (§9.5).
pub const DEVICE_ID: u16 = 0x10ED;

/// How many vectors a virtual function has, §8.3.5.
pub const VECTORS: u8 = 3;

/// How often registers are looked at during bring-up.
const INTERVAL: Duration = Duration::from_micros(50);

/// What a virtual function can ask for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Request<'r> {
    /// To have this address.
    Mac(Mac),
    /// To be in this VLAN.
    Join(Vlan),
    /// To be in it no more.
    Leave(Vlan),
    /// To get frames to these groups, 30 at most, and no others.
    Groups(&'r [Mac]),
    /// To get frames of up to so many bytes, their CRC not counted.
    MaxFrame(u16),
}

impl Request<'_> {
    /// The words of the message, which may be shorter than they are.
    fn to_words(self) -> Result<message::Words, VfError> {
        let mut words = [0; 16];
        let [head, first, second, ..] = &mut words;
        match self {
            Self::Mac(mac) => {
                *head = message::head(message::SET_MAC, 0);
                [*first, *second] = message::mac_words(mac);
            }
            Self::Join(vlan) => {
                *head = message::head(message::SET_VLAN, 1);
                *first = vlan.id().into();
            }
            Self::Leave(vlan) => {
                *head = message::head(message::SET_VLAN, 0);
                *first = vlan.id().into();
            }
            Self::MaxFrame(len) => {
                *head = message::head(message::SET_MAX_FRAME, 0);
                *first = u32::from(len) + 4;
            }
            Self::Groups(groups) => write_groups(groups, &mut words)?,
        }
        Ok(words)
    }
}

/// Two places of the port's table in each word.
fn write_groups(groups: &[Mac], words: &mut message::Words) -> Result<(), VfError> {
    let count = u8::try_from(groups.len()).ok();
    let count = count.filter(|&it| usize::from(it) <= message::MAX_GROUPS);
    let count = count.ok_or(VfError::Groups)?;
    if !groups.iter().all(|mac| mac.is_group()) {
        return Err(VfError::Groups);
    }
    let [head, rest @ ..] = words;
    *head = message::head(message::SET_MULTICAST, count);
    for (word, pair) in rest.iter_mut().zip(groups.chunks(2)) {
        let hash = |mac: &Mac| u32::from(message::group_hash(*mac));
        let [low, high] = [pair.first(), pair.get(1)].map(|mac| mac.map_or(0, hash));
        *word = low | high << 16;
    }
    Ok(())
}

/// A virtual function in service.
#[derive(Debug)]
pub struct Function<'a, R> {
    registers: R,
    pairs: &'a mut [Pair],
    mailbox: Mailbox,
    start: Start,
    mac: Mac,
    queues: u8,
}

impl<'a, R: Registers> Function<'a, R> {
    /// Brings the function behind `registers`, its BAR 0, to service; `pairs` has room for the state of as many queue pairs as
    /// are to be used.
    ///
    /// # Errors
    ///
    /// Where the function or its port's driver does not do what it should; [`VfError::NotReady`] where that is not there yet,
    /// [`VfError::Refused`] where it grants the function nothing.
    pub fn bring_up(
        registers: R,
        delay: &mut impl DelayNs,
        pairs: &'a mut [Pair],
    ) -> Result<Self, VfError> {
        let mut function = Self {
            registers,
            pairs,
            mailbox: Mailbox::default(),
            start: Start::DONE,
            mac: Mac([0; 6]),
            queues: 1,
        };
        function.check_registers()?;
        let mut now = Instant::default();
        function.begin_reset(now);
        // Each step has a limit of its own, so this ends.
        loop {
            match function.poll_reset(now) {
                Poll::Ready(result) => return result.map(|()| function),
                Poll::Pending => delay.delay_us(50),
            }
            now = now.saturating_add(INTERVAL);
        }
    }

    fn check_registers(&self) -> Result<(), VfError> {
        if self.registers.len() < FUNCTION_BAR_LEN {
            return Err(VfError::Registers {
                len: self.registers.len(),
            });
        }
        if self.is_gone() {
            return Err(VfError::Removed);
        }
        Ok(())
    }

    /// Whether the function is gone: its registers read as all ones.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        use parakernel_core::mmio::Register as _;
        self.window().read::<Vfstatus>().bits() == u64::from(u32::MAX)
    }

    /// The address that the port's driver gave the function.
    #[must_use]
    pub const fn mac(&self) -> Mac {
        self.mac
    }

    /// The registers.
    #[must_use]
    pub const fn registers(&self) -> &R {
        &self.registers
    }

    /// Whether the port was reset since the function was: its queues have stopped, and it has to be reset too. To be asked
    /// whenever the mailbox's vector comes.
    pub fn was_reset(&mut self) -> bool {
        let Self {
            registers, mailbox, ..
        } = self;
        mailbox.was_reset(&Window::new(registers, 0))
    }

    /// Asks the port's driver for something; one thing at a time.
    ///
    /// # Errors
    ///
    /// [`VfError::Busy`] while something else is asked for or the function is not in service, [`VfError::Groups`] for more than
    /// 30 groups, or for what is no group's address.
    pub fn begin_request(&mut self, request: Request<'_>, now: Instant) -> Result<(), VfError> {
        if !self.start.is_done() {
            return Err(VfError::Busy);
        }
        let words = request.to_words()?;
        self.mailbox.begin(words, now)
    }

    /// Looks whether the port's driver has answered; asked again, it says the same.
    ///
    /// # Errors
    ///
    /// [`VfError::Refused`] where it said no, [`VfError::NoAnswer`] where it did not say anything in time,
    /// [`VfError::Reset`] where the port was reset meanwhile.
    pub fn poll_request(&mut self, now: Instant) -> Poll<Result<(), VfError>> {
        let Self {
            registers, mailbox, ..
        } = self;
        let answer = mailbox.poll(registers, now);
        answer.map(|result| result.map(|_words| ()))
    }

    const fn window(&self) -> Window<&R, FunctionBlock> {
        Window::new(&self.registers, 0)
    }
}

/// A vector of the function, below [`VECTORS`].
const fn own_vector(vector: Vector) -> Option<u8> {
    if vector.number() < VECTORS {
        Some(vector.number())
    } else {
        None
    }
}
