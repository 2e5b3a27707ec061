//! `parakernel-bench list`, `parakernel-bench run NAME BATCH ROUNDS`, `parakernel-bench figures NAME`:
//! what `cargo xtask bench` counts and times.

use parakernel_bench::phases::{PHASES, find};
use std::process::ExitCode;

const USAGE: &str =
    "usage: parakernel-bench list | run NAME BATCH ROUNDS | share NAME BATCH ROUNDS | figures NAME";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match perform(&words) {
        Ok(said) => {
            println!("{said}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

fn number(word: &str) -> Result<usize, String> {
    let number = word.parse();
    number.map_err(|_| format!("`{word}` is no number; {USAGE}"))
}

fn perform(words: &[&str]) -> Result<String, String> {
    match words {
        ["list"] => Ok(PHASES
            .iter()
            .map(|entry| entry.name)
            .collect::<Vec<_>>()
            .join("\n")),
        ["share", name, batch, rounds] => {
            let entry = find(name).ok_or_else(|| format!("there is no phase `{name}`"))?;
            // Before anything is traced that counts.
            let on_stack = core::ptr::from_ref(&entry).addr();
            println!("marks {:x} {on_stack:x}", parakernel_bench::marks());
            let [first, second] = (entry.share)(number(batch)?, number(rounds)?);
            Ok(format!("items {first} {second}"))
        }
        ["run", name, batch, rounds] => {
            let entry = find(name).ok_or_else(|| format!("there is no phase `{name}`"))?;
            let (items, spent) = (entry.run)(number(batch)?, number(rounds)?);
            Ok(format!("items {items}\nnanoseconds {}", spent.as_nanos()))
        }
        ["figures", name] => {
            let entry = find(name).ok_or_else(|| format!("there is no phase `{name}`"))?;
            let lines = (entry.figures)().into_iter();
            let lines = lines.map(|(name, value)| format!("{name} {value}"));
            Ok(lines.collect::<Vec<_>>().join("\n"))
        }
        _ => Err(USAGE.to_owned()),
    }
}
