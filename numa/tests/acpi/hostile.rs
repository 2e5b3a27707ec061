//! Tables with one thing wrong: the error must name the thing and the place.

use parakernel_core::address::PhysAddr;
use parakernel_numa::acpi::{Dmar, Error, Hmat, Madt, Mcfg, Problem, Signature, Slit, Srat};
use parakernel_numa::acpi::{Memory as _, Table, Tables, Window};

use super::dump::{Dump, compiled, seal};

fn error(table: Signature, offset: usize, problem: Problem) -> (Signature, usize, Problem) {
    (table, offset, problem)
}

fn parts<T>(result: Result<T, Error>) -> (Signature, usize, Problem) {
    let error = result.err().expect("the table is broken");
    (error.table(), error.offset(), error.problem())
}

/// A table with a valid header, `revision` and `body`.
fn table(signature: Signature, revision: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; Table::HEADER_LEN];
    bytes[..4].copy_from_slice(signature.as_bytes());
    bytes[8] = revision;
    bytes.extend_from_slice(body);
    seal(&mut bytes);
    bytes
}

/// The table of the dump `q35` after `change`, with a valid checksum.
fn changed(name: &str, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = Dump::of("q35").table(name).bytes.clone();
    change(&mut bytes);
    seal(&mut bytes);
    bytes
}

fn value(field: &'static str, value: u64) -> Problem {
    Problem::Value { field, value }
}

#[test]
fn headers() {
    let madt = Dump::of("q35").table("APIC").bytes.clone();
    let parse = |bytes: &[u8]| parts(Madt::parse(bytes));
    let too_short = |len| Problem::TooShort { len, needed: 36 };
    assert_eq!(parse(&[]), error(Signature::MADT, 0, too_short(0)));
    assert_eq!(parse(&madt[..35]), error(Signature::MADT, 0, too_short(35)));
    let overrun = Problem::Overrun {
        len: 176,
        available: 175,
    };
    assert_eq!(parse(&madt[..175]), error(Signature::MADT, 4, overrun));
    let found = *b"APIC";
    let srat = parts(Srat::parse(&madt));
    assert_eq!(
        srat,
        error(Signature::SRAT, 0, Problem::Signature { found })
    );
    let mut flipped = madt.clone();
    flipped[60] ^= 4;
    let sum = Problem::Checksum { sum: 4 };
    assert_eq!(parse(&flipped), error(Signature::MADT, 9, sum));
    let mut short = madt;
    short[4..8].copy_from_slice(&35_u32.to_le_bytes());
    assert_eq!(parse(&short), error(Signature::MADT, 4, too_short(35)));
}

#[test]
fn an_entry_of_length_zero_does_not_hang_the_walk() {
    let bytes = changed("APIC", |bytes| bytes[45] = 0);
    let problem = Problem::TooShort { len: 0, needed: 2 };
    assert_eq!(
        parts(Madt::parse(&bytes)),
        error(Signature::MADT, 44, problem)
    );
}

#[test]
fn an_entry_that_reaches_beyond_the_table() {
    // The last entry of the dump, 6 bytes at 170.
    let bytes = changed("APIC", |bytes| bytes[171] = 7);
    let problem = Problem::Overrun {
        len: 7,
        available: 6,
    };
    assert_eq!(
        parts(Madt::parse(&bytes)),
        error(Signature::MADT, 170, problem)
    );
}

#[test]
fn an_entry_too_short_for_its_type() {
    let bytes = table(
        Signature::MADT,
        1,
        &[0, 0, 0, 0, 0, 0, 0, 0, 0, 6, 1, 1, 1, 0],
    );
    let problem = Problem::TooShort { len: 6, needed: 8 };
    assert_eq!(
        parts(Madt::parse(&bytes)),
        error(Signature::MADT, 44, problem)
    );
}

