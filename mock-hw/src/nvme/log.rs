//! Get Log Page (NVMe 1.4, 5.14): errors, health, firmware slots, changed namespaces.

use alloc::collections::{BTreeSet, VecDeque};

use super::{Counts, command::Command, controller::Controller, status::Status};
use crate::bytes::put;

/// One failed command, as the error log tells it.
#[derive(Clone, Copy, Debug)]
struct Failure {
    count: u64,
    submission: u16,
    id: u16,
    status: u16,
    lba: u64,
    namespace: u32,
}

/// What the controller counts and remembers.
#[derive(Debug, Default)]
pub(super) struct Log {
    failures: VecDeque<Failure>,
    failure_count: u64,
    pub(super) changed: BTreeSet<u32>,
    pub(super) blocks_read: u64,
    pub(super) blocks_written: u64,
    pub(super) reads: u64,
    pub(super) writes: u64,
    pub(super) flushes: u64,
    pub(super) power_cycles: u64,
    pub(super) critical_warning: u8,
}

impl Log {
    /// Error log entries kept, of 64 bytes each.
    pub(super) const FAILURES: usize = 64;

    /// The log of a controller that was powered on for the first time.
    pub(super) fn new() -> Self {
        Self {
            power_cycles: 1,
            ..Self::default()
        }
    }
}

impl Controller {
    pub(super) fn counts(&self) -> Counts {
        Counts {
            submission_queues: self.submissions.len(),
            completion_queues: self.completions.len(),
            moving: self.jobs.len(),
            failed: self.log.failure_count,
        }
    }

    pub(super) fn note_failure(&mut self, submission: u16, command: &Command, status: Status) {
        let log = &mut self.log;
        log.failure_count += 1;
        let failure = Failure {
            count: log.failure_count,
            submission,
            id: command.id(),
            status: status.field(),
            lba: if submission == 0 { 0 } else { command.lba() },
            namespace: command.namespace(),
        };
        log.failures.push_front(failure);
        log.failures.truncate(Log::FAILURES);
    }

    /// The bytes of the page that the command asks for.
    pub(super) fn log_page(&mut self, command: &Command) -> Result<Vec<u8>, Status> {
        let dword = command.dword(10);
        let page = u8::try_from(dword & 0xff).unwrap_or(0);
        let keeps_event = dword & 0x8000 != 0;
        let dwords = u64::from(dword >> 16) + (u64::from(command.dword(11) & 0xffff) << 16) + 1;
        let offset = u64::from(command.dword(12)) | u64::from(command.dword(13)) << 32;
        let whole = match page {
            0x01 => self.error_log(),
            0x02 => self.health(),
            0x03 => {
                // Slot 1 is active and holds the only revision.
                let mut bytes = vec![0; 512];
                put(&mut bytes, 0, &[1]);
                put(&mut bytes, 8, b"1.0     ");
                bytes
            }
            0x04 => self.changed_namespaces(keeps_event),
            other => {
                self.function
                    .left_out(format_args!("log page {other:#04x}"));
                return Err(Status::INVALID_LOG_PAGE);
            }
        };
        let start = usize::try_from(offset).map_err(|_| Status::INVALID_FIELD)?;
        if !start.is_multiple_of(4) || start > whole.len() {
            return Err(Status::INVALID_FIELD);
        }
        if dwords > 1 << 18 {
            return Err(Status::INVALID_FIELD);
        }
        // Reading beyond the page gives zeros here; the specification leaves it undefined.
        let len = usize::try_from(dwords * 4)
            .unwrap_or(0)
            .min(self.transfer_limit());
        let mut bytes = whole[start..].to_vec();
        bytes.resize(len, 0);
        if !keeps_event {
            self.events.unmask(page);
            self.send_events();
        }
        Ok(bytes)
    }

    /// Log page 01h, newest first.
    fn error_log(&self) -> Vec<u8> {
        let mut bytes = vec![0; 64 * Log::FAILURES];
        for (entry, failure) in bytes.chunks_exact_mut(64).zip(&self.log.failures) {
            put(entry, 0, &failure.count.to_le_bytes());
            put(entry, 8, &failure.submission.to_le_bytes());
            put(entry, 10, &failure.id.to_le_bytes());
            put(entry, 12, &failure.status.to_le_bytes());
            put(entry, 14, &0xffff_u16.to_le_bytes());
            put(entry, 16, &failure.lba.to_le_bytes());
            put(entry, 24, &failure.namespace.to_le_bytes());
        }
        bytes
    }

    /// Log page 02h.
    fn health(&self) -> Vec<u8> {
        let log = &self.log;
        // Data units are thousands of 512 bytes, rounded up.
        let units = |blocks: u64| blocks.div_ceil(1000).to_le_bytes();
        let mut bytes = vec![0; 512];
        put(&mut bytes, 0, &[log.critical_warning]);
        put(&mut bytes, 1, &313_u16.to_le_bytes());
        put(&mut bytes, 3, &[100, 10, 0]);
        put(&mut bytes, 32, &units(log.blocks_read));
        put(&mut bytes, 48, &units(log.blocks_written));
        put(&mut bytes, 64, &log.reads.to_le_bytes());
        put(&mut bytes, 80, &log.writes.to_le_bytes());
        put(&mut bytes, 112, &log.power_cycles.to_le_bytes());
        put(&mut bytes, 176, &log.failure_count.to_le_bytes());
        bytes
    }

    /// Log page 04h: up to 1,024 ids; reading clears it, unless the event is retained.
    fn changed_namespaces(&mut self, keep: bool) -> Vec<u8> {
        let mut bytes = vec![0; 4096];
        if self.log.changed.len() > 1024 {
            put(&mut bytes, 0, &u32::MAX.to_le_bytes());
        } else {
            for (entry, id) in bytes.chunks_exact_mut(4).zip(&self.log.changed) {
                put(entry, 0, &id.to_le_bytes());
            }
        }
        if !keep {
            self.log.changed.clear();
        }
        bytes
    }
}
