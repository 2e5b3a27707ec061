//! The words behind the registers.

use core::iter;

use super::{
    entry::Entry,
    table::{GENERAL, MAC, RECEIVE, TRANSMIT},
};

/// Bytes of the register file: BAR 0 (82599, 8.1).
pub(super) const LEN: usize = 0x2_0000;

/// What the registers hold after a reset, where that is not 0.
///
/// Datasheet 8.2.3, and for what the EEPROM loads 6.3 and 6.4.
const INITIAL: &[(usize, u32)] = &[
    (0x0_0200, 0x0106_0504 /* LEDCTL */),
    (0x1_1000, 0x1040_0000 /* GCR */),
    // TCP flags of first, middle and last segments that stay.
    (0x0_4a88, 0x0ff6_0ff6),
    (0x0_4a8c, 0x0000_0f7f),
    (0x0_4a80, 0x8100_0000 /* DMATXCTL: VLAN EtherType */),
    (0x0_5078, 0x8100_0000 /* EXVET */),
    (0x0_5088, 0x0000_8100 /* VLNCTRL: VLAN EtherType */),
    (0x0_8100, 0x0000_0010 /* DTXMXSZRQ */),
    // HLREG0: CRC inserted and stripped, frames padded, MDC at full speed, length errors found.
    (0x0_4240, 0x0801_0403),
    (0x0_4268, 0x05ee_0000 /* MAXFRS: 1,518 */),
    (0x0_8808, 0x0000_0250 /* SECTXBUFFAF */),
    (0x0_8810, 0x0000_1001 /* SECTXMINIFG */),
    (0x1_1050, 0x4000_0000 /* GCR_EXT: buffers clear */),
    (
        0x1_0148,
        0x0000_8000, /* FWSM: firmware is there, without management */
    ),
];

/// Index of offsets that are no register.
const NONE: u16 = u16::MAX;

#[derive(Debug)]
pub(super) struct Registers {
    words: Vec<u32>,
    /// For each word, the index of its entry.
    index: Vec<u16>,
    entries: Vec<Entry>,
}

impl Registers {
    pub(super) fn new() -> Self {
        let entries: Vec<Entry> = [GENERAL, RECEIVE, TRANSMIT, MAC].concat();
        let mut index = vec![NONE; LEN / 4];
        for (number, entry) in iter::zip(0.., &entries) {
            for n in 0..entry.count {
                index[(entry.first + n * entry.stride) / 4] = number;
            }
        }
        let mut registers = Self {
            words: Vec::new(),
            index,
            entries,
        };
        registers.reset();
        registers
    }

    pub(super) fn reset(&mut self) {
        self.words = vec![0; LEN / 4];
        for (offset, value) in INITIAL {
            self.words[offset / 4] = *value;
        }
        // Receive packet buffers of 512 KiB in all, transmit packet buffers of 160 KiB: one each (8.2.3.8.9, 8.2.3.9.13).
        self.words[0x0_3c00 / 4] = 0x0008_0000;
        self.words[0x0_cc00 / 4] = 0x0002_8000;
        for queue in 0..128 {
            let srrctl = rx(queue) + 0x14;
            self.words[srrctl / 4] = 0x0000_0402;
        }
    }

    /// The register at `offset`, which is [`canonical`], and its number in its array.
    pub(super) fn at(&self, offset: usize) -> Option<(Entry, usize)> {
        let number = *self.index.get(offset / 4)?;
        let entry = *self.entries.get(usize::from(number))?;
        let n = entry.from + (offset - entry.first) / entry.stride;
        Some((entry, n))
    }

    pub(super) fn word(&self, offset: usize) -> u32 {
        self.words.get(offset / 4).copied().unwrap_or(0)
    }

    pub(super) fn set(&mut self, offset: usize, value: u32) {
        if let Some(word) = self.words.get_mut(offset / 4) {
            *word = value;
        }
    }

    pub(super) fn update(&mut self, offset: usize, change: impl FnOnce(u32) -> u32) {
        self.set(offset, change(self.word(offset)));
    }

    /// Two registers as one number, the low half first.
    pub(super) fn wide(&self, offset: usize) -> u64 {
        u64::from(self.word(offset)) | u64::from(self.word(offset + 4)) << 32
    }

    pub(super) fn take(&mut self, offset: usize) -> u32 {
        let value = self.word(offset);
        self.set(offset, 0);
        value
    }

    /// Adds to a counter, which stays at its end (8.2.3.23).
    pub(super) fn count(&mut self, offset: usize, more: u32) {
        self.update(offset, |value| value.saturating_add(more));
    }

    /// Adds to a counter of 36 bits in two registers.
    pub(super) fn count_wide(&mut self, offset: usize, more: u64) {
        let value = self.wide(offset).saturating_add(more).min(0xf_ffff_ffff);
        let [low, high] = [value & 0xffff_ffff, value >> 32];
        self.set(offset, u32::try_from(low).unwrap_or(0));
        self.set(offset + 4, u32::try_from(high).unwrap_or(0));
    }
}

/// The registers of receive queue `n`: 64 each in two places (8.2.3.8).
pub(super) const fn rx(n: usize) -> usize {
    if n < 64 {
        0x0_1000 + 0x40 * n
    } else {
        0x0_d000 + 0x40 * (n - 64)
    }
}

/// The registers of transmit queue `n` (8.2.3.9).
pub(super) const fn tx(n: usize) -> usize {
    0x0_6000 + 0x40 * n
}