#[test]
fn half_an_entry_header_at_the_end() {
    let bytes = changed("APIC", |bytes| bytes.push(0));
    let problem = Problem::TooShort { len: 1, needed: 2 };
    assert_eq!(
        parts(Madt::parse(&bytes)),
        error(Signature::MADT, 176, problem)
    );
}

#[test]
fn an_entry_longer_than_its_type_is_a_later_revision() {
    let body = [0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 1, 5, 1, 0, 0, 0, 0xAA];
    let bytes = table(Signature::MADT, 1, &body);
    assert_eq!(
        Madt::parse(&bytes)
            .unwrap()
            .processors()
            .next()
            .unwrap()
            .apic_id,
        5
    );
}

#[test]
fn reserved_line_flags() {
    // The first override of the dump, at 120: its flags are at 128.
    for (flags, field) in [(0b10, "the polarity"), (0b1000, "the trigger mode")] {
        let bytes = changed("APIC", |bytes| bytes[128] = flags);
        let expected = error(Signature::MADT, 128, value(field, flags.into()));
        assert_eq!(parts(Madt::parse(&bytes)), expected);
    }
    let bytes = changed("APIC", |bytes| bytes[122] = 1);
    let expected = error(Signature::MADT, 122, value("the bus of an override", 1));
    assert_eq!(parts(Madt::parse(&bytes)), expected);
}

#[test]
fn memory_beyond_the_last_address_counts_only_if_it_is_enabled() {
    let beyond = |bytes: &mut Vec<u8>| bytes[0xB8..0xC8].fill(0xFF);
    let bytes = changed("SRAT", beyond);
    let problem = value("the length of memory up to the last address", u64::MAX);
    assert_eq!(
        parts(Srat::parse(&bytes)),
        error(Signature::SRAT, 0xC0, problem)
    );
    let bytes = changed("SRAT", |bytes| {
        beyond(bytes);
        bytes[0xCC] = 0;
    });
    assert_eq!(Srat::parse(&bytes).unwrap().memory().count(), 2);
}

#[test]
fn old_srats_have_8_bit_domains() {
    let junk = |bytes: &mut Vec<u8>| {
        bytes[0x39] = 0xAB; // The high bits of a core's domain.
        bytes[0xB3] = 0xCD; // The second byte of memory's domain.
    };
    let bytes = changed("SRAT", junk);
    let srat = Srat::parse(&bytes).unwrap();
    assert_eq!(srat.processors().next().unwrap().domain, 0);
    assert_eq!(srat.memory().next().unwrap().domain, 0);
    let bytes = changed("SRAT", |bytes| {
        junk(bytes);
        bytes[8] = 2;
    });
    let srat = Srat::parse(&bytes).unwrap();
    assert_eq!(srat.processors().next().unwrap().domain, 0xAB00);
    assert_eq!(srat.memory().next().unwrap().domain, 0xCD00);
}

#[test]
fn a_slit_with_more_domains_than_bytes() {
    for domains in [3, u64::from(u32::MAX), 1 << 32, u64::MAX] {
        let bytes = changed("SLIT", |bytes| {
            bytes[36..44].copy_from_slice(&domains.to_le_bytes());
        });
        let (table, offset, problem) = parts(Slit::parse(&bytes));
        assert_eq!((table, offset), (Signature::SLIT, 44));
        assert!(matches!(problem, Problem::TooShort { len: 4, needed } if needed >= 9));
    }
}

#[test]
fn distances_that_cannot_be() {
    for (index, distance) in [(0, 11), (1, 9), (2, 0), (3, 255)] {
        let bytes = changed("SLIT", |bytes| bytes[44 + index] = distance);
        let expected = error(
            Signature::SLIT,
            44 + index,
            value("a distance", distance.into()),
        );
        assert_eq!(parts(Slit::parse(&bytes)), expected);
    }
    let bytes = table(Signature::SLIT, 1, &[0; 8]);
    assert_eq!(Slit::parse(&bytes).unwrap().distance(0, 0), None);
}

