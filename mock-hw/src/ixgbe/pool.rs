//! Pools: which of them a frame is for, what they may send, and the switch between them (82599, 7.10.3).

use super::{
    device::{Device, QUEUES},
    filter::Target,
    packet::Packet,
};

/// Registers.
const MRQC: usize = 0x0_5818;
const MTQC: usize = 0x0_8120;
const PSRTYPE: usize = 0x0_ea00;
const PFVTCTL: usize = 0x0_51b0;
const MPSAR: usize = 0x0_a600;
const PFVML2FLT: usize = 0x0_f000;
const PFVLVF: usize = 0x0_f100;
const PFVLVFB: usize = 0x0_f200;
const PFUTA: usize = 0x0_f400;
const PFVFRE: usize = 0x0_51e0;
const PFVFTE: usize = 0x0_8110;
const PFVMVIR: usize = 0x0_8000;
const PFVFSPOOF: usize = 0x0_8200;
const PFDTXGSWC: usize = 0x0_8220;
const PFQDE: usize = 0x0_2f04;
const SSVPC: usize = 0x0_8780;

/// PFVTCTL: there are pools; the default one is not used; frames are replicated.
const POOLS: u32 = 1;
const NO_DEFAULT: u32 = 1 << 29;
const REPLICATE: u32 = 1 << 30;

/// PFVML2FLT: untagged frames, the multicast table, the unicast table, broadcast, all multicast.
const UNTAGGED: u32 = 1 << 24;
const MULTICAST_TABLE: u32 = 1 << 25;
const UNICAST_TABLE: u32 = 1 << 26;
const BROADCAST: u32 = 1 << 27;
const ALL_MULTICAST: u32 = 1 << 28;

/// Which tag a pool's frames get.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum PoolTag {
    /// What the descriptor says.
    Descriptor,
    /// This one, whatever the descriptor says.
    Always(u16),
    /// None, whatever the descriptor says.
    Never,
}

/// Where a frame that is sent goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Leaves {
    /// To the wire.
    Out,
    /// To these pools, a bit each, and maybe to the wire too.
    Inside { pools: u64, also_out: bool },
    /// Nowhere: it bears an address or a tag that is not its pool's.
    Spoofed,
}

impl Device {
    /// Whether queues are divided among pools (8.2.3.27.1).
    pub(super) fn has_pools(&self) -> bool {
        self.regs.word(PFVTCTL) & POOLS != 0
    }

    /// Receive queues of each pool: MRQC says 32 pools of 4, or 64 of 2 (8.2.3.7.12).
    pub(super) fn queues_of_pool(&self) -> usize {
        if self.regs.word(MRQC) & 0xf == 0xa {
            4
        } else {
            2
        }
    }

    /// Those of `pools` that have queues: of 32 pools of 4 the upper half has none, and a driver that lets a frame go there
    /// breaks the rule.
    fn existing(&self, pools: u64) -> u64 {
        let count = QUEUES / self.queues_of_pool();
        let known = u64::MAX >> (64 - count);
        if pools & !known != 0 {
            let text = format_args!("a frame for pools {pools:#x}, of which there are {count}");
            self.violation("82599, 8.2.3.7.12", text);
        }
        pools & known
    }

    /// The pool of transmit queue `n` (8.2.3.9.15).
    fn pool_of(&self, n: usize) -> Option<usize> {
        let control = self.regs.word(MTQC);
        let queues = match control >> 2 & 3 {
            _ if control & 2 == 0 => return None,
            1 => 2,
            _ => 4,
        };
        Some(n / queues)
    }

    /// The pools that a frame is for; the default pool, if it is for none; none at all, if that is not used (7.10.3.3).
    pub(super) fn pools(&self, packet: &Packet) -> u64 {
        let mut pools = self.pools_by_address(packet) & self.pools_by_tag(packet);
        let control = self.regs.word(PFVTCTL);
        if pools == 0 && control & NO_DEFAULT == 0 {
            pools = 1 << (control >> 7 & 0x3f);
        }
        if control & REPLICATE == 0 && pools != 0 {
            // Without replication the first one gets it.
            pools = 1 << pools.trailing_zeros();
        }
        self.existing(pools & self.regs.wide(PFVFRE))
    }

    fn pools_by_address(&self, packet: &Packet) -> u64 {
        let mut pools = self
            .entry_of(packet.destination)
            .map_or(0, |n| self.pools_of_entry(n));
        let wanted = if packet.is_broadcast() {
            BROADCAST
        } else if packet.is_multicast() {
            let in_table = if self.is_in_table(packet) {
                MULTICAST_TABLE
            } else {
                0
            };
            ALL_MULTICAST | in_table
        } else if self.is_in_unicast_table(packet) {
            UNICAST_TABLE
        } else {
            0
        };
        for pool in 0..64 {
            let filter = self.regs.word(PFVML2FLT + 4 * pool);
            pools |= u64::from(filter & wanted != 0) << pool;
        }
        pools
    }

    fn pools_of_entry(&self, n: usize) -> u64 {
        self.regs.wide(MPSAR + 8 * n)
    }

    /// The pools that receive frames with this tag, or without one.
    fn pools_by_tag(&self, packet: &Packet) -> u64 {
        match packet.vlan() {
            Some(id) => self.pools_of_vlan(id).unwrap_or(0),
            None => (0..64).fold(0, |pools, pool| {
                let filter = self.regs.word(PFVML2FLT + 4 * pool);
                pools | u64::from(filter & UNTAGGED != 0) << pool
            }),
        }
    }

