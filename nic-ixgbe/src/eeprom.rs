//! The EEPROM's checksum, §6.3: a broken image could set the port up in any way, so it is not driven.

use parakernel_core::mmio::{Register, Registers};

use crate::{device::Device, error::InitError, regs::Eerd};

/// Where the checksum lies, and what all words add up to with it.
const CHECKSUM: u16 = 0x3F;
const SUM: u16 = 0xBABA;

/// Words that point to sections; the one after them is the firmware's, which has a checksum of its own.
const POINTERS: core::ops::Range<u16> = 0x03..0x0F;

/// Words that can be read: an address has 14 bits.
const END: u16 = 1 << 14;

/// What the word that is being read is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// One of the header.
    Header,
    /// The length of the section that this word of the header points to.
    Length(u16),
    /// One of its words, and how many there are after it.
    Section(u16, u16),
}

/// How far the check came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Check {
    phase: Phase,
    address: u16,
    sum: u16,
    stored: u16,
    pointers: [u16; (POINTERS.end - POINTERS.start) as usize],
}

impl Check {
    /// Nothing was read.
    pub(crate) const NEW: Self = Self {
        phase: Phase::Header,
        address: 0,
        sum: 0,
        stored: 0,
        pointers: [0; 12],
    };

    /// The word to read.
    pub(crate) const fn address(&self) -> u16 {
        self.address
    }

    /// Takes the word in; whether there are more.
    ///
    /// # Errors
    ///
    /// Where the sum is wrong, or a section lies where no word can be read.
    pub(crate) fn take(&mut self, word: u16) -> Result<bool, InitError> {
        match self.phase {
            Phase::Header => {
                if self.address == CHECKSUM {
                    self.stored = word;
                    return self.next_section(POINTERS.start);
                }
                self.add(word);
                if POINTERS.contains(&self.address) {
                    let slot = usize::from(self.address - POINTERS.start);
                    if let Some(pointer) = self.pointers.get_mut(slot) {
                        *pointer = word;
                    }
                }
                self.address += 1;
                Ok(true)
            }
            Phase::Length(pointer) => {
                if is_empty(word) {
                    return self.next_section(pointer + 1);
                }
                let room = END.saturating_sub(self.address + 1);
                if word > room {
                    return Err(InitError::EepromSection(self.address));
                }
                self.phase = Phase::Section(pointer, word - 1);
                self.address += 1;
                Ok(true)
            }
            Phase::Section(pointer, left) => {
                self.add(word);
                let Some(left) = left.checked_sub(1) else {
                    return self.next_section(pointer + 1);
                };
                self.phase = Phase::Section(pointer, left);
                self.address += 1;
                Ok(true)
            }
        }
    }

    fn add(&mut self, word: u16) {
        self.sum = self.sum.wrapping_add(word);
    }

    /// Goes on with the section of word `from` of the header, or of one after it.
    fn next_section(&mut self, from: u16) -> Result<bool, InitError> {
        for pointer in from..POINTERS.end {
            let slot = usize::from(pointer - POINTERS.start);
            let address = self.pointers.get(slot).copied().unwrap_or(0);
            if is_empty(address) {
                continue;
            }
            if address >= END {
                return Err(InitError::EepromSection(address));
            }
            self.phase = Phase::Length(pointer);
            self.address = address;
            return Ok(true);
        }
        let computed = SUM.wrapping_sub(self.sum);
        if computed != self.stored {
            return Err(InitError::Checksum {
                stored: self.stored,
                computed,
            });
        }
        Ok(false)
    }
}

/// Of a pointer or a length: there is no section.
const fn is_empty(word: u16) -> bool {
    word == 0 || word == u16::MAX
}

impl<R: Registers> Device<'_, R> {
    /// Begins to read a word of the EEPROM, §8.2.3.2.
    pub(crate) fn begin_word(&self, address: u16) {
        let read = Eerd::default().with(Eerd::ADDR, address.into());
        self.port().write(read.with(Eerd::START, 1));
    }

    /// The word, once it was read.
    pub(crate) fn word(&self) -> Option<u16> {
        let eerd = self.port().read::<Eerd>();
        let word = u16::try_from(eerd.field(Eerd::DATA)).ok();
        word.filter(|_| eerd.is_set(Eerd::DONE))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Checks an image, and counts the words that were read.
    fn check(image: &[u16]) -> (Result<(), InitError>, usize) {
        let mut check = Check::NEW;
        for count in 1..1_000_000 {
            let word = image.get(usize::from(check.address())).copied();
            match check.take(word.unwrap_or(0xFFFF)) {
                Ok(true) => {}
                Ok(false) => return (Ok(()), count),
                Err(error) => return (Err(error), count),
            }
        }
        panic!("a check without an end");
    }

    /// The sum as drivers compute it: all words of the header but the checksum, and those of each section but its length.
    fn sum(image: &[u16]) -> u16 {
        let header: u16 = image[..0x3F]
            .iter()
            .fold(0, |sum, word| sum.wrapping_add(*word));
        let sections = image[3..0xF].iter().filter(|&&it| it != 0 && it != 0xFFFF);
        let words = sections.flat_map(|&at| {
            let len = image[usize::from(at)];
            let len = if len == 0xFFFF { 0 } else { usize::from(len) };
            &image[usize::from(at) + 1..=usize::from(at) + len]
        });
        let all = words.fold(header, |sum, word| sum.wrapping_add(*word));
        0xBABA_u16.wrapping_sub(all)
    }

    proptest! {
        /// An image with the right sum passes, whatever sections it has; with any bit changed that counts, it does not.
        #[test]
        fn a_sum_is_right_or_wrong(words in prop::collection::vec(any::<u16>(), 0x40), lens in prop::collection::vec(0..40_u16, 12), used in any::<u16>(), flip in 0..0x3F_usize, bit in 0..16_u32) {
            let mut image = words;
            image.resize(0x800, 0x5A5A);
            for (n, len) in lens.iter().enumerate() {
                let at = 0x100 + 0x40 * n;
                image[3 + n] = match (used >> n & 1, n % 2) {
                    (1, _) => u16::try_from(at).unwrap(),
                    (_, 0) => 0,
                    _ => 0xFFFF,
                };
                image[at] = *len;
            }
            image[0x3F] = sum(&image);
            prop_assert_eq!(check(&image).0, Ok(()));
            if !POINTERS.contains(&u16::try_from(flip).unwrap()) {
                image[flip] ^= 1 << bit;
                let is_wrong = matches!(check(&image).0, Err(InitError::Checksum { .. }));
                prop_assert!(is_wrong);
            }
        }

    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// Whatever an EEPROM says, the check ends.
        #[test]
        fn a_check_ends(words in prop::collection::vec(any::<u16>(), 0x4000)) {
            let (_, count) = check(&words);
            prop_assert!(count <= 0x40 + 12 * 0x4000);
        }
    }

    #[test]
    fn a_section_that_cannot_be_is_said() {
        let mut image = vec![0; 0x4000];
        image[3] = 0x4000;
        assert_eq!(check(&image).0, Err(InitError::EepromSection(0x4000)));
        image[3] = 0x3FF0;
        image[0x3FF0] = 0x10;
        assert_eq!(check(&image).0, Err(InitError::EepromSection(0x3FF0)));
        image[0x3FF0] = 0xF;
        image[0x3F] = sum(&image);
        assert_eq!(check(&image).0, Ok(()));
    }
}