/// The place of a register that has two: some keep the addresses of an older device, arrays for their first entries (CTRL
/// 8.2.3.1.1, PSRTYPE 8.2.3.7.4, RAL and RAH 8.2.3.7.8, MRQC 8.2.3.7.12, RSSRK 8.2.3.7.14, RETA 8.2.3.7.15, SRRCTL
/// 8.2.3.8.7, `DCA_RXCTRL` 8.2.3.11.1, QPTC 8.2.3.23.71).
pub(super) const fn canonical(offset: usize) -> usize {
    match offset {
        0x0_0004 => 0,
        0x0_2100..0x0_2140 => rx((offset - 0x0_2100) / 4) + 0x14,
        0x0_2200..0x0_2240 => rx((offset - 0x0_2200) / 4) + 0x0c,
        0x0_5400..0x0_5480 => offset - 0x0_5400 + 0x0_a200,
        0x0_5480..0x0_54c0 => offset - 0x0_5480 + 0x0_ea00,
        0x0_eb00..0x0_eb80 => offset - 0x0_eb00 + 0x0_5c00,
        0x0_eb80..0x0_eba8 => offset - 0x0_eb80 + 0x0_5c80,
        0x0_ec80 => 0x0_5818,
        0x0_8680..0x0_86c0 => tx((offset - 0x0_8680) / 4) + 0x30,
        _ => offset,
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{entry::Does, table::VIRTUAL},
        *,
    };

    #[test]
    fn no_two_registers_share_an_offset() {
        let registers = Registers::new();
        let listed: usize = registers.entries.iter().map(|entry| entry.count).sum();
        let found = registers.index.iter().filter(|n| **n != NONE).count();
        assert_eq!(listed, found);
    }

    #[test]
    fn numbers_go_on_in_the_second_place_of_an_array() {
        let registers = Registers::new();
        for n in 0..128 {
            let (entry, number) = registers.at(rx(n) + 0x18).unwrap();
            assert_eq!((entry.name, number), ("RDT", n));
            let (entry, number) = registers.at(tx(n) + 0x18).unwrap();
            assert_eq!((entry.name, number), ("TDT", n));
        }
        let (entry, number) = registers.at(canonical(0x0_2100 + 4 * 15)).unwrap();
        assert_eq!((entry.name, number), ("SRRCTL", 15));
        // Both places of these are in the datasheet.
        for (offset, name, n) in [
            (0x0_eb00 + 4 * 31, "RETA", 31),
            (0x0_eb80 + 4 * 9, "RSSRK", 9),
            (0x0_ec80, "MRQC", 0),
        ] {
            let (entry, number) = registers.at(canonical(offset)).unwrap();
            assert_eq!((entry.name, number), (name, n));
        }
    }

    /// The table of the documentation, from the one in the code.
    fn table() -> String {
        let mut lines =
            String::from("| register | first offset | how many | the model |\n|---|---|---|---|\n");
        for entry in Registers::new().entries {
            let does = match entry.does {
                Does::Keeps(u32::MAX) => "keeps what is written".to_owned(),
                Does::Keeps(mask) => format!("keeps bits {mask:#x}"),
                Does::Tells => "can be read".to_owned(),
                Does::Counts => "counts; reading clears".to_owned(),
                Does::Acts(_) => "does at once what reading or writing it means".to_owned(),
                Does::LeftOut => "**leaves it out**, and reports its use".to_owned(),
                Does::Unseen => "keeps it; no driver can see what it changes".to_owned(),
            };
            let Entry { name, first, .. } = entry;
            let count = match (entry.from, entry.count) {
                (0, 1) => String::new(),
                (0, count) => format!("{count}, {:#x} apart", entry.stride),
                (from, count) => format!("{count}, {:#x} apart, from {from} on", entry.stride),
            };
            let but = match entry.left_out {
                0 => String::new(),
                bits => format!("; **leaves out** what bits {bits:#x} turn on, and reports it"),
            };
            lines += &format!("| `{name}` | {first:#07x} | {count} | {does}{but} |\n");
        }
        lines += "\n## Virtual functions\n\nThe queues' registers come again 64 bytes on, for each further queue.\n\n";
        lines += "| register | offset | how many | the model |\n|---|---|---|---|\n";
        for (name, offset, count, does) in VIRTUAL {
            let does = if does.is_empty() {
                "the physical function's"
            } else {
                does
            };
            let count = match count {
                1 => String::new(),
                count => format!("{count}, 0x4 apart"),
            };
            lines += &format!("| `{name}` | {offset:#06x} | {count} | {does} |\n");
        }
        lines
    }

    /// "A table in the docs says for each register what the model does and what it leaves out."
    #[test]
    fn the_documentation_has_this_table() {
        let page = include_str!("../../docs/ixgbe-registers.md");
        let (_, written) = page.split_at(page.find("| register").unwrap());
        let right = table();
        if written != right {
            let place = std::env::temp_dir().join("ixgbe-registers.md");
            std::fs::write(&place, &right).unwrap();
            panic!(
                "docs/ixgbe-registers.md is out of date: the right table is in {}",
                place.display()
            );
        }
    }

    #[test]
    fn a_counter_stays_at_its_end() {
        let mut registers = Registers::new();
        registers.set(0x4074, u32::MAX - 1);
        registers.count(0x4074, 5);
        assert_eq!(registers.take(0x4074), u32::MAX);
        registers.count_wide(0x4088, u64::MAX);
        assert_eq!(registers.wide(0x4088), 0xf_ffff_ffff);
    }
}
