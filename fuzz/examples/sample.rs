//! Runs a fuzz target on seeded random inputs: `sample TARGET [INPUTS [SEED]]`, or `sample list`.
//!
//! Ends with status 1 where a validator accepted less than 30 % of what it was given of some shape. A finding is a
//! panic; it prints the seed of its input, with which `sample TARGET 1 SEED` repeats it.

use std::{env, panic, process::ExitCode, time::Instant};

use parakernel_fuzz::{Tally, Target, target, targets};

/// Inputs where none are asked for; with fewer, shapes are not judged.
const DEFAULT_INPUTS: u64 = 100_000;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let name = arguments.first().map_or("list", String::as_str);
    if name == "list" {
        for target in targets::ALL {
            println!("{}", target.name);
        }
        return ExitCode::SUCCESS;
    }
    let number = |index: usize, default| match arguments.get(index) {
        Some(text) => text
            .parse::<u64>()
            .map_err(|_| format!("'{text}' is no number")),
        None => Ok(default),
    };
    let outcome = target(name)
        .ok_or_else(|| format!("there is no target '{name}'; 'sample list' names them"))
        .and_then(|target| run(target, number(1, DEFAULT_INPUTS)?, number(2, 1)?));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("sample: {message}");
            ExitCode::FAILURE
        }
    }
}

/// Runs `target` on `inputs` inputs, the first made from `seed`, the others from the numbers after it.
fn run(target: &Target, inputs: u64, seed: u64) -> Result<(), String> {
    let mut tally = Tally::default();
    let mut bytes = vec![0; target.max_len];
    let start = Instant::now();
    for seed in seed..seed.saturating_add(inputs) {
        let input = fill(&mut bytes, seed);
        let report = panic::catch_unwind(|| (target.run)(input))
            .map_err(|_| format!("a finding: sample {} 1 {seed}", target.name))?;
        tally.add(&report);
    }
    let seconds = start.elapsed().as_secs();
    println!(
        "{}: {inputs} inputs from seed {seed} in {seconds} s, no finding",
        target.name
    );
    let mut poor = Vec::new();
    for (shape, count) in tally.shapes() {
        println!("  {shape}: accepted {count}");
        if target.is_validator && !count.is_enough() {
            poor.push(shape);
        }
    }
    if inputs >= DEFAULT_INPUTS && !poor.is_empty() {
        return Err(format!("less than 30 % accepted of: {}", poor.join(", ")));
    }
    Ok(())
}

/// Fills a random part of `bytes` from `seed`, here and there with small numbers only.
fn fill(bytes: &mut [u8], seed: u64) -> &[u8] {
    let mut state = seed;
    let mut next = || {
        // SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    };
    let len = usize::try_from(next() % (bytes.len() as u64 + 1)).unwrap_or(bytes.len());
    for chunk in bytes[..len].chunks_mut(8) {
        let word = next();
        let is_small = next() & 7 == 0;
        let mask = if is_small {
            0x0303_0303_0303_0303
        } else {
            u64::MAX
        };
        chunk.copy_from_slice(&(word & mask).to_le_bytes()[..chunk.len()]);
    }
    &bytes[..len]
}
