//! Descriptors as memory shared with the device: atomics with a few verbs, and what the device wrote into them.
//!
//! Advanced formats only (§7.1.6, §7.2.3.2.3, §7.2.3.2.4). Byte order, bit numbers and memory order stay in here.

mod receive;
mod transmit;

pub use receive::{Classification, Completion, RxDescriptor};
pub use transmit::{
    Command, Context, Headers, Ip, L4, Offloads, Place, RawDescriptor, TxDescriptor,
};

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The bits that offloads set.
    fn command(offloads: Offloads) -> u64 {
        Command::from_bits(0).with_offloads(offloads).bits()
    }

    /// The words of §7.2.3.2.4 and §7.2.3.2.3 and of §7.1.6, written out as literals.
    #[test]
    fn words_have_the_datasheets_bits() {
        assert_eq!(Command::whole(64).bits(), 0x0010_0000_2330_0040);
        assert_eq!(
            Command::whole(64).with_report().bits(),
            0x0010_0000_2B30_0040
        );
        let part = Command::part(100, 300, Place::Further);
        assert_eq!(part.bits(), 300 << 46 | 0x2230_0064);
        let offloads = Offloads::IP_CHECKSUM
            .and(Offloads::L4_CHECKSUM)
            .and(Offloads::SEGMENT);
        assert_eq!(command(offloads), 0x0000_0380_8000_0000);
        assert_eq!(command(Offloads::VLAN), 0x0000_0080_4000_0000);
        let headers = Headers {
            mac_len: 14,
            ip: Ip::V4,
            ip_len: 20,
            l4: L4::Tcp,
            l4_len: 32,
        };
        let context = Context::new(headers, 0x1234, 1460);
        assert_eq!(context.words(), [0x1234_1C14, 0x05B4_2000_2020_0C00]);
        let done = Completion::from_bits(0x1234_05EA_0000_006B);
        assert!(done.is_done() && done.is_last() && !done.is_damaged());
        assert_eq!((done.len(), done.vlan()), (1514, Some(0x1234)));
        assert_eq!(
            (done.ip_checksum(), done.l4_checksum()),
            (Some(true), Some(true))
        );
        assert_eq!(
            Completion::from_bits(0x8000_0040).ip_checksum(),
            Some(false)
        );
        assert_eq!(
            Completion::from_bits(0x4000_0020).l4_checksum(),
            Some(false)
        );
        assert_eq!(
            Classification::from_bits(0xABCD_1234_0000_0001).rss_hash(),
            Some(0xABCD_1234)
        );
    }

    proptest! {
        /// A whole frame is done, ends, is not damaged, and has 1 to `posted` bytes.
        #[test]
        fn a_whole_frame_agrees_with_its_bits(low in 0_u64..4, error in 0_u64..2, len in 0_u64..4096, posted in 1_u32..4096) {
            let completion = Completion::from_bits(low | error << 29 | len << 32);
            let expected = (low == 3 && error == 0 && len > 0 && len <= u64::from(posted)).then_some(len);
            prop_assert_eq!(completion.whole_frame(posted).map(u64::from), expected);
        }

        /// Exactly the words of whole frames have a length, and no other word has one below 2¹⁶.
        #[test]
        fn only_whole_frames_have_a_length(len in 0_u32..0x1_0000, flip in 0_u32..64) {
            let word = Command::whole(len).bits();
            prop_assert_eq!(Command::from_bits(word).as_whole(), (u64::from(len), Command::whole(len)));
            let other = Command::from_bits(word ^ 1 << flip);
            if flip == 27 {
                prop_assert_eq!(other.as_whole(), (u64::from(len), Command::whole(len)));
            } else {
                prop_assert!(other.as_whole().0 > 0xFFFF);
            }
        }

        /// What is made is allowed, and comes back the same.
        #[test]
        fn a_context_comes_back(mac_len in 0_u8..128, v4: bool, ip_len in 0_u16..512, tcp: bool, l4_len: u8, vlan: u16, segment_len: u16) {
            let headers = Headers {
                mac_len,
                ip: if v4 { Ip::V4 } else { Ip::V6 },
                ip_len,
                l4: if tcp { L4::Tcp } else { L4::Udp },
                l4_len,
            };
            let context = Context::new(headers, vlan, segment_len);
            let parsed = Context::parse(RawDescriptor(context.words())).unwrap();
            prop_assert_eq!((parsed.headers(), parsed.vlan(), parsed.segment_len()), (headers, vlan, segment_len));
        }

        /// Each bit beyond those that a process may choose makes a descriptor one that is refused.
        #[test]
        fn every_other_bit_is_refused(bit in 0_u32..64, word in 0_usize..2) {
            let headers = Headers { mac_len: 14, ip: Ip::V4, ip_len: 20, l4: L4::Tcp, l4_len: 20 };
            let mut words = Context::new(headers, 0, 1000).words();
            words[word] ^= 1 << bit;
            let free = match word {
                0 => bit < 32,
                _ => bit == 10 || bit == 11 || bit >= 40,
            };
            prop_assert_eq!(Context::parse(RawDescriptor(words)).is_some(), free);
            let command = Command::from_bits(Command::part(100, 200, Place::Last).bits() ^ 1 << bit);
            let free = matches!(bit, 0..16 | 24 | 27 | 30 | 31 | 39 | 40 | 41 | 46..64);
            prop_assert_eq!(command.is_allowed(), free);
        }
    }
}
