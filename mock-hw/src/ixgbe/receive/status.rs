//! What a receive descriptor says once it is done (82599, 7.1.5, 7.1.6).

use super::{
    super::{
        device::Device,
        filter::Target,
        packet::{L3, L4, Packet},
    },
    Arrived, Ring,
};
use crate::fault::Fault;

/// RXCSUM: which of hash and checksum a descriptor tells.
const RXCSUM: usize = 0x0_5000;

impl Device {
    fn length(&self, len: usize) -> u64 {
        if self.function.faults().fires(Fault::BadLength) {
            self.function
                .fault(format_args!("receive length is random"));
            return self.function.faults().random(0x1_0000);
        }
        len as u64 & 0xffff
    }

    /// Advanced write-back (7.1.6.2).
    pub(super) fn status_words(
        &self,
        ring: &Ring,
        len: usize,
        last: bool,
        arrived: &Arrived,
    ) -> [u64; 2] {
        let packet = &arrived.packet;
        let target = &arrived.target;
        let mut low = u64::from(packet_type(packet)) << 4;
        let mut status = 1 | target.status & (Target::INEXACT | Target::LOOPED);
        if last {
            let (bits, errors) = self.checks(arrived);
            status |= 2 | bits | errors | target.status;
            if self.regs.word(RXCSUM) & 1 << 13 != 0 || target.status & Target::BY_DIRECTOR != 0 {
                low |= u64::from(target.hash) << 32 | u64::from(target.hash_type);
            }
        }
        let mut tag = 0;
        if last && self.strips(arrived, ring) {
            status |= 8;
            tag = u64::from(packet.tag.unwrap_or(0));
        }
        [low, status | self.length(len) << 32 | tag << 48]
    }

    /// The checksums that were looked at, and which of them are wrong.
    fn checks(&self, arrived: &Arrived) -> (u64, u64) {
        const IP: u64 = 1 << 6;
        const TRANSPORT: u64 = 1 << 5;
        const UDP: u64 = 1 << 10;
        const IP_ERROR: u64 = 1 << 31;
        const TRANSPORT_ERROR: u64 = 1 << 30;

        let packet = &arrived.packet;
        let (mut status, mut errors) = (0, 0);
        if let Some(L3::V4 { sound, .. }) = packet.l3 {
            status |= IP;
            errors |= if sound { 0 } else { IP_ERROR };
        }
        if let Some(sound) = packet.transport_is_sound(&arrived.frame) {
            status |= TRANSPORT;
            errors |= if sound { 0 } else { TRANSPORT_ERROR };
            if packet.l4 == Some(L4::Udp) {
                status |= UDP;
            }
        }
        (status, errors)
    }

    /// Legacy write-back: length, no checksum, status, errors, tag (7.1.5).
    pub(super) fn legacy_status(
        &self,
        ring: &Ring,
        len: usize,
        last: bool,
        arrived: &Arrived,
    ) -> u64 {
        let [_, high] = self.status_words(ring, len, last, arrived);
        let status = high & 0x8b | (high & 0x60);
        let errors = high >> 30 & 3;
        high >> 32 & 0xffff | status << 32 | errors << 46 | high & 0xffff << 48
    }
}

/// Which headers there are: bit 0 IPv4, then with options, IPv6, with extensions, TCP, UDP, SCTP (7.1.6.2).
fn packet_type(packet: &Packet) -> u32 {
    let l3 = match packet.l3 {
        None => 0,
        Some(L3::V4 { options: false, .. }) => 1,
        Some(L3::V4 { options: true, .. }) => 3,
        Some(L3::V6 { extensions: false }) => 4,
        Some(L3::V6 { extensions: true }) => 12,
    };
    let l4 = match packet.l4 {
        None => 0,
        Some(L4::Tcp) => 0x10,
        Some(L4::Udp) => 0x20,
        Some(L4::Sctp) => 0x40,
    };
    l3 | l4
}
