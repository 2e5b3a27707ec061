//! What a process sees of its leases, what it may send, and how much it may have.

use heapless::String;
use kernel_formats::{archive, manifest};
use parakernel_core::abi::{Codec, RingFormat};
use parakernel_core::access::AccessMode;
use parakernel_core::address::Direction;
use parakernel_core::control::{
    ClaimWish, MemoryWish, Outcome, PageSize, Refusal, Request, Tag, Wake,
};
use parakernel_core::device::{DeviceId, QueueKind};
use parakernel_core::ring::{Position, RingSize};
use parakernel_core::validate::{SpoofedField, Violation};

use super::custody::{CORE, bury, until};
use crate::arch::paging::{Flags, Tables};
use crate::control::Control;
use crate::device::Device;
use crate::memory::FRAME;
use crate::print;
use crate::process::{LEASE_STRIDE, LEASES};
use crate::runner::End;

/// A process that may have a queue pair of each kind.
const PROCESS: &str = "process name=lessee elf=probe core=1 ip=10.0.0.7 nic_queues=1 nvme_queues=1 volume=1:0+16:7 args=spin";
/// The same without a volume, on a machine without an SSD.
const DISKLESS: &str = "process name=lessee elf=probe core=1 ip=10.0.0.7 nic_queues=1 args=spin";
/// Windows of leases that are looked at: more than there are leases here.
const WINDOWS: u64 = 64;
/// Most pages of a lease.
const PAGES: usize = 256;
/// The cheapest mode that a queue may have, and how many entries its rings have.
type QueueWish = (AccessMode, u32);
/// Bytes of a frame that is sent.
const FRAME_BYTES: usize = 60;

/// Whether a process sees of a lease of the SSD's, with 64 entries of 64 and of 16 bytes, what it has to, and may write nothing but what
/// it has to; `None` where there is no SSD.
pub(super) fn ssd_views(control: &mut Control) -> Option<bool> {
    let ssd = control.device_of(QueueKind::Block)?;
    let seen = seen(control, ssd, (AccessMode::Direct, 64));
    // Status page, submission page, shadow of the submission queue, that queue itself, completion queue, marks.
    Some(seen.is_some_and(|seen| is(&seen, "rww-r")))
}

/// The same of the card's, if it has a pair to lend, whose rings have 256 entries, and of a virtual queue on it, with 256 slots of 1520 bytes each way; `None`
/// where there is no card.
pub(super) fn card_views(control: &mut Control) -> Option<bool> {
    let card = control.device_of(QueueKind::Network)?;
    let has_pairs = control.queue_pairs(QueueKind::Network) > 0;
    let is_good = !has_pairs || sees_of_card(control, card);
    Some(is_good & sees_of_virtual(control, card))
}

/// Status page, submission page, and for each way: descriptors and available ring of the shadow, those that the device reads, used ring.
/// A packed ring has its shadow with the events, what the device writes, and the rest. The 82599 has a shadow and the device's own ring
/// to receive, and a shadow, two pages that the device reads, and a word to send.
fn sees_of_card(control: &mut Control, card: DeviceId) -> bool {
    let format = match control.machine().devices.get(card.index()) {
        Some(Device::Net(card)) => Some(card.format()),
        Some(Device::Nvme(_)) | None => None,
    };
    let expected = match format {
        Some(RingFormat::VirtioPacked) => "rwwwr-wwr",
        Some(RingFormat::Ixgbe) => "rwwrw--r",
        Some(RingFormat::VirtioSplit | RingFormat::Nvme | RingFormat::Virtual) | None => {
            "rwww--rww--r"
        }
    };
    let seen = seen(control, card, (AccessMode::Checked, 256));
    seen.is_some_and(|seen| is(&seen, expected))
}

/// Status page, submission page, 96 pages to receive from, and 96 to send from.
fn sees_of_virtual(control: &mut Control, card: DeviceId) -> bool {
    let seen = seen(control, card, (AccessMode::Virtual, 256));
    seen.is_some_and(|seen| {
        let (pages, data) = seen.split_at_checked(2).unwrap_or_default();
        let (received, sent) = data.split_at_checked(96).unwrap_or_default();
        let is_right = pages == "rw"
            && received.bytes().all(|page| page == b'r')
            && sent.len() == 96
            && sent.bytes().all(|page| page == b'w');
        is_right || is(&seen, "rw, 96 times r, 96 times w")
    })
}

fn is(seen: &str, expected: &str) -> bool {
    if seen != expected {
        print!("a process sees {seen} of its lease, not {expected}\n");
    }
    seen == expected
}

