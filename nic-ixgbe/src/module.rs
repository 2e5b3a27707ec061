//! The module in an SFP+ cage: what it is, read over I2C (§3.7.4, §8.2.3.1) by SFF-8472.
//!
//! The port's link is 10 Gb/s serial, without negotiation; a module that is not for that gives no link, or one that does not
//! last. So a kernel [identifies](Device::identify_module) it after bring-up and whenever one was plugged in, and says what is
//! wrong with it. The two wires of the bus are set bit by bit, which takes some ten milliseconds: not for between two frames.

use core::time::Duration;

use embedded_hal::delay::DelayNs;
use parakernel_core::mmio::{Register, Registers};

use crate::{
    device::Device,
    error::ModuleError,
    regs::{I2cctl, Status, SwFwSync},
};

/// Bytes of the first page that say what a module is, the last one their sum (SFF-8472, 4.1).
const IDENTITY: usize = 64;

/// Address of that page on the bus; with bit 0 to read.
const PAGE: u8 = 0xA0;

/// How long the firmware may keep the bus.
const SEMAPHORE_TRIES: u32 = 200;
const SEMAPHORE_PAUSE_MS: u32 = 5;

/// Half a clock of 100 kHz.
const HALF_US: u32 = 5;

/// How long the module may hold the clock: 500 µs, as drivers let it.
const STRETCH_TRIES: u32 = 100;

/// How often a module is asked that does not answer.
const TRIES: u32 = 3;

/// A module that a port's link works with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum Module {
    /// A copper cable with nothing in it.
    PassiveCable,
    /// A copper cable with a limiting amplifier in it.
    ActiveCable,
    /// 10GBASE-SR: up to 400 m of multi-mode fibre.
    ShortRange,
    /// 10GBASE-LR: up to 10 km of single-mode fibre.
    LongRange,
}

impl Module {
    /// What these bytes say.
    ///
    /// # Errors
    ///
    /// [`ModuleError::NotSfp`], [`ModuleError::Checksum`], [`ModuleError::Unsupported`].
    fn new(page: &[u8; IDENTITY]) -> Result<Self, ModuleError> {
        const SFP: u8 = 3;
        const PASSIVE: u8 = 1 << 2;
        const ACTIVE: u8 = 1 << 3;
        const LIMITING: u8 = 1 << 2;
        const SHORT: u8 = 1 << 4;
        const LONG: u8 = 1 << 5;
        let [
            identifier,
            _,
            _,
            ten_gigabit,
            _,
            _,
            one_gigabit,
            _,
            cable,
            ..,
            sum,
        ] = *page;
        let [.., compliance, _, _, _] = *page;
        if identifier != SFP {
            return Err(ModuleError::NotSfp(identifier));
        }
        let all = page.iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte));
        if all.wrapping_sub(sum) != sum {
            return Err(ModuleError::Checksum);
        }
        match () {
            () if cable & PASSIVE != 0 => Ok(Self::PassiveCable),
            () if cable & ACTIVE != 0 && compliance & LIMITING != 0 => Ok(Self::ActiveCable),
            () if ten_gigabit & SHORT != 0 => Ok(Self::ShortRange),
            () if ten_gigabit & LONG != 0 => Ok(Self::LongRange),
            () => Err(ModuleError::Unsupported {
                ten_gigabit,
                one_gigabit,
                cable,
            }),
        }
    }
}

impl<R: Registers> Device<'_, R> {
    /// Says which module is in the cage. Waits for it: ten milliseconds, or a second where the firmware keeps the bus.
    ///
    /// # Errors
    ///
    /// [`ModuleError`]: without a module, with one that is not for this port, or that does not answer.
    pub fn identify_module(&self, delay: &mut impl DelayNs) -> Result<Module, ModuleError> {
        match self.has_module() {
            None => return Err(ModuleError::NoCage),
            Some(false) => return Err(ModuleError::Missing),
            Some(true) => {}
        }
        self.await_owner(delay, Change::Take)?;
        let mut bus = Bus {
            device: self,
            delay,
        };
        let mut page = [0; IDENTITY];
        let mut result = bus.read(&mut page);
        for _ in 1..TRIES {
            if result.is_ok() {
                break;
            }
            result = bus.clear().and_then(|()| bus.read(&mut page));
        }
        self.await_owner(delay, Change::GiveBack)?;
        result.and_then(|()| Module::new(&page))
    }

    /// Takes this port's bus from the firmware, or gives it back (§10.5.4).
    fn await_owner(&self, delay: &mut impl DelayNs, change: Change) -> Result<(), ModuleError> {
        let is_second = self.port().read::<Status>().field(Status::LAN_ID) & 1 == 1;
        let (mine, firmware) = if is_second {
            (SwFwSync::SW_PHY_SM1, SwFwSync::FW_PHY_SM1)
        } else {
            (SwFwSync::SW_PHY_SM0, SwFwSync::FW_PHY_SM0)
        };
        for _ in 0..SEMAPHORE_TRIES {
            let changed = self.change_owners(|sync| match change {
                Change::Take => {
                    let is_free = !sync.is_set(mine) && !sync.is_set(firmware);
                    is_free.then(|| sync.with(mine, 1))
                }
                Change::GiveBack => Some(sync.with(mine, 0)),
            });
            if changed {
                return Ok(());
            }
            delay.delay_ms(SEMAPHORE_PAUSE_MS);
        }
        let limit = Duration::from_millis((SEMAPHORE_TRIES * SEMAPHORE_PAUSE_MS).into());
        Err(ModuleError::Semaphore(parakernel_core::time::Timeout {
            limit,
        }))
    }
}

