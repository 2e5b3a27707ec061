//! Transmit queues: descriptors, frames, write-back (82599, 7.2).

use core::time::Duration;

use parakernel_core::{address::BusAddress, time::Instant};

use super::{
    device::Device,
    interrupt::Cause,
    offload::{self, Context, FlagMasks, Insert},
    pool::{Leaves, PoolTag},
    registers::tx,
};
use crate::{fault::Fault, memory::DmaError, random::Random};

/// Registers.
const DMATXCTL: usize = 0x0_4a80;
const DTXTCPFLGL: usize = 0x0_4a88;
const DTXTCPFLGH: usize = 0x0_4a8c;
const HLREG0: usize = 0x0_4240;
const RTTDQSEL: usize = 0x0_4904;

/// RTTBCNRC: the queue's rate is limited.
const RATE_LIMITED: u32 = 1 << 31;

/// TXDCTL: the queue is enabled. DMATXCTL: the unit is.
const ENABLE: u32 = 1 << 25;
const TRANSMIT_ENABLE: u32 = 1;

/// HLREG0: short frames are padded; what is sent comes back.
const PAD: u32 = 1 << 10;
const LOOPBACK: u32 = 1 << 15;

/// Bits of the command byte of a descriptor, in the high quadword (7.2.3.2).
const EOP: u64 = 1 << 24;
const IFCS: u64 = 1 << 25;
const LEGACY_IC: u64 = 1 << 26;
const RS: u64 = 1 << 27;
const DEXT: u64 = 1 << 29;
const VLE: u64 = 1 << 30;
const TSE: u64 = 1 << 31;

/// Descriptors of one packet at most (7.2.1.1).
const DESCRIPTORS: usize = 40;

/// The most payload of a segmentation (7.2.4.1).
const LARGEST: usize = 0x4_0000;

#[derive(Clone, Debug, Default)]
pub(super) struct TxQueue {
    contexts: [Option<Context>; 2],
    /// There may be something to do.
    ready: bool,
    /// RTTBCNRC of this queue, and until when it is over its rate.
    rate: u32,
    not_before: Instant,
}

impl TxQueue {
    pub(super) const fn is_busy(&self) -> bool {
        self.ready
    }
}

/// A packet whose descriptors were read.
#[derive(Debug, Default)]
struct Job {
    data: Vec<u8>,
    /// The high quadword of its first data descriptor.
    first: u64,
    /// Descriptors that ask for a report.
    reports: Vec<usize>,
    /// The next descriptor after it.
    next: usize,
}

/// Why a packet is not sent.
#[derive(Debug)]
enum Stop {
    /// Its end is not there yet.
    Incomplete,
    /// A rule was broken.
    Rule(&'static str, String),
    Transfer(DmaError),
}

impl From<DmaError> for Stop {
    fn from(error: DmaError) -> Self {
        Self::Transfer(error)
    }
}

impl Device {
    pub(super) fn write_tdt(&mut self, n: usize, value: u32) {
        self.regs.set(tx(n) + 0x18, value & 0xffff);
        self.tx[n].ready = true;
    }

    pub(super) fn write_txdctl(&mut self, n: usize, value: u32) {
        let before = self.regs.word(tx(n) + 0x28);
        let value = self.switched(n, before, value);
        self.regs.set(tx(n) + 0x28, value & 0x037f_7f7f);
        if before & ENABLE == 0 && value & ENABLE != 0 {
            if self.regs.word(DMATXCTL) & TRANSMIT_ENABLE == 0 {
                let text = format_args!("transmit queue {n} enabled before DMATXCTL.TE");
                self.violation("82599, 4.6.8", text);
            }
            // What was configured stays, what was learnt from descriptors goes.
            self.tx[n].contexts = [None; 2];
            self.tx[n].ready = true;
        }
    }

    /// Queues that had to wait may have something to do.
    pub(super) fn look_again(&mut self) {
        self.tx.iter_mut().for_each(|queue| queue.ready = true);
    }

    /// RTTDQSEL says whose rate RTTBCNRC is (8.2.3.10.13, 8.2.3.10.16).
    fn selected(&mut self) -> &mut TxQueue {
        let n = (self.regs.word(RTTDQSEL) & 0x7f) as usize;
        &mut self.tx[n]
    }

    pub(super) fn rate(&mut self) -> u32 {
        self.selected().rate
    }

