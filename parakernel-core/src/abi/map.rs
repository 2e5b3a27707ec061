//! Where a process finds the parts of a lease, and what it has to know to use them.
//!
//! The kernel writes a [`LeaseMap`] to the lease's status page before it says that the lease works, and again when the
//! lease is armed after a reset.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::{access::AccessMode, ring::RingSize, steering::Mac};

/// Number of words that a map takes on the status page.
pub(super) const MAP_WORDS: usize = 24;

/// The layout of a queue's rings, and so the data half that the process needs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum RingFormat {
    /// Split virtqueues (virtio 1.2 §2.7).
    VirtioSplit,
    /// Packed virtqueues (virtio 1.2 §2.8).
    VirtioPacked,
    /// NVMe submission and completion queues.
    Nvme,
    /// The kernel's own [virtual queue](crate::virtual_queue).
    Virtual,
    /// Advanced descriptors of the 82599, and a word that says how far the transmit ring was read (datasheet §7.1.6, §7.2.3).
    Ixgbe,
}

const FORMATS: [RingFormat; 5] = [
    RingFormat::VirtioSplit,
    RingFormat::VirtioPacked,
    RingFormat::Nvme,
    RingFormat::Virtual,
    RingFormat::Ixgbe,
];

/// One side of a queue pair.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RingMap {
    /// How it is reached.
    pub mode: AccessMode,
    /// Its layout.
    pub format: RingFormat,
    /// Its size.
    pub entries: RingSize,
    /// Address of what the process writes: a (shadow) ring, or the available ring of a sealed queue.
    pub submissions: u64,
    /// Bytes of that.
    pub submissions_len: u64,
    /// Address of what the process reads.
    pub completions: u64,
    /// Bytes of that.
    pub completions_len: u64,
    /// Address of the doorbell register; 0 where the kernel rings it.
    pub doorbell: u64,
}

/// What a network process has to know of its device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NetworkMap {
    /// The device's own address.
    pub mac: Mac,
    /// Largest frame that the device sends, in bytes, without its checksum.
    pub max_frame: u16,
    /// Bytes of the header that the device puts before each frame.
    pub header: u16,
    /// The queue pair at the device.
    pub pair: u16,
    /// Facts of the driver's own, such as negotiated features.
    pub features: u64,
}

/// What a storage process has to know of its volume and controller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockMap {
    /// The pair's id at the controller.
    pub queue: u16,
    /// Block size, as a power of two.
    pub block_shift: u8,
    /// The namespace.
    pub namespace: u32,
    /// Blocks of the namespace.
    pub namespace_blocks: u64,
    /// First block of the volume.
    pub first: u64,
    /// Number of blocks of the volume.
    pub blocks: u64,
    /// Longest transfer in bytes.
    pub max_transfer: u64,
}

/// What kind of queue it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum QueueMap {
    /// Frames.
    Network(NetworkMap),
    /// Blocks.
    Block(BlockMap),
}

/// A lease as its process finds it in its memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LeaseMap {
    /// Address of the submission page.
    pub submission_page: u64,
    /// The receive and the transmit ring; of a storage queue pair both describe the pair.
    pub rings: [RingMap; 2],
    /// The device.
    pub queue: QueueMap,
}

impl LeaseMap {
    /// The map as the words of a status page.
    pub(super) fn to_words(self) -> [u64; MAP_WORDS] {
        let mut words = [0; MAP_WORDS];
        words[0] = self.submission_page;
        for (ring, words) in self.rings.iter().zip(words[1..13].chunks_exact_mut(6)) {
            words.copy_from_slice(&ring.to_words());
        }
        match self.queue {
            QueueMap::Network(map) => {
                let [a, b, c, d, e, f] = map.mac.0;
                words[13] = 1
                    | u64::from(map.max_frame) << 16
                    | u64::from(map.header) << 32
                    | u64::from(map.pair) << 48;
                words[14] = u64::from_le_bytes([a, b, c, d, e, f, 0, 0]);
                words[15] = map.features;
            }
            QueueMap::Block(map) => {
                words[13] = 2
                    | u64::from(map.queue) << 16
                    | u64::from(map.block_shift) << 8
                    | u64::from(map.namespace) << 32;
                words[14] = map.namespace_blocks;
                words[15] = map.first;
                words[16] = map.blocks;
                words[17] = map.max_transfer;
            }
        }
        words
    }

