//! What virtual functions ask for, and what they are told.

use super::{
    Agent, CLEAR_TO_SEND, FAILURE, RESET, SUCCESS, WORDS,
    card::{ALL_MULTICAST, LONGEST, MULTICAST_TABLE, QUEUES},
};

/// Requests, in the low half of a message's first word.
const SET_ADDRESS: u32 = 0x02;
const SET_MULTICAST: u32 = 0x03;
const SET_VLAN: u32 = 0x04;
const SET_LONGEST: u32 = 0x05;
const ADD_ADDRESS: u32 = 0x06;
const NEGOTIATE: u32 = 0x08;
const GET_QUEUES: u32 = 0x09;
const GET_RETA: u32 = 0x0a;
const GET_RSS_KEY: u32 = 0x0b;
const SET_MODE: u32 = 0x0c;

/// Versions of the agreement by their numbers: 1.0, and 1.1 to 1.4. Number 1 is another family's.
const VERSIONS: [u32; 5] = [0, 2, 3, 4, 5];
const V1_1: u32 = 2;
const V1_2: u32 = 3;

/// Most multicast addresses of one request: two to a word.
const MOST_MULTICAST: usize = 30;

type Message = [u32; WORDS];

/// What is said beside "done"; nothing where a request is refused.
type Answer = Option<Vec<u32>>;

impl Agent {
    /// What to say to `message` of virtual function `n`; nothing to what is itself an answer.
    pub(super) fn answer(&mut self, n: usize, message: Message) -> Option<Vec<u32>> {
        let [first, ..] = message;
        if first & (SUCCESS | FAILURE) != 0 {
            return None;
        }
        if first & 0xffff == RESET {
            return Some(self.reset(n));
        }
        let Some(version) = self.functions[n].version else {
            return Some(vec![first | FAILURE]);
        };
        let (result, more) = match self.grant(n, version, &message) {
            Some(more) => (SUCCESS, more),
            None => (FAILURE, Vec::new()),
        };
        let first = first | result | CLEAR_TO_SEND;
        Some(core::iter::once(first).chain(more).collect())
    }

    /// The function was reset and begins: its address, and how multicast addresses are looked up (the high 12 bits).
    fn reset(&mut self, n: usize) -> Vec<u32> {
        self.forget(n);
        let address = self.first_address(n);
        self.functions[n].address = address;
        self.functions[n].version = Some(0);
        self.open_pool(n, address);
        let [a, b, c, d, e, f] = address;
        let (low, high) = (u32::from_le_bytes([a, b, c, d]), u16::from_le_bytes([e, f]));
        vec![RESET | SUCCESS, low, high.into(), 0]
    }

    fn grant(&mut self, n: usize, version: u32, message: &Message) -> Answer {
        let [first, argument, ..] = *message;
        let info = first >> 16 & 0xff;
        match first & 0xffff {
            SET_ADDRESS => self.set_address_of(n, address(message)),
            SET_MULTICAST => self.set_multicast(n, info, message),
            SET_VLAN => self.set_vlan(n, info, argument),
            // All functions may send and receive the longest frames: the card's limit was set at first.
            SET_LONGEST => (argument <= LONGEST).then(Vec::new),
            ADD_ADDRESS => self.add_address_of(n, info, address(message)),
            NEGOTIATE => self.negotiate(n, argument),
            GET_QUEUES if version >= V1_1 => Some(vec![QUEUES, QUEUES, 0, 0]),
            GET_RETA if version >= V1_2 => Some(self.packed_reta().collect()),
            GET_RSS_KEY if version >= V1_2 => Some(self.rss_key().collect()),
            SET_MODE if version >= V1_2 => self.set_mode(n, argument),
            _ => None,
        }
    }

    fn negotiate(&mut self, n: usize, version: u32) -> Answer {
        let known = VERSIONS.contains(&version);
        if known {
            self.functions[n].version = Some(version);
        }
        known.then(Vec::new)
    }

    fn set_address_of(&mut self, n: usize, address: [u8; 6]) -> Answer {
        if !is_one_station(address) || self.is_anothers(n, address) {
            return None;
        }
        self.functions[n].address = address;
        self.set_own_address(n, address);
        Some(Vec::new())
    }

    /// Adds an address; a number of 0 drops all, 1 drops all before.
    fn add_address_of(&mut self, n: usize, number: u32, address: [u8; 6]) -> Answer {
        if number <= 1 {
            self.drop_more_addresses(n);
        }
        if number == 0 {
            return Some(Vec::new());
        }
        let may = is_one_station(address) && !self.is_anothers(n, address);
        (may && self.add_address(n, address)).then(Vec::new)
    }

    fn is_anothers(&self, n: usize, address: [u8; 6]) -> bool {
        let mut others = self.functions.iter().enumerate();
        others.any(|(other, function)| other != n && function.address == address)
    }

    /// Adds to the table, which all functions share: bits of it stay when others go.
    fn set_multicast(&self, n: usize, count: u32, message: &Message) -> Answer {
        let count = usize::try_from(count).ok()?;
        if count > MOST_MULTICAST {
            return None;
        }
        let halves = message[1..]
            .iter()
            .flat_map(|word| [word & 0xffff, word >> 16]);
        for bits in halves.take(count) {
            self.add_multicast(u16::try_from(bits).unwrap_or(0));
        }
        self.set_filter(n, self.filter(n) | MULTICAST_TABLE);
        Some(Vec::new())
    }

    fn set_vlan(&self, n: usize, add: u32, id: u32) -> Answer {
        let id = u16::try_from(id & 0xfff).ok()?;
        if add == 0 {
            self.part_vlan(n, id);
            return Some(Vec::new());
        }
        self.join_vlan(n, id).then(Vec::new)
    }

    /// 0: no multicast, 1: by the table, 2: all of it. 3, everything, is not for virtual functions of this card.
    fn set_mode(&self, n: usize, mode: u32) -> Answer {
        let others = self.filter(n) & !(MULTICAST_TABLE | ALL_MULTICAST);
        let more = match mode {
            0 => 0,
            1 => MULTICAST_TABLE,
            2 => MULTICAST_TABLE | ALL_MULTICAST,
            _ => return None,
        };
        self.set_filter(n, others | more);
        Some(vec![mode])
    }
}

/// The address in the two words after the first.
const fn address(message: &Message) -> [u8; 6] {
    let [a, b, c, d] = message[1].to_le_bytes();
    let [e, f, ..] = message[2].to_le_bytes();
    [a, b, c, d, e, f]
}

/// Whether it is neither a group's nor nobody's.
fn is_one_station(address: [u8; 6]) -> bool {
    address[0] & 1 == 0 && address != [0; 6]
}