    pub(super) fn set_rate(&mut self, value: u32) {
        let queue = self.selected();
        queue.rate = value & 0x80ff_ffff;
        queue.not_before = Instant::default();
    }

    /// After `frames` queue `n` is silent for as long as the wire would have taken, times its rate factor: ten bits before
    /// the point, 14 behind it.
    fn pace(&mut self, n: usize, frames: &[Vec<u8>]) {
        let rate = self.tx[n].rate;
        if rate & RATE_LIMITED == 0 {
            return;
        }
        // Checksum, preamble and gap count, too.
        let bytes: usize = frames.iter().map(|frame| frame.len() + 24).sum();
        let bits = 8 * bytes as u64;
        let on_the_wire = bits * 1000 / u64::from(self.link_mbps());
        let silent = (on_the_wire * u64::from(rate & 0x00ff_ffff)) >> 14;
        let now = self.now().max(self.tx[n].not_before);
        self.tx[n].not_before = now.saturating_add(Duration::from_nanos(silent));
    }

    /// When the next queue that is over its rate may go on.
    pub(super) fn next_paced(&self, now: Instant) -> Option<Instant> {
        let paced = self.tx.iter().filter(|queue| queue.ready);
        let later = paced.map(|queue| queue.not_before).filter(|at| *at > now);
        later.min()
    }

    /// Sends one packet of one queue that has one; whether there was one.
    pub(super) fn transmit(&mut self, random: &mut Random) -> bool {
        let loops = self.regs.word(HLREG0) & LOOPBACK != 0;
        let on = self.regs.word(DMATXCTL) & TRANSMIT_ENABLE != 0;
        let paused = self.paused_until > self.now() && !loops;
        if !on || paused || !self.is_master() || !(self.link.up || loops) {
            return false;
        }
        let now = self.now();
        let may = |queue: &TxQueue| queue.ready && queue.not_before <= now;
        let ready: Vec<usize> = (0..self.tx.len()).filter(|n| may(&self.tx[*n])).collect();
        let Some(&n) = ready.get(random.index(ready.len())) else {
            return false;
        };
        self.tx[n].ready = self.transmit_from(n);
        self.tx[n].ready || ready.len() > 1
    }

    /// Sends the next packet of queue `n`; whether there was one.
    fn transmit_from(&mut self, n: usize) -> bool {
        if self.regs.word(tx(n) + 0x28) & ENABLE == 0 || !self.may_send(n) {
            return false;
        }
        let queue = u16::try_from(n).unwrap_or(0);
        if self.function.faults().fires(Fault::StuckQueue(queue)) {
            self.function
                .fault(format_args!("transmit queue {n} not served"));
            return false;
        }
        match self.gather(n) {
            Ok(job) => {
                self.send_job(n, job);
                true
            }
            Err(Stop::Incomplete) => false,
            Err(Stop::Rule(section, text)) => {
                self.violation(
                    section,
                    format_args!("transmit queue {n}: {text}; it hangs"),
                );
                false
            }
            Err(Stop::Transfer(error)) => {
                self.function
                    .note(format_args!("transmit queue {n}: {error}; it hangs"));
                false
            }
        }
    }

    /// Reads the descriptors of the next packet, and its bytes.
    fn gather(&mut self, n: usize) -> Result<Job, Stop> {
        let base = self.regs.wide(tx(n));
        let count = (self.regs.word(tx(n) + 0x08) / 16) as usize;
        let tail = self.regs.word(tx(n) + 0x18) as usize;
        let mut job = Job {
            next: self.regs.word(tx(n) + 0x10) as usize,
            ..Job::default()
        };
        if job.next == tail {
            return Err(Stop::Incomplete);
        }
        if tail >= count || job.next >= count {
            let text = format!(
                "head {} or tail {tail} beyond {count} descriptors",
                job.next
            );
            return Err(Stop::Rule("82599, 8.2.3.9.9", text));
        }
        let mut descriptors = 0;
        while job.next != tail {
            let slot = job.next;
            let address = BusAddress::new(base.wrapping_add(16 * slot as u64));
            let mut words = [0; 16];
            self.fetch(n, address, &mut words)?;
            let low = u64::from_le_bytes(crate::bytes::array_at(&words, 0));
            let high = u64::from_le_bytes(crate::bytes::array_at(&words, 8));
            job.next = (slot + 1) % count;
            descriptors += 1;
            if descriptors > DESCRIPTORS {
                let text = format!("a packet of more than {DESCRIPTORS} descriptors");
                return Err(Stop::Rule("82599, 7.2.1.1", text));
            }
            if high & DEXT != 0 && high >> 20 & 0xf == 2 {
                self.take_context(n, low, high, &job)?;
                continue;
            }
            self.take_data(n, &mut job, [low, high])?;
            if high & RS != 0 {
                job.reports.push(slot);
            }
            if high & EOP != 0 {
                return Ok(job);
            }
        }
        Err(Stop::Incomplete)
    }

