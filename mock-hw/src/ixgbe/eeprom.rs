//! What the EEPROM of a card holds (82599, chapter 6).

/// Words of the EEPROM: 32 Kbit.
pub(super) const WORDS: usize = 2048;

/// Its size as EEC and control word 1 tell it: `64 << SIZE` words.
pub(super) const SIZE: u32 = 5;

/// Where the blocks lie that pointers lead to.
const CORE: usize = 0x100;
const SFP_LIST: usize = 0x200;
const FIRMWARE: usize = 0x300;
const ASSEMBLY: usize = 0x380;

/// A pointer that leads nowhere.
const NOWHERE: u16 = 0xffff;

/// An EEPROM as a card without management firmware has it, its checksum included.
pub(super) fn contents(mac: [u8; 6], any_module: bool) -> Vec<u16> {
    let mut words = vec![0xffff; WORDS];
    // Control word 1: the EEPROM is protected by no password and this large (6.3.2.1).
    words[0x00] = 0x0020 | (u16::try_from(SIZE).unwrap_or(0) << 11);
    words[0x01] = 0;
    words[0x02] = 0;
    // Pointers of the hardware section: analog, core and link sections of each port.
    words[0x03..0x0f].fill(NOWHERE);
    words[0x09] = address(CORE);
    words[0x0f] = address(FIRMWARE);
    words[0x15] = 0xfafa;
    words[0x16] = address(ASSEMBLY);
    words[0x2b] = address(SFP_LIST);
    // Device capabilities: any module, FCoE; no crosstalk on the module's pins.
    words[0x2c] = u16::from(any_module) | 0x0082;
    // The image's version.
    words[0x2d] = 0x0001;
    words[0x2e] = 0x8000;
    words[0x38] = 0;
    core_section(&mut words, mac);
    sfp_list(&mut words);
    firmware(&mut words);
    assembly(&mut words);
    words[0x3f] = checksum(&words);
    words
}

/// The first port's section begins with its length; then comes the address (6.3.7).
fn core_section(words: &mut [u16], mac: [u8; 6]) {
    words[CORE] = 4;
    for (n, pair) in mac.chunks_exact(2).enumerate() {
        words[CORE + 1 + n] = u16::from_le_bytes([pair[0], pair[1]]);
    }
    words[CORE + 4] = 0;
}

/// For each kind of module the words that set up the PHY: a list of kind and place, ended by all ones (6.4).
fn sfp_list(words: &mut [u16]) {
    let mut list = SFP_LIST;
    let mut place = SFP_LIST + 0x40;
    words[list] = 0;
    list += 1;
    for kind in 0..16_u16 {
        words[list] = kind;
        words[list + 1] = address(place);
        list += 2;
        // A length, then the words, ended by all ones.
        words[place] = 2;
        words[place + 1] = 0x0100 | kind;
        words[place + 2] = 0xffff;
        place += 3;
    }
    words[list] = 0xffff;
}

/// A firmware module without management, its patches of a version that drivers take for a production one.
fn firmware(words: &mut [u16]) {
    words[FIRMWARE..FIRMWARE + 0x10].fill(NOWHERE);
    words[FIRMWARE] = 0x10;
    // Parameters of the passthrough patch.
    words[FIRMWARE + 4] = address(FIRMWARE + 0x20);
    words[FIRMWARE + 0x20..FIRMWARE + 0x28].fill(0);
    words[FIRMWARE + 0x20 + 7] = 0x0009;
}

/// The printed board assembly number, as a block with its length in words.
fn assembly(words: &mut [u16]) {
    let text = b"MODEL0-001";
    words[ASSEMBLY] = u16::try_from(1 + text.len() / 2).unwrap_or(0);
    for (n, pair) in text.chunks_exact(2).enumerate() {
        words[ASSEMBLY + 1 + n] = u16::from_be_bytes([pair[0], pair[1]]);
    }
}

/// Word 3Fh: with it, the words up to there and the hardware sections that the pointers 03h to 0Eh lead to add up to
/// 0xBABA (6.3.4.1).
pub(super) fn checksum(words: &[u16]) -> u16 {
    let mut sum = words[..0x3f]
        .iter()
        .fold(0_u16, |sum, word| sum.wrapping_add(*word));
    for pointer in &words[0x03..0x0f] {
        let start = usize::from(*pointer);
        if matches!(*pointer, 0 | NOWHERE) || start >= words.len() {
            continue;
        }
        let len = usize::from(words[start]);
        let section = words.get(start + 1..start + 1 + len).unwrap_or_default();
        sum = section
            .iter()
            .fold(sum, |sum, word| sum.wrapping_add(*word));
    }
    0xbaba_u16.wrapping_sub(sum)
}

fn address(place: usize) -> u16 {
    u16::try_from(place).unwrap_or(NOWHERE)
}
