//! The validator against a second, slow statement of its contract.

use parakernel_core::{
    address::BusAddress,
    ring::Position,
    validate::{DescriptorValidator, Violation},
};
use proptest::prelude::*;
use skeleton_driver::{
    ring::Copied,
    validate::{Accepted, Validator},
};

use crate::checked::with_region;

const BASE: u64 = 0x10_0000;
const LEN: u64 = 0x2000;

/// "14 to 1514 bytes, no other bit set, and each byte in the region."
fn is_allowed(entry: Copied) -> bool {
    let bytes = || entry.address..entry.address + entry.state;
    (14..=1514).contains(&entry.state)
        && entry.address < u64::MAX - 2000
        && bytes().all(|byte| (BASE..BASE + LEN).contains(&byte))
}

/// An entry that is right more often than not, and wrong in every way.
fn entries() -> impl Strategy<Value = Copied> {
    let address = prop_oneof![8 => BASE - 20..BASE + LEN + 20, 1 => any::<u64>()];
    let state = prop_oneof![8 => 10_u64..1520, 1 => any::<u64>(), 1 => Just(60 | 1 << 63)];
    (address, state).prop_map(|(address, state)| Copied { address, state })
}

proptest! {
    #[test]
    fn exactly_what_the_contract_allows_is_accepted(entry in entries()) {
        let result = with_region(BASE, LEN, |regions| Validator::<8>::default().validate(entry, regions));
        let accepted = result.map(parakernel_core::validate::Validated::into_inner);
        prop_assert_eq!(accepted.is_ok(), is_allowed(entry), "{:?}", accepted);
        if let Ok(Accepted { at, address, len }) = accepted {
            prop_assert_eq!((at, address), (Position::START, BusAddress::new(entry.address)));
            prop_assert_eq!(u64::from(len), entry.state);
        }
    }
}

#[test]
fn an_entry_in_flight_is_not_written_again() {
    let mut validator = Validator::<2>::default();
    let entry = Copied {
        address: BASE,
        state: 60,
    };
    with_region(BASE, LEN, |regions| {
        assert!(validator.validate(entry, regions).is_ok());
        assert!(validator.validate(entry, regions).is_ok());
        let busy = validator.validate(entry, regions).unwrap_err();
        assert_eq!(busy, Violation::Busy { id: 0 });
        validator.take_back();
        assert!(validator.validate(entry, regions).is_ok());
    });
}
