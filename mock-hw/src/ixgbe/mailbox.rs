//! The mailbox between the physical function and each virtual one (82599, 7.10.2.9, 8.2.3.27, 8.3.5.1).

use super::device::Device;

/// Registers of the physical function.
const PFMBICR: usize = 0x0_0710;
const PFMBIMR: usize = 0x0_0720;
const PFVFLRE: [usize; 2] = [0x0_0600, 0x0_01c0];

/// The cause "a virtual function wants something".
const MAILBOX: u32 = 1 << 19;

/// The state of each mailbox: who owns the memory, what each side has not seen yet.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Mailbox {
    owner: Option<Side>,
    /// What the virtual function has not seen yet, as bits of VFMAILBOX.
    news: u32,
}

impl Mailbox {
    /// The other side finished its reset.
    const RESET_DONE: u32 = 1 << 7;
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Side {
    Physical,
    Virtual,
}

impl Device {
    /// VFMAILBOX: bits 2 and 3 tell the owner; 4, 5 and 7 are cleared by reading; 6: the other side resets.
    pub(super) fn read_vf_mailbox(&mut self, n: usize) -> u32 {
        let resets = !self.is_ready_for_virtuals();
        let mailbox = &mut self.mailboxes[n];
        owner(mailbox) | core::mem::take(&mut mailbox.news) | u32::from(resets) << 6
    }

    /// VFMAILBOX: bit 0 is a request, bit 1 an acknowledgement, bit 2 takes the memory or gives it back.
    pub(super) fn write_vf_mailbox(&mut self, n: usize, value: u32) {
        take(&mut self.mailboxes[n], value & 4 != 0, Side::Virtual);
        let (word, bit) = (PFMBICR + n / 16 * 4, n % 16);
        let asked = (value & 1) << bit | (value >> 1 & 1) << (bit + 16);
        if asked == 0 {
            return;
        }
        self.regs.update(word, |causes| causes | asked);
        if self.regs.word(PFMBIMR + n / 32 * 4) >> (n % 32) & 1 == 1 {
            self.other_event(MAILBOX);
        }
    }

    /// PFMAILBOX: bit 2 and 3 tell the owner.
    pub(super) fn read_pf_mailbox(&self, n: usize) -> u32 {
        owner(&self.mailboxes[n])
    }

    /// PFMAILBOX: bit 0 sends, bit 1 acknowledges, bit 3 takes the memory, bit 4 takes it from the other side.
    pub(super) fn write_pf_mailbox(&mut self, n: usize, value: u32) {
        let mailbox = &mut self.mailboxes[n];
        if value & 0x10 != 0 && mailbox.owner == Some(Side::Virtual) {
            mailbox.owner = None;
        }
        take(mailbox, value & 8 != 0, Side::Physical);
        // Sent and acknowledged lie side by side in both registers.
        mailbox.news |= (value & 3) << 4;
        if value & 3 != 0
            && let Some(function) = self.virtuals.get_mut(n)
        {
            function.mailbox_event();
        }
    }

    /// `CTRL_EXT` was written: with bit 14 the physical function says that it is ready.
    pub(super) fn tell_ready(&mut self, before: u32, value: u32) {
        if !before & value & 1 << 14 == 0 {
            return;
        }
        for n in 0..self.virtuals.len() {
            self.mailboxes[n].news |= Mailbox::RESET_DONE;
            self.virtuals[n].mailbox_event();
        }
    }

    pub(super) fn reset_mailbox(&mut self, n: usize) {
        let ready = self.is_ready_for_virtuals();
        self.mailboxes[n] = Mailbox {
            owner: None,
            news: if ready { Mailbox::RESET_DONE } else { 0 },
        };
    }

    /// A virtual function was reset by its machine.
    pub(super) fn note_function_reset(&mut self, n: usize) {
        self.regs
            .update(PFVFLRE[n / 32], |word| word | 1 << (n % 32));
        self.other_event(MAILBOX);
    }

    /// PFVFLREC: the physical function has seen the resets.
    pub(super) fn clear_function_resets(&mut self, half: usize, value: u32) {
        self.regs.update(PFVFLRE[half], |word| word & !value);
    }
}

/// Bits 2 and 3 of both registers: who owns the memory.
fn owner(mailbox: &Mailbox) -> u32 {
    match mailbox.owner {
        None => 0,
        Some(Side::Virtual) => 4,
        Some(Side::Physical) => 8,
    }
}

/// Takes the memory for `side`, if the other one has not, or gives it back.
fn take(mailbox: &mut Mailbox, wants: bool, side: Side) {
    match (mailbox.owner, wants) {
        (None, true) => mailbox.owner = Some(side),
        (Some(owner), false) if owner == side => mailbox.owner = None,
        _ => {}
    }
}
