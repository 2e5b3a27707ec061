//! Virtual functions, seen from the port: what each is granted, and what it may ask for through its mailbox (§7.10.2.9).
//!
//! Function *n* has pool *n*: its two queues, its address, its VLAN. A function is a PCI function of its own, so it may be
//! given to a process as a whole (`Direct`), under an IOMMU: under `integrity` only, for the port compares nothing but source
//! address and VLAN of what it sends, so that PAUSE, LLDP and ARP for others leave as well, and a transmit path that it makes
//! hang does so for everybody. What it does to its own registers stays its own; its frames are
//! checked by the port so far (anti-spoofing), its queues drop when they have no buffer, and its messages are checked here, each
//! against its [`Grant`]. None of it waits: a mailbox is looked at when the port [says so](crate::interrupt::Cause::is_mailbox),
//! one message of each function at a time.

use parakernel_core::{
    mmio::{Register, Registers, Window},
    steering::{Mac, Vlan},
};

use crate::{
    device::Device,
    error::PoolError,
    message::{self, Words},
    pool::PoolNames,
    regs::{
        function::{
            FunctionMaskBlock, FunctionResetBlock, MAILBOX_WORDS, MailboxBlock, MailboxCauseBlock,
            MailboxWordBlock, Pfmailbox, Pfmbicr, Pfmbimr, Pfmbmem, Pfvflre, Pfvflrec,
        },
        table::{BitTableBlock, Mta, Pfvml2flt, PoolBlock},
    },
};

/// Frames for several that a function gets.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Groups {
    /// None: the kernel's pool has them.
    None,
    /// Broadcasts.
    Broadcasts,
    /// Broadcasts, and multicasts that it asks for. The table is one for the whole port, and by a hash: a function gets what
    /// others have asked for, too.
    Multicasts,
}

/// What a function may have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Grant {
    /// Frames to this address are its own, and only frames from it leave.
    pub mac: Mac,
    /// In this VLAN, whose tag lies in its frames both ways; or untagged.
    pub vlan: Option<Vlan>,
    /// Frames for several.
    pub groups: Groups,
}

/// What the port keeps of a function, in the caller's memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Function {
    grant: Option<Grant>,
    /// Its driver has begun, so its pool is open and it may ask for things.
    has_begun: bool,
    version: u32,
}

impl Function {
    /// Room for one, to fill the slice with that [`Functions::new`] takes.
    pub const EMPTY: Self = Self {
        grant: None,
        has_begun: false,
        version: message::VERSION_1_0,
    };
}

/// What a function did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum Event {
    /// Its driver has begun: it receives and sends.
    Begun,
    /// It was reset: it neither receives nor sends until its driver begins again.
    Reset,
    /// It has written a message, and its mailbox could not be taken from it: it gets no answer.
    Unanswered,
    /// It was refused what it asked for.
    Refused {
        /// The first word of its message.
        message: u32,
    },
}

/// The virtual functions of a port.
#[derive(Debug)]
pub struct Functions<'a> {
    functions: &'a mut [Function],
}

impl<'a> Functions<'a> {
    /// Nothing is granted; `functions` has room for as many as the port was brought up with.
    #[must_use]
    pub fn new(functions: &'a mut [Function]) -> Self {
        functions.fill(Function::EMPTY);
        Self { functions }
    }

    /// Grants function `number` its names. It is told nothing: its driver finds out when it begins. A function that has begun
    /// already is closed, and has to begin again.
    ///
    /// # Errors
    ///
    /// Where there is no such function, or nobody may have the address, or somebody has it, or is granted it.
    pub fn grant<R: Registers>(
        &mut self,
        device: &Device<'_, R>,
        number: u8,
        grant: Grant,
    ) -> Result<(), PoolError> {
        if number >= device.functions() {
            return Err(PoolError::NoSuchPool(number));
        }
        device.check_address(number, grant.mac)?;
        let others = (0..).zip(self.functions.iter()).filter(|it| it.0 != number);
        let mut granted = others.filter_map(|(_, function)| function.grant);
        if granted.any(|other| other.mac == grant.mac) {
            return Err(PoolError::Taken(grant.mac));
        }
        self.revoke(device, number)?;
        if let Some(function) = self.functions.get_mut(usize::from(number)) {
            function.grant = Some(grant);
        }
        Ok(())
    }

