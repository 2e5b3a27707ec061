//! Where a command's data lies: PRPs (NVMe 1.4, 4.3) and SGLs (4.4), parsed to the letter.

use alloc::collections::VecDeque;

use parakernel_core::address::BusAddress;

use super::{command::Command, status::Status};
use crate::{
    bytes::{u32_at, u64_at},
    pci::Function,
};

const PRP: &str = "NVMe 1.4, 4.3";
const SGL: &str = "NVMe 1.4, 4.4";

/// Bytes at an address of the bus; no address for a bit bucket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Piece {
    pub(super) address: Option<BusAddress>,
    pub(super) len: usize,
}

impl Piece {
    fn at(address: u64, len: usize) -> Self {
        Self {
            address: Some(BusAddress::new(address)),
            len,
        }
    }
}

/// What the controller accepts, and the geometry that the host chose.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// Memory page size that CC.MPS selects, in bytes.
    pub(super) page: u64,
    /// Whether SGLs are supported here: never in admin commands over PCIe.
    pub(super) sgl: bool,
    /// Whether the command reads, so that a bit bucket may take data.
    pub(super) to_host: bool,
}

/// The pieces of the `len` bytes that `command` points at.
pub(super) fn pieces(
    function: &Function,
    command: &Command,
    len: usize,
    rules: Rules,
) -> Result<VecDeque<Piece>, Status> {
    match command.psdt() {
        0 => Prps {
            function,
            page: rules.page,
        }
        .pieces(command, len),
        1 | 2 if rules.sgl => Sgl {
            function,
            to_host: rules.to_host,
        }
        .pieces(command, len),
        other => {
            function.violation(
                "NVMe 1.4, 4.2",
                format_args!("PSDT {other} where it is not supported"),
            );
            Err(Status::INVALID_FIELD)
        }
    }
}

struct Prps<'a> {
    function: &'a Function,
    page: u64,
}

impl Prps<'_> {
    fn pieces(&self, command: &Command, len: usize) -> Result<VecDeque<Piece>, Status> {
        let mut pieces = VecDeque::new();
        let first = command.prp1();
        if !first.is_multiple_of(4) {
            return self.offset_invalid("PRP1", first);
        }
        let in_first = self.bounded(len, self.page - first % self.page);
        pieces.push_back(Piece::at(first, in_first));
        let rest = len - in_first;
        if rest == 0 {
            return Ok(pieces);
        }
        let second = command.prp2();
        if rest as u64 <= self.page {
            if !second.is_multiple_of(self.page) {
                return self.offset_invalid("PRP2", second);
            }
            pieces.push_back(Piece::at(second, rest));
            return Ok(pieces);
        }
        if !second.is_multiple_of(8) {
            return self.offset_invalid("PRP list pointer", second);
        }
        self.list(second, rest, &mut pieces)?;
        Ok(pieces)
    }

    /// Follows the list at `list`: its last slot on a page leads to the next list, if more entries are needed.
    fn list(
        &self,
        mut list: u64,
        mut rest: usize,
        pieces: &mut VecDeque<Piece>,
    ) -> Result<(), Status> {
        while rest > 0 {
            let slots = (self.page - list % self.page) / 8;
            let needed = (rest as u64).div_ceil(self.page);
            let chained = needed > slots;
            let count = needed.min(slots);
            let mut bytes = vec![0; usize::try_from(count * 8).unwrap_or(0)];
            self.function
                .read(BusAddress::new(list), &mut bytes)
                .map_err(|_| Status::DATA_TRANSFER_ERROR)?;
            for (n, entry) in bytes.chunks_exact(8).enumerate() {
                let entry = u64_at(entry, 0);
                if !entry.is_multiple_of(self.page) {
                    self.offset_invalid("PRP list entry", entry)?;
                }
                if chained && n as u64 + 1 == count {
                    list = entry;
                    break;
                }
                let len = self.bounded(rest, self.page);
                pieces.push_back(Piece::at(entry, len));
                rest -= len;
            }
        }
        Ok(())
    }

    fn bounded(&self, len: usize, limit: u64) -> usize {
        usize::try_from(limit).map_or(len, |limit| len.min(limit))
    }

    fn offset_invalid<T>(&self, what: &str, value: u64) -> Result<T, Status> {
        self.function
            .violation(PRP, format_args!("{what} {value:#x} has a wrong offset"));
        Err(Status::PRP_OFFSET_INVALID)
    }
}