    fn take_context(&mut self, n: usize, low: u64, high: u64, job: &Job) -> Result<(), Stop> {
        if !job.data.is_empty() {
            let text = "a context descriptor inside a packet".to_owned();
            return Err(Stop::Rule("82599, 7.2.3.2.3", text));
        }
        let index = usize::from(high >> 36 & 1 == 1);
        self.tx[n].contexts[index] = Some(Context::decode(low, high));
        Ok(())
    }

    fn take_data(&self, n: usize, job: &mut Job, [low, high]: [u64; 2]) -> Result<(), Stop> {
        let kind = high >> 20 & 0xf;
        if high & DEXT != 0 && kind != 3 {
            let text = format!("descriptor type {kind}");
            return Err(Stop::Rule("82599, 7.2.3.2.4", text));
        }
        let len = usize::try_from(high & 0xffff).unwrap_or(0);
        let largest = LARGEST + 1024;
        if len == 0 || job.data.len() + len > largest {
            let text = format!("{len} bytes after {}", job.data.len());
            return Err(Stop::Rule("82599, 7.2.3.2.4", text));
        }
        if job.data.is_empty() {
            job.first = high;
        }
        let start = job.data.len();
        job.data.resize(start + len, 0);
        self.fetch(n, BusAddress::new(low), &mut job.data[start..])?;
        Ok(())
    }

    /// Makes frames of a packet, sends them, and reports that it is done.
    fn send_job(&mut self, n: usize, mut job: Job) {
        let data = core::mem::take(&mut job.data);
        match self.frames(n, &job, data) {
            Ok(frames) => {
                self.pace(n, &frames);
                frames.into_iter().for_each(|frame| self.emit(n, frame));
            }
            Err(text) => self.violation(
                "82599, 7.2.4 and 7.2.5",
                format_args!("transmit queue {n}: {text}; the packet is not sent"),
            ),
        }
        let head = u32::try_from(job.next).unwrap_or(0);
        self.regs.set(tx(n) + 0x10, head);
        if !job.reports.is_empty() {
            self.write_back(n, &job);
            self.queue_event(Cause::Transmit(n));
        }
    }

    /// The frames that a packet becomes, with checksums and tags.
    fn frames(&self, n: usize, job: &Job, data: Vec<u8>) -> Result<Vec<Vec<u8>>, &'static str> {
        let tag = self.pool_tag(n);
        let high = match tag {
            PoolTag::Descriptor => job.first,
            PoolTag::Always(_) | PoolTag::Never => job.first & !VLE,
        };
        if high & IFCS == 0 {
            let text = format_args!("transmit queue {n}: a frame with a check sequence of its own");
            self.function.left_out(text);
        }
        let mut frames = if high & DEXT == 0 {
            vec![self.legacy(high, data)]
        } else {
            self.advanced(n, high, data)?
        };
        if let PoolTag::Always(tag) = tag {
            for frame in &mut frames {
                offload::insert_tag(frame, self.vlan_kind(), tag);
            }
        }
        Ok(frames)
    }

