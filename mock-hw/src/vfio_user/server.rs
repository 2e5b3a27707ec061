//! The loop: messages, steps of the device, interrupts, frames.

use core::time::Duration;
use std::{io, os::unix::net::UnixListener, time};

use parakernel_core::time::Instant;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Broken, Session, dma::Guest};
use crate::{World, pci::Endpoint, plug::Plugs, trace::Kind, world::Followed};

/// A device, and what it is plugged into, for one client after another.
#[derive(Debug)]
pub struct Server {
    world: World,
    guest: Guest,
    endpoint: Endpoint,
    plugs: Plugs,
    started: time::Instant,
}

impl Server {
    /// Steps of the device between two looks at the socket.
    const STEPS: u64 = 256;

    /// Messages between two turns of the device.
    const MESSAGES: usize = 64;

    /// The longest sleep: nothing is missed by it, it only bounds what a lost wake-up costs.
    const LONGEST: Duration = Duration::from_millis(500);

    /// Serves `endpoint`, a device of `world` whose memory is that of `guest`.
    #[must_use]
    pub fn new(world: &World, guest: &Guest, endpoint: Endpoint, plugs: Plugs) -> Self {
        Self {
            world: world.clone(),
            guest: guest.clone(),
            endpoint,
            plugs,
            started: time::Instant::now(),
        }
    }

    /// Waits for a client at `listener` and serves it until it goes away. The device keeps its state.
    ///
    /// # Errors
    ///
    /// [`Broken`] where a client was left, or the socket failed.
    pub fn serve_one(&mut self, listener: &UnixListener) -> Result<(), Broken> {
        let (stream, _) = listener.accept()?;
        let mut session = Session::new(stream, &self.endpoint, &self.guest)?;
        loop {
            match self.turn(&mut session) {
                Ok(()) => {}
                Err(Broken::Gone) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// One round: the device works, its interrupts and frames leave, then messages are waited for and handled.
    fn turn(&mut self, session: &mut Session) -> Result<(), Broken> {
        let progress = self.world.follow(self.now(), Self::STEPS);
        for message in self.world.interrupts().take_all() {
            session.interrupt(message.vector)?;
        }
        self.plugs.send()?;
        self.report();
        if let Some(broken) = session.take_broken() {
            return Err(broken);
        }
        if !session.handle_waiting()? && self.wait(session, self.patience(progress))? {
            self.handle(session)?;
        }
        self.plugs.receive()?;
        Ok(())
    }

    /// The messages that are there, up to a number.
    fn handle(&self, session: &mut Session) -> Result<(), Broken> {
        for _ in 0..Self::MESSAGES {
            session.handle_next()?;
            while session.handle_waiting()? {}
            if !is_readable(session)? {
                break;
            }
        }
        Ok(())
    }

    /// How long to wait for a message.
    fn patience(&self, progress: Followed) -> Duration {
        match progress {
            Followed::Busy => Duration::ZERO,
            Followed::Quiet { next: None } => Self::LONGEST,
            Followed::Quiet { next: Some(next) } => {
                let wait = next.as_nanos().saturating_sub(self.now().as_nanos());
                Duration::from_nanos(wait).min(Self::LONGEST)
            }
        }
    }

    /// Waits for the client or for a frame; whether the client sent something.
    fn wait(&self, session: &Session, patience: Duration) -> Result<bool, Broken> {
        let mut files = vec![PollFd::from_borrowed_fd(session.file(), PollFlags::IN)];
        files.extend(
            self.plugs
                .files()
                .map(|file| PollFd::from_borrowed_fd(file, PollFlags::IN)),
        );
        let patience = Timespec::try_from(patience).unwrap_or_default();
        match poll(&mut files, Some(&patience)) {
            Ok(_) => Ok(!files[0].revents().is_empty()),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn now(&self) -> Instant {
        let elapsed = self.started.elapsed().as_nanos();
        Instant::from_nanos(u64::try_from(elapsed).unwrap_or(u64::MAX))
    }

    /// Shows what the driver did wrong, and what it wanted and the model leaves out.
    fn report(&self) {
        for entry in self.world.trace().take() {
            if !matches!(entry.kind, Kind::Note) {
                eprintln!("{entry}");
            }
        }
    }
}

/// Whether the client has sent something.
fn is_readable(session: &Session) -> Result<bool, Broken> {
    let mut files = [PollFd::from_borrowed_fd(session.file(), PollFlags::IN)];
    let ready = poll(&mut files, Some(&Timespec::default())).map_err(io::Error::from)?;
    Ok(ready > 0)
}
