//! Identify (NVMe 1.4, 5.15): controller, namespace, active list, identification descriptors.

use super::{command::Command, controller::Controller, log::Log, status::Status};
use crate::bytes::put;

impl Controller {
    pub(super) fn identify(&self, command: &Command) -> Result<Vec<u8>, Status> {
        let namespace = command.namespace();
        match command.dword(10) & 0xff {
            0x00 => self.identify_namespace(namespace),
            0x01 => Ok(self.identify_controller()),
            0x02 => self.active_namespaces(namespace),
            0x03 => self.descriptors(namespace),
            other => {
                self.function
                    .left_out(format_args!("Identify with CNS {other:#04x}"));
                Err(Status::INVALID_FIELD)
            }
        }
    }

    /// CNS 01h.
    fn identify_controller(&self) -> Vec<u8> {
        let config = &self.config;
        let options = config.options;
        let last = self.namespaces.last_key_value().map_or(1, |(id, _)| *id);
        // OACS: Format NVM (bit 1), Doorbell Buffer Config (bit 8).
        let admin = 2 | u16::from(options.has_shadow_doorbells()) << 8;
        // ELPE, counted from zero.
        let failures = u8::try_from(Log::FAILURES - 1).unwrap_or(0);
        // VWC: a cache (bit 0); Flush takes the id FFFFFFFFh (bits 2:1).
        let cache = 6 | u8::from(options.has_volatile_cache());
        // SGLS: supported without alignment (bits 1:0), bit bucket (bit 16).
        let sgls = u32::from(options.has_sgl()) * 0x0001_0001;
        let fields: [(usize, &[u8]); 18] = [
            (0, &[0x36, 0x1b, 0xf4, 0x1a]), // VID, SSVID
            (4, b"MOCK-0001           "),
            (24, b"Parakernel mock NVMe                    "),
            (64, b"1.0     "),
            (77, &[config.transfer_exponent]), // MDTS
            (78, &[1, 0]),                     // CNTLID
            (80, &config.version.to_le_bytes()),
            (92, &[0, 1, 0, 0]), // OAES: namespace attribute notices
            (111, &[1]),         // CNTRLTYPE: I/O controller
            (256, &admin.to_le_bytes()),
            (258, &[3, config.event_requests - 1, 0x03]), // ACL, AERL; FRMW: one slot, read-only
            (261, &[0x04, failures]),                     // LPA: extended data of Get Log Page
            (266, &[0x57, 1, 0x75, 1]),                   // WCTEMP 343 K, CCTEMP 373 K
            (512, &[0x66, 0x44]),                         // SQES, CQES
            (516, &last.max(config.namespace_limit).to_le_bytes()),
            (520, &[0x0d, 0]), // ONCS: Compare, Dataset Management, Write Zeroes
            (525, &[cache]),
            (536, &sgls.to_le_bytes()),
        ];
        let mut bytes = vec![0; 4096];
        fields
            .iter()
            .for_each(|(offset, field)| put(&mut bytes, *offset, field));
        put(&mut bytes, 768, b"nqn.2026-01.org.example:parakernel-mock");
        // Power state 0: 25 W.
        put(&mut bytes, 2048, &2500_u16.to_le_bytes());
        bytes
    }

    /// CNS 00h. An id that is valid but not active gives zeros.
    fn identify_namespace(&self, id: u32) -> Result<Vec<u8>, Status> {
        let mut bytes = vec![0; 4096];
        let Some(namespace) = self.namespaces.get(&id) else {
            let valid = id > 0 && id <= self.config.namespace_limit;
            return valid.then_some(bytes).ok_or(Status::INVALID_NAMESPACE);
        };
        let config = namespace.config;
        put(&mut bytes, 0, &config.blocks.to_le_bytes());
        put(&mut bytes, 8, &config.blocks.to_le_bytes());
        put(&mut bytes, 16, &namespace.used().to_le_bytes());
        // NLBAF: two formats; FLBAS: which of them is in use.
        put(&mut bytes, 25, &[1, u8::from(config.block_len == 4096)]);
        // DLFEAT: deallocated blocks read as zeros, Write Zeroes may deallocate.
        put(&mut bytes, 33, &[0x09]);
        let capacity = u128::from(config.blocks) * config.block_len as u128;
        put(&mut bytes, 48, &capacity.to_le_bytes());
        put(&mut bytes, 104, &Self::nguid(id));
        put(&mut bytes, 120, &Self::eui64(id));
        // LBA formats: data size as a power of two, no metadata.
        put(&mut bytes, 128, &(9_u32 << 16).to_le_bytes());
        put(&mut bytes, 132, &(12_u32 << 16).to_le_bytes());
        Ok(bytes)
    }

    /// CNS 02h: ids above `after`, ascending.
    fn active_namespaces(&self, after: u32) -> Result<Vec<u8>, Status> {
        if after >= 0xffff_fffe {
            return Err(Status::INVALID_NAMESPACE);
        }
        let mut bytes = vec![0; 4096];
        let ids = self.namespaces.range(after + 1..).map(|(id, _)| id);
        for (entry, id) in bytes.chunks_exact_mut(4).zip(ids) {
            put(entry, 0, &id.to_le_bytes());
        }
        Ok(bytes)
    }

    /// CNS 03h: EUI-64 and NGUID.
    fn descriptors(&self, id: u32) -> Result<Vec<u8>, Status> {
        if !self.namespaces.contains_key(&id) {
            return Err(Status::INVALID_NAMESPACE);
        }
        let mut bytes = vec![0; 4096];
        put(&mut bytes, 0, &[1, 8, 0, 0]);
        put(&mut bytes, 4, &Self::eui64(id));
        put(&mut bytes, 12, &[2, 16, 0, 0]);
        put(&mut bytes, 16, &Self::nguid(id));
        Ok(bytes)
    }

    /// Big-endian, as both identifiers are.
    fn eui64(id: u32) -> [u8; 8] {
        (0x5254_0000_0000_0000 | u64::from(id)).to_be_bytes()
    }

    fn nguid(id: u32) -> [u8; 16] {
        (0x5254_0000_0000_0000_0000_0000_0000_0000 | u128::from(id)).to_be_bytes()
    }
}