#[test]
fn configuration_space_that_cannot_be() {
    let bytes = changed("MCFG", |bytes| bytes[54] = 1);
    assert!(Mcfg::parse(&bytes).is_ok());
    let bytes = changed("MCFG", |bytes| bytes[54..56].copy_from_slice(&[2, 1]));
    let problem = value("the last bus before the first", 1);
    assert_eq!(
        parts(Mcfg::parse(&bytes)),
        error(Signature::MCFG, 55, problem)
    );
    for base in [0xFFFF_FFFF_F800_0000, 0xB000_1000] {
        let bytes = changed("MCFG", |bytes| {
            bytes[44..52].copy_from_slice(&u64::to_le_bytes(base));
        });
        let problem = value("the base of configuration space", base);
        assert_eq!(
            parts(Mcfg::parse(&bytes)),
            error(Signature::MCFG, 44, problem)
        );
    }
    let bytes = changed("MCFG", |bytes| bytes.truncate(50));
    assert_eq!(Mcfg::parse(&bytes).unwrap().segments().count(), 0);
}

#[test]
fn remapping_structures_that_cannot_be() {
    let broken = |offset: usize, bytes: &[u8]| {
        let mut table = compiled("dmar");
        table[offset..offset + bytes.len()].copy_from_slice(bytes);
        seal(&mut table);
        parts(Dmar::parse(&table))
    };
    let expected = |offset, problem| error(Signature::DMAR, offset, problem);
    // The first unit is at 0x30, its registers at 0x38, its first scope at 0x40, that scope's path at 0x46.
    let registers = value("the register base", 0xC5FF_C001);
    assert_eq!(broken(0x38, &[1]), expected(0x38, registers));
    assert_eq!(
        broken(0x46, &[32]),
        expected(0x46, value("the device of a path", 32))
    );
    assert_eq!(
        broken(0x49, &[8]),
        expected(0x49, value("the function of a path", 8))
    );
    let empty = Problem::TooShort { len: 0, needed: 2 };
    assert_eq!(broken(0x41, &[6]), expected(0x46, empty));
    let ragged = Problem::Ragged { len: 3, element: 2 };
    assert_eq!(broken(0x41, &[9]), expected(0x46, ragged));
    let overrun = Problem::Overrun {
        len: 0x13,
        available: 0x12,
    };
    assert_eq!(broken(0x41, &[0x13]), expected(0x40, overrun));
    // The reserved region is at 0x72, its limit at 0x82.
    let limit = value("the limit of reserved memory", 0);
    assert_eq!(broken(0x82, &[0; 8]), expected(0x82, limit));
    let base = value("the base of reserved memory", 0x7BA1_0010);
    assert_eq!(broken(0x7A, &[0x10]), expected(0x7A, base));
}

#[test]
fn memory_attributes_that_cannot_be() {
    let broken = |offset: usize, bytes: &[u8]| {
        let mut table = compiled("hmat");
        table[offset..offset + bytes.len()].copy_from_slice(bytes);
        seal(&mut table);
        parts(Hmat::parse(&table))
    };
    let expected = |offset, problem| error(Signature::HMAT, offset, problem);
    assert_eq!(broken(8, &[1]), expected(8, Problem::Revision(1)));
    // The matrix is at 0x50: hierarchy at 0x58, type at 0x59, counts at 0x5C and 0x60, unit at 0x68, lists at 0x70.
    assert_eq!(
        broken(0x58, &[4]),
        expected(0x58, value("the memory hierarchy", 4))
    );
    assert_eq!(
        broken(0x59, &[6]),
        expected(0x59, value("the data type", 6))
    );
    assert_eq!(
        broken(0x68, &[0xFF; 8]),
        expected(0x68, value("the base unit", u64::MAX))
    );
    let initiators = Problem::TooShort {
        len: 22,
        needed: 24,
    };
    assert_eq!(broken(0x5C, &[6]), expected(0x70, initiators));
    let targets = Problem::TooShort {
        len: 18,
        needed: 20,
    };
    assert_eq!(broken(0x60, &[5]), expected(0x74, targets));
    let cells = Problem::TooShort { len: 6, needed: 8 };
    let two_rows = [2, 0, 0, 0, 2, 0, 0, 0];
    assert_eq!(broken(0x5C, &two_rows), expected(0x80, cells));
    let (_, _, problem) = broken(0x5C, &[0xFF; 8]);
    assert!(matches!(problem, Problem::TooShort { len: 22, .. }));
}

