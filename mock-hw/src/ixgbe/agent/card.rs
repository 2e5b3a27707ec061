//! What the agent does to the card: bring-up with pools, and one pool for each virtual function (82599, 4.6.10, 7.10).

use parakernel_core::mmio::Registers as _;

use super::Agent;

/// Registers.
const CTRL_EXT: usize = 0x0_0018;
const GPIE: usize = 0x0_0898;
const PFMBIMR: usize = 0x0_0720;
const PFQDE: usize = 0x0_2f04;
const RXCTRL: usize = 0x0_3000;
const HLREG0: usize = 0x0_4240;
const MAXFRS: usize = 0x0_4268;
const RTTDCS: usize = 0x0_4900;
const DMATXCTL: usize = 0x0_4a80;
const VLNCTRL: usize = 0x0_5088;
const MCSTCTRL: usize = 0x0_5090;
const PFVTCTL: usize = 0x0_51b0;
const PFVFRE: usize = 0x0_51e0;
const MTA: usize = 0x0_5200;
const MRQC: usize = 0x0_5818;
const RETA: usize = 0x0_5c00;
const RSSRK: usize = 0x0_5c80;
const PFVFTE: usize = 0x0_8110;
const MTQC: usize = 0x0_8120;
const PFVFSPOOF: usize = 0x0_8200;
const PFDTXGSWC: usize = 0x0_8220;
const VFTA: usize = 0x0_a000;
const RAL: usize = 0x0_a200;
const MPSAR: usize = 0x0_a600;
const PFVML2FLT: usize = 0x0_f000;
const PFVLVF: usize = 0x0_f100;
const PFVLVFB: usize = 0x0_f200;
const GCR_EXT: usize = 0x1_1050;

/// PFVML2FLT: untagged frames, the multicast table, broadcast, all multicast.
pub(super) const UNTAGGED: u32 = 1 << 24;
pub(super) const MULTICAST_TABLE: u32 = 1 << 25;
pub(super) const BROADCAST: u32 = 1 << 27;
pub(super) const ALL_MULTICAST: u32 = 1 << 28;

/// Queues of each virtual function: 64 pools.
pub(super) const QUEUES: u32 = 2;

/// The longest frame with its checksum, in bytes.
pub(super) const LONGEST: u32 = 9728;

/// The entry of the receive addresses that virtual function 0 has for its own; the physical one has the first.
const FIRST_OWN: usize = 1;
/// The entries that virtual functions may ask for beyond that.
const MORE: core::ops::Range<usize> = 64..128;

impl Agent {
    /// Everything that is to be set up once.
    pub(super) fn bring_up(&mut self) {
        self.config.enable();
        // What a kernel writes for its virtual functions: their number, then that they are there.
        let count = u16::try_from(self.functions.len()).unwrap_or(u16::MAX);
        self.config.write16(0x170, count);
        self.config.write16(0x168, 0x0019);
        self.write(GCR_EXT, 0x8000_0003);
        self.write(GPIE, 0x8000_c030);
        self.set_up_receive();
        // Pools of transmit queues are set with the arbiter off (8.2.3.9.15).
        self.update(RTTDCS, |control| control | 1 << 6);
        self.write(MTQC, 1 << 1 | 1 << 2);
        self.update(RTTDCS, |control| control & !(1 << 6));
        self.write(PFDTXGSWC, 1);
        self.write(DMATXCTL, self.read(DMATXCTL) | 1);
        self.write(PFMBIMR, u32::MAX);
        self.write(PFMBIMR + 4, u32::MAX);
        self.write(RXCTRL, 1);
        // PFRSTD: the virtual functions may begin.
        self.update(CTRL_EXT, |control| control | 1 << 14 | 1 << 28);
    }

    fn set_up_receive(&self) {
        // 64 pools with two queues each, chosen by a hash over addresses and ports of TCP and UDP.
        self.write(MRQC, 0x0b | 0x00f3_0000);
        for n in 0..32 {
            self.write(RETA + 4 * n, 0x0100_0100);
        }
        for n in 0..10_u32 {
            let word = (n + 1).wrapping_mul(0x9e37_79b9);
            self.write(RSSRK + 4 * n as usize, word);
        }
        // Pools, replication, and no pool for what is nobody's.
        self.write(PFVTCTL, 1 | 1 << 29 | 1 << 30);
        self.update(VLNCTRL, |control| control | 1 << 30);
        self.write(MCSTCTRL, 1 << 2);
        self.update(HLREG0, |control| control | 1 << 2);
        self.write(MAXFRS, LONGEST << 16);
        for entry in 0..128 {
            self.set_pools_of(entry, 0);
        }
    }

    /// The address that virtual function `n` has at first: the card's, made local and told apart by two bytes.
    pub(super) fn first_address(&self, n: usize) -> [u8; 6] {
        let [a, b, c, d] = self.read(RAL).to_le_bytes();
        let [e, f, ..] = self.read(RAL + 4).to_le_bytes();
        let own = u8::try_from(n + 1).unwrap_or(0);
        [a & !1 | 2, b, c, d ^ 0x80, e ^ own, f]
    }

    /// Opens the pool of virtual function `n`, with `address`.
    pub(super) fn open_pool(&self, n: usize, address: [u8; 6]) {
        self.set_filter(n, UNTAGGED | BROADCAST);
        self.set_address(FIRST_OWN + n, address, n);
        self.set_bit(PFVFSPOOF + 4 * (n / 8), n % 8, true);
        let (queues, first) = (QUEUES, u32::try_from(n).unwrap_or(0) * QUEUES);
        for queue in first..first + queues {
            // A function that takes nothing does not hold up the others.
            self.write(PFQDE, 1 << 16 | queue << 8 | 1);
        }
        self.set_bit(PFVFTE + 4 * (n / 32), n % 32, true);
        self.set_bit(PFVFRE + 4 * (n / 32), n % 32, true);
    }

