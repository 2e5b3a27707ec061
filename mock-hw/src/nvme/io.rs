//! NVM commands (NVMe 1.4, 6).

use super::{
    command::Command, controller::Controller, engine::Work, namespace::Namespace, status::Status,
};
use crate::bytes::{u32_at, u64_at};

impl Controller {
    pub(super) fn begin_io(&mut self, command: &Command) -> Result<Work, Status> {
        match command.opcode() {
            0x00 => self.flush(command.namespace()),
            0x01 | 0x05 => self.range(command).map(Work::Receive),
            0x02 => {
                let len = self.range(command)?;
                let namespace = self.namespace(command.namespace())?;
                let bytes = namespace.read(command.lba(), command.blocks());
                self.log.reads += 1;
                self.log.blocks_read += (len / 512) as u64;
                Ok(Work::Send(bytes))
            }
            0x08 => self.write_zeroes(command),
            0x09 => Ok(Work::Receive((usize::from(command.0[40]) + 1) * 16)),
            other => {
                self.function
                    .left_out(format_args!("I/O command {other:#04x}"));
                Err(Status::INVALID_OPCODE)
            }
        }
    }

    /// All data of a command that writes, compares or manages has arrived.
    pub(super) fn received(&mut self, command: &Command, bytes: &[u8]) -> Result<(), Status> {
        let forced = command.dword(12) & 1 << 30 != 0 || !self.config.options.has_volatile_cache();
        let (lba, blocks) = (command.lba(), command.blocks());
        let namespace = self.namespace(command.namespace())?;
        match command.opcode() {
            0x05 => {
                let same = namespace.read(lba, blocks) == bytes;
                return same.then_some(()).ok_or(Status::COMPARE_FAILURE);
            }
            0x09 => return manage(namespace, command, bytes),
            _ => namespace.write(lba, bytes, forced),
        }
        self.log.writes += 1;
        self.log.blocks_written += (bytes.len() / 512) as u64;
        Ok(())
    }

    fn namespace(&mut self, id: u32) -> Result<&mut Namespace, Status> {
        self.namespaces
            .get_mut(&id)
            .ok_or(Status::INVALID_NAMESPACE)
    }

    /// Bytes of the command's blocks, if they lie in the namespace and fit into one transfer.
    fn range(&mut self, command: &Command) -> Result<usize, Status> {
        let limit = self.transfer_limit();
        let namespace = self.namespace(command.namespace())?;
        let (lba, blocks) = (command.lba(), command.blocks());
        let len = usize::try_from(blocks)
            .unwrap_or(usize::MAX)
            .saturating_mul(namespace.config.block_len);
        if len > limit {
            return Err(Status::INVALID_FIELD);
        }
        if !namespace.holds(lba, blocks) {
            return Err(Status::LBA_OUT_OF_RANGE);
        }
        if command.dword(12) >> 26 & 0xf != 0 {
            self.function
                .left_out(format_args!("protection information (PRINFO)"));
            return Err(Status::INVALID_FIELD);
        }
        Ok(len)
    }

    /// The id `FFFFFFFFh` flushes all namespaces.
    fn flush(&mut self, id: u32) -> Result<Work, Status> {
        if id == u32::MAX {
            self.namespaces.values_mut().for_each(Namespace::flush);
        } else {
            self.namespace(id)?.flush();
        }
        self.log.flushes += 1;
        Ok(Work::Done(0))
    }

    /// MDTS does not apply: there is no data.
    fn write_zeroes(&mut self, command: &Command) -> Result<Work, Status> {
        let forced = command.dword(12) & 1 << 30 != 0 || !self.config.options.has_volatile_cache();
        let (lba, blocks) = (command.lba(), command.blocks());
        let namespace = self.namespace(command.namespace())?;
        if !namespace.holds(lba, blocks) {
            return Err(Status::LBA_OUT_OF_RANGE);
        }
        namespace.zero(lba, blocks, forced);
        Ok(Work::Done(0))
    }
}

/// Dataset Management: deallocates the ranges if bit 2 of dword 11 says so, else takes them for advice.
fn manage(namespace: &mut Namespace, command: &Command, ranges: &[u8]) -> Result<(), Status> {
    let ranges = ranges
        .chunks_exact(16)
        .map(|range| (u64_at(range, 8), u64::from(u32_at(range, 4))));
    for (lba, blocks) in ranges.clone() {
        if !namespace.holds(lba, blocks) {
            return Err(Status::LBA_OUT_OF_RANGE);
        }
    }
    if command.dword(11) & 4 != 0 {
        ranges.for_each(|(lba, blocks)| namespace.zero(lba, blocks, false));
    }
    Ok(())
}
