//! Which frames are received, and into which queue (virtio 1.3, 5.1.6.5).

use alloc::collections::{BTreeMap, BTreeSet};

use super::{Config, features::Features};
use crate::{
    bytes::{array_at, u16_at, u32_at},
    frame::{Headers, toeplitz},
};

/// What the device does with frames as they arrive.
#[derive(Clone, Debug)]
pub(super) struct Steering {
    features: Features,
    max_pairs: u16,
    /// Queue pairs in use.
    pub(super) pairs: u16,
    pub(super) mac: [u8; 6],
    /// The six receive modes of class 0, by command.
    pub(super) modes: [bool; 6],
    unicast: Vec<[u8; 6]>,
    multicast: Vec<[u8; 6]>,
    vlans: BTreeSet<u16>,
    hash: Hash,
    table: Option<Table>,
    /// Where frames of a flow go that was sent on a pair: learned, without RSS.
    learned: BTreeMap<Vec<u8>, u16>,
}

/// The hash configuration.
#[derive(Clone, Debug, Default)]
struct Hash {
    types: u32,
    key: Vec<u8>,
}

/// The indirection table of RSS.
#[derive(Clone, Debug)]
struct Table {
    entries: Vec<u16>,
    unclassified: u16,
}

/// Why a command is not carried out; the text is for the trace.
pub(super) type Refused = &'static str;

impl Steering {
    pub(super) const TABLE_LIMIT: u16 = 128;
    /// IP, TCP and UDP, over IPv4 and over IPv6.
    pub(super) const HASH_TYPES: u32 = 0x3f;

    pub(super) fn new(config: &Config) -> Self {
        Self {
            features: Features::empty(),
            max_pairs: config.queue_pairs,
            pairs: 1,
            mac: config.mac,
            // Everything is received until the driver says otherwise.
            modes: [true, false, false, false, false, false],
            unicast: Vec::new(),
            multicast: Vec::new(),
            vlans: BTreeSet::new(),
            hash: Hash::default(),
            table: None,
            learned: BTreeMap::new(),
        }
    }

    /// Takes the features that were agreed upon.
    pub(super) const fn begin(&mut self, features: Features) {
        self.features = features;
    }

    /// Whether the device receives the frame at all.
    pub(super) fn receives(&self, frame: &[u8], headers: &Headers) -> bool {
        let [
            promiscuous,
            all_multicast,
            all_unicast,
            no_multicast,
            no_unicast,
            no_broadcast,
        ] = self.modes;
        if let Some(vlan) = headers.vlan
            && self.features.contains(Features::CTRL_VLAN)
            && !self.vlans.contains(&vlan)
        {
            return false;
        }
        if promiscuous {
            return true;
        }
        let to: [u8; 6] = array_at(frame, 0);
        if to == [0xff; 6] {
            return !no_broadcast;
        }
        if to[0] & 1 == 1 {
            return !no_multicast && (all_multicast || self.multicast.contains(&to));
        }
        !no_unicast && (all_unicast || to == self.mac || self.unicast.contains(&to))
    }

    /// The receive queue for a frame, its hash, and the report of what was hashed.
    pub(super) fn queue(&self, headers: &Headers) -> (u16, u32, u16) {
        let (hash, report) = self.hash_of(headers);
        if let Some(table) = &self.table {
            let index = usize::try_from(hash).unwrap_or(0) & (table.entries.len() - 1);
            let queue = if report == 0 {
                table.unclassified
            } else {
                table.entries[index]
            };
            return (queue, hash, report);
        }
        let learned = self.learned.get(&flow(headers)).copied();
        (
            learned.filter(|pair| *pair < self.pairs).unwrap_or(0),
            hash,
            report,
        )
    }

    /// The queue pairs that RSS leads to.
    pub(super) fn targets(&self) -> impl Iterator<Item = u16> {
        let table = self.table.iter();
        table.flat_map(|table| table.entries.iter().chain([&table.unclassified]).copied())
    }