    /// Closes the pool of virtual function `n`, and takes back what it was lent.
    pub(super) fn close_pool(&self, n: usize) {
        self.set_bit(PFVFRE + 4 * (n / 32), n % 32, false);
        self.set_bit(PFVFTE + 4 * (n / 32), n % 32, false);
        self.set_filter(n, 0);
        self.clear_address(FIRST_OWN + n);
        self.drop_more_addresses(n);
        for slot in 0..64 {
            self.leave_vlan(n, slot);
        }
    }

    pub(super) fn set_filter(&self, n: usize, accepts: u32) {
        self.write(PFVML2FLT + 4 * n, accepts);
    }

    pub(super) fn filter(&self, n: usize) -> u32 {
        self.read(PFVML2FLT + 4 * n)
    }

    /// Replaces the address of virtual function `n`.
    pub(super) fn set_own_address(&self, n: usize, address: [u8; 6]) {
        self.set_address(FIRST_OWN + n, address, n);
    }

    /// Gives virtual function `n` one more address; whether there was room.
    pub(super) fn add_address(&self, n: usize, address: [u8; 6]) -> bool {
        let free = MORE
            .into_iter()
            .find(|entry| self.read(RAL + 8 * entry + 4) >> 31 == 0);
        if let Some(entry) = free {
            self.set_address(entry, address, n);
        }
        free.is_some()
    }

    pub(super) fn drop_more_addresses(&self, n: usize) {
        for entry in MORE {
            if self.read(MPSAR + 8 * entry + 4 * (n / 32)) >> (n % 32) & 1 == 1 {
                self.clear_address(entry);
            }
        }
    }

    fn set_address(&self, entry: usize, address: [u8; 6], n: usize) {
        let [a, b, c, d, e, f] = address;
        self.write(RAL + 8 * entry, u32::from_le_bytes([a, b, c, d]));
        self.write(
            RAL + 8 * entry + 4,
            u32::from(u16::from_le_bytes([e, f])) | 1 << 31,
        );
        self.set_pools_of(entry, 1 << n);
    }

    fn clear_address(&self, entry: usize) {
        self.write(RAL + 8 * entry + 4, 0);
        self.write(RAL + 8 * entry, 0);
        self.set_pools_of(entry, 0);
    }

    fn set_pools_of(&self, entry: usize, pools: u64) {
        self.bar.write64(MPSAR + 8 * entry, pools);
    }

    /// Lets frames to multicast addresses with these 12 bits pass.
    pub(super) fn add_multicast(&self, bits: u16) {
        let bits = usize::from(bits & 0xfff);
        self.set_bit(MTA + 4 * (bits / 32), bits % 32, true);
    }

    /// Puts virtual function `n` into VLAN `id`; whether there was room.
    pub(super) fn join_vlan(&self, n: usize, id: u16) -> bool {
        let wanted = 1 << 31 | u32::from(id);
        let slot = (0..64)
            .find(|slot| self.read(PFVLVF + 4 * slot) == wanted)
            .or_else(|| (0..64).find(|slot| self.read(PFVLVF + 4 * slot) >> 31 == 0));
        let Some(slot) = slot else {
            return false;
        };
        self.write(PFVLVF + 4 * slot, wanted);
        self.set_bit(PFVLVFB + 8 * slot + 4 * (n / 32), n % 32, true);
        self.set_bit(VFTA + 4 * usize::from(id / 32), usize::from(id % 32), true);
        true
    }

    /// Takes virtual function `n` out of VLAN `id`.
    pub(super) fn part_vlan(&self, n: usize, id: u16) {
        let wanted = 1 << 31 | u32::from(id);
        for slot in (0..64).filter(|slot| self.read(PFVLVF + 4 * slot) == wanted) {
            self.leave_vlan(n, slot);
        }
    }

    /// The last one out of the VLAN in `slot` turns it off.
    fn leave_vlan(&self, n: usize, slot: usize) {
        let members = PFVLVFB + 8 * slot;
        if self.read(members + 4 * (n / 32)) >> (n % 32) & 1 == 0 {
            return;
        }
        self.set_bit(members + 4 * (n / 32), n % 32, false);
        if self.bar.read64(members) == 0 {
            let id = (self.read(PFVLVF + 4 * slot) & 0xfff) as usize;
            self.write(PFVLVF + 4 * slot, 0);
            self.set_bit(VFTA + 4 * (id / 32), id % 32, false);
        }
    }

    /// The redirection table, two bits an entry, as virtual functions are told.
    pub(super) fn packed_reta(&self) -> impl Iterator<Item = u32> {
        (0..8).map(|word| {
            (0..16).fold(0, |packed, entry| {
                let index = 16 * word + entry;
                let queue = self.read(RETA + index / 4 * 4) >> (8 * (index % 4)) & 3;
                packed | queue << (2 * entry)
            })
        })
    }

    pub(super) fn rss_key(&self) -> impl Iterator<Item = u32> {
        (0..10).map(|word| self.read(RSSRK + 4 * word))
    }

    fn set_bit(&self, offset: usize, bit: usize, on: bool) {
        let mask = 1_u32 << bit;
        self.update(offset, |word| if on { word | mask } else { word & !mask });
    }
}