    /// The map that the words of a status page describe; `None` where the kernel has not written one.
    pub(super) fn from_words(words: &[u64; MAP_WORDS]) -> Option<Self> {
        let rings = words[1..13].split_at(6);
        let [kind, low, ..] = words[13].to_le_bytes();
        #[expect(clippy::cast_possible_truncation, reason = "takes the word apart")]
        let (second, third, fourth, upper) = (
            (words[13] >> 16) as u16,
            (words[13] >> 32) as u16,
            (words[13] >> 48) as u16,
            (words[13] >> 32) as u32,
        );
        let queue = match kind {
            1 => {
                let [a, b, c, d, e, f, ..] = words[14].to_le_bytes();
                QueueMap::Network(NetworkMap {
                    mac: Mac([a, b, c, d, e, f]),
                    max_frame: second,
                    header: third,
                    pair: fourth,
                    features: words[15],
                })
            }
            2 => QueueMap::Block(BlockMap {
                queue: second,
                block_shift: low,
                namespace: upper,
                namespace_blocks: words[14],
                first: words[15],
                blocks: words[16],
                max_transfer: words[17],
            }),
            _ => return None,
        };
        Some(Self {
            submission_page: words[0],
            rings: [RingMap::from_words(rings.0)?, RingMap::from_words(rings.1)?],
            queue,
        })
    }
}

impl RingMap {
    fn to_words(self) -> [u64; 6] {
        let format = FORMATS
            .iter()
            .position(|it| *it == self.format)
            .unwrap_or(0) as u64;
        [
            u64::from(self.mode as u8) | format << 8 | u64::from(self.entries.entries()) << 32,
            self.submissions,
            self.submissions_len,
            self.completions,
            self.completions_len,
            self.doorbell,
        ]
    }

    fn from_words(words: &[u64]) -> Option<Self> {
        let &[
            shape,
            submissions,
            submissions_len,
            completions,
            completions_len,
            doorbell,
        ] = words
        else {
            return None;
        };
        let [mode, format, ..] = shape.to_le_bytes();
        Some(Self {
            mode: *AccessMode::ALL.get(usize::from(mode))?,
            format: *FORMATS.get(usize::from(format))?,
            entries: RingSize::new(u32::try_from(shape >> 32).ok()?)?,
            submissions,
            submissions_len,
            completions,
            completions_len,
            doorbell,
        })
    }
}

/// The words of a map on a status page.
pub(super) fn store(place: &[AtomicU64; MAP_WORDS], map: LeaseMap) {
    for (place, word) in place.iter().zip(map.to_words()) {
        place.store(word, Relaxed);
    }
}

/// The map on a status page.
pub(super) fn load(place: &[AtomicU64; MAP_WORDS]) -> Option<LeaseMap> {
    LeaseMap::from_words(&core::array::from_fn(|index| place[index].load(Relaxed)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RING: RingMap = RingMap {
        mode: AccessMode::Checked,
        format: RingFormat::VirtioPacked,
        entries: RingSize::new(256).unwrap(),
        submissions: 0x1000,
        submissions_len: 0x2000,
        completions: 0x5000,
        completions_len: 0x800,
        doorbell: 0x9000,
    };

    #[test]
    fn every_format_comes_back_from_its_words() {
        for format in FORMATS {
            let ring = RingMap { format, ..RING };
            assert_eq!(RingMap::from_words(&ring.to_words()), Some(ring));
        }
    }

    #[test]
    fn a_map_comes_back_from_its_words() {
        let network = QueueMap::Network(NetworkMap {
            mac: Mac([2, 3, 4, 5, 6, 7]),
            max_frame: 1514,
            header: 12,
            pair: 65_535,
            features: u64::MAX,
        });
        let block = QueueMap::Block(BlockMap {
            queue: 65_535,
            block_shift: 12,
            namespace: u32::MAX - 1,
            namespace_blocks: 77,
            first: 5,
            blocks: 6,
            max_transfer: 1 << 20,
        });
        for queue in [network, block] {
            let second = RingMap {
                mode: AccessMode::Sealed,
                format: RingFormat::Nvme,
                ..RING
            };
            let map = LeaseMap {
                submission_page: 0x7000,
                rings: [RING, second],
                queue,
            };
            assert_eq!(LeaseMap::from_words(&map.to_words()), Some(map));
        }
        assert_eq!(LeaseMap::from_words(&[0; MAP_WORDS]), None);
    }
}
