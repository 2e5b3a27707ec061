//! What the reference kernel is told in text: its manifest, its command line, and the host's commands.

use kernel_formats::{command::Command, command_line, manifest};

use crate::{Report, Target, input::Input};

pub(super) const TARGET: Target = Target {
    name: "manifest",
    run,
    is_validator: true,
    max_len: 160,
};

/// Words that manifests are made of; some of them are wrong.
const WORDS: [&str; 36] = [
    "kernel ",
    "process ",
    "\nprocess name=echo0 elf=echo core=1 ",
    "\nprocess name=blk1 elf=blockbench core=5 volume=1:8192+4096:0x51 ",
    "\nkernel policy=integrity,no-spoof seconds=60 ",
    "\n",
    "name=kv0 ",
    "elf=kv ",
    "core=7 ",
    "core=4294967296 ",
    "nic_queues=1 ",
    "nic_queues=65536 ",
    "ip=10.0.0.3 ",
    "ip=10.0.0 ",
    "key=0x1122334455667788 ",
    "key=0x11223344556677889 ",
    "nvme_queues=4 ",
    "restart=50 ",
    "restart=-1 ",
    "start=later ",
    "volume=2:0+1:1 ",
    "volume=2:0+:1 ",
    "volume=1:18446744073709551615+1:0x1 ",
    "args=--a b=c ",
    "report_ms=500 ",
    "report_ms=-5 ",
    "seconds= ",
    "net=10.0.0.0/24 ",
    "net=10.0.0.0/33 ",
    "gateway=10.0.0.1 ",
    "restarts=50 ",
    "ring=packed ",
    "ring=both ",
    "attacks=echo0 ",
    "policy=, ",
    "# ",
];

fn run(bytes: &[u8]) -> Report {
    let input = &mut Input::new(bytes);
    let mut report = Report::default();
    let mut text = String::new();
    while !input.is_empty() {
        match input.byte() {
            0xff => text.push(char::from(input.byte())),
            byte => text.push_str(WORDS[usize::from(byte) % WORDS.len()]),
        }
    }
    report.note("kernel line", manifest::kernel(&text).is_ok());
    let lines = text
        .lines()
        .filter(|line| line.split(' ').next() == Some("process"));
    assert_eq!(manifest::processes(&text).count(), lines.count());
    for process in manifest::processes(&text) {
        report.note("process line", process.is_ok());
        let Ok(process) = process else { continue };
        assert!(!process.name.contains(' ') && text.contains(process.arguments));
        assert!(
            process.volumes().all(|volume| volume.is_ok()),
            "it was checked"
        );
    }
    for key in ["policy", "seconds", "core"] {
        let value = command_line::value(&text, key);
        assert!(
            value.is_none_or(|value| !value.contains(char::is_whitespace) || !value.is_ascii())
        );
    }
    for line in text.lines() {
        if let Some(Command::Kill(name) | Command::Start(name)) = Command::parse(line) {
            assert!(line.contains(name) && !name.is_empty());
        }
    }
    report
}
