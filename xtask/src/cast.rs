//! Who plays in a boot: processes, their cores, addresses, keys and volumes, and the manifest that tells the kernel.

use crate::console::{STOPPED, State};
use anyhow::{Result, bail};
use core::{
    fmt::{self, Write as _},
    net::Ipv4Addr,
};

/// Address of the host on the wire.
pub(crate) const HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// Length of the network's prefix.
pub(crate) const PREFIX: u8 = 24;
/// Address of the network card.
pub(crate) const MAC: &str = "52:54:00:70:6b:01";
/// TCP port of the key-value store.
pub(crate) const STORE_PORT: u16 = 11211;

/// Program of the block processes.
pub(crate) const BLOCKBENCH: &str = "blockbench";
/// Program of the process that is expected to misbehave, and its name.
pub(crate) const ROGUE: &str = "rogue";

/// Name of the process that waits for somebody else to move what it published.
pub(crate) const BAIT: &str = "bait";

/// A namespace of the SSD.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Namespace {
    /// Its number, from 1.
    pub(crate) id: u32,
    /// Bytes of a block.
    pub(crate) block_size: u32,
    /// Blocks that it has.
    pub(crate) blocks: u64,
}

/// The SSD: namespaces with both block sizes, and one that is nobody's and has to stay as it was.
pub(crate) const NAMESPACES: [Namespace; 3] = [
    Namespace {
        id: 1,
        block_size: 512,
        blocks: 32_768,
    },
    Namespace {
        id: 2,
        block_size: 4096,
        blocks: 4096,
    },
    Namespace {
        id: 3,
        block_size: 512,
        blocks: 32_768,
    },
];

/// A part of a namespace, granted to an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Volume {
    pub(crate) namespace: u32,
    pub(crate) first: u64,
    pub(crate) blocks: u64,
    pub(crate) owner: u64,
}

impl fmt::Display for Volume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}:{}+{}:{:#x}",
            self.namespace, self.first, self.blocks, self.owner
        )
    }
}

/// What a process does on the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Network {
    pub(crate) address: Ipv4Addr,
    /// Key of the nonce service.
    pub(crate) key: u64,
    /// Queue pairs of the card.
    pub(crate) queues: u16,
}

/// A process of the boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) name: &'static str,
    /// Name of its program in the initrd.
    pub(crate) program: &'static str,
    pub(crate) core: u16,
    pub(crate) network: Option<Network>,
    pub(crate) block_queues: u16,
    pub(crate) volumes: Vec<Volume>,
    /// How often it is started again after its end.
    pub(crate) restarts: u32,
    /// Whether it waits for the host's word.
    pub(crate) starts_later: bool,
    /// Which process it attacks.
    pub(crate) attacks: Option<&'static str>,
    /// What it is told beside, by itself.
    pub(crate) arguments: Option<String>,
}

/// What the kernel is told about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Policy words, separated by commas.
    pub(crate) policy: String,
    /// Time after which the kernel ends by itself.
    pub(crate) seconds: u64,
    /// Further words of its line.
    pub(crate) more: Vec<String>,
}

/// The parts of a boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cast {
    pub(crate) settings: Settings,
    pub(crate) processes: Vec<Process>,
}

impl Cast {
    /// Two network processes, two block processes, and one that tries to break out.
    pub(crate) fn of_the_demo(settings: Settings) -> Self {
        let echo = Process::new("echo0", "echo", 1).on_network(2, 0x6563_686f_0000_0001);
        let store = Process::new("kv0", "kv", 2).on_network(3, 0x6b76_0000_0000_0002);
        let mut rogue = Process::new(ROGUE, ROGUE, 3)
            .on_network(4, 0x726f_6775_6500_0003)
            .with_volumes(1, &[(1, 16_384, 1024)], 0x66);
        rogue.restarts = 64;
        rogue.starts_later = true;
        rogue.attacks = Some(echo.name);
        let one = Process::new("blk0", BLOCKBENCH, 4).with_volumes(1, &[(1, 1024, 2048)], 0x50);
        let many = Process::new("blk1", BLOCKBENCH, 5).with_volumes(
            4,
            &[(1, 8192, 4096), (2, 512, 1024)],
            0x51,
        );
        Self {
            settings,
            processes: vec![echo, store, rogue, one, many],
        }
    }

