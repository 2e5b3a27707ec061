//! Images of the SSD's namespaces: stamped by the host before a boot, verified after it.

use crate::cast::{Cast, NAMESPACES, Namespace, Volume};
use anyhow::{Context, Result};
use parakernel_apps::pattern::Stamp;
use serde::Serialize;
use std::{
    fs::File,
    io::{BufReader, BufWriter, Read as _, Write as _},
    path::{Path, PathBuf},
};

/// Owner of every block that no process has written.
const HOST: u64 = 0;

/// What the host found on the disk after a boot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Verified {
    /// Blocks with a stamp of a process's.
    pub(crate) written: u64,
    /// Of these, those with the right owner, place, generation and content.
    pub(crate) verified: u64,
    /// Blocks that are wrong, those outside every volume included.
    pub(crate) bad: u64,
    /// What is wrong with the first few.
    #[serde(skip)]
    pub(crate) failures: Vec<String>,
    /// The first few blocks outside every volume that were written.
    #[serde(skip)]
    pub(crate) trespasses: Vec<String>,
    /// Volumes that hold no block of their owner's.
    #[serde(skip)]
    pub(crate) untouched: Vec<Volume>,
}

/// Bad blocks that are described one by one.
const MOST_DESCRIBED: usize = 8;

/// Where the image of a namespace is.
pub(crate) fn image(folder: &Path, namespace: &Namespace) -> PathBuf {
    folder.join(format!("namespace-{}.img", namespace.id))
}

