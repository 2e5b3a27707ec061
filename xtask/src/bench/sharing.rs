//! What partitions share: no line that one of them writes may be read or written by the other.
//!
//! Valgrind's lackey tells every load and store of a program in which two partitions work by turns; a store to one of three
//! marked bytes tells whose they are.

use anyhow::{Context, Result, ensure};
use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Command, Stdio},
};

/// Data paths that are traced.
const PATHS: [&str; 7] = [
    "nic-ixgbe/forward",
    "nic-ixgbe/fixed",
    "nic-ixgbe/validate-rx",
    "nic-ixgbe/validate-tx",
    "nic-virtio/split-forward",
    "nvme/read-4k",
    "nvme/checked-4k",
];

/// Two partitions with one counter: if that is not found, nothing is.
const CONTROL: &str = "harness/shared-counter";

/// Items of a round, and rounds of each partition.
const BATCH: &str = "32";
const ROUNDS: &str = "4";

/// Bytes of a cache line.
const LINE: u64 = 64;

/// Bytes of the stack, below where the program says that it is, that both partitions run on: it is left out.
const STACK: u64 = 0x1_0000;

/// Cache lines that a partition touched.
#[derive(Debug, Default)]
struct Touched {
    read: BTreeSet<u64>,
    written: BTreeSet<u64>,
}

impl Touched {
    /// Lines that one writes and the other touches.
    fn shared(&self, other: &Self) -> BTreeSet<u64> {
        let touches =
            |one: &Self, line: &u64| one.read.contains(line) || one.written.contains(line);
        let own = self.written.iter().filter(|line| touches(other, line));
        let others = other.written.iter().filter(|line| touches(self, line));
        own.chain(others).copied().collect()
    }
}

/// Traces the data paths among `names`, and says what is shared.
pub(crate) fn check(program: &Path, names: &[&str]) -> Result<()> {
    let paths: Vec<_> = PATHS.iter().filter(|path| names.contains(path)).collect();
    if paths.is_empty() {
        return Ok(());
    }
    let caught = trace(program, CONTROL)?;
    ensure!(
        !caught.is_empty(),
        "a counter that two partitions share is not found, so nothing that they share is"
    );
    for path in paths {
        let shared = trace(program, path)?;
        ensure!(
            shared.is_empty(),
            "two partitions of `{path}` share the lines {shared:x?}"
        );
        println!("{path}: no line that one of two partitions writes is touched by the other");
    }
    Ok(())
}

fn trace(program: &Path, name: &str) -> Result<BTreeSet<u64>> {
    let mut command = Command::new("valgrind");
    command
        .args(["--tool=lackey", "--trace-mem=yes", "--log-fd=2"])
        .arg(program)
        .args(["share", name, BATCH, ROUNDS])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().context("valgrind does not start")?;
    let mut said = BufReader::new(child.stdout.take().context("no output")?);
    let trace = BufReader::new(child.stderr.take().context("no trace")?);
    let mut first = String::new();
    // The program says where its marks are before it does anything else; the trace up to there fits the pipe or waits.
    let reader = std::thread::spawn(move || -> Result<(u64, u64, String)> {
        said.read_line(&mut first)?;
        let places = first.trim().strip_prefix("marks ").context("no marks")?;
        let (marks, stack) = places.split_once(' ').context("no stack")?;
        let [marks, stack] = [marks, stack].map(|place| u64::from_str_radix(place, 16));
        let mut rest = String::new();
        said.read_to_string(&mut rest)?;
        Ok((marks?, stack?, rest))
    });
    let mut accesses = collect(trace)?;
    let (marks, stack, said) = reader.join().ok().context("the output is lost")??;
    ensure!(child.wait()?.success(), "`{name}` fails under valgrind");
    accesses.retain(|access| !(stack - STACK..stack + STACK).contains(&access.address));
    let [first, second] = attribute(&accesses, marks);
    ensure!(
        said.contains("items 128 128") && !first.written.is_empty() && !second.written.is_empty(),
        "`{name}` does not do its work: {said}"
    );
    Ok(first.shared(&second))
}

/// A load or a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Access {
    address: u64,
    len: u64,
    is_write: bool,
}

/// All loads and stores of a trace.
fn collect(trace: impl BufRead) -> Result<Vec<Access>> {
    let mut accesses = Vec::new();
    for line in trace.split(b'\n') {
        let line = line?;
        accesses.extend(core::str::from_utf8(&line).ok().and_then(parse));
    }
    Ok(accesses)
}

/// ` L ADDRESS,LEN`, ` S …` or ` M …`, which is both.
fn parse(line: &str) -> Option<Access> {
    let (kind, place) = line.strip_prefix(' ')?.split_once(' ')?;
    let is_write = match kind {
        "L" => false,
        "S" | "M" => true,
        _ => return None,
    };
    let (address, len) = place.trim().split_once(',')?;
    Some(Access {
        address: u64::from_str_radix(address, 16).ok()?,
        len: len.parse().ok()?,
        is_write,
    })
}

/// What each partition touched.
fn attribute(accesses: &[Access], marks: u64) -> [Touched; 2] {
    let mut touched = [Touched::default(), Touched::default()];
    let mut whose = 2;
    for access in accesses {
        if access.is_write && (marks..marks + 3).contains(&access.address) {
            whose = usize::try_from(access.address - marks).unwrap_or(2);
        } else if let Some(touched) = touched.get_mut(whose) {
            let last = access.address + access.len.max(1) - 1;
            for line in access.address / LINE..=last / LINE {
                touched.read.insert(line);
                if access.is_write {
                    touched.written.insert(line);
                }
            }
        }
    }
    touched
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Partition 0 writes line 16, which partition 1 reads; both read line 32; what nobody's mark precedes is nobody's.
    const TRACE: &str = "I  04001000,3\n S 00400,8\n S 1000,1\n S 0043c,8\n L 00800,4\n S 1002,1\n S 00440,1\n S 1001,1\n L 00800,4\n L 00438,4\n S 1002,1\n";

    #[test]
    fn a_line_that_one_writes_and_the_other_reads_is_shared() {
        let accesses = collect(TRACE.as_bytes()).unwrap();
        let [first, second] = attribute(&accesses, 0x1000);
        assert_eq!(first.written, BTreeSet::from([16, 17]));
        assert!(second.written.is_empty());
        assert_eq!(first.shared(&second), BTreeSet::from([16]));
        assert_eq!(second.shared(&first), BTreeSet::from([16]));
        let read_only = TRACE.replace(" L 00438,4", " L 00480,4");
        let accesses = collect(read_only.as_bytes()).unwrap();
        let [first, second] = attribute(&accesses, 0x1000);
        assert!(first.shared(&second).is_empty());
    }
}
