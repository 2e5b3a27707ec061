//! Frames and control commands, once their bytes were moved (virtio 1.3, 5.1.6).

use super::{
    device::Net,
    features::Features,
    queue::{Job, Role},
};
use crate::{
    bytes::{put, u16_at},
    fault::Fault,
    frame::{Headers, checksum},
};

const TRANSMIT: &str = "virtio 1.3, 5.1.6.2.1";
const CONTROL: &str = "virtio 1.3, 5.1.6.5";

impl Net {
    /// The largest frame with its header that the model moves.
    pub(super) const FRAME_LIMIT: usize = 65_535 + 20;

    /// Takes a frame off the wire and puts it behind its header into the backlog of its queue.
    pub(super) fn arrive(&mut self) {
        let Some(frame) = self.wire.receive() else {
            return;
        };
        let headers = Headers::parse(&frame);
        let ready = self.is_live() && self.link_up && !self.is_too_large(&frame);
        if !ready || frame.len() < 14 || !self.steering.receives(&frame, &headers) {
            self.counts.filtered += 1;
            return;
        }
        let (pair, hash, report) = self.steering.queue(&headers);
        let queue = &mut self.queues[2 * usize::from(pair)];
        let stopped = queue.ring.is_none() || queue.resetting.is_some();
        if stopped || queue.backlog.len() >= self.config.backlog {
            self.counts.dropped += 1;
            return;
        }
        let mut bytes = vec![0; self.features.header_len()];
        if self.features.contains(Features::GUEST_CSUM)
            && headers.checksum_is_right(&frame) == Some(true)
        {
            // DATA_VALID.
            bytes[0] = 2;
        }
        if self.features.contains(Features::HASH_REPORT) {
            put(&mut bytes, 12, &hash.to_le_bytes());
            put(&mut bytes, 16, &report.to_le_bytes());
        }
        bytes.extend(frame);
        queue.backlog.push_back(bytes);
    }

    /// Sends the frame behind its header.
    pub(super) fn transmit(&mut self, pair: u16, job: &Job) {
        if let Some((section, text)) = self.objection(job) {
            self.violation(section, format_args!("{text}"));
            return;
        }
        if pair >= self.steering.pairs {
            let text = format_args!("a frame on pair {pair}, which is not in use");
            self.violation("virtio 1.3, 5.1.6.5.5", text);
        }
        let (header, frame) = job.bytes.split_at(self.features.header_len());
        let mut frame = frame.to_vec();
        if !self.check_header(header) || !self.complete_checksum(header, &mut frame) {
            return;
        }
        self.steering.learn(&Headers::parse(&frame), pair);
        self.counts.sent += 1;
        if self.link_up {
            self.wire.transmit(frame);
        }
    }

    /// What is wrong with the buffers that hold a frame, if anything.
    fn objection(&self, job: &Job) -> Option<(&'static str, String)> {
        let header_len = self.features.header_len();
        let len = job.bytes.len();
        let chain = job.chains.first().map(|(chain, _)| chain)?;
        if !chain.writable.is_empty() {
            return Some((TRANSMIT, "a device-writable buffer to transmit".into()));
        }
        if chain.readable_len() > Self::FRAME_LIMIT || len < header_len + 14 {
            let text = format!("a frame of {} bytes with its header", chain.readable_len());
            return Some((TRANSMIT, text));
        }
        if self.is_too_large(&job.bytes[header_len..]) {
            let text = format!(
                "a frame of {} bytes, and the MTU is {}",
                len - header_len,
                self.config.mtu
            );
            return Some(("virtio 1.3, 5.1.4.2", text));
        }
        None
    }

    /// Whether the frame exceeds the MTU, if that was agreed upon; a VLAN tag belongs to the Ethernet header.
    fn is_too_large(&self, frame: &[u8]) -> bool {
        let header = if frame.get(12..14) == Some(&[0x81, 0x00]) {
            18
        } else {
            14
        };
        self.features.contains(Features::MTU) && frame.len() > header + usize::from(self.config.mtu)
    }

