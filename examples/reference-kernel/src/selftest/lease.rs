//! What a process sees of its leases.

use heapless::String;
use kernel_formats::{archive, manifest};
use parakernel_core::abi::Codec;
use parakernel_core::access::AccessMode;
use parakernel_core::control::{ClaimWish, Request, Tag, Wake};
use parakernel_core::device::{DeviceId, QueueKind};
use parakernel_core::ring::RingSize;

use super::custody::{CORE, bury, until};
use crate::arch::paging::{Flags, Tables};
use crate::control::Control;
use crate::memory::FRAME;
use crate::print;
use crate::process::{LEASE_STRIDE, LEASES};

/// A process that may have a queue pair of each kind.
const PROCESS: &str = "process name=lessee elf=probe core=1 ip=10.0.0.7 nic_queues=1 nvme_queues=1 volume=1:0+16:7 args=spin";
/// Windows of leases that are looked at: more than there are leases here.
const WINDOWS: u64 = 64;
/// Most pages of a lease.
const PAGES: usize = 256;

/// Whether a process sees of its leases what it has to, and may write nothing but what it has to: of the SSD's, with 64 entries of 64
/// and of 16 bytes, and of the card's, whose virtual queue has 256 slots of 1520 bytes each way. `None` where there is neither.
pub(super) fn views(control: &mut Control) -> Option<bool> {
    let mut is_good = None;
    if let Some(ssd) = control.device_of(QueueKind::Block) {
        // Status page, submission page, shadow of the submission queue, that queue itself, completion queue, marks.
        is_good = Some(seen(control, ssd, 64).is_some_and(|seen| is(&seen, "rww-r")));
    }
    if let Some(card) = control.device_of(QueueKind::Network) {
        // Status page, submission page, 96 pages to receive from, and 96 to send from.
        let seen = seen(control, card, 256);
        let is_seen = seen.is_some_and(|seen| {
            let (pages, data) = seen.split_at_checked(2).unwrap_or_default();
            let (received, sent) = data.split_at_checked(96).unwrap_or_default();
            let is_right = pages == "rw"
                && received.bytes().all(|page| page == b'r')
                && sent.len() == 96
                && sent.bytes().all(|page| page == b'w');
            is_right || is(&seen, "rw, 96 times r, 96 times w")
        });
        is_good = Some(is_good.unwrap_or(true) && is_seen);
    }
    is_good
}

fn is(seen: &str, expected: &str) -> bool {
    if seen != expected {
        print!("a process sees {seen} of its lease, not {expected}\n");
    }
    seen == expected
}

/// A life of the process, with a lease of `device`; what it sees of that.
fn seen(control: &mut Control, device: DeviceId, entries: u32) -> Option<String<PAGES>> {
    start(control)?;
    let is_answered = claim(control, device, entries).is_some();
    let process = control.kernel().seats.at(CORE)?.process.as_ref()?;
    let seen = lease(process.space.tables());
    bury(control)?;
    seen.filter(|_| is_answered).map(|(_, seen)| seen)
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
    let process = manifest::processes(PROCESS).next()?.ok()?;
    let file = archive::find(control.kernel().archive, "probe")?;
    control.make_room(&process).then_some(())?;
    control.start(&process, file, "").ok()
}

/// Claims a queue pair in the process's name, of a card a virtual one, and waits for what comes of it.
fn claim(control: &mut Control, device: DeviceId, entries: u32) -> Option<()> {
    let claim = wish(control, device, entries)?;
    control.request(CORE, &claim.encode(Some(Tag(1))));
    until(control, |control| control.is_idle())
}

fn wish(control: &Control, device: DeviceId, entries: u32) -> Option<Request> {
    let ring = RingSize::new(entries)?;
    let is_card = control.device_of(QueueKind::Network) == Some(device);
    let (at_least, volume) = if is_card {
        (AccessMode::Virtual, None)
    } else {
        (AccessMode::Direct, control.first_volume())
    };
    Some(Request::Claim(ClaimWish {
        device,
        at_least,
        first_ring: ring,
        second_ring: ring,
        wake: Wake::Interrupt,
        volume,
    }))
}