    /// Four network processes, two block processes, and one that tries to break out.
    ///
    /// Two of the addresses are equal modulo 128, which a card that steers by classes could not tell apart.
    pub(crate) fn with_four_servers(settings: Settings) -> Self {
        let mut cast = Self::of_the_demo(settings);
        cast.processes.extend([
            Process::new("echo1", "echo", 6).on_network(130, 0x6563_686f_0000_0004),
            Process::new("echo2", "echo", 7).on_network(5, 0x6563_686f_0000_0005),
        ]);
        cast
    }

    /// One process alone, which takes so many queue pairs of the SSD.
    pub(crate) fn with_one_hoarder(self, pairs: u16) -> Self {
        let hoarder = Process::new("hoard0", "hoard", 1);
        let hoarder = hoarder.with_volumes(pairs, &[(1, 1024, 2048)], 0x50);
        Self {
            processes: vec![hoarder],
            ..self
        }
    }

    /// Only the processes of these names; all of them if none is given.
    pub(crate) fn keep(mut self, names: &[String]) -> Result<Self> {
        if let Some(unknown) = names.iter().find(|name| self.named(name).is_none()) {
            let known: Vec<_> = self.processes.iter().map(|process| process.name).collect();
            bail!(
                "there is no process `{unknown}`; the processes are: {}",
                known.join(", ")
            );
        }
        if !names.is_empty() {
            self.processes
                .retain(|process| names.iter().any(|name| name == process.name));
        }
        self.find_victims();
        Ok(self)
    }

    /// Has whoever attacks a process that is not there attack another.
    fn find_victims(&mut self) {
        let names: Vec<_> = self.processes.iter().map(|process| process.name).collect();
        for process in &mut self.processes {
            let is_there = process.attacks.is_none_or(|name| names.contains(&name));
            if !is_there {
                process.attacks = names.iter().copied().find(|name| *name != process.name);
            }
        }
    }

    /// With a process that publishes a frame and a block and never calls the kernel for them.
    pub(crate) fn with_bait(mut self) -> Self {
        let mut bait = Process::new(BAIT, ROGUE, 6)
            .on_network(5, 0x6261_6974_0000_0006)
            .with_volumes(1, &[(1, 20_480, 64)], 0x77);
        bait.arguments = Some("role=bait".into());
        self.processes.push(bait);
        self
    }

    /// Has the process of this name do only what `arguments` say.
    pub(crate) fn narrow(&mut self, name: &str, arguments: &str) {
        for process in self
            .processes
            .iter_mut()
            .filter(|process| process.name == name)
        {
            process.arguments = Some(arguments.to_owned());
        }
    }

    /// Everybody but the process of this name.
    pub(crate) fn without(mut self, name: &str) -> Self {
        self.processes.retain(|process| process.name != name);
        self
    }

    /// The process of that name.
    pub(crate) fn named(&self, name: &str) -> Option<&Process> {
        self.processes.iter().find(|process| process.name == name)
    }

    /// Whether anybody is on the network.
    pub(crate) fn is_on_network(&self) -> bool {
        self.processes
            .iter()
            .any(|process| process.network.is_some())
    }

    /// The manifest, as the kernel reads it.
    pub(crate) fn manifest(&self) -> String {
        let mut text = format!("kernel {}\n", self.settings);
        for process in &self.processes {
            text.push_str(&process.line());
            text.push('\n');
        }
        text
    }
}