    /// The members of a VLAN; `None` for one that nobody set up.
    fn pools_of_vlan(&self, id: u16) -> Option<u64> {
        let wanted = 1 << 31 | u32::from(id);
        let n = (0..64).find(|n| self.regs.word(PFVLVF + 4 * n) & 0x8000_0fff == wanted)?;
        Some(self.regs.wide(PFVLVFB + 8 * n))
    }

    /// The unicast table is looked up as the multicast one is.
    fn is_in_unicast_table(&self, packet: &Packet) -> bool {
        let bits = self.table_bits(packet);
        self.regs.word(PFUTA + 4 * (bits >> 5)) >> (bits & 31) & 1 == 1
    }

    /// The target of an accepted frame among `pools`: in each of them the queue that its hash, or a filter, says.
    pub(super) fn spread(&self, target: Target, pools: u64, filtered: bool) -> Target {
        let queues = self.queues_of_pool();
        let has_rss = matches!(self.regs.word(MRQC) & 0xf, 0xa | 0xb) && target.hash_type != 0;
        // A filter's queue belongs to one pool: in the others its frames go by their hash, that is to the first queue.
        let (queue, masks) = if filtered {
            (target.queue, [u64::MAX; 2])
        } else if has_rss {
            (self.indirect(target.hash), self.hash_bits())
        } else {
            (0, [0; 2])
        };
        Target {
            pools,
            queues_of_pool: queues,
            queue: queue % queues,
            masks,
            ..target
        }
    }

    /// How many bits of the hash choose a queue in each pool, as masks of pools for the low bit and the next one: 0, 1 or
    /// 2, as RQPL in the pool's PSRTYPE says (8.2.3.7.4).
    fn hash_bits(&self) -> [u64; 2] {
        let bits = |least: u32| {
            (0..64).fold(0, |pools, pool| {
                let enough = self.regs.word(PSRTYPE + 4 * pool) >> 29 >= least;
                pools | u64::from(enough) << pool
            })
        };
        [bits(1), bits(2)]
    }

    /// Whether the pool of transmit queue `n` may send.
    pub(super) fn may_send(&self, n: usize) -> bool {
        let pool = self.pool_of(n);
        pool.is_none_or(|pool| self.regs.wide(PFVFTE) >> pool & 1 == 1)
    }

    /// Which tag the frames of transmit queue `n` get (8.2.3.27.13).
    pub(super) fn pool_tag(&self, n: usize) -> PoolTag {
        let Some(pool) = self.pool_of(n) else {
            return PoolTag::Descriptor;
        };
        let insert = self.regs.word(PFVMVIR + 4 * pool);
        match insert >> 30 {
            1 => PoolTag::Always(u16::try_from(insert & 0xffff).unwrap_or(0)),
            2 => PoolTag::Never,
            _ => PoolTag::Descriptor,
        }
    }

    /// Where a frame of transmit queue `n` goes.
    pub(super) fn leaves(&mut self, n: usize, frame: &[u8]) -> Leaves {
        let Some(pool) = self.pool_of(n) else {
            return Leaves::Out;
        };
        let packet = Packet::parse(frame, self.vlan_ether_type());
        if self.is_spoofed(pool, frame, &packet) {
            self.regs.count(SSVPC, 1);
            return Leaves::Spoofed;
        }
        if self.regs.word(PFDTXGSWC) & 1 == 0 || !self.has_pools() {
            return Leaves::Out;
        }
        let by_tag = match packet.vlan() {
            Some(_) => self.pools_by_tag(&packet),
            None => u64::MAX,
        };
        let others = !(1_u64 << pool) & self.regs.wide(PFVFRE);
        let pools = self.existing(self.pools_by_address(&packet) & by_tag & others);
        if pools == 0 {
            return Leaves::Out;
        }
        let also_out = packet.is_multicast();
        Leaves::Inside { pools, also_out }
    }

    /// Anti-spoofing of `pool`: its source address has to be one of its own, its tag one of its VLANs (7.10.3.9.2).
    fn is_spoofed(&self, pool: usize, frame: &[u8], packet: &Packet) -> bool {
        let checks = self.regs.word(PFVFSPOOF + 4 * (pool / 8)) >> (pool % 8);
        let source = crate::bytes::array_at(frame, 6);
        let own_address = || {
            self.entry_of(source)
                .is_some_and(|n| self.pools_of_entry(n) >> pool & 1 == 1)
        };
        let own_tag = || {
            packet.vlan().is_none_or(|id| {
                self.pools_of_vlan(id)
                    .is_some_and(|pools| pools >> pool & 1 == 1)
            })
        };
        checks & 1 != 0 && !own_address() || checks >> 8 & 1 != 0 && !own_tag()
    }

    /// PFQDE: whether a receive queue drops what finds no descriptor, written and read through a window (8.2.3.27.9).
    pub(super) fn write_pfqde(&mut self, value: u32) {
        let queue = value >> 8 & 0x7f;
        if value & 1 << 16 != 0 {
            let bit = u128::from(value & 1) << queue;
            self.queues_that_drop = self.queues_that_drop & !(1 << queue) | bit;
        }
        let shown = u32::from(self.queues_that_drop >> queue & 1 == 1);
        self.regs.set(PFQDE, queue << 8 | shown);
    }
}