#[test]
fn root_pointers_that_cannot_be() {
    let broken = |machine: &str, change: fn(&mut Vec<u8>)| {
        let dump = Dump::of(machine);
        let mut bytes = dump.table("RSDP").bytes.clone();
        change(&mut bytes);
        parts(Tables::new(&Window::new(dump.rsdp(), &bytes), dump.rsdp()))
    };
    let found = *b"RSD_";
    let signature = Problem::Signature { found };
    let expected = |offset, problem| error(Signature::RSDP, offset, problem);
    assert_eq!(
        broken("q35", |bytes| bytes[3] = b'_'),
        expected(0, signature)
    );
    let sum = Problem::Checksum { sum: 1 };
    assert_eq!(broken("q35", |bytes| bytes[14] += 1), expected(8, sum));
    let sum = Problem::Checksum { sum: 1 };
    assert_eq!(broken("microvm", |bytes| bytes[33] += 1), expected(32, sum));
    let short = Problem::TooShort {
        len: 35,
        needed: 36,
    };
    assert_eq!(
        broken("microvm", |bytes| bytes[20] = 35),
        expected(20, short)
    );
    let address = Dump::of("microvm").rsdp();
    let missing = Problem::Unreadable { address, len: 36 };
    assert_eq!(
        broken("microvm", |bytes| bytes.truncate(30)),
        expected(0, missing)
    );
}

#[test]
fn damage_matters_only_to_the_table_that_has_it() {
    let mut dump = Dump::of("q35");
    let slit = dump
        .tables
        .iter_mut()
        .find(|table| table.name == "SLIT")
        .unwrap();
    slit.bytes[44] += 1;
    let address = PhysAddr::new(slit.address);
    let tables = Tables::new(&dump, dump.rsdp()).unwrap();
    assert!(tables.srat().unwrap().is_some());
    let sum = Problem::Checksum { sum: 1 };
    assert_eq!(parts(tables.slit()), error(Signature::SLIT, 9, sum));
    let mut dump = Dump::of("q35");
    dump.tables.retain(|table| table.name != "SLIT");
    let tables = Tables::new(&dump, dump.rsdp()).unwrap();
    assert!(tables.srat().unwrap().is_some());
    let unreadable = Problem::Unreadable { address, len: 36 };
    assert_eq!(parts(tables.slit()), error(Signature::SLIT, 0, unreadable));
}

#[test]
fn a_window_lends_only_what_it_has() {
    let low = Window::new(PhysAddr::new(0x1000), &[1, 2, 3]);
    let high = Window::new(PhysAddr::new(u64::MAX - 1), &[4, 5]);
    let windows = &[low, high][..];
    let bytes = |address, len| windows.bytes(PhysAddr::new(address), len);
    assert_eq!(bytes(0x1000, 3), Some(&[1, 2, 3][..]));
    assert_eq!(bytes(0x1002, 1), Some(&[3][..]));
    assert_eq!(bytes(0x1002, 2), None);
    assert_eq!(bytes(0xFFF, 1), None);
    assert_eq!(bytes(u64::MAX, 1), Some(&[5][..]));
    assert_eq!(bytes(u64::MAX, usize::MAX), None);
}

#[test]
fn errors_read_like_sentences() {
    let bytes = changed("APIC", |bytes| bytes[45] = 0);
    let error = Madt::parse(&bytes).unwrap_err();
    assert_eq!(
        error.to_string(),
        "APIC at 0x2c: 0 bytes where 2 are needed"
    );
}