struct Sgl<'a> {
    function: &'a Function,
    to_host: bool,
}

/// One SGL descriptor, taken apart.
struct Descriptor {
    address: u64,
    len: usize,
    kind: u8,
}

impl Sgl<'_> {
    /// Descriptors that the controller walks for one command; beyond that it gives up with an error.
    const LIMIT: usize = 4096;

    fn pieces(&self, command: &Command, len: usize) -> Result<VecDeque<Piece>, Status> {
        let mut pieces = VecDeque::new();
        let mut left = len;
        let mut segment = vec![command.sgl()];
        let mut last = false;
        let mut walked = 0;
        loop {
            let mut next = None;
            let count = segment.len();
            for (n, raw) in segment.iter().enumerate() {
                walked += 1;
                if walked > Self::LIMIT {
                    return self.refuse(Status::INVALID_SGL_COUNT, "too many SGL descriptors");
                }
                let descriptor = self.descriptor(raw)?;
                match descriptor.kind {
                    0 | 1 => self.data(&descriptor, &mut left, &mut pieces)?,
                    2 | 3 if n + 1 == count && !last => next = Some(descriptor),
                    2 | 3 => {
                        let what = "a segment descriptor that is not the last of its segment, or in the last segment";
                        return self.refuse(Status::INVALID_SGL_SEGMENT, what);
                    }
                    _ => {
                        return self.refuse(
                            Status::SGL_TYPE_INVALID,
                            "an SGL descriptor type not supported",
                        );
                    }
                }
            }
            let Some(descriptor) = next else { break };
            last = descriptor.kind == 3;
            segment = self.segment(&descriptor)?;
        }
        if left > 0 {
            return self.refuse(Status::SGL_LENGTH_INVALID, "an SGL shorter than the data");
        }
        Ok(pieces)
    }

    fn descriptor(&self, raw: &[u8; 16]) -> Result<Descriptor, Status> {
        // Byte 15: type in bits 7:4, subtype in bits 3:0. Subtype 0 is an address.
        if raw[15] & 0xf != 0 {
            return self.refuse(
                Status::SGL_TYPE_INVALID,
                "an SGL descriptor subtype not supported",
            );
        }
        Ok(Descriptor {
            address: u64_at(raw, 0),
            len: usize::try_from(u32_at(raw, 8)).unwrap_or(usize::MAX),
            kind: raw[15] >> 4,
        })
    }

    fn data(
        &self,
        descriptor: &Descriptor,
        left: &mut usize,
        pieces: &mut VecDeque<Piece>,
    ) -> Result<(), Status> {
        let bucket = descriptor.kind == 1;
        if bucket && !self.to_host {
            // A bit bucket in a command that sends data to the controller has length 0 (4.4.1).
            return Ok(());
        }
        if descriptor.len > *left {
            return self.refuse(Status::SGL_LENGTH_INVALID, "an SGL longer than the data");
        }
        *left -= descriptor.len;
        if descriptor.len > 0 {
            let address = (!bucket).then(|| BusAddress::new(descriptor.address));
            pieces.push_back(Piece {
                address,
                len: descriptor.len,
            });
        }
        Ok(())
    }

    fn segment(&self, descriptor: &Descriptor) -> Result<Vec<[u8; 16]>, Status> {
        if descriptor.len == 0
            || !descriptor.len.is_multiple_of(16)
            || descriptor.len / 16 > Self::LIMIT
        {
            return self.refuse(
                Status::INVALID_SGL_SEGMENT,
                "an SGL segment of a wrong length",
            );
        }
        let mut bytes = vec![0; descriptor.len];
        self.function
            .read(BusAddress::new(descriptor.address), &mut bytes)
            .map_err(|_| Status::DATA_TRANSFER_ERROR)?;
        let chunks = bytes.chunks_exact(16);
        Ok(chunks
            .map(|chunk| crate::bytes::array_at(chunk, 0))
            .collect())
    }

    fn refuse<T>(&self, status: Status, what: &str) -> Result<T, Status> {
        self.function.violation(SGL, format_args!("{what}"));
        Err(status)
    }
}