    /// Checks the fields that ask for nothing; whether the frame may be sent.
    fn check_header(&self, header: &[u8]) -> bool {
        let (flags, segmentation, buffers) = (header[0], header[1], u16_at(header, 10));
        if segmentation != 0 {
            let text = format_args!("gso_type {segmentation:#x} without its feature");
            self.violation(TRANSMIT, text);
            return false;
        }
        if flags & !1 != 0 || buffers != 0 {
            let text = format_args!("flags {flags:#x}, num_buffers {buffers} in a transmit header");
            self.violation(TRANSMIT, text);
        }
        true
    }

    /// Completes the checksum where the header asks for it; whether the frame may be sent.
    fn complete_checksum(&self, header: &[u8], frame: &mut [u8]) -> bool {
        if header[0] & 1 == 0 {
            return true;
        }
        if !self.features.contains(Features::CSUM) {
            self.violation(TRANSMIT, format_args!("NEEDS_CSUM without CSUM"));
            return false;
        }
        let start = usize::from(u16_at(header, 6));
        let place = start + usize::from(u16_at(header, 8));
        if place + 2 > frame.len() {
            let text = format_args!(
                "checksum of {start}.. at {place} in a frame of {}",
                frame.len()
            );
            self.violation(TRANSMIT, text);
            return false;
        }
        let value = match checksum(&frame[start..]) {
            // Zero means "no checksum" in UDP; all ones is the same number.
            0 => 0xffff,
            value => value,
        };
        put(frame, place, &value.to_be_bytes());
        true
    }

    /// Carries out a control command and writes its acknowledgement; the bytes written.
    pub(super) fn command(&mut self, index: u16, job: &Job) -> usize {
        let Some((chain, _)) = job.chains.first() else {
            return 0;
        };
        let Some(last) = chain.writable.last().filter(|buffer| buffer.len > 0) else {
            self.violation(
                CONTROL,
                format_args!("queue {index}: a command without room for its acknowledgement"),
            );
            return 0;
        };
        let result = match job.bytes.as_slice() {
            [class, command, data @ ..] => {
                let result = self.steering.control(*class, *command, data);
                if result.is_ok() && (*class, *command) == (4, 1) {
                    self.check_targets();
                }
                result.map_err(|why| format!("control command {class}.{command}: {why}"))
            }
            _ => Err("a control command without class and command".into()),
        };
        let mut acknowledgement = 0;
        if let Err(text) = result {
            self.violation(CONTROL, format_args!("{text}"));
            acknowledgement = 1;
        }
        if self.function.faults().fires(Fault::AdminWrongId) {
            self.function.fault(format_args!(
                "control command acknowledged with an unknown code"
            ));
            acknowledgement = 0x5a;
        }
        let place = last.address.as_u64().wrapping_add(last.len as u64 - 1);
        let place = parakernel_core::address::BusAddress::new(place);
        if self.function.write(place, &[acknowledgement]).is_err() {
            self.need_reset();
        }
        chain.writable_len()
    }

    /// RSS leads to enabled queues only (5.1.6.5.7.1).
    fn check_targets(&self) {
        let missing = |pair: &u16| self.queues[2 * usize::from(*pair)].ring.is_none();
        if let Some(pair) = self.steering.targets().find(missing) {
            self.violation(
                "virtio 1.3, 5.1.6.5.7.1",
                format_args!("RSS leads to pair {pair}, which is not enabled"),
            );
        }
    }

    /// Queue pairs that frames can be received on now.
    pub(super) fn receiving(&self) -> usize {
        let queues = (0_u16..).zip(&self.queues);
        queues
            .filter(|(index, queue)| {
                matches!(self.role(*index), Some(Role::Receive(_))) && queue.ring.is_some()
            })
            .count()
    }
}
