//! Format NVM (NVMe 1.4, 5.23): other blocks, and nothing in them.

use super::{
    command::Command,
    controller::Controller,
    namespace::{Namespace, NamespaceConfig},
    status::Status,
};

/// The id that means all namespaces.
const ALL: u32 = u32::MAX;

impl Controller {
    /// Gives one namespace, or all of them, the format that dword 10 chooses; its blocks are lost, and its size stays, in
    /// whole blocks of the new length.
    ///
    /// With commands of the namespace in flight the command fails, as it may.
    pub(super) fn format(&mut self, command: &Command) -> Result<u32, Status> {
        let block_len = self.chosen_block_len(command.dword(10))?;
        let wanted = command.namespace();
        let ids: Vec<u32> = match wanted {
            ALL => self.namespaces.keys().copied().collect(),
            one => vec![one],
        };
        if !ids.iter().all(|id| self.namespaces.contains_key(id)) {
            return Err(Status::INVALID_NAMESPACE);
        }
        let is_busy = self
            .jobs
            .iter()
            .any(|job| job.submission > 0 && (wanted == ALL || job.command.namespace() == wanted));
        if is_busy {
            return Err(Status::SEQUENCE_ERROR);
        }
        for id in ids {
            if let Some(namespace) = self.namespaces.get_mut(&id) {
                let bytes = namespace.config.blocks * namespace.config.block_len as u64;
                *namespace = Namespace::new(NamespaceConfig {
                    blocks: bytes / block_len as u64,
                    block_len,
                });
            }
        }
        Ok(0)
    }

    /// The length of a block that dword 10 asks for.
    fn chosen_block_len(&mut self, dword: u32) -> Result<usize, Status> {
        // PI, PIL and MSET belong to metadata, which no format has.
        if dword >> 4 & 0x1f != 0 {
            self.function.left_out(format_args!(
                "Format NVM with metadata or protection information"
            ));
            return Err(Status::INVALID_FORMAT);
        }
        // SES: none, or user data, which is gone in any case; cryptographic erase is not offered (FNA bit 2).
        if dword >> 9 & 7 > 1 {
            return Err(Status::INVALID_FIELD);
        }
        match dword & 0xf {
            0 => Ok(512),
            1 => Ok(4096),
            _ => Err(Status::INVALID_FORMAT),
        }
    }
}
