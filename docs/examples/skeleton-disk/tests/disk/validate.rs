//! The validator: attack by attack, and against a second, slow statement of its contract.

use parakernel_core::{
    address::{Direction, Iova},
    queue::Lba,
    ring::Position,
    validate::{DescriptorValidator, Validated, Violation},
};
use proptest::prelude::*;
use skeleton_disk::{
    ring::{Opcode, Words},
    validate::Validator,
};

use crate::{
    N,
    checked::{BASE, with_regions},
    volume,
};

/// Where the regions lie on the bus.
const BUS: u64 = 0x7000_0000;

/// What a fresh validator makes of one command.
fn outcome(words: Words) -> Result<(Position, Words), Violation> {
    with_regions(BUS, |regions| {
        let accepted = Validator::<N>::new(volume()).validate(words, regions);
        accepted.map(Validated::into_inner)
    })
}

fn read(id: u16, lba: u64, blocks: u8, address: u64) -> Words {
    Words::new(Opcode::Read, id, Lba::new(lba), blocks, address)
}

#[test]
fn an_accepted_command_names_the_bus() {
    let accepted = outcome(read(3, 8, 8, BASE + 0x9000));
    let expected = read(3, 8, 8, BUS + 0x9000);
    assert_eq!(accepted, Ok((Position::START, expected)));
    let flush = Words::new(Opcode::Flush, 3, Lba::new(0), 0, 0);
    assert_eq!(outcome(flush), Ok((Position::START, flush)));
}

#[test]
fn a_command_of_another_form_is_refused() {
    let head = |opcode: u64| opcode | 1 << 32;
    let forms = [
        ([head(0), 8, BASE, 0], Violation::Opcode { opcode: 0 }),
        ([head(4), 8, BASE, 0], Violation::Opcode { opcode: 4 }),
        (
            [head(1) | 1 << 8, 8, BASE, 0],
            Violation::Forbidden { field: 1 << 8 },
        ),
        (
            [head(1) | 1 << 63, 8, BASE, 0],
            Violation::Forbidden { field: 1 << 63 },
        ),
        ([head(1), 8, BASE, 5], Violation::Forbidden { field: 5 }),
        (
            [head(1), 8, BASE + 8, 0],
            Violation::Forbidden { field: BASE + 8 },
        ),
        ([1, 8, BASE, 0], Violation::Length { len: 0 }),
        (
            [1 | 9 << 32, 8, BASE, 0],
            Violation::Length { len: 9 * 512 },
        ),
        ([3 | 1 << 32, 0, 0, 0], Violation::Length { len: 512 }),
        ([3, 0, 512, 0], Violation::Forbidden { field: 512 }),
        (
            [head(1) | 4 << 16, 8, BASE, 0],
            Violation::IndexOutOfRange { index: 4 },
        ),
    ];
    for (words, violation) in forms {
        assert_eq!(outcome(Words(words)), Err(violation), "{words:x?}");
    }
}

#[test]
fn blocks_outside_the_volume_are_refused() {
    for (lba, blocks) in [(7, 1), (0, 8), (47, 2), (48, 1), (u64::MAX, 2)] {
        let violation = Violation::OutsideVolume {
            lba: Lba::new(lba),
            blocks: blocks.into(),
        };
        assert_eq!(outcome(read(0, lba, blocks, BASE)), Err(violation));
    }
}

#[test]
fn memory_that_the_process_has_not_is_refused() {
    let outside = |iova, len| Violation::OutsideRegions {
        iova: Iova::new(iova),
        len,
    };
    assert_eq!(
        outcome(read(0, 8, 1, BASE - 512)),
        Err(outside(BASE - 512, 512))
    );
    assert_eq!(
        outcome(read(0, 8, 1, BASE + 0xa000)),
        Err(outside(BASE + 0xa000, 512))
    );
    assert_eq!(outcome(read(0, 8, 1, BUS)), Err(outside(BUS, 512)));
    let last = BASE + 0xa000 - 512;
    assert_eq!(outcome(read(0, 8, 2, last)), Err(outside(last, 1024)));
    let write = Words::new(Opcode::Write, 0, Lba::new(8), 1, BASE + 0x9000);
    for (words, offset, wanted) in [
        (read(0, 8, 1, BASE + 0x8000), 0x8000, Direction::FromDevice),
        (write, 0x9000, Direction::ToDevice),
    ] {
        let iova = Iova::new(BASE + offset);
        assert_eq!(outcome(words), Err(Violation::Direction { iova, wanted }));
    }
}

