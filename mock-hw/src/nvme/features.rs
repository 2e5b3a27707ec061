//! Get and Set Features (NVMe 1.4, 5.12 and 5.21).

use alloc::collections::BTreeMap;

use super::{Config, command::Command, controller::Controller, status::Status};

#[derive(Debug)]
pub(super) struct Features {
    /// Dword 11 of the features without a meaning of their own here.
    plain: BTreeMap<u8, u32>,
    /// Interrupts that are not coalesced, by vector: feature 09h.
    direct_vectors: BTreeMap<u16, bool>,
    /// Submission and completion queues allocated, counted from zero: feature 07h.
    pub(super) queues: (u16, u16),
    /// Aggregation threshold (counted from zero) and time (in 100 us): feature 08h.
    pub(super) coalescing: (u8, u8),
    /// Asynchronous event configuration: feature 0Bh.
    pub(super) events: u32,
}

impl Features {
    pub(super) fn new(config: &Config) -> Self {
        let queues = config.queue_pairs - 1;
        // Write cache enabled, and arbitration burst without limit.
        let plain = [
            (0x01, 7),
            (0x02, 0),
            (0x04, 0x157),
            (0x05, 0),
            (0x06, 1),
            (0x0a, 0),
        ];
        Self {
            plain: plain.into(),
            direct_vectors: BTreeMap::new(),
            queues: (queues, queues),
            coalescing: (0, 0),
            events: 0,
        }
    }

    /// Whether interrupts of `vector` may be coalesced.
    pub(super) fn coalesces(&self, vector: u16) -> bool {
        self.coalescing.1 > 0 && !self.direct_vectors.get(&vector).copied().unwrap_or(false)
    }
}

impl Controller {
    pub(super) fn get_feature(&self, command: &Command) -> Result<u32, Status> {
        let feature = command.dword(10) & 0xff;
        if (command.dword(10) >> 8) & 7 != 0 {
            // SEL other than "current" needs ONCS bit 4.
            return Err(Status::INVALID_FIELD);
        }
        let features = &self.features;
        let vector = command.dword(11) & 0xffff;
        match u8::try_from(feature).unwrap_or(0) {
            0x07 => Ok(u32::from(features.queues.0) | u32::from(features.queues.1) << 16),
            0x08 => Ok(u32::from(features.coalescing.0) | u32::from(features.coalescing.1) << 8),
            0x09 => {
                let vector = self.vector(vector)?;
                let direct = features
                    .direct_vectors
                    .get(&vector)
                    .copied()
                    .unwrap_or(false);
                Ok(u32::from(vector) | u32::from(direct) << 16)
            }
            0x0b => Ok(features.events),
            other => features
                .plain
                .get(&other)
                .copied()
                .ok_or_else(|| self.no_feature(other)),
        }
    }

    pub(super) fn set_feature(&mut self, command: &Command) -> Result<u32, Status> {
        let value = command.dword(11);
        if command.dword(10) >> 31 != 0 {
            // Save needs ONCS bit 4: "Feature Identifier Not Saveable".
            return Err(Status {
                kind: 1,
                code: 0x0d,
                do_not_retry: true,
            });
        }
        let feature = u8::try_from(command.dword(10) & 0xff).unwrap_or(0);
        match feature {
            0x07 => return self.set_queues(value),
            0x08 => {
                let [threshold, time, ..] = value.to_le_bytes();
                self.features.coalescing = (threshold, time);
            }
            0x09 => {
                let vector = self.vector(value & 0xffff)?;
                self.features
                    .direct_vectors
                    .insert(vector, value & 0x1_0000 != 0);
            }
            0x0b => self.features.events = value,
            0x06 if !self.config.options.has_volatile_cache() => return Err(Status::INVALID_FIELD),
            other => {
                let missing = self.no_feature(other);
                *self.features.plain.get_mut(&other).ok_or(missing)? = value;
            }
        }
        Ok(0)
    }

    /// Number of Queues: before any I/O queue exists, and 65,535 (counted from zero) asks for too many.
    fn set_queues(&mut self, value: u32) -> Result<u32, Status> {
        if self.submissions.len() > 1 || self.completions.len() > 1 {
            return Err(Status::SEQUENCE_ERROR);
        }
        let (submissions, completions) = (value & 0xffff, value >> 16);
        if submissions == 0xffff || completions == 0xffff {
            return Err(Status::INVALID_FIELD);
        }
        let granted = |asked: u32| {
            u16::try_from(asked)
                .unwrap_or(u16::MAX)
                .min(self.config.queue_pairs - 1)
        };
        self.features.queues = (granted(submissions), granted(completions));
        Ok(u32::from(self.features.queues.0) | u32::from(self.features.queues.1) << 16)
    }

    fn vector(&self, vector: u32) -> Result<u16, Status> {
        let vector = u16::try_from(vector).map_err(|_| Status::INVALID_FIELD)?;
        self.function
            .has_vector(vector)
            .then_some(vector)
            .ok_or(Status::INVALID_FIELD)
    }

    fn no_feature(&self, feature: u8) -> Status {
        if !self.features.plain.contains_key(&feature) {
            self.function
                .left_out(format_args!("feature {feature:#04x}"));
        }
        Status::INVALID_FIELD
    }
}
