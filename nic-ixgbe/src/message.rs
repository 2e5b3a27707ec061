//! What a virtual function and the port's driver say to each other: the messages that Linux, `FreeBSD` and DPDK agree on, in
//! the 16 words of a mailbox.
//!
//! The datasheet leaves the words to software (§7.10.2.9). Versions 1.0 and 1.1 are spoken: later ones are about what the
//! port does not share (receive-side scaling, promiscuous modes).

use parakernel_core::steering::Mac;

/// The words of a mailbox.
pub(crate) type Words = [u32; 16];

/// The answer is yes, or no; the function may send further requests.
pub(crate) const SUCCESS: u32 = 1 << 31;
pub(crate) const FAILURE: u32 = 1 << 30;
pub(crate) const CLEAR_TO_SEND: u32 = 1 << 29;

/// What the port says by itself: that something has changed.
pub(crate) const CONTROL: u32 = 0x100;

/// What a function asks for, by the low 16 bits of a message.
pub(crate) const RESET: u16 = 1;
pub(crate) const SET_MAC: u16 = 2;
pub(crate) const SET_MULTICAST: u16 = 3;
pub(crate) const SET_VLAN: u16 = 4;
pub(crate) const SET_MAX_FRAME: u16 = 5;
pub(crate) const NEGOTIATE: u16 = 8;
pub(crate) const GET_QUEUES: u16 = 9;

/// Versions, as numbers of messages.
pub(crate) const VERSION_1_0: u32 = 0;
pub(crate) const VERSION_1_1: u32 = 2;

/// How many groups fit into a message.
pub(crate) const MAX_GROUPS: usize = 30;

/// The first word of a request: what it is, and eight bits about it.
pub(crate) fn head(kind: u16, info: u8) -> u32 {
    u32::from(kind) | u32::from(info) << 16
}

/// What the first word of a message is about.
pub(crate) fn kind(head: u32) -> u16 {
    let [a, b, ..] = head.to_le_bytes();
    u16::from_le_bytes([a, b])
}

/// The eight bits about it.
pub(crate) fn info(head: u32) -> u8 {
    let [_, _, info, _] = head.to_le_bytes();
    info
}

/// The two words of an address, its first byte lowest.
pub(crate) const fn mac_words(mac: Mac) -> [u32; 2] {
    let [a, b, c, d, e, f] = mac.0;
    [
        u32::from_le_bytes([a, b, c, d]),
        u32::from_le_bytes([e, f, 0, 0]),
    ]
}

/// The address of two words.
pub(crate) const fn mac_of([low, high]: [u32; 2]) -> Mac {
    let [a, b, c, d] = low.to_le_bytes();
    let [e, f, ..] = high.to_le_bytes();
    Mac([a, b, c, d, e, f])
}

/// The place of a group in the port's table, by bits 47 to 36 of its address: twelve bits.
pub(crate) fn group_hash(mac: Mac) -> u16 {
    let [.., fifth, last] = mac.0;
    u16::from(fifth) >> 4 | u16::from(last) << 4
}
