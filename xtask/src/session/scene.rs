//! A boot under way: the machine, what it has said, and how long there still is.

use super::Spec;
use crate::{
    cast::{Cast, MAC, ROGUE, STORE_PORT},
    disk,
    net::TAP,
    observed::Observed,
    qemu::run::{Ended, Event, Running},
    report::NO_STOP,
    serve::Serving,
};
use anyhow::{Result, bail};
use core::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};
use parakernel_apps::nonce;
use std::{ffi::OsString, io::IsTerminal as _, path::PathBuf, time::Instant};

/// How long one look at the serial port takes when nothing comes.
const GLANCE: Duration = Duration::from_millis(100);
/// How often the partition map is shown.
const MAP_EVERY: Duration = Duration::from_secs(5);
/// How long the machine may take to end after it was told to.
const END_LIMIT: Duration = Duration::from_secs(30);

/// A boot under way.
#[derive(Debug)]
pub(crate) struct Scene {
    machine: Running,
    /// The network card, where it is a model.
    serving: Option<Serving>,
    pub(crate) observed: Observed,
    deadline: Instant,
    /// When the process that attacks was told that it has to end.
    revoked: Option<Instant>,
    map_shown: Instant,
    /// Whether what processes say is shown too; it is always kept.
    is_talkative: bool,
}

/// Rules that forward a port of the host's to each service, for QEMU's own network stack.
pub(crate) fn forwards() -> Vec<String> {
    let echo = format!(
        "udp:127.0.0.1:{}-10.0.0.2:{}",
        forwarded(Ipv4Addr::new(10, 0, 0, 2)),
        nonce::PORT
    );
    let store = format!(
        "udp:127.0.0.1:{}-10.0.0.3:{}",
        forwarded(Ipv4Addr::new(10, 0, 0, 3)),
        nonce::PORT
    );
    let text = format!("tcp:127.0.0.1:{STORE_PORT}-10.0.0.3:{STORE_PORT}");
    vec![echo, store, text]
}

/// The host's port that leads to the nonce service of `address` without a tap.
pub(crate) fn forwarded(address: Ipv4Addr) -> u16 {
    nonce::PORT + u16::from(address.octets()[3])
}

impl Spec {
    /// Starts the model that is the network card, if one is.
    fn serve(&self) -> Result<Option<Serving>> {
        let Some(program) = &self.model else {
            return Ok(None);
        };
        let words = [
            "--mac".to_owned(),
            MAC.to_owned(),
            "--wire".to_owned(),
            format!("tap={TAP}"),
        ];
        let mut words = words.map(OsString::from).to_vec();
        if let Some(seconds) = self.unplug {
            words.extend(["--unplug".into(), seconds.to_string().into()]);
        }
        Serving::start(program, ("ixgbe", &["ixgbe"]), &words, &self.folder).map(Some)
    }
}

impl Scene {
    /// Prepares disks and initial RAM disk, and switches the machine on.
    pub(crate) fn open(spec: &Spec, cast: &Cast, debugger: bool) -> Result<Self> {
        disk::prepare(&spec.folder)?;
        let initrd = spec.folder.join("initrd.cpio");
        spec.build.write_initrd(cast, &initrd)?;
        let words = format!("parakernel {}", cast.settings);
        let serving = spec.serve()?;
        let model = serving
            .as_ref()
            .and_then(|serving| serving.sockets().first());
        let machine = spec.machine((&initrd, &words), model.map(PathBuf::as_path), debugger);
        let machine = Running::start(&spec.qemu, &machine, spec.live_log)?;
        let now = Instant::now();
        let deadline = now + Duration::from_secs(spec.seconds);
        Ok(Self {
            machine,
            serving,
            observed: Observed::default(),
            deadline,
            revoked: None,
            map_shown: now,
            is_talkative: spec.live_log || cast.processes.is_empty(),
        })
    }

    /// Listens for a moment. Returns false once the machine has nothing more to say.
    pub(crate) fn listen(&mut self) -> Result<bool> {
        match self.machine.next(GLANCE)? {
            Event::Line(line) => {
                if let Some(text) = self.observed.absorb(line)
                    && (self.is_talkative || !is_of_a_process(&text))
                {
                    println!("  | {text}");
                }
                self.play_along();
            }
            Event::Silence => {}
            Event::Closed => return Ok(false),
        }
        if self.map_shown.elapsed() >= MAP_EVERY && !self.observed.processes.is_empty() {
            self.show_map();
        }
        Ok(true)
    }

    /// Does the host's part of an attack that begins: from one that does not stop, the queues have to be taken back first.
    fn play_along(&mut self) {
        let attempt = self.observed.attempt.as_ref();
        let begun = attempt.filter(|(attempt, _)| attempt.name == NO_STOP);
        let begun = begun.map(|(_, since)| *since);
        if begun.is_some() && begun != self.revoked {
            self.revoked = begun;
            self.say(&format!("revoke {ROGUE}"));
        }
    }

    /// Listens until `done` says so; fails if the machine ends or the time is up before.
    pub(crate) fn until(
        &mut self,
        what: &str,
        mut done: impl FnMut(&Observed) -> bool,
    ) -> Result<()> {
        while !done(&self.observed) {
            if !self.listen()? {
                bail!("the machine ended before {what}");
            }
            if Instant::now() > self.deadline {
                bail!("the time was up before {what}");
            }
        }
        Ok(())
    }

    /// Listens until the machine ends by itself, or its time is up.
    pub(crate) fn until_end(&mut self) -> Result<()> {
        while self.listen()? {
            if Instant::now() > self.deadline {
                bail!("the time was up before the machine ended");
            }
        }
        Ok(())
    }

    /// Says something to the kernel.
    pub(crate) fn say(&mut self, words: &str) {
        self.machine.say(words);
    }

    /// Shows who has what now; on a terminal with a line above, so that one map is told from the next.
    fn show_map(&mut self) {
        self.map_shown = Instant::now();
        if std::io::stdout().is_terminal() {
            println!("{}", "─".repeat(60));
        }
        print!("{}", self.observed.partition_map());
    }

    /// Hears the machine out and waits for its end.
    pub(crate) fn close(mut self) -> Result<(Observed, Ended)> {
        let deadline = Instant::now() + END_LIMIT;
        while Instant::now() < deadline && self.listen()? {}
        self.finish(END_LIMIT)
    }

    /// Ends a machine that would not end by itself.
    pub(crate) fn abandon(self) -> Result<(Observed, Ended)> {
        self.finish(Duration::ZERO)
    }

    fn finish(mut self, limit: Duration) -> Result<(Observed, Ended)> {
        self.show_map();
        let mut ended = self.machine.finish(limit)?;
        if let Some(serving) = self.serving {
            let objections = serving.finish()?;
            let objections = objections.into_iter().map(|line| format!("model: {line}"));
            ended.objections.extend(objections);
        }
        Ok((self.observed, ended))
    }
}

/// Whether the kernel passes on what a process says: such lines begin with the process's name in brackets.
fn is_of_a_process(text: &str) -> bool {
    text.starts_with('[')
}

/// Where the nonce service of `address` is reached.
pub(crate) fn service(address: Ipv4Addr, by_tap: bool) -> SocketAddr {
    if by_tap {
        (address, nonce::PORT).into()
    } else {
        (Ipv4Addr::LOCALHOST, forwarded(address)).into()
    }
}

/// Where the store at `address` is reached.
pub(crate) fn store(address: Ipv4Addr, by_tap: bool) -> SocketAddr {
    (
        if by_tap { address } else { Ipv4Addr::LOCALHOST },
        STORE_PORT,
    )
        .into()
}
