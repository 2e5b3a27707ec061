//! From a reset to service, the sequence of §4.6.3, as steps that each end within a limit.

use core::{task::Poll, time::Duration};

use parakernel_core::{
    mmio::{Register, Registers},
    time::{Deadline, Instant, Timeout},
};

use super::{Device, Pair};
use crate::{
    eeprom::Check,
    error::InitError,
    regs::{
        Ctrl, CtrlExt, Eec, Eimc, Fwsm, GcrExt, Hlreg0, Rdrxctl, Rxctrl, Secrxctrl, Secrxstat,
        Status, SwFwSync, Swsm,
        table::{EimcEx, VectorMaskBlock},
    },
};

/// Requests under way are done within it. DPDK gives them 80 ms; the datasheet, none (§5.2.5.3.2).
const MASTER_LIMIT: Duration = Duration::from_millis(100);
/// Buffers are empty within it (§5.2.5.3.2).
const FLUSH: Duration = Duration::from_micros(20);
/// No register may be looked at for so long after a reset was asked for (§8.2.3.1.1).
const RESET_BLIND: Duration = Duration::from_millis(1);
/// The reset is over within it.
const RESET_LIMIT: Duration = Duration::from_millis(100);
/// "Wait at least 10 ms" after it (§4.6.3.2).
const SETTLE: Duration = Duration::from_millis(10);
/// The EEPROM was read within it. The datasheet names no limit.
const EEPROM_LIMIT: Duration = Duration::from_secs(1);
/// The EEPROM's words were read within it: a thousand of them, and each takes drivers some 20 µs.
const CHECKSUM_LIMIT: Duration = Duration::from_secs(2);
/// DMA is initialised within it. The datasheet names no limit.
const DMA_LIMIT: Duration = Duration::from_secs(1);
/// The firmware gives shared registers back within it: it holds none for longer (§10.5.4).
const SEMAPHORE_LIMIT: Duration = Duration::from_secs(1);
/// The Flow Director is set up within it: 60 µs at 10 Gb/s, 6 ms at 100 Mb/s, four times as much under load, as drivers say.
const DIRECTOR_LIMIT: Duration = Duration::from_millis(100);
/// The receive path is empty within it. DPDK gives it 40 ms.
const SECURITY_LIMIT: Duration = Duration::from_millis(40);

/// What is waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    /// That no request is under way.
    Master,
    /// That buffers are empty, after requests did not end. A second reset follows the first then.
    Flush,
    /// That registers may be looked at again.
    Blind {
        again: bool,
    },
    /// That the reset is over.
    Reset {
        again: bool,
    },
    /// That the port has settled.
    Settle {
        again: bool,
    },
    Eeprom,
    /// That a word of the EEPROM was read, to check their sum.
    Checksum(Check),
    Dma,
    /// That the firmware leaves the MAC's registers alone.
    Semaphore,
    /// That they can be given back.
    Release,
    /// That the Flow Director is set up.
    Director,
    /// That the receive path is empty.
    Security,
    Done,
}

/// How far a reset came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start {
    step: Step,
    deadline: Option<Deadline>,
    result: Result<(), InitError>,
}

impl Start {
    pub(super) const DONE: Self = Self {
        step: Step::Done,
        deadline: None,
        result: Ok(()),
    };

    /// Whether the port is in service.
    pub(super) const fn is_done(&self) -> bool {
        matches!(self.step, Step::Done) && self.result.is_ok()
    }

    /// Whether the reset itself is over, so that no queue touches memory.
    pub(super) const fn is_quiet(&self) -> bool {
        matches!(
            self.step,
            Step::Eeprom
                | Step::Checksum(_)
                | Step::Dma
                | Step::Semaphore
                | Step::Release
                | Step::Director
                | Step::Security
                | Step::Done
        )
    }
}

