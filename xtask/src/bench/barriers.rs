//! Instructions that a data path must not execute: those that lock the bus, wait for all stores, or call the kernel.
//!
//! Callgrind tells which instructions were executed and how often, objdump what they are.

use crate::process;
use anyhow::{Result, ensure};
use std::{collections::BTreeMap, path::Path, process::Command};

/// Addresses of the barriers in a program.
#[derive(Debug)]
pub(crate) struct Disassembly(BTreeMap<u64, String>);

impl Disassembly {
    /// Takes a program apart.
    pub(crate) fn of(program: &Path) -> Result<Self> {
        let text = process::read(
            Command::new("objdump")
                .args(["--disassemble", "--no-show-raw-insn"])
                .arg(program),
        )?;
        let disassembly = Self::parse(&text);
        ensure!(
            !disassembly.0.is_empty(),
            "objdump shows no locked instruction and no system call in {}",
            program.display()
        );
        Ok(disassembly)
    }

    fn parse(text: &str) -> Self {
        let instructions = text.lines().filter_map(|line| {
            let (address, instruction) = line.split_once(':')?;
            let address = u64::from_str_radix(address.trim(), 16).ok()?;
            let instruction = instruction.trim();
            is_barrier(instruction).then(|| (address, instruction.to_owned()))
        });
        Self(instructions.collect())
    }

    /// How often barriers were executed according to a profile.
    pub(crate) fn barriers_in(&self, profile: &str) -> u64 {
        executed(profile)
            .filter(|(address, _)| self.0.contains_key(address))
            .map(|(_, count)| count)
            .sum()
    }
}

fn is_barrier(instruction: &str) -> bool {
    let mut words = instruction.split_whitespace();
    match words.next() {
        Some("lock" | "mfence" | "syscall" | "sysenter" | "int" | "cpuid") => true,
        // Exchanging with memory locks without saying so.
        Some("xchg") => words.next().is_some_and(|operands| operands.contains('(')),
        _ => false,
    }
}

/// Instructions that a profile counts altogether.
pub(crate) fn total(profile: &str) -> Option<u64> {
    profile
        .lines()
        .find_map(|line| {
            line.strip_prefix("summary: ")
                .or_else(|| line.strip_prefix("totals: "))
        })?
        .trim()
        .parse()
        .ok()
}

/// Executed instructions and how often, from a profile with one line for each: `0xADDRESS LINE COUNT`. The line after
/// `calls=` repeats the call with the cost of what was called, and is left out.
fn executed(profile: &str) -> impl Iterator<Item = (u64, u64)> + '_ {
    let mut after_call = false;
    profile.lines().filter_map(move |line| {
        let skip = after_call;
        after_call = line.starts_with("calls=");
        let mut words = line.strip_prefix("0x").filter(|_| !skip)?.split(' ');
        let address = u64::from_str_radix(words.next()?, 16).ok()?;
        Some((address, words.nth(1)?.parse().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROFILE: &str = "version: 1\npositions: instr line\nevents: Ir\n\nfn=f\n0x1000 7 5\n0x1004 8 5\ncalls=5 0x2000 1\n0x1004 8 50\nfn=g\n0x2000 1 10\n\ntotals: 20\n";

    #[test]
    fn executed_barriers_are_counted_and_others_are_not() {
        let text = "\n0000000000001000 <f>:\n    1000:\tlock xadd %rax,(%rdi)\n    1004:\tcall 2000 <g>\n    2000:\tmfence\n    3000:\tsyscall\n";
        assert_eq!(Disassembly::parse(text).barriers_in(PROFILE), 15);
    }

    #[test]
    fn an_exchange_with_memory_is_a_barrier() {
        assert!(
            is_barrier("xchg   %al,(%rdi)")
                && is_barrier("lock cmpxchg %rcx,(%rdx)")
                && is_barrier("mfence")
        );
        assert!(
            !is_barrier("xchg   %ax,%ax")
                && !is_barrier("sfence")
                && !is_barrier("mov    %rax,(%rdi)")
        );
    }

    #[test]
    fn the_total_is_found() {
        assert_eq!(total(PROFILE), Some(20));
        assert_eq!(total("nothing"), None);
    }
}