    /// Takes everything from function `number`: nothing is led to it, nothing leaves it, and whatever it asks for is refused.
    /// Its queues may still be on: that its memory is left alone is for who resets the function, by its PCI configuration, or
    /// cuts it off in the IOMMU.
    ///
    /// # Errors
    ///
    /// Where there is no such function.
    pub fn revoke<R: Registers>(
        &mut self,
        device: &Device<'_, R>,
        number: u8,
    ) -> Result<(), PoolError> {
        let missing = PoolError::NoSuchPool(number);
        let function = self.functions.get_mut(usize::from(number));
        let function = function.filter(|_| number < device.functions());
        *function.ok_or(missing)? = Function::EMPTY;
        device.close_pool(number)
    }

    /// After the port was reset: every function has to begin again, which it is told. Grants stay.
    pub fn restore<R: Registers>(&mut self, device: &Device<'_, R>) {
        for function in self.functions.iter_mut() {
            function.has_begun = false;
        }
        self.tell_all(device);
    }

    /// Tells every function that has begun that something has changed: the link, for one. One whose mailbox is in use finds
    /// out by itself.
    pub fn tell_all<R: Registers>(&self, device: &Device<'_, R>) {
        for (number, function) in (0..device.functions()).zip(self.functions.iter()) {
            let Some(mailbox) = Mailbox::of(device, number) else {
                continue;
            };
            let clear = if function.has_begun {
                message::CLEAR_TO_SEND
            } else {
                0
            };
            if mailbox.try_take() {
                mailbox.send(&[message::CONTROL | clear], Pfmailbox::default());
            }
        }
    }

    /// Looks at functions that were reset or have written a message, and answers one message of each. `tell` hears of what is
    /// of interest.
    pub fn serve<R: Registers>(&mut self, device: &Device<'_, R>, mut tell: impl FnMut(u8, Event)) {
        for word in 0..FunctionMaskBlock::COUNT {
            for bit in ones(take_resets(device, word)) {
                self.reset(device, word * 32 + bit, &mut tell);
            }
        }
        for word in 0..MailboxCauseBlock::COUNT {
            for bit in ones(take_requests(device, word)) {
                self.answer(device, word * 16 + bit, &mut tell);
            }
        }
    }

    fn reset<R: Registers>(
        &mut self,
        device: &Device<'_, R>,
        number: u8,
        tell: &mut impl FnMut(u8, Event),
    ) {
        if let Some(function) = self.functions.get_mut(usize::from(number)) {
            function.has_begun = false;
            if device.close_pool(number).is_ok() {
                tell(number, Event::Reset);
            }
        }
    }

    /// Reads the message of a function once, and answers it.
    fn answer<R: Registers>(
        &mut self,
        device: &Device<'_, R>,
        number: u8,
        tell: &mut impl FnMut(u8, Event),
    ) {
        let Some(function) = self.functions.get_mut(usize::from(number)) else {
            return;
        };
        let Some(mailbox) = Mailbox::of(device, number) else {
            return;
        };
        if !mailbox.take() {
            tell(number, Event::Unanswered);
            return;
        }
        let request = mailbox.read();
        let [head, ..] = request;
        // An answer, or a word that was never a request.
        if head & (message::SUCCESS | message::FAILURE) != 0 {
            mailbox.release();
            return;
        }
        let mut answer = [0; 5];
        let granted = function.judge(device, number, (&request, &mut answer));
        let is_reset = message::kind(head) == message::RESET;
        answer[0] = head & 0x00FF_FFFF
            | if granted {
                message::SUCCESS
            } else {
                message::FAILURE
            }
            | if is_reset || !function.has_begun {
                0
            } else {
                message::CLEAR_TO_SEND
            };
        mailbox.send(&answer, Pfmailbox::default().with(Pfmailbox::ACK, 1));
        match (granted, is_reset) {
            (true, true) => tell(number, Event::Begun),
            (true, false) => {}
            (false, _) => tell(number, Event::Refused { message: head }),
        }
    }
}

