//! What the host tells the kernel on its first serial port: one command a line.

/// A command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command<'a> {
    /// End all processes, show the last counters, power off.
    Stop,
    /// Show the counters now.
    Report,
    /// Start a process that waits for this.
    Start(&'a str),
    /// Stop a process.
    Kill(&'a str),
    /// Take a process's queues away, and see whether it gives them up.
    Revoke(&'a str),
    /// Stop a process and start it again.
    Restart(&'a str),
    /// Reset a device: what was in flight on any of its queues is of unknown outcome, and a quarantine ends.
    Reset(u32),
}

impl<'a> Command<'a> {
    /// The command on `line`; `None` if there is no such command.
    ///
    /// ```
    /// use kernel_formats::command::Command;
    /// assert_eq!(Command::parse("kill echo0\r"), Some(Command::Kill("echo0")));
    /// assert_eq!(Command::parse("reset 1"), Some(Command::Reset(1)));
    /// assert_eq!(Command::parse("reset nic"), None);
    /// assert_eq!(Command::parse("stop now"), None);
    /// ```
    #[must_use]
    pub fn parse(line: &'a str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        let command = match (words.next()?, words.next()) {
            ("stop", None) => Self::Stop,
            ("report", None) => Self::Report,
            ("start", Some(name)) => Self::Start(name),
            ("kill", Some(name)) => Self::Kill(name),
            ("revoke", Some(name)) => Self::Revoke(name),
            ("restart", Some(name)) => Self::Restart(name),
            ("reset", Some(device)) => Self::Reset(device.parse().ok()?),
            _ => return None,
        };
        words.next().is_none().then_some(command)
    }
}