/// Writes the images, each block stamped by the host.
pub(crate) fn prepare(folder: &Path) -> Result<()> {
    for namespace in &NAMESPACES {
        let path = image(folder, namespace);
        let mut file = BufWriter::new(
            File::create(&path).with_context(|| format!("cannot write {}", path.display()))?,
        );
        let mut block = vec![0; usize::try_from(namespace.block_size)?];
        for lba in 0..namespace.blocks {
            untouched(namespace, lba).write(&mut block)?;
            file.write_all(&block)
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        file.flush()?;
    }
    Ok(())
}

/// Reads every block again.
pub(crate) fn verify(folder: &Path, cast: &Cast) -> Result<Verified> {
    let volumes: Vec<_> = cast
        .processes
        .iter()
        .flat_map(|process| process.volumes.iter().copied())
        .collect();
    let mut found = Verified::default();
    let mut generations = vec![Generations::default(); volumes.len()];
    for namespace in &NAMESPACES {
        let path = image(folder, namespace);
        let mut file = BufReader::new(
            File::open(&path).with_context(|| format!("cannot read {}", path.display()))?,
        );
        let mut block = vec![0; usize::try_from(namespace.block_size)?];
        for lba in 0..namespace.blocks {
            file.read_exact(&mut block)
                .with_context(|| format!("{} is too short", path.display()))?;
            let volume = volumes
                .iter()
                .position(|volume| volume.contains(namespace, lba));
            let owner = volume.map(|index| (volumes[index].owner, &mut generations[index]));
            found.take(namespace, lba, &block, owner);
        }
    }
    for (volume, generations) in volumes.iter().zip(&generations) {
        generations.judge(volume, &mut found);
    }
    Ok(found)
}

fn untouched(namespace: &Namespace, lba: u64) -> Stamp {
    Stamp {
        owner: HOST,
        namespace: namespace.id,
        lba,
        generation: 0,
    }
}

impl Volume {
    fn contains(&self, namespace: &Namespace, lba: u64) -> bool {
        self.namespace == namespace.id && (self.first..self.first + self.blocks).contains(&lba)
    }
}

/// Oldest and newest generation in a volume.
#[derive(Clone, Copy, Debug, Default)]
struct Generations(Option<(u64, u64)>);

impl Generations {
    fn see(&mut self, generation: u64) {
        let (oldest, newest) = self.0.unwrap_or((generation, generation));
        self.0 = Some((oldest.min(generation), newest.max(generation)));
    }

    /// A process writes its volume in passes, so two generations at most can be on it, and they follow each other.
    fn judge(self, volume: &Volume, found: &mut Verified) {
        match self.0 {
            None => found.untouched.push(*volume),
            Some((oldest, newest)) if newest - oldest > 1 => {
                found.bad += 1;
                found.describe(format!(
                    "volume {volume}: blocks of generations {oldest} and {newest} side by side"
                ));
            }
            Some(_) => {}
        }
    }
}

impl Verified {
    /// Judges one block; inside a volume `owner` says whose it may be.
    fn take(
        &mut self,
        namespace: &Namespace,
        lba: u64,
        block: &[u8],
        owner: Option<(u64, &mut Generations)>,
    ) {
        let stamp = Stamp::check(block);
        if owner.is_none() && stamp != Ok(untouched(namespace, lba)) {
            self.trespassed(namespace, lba);
        }
        let stamp = match stamp {
            Ok(stamp) => stamp,
            Err(error) => return self.reject(namespace, lba, &error.to_string()),
        };
        if stamp == untouched(namespace, lba) {
            return;
        }
        self.written += 1;
        let Some((owner, generations)) = owner else {
            return self.reject(
                namespace,
                lba,
                &format!("outside every volume, but changed: {stamp:?}"),
            );
        };
        let generation = stamp.generation;
        let expected = Stamp {
            owner,
            namespace: namespace.id,
            lba,
            generation,
        };
        if stamp != expected || generation == 0 {
            return self.reject(
                namespace,
                lba,
                &format!("not its owner's, or of another place: {stamp:?}"),
            );
        }
        generations.see(generation);
        self.verified += 1;
    }

    fn trespassed(&mut self, namespace: &Namespace, lba: u64) {
        if self.trespasses.len() < MOST_DESCRIBED {
            let id = namespace.id;
            self.trespasses.push(format!(
                "block {lba} of namespace {id}, which is in nobody's volume, is not what the host wrote there"
            ));
        }
    }

    fn reject(&mut self, namespace: &Namespace, lba: u64, why: &str) {
        self.bad += 1;
        self.describe(format!("namespace {}, block {lba}: {why}", namespace.id));
    }

    fn describe(&mut self, failure: String) {
        if self.failures.len() < MOST_DESCRIBED {
            self.failures.push(failure);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMESPACE: Namespace = Namespace {
        id: 1,
        block_size: 512,
        blocks: 8,
    };

    fn judged(stamp: Stamp, lba: u64, owner: Option<u64>) -> Verified {
        let mut block = [0; 512];
        stamp.write(&mut block).unwrap();
        let mut found = Verified::default();
        let mut generations = Generations::default();
        found.take(
            &NAMESPACE,
            lba,
            &block,
            owner.map(|owner| (owner, &mut generations)),
        );
        found
    }

    #[test]
    fn only_the_owner_may_write_and_only_its_volume() {
        let stamp = Stamp {
            owner: 7,
            namespace: 1,
            lba: 3,
            generation: 1,
        };
        assert_eq!(judged(stamp, 3, Some(7)).verified, 1);
        for (stamp, owner) in [
            (stamp, None),
            (stamp, Some(8)),
            (Stamp { lba: 4, ..stamp }, Some(7)),
            (
                Stamp {
                    namespace: 2,
                    ..stamp
                },
                Some(7),
            ),
            (
                Stamp {
                    generation: 0,
                    ..stamp
                },
                Some(7),
            ),
        ] {
            let found = judged(stamp, 3, owner);
            assert_eq!(
                (found.bad, found.verified, found.failures.len()),
                (1, 0, 1),
                "{stamp:?} {owner:?}"
            );
            assert_eq!(found.trespasses.len(), usize::from(owner.is_none()));
        }
    }

    #[test]
    fn what_the_host_stamped_is_no_process_s() {
        let found = judged(untouched(&NAMESPACE, 3), 3, None);
        assert_eq!(found, Verified::default());
    }

    #[test]
    fn generations_further_apart_than_a_pass_are_a_failure() {
        let volume = Volume {
            namespace: 1,
            first: 0,
            blocks: 8,
            owner: 7,
        };
        for (seen, bad) in [(&[4, 5, 4][..], 0), (&[4, 6][..], 1)] {
            let mut generations = Generations::default();
            let mut found = Verified::default();
            seen.iter()
                .for_each(|generation| generations.see(*generation));
            generations.judge(&volume, &mut found);
            assert_eq!(found.bad, bad, "{seen:?}");
        }
    }
}
