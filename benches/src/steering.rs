//! A flow rule's way into the kernel's table: whether the process may have it, and whether it contradicts another.
#![expect(
    clippy::unwrap_used,
    reason = "a bench that cannot be set up has nothing to say"
)]

use core::net::Ipv4Addr;

use parakernel_core::{
    device::DeviceId,
    handle::{LeaseId, ProcessId, RuleId, Slot},
    steering::{
        FlowRule, GrantTable, IpPrefix, Ipv4Prefix, Mac, Matches, NameGrant, OwnedGrant, PortRange,
        Protocol, RuleBucket, RuleTable,
    },
};

use crate::Phase;

const DEVICE: DeviceId = DeviceId::new(0);
const PROCESS: ProcessId = ProcessId::new(0, 0);

/// The most rules of a batch.
const MOST: u16 = 128;

/// A process's grant, and the rules that there are.
pub(crate) struct Table {
    grants: GrantTable<'static>,
    rules: RuleTable<'static>,
    /// What is inserted, one after the other.
    wanted: Vec<Matches>,
    pub(crate) inserted: Vec<RuleId>,
}

impl Table {
    /// A table with `others` rules.
    pub(crate) fn new(others: u16) -> Self {
        let grant = OwnedGrant {
            owner: PROCESS,
            device: DEVICE,
            names: NameGrant {
                mac: matches(0).mac,
                vlan: None,
                ipv4: Ipv4Prefix::new(Ipv4Addr::new(10, 0, 0, 1), 32),
                ipv6: None,
                ports: PortRange::ALL,
            },
        };
        let mut grants = GrantTable::new(vec![Slot::EMPTY].leak());
        grants.insert(grant).unwrap();
        let room = usize::from(others + MOST);
        let slots: Vec<_> = (0..room).map(|_| Slot::EMPTY).collect();
        let buckets = vec![RuleBucket::EMPTY; room];
        let mut table = Self {
            grants,
            rules: RuleTable::new(slots.leak(), buckets.leak()),
            wanted: (0..others).map(|number| matches(MOST + number)).collect(),
            inserted: Vec::new(),
        };
        for number in 0..usize::from(others) {
            table.insert(number);
        }
        table.wanted = (0..MOST).map(matches).collect();
        table.inserted = Vec::with_capacity(MOST.into());
        table
    }

    pub(crate) fn insert(&mut self, number: usize) -> (RuleId, Matches) {
        let matches = self.wanted[number];
        assert!(self.grants.covers(PROCESS, DEVICE, &matches));
        let to = LeaseId::new(0, 0);
        let rule = self.rules.insert(DEVICE, FlowRule { matches, to }, ());
        let rule = rule.unwrap();
        self.inserted.push(rule);
        (rule, matches)
    }

    pub(crate) fn prepare(&mut self, _: usize) {
        for rule in self.inserted.drain(..) {
            assert!(self.rules.remove(rule).is_some());
        }
    }
}

/// All frames to one UDP port of one address.
fn matches(port: u16) -> Matches {
    let address = Ipv4Prefix::new(Ipv4Addr::new(10, 0, 0, 1), 32).unwrap();
    let mac = Mac([0x02, 0x12, 0x34, 0x56, 0x78, 0x9A]);
    Matches {
        protocol: Some(Protocol::Udp),
        ports: PortRange::new(port, port).unwrap(),
        ..Matches::to(mac, IpPrefix::V4(address))
    }
}

/// Rules are inserted where there are `OTHERS` already.
pub(crate) struct Insert<const OTHERS: u16>(Table);

impl<const OTHERS: u16> Phase for Insert<OTHERS> {
    fn new() -> Self {
        Self(Table::new(OTHERS))
    }

    fn prepare(&mut self, batch: usize) {
        self.0.prepare(batch);
    }

    fn measured(&mut self, batch: usize) -> usize {
        for number in 0..batch {
            self.0.insert(number);
        }
        batch
    }
}
