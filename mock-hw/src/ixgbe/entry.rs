//! How the table of registers is written down.

/// What a register does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Does {
    /// It keeps these bits, which the device may act upon.
    Keeps(u32),
    /// It can only be read.
    Tells,
    /// It counts, and is 0 after it was read.
    Counts,
    /// Reading or writing it makes the device do something.
    Acts(Act),
    /// It keeps what is written; what the silicon does with it is left out, and its use is reported.
    LeftOut,
    /// It keeps what is written, and nothing is reported: what it controls cannot be seen by a driver (thresholds, timings,
    /// hints, LEDs).
    Unseen,
}

/// Registers that the device acts upon at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Act {
    Ctrl,
    Status,
    Esdp,
    I2cctl,
    Eec,
    Eerd,
    Swsm,
    SwFwSync,
    Eicr,
    Eics,
    EicsEx,
    Eims,
    EimsEx,
    Eimc,
    EimcEx,
    Eitr,
    Rdlen,
    Rdt,
    Rxdctl,
    Rdrxctl,
    Rxctrl,
    Secrxstat,
    Sectxstat,
    Tdlen,
    Tdt,
    Txdctl,
    Autoc,
    Anlp1,
    Links,
    Links2,
    Fdirctrl,
    Fdircmd,
    Fdirhash,
    Fdirfree,
    Frtimer,
    Systim,
    Rttdqsel,
    Rttbcnrc,
    Msca,
    Pfqde,
    CtrlExt,
    Pfmailbox,
    Pfmbicr,
    Pfvflrec,
    Pfvfte,
}

/// One register, or an array of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) name: &'static str,
    pub(super) first: usize,
    pub(super) stride: usize,
    pub(super) count: usize,
    /// The number of the first of them, where one array lies in two places.
    pub(super) from: usize,
    pub(super) does: Does,
    /// Bits that turn on what is left out: setting one is reported.
    pub(super) left_out: u32,
}

pub(super) const fn one(name: &'static str, offset: usize, does: Does) -> Entry {
    array(name, offset, 4, 1, does)
}

pub(super) const fn words(name: &'static str, first: usize, count: usize, does: Does) -> Entry {
    array(name, first, 4, count, does)
}

pub(super) const fn array(
    name: &'static str,
    first: usize,
    stride: usize,
    count: usize,
    does: Does,
) -> Entry {
    Entry {
        name,
        first,
        stride,
        count,
        from: 0,
        does,
        left_out: 0,
    }
}

impl Entry {
    /// The second part of an array.
    pub(super) const fn numbered_from(self, from: usize) -> Self {
        Self { from, ..self }
    }

    /// Without what these bits turn on.
    pub(super) const fn without(self, bits: u32) -> Self {
        Self {
            left_out: bits,
            ..self
        }
    }
}
