//! Times as ratios: a phase and its peer, measured alternately in one run.

use crate::process;
use anyhow::{Context, Result};
use std::{path::Path, process::Command};

/// A phase of the project's and the peer that does the same work.
const PAIRS: [(&str, &str); 1] = [("nic-virtio/split-forward", "peer/virtio-drivers-forward")];

/// The phase that does nothing: what reading the clock costs.
const NOTHING: &str = "harness/nothing";

/// Items in a round.
const BATCH: u32 = 32;
/// Rounds of a sample.
const ROUNDS: u32 = 20_000;
/// Samples of each phase; odd, so that one is the median.
const SAMPLES: usize = 9;

/// Prints the ratio of each pair of which both are there.
pub(crate) fn compare(program: &Path, names: &[&str]) -> Result<()> {
    for (own, peer) in PAIRS
        .iter()
        .filter(|(own, peer)| names.contains(own) && names.contains(peer))
    {
        let mut samples = [const { Vec::new() }; 3];
        for _ in 0..SAMPLES {
            for (name, samples) in [own, peer, &NOTHING].into_iter().zip(&mut samples) {
                samples.push(sample(program, name)?);
            }
        }
        let [own_ns, peer_ns, nothing_ns] = samples.map(median);
        let (own_ns, peer_ns) = (own_ns - nothing_ns, peer_ns - nothing_ns);
        println!(
            "{own}: {own_ns:.1} ns, {peer}: {peer_ns:.1} ns: {:.2}x (median of {SAMPLES}, batch {BATCH}, hot)",
            own_ns / peer_ns
        );
    }
    Ok(())
}

/// Nanoseconds per item of one run.
fn sample(program: &Path, name: &str) -> Result<f64> {
    let said = process::read(
        Command::new(program)
            .args(["run", name])
            .arg(BATCH.to_string())
            .arg(ROUNDS.to_string()),
    )?;
    let number = |key: &str| -> Result<f64> {
        let value = said
            .lines()
            .find_map(|line| line.strip_prefix(key))
            .with_context(|| format!("`{name}` does not say `{key}`"))?;
        Ok(value.trim().parse()?)
    };
    Ok(number("nanoseconds ")? / number("items ")?)
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_sample() {
        assert_eq!(median(vec![9.0, 1.0, 5.0]), 5.0);
    }
}