impl Settings {
    /// Whether receive queues are sealed: a packed ring cannot be, and a bad index in one may stop the whole card.
    fn seals(&self) -> bool {
        let is_packed = self.more.iter().any(|word| word == "ring=packed");
        let mut words = self.policy.split(',');
        !is_packed && !words.any(|word| word == "availability")
    }
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            policy,
            seconds,
            more,
        } = self;
        write!(
            f,
            "policy={policy} report_ms=500 seconds={seconds} net=10.0.0.0/{PREFIX} gateway={HOST}"
        )?;
        more.iter().try_for_each(|word| write!(f, " {word}"))
    }
}

impl Process {
    fn new(name: &'static str, program: &'static str, core: u16) -> Self {
        Self {
            name,
            program,
            core,
            network: None,
            block_queues: 0,
            volumes: Vec::new(),
            restarts: 0,
            starts_later: false,
            attacks: None,
            arguments: None,
        }
    }

    /// With a queue pair of the card and an address that ends in `last`.
    fn on_network(mut self, last: u8, key: u64) -> Self {
        let address = Ipv4Addr::new(10, 0, 0, last);
        self.network = Some(Network {
            address,
            key,
            queues: 1,
        });
        self
    }

    /// With queue pairs of the SSD, and volumes by namespace, first block and number of blocks.
    fn with_volumes(mut self, queues: u16, volumes: &[(u32, u64, u64)], owner: u64) -> Self {
        self.block_queues = queues;
        self.volumes = volumes
            .iter()
            .map(|&(namespace, first, blocks)| Volume {
                namespace,
                first,
                blocks,
                owner,
            })
            .collect();
        self
    }

    /// Where the host sends requests, and the key of the answers; nobody waits for the rogue process's, nor its bait's.
    pub(crate) fn service(&self) -> Option<Network> {
        self.network.filter(|_| self.program != ROGUE)
    }

    /// How it ends in a demonstration, and why in the kernel's words: a block process sees that its queues are taken back, the
    /// attacker has nothing left to try, and the others work until the host says `stop`.
    pub(crate) fn ending(&self) -> (State, &'static str) {
        match self.program {
            BLOCKBENCH => (State::Exited, "exit code 2"),
            ROGUE => (State::Exited, "exit code 0"),
            _ => (State::Killed, STOPPED),
        }
    }

    /// Queue pairs that it has where the card has one for everybody: network processes have a virtual one beside.
    pub(crate) fn queue_pairs(&self) -> u16 {
        self.block_queues + self.network.map_or(0, |network| network.queues + 1)
    }

    /// Access modes of its transmit or block queues and of its receive queues, there. The attacker asks for descriptors of its own
    /// to write.
    pub(crate) fn modes(&self, settings: &Settings) -> (&'static str, &'static str) {
        let receive = match self.network {
            None => "",
            Some(_) if self.program != ROGUE && settings.seals() => "sealed",
            Some(_) => "checked",
        };
        ("checked", receive)
    }

