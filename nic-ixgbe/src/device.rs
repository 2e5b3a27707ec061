//! The control half: the port from its reset to its queues, one named step after the other.
//!
//! It owns the port's registers, except that it hands out tails. Only [`bring_up`](Device::bring_up) waits; everything
//! after is begun, and then polled with the time.

use core::{task::Poll, time::Duration};

use embedded_hal::delay::DelayNs;
use parakernel_core::{
    address::NodeId,
    mmio::{Register, Registers, Window},
    steering::Mac,
    time::Instant,
};

use crate::{
    director,
    error::InitError,
    id::Kind,
    pause::Pauses,
    pool::POOLS,
    regs::{BAR_LEN, PortBlock, Status},
};

mod claim;
mod configure;
mod halves;
mod pair;
mod ring;
mod start;

pub use halves::Halves;
pub(crate) use pair::Queues;
pub use pair::{GRACE, Pair, PairRings, PairState, QUEUE_LIMIT, Sides, Vector};
pub use ring::{ReceiveRing, Tags, TransmitRing};
use start::Start;

/// How often registers are looked at during bring-up.
const INTERVAL: Duration = Duration::from_micros(50);

/// How the port's queues are shared out; fixed at bring-up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Sharing {
    /// 128 queues; five-tuple and `EtherType` filters lead frames to them, and the rest goes to queue 0.
    Queues,
    /// 64 pools of two queues each; MAC addresses and VLANs lead frames to pools, and the rest goes to the
    /// [kernel's](Device::kernel_pool).
    Pools,
}

/// What [`Device::bring_up`] needs besides the registers.
#[derive(Debug)]
pub struct Setup<'a> {
    /// What the port's PCI id says it is.
    pub kind: Kind,
    /// Room for the state of as many queue pairs as are to be used, at most 128. With room for all of them no queue is left
    /// that drops: see [`Device::drop_queue`].
    pub pairs: &'a mut [Pair],
    /// The longest frame, in bytes, its CRC not counted; up to 15,868: the MAC takes 15,872 with it.
    pub max_frame: u16,
    /// How queues are shared out.
    pub sharing: Sharing,
    /// The NUMA node that the port hangs on, as the platform says: memory for its queues is to come from there.
    pub node: NodeId,
    /// Which pauses of the link there are; on a backplane, which are offered.
    pub pauses: Pauses,
    /// How many of the first pools are virtual functions', up to 63; only with pools. That they exist is for the PCI
    /// configuration to say: [`SrIov`](parakernel_core::pci::SrIov).
    pub functions: u8,
    /// The Flow Director, where there is to be one: not with pools.
    pub director: Option<director::Config>,
}

impl<'a> Setup<'a> {
    /// A port of this kind with room for these pairs: frames of up to 1,514 bytes, no pools, no Flow Director, on node 0.
    #[must_use]
    pub const fn new(kind: Kind, pairs: &'a mut [Pair]) -> Self {
        Self {
            kind,
            pairs,
            max_frame: 1514,
            sharing: Sharing::Queues,
            node: NodeId::new(0),
            pauses: Pauses::None,
            functions: 0,
            director: None,
        }
    }
}

/// A port in service.
#[derive(Debug)]
pub struct Device<'a, R> {
    registers: R,
    kind: Kind,
    pairs: &'a mut [Pair],
    max_frame: u16,
    sharing: Sharing,
    node: NodeId,
    pauses: Pauses,
    pub(crate) functions: u8,
    director: Option<director::Config>,
    mac: Mac,
    /// The EEPROM's checksum is right.
    has_right_sum: bool,
    start: Start,
}