impl Function {
    /// Does what the function asks for where its grant covers it; whether it does.
    fn judge<R: Registers>(
        &mut self,
        device: &Device<'_, R>,
        number: u8,
        (request, answer): (&Words, &mut [u32; 5]),
    ) -> bool {
        let [head, first, second, ..] = *request;
        let Some(grant) = self.grant else {
            return false;
        };
        if message::kind(head) == message::RESET {
            return self.begin(device, number, answer);
        }
        if !self.has_begun {
            return false;
        }
        match message::kind(head) {
            message::SET_MAC => message::mac_of([first, second]) == grant.mac,
            message::SET_MULTICAST => set_groups(device, number, (grant.groups, request)),
            // Its own is joined already, and VLAN 0 is none.
            message::SET_VLAN => {
                let own = grant.vlan.map_or(0, Vlan::id);
                first == 0 || first == u32::from(own)
            }
            message::SET_MAX_FRAME => (64..=u32::from(device.max_frame()) + 4).contains(&first),
            message::NEGOTIATE => {
                let is_known = matches!(first, message::VERSION_1_0 | message::VERSION_1_1);
                if is_known {
                    self.version = first;
                }
                is_known
            }
            message::GET_QUEUES => {
                // Two of each, no tag but its own, queue 0 for what is not spread.
                *answer = [0, 2, 2, 0, 0];
                self.version == message::VERSION_1_1
            }
            _ => false,
        }
    }

    /// The function's driver begins: its pool is closed, and opened anew for what is granted.
    fn begin<R: Registers>(
        &mut self,
        device: &Device<'_, R>,
        number: u8,
        answer: &mut [u32; 5],
    ) -> bool {
        let Some(grant) = self.grant else {
            return false;
        };
        let names = PoolNames {
            mac: grant.mac,
            vlan: grant.vlan,
        };
        let opened = device
            .close_pool(number)
            .and_then(|()| device.open_pool(number, names));
        if opened.is_err() {
            return false;
        }
        device.set_pool_groups(number, grant.groups.min(Groups::Broadcasts));
        self.has_begun = true;
        self.version = message::VERSION_1_0;
        let [low, high] = message::mac_words(grant.mac);
        // The last word says which bits of a group's address are hashed: 47 to 36.
        *answer = [0, low, high, 0, 0];
        true
    }
}

/// Lets the groups of a message in, for a function that may have some; whether it may.
fn set_groups<R: Registers>(
    device: &Device<'_, R>,
    number: u8,
    (groups, request): (Groups, &Words),
) -> bool {
    let [head, words @ ..] = request;
    let count = usize::from(message::info(*head)).min(message::MAX_GROUPS);
    if count > 0 && groups < Groups::Multicasts {
        return false;
    }
    let hashes = words.iter().flat_map(|word| {
        let [a, b, c, d] = word.to_le_bytes();
        [u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d])]
    });
    for hash in hashes.take(count) {
        device.let_group_in(hash & 0xFFF);
    }
    let some = if count > 0 {
        Groups::Multicasts
    } else {
        groups.min(Groups::Broadcasts)
    };
    device.set_pool_groups(number, some);
    true
}

impl<R: Registers> Device<'_, R> {
    /// How many of the first pools are virtual functions'.
    #[must_use]
    pub const fn functions(&self) -> u8 {
        self.functions
    }

    /// Lets the functions' messages interrupt, §8.2.3.27.
    pub(crate) fn watch_functions(&self) {
        for word in 0..FunctionMaskBlock::COUNT {
            let count = self.functions().saturating_sub(word * 32).min(32);
            if let Some(base) = FunctionMaskBlock::base(word) {
                self.row(base).write(Pfmbimr::from_bits((1 << count) - 1));
            }
        }
    }

    /// Which frames for several a pool gets, §8.2.3.27.
    fn set_pool_groups(&self, pool: u8, groups: Groups) {
        if let Some(base) = PoolBlock::base(pool) {
            self.row(base).modify(|it: Pfvml2flt| {
                it.with(Pfvml2flt::BAM, (groups >= Groups::Broadcasts).into())
                    .with(Pfvml2flt::ROMPE, (groups == Groups::Multicasts).into())
            });
        }
    }

    fn let_group_in(&self, hash: u16) {
        let [low, high] = hash.to_le_bytes();
        if let Some(base) = BitTableBlock::base(low >> 5 | high << 3) {
            let bit = 1 << (low & 31);
            self.row(base)
                .modify(|mta: Mta| Mta::from_bits(mta.bits() | bit));
        }
        self.filter_groups();
    }
}

