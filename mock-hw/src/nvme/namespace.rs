//! A namespace's blocks: a volatile cache over a medium, both sparse.

use alloc::collections::BTreeMap;

/// How a namespace is laid out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NamespaceConfig {
    /// Size in logical blocks.
    pub blocks: u64,
    /// Bytes of a logical block: 512 or 4,096.
    pub block_len: usize,
}

impl Default for NamespaceConfig {
    fn default() -> Self {
        Self {
            blocks: 1 << 16,
            block_len: 512,
        }
    }
}

/// `None` is a block that was deallocated, and reads as zeros.
type Block = Option<Box<[u8]>>;

#[derive(Debug)]
pub(super) struct Namespace {
    pub(super) config: NamespaceConfig,
    medium: BTreeMap<u64, Box<[u8]>>,
    /// Written, and lost when power fails before a flush.
    cache: BTreeMap<u64, Block>,
}

impl Namespace {
    pub(super) const fn new(config: NamespaceConfig) -> Self {
        Self {
            config,
            medium: BTreeMap::new(),
            cache: BTreeMap::new(),
        }
    }

    /// Whether `blocks` from `lba` on lie inside.
    pub(super) fn holds(&self, lba: u64, blocks: u64) -> bool {
        lba.checked_add(blocks)
            .is_some_and(|end| end <= self.config.blocks)
    }

    /// The bytes of `blocks` from `lba` on.
    pub(super) fn read(&self, lba: u64, blocks: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        for lba in lba..lba.saturating_add(blocks) {
            let block = match self.cache.get(&lba) {
                Some(cached) => cached.as_ref(),
                None => self.medium.get(&lba),
            };
            match block {
                Some(block) => bytes.extend_from_slice(block),
                None => bytes.resize(bytes.len() + self.config.block_len, 0),
            }
        }
        bytes
    }

    /// Writes whole blocks from `lba` on, through to the medium if `forced` (FUA).
    pub(super) fn write(&mut self, lba: u64, bytes: &[u8], forced: bool) {
        for (lba, block) in (lba..).zip(bytes.chunks_exact(self.config.block_len)) {
            self.put(lba, Some(block.into()), forced);
        }
    }

    /// Makes `blocks` from `lba` on read as zeros. Those that were never written do so already.
    pub(super) fn zero(&mut self, lba: u64, blocks: u64, forced: bool) {
        let range = lba..lba.saturating_add(blocks);
        let cached = self.cache.range(range.clone()).map(|(lba, _)| *lba);
        let written: Vec<u64> = self
            .medium
            .range(range)
            .map(|(lba, _)| *lba)
            .chain(cached)
            .collect();
        for lba in written {
            self.put(lba, None, forced);
        }
    }

    pub(super) fn flush(&mut self) {
        for (lba, block) in core::mem::take(&mut self.cache) {
            self.put(lba, block, true);
        }
    }

    /// Forgets what was not flushed.
    pub(super) fn lose_power(&mut self) {
        self.cache.clear();
    }

    /// Logical blocks in use (NUSE).
    pub(super) fn used(&self) -> u64 {
        let cached = self.cache.iter();
        let (added, removed): (Vec<_>, Vec<_>) = cached.partition(|(_, block)| block.is_some());
        let new = added
            .iter()
            .filter(|(lba, _)| !self.medium.contains_key(lba))
            .count();
        let gone = removed
            .iter()
            .filter(|(lba, _)| self.medium.contains_key(lba))
            .count();
        (self.medium.len() + new - gone) as u64
    }

    fn put(&mut self, lba: u64, block: Block, forced: bool) {
        if !forced {
            self.cache.insert(lba, block);
            return;
        }
        self.cache.remove(&lba);
        match block {
            Some(block) => self.medium.insert(lba, block),
            None => self.medium.remove(&lba),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_flushed_is_lost_with_power() {
        let mut namespace = Namespace::new(NamespaceConfig {
            blocks: 8,
            block_len: 512,
        });
        namespace.write(0, &[1; 1024], false);
        namespace.write(2, &[2; 512], true);
        namespace.flush();
        namespace.write(0, &[3; 512], false);
        namespace.zero(1, 1, false);
        assert_eq!(namespace.read(0, 1), [3; 512]);
        assert_eq!(namespace.read(1, 1), [0; 512]);
        assert_eq!(namespace.used(), 2);
        namespace.lose_power();
        assert_eq!(namespace.read(0, 2), [1; 1024]);
        assert_eq!(namespace.read(2, 1), [2; 512]);
        assert!(namespace.holds(7, 1) && !namespace.holds(7, 2) && !namespace.holds(u64::MAX, 2));
    }
}
