//! What comes in at all, and how the kernel's own queues share it.
//!
//! Only without pools, and only for the kernel: what comes in beyond the port's own address goes to its queues, unless a
//! flow rule matches it. So nothing here may be opened further while processes have rules: see [`Device::set_reach`].

use parakernel_core::{
    mmio::{Field, Register, Registers},
    steering::{Mac, Vlan},
};

use crate::{
    device::{Device, Sharing},
    director,
    error::SteerError,
    message,
    regs::{
        Fctrl, Mcstctrl, Mrqc,
        table::{BitTableBlock, Mta, Reta, RetaBlock, Rssrk, RssrkBlock},
    },
};

/// Which frames come in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Reach {
    /// To the port's own address, to all, and to the groups in the table.
    Own,
    /// The same, and to every group.
    AllGroups,
    /// Everything, to look at the wire. No flow rule is exact then.
    Everything,
}

/// What is hashed of a frame, where it is spread: of several that fit, the one that looks at ports (§7.1.2.8.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Hashed(u8);

impl Hashed {
    /// Addresses of IPv4.
    pub const IPV4: Self = Self(1 << 0);
    /// Addresses of IPv6.
    pub const IPV6: Self = Self(1 << 1);
    /// Addresses and ports of TCP over IPv4.
    pub const TCP_IPV4: Self = Self(1 << 2);
    /// Addresses and ports of TCP over IPv6.
    pub const TCP_IPV6: Self = Self(1 << 3);
    /// Addresses and ports of UDP over IPv4. Fragments have none, so they come apart from the others.
    pub const UDP_IPV4: Self = Self(1 << 4);
    /// Addresses and ports of UDP over IPv6.
    pub const UDP_IPV6: Self = Self(1 << 5);
    /// All of them.
    pub const ALL: Self = Self(0x3F);

    const FIELDS: [(Self, Field<Mrqc>); 6] = [
        (Self::IPV4, Mrqc::RSS_IPV4),
        (Self::IPV6, Mrqc::RSS_IPV6),
        (Self::TCP_IPV4, Mrqc::RSS_TCP_IPV4),
        (Self::TCP_IPV6, Mrqc::RSS_TCP_IPV6),
        (Self::UDP_IPV4, Mrqc::RSS_UDP_IPV4),
        (Self::UDP_IPV6, Mrqc::RSS_UDP_IPV6),
    ];

    /// Both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` is hashed.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// Bytes of an RSS key.
pub const KEY_LEN: usize = 40;

/// Entries of the redirection table.
pub const TABLE_LEN: usize = 128;

/// How many queues the table can name.
pub const SPREAD_QUEUES: u8 = 16;

impl<R: Registers> Device<'_, R> {
    /// Sets which frames come in. Flow rules look at no MAC address, so there must be none in force when this is set to
    /// [`Reach::Everything`]; none is taken while it is.
    pub fn set_reach(&self, reach: Reach) {
        let groups = u64::from(reach != Reach::Own);
        let all = u64::from(reach == Reach::Everything);
        self.port()
            .modify(|fctrl: Fctrl| fctrl.with(Fctrl::MPE, groups).with(Fctrl::UPE, all));
    }

    /// Whether frames to other addresses than the port's come in.
    #[must_use]
    pub fn is_promiscuous(&self) -> bool {
        self.port().read::<Fctrl>().is_set(Fctrl::UPE)
    }

    /// Lets frames to these groups in, and to others of the same hash: twelve bits of the address (§8.2.3.7.7).
    ///
    /// # Errors
    ///
    /// [`SteerError::Unsupported`] where an address is no group's.
    pub fn set_groups(&self, groups: &[Mac]) -> Result<(), SteerError> {
        if !groups.iter().all(|mac| mac.is_group()) {
            return Err(SteerError::Unsupported);
        }
        for word in 0..BitTableBlock::COUNT {
            let bits = groups
                .iter()
                .map(|&mac| hash(mac))
                .filter(|&(in_word, _)| in_word == word)
                .fold(0, |bits, (_, bit)| bits | 1 << bit);
            if let Some(base) = BitTableBlock::base(word) {
                self.row(base).write(Mta::from_bits(bits));
            }
        }
        let is_on = u64::from(!groups.is_empty());
        self.port()
            .write(Mcstctrl::default().with(Mcstctrl::MFE, is_on));
        Ok(())
    }

    /// Has the table of groups looked at.
    pub(crate) fn filter_groups(&self) {
        self.port()
            .write(Mcstctrl::default().with(Mcstctrl::MFE, 1));
    }

    /// Lets frames of `vlan` in, or keeps them out again (§7.1.1.2). Only where the Flow Director compares VLANs: any other
    /// filter would match them as if they were untagged. With pools each has [its own](crate::pool::PoolNames).
    ///
    /// # Errors
    ///
    /// [`SteerError::Masks`] where it does not.
    pub fn set_vlan(&self, vlan: Vlan, is_let_in: bool) -> Result<(), SteerError> {
        let masks = self.director().map(|config| config.masks);
        if masks.is_none_or(|masks| masks.vlan != director::Field::Compared) {
            return Err(SteerError::Masks);
        }
        self.set_vlan_table(vlan.id(), is_let_in);
        Ok(())
    }

    /// Spreads what no filter leads anywhere over queues of one owner, by a hash of addresses and of TCP's and UDP's ports:
    /// receive-side scaling. Never over queues of several: a sender can choose what is hashed.
    ///
    /// # Errors
    ///
    /// [`SteerError::Unsupported`] with pools, [`SteerError::NoSuchQueue`] for a queue beyond [`SPREAD_QUEUES`].
    pub fn spread(&self, key: &[u8; KEY_LEN], table: &[u8; TABLE_LEN]) -> Result<(), SteerError> {
        self.spread_by(Hashed::ALL, key, table)
    }

    /// The same, by a hash of what is said. What is not hashed goes to queue 0.
    ///
    /// # Errors
    ///
    /// As [`spread`](Self::spread).
    pub fn spread_by(
        &self,
        hashed: Hashed,
        key: &[u8; KEY_LEN],
        table: &[u8; TABLE_LEN],
    ) -> Result<(), SteerError> {
        if self.sharing() != Sharing::Queues {
            return Err(SteerError::Unsupported);
        }
        if table.iter().any(|&queue| queue >= SPREAD_QUEUES) {
            return Err(SteerError::NoSuchQueue);
        }
        let (key, _) = key.as_chunks::<4>();
        for (index, bytes) in (0..).zip(key) {
            if let Some(base) = RssrkBlock::base(index) {
                let word = u32::from_le_bytes(*bytes);
                self.row(base).write(Rssrk::from_bits(word.into()));
            }
        }
        let (table, _) = table.as_chunks::<4>();
        for (index, queues) in (0..).zip(table) {
            if let Some(base) = RetaBlock::base(index) {
                let word = u32::from_le_bytes(*queues);
                self.row(base).write(Reta::from_bits(word.into()));
            }
        }
        let mrqc = Mrqc::default().with(Mrqc::MRQE, 1);
        let fields = Hashed::FIELDS.iter();
        let mrqc = fields.fold(mrqc, |mrqc, (it, field)| {
            mrqc.with(*field, hashed.contains(*it).into())
        });
        self.port().write(mrqc);
        Ok(())
    }
}

/// Word and bit of a group in the table.
fn hash(mac: Mac) -> (u8, u8) {
    let [low, high] = message::group_hash(mac).to_le_bytes();
    (low >> 5 | high << 3, low & 31)
}