/// A life of the process, with a lease of `device`; what it sees of that.
fn seen(control: &mut Control, device: DeviceId, queue: QueueWish) -> Option<String<PAGES>> {
    start(control)?;
    let is_answered = claim(control, device, queue).is_some();
    let process = control.kernel().seats.at(CORE)?.process.as_ref()?;
    let seen = lease(process.space.tables());
    bury(control)?;
    seen.filter(|_| is_answered).map(|(_, seen)| seen)
}

/// Whether a process that sends in another's name by its virtual queue is ended for that, and one that sends in its own is not;
/// `None` where there is no card.
pub(super) fn spoofing(control: &mut Control) -> Option<bool> {
    let card = control.device_of(QueueKind::Network)?;
    let (own, other) = ([10, 0, 0, 7], [10, 0, 0, 8]);
    let spoofed = |field| Some(End::Violated(Violation::Spoofed { field }));
    let ends = [
        send(control, card, |mac| arp(mac, other)),
        send(control, card, |mac| ipv4(mac, other)),
        send(control, card, |mac| arp(mac, own)),
        send(control, card, |mac| ipv4(mac, own)),
    ];
    let expected = [
        spoofed(SpoofedField::Arp),
        spoofed(SpoofedField::Ipv4),
        Some(End::Stopped),
        Some(End::Stopped),
    ];
    if ends != expected {
        print!("processes that sent frames: {ends:?}\n");
    }
    Some(ends == expected)
}

/// A life of the process, which sends one frame with the card's address by its virtual queue, and is stopped once that is taken; how it
/// ended.
fn send(
    control: &mut Control,
    device: DeviceId,
    frame: impl Fn([u8; 6]) -> [u8; FRAME_BYTES],
) -> Option<End> {
    let Device::Net(card) = &**control.machine().devices.get(device.index())? else {
        return None;
    };
    let frame = frame(card.mac().0);
    start(control)?;
    claim(control, device, (AccessMode::Virtual, 256))?;
    let space = &mut control.kernel().seats.at(CORE)?.process.as_mut()?.space;
    let (at, _) = lease(space.tables())?;
    let [submission, slots] = [1, 98].map(|page| at + page * FRAME);
    space.fill(slots, &u32::try_from(FRAME_BYTES).ok()?.to_le_bytes());
    // The lengths of 256 frames come before the first slot.
    space.fill(slots + 1024, &frame);
    // The second tail is the sender's.
    space.fill(submission + 4, &1_u32.to_le_bytes());
    let sent = control.counters(CORE).tx_frames;
    until(control, |control| {
        let seat = control.kernel().seats.at(CORE);
        let is_caught = seat.is_some_and(|seat| seat.violation.is_some());
        is_caught || control.counters(CORE).tx_frames > sent
    })?;
    bury(control)
}

/// An ARP request of `mac`, which says that it has the address `from`.
fn arp(mac: [u8; 6], from: [u8; 4]) -> [u8; FRAME_BYTES] {
    let parts: [&[u8]; 6] = [
        &[0xff; 6],
        &mac,
        // ARP; Ethernet, IPv4, and the lengths of their addresses; a request.
        &[0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1],
        &mac,
        &from,
        &[0, 0, 0, 0, 0, 0, 10, 0, 0, 1],
    ];
    joined(&parts)
}

/// A UDP packet without data from `mac` and `from`.
fn ipv4(mac: [u8; 6], from: [u8; 4]) -> [u8; FRAME_BYTES] {
    let parts: [&[u8]; 6] = [
        &[2, 0, 0, 0, 0, 1],
        &mac,
        // IPv4 without options, 28 bytes, 64 hops, UDP.
        &[0x08, 0, 0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0],
        &from,
        &[10, 0, 0, 1],
        // Ports and length.
        &[0x10, 0, 0x10, 0, 0, 8, 0, 0],
    ];
    joined(&parts)
}

/// The parts behind each other, and zeroes.
fn joined(parts: &[&[u8]]) -> [u8; FRAME_BYTES] {
    let mut frame = [0; FRAME_BYTES];
    let bytes = parts.iter().copied().flatten();
    for (place, byte) in frame.iter_mut().zip(bytes) {
        *place = *byte;
    }
    frame
}

/// Whether a process has as many leases and regions as it may have, and is refused one more, and one page more than it may have; `None`
/// where there is no SSD.
pub(super) fn quotas(control: &mut Control) -> Option<bool> {
    let ssd = control.device_of(QueueKind::Block)?;
    Some(are_kept(control, ssd) == Some(true))
}