    /// A frame was sent on `pair`: answers come there (5.1.6.5.5), unless RSS decides.
    pub(super) fn learn(&mut self, headers: &Headers, pair: u16) {
        if self.pairs > 1 && self.table.is_none() && headers.protocol.is_some() {
            let half = headers.addresses.len() / 2;
            let mut answer = headers.clone();
            answer.addresses.rotate_left(half);
            answer.ports.rotate_left(2);
            self.learned.insert(flow(&answer), pair);
        }
    }

    /// The hash by the first of the enabled types that fits: transport before network.
    fn hash_of(&self, headers: &Headers) -> (u32, u16) {
        let enabled = |bit: u32| self.hash.types >> bit & 1 == 1;
        let first: u32 = match headers.addresses.len() {
            8 => 0,
            32 => 3,
            _ => return (0, 0),
        };
        let transport = match headers.protocol {
            Some(6) => Some(first + 1),
            Some(_) => Some(first + 2),
            None => None,
        };
        let mut input = headers.addresses.clone();
        let bit = match transport.filter(|bit| enabled(*bit)) {
            Some(bit) => {
                input.extend(headers.ports);
                bit
            }
            None if enabled(first) => first,
            None => return (0, 0),
        };
        // Reports are numbered like the types, from 1.
        (
            toeplitz(&self.hash.key, &input),
            u16::try_from(bit + 1).unwrap_or(0),
        )
    }
}

/// Commands of the control queue.
impl Steering {
    /// Carries out command `command` of `class` with `data`.
    pub(super) fn control(&mut self, class: u8, command: u8, data: &[u8]) -> Result<(), Refused> {
        match (class, command) {
            (0, 0..=5) => self.set_mode(command, data),
            (1, 0) => self.set_addresses(data),
            (1, 1) => self.set_mac(data),
            (2, 0 | 1) => self.set_vlan(command, data),
            (4, 0) => self.set_pairs(data),
            (4, 1) => self.set_rss(data),
            (4, 2) => self.set_hash(data),
            _ => Err("an unknown command"),
        }
    }

    fn need(&self, feature: Features, what: Refused) -> Result<(), Refused> {
        if self.features.contains(feature) {
            Ok(())
        } else {
            Err(what)
        }
    }

    fn set_mode(&mut self, command: u8, data: &[u8]) -> Result<(), Refused> {
        let feature = if command < 2 {
            Features::CTRL_RX
        } else {
            Features::CTRL_RX_EXTRA
        };
        self.need(feature, "a receive mode without its feature")?;
        let [value] = data else {
            return Err("a receive mode that is not one byte");
        };
        self.modes[usize::from(command)] = *value != 0;
        Ok(())
    }

    fn set_addresses(&mut self, data: &[u8]) -> Result<(), Refused> {
        self.need(Features::CTRL_RX, "a MAC table without CTRL_RX")?;
        let (unicast, rest) = addresses(data)?;
        let (multicast, rest) = addresses(rest)?;
        if !rest.is_empty() {
            return Err("bytes after a MAC table");
        }
        (self.unicast, self.multicast) = (unicast, multicast);
        Ok(())
    }

    fn set_mac(&mut self, data: &[u8]) -> Result<(), Refused> {
        self.need(
            Features::CTRL_MAC_ADDR,
            "a MAC address without CTRL_MAC_ADDR",
        )?;
        self.mac = data
            .try_into()
            .map_err(|_| "a MAC address that is not six bytes")?;
        Ok(())
    }

    fn set_vlan(&mut self, command: u8, data: &[u8]) -> Result<(), Refused> {
        self.need(Features::CTRL_VLAN, "a VLAN without CTRL_VLAN")?;
        let id = u16_at(data, 0);
        if data.len() != 2 || id > 4095 {
            return Err("a VLAN id that is not one");
        }
        if command == 0 {
            self.vlans.insert(id);
        } else {
            self.vlans.remove(&id);
        }
        Ok(())
    }