#[derive(Clone, Copy)]
enum Change {
    Take,
    GiveBack,
}

/// What the last byte is answered with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// More bytes are wanted.
    More,
    Enough,
}

/// The two wires.
struct Bus<'b, 'd, R, D> {
    device: &'b Device<'d, R>,
    delay: &'b mut D,
}

impl<R: Registers, D: DelayNs> Bus<'_, '_, R, D> {
    /// The first bytes of the page.
    fn read(&mut self, bytes: &mut [u8]) -> Result<(), ModuleError> {
        self.start()?;
        self.send(PAGE)?;
        self.send(0)?;
        self.start()?;
        self.send(PAGE | 1)?;
        let last = bytes.len().saturating_sub(1);
        for (index, byte) in bytes.iter_mut().enumerate() {
            let answer = if index == last {
                Answer::Enough
            } else {
                Answer::More
            };
            *byte = self.receive(answer)?;
        }
        self.stop()
    }

    /// The data falls while the clock is high.
    fn start(&mut self) -> Result<(), ModuleError> {
        self.set(0, 1);
        self.raise(1)?;
        self.set(1, 0);
        self.set(0, 0);
        Ok(())
    }

    /// The data rises while the clock is high.
    fn stop(&mut self) -> Result<(), ModuleError> {
        self.set(0, 0);
        self.raise(0)?;
        self.set(1, 1);
        Ok(())
    }

    /// Whatever the module was about to send is clocked out of it.
    fn clear(&mut self) -> Result<(), ModuleError> {
        for _ in 0..9 {
            self.bit(1)?;
        }
        self.stop()
    }

    fn send(&mut self, byte: u8) -> Result<(), ModuleError> {
        for shift in (0..8).rev() {
            self.bit((byte >> shift & 1).into())?;
        }
        // The module pulls the line down if it has the byte.
        if self.bit(1)? {
            return Err(ModuleError::NoAnswer);
        }
        Ok(())
    }

    fn receive(&mut self, answer: Answer) -> Result<u8, ModuleError> {
        let mut byte = 0;
        for _ in 0..8 {
            byte = byte << 1 | u8::from(self.bit(1)?);
        }
        self.bit((answer == Answer::Enough).into())?;
        Ok(byte)
    }

    /// One clock; what was on the data line while it was high.
    fn bit(&mut self, data: u64) -> Result<bool, ModuleError> {
        self.set(0, data);
        self.raise(data)?;
        let line = self.device.port().read::<I2cctl>();
        self.set(0, data);
        Ok(line.is_set(I2cctl::DATA_IN))
    }

    /// Raises the clock, which the module may hold down for a while.
    fn raise(&mut self, data: u64) -> Result<(), ModuleError> {
        self.set(1, data);
        for _ in 0..STRETCH_TRIES {
            if self.device.port().read::<I2cctl>().is_set(I2cctl::CLK_IN) {
                return Ok(());
            }
            self.delay.delay_us(HALF_US);
        }
        Err(ModuleError::Stuck)
    }

    /// Lets both lines go or pulls them down, and waits half a clock.
    fn set(&mut self, clock: u64, data: u64) {
        let lines = I2cctl::default().with(I2cctl::CLK_OUT, clock);
        self.device.port().write(lines.with(I2cctl::DATA_OUT, data));
        self.delay.delay_us(HALF_US);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(bytes: &[(usize, u8)]) -> [u8; IDENTITY] {
        let mut page = [0; IDENTITY];
        page[0] = 3;
        for (at, byte) in bytes {
            page[*at] = *byte;
        }
        page[63] = page[..63]
            .iter()
            .fold(0, |sum, byte| sum.wrapping_add(*byte));
        page
    }

    /// SFF-8472, tables 5-3 and 5-6: bytes 3, 6, 8 and 60.
    #[test]
    fn modules_are_told_apart() {
        let unsupported = |ten_gigabit, one_gigabit, cable| {
            Err(ModuleError::Unsupported {
                ten_gigabit,
                one_gigabit,
                cable,
            })
        };
        for (bytes, expected) in [
            (&[(3, 0x10)][..], Ok(Module::ShortRange)),
            (&[(3, 0x20)], Ok(Module::LongRange)),
            (&[(8, 4)], Ok(Module::PassiveCable)),
            (&[(8, 8), (60, 4)], Ok(Module::ActiveCable)),
            (&[(8, 8), (60, 1)], unsupported(0, 0, 8)),
            (&[(3, 0x40)], unsupported(0x40, 0, 0)),
            (&[(6, 1)], unsupported(0, 1, 0)),
            (&[(6, 8)], unsupported(0, 8, 0)),
            (&[(0, 0x0D)], Err(ModuleError::NotSfp(0x0D))),
            (&[(0, 0xFF)], Err(ModuleError::NotSfp(0xFF))),
        ] {
            assert_eq!(Module::new(&page(bytes)), expected, "{bytes:?}");
        }
        let mut broken = page(&[(3, 0x10)]);
        broken[20] ^= 1;
        assert_eq!(Module::new(&broken), Err(ModuleError::Checksum));
    }
}