fn are_kept(control: &mut Control, ssd: DeviceId) -> Option<bool> {
    // 32768 pages and 32 for each of two pairs; 2 leases and one for each pair; 32 regions.
    const MOST: (u64, usize, usize) = (32_832, 4, 32);
    let (pages, leases, regions) = MOST;
    let mut client = Client::start(control)?;
    let is_too_large = client.is_refused(control, &memory(pages + 1));
    let claim = wish(control, ssd, (AccessMode::Direct, 64))?;
    let claimed = client.granted(control, &claim, leases);
    let is_one_too_many = client.is_refused(control, &claim);
    let registered = client.granted(control, &memory(1), regions);
    let is_refused = client.is_refused(control, &memory(1));
    let counts = control.counts();
    bury(control)?;
    let is_bounded = is_too_large && is_one_too_many && is_refused;
    Some(is_bounded && (claimed, registered) == (leases, regions) && counts == [leases, regions, 0])
}

/// A life of the process, in whose name core 0 asks.
struct Client(Position);

impl Client {
    fn start(control: &mut Control) -> Option<Self> {
        start(control)?;
        Some(Self(Position::START))
    }

    /// Asks for something, and takes the outcome.
    fn ask(&mut self, control: &mut Control, request: &Request) -> Option<Outcome> {
        control.request(CORE, &request.encode(Some(Tag(1))));
        until(control, |control| control.is_idle())?;
        let process = control.kernel().seats.at(CORE)?.process.as_ref()?;
        let (_, outcome) = Outcome::decode(&process.outcome(self.0)?)?;
        self.0 = self.0.after();
        Some(outcome)
    }

    fn is_refused(&mut self, control: &mut Control, request: &Request) -> bool {
        self.ask(control, request) == Some(Outcome::Refused(Refusal::Quota))
    }

    /// How many times of `count` it gets what it asks for.
    fn granted(&mut self, control: &mut Control, request: &Request, count: usize) -> usize {
        let mut is_granted = || {
            let outcome = self.ask(control, request);
            matches!(
                outcome,
                Some(Outcome::Claimed { .. } | Outcome::Registered { .. })
            )
        };
        (0..count).filter(|_| is_granted()).count()
    }
}

const fn memory(pages: u64) -> Request {
    Request::RegisterMemory(MemoryWish {
        pages,
        page_size: PageSize::Base,
        direction: Direction::Bidirectional,
        node: None,
    })
}

/// Where the one lease is that a process has, and what it may do with each of its pages: nothing (`-`), read (`r`), write (`w`), or
/// what it never may (`!`).
fn lease(tables: Tables) -> Option<(u64, String<PAGES>)> {
    let mut found = None;
    for at in (0..WINDOWS).map(|window| LEASES + window * LEASE_STRIDE) {
        let mut seen = String::new();
        let pages = (at..at + LEASE_STRIDE).step_by(usize::try_from(FRAME).ok()?);
        for (index, page) in pages.enumerate() {
            let Some(page) = tables.lookup(page) else {
                continue;
            };
            while seen.len() < index {
                seen.push('-').ok()?;
            }
            let (user, data) = (Flags::USER_ACCESSIBLE, Flags::NO_EXECUTE);
            let is_data = page.flags.contains(user | data);
            let letter = match page.flags.contains(Flags::WRITABLE) {
                _ if !is_data => '!',
                false => 'r',
                true => 'w',
            };
            seen.push(letter).ok()?;
        }
        if !seen.is_empty() && found.replace((at, seen)).is_some() {
            return None;
        }
    }
    found
}

/// Starts the process.
fn start(control: &mut Control) -> Option<()> {
    let has_ssd = control.device_of(QueueKind::Block).is_some();
    let text = if has_ssd { PROCESS } else { DISKLESS };
    let process = manifest::processes(text).next()?.ok()?;
    let file = archive::find(control.kernel().archive, "probe")?;
    control.make_room(&process).then_some(())?;
    control.start(&process, file, "").ok()
}

/// Claims a queue pair in the process's name, and waits for what comes of it.
fn claim(control: &mut Control, device: DeviceId, queue: QueueWish) -> Option<()> {
    let claim = wish(control, device, queue)?;
    control.request(CORE, &claim.encode(Some(Tag(1))));
    until(control, |control| control.is_idle())
}

fn wish(control: &Control, device: DeviceId, (at_least, entries): QueueWish) -> Option<Request> {
    let ring = RingSize::new(entries)?;
    let is_card = control.device_of(QueueKind::Network) == Some(device);
    let volume = control.first_volume().filter(|_| !is_card);
    Some(Request::Claim(ClaimWish {
        device,
        at_least,
        first_ring: ring,
        second_ring: ring,
        wake: Wake::Interrupt,
        volume,
    }))
}