impl<'a, R: Registers> Device<'a, R> {
    /// Brings the port behind `registers`, its BAR 0, to service: the sequence of §4.6.3.
    ///
    /// No queue works yet, so every frame is dropped, and the link may take seconds to come up.
    ///
    /// # Errors
    ///
    /// Where the port does not do what its datasheet says.
    pub fn bring_up(
        registers: R,
        delay: &mut impl DelayNs,
        setup: Setup<'a>,
    ) -> Result<Self, InitError> {
        let mut device = Self {
            registers,
            kind: setup.kind,
            pairs: setup.pairs,
            max_frame: setup.max_frame,
            sharing: setup.sharing,
            node: setup.node,
            pauses: setup.pauses,
            functions: setup.functions,
            director: setup.director,
            mac: Mac([0; 6]),
            has_right_sum: false,
            start: Start::DONE,
        };
        device.check_registers()?;
        device.check_director()?;
        device.check_functions()?;
        let mut now = Instant::default();
        device.begin_reset(now);
        // Each step has a limit of its own, so this ends.
        loop {
            match device.poll_reset(now) {
                Poll::Ready(result) => return result.map(|()| device),
                Poll::Pending => delay.delay_us(50),
            }
            now = now.saturating_add(INTERVAL);
        }
    }

    /// The registers are there, as many as there must be.
    fn check_registers(&self) -> Result<(), InitError> {
        if self.registers.len() < BAR_LEN {
            return Err(InitError::Registers {
                len: self.registers.len(),
            });
        }
        if self.is_gone() {
            return Err(InitError::Removed);
        }
        Ok(())
    }

    /// The Flow Director can be as it is wanted.
    fn check_director(&self) -> Result<(), InitError> {
        let is_right = self
            .director
            .is_none_or(|config| self.sharing == Sharing::Queues && config.masks.are_valid());
        is_right.then_some(()).ok_or(InitError::Masks)
    }

    /// There is a pool left for the kernel.
    fn check_functions(&self) -> Result<(), InitError> {
        let most = match self.sharing {
            Sharing::Queues => 0,
            Sharing::Pools => POOLS - 1,
        };
        if self.functions > most {
            return Err(InitError::Functions(self.functions));
        }
        Ok(())
    }

    /// Whether the port is gone: its registers read as all ones. Reserved bits of [`Status`] are 0 otherwise.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.port().read::<Status>().bits() == u64::from(u32::MAX)
    }

    /// The address that the EEPROM gave the port.
    #[must_use]
    pub const fn mac(&self) -> Mac {
        self.mac
    }

    /// What the port is.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// The NUMA node that the port hangs on.
    #[must_use]
    pub const fn node(&self) -> NodeId {
        self.node
    }

    /// The longest frame, its CRC not counted.
    #[must_use]
    pub const fn max_frame(&self) -> u16 {
        self.max_frame
    }

    /// How queues are shared out.
    #[must_use]
    pub const fn sharing(&self) -> Sharing {
        self.sharing
    }

    /// Which pauses of the link were asked for at bring-up.
    #[must_use]
    pub const fn wanted_pauses(&self) -> Pauses {
        self.pauses
    }

    /// What the Flow Director compares, where there is one.
    #[must_use]
    pub const fn director(&self) -> Option<&director::Config> {
        self.director.as_ref()
    }

    /// The registers.
    #[must_use]
    pub const fn registers(&self) -> &R {
        &self.registers
    }

    /// The registers that there is one of.
    pub(crate) const fn port(&self) -> Window<&R, PortBlock> {
        Window::new(&self.registers, 0)
    }

    /// The block of a row at `base`, which the row's own function has said.
    pub(crate) const fn row<B>(&self, base: usize) -> Window<&R, B> {
        Window::new(&self.registers, base)
    }

    /// Makes the port forget all that it was told, and gives the registers back: no queue touches memory any more.
    ///
    /// # Errors
    ///
    /// Where the reset does not end: then the port must be kept from memory, bus mastering off.
    pub fn shut_down(mut self, delay: &mut impl DelayNs) -> Result<R, InitError> {
        let mut now = Instant::default();
        self.begin_reset(now);
        while !self.start.is_quiet() {
            if let Poll::Ready(Err(error)) = self.poll_reset(now) {
                return Err(error);
            }
            delay.delay_us(50);
            now = now.saturating_add(INTERVAL);
        }
        Ok(self.registers)
    }
}
