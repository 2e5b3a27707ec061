//! Leases in memory of the test's own, with the kernel's side of their queues played by hand.

use core::sync::atomic::Ordering;

use parakernel_core::{
    abi::{LeaseMap, QueueMap, StatusPage, SubmissionPage},
    address::Iova,
    handle::LeaseId,
    memory::SharedMemory,
    ring::RingSize,
    steering::Mac,
    virtual_queue::{Delivery, ReceivePort},
};

use super::*;
use crate::FRAME_LAYOUT;

const MAP: NetworkMap = NetworkMap {
    mac: Mac([2, 0, 0, 0, 0, 1]),
    max_frame: 1514,
    header: 12,
    pair: 1,
    features: 0,
};
/// More than any of the rings takes.
const LEN: usize = 1 << 20;

/// Zeroed pages that are never freed.
fn pages() -> u64 {
    #[repr(C, align(4096))]
    #[derive(Clone)]
    struct Page([u64; 512]);
    let pages = vec![Page([0; 512]); LEN / 4096].leak();
    pages.as_mut_ptr().expose_provenance() as u64
}

/// A lease whose rings both are as `mode` and `format` say.
fn lease(mode: AccessMode, format: RingFormat) -> (Lease, &'static StatusPage) {
    let status: &'static StatusPage = Box::leak(Box::default());
    let submission: &'static SubmissionPage = Box::leak(Box::default());
    let ring = RingMap {
        mode,
        format,
        entries: RingSize::new(256).unwrap(),
        submissions: pages(),
        submissions_len: LEN as u64,
        completions: pages(),
        completions_len: LEN as u64,
        doorbell: pages() + 0x10,
    };
    status.set_map(LeaseMap {
        submission_page: ptr::from_ref(submission).expose_provenance() as u64,
        rings: [ring; 2],
        queue: QueueMap::Network(MAP),
    });
    (Lease::new(LeaseId::new(0, 0), status).unwrap(), status)
}

fn arena() -> Arena<'static> {
    let memory = vec![0_u64; FRAME_LAYOUT.bytes() / 8].leak();
    // SAFETY: the memory is leaked, as long as the layout wants, and of no other arena.
    let arena = unsafe {
        Arena::new(
            NonNull::from(memory).cast(),
            Iova::new(0x1000),
            FRAME_LAYOUT,
        )
    };
    arena.unwrap()
}

/// What opens for a mode and a format.
fn opened(mode: AccessMode, format: RingFormat) -> [Option<&'static str>; 2] {
    let (lease, _) = lease(mode, format);
    let receive = Receive::open(&lease, &MAP, &FRAME_LAYOUT).map(|queue| match queue {
        Receive::Split(_) => "split",
        Receive::Packed(_) => "packed",
        Receive::Sealed(_) => "sealed",
        Receive::Ixgbe(_) => "ixgbe",
        Receive::Virtual(_) => "virtual",
    });
    let sent = vec![0; 512].leak();
    let transmit = Transmit::open(&lease, &MAP, arena(), sent).map(|queue| match queue {
        Transmit::Split(_) => "split",
        Transmit::Packed(_) => "packed",
        Transmit::Ixgbe(_) => "ixgbe",
        Transmit::Virtual(_) => "virtual",
    });
    [receive, transmit]
}

#[test]
fn each_mode_and_format_has_its_data_half_and_what_cannot_be_has_none() {
    use AccessMode::{Checked, Direct, Sealed as SealedMode, Virtual};
    for mode in AccessMode::ALL {
        for format in [
            RingFormat::VirtioSplit,
            RingFormat::VirtioPacked,
            RingFormat::Nvme,
            RingFormat::Virtual,
            RingFormat::Ixgbe,
        ] {
            let expected = match (mode, format) {
                (Checked, RingFormat::VirtioSplit) => [Some("split"); 2],
                (Checked, RingFormat::VirtioPacked) => [Some("packed"); 2],
                (Checked, RingFormat::Ixgbe) => [Some("ixgbe"); 2],
                // Only receive queues can be sealed.
                (SealedMode, RingFormat::VirtioSplit) => [Some("sealed"), None],
                (Virtual, RingFormat::Virtual) => [Some("virtual"); 2],
                (Direct | SealedMode | Checked | Virtual, _) => [None; 2],
            };
            assert_eq!(opened(mode, format), expected, "{mode:?} {format:?}");
        }
    }
}

#[test]
fn a_sealed_queue_takes_the_first_buffers_and_rings_the_cards_register() {
    let (lease, _) = lease(AccessMode::Sealed, RingFormat::VirtioSplit);
    let mut queue = Receive::open(&lease, &MAP, &FRAME_LAYOUT).unwrap();
    let words = vec![0; 512].leak();
    let mut pool = Pool::new(arena(), words);
    assert_eq!(queue.arm(&mut pool), N);
    assert_eq!(pool.take().unwrap().index(), 256, "the others stay");
    let available = lease.submissions(LeaseRing::First).unwrap();
    // The index of the available ring, and its first two entries (virtio 1.2 §2.7.6).
    let halves: &[core::sync::atomic::AtomicU16] = available.slice(2, 3).unwrap();
    let halves: Vec<u16> = halves
        .iter()
        .map(|half| half.load(Ordering::Relaxed))
        .collect();
    assert_eq!(halves, [256, 0, 1]);
    let register = lease.map().rings[0].doorbell;
    let register: *const u16 = ptr::with_exposed_provenance(address(register));
    // SAFETY: inside the pages that the test made for the register.
    let rung = unsafe { register.read_volatile() };
    assert_eq!(rung, 2, "receive queue 1 is virtqueue 2");
}

#[test]
fn a_virtual_frame_arrives_through_the_enum() {
    let (lease, status) = lease(AccessMode::Virtual, RingFormat::Virtual);
    let ring = lease.map().rings[0];
    let mut queue = Receive::open(&lease, &MAP, &FRAME_LAYOUT).unwrap();
    let (words, list) = (vec![0; 512].leak(), vec![0; 16].leak());
    let (mut pool, mut frames) = (Pool::new(arena(), words), SegmentList::new(list));
    assert_eq!(queue.arm(&mut pool), N);
    let memory: SharedMemory<'static> = lease.completions(LeaseRing::First).unwrap();
    let mut kernel = ReceivePort::new(memory, slots(&ring, &MAP)).unwrap();
    kernel
        .offer(parakernel_core::ring::Position::new(256))
        .unwrap();
    assert_eq!(kernel.deliver(&[7; 60]), Delivery::Delivered);
    status.accepted[0].store(kernel.filled().as_u32(), Ordering::Release);
    assert_eq!(queue.poll(&mut pool, &mut frames, 4), Ok(1));
    let frame = frames.pop().unwrap();
    assert_eq!(pool.arena().bytes(&frame), [7; 60]);
}