#[test]
fn an_id_in_flight_and_a_tail_beyond_the_room_are_refused() {
    let mut validator = Validator::<N>::new(volume());
    let flush = |id| Words::new(Opcode::Flush, id, Lba::new(0), 0, 0);
    with_regions(BUS, |regions| {
        assert!(validator.validate(flush(0), regions).is_ok());
        let busy = validator.validate(flush(0), regions).unwrap_err();
        assert_eq!(busy, Violation::Busy { id: 0 });
        // One of four is in flight.
        assert_eq!(validator.new_entries(Position::new(4)), Ok(3));
        for claimed in [5, 6, 0, u32::MAX] {
            let jump = Violation::TailJump {
                claimed,
                accepted: 1,
            };
            assert_eq!(validator.new_entries(Position::new(claimed)), Err(jump));
        }
        assert_eq!(validator.ended(0), Ok(()));
        assert!(validator.ended(0).is_err());
        assert!(validator.ended(9).is_err());
        assert!(validator.validate(flush(0), regions).is_ok());
    });
}

/// "A read or a write of 1 to 8 blocks of the volume, each byte in a region that allows it; or a flush of nothing."
fn is_allowed(words: [u64; 4]) -> bool {
    let [head, lba, address, rest] = words;
    let [opcode, zero, id, high, blocks, zeroes @ ..] = head.to_le_bytes();
    let has_form = zero == 0 && high == 0 && id < 4 && zeroes == [0; 3] && rest == 0;
    let all_blocks = || (0..u64::from(blocks)).map(|block| u128::from(lba) + u128::from(block));
    let all_bytes =
        || (0..u64::from(blocks) * 512).map(|byte| u128::from(address) + u128::from(byte));
    let page = |byte: u128| (byte >> 12).checked_sub(u128::from(BASE >> 12));
    let reaches =
        |allowed: &dyn Fn(u128) -> bool| all_bytes().all(|byte| page(byte).is_some_and(allowed));
    // Regions do not join: a transfer lies in one of them.
    let in_one = |alone: u128| reaches(&|page| page < 8) || reaches(&|page| page == alone);
    let moves = (1..=8).contains(&blocks)
        && all_blocks().all(|block| (8..48).contains(&block))
        && address % 512 == 0;
    has_form
        && match opcode {
            1 => moves && in_one(9),
            2 => moves && in_one(8),
            3 => blocks == 0 && address == 0,
            _ => false,
        }
}

/// A command that is right more often than not, and wrong in every way.
fn commands() -> impl Strategy<Value = [u64; 4]> {
    let small = (0_u64..5, 0_u64..5, 0_u64..10)
        .prop_map(|(opcode, id, blocks)| opcode | id << 16 | blocks << 32);
    let head = prop_oneof![8 => small, 1 => any::<u64>()];
    let lba = prop_oneof![8 => 6_u64..50, 1 => any::<u64>()];
    let sector = (0_u64..84).prop_map(|sector| BASE - 1024 + sector * 512);
    let address = prop_oneof![8 => sector, 1 => Just(0), 1 => any::<u64>()];
    let rest = prop_oneof![9 => Just(0), 1 => any::<u64>()];
    (head, lba, address, rest).prop_map(|(head, lba, address, rest)| [head, lba, address, rest])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn exactly_what_the_contract_allows_is_accepted(words in commands()) {
        let accepted = outcome(Words(words));
        prop_assert_eq!(accepted.is_ok(), is_allowed(words), "{:?}", accepted);
        if let Ok((at, passed)) = accepted {
            let moved = if words[2] == 0 { 0 } else { words[2] - BASE + BUS };
            prop_assert_eq!((at, passed), (Position::START, Words(words).with_address(moved)));
        }
    }
}