    fn line(&self) -> String {
        let mut line = format!(
            "process name={} elf={} core={}",
            self.name, self.program, self.core
        );
        let mut word = |word: fmt::Arguments<'_>| {
            // Writing to a string does not fail.
            let _: fmt::Result = write!(line, " {word}");
        };
        if let Some(Network {
            address,
            key,
            queues,
            ..
        }) = self.network
        {
            word(format_args!(
                "nic_queues={queues} ip={address} key={key:#x}"
            ));
        }
        if self.block_queues > 0 {
            word(format_args!("nvme_queues={}", self.block_queues));
        }
        for volume in &self.volumes {
            word(format_args!("volume={volume}"));
        }
        if self.restarts > 0 {
            word(format_args!("restart={}", self.restarts));
        }
        if self.starts_later {
            word(format_args!("start=later"));
        }
        if let Some(victim) = self.attacks {
            word(format_args!("attacks={victim}"));
        }
        // Takes the rest of the line.
        if let Some(arguments) = &self.arguments {
            word(format_args!("args={arguments}"));
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn demo() -> Cast {
        Cast::of_the_demo(Settings {
            policy: "integrity".into(),
            seconds: 60,
            more: vec!["ring=packed".into()],
        })
    }

    #[test]
    fn the_manifest_says_it_all() {
        let manifest = demo().manifest();
        let lines: Vec<_> = manifest.lines().collect();
        assert_eq!(
            lines[0],
            "kernel policy=integrity report_ms=500 seconds=60 net=10.0.0.0/24 gateway=10.0.0.1 ring=packed"
        );
        assert_eq!(
            lines[1],
            "process name=echo0 elf=echo core=1 nic_queues=1 ip=10.0.0.2 key=0x6563686f00000001"
        );
        assert_eq!(
            lines[5],
            "process name=blk1 elf=blockbench core=5 nvme_queues=4 volume=1:8192+4096:0x51 volume=2:512+1024:0x51"
        );
    }

    #[test]
    fn receive_queues_are_sealed_where_ring_and_policy_let_them() {
        let modes = |policy: &str, ring: &str, name: &str| {
            let settings = Settings {
                policy: policy.into(),
                seconds: 1,
                more: vec![format!("ring={ring}")],
            };
            demo().named(name).unwrap().modes(&settings)
        };
        let (sealed, checked) = (("checked", "sealed"), ("checked", "checked"));
        assert_eq!(modes("integrity,no-spoof", "split", "echo0"), sealed);
        assert_eq!(modes("integrity,availability", "split", "echo0"), checked);
        assert_eq!(modes("integrity", "packed", "echo0"), checked);
        assert_eq!(modes("integrity", "split", "rogue"), checked);
        assert_eq!(modes("integrity", "split", "blk0"), ("checked", ""));
    }

    #[test]
    fn a_part_of_the_cast_can_be_chosen() {
        let names = |kept: Cast| {
            kept.processes
                .iter()
                .map(|process| process.name)
                .collect::<Vec<_>>()
        };
        assert_eq!(names(demo().keep(&[]).unwrap()).len(), 5);
        assert_eq!(
            names(demo().keep(&["blk1".into(), "echo0".into()]).unwrap()),
            ["echo0", "blk1"]
        );
        assert!(demo().keep(&["nobody".into()]).is_err());
    }

    #[test]
    fn an_attacker_has_a_victim_that_is_there() {
        let victim = |cast: Cast| cast.named("rogue").unwrap().attacks;
        assert_eq!(victim(demo()), Some("echo0"));
        let kept = |names: &[&str]| {
            let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
            victim(demo().keep(&names).unwrap())
        };
        assert_eq!(kept(&["rogue", "blk1"]), Some("blk1"));
        assert_eq!(kept(&["rogue"]), None);
    }

    #[test]
    fn nobody_shares_a_core_a_key_or_an_address() {
        let cast = demo().with_bait();
        for (index, one) in cast.processes.iter().enumerate() {
            for other in &cast.processes[index + 1..] {
                assert_ne!(one.core, other.core);
                if let (Some(one), Some(other)) = (one.network, other.network) {
                    assert_ne!((one.key, one.address), (other.key, other.address));
                    assert_ne!(
                        one.address.octets()[3] % 128,
                        other.address.octets()[3] % 128,
                        "one class of addresses"
                    );
                }
            }
        }
    }

    #[test]
    fn volumes_lie_apart_and_leave_neighbours_between_them() {
        let volumes: Vec<_> = demo()
            .with_bait()
            .processes
            .into_iter()
            .flat_map(|process| process.volumes)
            .collect();
        for (index, one) in volumes.iter().enumerate() {
            let namespace = NAMESPACES
                .iter()
                .find(|namespace| namespace.id == one.namespace)
                .unwrap();
            assert!(one.first > 0 && one.first + one.blocks < namespace.blocks);
            for other in volumes[index + 1..]
                .iter()
                .filter(|other| other.namespace == one.namespace)
            {
                assert!(
                    one.first + one.blocks < other.first || other.first + other.blocks < one.first
                );
            }
        }
    }
}
