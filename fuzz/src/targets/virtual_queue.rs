//! The kernel's ends of virtual queues, against a process that writes whatever it likes.

use parakernel_core::{
    ring::{Position, RingSize},
    validate::Violation,
    virtual_queue::{Delivery, ReceivePort, TransmitPort, VirtualLayout},
};

use crate::{Report, Target, input::Input, memory::Pages};

pub(super) const TARGET: Target = Target {
    name: "virtual_queue",
    run,
    is_validator: true,
    max_len: 192,
};

const ENTRIES: u32 = 4;
const SLOT: usize = 64;
const LAYOUT: VirtualLayout = VirtualLayout {
    entries: match RingSize::new(ENTRIES) {
        Some(size) => size,
        None => panic!("a power of two"),
    },
    slot_bytes: 64,
};
/// Where the slots begin: behind their lengths, in whole cache lines.
const SLOTS: usize = 64;

fn run(bytes: &[u8]) -> Report {
    let input = &mut Input::new(bytes);
    let mut report = Report::default();
    if input.byte() & 1 == 0 {
        receive(input, &mut report);
    } else {
        transmit(input, &mut report);
    }
    report
}

/// The byte at `offset`.
fn byte(pages: &Pages, offset: usize) -> u8 {
    pages.load(offset / 8).to_le_bytes()[offset % 8]
}

fn length(pages: &Pages, slot: usize) -> u32 {
    let [low, high] = [0, 2].map(|at| u32::from(pages.load16(4 * slot + at)));
    low | high << 16
}

/// The kernel puts frames where the process offered slots, and nowhere else.
fn receive(input: &mut Input<'_>, report: &mut Report) {
    let pages = Pages::new(LAYOUT.bytes(), 0);
    let mut port = ReceivePort::new(pages.shared(), LAYOUT).expect("room");
    let (mut offered, mut filled) = (0_u64, 0_u64);
    while !input.is_empty() {
        let claim = if input.one_in(8) {
            u64::from(input.byte())
        } else {
            filled + u64::from(ENTRIES)
        };
        let is_allowed = (offered..=filled + u64::from(ENTRIES)).contains(&claim);
        let result = port.offer(position(claim));
        assert_eq!(result.is_ok(), is_allowed, "{offered} {filled} {claim}");
        report.note("offer", is_allowed);
        if is_allowed {
            offered = claim;
        }
        for _ in 0..input.below(6) {
            let len = usize::try_from(input.below(70)).expect("few");
            let fill = input.byte();
            let expected = match () {
                () if len > SLOT => Delivery::TooLong,
                () if filled == offered => Delivery::Full,
                () => Delivery::Delivered,
            };
            assert_eq!(port.deliver(&vec![fill; len]), expected);
            report.note("frame received", expected == Delivery::Delivered);
            if expected == Delivery::Delivered {
                let slot = usize::try_from(filled % u64::from(ENTRIES)).expect("few");
                assert_eq!(length(&pages, slot) as usize, len);
                let start = SLOTS + slot * SLOT;
                assert!((start..start + len).all(|at| byte(&pages, at) == fill));
                filled += 1;
            }
            assert_eq!(port.filled(), position(filled));
        }
    }
}

/// The kernel takes frames as they stand in the slots, of a length that a frame may have.
fn transmit(input: &mut Input<'_>, report: &mut Report) {
    let pages = Pages::new(LAYOUT.bytes(), 0);
    let mut port = TransmitPort::new(pages.shared(), LAYOUT).expect("room");
    let (mut emptied, mut buffer) = (0_u64, [0; SLOT]);
    while !input.is_empty() {
        for slot in 0..ENTRIES as usize {
            let len = if input.one_in(32) {
                u32::from_le_bytes(input.bytes())
            } else {
                14 + u32::from(input.byte()) % 51
            };
            let [low, high] =
                [len & 0xffff, len >> 16].map(|half| u16::try_from(half).expect("16 bits"));
            pages.store16(4 * slot, low);
            pages.store16(4 * slot + 2, high);
            pages.store((SLOTS + slot * SLOT) / 8, input.word());
        }
        let ahead = if input.one_in(16) {
            u64::from(input.byte())
        } else {
            input.below(u64::from(ENTRIES) + 1)
        };
        let budget = usize::try_from(input.below(6)).expect("few");
        let mut taken = Vec::new();
        let result = port.take(position(emptied + ahead), budget, &mut buffer, |frame| {
            taken.push(frame.to_vec());
            Ok(true)
        });
        let is_jump = ahead > u64::from(ENTRIES);
        let count = if is_jump { 0 } else { ahead.min(budget as u64) };
        let slots = (emptied..emptied + count)
            .map(|at| usize::try_from(at % u64::from(ENTRIES)).expect("few"));
        let frames = slots.map(|slot| frame(&pages, slot));
        let expected: Vec<_> = frames.clone().map_while(|frame| frame).collect();
        let is_refused = is_jump || frames.clone().any(|frame| frame.is_none());
        assert_eq!(taken, expected);
        assert_eq!(result.is_err(), is_refused, "{result:?}");
        assert!(!is_jump || matches!(result, Err(Violation::TailJump { .. })));
        frames.for_each(|frame| report.note("frame sent", frame.is_some()));
        emptied += expected.len() as u64;
        assert_eq!(port.emptied(), position(emptied));
    }
}

/// The frame in a slot, if it is one.
fn frame(pages: &Pages, slot: usize) -> Option<Vec<u8>> {
    let len = length(pages, slot) as usize;
    let start = SLOTS + slot * SLOT;
    (14..=SLOT)
        .contains(&len)
        .then(|| (start..start + len).map(|at| byte(pages, at)).collect())
}

fn position(count: u64) -> Position {
    Position::new(count.try_into().expect("a short run"))
}