    /// The frames of a packet of the advanced format (7.2.3.2.4).
    fn advanced(&self, n: usize, high: u64, data: Vec<u8>) -> Result<Vec<Vec<u8>>, &'static str> {
        let insert = Insert {
            ip: high >> 40 & 1 == 1,
            l4: high >> 41 & 1 == 1,
        };
        let payload = usize::try_from(high >> 46).unwrap_or(0);
        if high & TSE == 0 && payload != data.len() {
            return Err("PAYLEN is not the length of the packet");
        }
        let wanted = insert.ip || insert.l4 || high & (VLE | TSE) != 0;
        let context = self.tx[n].contexts[usize::from(high >> 36 & 1 == 1)];
        let Some(context) = context else {
            return if wanted {
                Err("offloads without a context descriptor")
            } else {
                Ok(vec![data])
            };
        };
        let mut frames = if high & TSE == 0 {
            let mut frame = data;
            offload::checksums(&mut frame, &context, insert)?;
            vec![frame]
        } else {
            let headers = context.mac_len + context.ip_len + context.l4_len;
            if headers + payload != data.len() {
                return Err("PAYLEN and header lengths are not the length of the packet");
            }
            offload::segments(&data, &context, insert, self.flag_masks())?
        };
        if high & VLE != 0 {
            for frame in &mut frames {
                offload::insert_tag(frame, self.vlan_kind(), context.vlan);
            }
        }
        Ok(frames)
    }

    /// A frame of the old format: a checksum from one place to another, a tag (7.2.3.2.2).
    fn legacy(&self, high: u64, mut frame: Vec<u8>) -> Vec<u8> {
        let [offset, start] =
            [16, 40].map(|shift| usize::try_from(high >> shift & 0xff).unwrap_or(0));
        if high & LEGACY_IC != 0 && start < frame.len() && offset + 2 <= frame.len() {
            let value = crate::frame::checksum(&frame[start..]);
            frame[offset..offset + 2].copy_from_slice(&value.to_be_bytes());
        }
        if high & VLE != 0 {
            let tag = u16::try_from(high >> 48).unwrap_or(0);
            offload::insert_tag(&mut frame, self.vlan_kind(), tag);
        }
        frame
    }

    fn flag_masks(&self) -> FlagMasks {
        let half = |word: u32| u16::try_from(word & 0x0fff).unwrap_or(0);
        let low = self.regs.word(DTXTCPFLGL);
        FlagMasks {
            first: half(low),
            middle: half(low >> 16),
            last: half(self.regs.word(DTXTCPFLGH)),
        }
    }

    /// The type of tags that are inserted.
    fn vlan_kind(&self) -> u16 {
        u16::try_from(self.regs.word(DMATXCTL) >> 16).unwrap_or(0)
    }

    /// A frame leaves.
    fn emit(&mut self, n: usize, mut frame: Vec<u8>) {
        if self.regs.word(HLREG0) & PAD != 0 && frame.len() < 60 {
            frame.resize(60, 0);
        }
        if frame.len() < 60 {
            let text = format_args!("transmit queue {n}: {} bytes, unpadded", frame.len());
            self.violation("82599, 7.2.1.1", text);
            return;
        }
        let leaves = self.leaves(n, &frame);
        if leaves != Leaves::Spoofed {
            self.count_sent(n, &frame);
        }
        match leaves {
            Leaves::Spoofed => {}
            Leaves::Inside { pools, also_out } => {
                self.arrive_inside(frame.clone(), pools);
                if also_out {
                    self.wire.transmit(frame);
                }
            }
            Leaves::Out if self.regs.word(HLREG0) & LOOPBACK != 0 => self.arrive(frame),
            Leaves::Out => self.wire.transmit(frame),
        }
    }

    /// Tells the driver, in the descriptors or by the head (7.2.3.5).
    fn write_back(&mut self, n: usize, job: &Job) {
        if self.function.faults().fires(Fault::StuckDone) {
            self.function
                .fault(format_args!("transmit queue {n} not written back"));
            return;
        }
        let head_address = self.regs.wide(tx(n) + 0x38);
        let mut done = Vec::new();
        if head_address & 1 != 0 {
            let mut head = u32::try_from(job.next).unwrap_or(0);
            if self.function.faults().fires(Fault::IndexJump) {
                self.function.fault(format_args!("transmit head {n} jumps"));
                head = head.wrapping_add(7);
            }
            done.push((
                BusAddress::new(head_address & !3),
                head.to_le_bytes().to_vec(),
            ));
        } else {
            let base = self.regs.wide(tx(n));
            for slot in &job.reports {
                let mut words = vec![0; 16];
                words[12] = 1;
                done.push((BusAddress::new(base.wrapping_add(16 * *slot as u64)), words));
            }
        }
        for (address, bytes) in done {
            if let Err(error) = self.deposit(n, address, &bytes) {
                self.function
                    .note(format_args!("transmit queue {n}: {error}"));
            }
        }
    }
}