/// The functions of a word that were reset, which is acknowledged.
fn take_resets<R: Registers>(device: &Device<'_, R>, word: u8) -> u64 {
    let bases = (
        FunctionResetBlock::base(word),
        FunctionMaskBlock::base(word),
    );
    let (Some(events), Some(clear)) = bases else {
        return 0;
    };
    let bits = device.row(events).read::<Pfvflre>().bits();
    let bits = if device.is_gone() { 0 } else { bits };
    if bits != 0 {
        device.row(clear).write(Pfvflrec::from_bits(bits));
    }
    bits
}

/// The functions of a word that have written a message, which is acknowledged, as are those that have read one.
fn take_requests<R: Registers>(device: &Device<'_, R>, word: u8) -> u64 {
    let Some(base) = MailboxCauseBlock::base(word) else {
        return 0;
    };
    let row = device.row::<MailboxCauseBlock>(base);
    let causes = row.read::<Pfmbicr>();
    if causes.bits() == 0 || device.is_gone() {
        return 0;
    }
    row.write(causes);
    causes.field(Pfmbicr::VFREQ)
}

/// The numbers of the bits that are set.
fn ones(bits: u64) -> impl Iterator<Item = u8> {
    (0..32).filter(move |bit| bits >> bit & 1 == 1)
}

/// The mailbox of one function.
struct Mailbox<'r, R> {
    registers: &'r R,
    control: Window<&'r R, MailboxBlock>,
    number: u8,
}

impl<'r, R: Registers> Mailbox<'r, R> {
    fn of(device: &'r Device<'_, R>, number: u8) -> Option<Self> {
        let base = MailboxBlock::base(number).filter(|_| number < device.functions())?;
        Some(Self {
            registers: device.registers(),
            control: device.row(base),
            number,
        })
    }

    /// Takes the mailbox, unless the function has it.
    fn try_take(&self) -> bool {
        self.control
            .write(Pfmailbox::default().with(Pfmailbox::PFU, 1));
        self.control.read::<Pfmailbox>().is_set(Pfmailbox::PFU)
    }

    /// Takes the mailbox, from the function if it keeps it: its message is in there, so it has no right to it.
    /// Whether it could.
    fn take(&self) -> bool {
        self.try_take() || {
            self.control
                .write(Pfmailbox::default().with(Pfmailbox::RVFU, 1));
            self.try_take()
        }
    }

    fn release(&self) {
        self.control.write(Pfmailbox::default());
    }

    /// All words, each read once.
    fn read(&self) -> Words {
        let mut words = [0; MAILBOX_WORDS as usize];
        for (index, word) in (0..).zip(&mut words) {
            if let Some(place) = self.word(index) {
                *word = u32::try_from(place.read::<Pfmbmem>().bits()).unwrap_or(0);
            }
        }
        words
    }

    /// Writes a message, tells the function, and gives the mailbox back.
    fn send(&self, words: &[u32], control: Pfmailbox) {
        for (index, word) in (0..).zip(words) {
            if let Some(place) = self.word(index) {
                place.write(Pfmbmem::from_bits((*word).into()));
            }
        }
        self.control.write(control.with(Pfmailbox::STS, 1));
    }

    fn word(&self, index: u8) -> Option<Window<&'r R, MailboxWordBlock>> {
        let base = MailboxWordBlock::base(self.number, index)?;
        Some(Window::new(self.registers, base))
    }
}
