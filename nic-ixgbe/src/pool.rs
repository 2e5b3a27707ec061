//! Pools (`VMDq`), anti-spoofing, and what a queue may send in a second.

use parakernel_core::{
    mmio::{Register, Registers},
    steering::{Mac, Vlan},
};

use crate::{
    device::{Device, Sharing},
    error::PoolError,
    regs::{
        Rttbcnrc, Rttbcnrm, Rttdqsel,
        table::{
            BitTableBlock, MpsarHigh, MpsarLow, Pfvfre, Pfvfspoof, Pfvfte, Pfvlvf, Pfvlvfb,
            Pfvml2flt, Pfvmvir, PoolBlock, PoolMaskBlock, Rah, Ral, ReceiveAddressBlock,
            SpoofBlock, Vfta,
        },
    },
};

/// How many pools there are.
pub const POOLS: u8 = 64;

/// No tag is inserted, whatever descriptors say (§8.2.3.27).
const NEVER_INSERT: u64 = 2;

/// Binary places of a rate factor (§8.2.3.10.16).
const FACTOR_PLACES: u32 = 14;

/// What a pool is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PoolNames {
    /// Frames to this address are the pool's, and only frames from it leave.
    pub mac: Mac,
    /// In this VLAN, or untagged.
    pub vlan: Option<Vlan>,
}

