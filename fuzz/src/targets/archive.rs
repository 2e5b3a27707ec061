//! The initial RAM disk, which the reference kernel finds its processes in.

use kernel_formats::archive::{files, find};

use crate::{Report, Target, input::Input};

pub(super) const TARGET: Target = Target {
    name: "archive",
    run,
    is_validator: true,
    max_len: 256,
};

fn run(bytes: &[u8]) -> Report {
    let input = &mut Input::new(bytes);
    let (archive, expected, is_damaged) = archive(input);
    let inside = archive.as_ptr_range();
    let mut found = Vec::new();
    for file in files(&archive) {
        let bytes = file.bytes.as_ptr_range();
        assert!(inside.start <= bytes.start && bytes.end <= inside.end);
        found.push((file.name.to_owned(), file.bytes.to_owned()));
        assert!(found.len() <= archive.len() / 110, "files without headers");
    }
    let mut report = Report::default();
    report.note("archive", found == expected);
    if !is_damaged {
        assert_eq!(found, expected);
        for (name, _) in &expected {
            let first = expected.iter().find(|(other, _)| other == name);
            assert_eq!(
                find(&archive, name),
                first.map(|(_, bytes)| bytes.as_slice())
            );
        }
    }
    report
}

/// An archive by the format's description, what is in it, and whether it was damaged.
#[expect(
    clippy::type_complexity,
    reason = "three things that are made together"
)]
fn archive(input: &mut Input<'_>) -> (Vec<u8>, Vec<(String, Vec<u8>)>, bool) {
    let (mut archive, mut expected) = (Vec::new(), Vec::new());
    for _ in 0..input.below(4) {
        let name = input
            .choose(&["manifest", "echo", "a", "bin/kv"])
            .to_owned();
        let bytes: Vec<u8> = (0..input.below(20)).map(|_| input.byte()).collect();
        append(&mut archive, &name, &bytes);
        expected.push((name, bytes));
    }
    append(&mut archive, "TRAILER!!!", &[]);
    let is_damaged = input.one_in(3);
    if is_damaged {
        let place = usize::from(u16::from_le_bytes(input.bytes())) % archive.len();
        archive[place] = input.choose(b"0Ff+-\0 ");
        if input.one_in(3) {
            archive.truncate(place);
        }
    }
    (archive, expected, is_damaged)
}

fn append(archive: &mut Vec<u8>, name: &str, bytes: &[u8]) {
    let (zero, file_len, name_len) = (0, bytes.len(), name.len() + 1);
    let header = format!("070701{zero:048x}{file_len:08x}{zero:032x}{name_len:08x}{zero:08x}");
    for part in [header.as_bytes(), name.as_bytes(), &[0]] {
        archive.extend(part);
    }
    archive.resize(archive.len().next_multiple_of(4), 0);
    archive.extend(bytes);
    archive.resize(archive.len().next_multiple_of(4), 0);
}