    fn set_pairs(&mut self, data: &[u8]) -> Result<(), Refused> {
        self.need(Features::MQ, "queue pairs without MQ")?;
        let pairs = u16_at(data, 0);
        if data.len() != 2 || pairs == 0 || pairs > self.max_pairs {
            return Err("a number of queue pairs out of range");
        }
        self.pairs = pairs;
        self.table = None;
        Ok(())
    }

    /// `virtio_net_rss_config`: types, mask, unclassified, table, largest transmit queue, key (5.1.6.5.7).
    fn set_rss(&mut self, data: &[u8]) -> Result<(), Refused> {
        self.need(Features::RSS, "RSS without its feature")?;
        let types = u32_at(data, 0);
        let len = usize::from(u16_at(data, 4)) + 1;
        let unclassified = u16_at(data, 6);
        if !len.is_power_of_two() || len > usize::from(Self::TABLE_LIMIT) {
            return Err("an indirection table of a wrong length");
        }
        let entries: Vec<u16> = (0..len).map(|n| u16_at(data, 8 + 2 * n)).collect();
        let transmit = u16_at(data, 8 + 2 * len);
        let key_len = usize::from(
            data.get(10 + 2 * len)
                .copied()
                .ok_or("an RSS configuration cut short")?,
        );
        let key = data.get(11 + 2 * len..).unwrap_or_default();
        if key.len() != key_len || key_len > 40 {
            return Err("a key of a wrong length");
        }
        if entries
            .iter()
            .chain([&unclassified])
            .any(|queue| *queue >= self.max_pairs)
        {
            return Err("a receive queue that is not there");
        }
        if transmit == 0 || transmit > self.max_pairs {
            return Err("a number of transmit queues out of range");
        }
        self.set_types(types, key)?;
        self.pairs = transmit;
        self.table = Some(Table {
            entries,
            unclassified,
        });
        Ok(())
    }

    /// `virtio_net_hash_config`: types, four reserved half words, key (5.1.6.5.6.4).
    fn set_hash(&mut self, data: &[u8]) -> Result<(), Refused> {
        self.need(
            Features::HASH_REPORT,
            "a hash configuration without HASH_REPORT",
        )?;
        let key_len = usize::from(
            data.get(12)
                .copied()
                .ok_or("a hash configuration cut short")?,
        );
        let key = data.get(13..).unwrap_or_default();
        if key.len() != key_len || key_len > 40 {
            return Err("a key of a wrong length");
        }
        self.set_types(u32_at(data, 0), key)
    }

    fn set_types(&mut self, types: u32, key: &[u8]) -> Result<(), Refused> {
        if types & !Self::HASH_TYPES != 0 {
            return Err("a hash type that is not supported");
        }
        if types != 0 && key.len() < 40 {
            return Err("a key too short for the hash");
        }
        self.hash = Hash {
            types,
            key: key.to_vec(),
        };
        Ok(())
    }
}

/// A counted list of addresses, and what follows it.
fn addresses(data: &[u8]) -> Result<(Vec<[u8; 6]>, &[u8]), Refused> {
    let count = usize::try_from(u32_at(data, 0)).unwrap_or(usize::MAX);
    let list = data.get(4..).ok_or("a MAC table cut short")?;
    let len = count
        .checked_mul(6)
        .filter(|len| *len <= list.len())
        .ok_or("a MAC table cut short")?;
    let (list, rest) = list.split_at(len);
    Ok((
        list.chunks_exact(6).map(|mac| array_at(mac, 0)).collect(),
        rest,
    ))
}

fn flow(headers: &Headers) -> Vec<u8> {
    let mut flow = headers.addresses.clone();
    flow.extend(headers.protocol);
    flow.extend(headers.ports);
    flow
}