impl<R: Registers> Device<'_, R> {
    /// The kernel's pool: the one after those of virtual functions. It gets what no other pool does.
    #[must_use]
    pub const fn kernel_pool(&self) -> u8 {
        self.functions()
    }

    /// What tells the port how virtual functions are shared out: not at all, or 64 pools.
    pub(crate) const fn function_mode(&self) -> u64 {
        if self.functions() > 0 { 3 } else { 0 }
    }

    /// The queues of a pool: two.
    #[must_use]
    pub const fn queues_of(pool: u8) -> [u8; 2] {
        [pool.wrapping_mul(2), pool.wrapping_mul(2) | 1]
    }

    /// Opens pool `pool`, 0 to 63 and not the kernel's, for these names. What does not come from them does not leave: MAC and VLAN anti-spoofing
    /// are on.
    ///
    /// # Errors
    ///
    /// Where there are no pools, or none with this number, or the VLAN filters are all in use. [`PoolError::Mac`] where nobody
    /// may have the address, [`PoolError::Taken`] where it is the port's own or another pool's.
    pub fn open_pool(&self, pool: u8, names: PoolNames) -> Result<(), PoolError> {
        self.check_pool(pool)?;
        self.check_address(pool, names.mac)?;
        if let Some(vlan) = names.vlan {
            self.join_vlan(pool, vlan)?;
        }
        let accepts_untagged = u64::from(names.vlan.is_none());
        if let Some(base) = PoolBlock::base(pool) {
            let row = self.row::<PoolBlock>(base);
            row.write(Pfvml2flt::default().with(Pfvml2flt::AUPE, accepts_untagged));
            // Tags lie in the frame, both ways, where anti-spoofing sees them: none is inserted.
            row.write(Pfvmvir::default().with(Pfvmvir::VLANA, NEVER_INSERT));
        }
        self.set_spoof_check(pool, true);
        if let Some(base) = self.address_of(pool) {
            self.write_address(base, names.mac, pool);
        }
        self.set_pool_enabled(pool, true);
        Ok(())
    }

    /// Closes pool `pool`: nothing is led to it, nothing leaves it.
    ///
    /// # Errors
    ///
    /// As [`open_pool`](Self::open_pool).
    pub fn close_pool(&self, pool: u8) -> Result<(), PoolError> {
        self.check_pool(pool)?;
        self.set_pool_enabled(pool, false);
        if let Some(base) = self.address_of(pool) {
            self.forget_address(base);
        }
        for base in Self::further_addresses() {
            let row = self.row::<ReceiveAddressBlock>(base);
            let (low, high) = (
                row.read::<MpsarLow>().bits(),
                row.read::<MpsarHigh>().bits(),
            );
            if high << 32 | low == 1 << pool {
                self.forget_address(base);
            }
        }
        self.leave_vlans(pool);
        if let Some(base) = PoolBlock::base(pool) {
            self.row(base).write(Pfvml2flt::default());
        }
        Ok(())
    }

    /// Gives open pool `pool` another address: frames to it are the pool's too, and may leave from it. There is room for 64 of
    /// them in all; they go when the pool is closed.
    ///
    /// # Errors
    ///
    /// As [`open_pool`](Self::open_pool), and [`PoolError::NoAddress`] where all are in use.
    pub fn add_address(&self, pool: u8, mac: Mac) -> Result<(), PoolError> {
        self.check_pool(pool)?;
        self.check_address(pool, mac)?;
        let is_free = |base: &usize| {
            !self
                .row::<ReceiveAddressBlock>(*base)
                .read::<Rah>()
                .is_set(Rah::AV)
        };
        let base = Self::further_addresses().find(is_free);
        self.write_address(base.ok_or(PoolError::NoAddress)?, mac, pool);
        Ok(())
    }

    /// Holds transmit queue `queue` to `rate_mbps`, or to nothing, while the link has `link_mbps`.
    ///
    /// # Errors
    ///
    /// [`PoolError::Rate`] where the rate is 0, or so far below the link's that it cannot be said.
    pub fn set_rate(
        &self,
        queue: u8,
        rate_mbps: Option<u32>,
        link_mbps: u32,
    ) -> Result<(), PoolError> {
        let config = match rate_mbps {
            None => Rttbcnrc::default(),
            Some(rate) => {
                let factor = (u64::from(link_mbps) << FACTOR_PLACES)
                    .checked_div(rate.into())
                    .filter(|factor| (1..=Rttbcnrc::RF.max()).contains(factor));
                let factor = factor.ok_or(PoolError::Rate { rate_mbps: rate })?;
                let config = Rttbcnrc::default().with(Rttbcnrc::RF, factor);
                config.with(Rttbcnrc::RS_ENA, 1)
            }
        };
        let port = self.port();
        port.write(Rttdqsel::default().with(Rttdqsel::TXDQ_IDX, queue.into()));
        port.write(config);
        Ok(())
    }

    /// No queue is held to a rate.
    pub(crate) fn clear_rates(&self) {
        let jumbo = self.max_frame() > 1518;
        let size = if jumbo { 0x14 } else { 4 };
        let port = self.port();
        port.write(Rttbcnrm::default().with(Rttbcnrm::MMW_SIZE, size));
        for queue in 0..crate::regs::QUEUES {
            port.write(Rttdqsel::default().with(Rttdqsel::TXDQ_IDX, queue.into()));
            port.write(Rttbcnrc::default());
        }
    }

    /// The kernel's pool gets what is meant for all; the others are closed.
    pub(crate) fn clear_pools(&self) {
        for pool in 0..POOLS {
            let Some(base) = PoolBlock::base(pool) else {
                continue;
            };
            let is_kernel = u64::from(pool == self.kernel_pool());
            let row = self.row::<PoolBlock>(base);
            row.write(
                Pfvml2flt::default()
                    .with(Pfvml2flt::AUPE, is_kernel)
                    .with(Pfvml2flt::BAM, is_kernel)
                    .with(Pfvml2flt::MPE, is_kernel),
            );
            row.write(Pfvmvir::default());
        }
        for index in 0..SpoofBlock::COUNT {
            if let Some(base) = SpoofBlock::base(index) {
                self.row(base).write(Pfvfspoof::default());
            }
        }
    }

    fn check_pool(&self, pool: u8) -> Result<(), PoolError> {
        if self.sharing() != Sharing::Pools {
            return Err(PoolError::NoPools);
        }
        if pool < POOLS && pool != self.kernel_pool() {
            Ok(())
        } else {
            Err(PoolError::NoSuchPool(pool))
        }
    }

    /// Whether pool `pool` may have the address: one of a station, and nobody else's.
    pub(crate) fn check_address(&self, pool: u8, mac: Mac) -> Result<(), PoolError> {
        if mac.is_group() || mac.0 == [0; 6] {
            return Err(PoolError::Mac(mac));
        }
        let mut bases = (0..ReceiveAddressBlock::COUNT).filter_map(ReceiveAddressBlock::base);
        if mac == self.mac() || bases.any(|base| self.is_of_another(base, pool, mac)) {
            return Err(PoolError::Taken(mac));
        }
        Ok(())
    }

    /// Whether the receive address at `base` is this one, and not the pool's alone.
    fn is_of_another(&self, base: usize, pool: u8, mac: Mac) -> bool {
        let row = self.row::<ReceiveAddressBlock>(base);
        let high = row.read::<Rah>();
        let (expected_low, expected_high) = words_of(mac);
        let is_same = high.is_set(Rah::AV)
            && high.field(Rah::RAH) == u64::from(expected_high)
            && row.read::<Ral>().bits() == u64::from(expected_low);
        is_same && row.read::<MpsarHigh>().bits() << 32 | row.read::<MpsarLow>().bits() != 1 << pool
    }

    /// The receive address of a pool has its number, except that the first is the port's own: the kernel's pool has that one,
    /// and pool 0 the one of the kernel's number.
    fn address_of(&self, pool: u8) -> Option<usize> {
        ReceiveAddressBlock::base(if pool == 0 { self.kernel_pool() } else { pool })
    }

    /// Where the receive addresses lie that no pool has by its number.
    fn further_addresses() -> impl Iterator<Item = usize> {
        (POOLS..ReceiveAddressBlock::COUNT).filter_map(ReceiveAddressBlock::base)
    }

    fn forget_address(&self, base: usize) {
        let row = self.row::<ReceiveAddressBlock>(base);
        row.write(Rah::default());
        row.write(Ral::default());
        row.write(MpsarLow::default());
        row.write(MpsarHigh::default());
    }

    fn write_address(&self, base: usize, mac: Mac, pool: u8) {
        let row = self.row::<ReceiveAddressBlock>(base);
        let (low, high) = words_of(mac);
        let pools = 1_u64 << pool;
        row.write(MpsarLow::from_bits(pools & 0xFFFF_FFFF));
        row.write(MpsarHigh::from_bits(pools >> 32));
        row.write(Ral::from_bits(low.into()));
        // Valid last.
        row.write(Rah::default().with(Rah::RAH, high.into()).with(Rah::AV, 1));
    }

    fn set_pool_enabled(&self, pool: u8, enabled: bool) {
        let Some(base) = PoolMaskBlock::base(pool / 32) else {
            return;
        };
        let set = |bits: u64| set_bit(bits, pool % 32, enabled);
        let row = self.row::<PoolMaskBlock>(base);
        row.modify(|it: Pfvfre| Pfvfre::from_bits(set(it.bits())));
        row.modify(|it: Pfvfte| Pfvfte::from_bits(set(it.bits())));
    }

    fn set_spoof_check(&self, pool: u8, checked: bool) {
        let Some(base) = SpoofBlock::base(pool / 8) else {
            return;
        };
        self.row(base).modify(|spoof: Pfvfspoof| {
            let macs = set_bit(spoof.field(Pfvfspoof::MACAS), pool % 8, checked);
            let vlans = set_bit(spoof.field(Pfvfspoof::VLANAS), pool % 8, checked);
            spoof
                .with(Pfvfspoof::MACAS, macs)
                .with(Pfvfspoof::VLANAS, vlans)
        });
    }

    /// Lets the VLAN in, for this pool among others.
    fn join_vlan(&self, pool: u8, vlan: Vlan) -> Result<(), PoolError> {
        let filter = |index| PoolBlock::base(index).map(|base| self.row::<PoolBlock>(base));
        let wanted = Pfvlvf::default()
            .with(Pfvlvf::VLAN_ID, vlan.id().into())
            .with(Pfvlvf::VI_EN, 1);
        let holds = |index: &u8, wanted: Pfvlvf| {
            filter(*index).is_some_and(|row| row.read::<Pfvlvf>() == wanted)
        };
        let found = (0..POOLS).find(|index| holds(index, wanted));
        let index = found.or_else(|| (0..POOLS).find(|index| holds(index, Pfvlvf::default())));
        let index = index.ok_or(PoolError::NoVlanFilter)?;
        self.set_vlan_pool(index, pool, true);
        if let Some(row) = filter(index) {
            row.write(wanted);
        }
        self.set_vlan_table(vlan.id(), true);
        Ok(())
    }

    /// Takes the pool out of all VLANs; those without a pool are let in no more.
    fn leave_vlans(&self, pool: u8) {
        for index in 0..POOLS {
            let Some(base) = PoolBlock::base(index) else {
                continue;
            };
            let row = self.row::<PoolBlock>(base);
            let filter = row.read::<Pfvlvf>();
            if filter.is_set(Pfvlvf::VI_EN) && !self.set_vlan_pool(index, pool, false) {
                row.write(Pfvlvf::default());
                let id = u16::try_from(filter.field(Pfvlvf::VLAN_ID)).unwrap_or(0);
                self.set_vlan_table(id, false);
            }
        }
    }

    /// Puts a pool into a VLAN filter, or takes it out; whether the filter has a pool then.
    fn set_vlan_pool(&self, filter: u8, pool: u8, member: bool) -> bool {
        let half = |half: u8| PoolMaskBlock::base(2 * filter + half);
        let mut has_pool = false;
        for (number, base) in [0, 1].map(|number| (number, half(number))) {
            let Some(base) = base else { continue };
            let row = self.row::<PoolMaskBlock>(base);
            let mut bits = row.read::<Pfvlvfb>().bits();
            if pool / 32 == number {
                bits = set_bit(bits, pool % 32, member);
                row.write(Pfvlvfb::from_bits(bits));
            }
            has_pool |= bits != 0;
        }
        has_pool
    }

    pub(crate) fn set_vlan_table(&self, id: u16, member: bool) {
        let [word, bit] = [id / 32, id % 32].map(|it| u8::try_from(it).unwrap_or(u8::MAX));
        if let Some(base) = BitTableBlock::base(word) {
            self.row(base)
                .modify(|vfta: Vfta| Vfta::from_bits(set_bit(vfta.bits(), bit, member)));
        }
    }
}

/// An address as two registers hold it.
const fn words_of(mac: Mac) -> (u32, u16) {
    let [a, b, c, d, e, f] = mac.0;
    (u32::from_le_bytes([a, b, c, d]), u16::from_le_bytes([e, f]))
}

const fn set_bit(bits: u64, bit: u8, value: bool) -> u64 {
    let mask = 1 << bit;
    if value { bits | mask } else { bits & !mask }
}
