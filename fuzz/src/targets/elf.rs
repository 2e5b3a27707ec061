//! Executables of processes, which the reference kernel maps.

use kernel_formats::executable::{Access, Executable, PAGE};

use crate::{Report, Target, input::Input};

pub(super) const TARGET: Target = Target {
    name: "elf",
    run,
    is_validator: true,
    max_len: 256,
};

/// Where segments may lie.
const ALLOWED: core::ops::Range<u64> = 0x1_0000..0x1000_0000;

fn run(bytes: &[u8]) -> Report {
    let input = &mut Input::new(bytes);
    let file = file(input);
    let mut report = Report::default();
    let result = Executable::parse(&file, ALLOWED);
    report.note("executable", result.is_ok());
    if let Ok(executable) = result {
        check(&executable, &file);
    }
    report
}

/// What a loader must be able to rely on.
fn check(executable: &Executable<'_>, file: &[u8]) {
    let (mut free, mut entries) = (ALLOWED.start, 0);
    let inside = file.as_ptr_range();
    for segment in executable.segments() {
        let end = segment
            .start
            .checked_add(segment.len)
            .expect("a segment that wraps");
        assert!(segment.len > 0 && segment.bytes.len() as u64 <= segment.len);
        let pages = segment.pages();
        assert!(pages.start <= segment.start && end <= pages.end);
        assert!(pages.start.is_multiple_of(PAGE) && pages.end.is_multiple_of(PAGE));
        assert!(
            pages.start >= free && pages.end <= ALLOWED.end,
            "{pages:x?}"
        );
        let bytes = segment.bytes.as_ptr_range();
        assert!(inside.start <= bytes.start && bytes.end <= inside.end);
        let holds_entry = (segment.start..end).contains(&executable.entry());
        entries += usize::from(holds_entry && segment.access == Access::ReadExecute);
        free = pages.end;
    }
    assert_eq!(entries, 1, "the entry is not in code");
}

/// An executable by the ELF-64 object file format, in which a few bytes may be wrong.
fn file(input: &mut Input<'_>) -> Vec<u8> {
    let count = input.choose(&[2, 1, 3, 2, 4, 9]);
    let mut file = vec![0; 64];
    file[..7].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1]);
    file[16..20].copy_from_slice(&[2, 0, 62, 0]);
    file[20] = 1;
    file[32] = 64;
    file[52..58].copy_from_slice(&[64, 0, 56, 0, count, 0]);
    let mut at = 0x40_0000 + 8 * input.below(600);
    let entry = at + input.below(16);
    file[24..32].copy_from_slice(&entry.to_le_bytes());
    for number in 0..count {
        let flags: u32 = if number == 0 {
            5
        } else {
            input.choose(&[6, 4, 5, 6])
        };
        let memory_len = 16 + input.below(20_000);
        let file_len = input.below(40).min(memory_len);
        let offset = input.below(64);
        file.extend(1_u32.to_le_bytes());
        file.extend(flags.to_le_bytes());
        for word in [offset, at, at, file_len, memory_len, PAGE] {
            file.extend(word.to_le_bytes());
        }
        at = (at + memory_len).next_multiple_of(PAGE) + input.below(100);
    }
    for _ in 0..input.below(5).saturating_sub(2) {
        let place = usize::from(u16::from_le_bytes(input.bytes())) % file.len();
        file[place] = input.byte();
    }
    if input.one_in(16) {
        file.truncate(usize::from(input.byte()));
    }
    file
}
