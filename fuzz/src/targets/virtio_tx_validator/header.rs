//! Headers that ask for a checksum, which a data half sends itself in `Direct` mode.

use parakernel_nic_virtio::header::Header;
use zerocopy::FromBytes as _;

use crate::{Report, input::Input};

/// A header that a data half is to send without a kernel in between: nothing but a checksum inside the frame may be asked
/// for (§5.1.6.2).
pub(super) fn check(input: &mut Input<'_>) -> Report {
    let mut bytes = [0; 12];
    let len = 14 + input.below(1500);
    bytes[0] = input.choose(&[1, 1, 1, 1, 0, 2, 3]);
    if bytes[0] != 0 || input.one_in(8) {
        bytes[6..8].copy_from_slice(
            &u16::try_from(input.below(len))
                .expect("small")
                .to_le_bytes(),
        );
        bytes[8..10].copy_from_slice(&u16::try_from(input.below(20)).expect("small").to_le_bytes());
    }
    if input.one_in(8) {
        bytes[input.byte() as usize % 12] ^= 1 << input.below(8);
    }
    let [flags, gso_type, rest @ ..] = bytes;
    let [hdr_len, gso_size, start, offset, buffers] =
        [0, 2, 4, 6, 8].map(|at| u64::from(u16::from_le_bytes([rest[at], rest[at + 1]])));
    let asks_for_segments = gso_type != 0 || hdr_len != 0 || gso_size != 0;
    let may_leave = match flags {
        _ if asks_for_segments || buffers != 0 => false,
        0 => start == 0 && offset == 0,
        // The sum is 16 bits.
        1 => start + offset + 2 <= len,
        _ => false,
    };
    let header = Header::read_from_bytes(&bytes).expect("as long as a header");
    let len = usize::try_from(len).expect("small");
    assert_eq!(
        header.is_sendable(len),
        may_leave,
        "{header:?} before {len} bytes"
    );
    let mut report = Report::default();
    report.note(
        if flags == 0 {
            "header that asks for nothing"
        } else {
            "header that asks for a checksum"
        },
        may_leave,
    );
    report
}