impl<R: Registers> Device<'_, R> {
    /// Resets the port: all queues of all leases end with it, and rings and buffers are the port's until
    /// [`poll_reset`](Self::poll_reset) says that it is done.
    pub fn begin_reset(&mut self, now: Instant) {
        Pair::begin_reset(self.pairs);
        self.start.result = Ok(());
        self.quiesce();
        self.wait(Step::Master, MASTER_LIMIT, now);
    }

    /// Looks whether the port is in service again. Filters, pools and rates are as after bring-up.
    ///
    /// # Errors
    ///
    /// Where the port does not do in time what its datasheet says, and whenever it is asked again then. It must be kept
    /// from memory: bus mastering off.
    pub fn poll_reset(&mut self, now: Instant) -> Poll<Result<(), InitError>> {
        if self.start.step == Step::Done {
            return Poll::Ready(self.start.result);
        }
        // Nothing may be read while the port is blind.
        if !matches!(self.start.step, Step::Blind { .. }) && self.is_gone() {
            return Poll::Ready(self.fail(InitError::Removed));
        }
        let is_late = match self.start.deadline.map(|deadline| deadline.check(now)) {
            Some(Err(timeout)) => Some(timeout),
            Some(Ok(())) | None => None,
        };
        match self.step(is_late, now) {
            Ok(()) if self.start.step == Step::Done => Poll::Ready(Ok(())),
            Ok(()) => Poll::Pending,
            Err(error) => Poll::Ready(self.fail(error)),
        }
    }

    fn fail(&mut self, error: InitError) -> Result<(), InitError> {
        self.start.step = Step::Done;
        self.start.result = Err(error);
        Pair::end_reset(self.pairs, false);
        self.start.result
    }

    fn wait(&mut self, step: Step, limit: Duration, now: Instant) {
        self.start.step = step;
        self.start.deadline = Some(Deadline::after(now, limit));
    }

    /// Goes on to the next step where this one is done.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "all steps whose condition does not hold"
    )]
    fn step(&mut self, late: Option<Timeout>, now: Instant) -> Result<(), InitError> {
        match self.start.step {
            Step::Master if !self.has_requests() => self.reset(false, now),
            Step::Master if late.is_some() => self.empty_buffers(now),
            Step::Flush if late.is_some() => self.end_flush(now),
            Step::Blind { again } if late.is_some() => {
                self.wait(Step::Reset { again }, RESET_LIMIT, now);
            }
            Step::Reset { again } if self.is_reset() => {
                self.wait(Step::Settle { again }, SETTLE, now);
            }
            Step::Settle { again: true } if late.is_some() => {
                self.quiesce();
                self.reset(false, now);
            }
            Step::Settle { again: false } if late.is_some() => {
                self.mask_interrupts();
                self.wait(Step::Eeprom, EEPROM_LIMIT, now);
            }
            Step::Eeprom if self.is_eeprom_read() => {
                self.check_eeprom()?;
                self.begin_checksum(now);
            }
            Step::Checksum(check) => return self.check_word(check, late, now),
            Step::Dma if self.is_dma_ready() => {
                self.wait(Step::Semaphore, SEMAPHORE_LIMIT, now);
            }
            Step::Semaphore if self.lock() => {
                self.set_up_link();
                self.wait(Step::Release, SEMAPHORE_LIMIT, now);
            }
            Step::Release if self.unlock() => {
                self.configure()?;
                self.wait(Step::Director, DIRECTOR_LIMIT, now);
            }
            Step::Director if self.is_director_ready() => {
                self.port()
                    .modify(|ctrl: Secrxctrl| ctrl.with(Secrxctrl::RX_DIS, 1));
                self.wait(Step::Security, SECURITY_LIMIT, now);
            }
            Step::Security if self.is_receive_path_empty() => {
                self.enable_receive();
                self.start = Start::DONE;
                Pair::end_reset(self.pairs, true);
            }
            step => return Self::is_in_time(step, late),
        }
        Ok(())
    }

    /// What has not happened may still, until it is late.
    fn is_in_time(step: Step, late: Option<Timeout>) -> Result<(), InitError> {
        let Some(timeout) = late else { return Ok(()) };
        Err(match step {
            Step::Eeprom | Step::Checksum(_) => InitError::Eeprom(timeout),
            Step::Dma => InitError::Dma(timeout),
            Step::Semaphore | Step::Release => InitError::Semaphore(timeout),
            Step::Director => InitError::Director(timeout),
            Step::Security => InitError::ReceivePath(timeout),
            // The others go on when they are late, or are done.
            Step::Reset { .. }
            | Step::Master
            | Step::Flush
            | Step::Blind { .. }
            | Step::Settle { .. }
            | Step::Done => InitError::Reset(timeout),
        })
    }

    /// What precedes a reset: no interrupt, nothing received, no new request (§4.6.3.1, §4.2.1.6.1).
    fn quiesce(&self) {
        let port = self.port();
        self.mask_interrupts();
        port.modify(|rxctrl: Rxctrl| rxctrl.with(Rxctrl::RXEN, 0));
        // Bits that ask for a reset are not written back where they read as set.
        port.modify(|ctrl: Ctrl| {
            ctrl.with(Ctrl::PCIE_MASTER_DISABLE, 1)
                .with(Ctrl::RST, 0)
                .with(Ctrl::LRST, 0)
        });
    }

    /// Masks everything, §4.6.3.1.
    pub(crate) fn mask_interrupts(&self) {
        let all = Eimc::default().with(Eimc::ALL, Eimc::ALL.max());
        self.port().write(all);
        for index in 0..VectorMaskBlock::COUNT {
            if let Some(base) = VectorMaskBlock::base(index) {
                self.row(base).write(EimcEx::from_bits(u32::MAX.into()));
            }
        }
    }

    fn has_requests(&self) -> bool {
        let status = self.port().read::<Status>();
        status.is_set(Status::PCIE_MASTER_ENABLE)
    }

    /// Requests have not ended: nothing more is sent, and buffers are emptied (§5.2.5.3.2).
    fn empty_buffers(&mut self, now: Instant) {
        let port = self.port();
        port.modify(|hlreg0: Hlreg0| hlreg0.with(Hlreg0::LPBK, 1));
        port.modify(|gcr: GcrExt| gcr.with(GcrExt::BUFFERS_CLEAR_FUNC, 1));
        self.wait(Step::Flush, FLUSH, now);
    }

    fn end_flush(&mut self, now: Instant) {
        let port = self.port();
        port.modify(|hlreg0: Hlreg0| hlreg0.with(Hlreg0::LPBK, 0));
        port.modify(|gcr: GcrExt| gcr.with(GcrExt::BUFFERS_CLEAR_FUNC, 0));
        self.reset(true, now);
    }

    /// §4.2.1.6.1; link and device at once, so that the link comes up anew.
    fn reset(&mut self, again: bool, now: Instant) {
        self.port()
            .modify(|ctrl: Ctrl| ctrl.with(Ctrl::RST, 1).with(Ctrl::LRST, 1));
        self.wait(Step::Blind { again }, RESET_BLIND, now);
    }

    fn is_reset(&self) -> bool {
        let ctrl = self.port().read::<Ctrl>();
        !ctrl.is_set(Ctrl::RST) && !ctrl.is_set(Ctrl::LRST)
    }

    fn is_eeprom_read(&self) -> bool {
        self.port().read::<Eec>().is_set(Eec::AUTO_RD)
    }

    /// INTERPRETATION(missing): `AUTO_RD` is also set where there is no EEPROM; listed in `ASSUMPTIONS.md`.
    fn check_eeprom(&self) -> Result<(), InitError> {
        let code = self.port().read::<Fwsm>().field(Fwsm::EXT_ERR_IND);
        if !self.port().read::<Eec>().is_set(Eec::EE_PRES) {
            return Err(InitError::NoEeprom);
        }
        if code != 0 {
            return Err(InitError::Firmware {
                code: u8::try_from(code).unwrap_or(u8::MAX),
            });
        }
        Ok(())
    }

    /// Once is enough: a later reset reads the same EEPROM.
    fn begin_checksum(&mut self, now: Instant) {
        if self.has_right_sum {
            self.wait(Step::Dma, DMA_LIMIT, now);
        } else {
            self.begin_word(Check::NEW.address());
            self.wait(Step::Checksum(Check::NEW), CHECKSUM_LIMIT, now);
        }
    }

    /// Goes on with the next word, or with what comes after the last.
    fn check_word(
        &mut self,
        mut check: Check,
        late: Option<Timeout>,
        now: Instant,
    ) -> Result<(), InitError> {
        let Some(word) = self.word() else {
            return Self::is_in_time(self.start.step, late);
        };
        if check.take(word)? {
            self.begin_word(check.address());
            self.start.step = Step::Checksum(check);
            // Words that are read do not make it endless.
            return Self::is_in_time(self.start.step, late);
        }
        self.has_right_sum = true;
        self.wait(Step::Dma, DMA_LIMIT, now);
        Ok(())
    }

    fn is_dma_ready(&self) -> bool {
        self.port().read::<Rdrxctl>().is_set(Rdrxctl::DMAIDONE)
    }

    /// Takes the MAC's registers from the firmware, unless that has them (§10.5.4). Never waits, and leaves nothing locked
    /// that it does not have.
    fn lock(&self) -> bool {
        self.change_owners(|sync| {
            let is_free =
                !sync.is_set(SwFwSync::FW_MAC_CSR_SM) && !sync.is_set(SwFwSync::SW_MAC_CSR_SM);
            is_free.then(|| sync.with(SwFwSync::SW_MAC_CSR_SM, 1))
        })
    }

    /// Gives them back; whether it could. That takes the same bits as taking them (§10.5.4).
    fn unlock(&self) -> bool {
        self.change_owners(|sync| Some(sync.with(SwFwSync::SW_MAC_CSR_SM, 0)))
    }

    /// Changes who has which shared registers, while nobody else does (§10.5.4); whether it was changed.
    pub(crate) fn change_owners(&self, change: impl FnOnce(SwFwSync) -> Option<SwFwSync>) -> bool {
        let port = self.port();
        if port.read::<Swsm>().is_set(Swsm::SMBI) {
            return false;
        }
        // Reading it as 0 took it.
        port.modify(|swsm: Swsm| swsm.with(Swsm::SWESMBI, 1));
        let is_mine = port.read::<Swsm>().is_set(Swsm::SWESMBI);
        let changed = change(port.read()).filter(|_| is_mine);
        if let Some(changed) = changed {
            port.write(changed);
        }
        port.modify(|swsm: Swsm| swsm.with(Swsm::SWESMBI, 0).with(Swsm::SMBI, 0));
        changed.is_some()
    }

    fn is_receive_path_empty(&self) -> bool {
        self.port().read::<Secrxstat>().is_set(Secrxstat::SECRX_RDY)
    }

    /// §4.6.7, the last steps: with traffic under way receive DMA could hang otherwise.
    fn enable_receive(&self) {
        let port = self.port();
        port.modify(|rxctrl: Rxctrl| rxctrl.with(Rxctrl::RXEN, 1));
        port.modify(|ctrl: Secrxctrl| ctrl.with(Secrxctrl::RX_DIS, 0));
        let has_functions = u64::from(self.functions() > 0);
        port.modify(|ext: CtrlExt| ext.with(CtrlExt::PFRSTD, has_functions));
    }
}
