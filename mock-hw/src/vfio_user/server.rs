//! The loop: messages, steps of the devices, interrupts, frames.

use core::time::Duration;
use std::{
    io,
    os::{
        fd::{AsFd as _, BorrowedFd},
        unix::net::UnixListener,
    },
    time,
};

use parakernel_core::time::Instant;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Broken, Session, dma::Guest};
use crate::{World, memory::RequesterId, pci::Endpoint, plug::Plugs, trace::Kind, world::Followed};

/// Devices of one world, each for one client after another.
#[derive(Debug)]
pub struct Server {
    world: World,
    slots: Vec<Slot>,
    plugs: Plugs,
    started: time::Instant,
}

/// One device and its client.
#[derive(Debug)]
struct Slot {
    requester: RequesterId,
    endpoint: Endpoint,
    guest: Guest,
    listener: UnixListener,
    session: Option<Session>,
    /// A client was there, and went away or was left.
    left: bool,
    /// Why it was left.
    broken: Option<Broken>,
}

impl Server {
    /// Steps of the devices between two looks at the sockets.
    const STEPS: u64 = 256;

    /// Messages of one client between two turns of the devices.
    const MESSAGES: usize = 64;

    /// The longest sleep: nothing is missed by it, it only bounds what a lost wake-up costs.
    const LONGEST: Duration = Duration::from_millis(500);

    /// A server for devices of `world`, whose network cards lead where `plugs` says.
    #[must_use]
    pub fn new(world: &World, plugs: Plugs) -> Self {
        Self {
            world: world.clone(),
            slots: Vec::new(),
            plugs,
            started: time::Instant::now(),
        }
    }

    /// Serves also `endpoint`, which `world` knows by `requester` and whose memory is that of `guest`, at `listener`.
    ///
    /// # Errors
    ///
    /// Where the socket cannot be set up.
    pub fn add(
        &mut self,
        requester: RequesterId,
        endpoint: Endpoint,
        guest: Guest,
        listener: UnixListener,
    ) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        self.slots.push(Slot {
            requester,
            endpoint,
            guest,
            listener,
            session: None,
            left: false,
            broken: None,
        });
        Ok(())
    }

    /// Serves until every device had a client and the last one went away. The devices keep their state, so that this
    /// can be called again.
    ///
    /// A client that breaks the protocol, or whose socket fails, is left at once; the others are served on.
    ///
    /// # Errors
    ///
    /// [`Broken`] where a client was left, of several the one of the first device; or where what they share failed: all
    /// are left then.
    pub fn serve(&mut self) -> Result<(), Broken> {
        self.slots.iter_mut().for_each(|slot| slot.left = false);
        let result = loop {
            if let Err(error) = self.turn() {
                break Err(error);
            }
            if self.slots.iter().all(|slot| slot.left) {
                break Ok(());
            }
        };
        self.slots.iter_mut().for_each(|slot| slot.session = None);
        let mut broken = self.slots.iter_mut().filter_map(|slot| slot.broken.take());
        result.and(broken.next().map_or(Ok(()), Err))
    }

    /// One round: the devices work, their interrupts and frames leave, then messages are waited for and handled.
    fn turn(&mut self) -> Result<(), Broken> {
        let progress = self.world.follow(self.now(), Self::STEPS);
        self.interrupt();
        self.plugs.send()?;
        self.report();
        let ready = self.wait(self.patience(progress))?;
        for (slot, ready) in self.slots.iter_mut().zip(ready) {
            let handled = slot.handle(ready);
            slot.judge(handled);
        }
        self.plugs.receive()?;
        Ok(())
    }

    fn interrupt(&mut self) {
        for message in self.world.interrupts().take_all() {
            let slots = self.slots.iter_mut();
            for slot in slots.filter(|slot| slot.requester == message.requester) {
                let session = slot.session.as_ref();
                let signalled = session.map_or(Ok(()), |session| session.interrupt(message.vector));
                slot.judge(signalled);
            }
        }
    }

    /// How long to wait for a message.
    fn patience(&self, progress: Followed) -> Duration {
        let mut sessions = self.slots.iter().filter_map(|slot| slot.session.as_ref());
        let Followed::Quiet { next } = progress else {
            return Duration::ZERO;
        };
        if sessions.any(Session::has_waiting) {
            return Duration::ZERO;
        }
        let wait = |next: Instant| next.as_nanos().saturating_sub(self.now().as_nanos());
        next.map_or(Self::LONGEST, |next| {
            Duration::from_nanos(wait(next)).min(Self::LONGEST)
        })
    }

    /// Waits for a client or for a frame; which devices have something from a client.
    fn wait(&self, patience: Duration) -> Result<Vec<bool>, Broken> {
        let mut files: Vec<PollFd<'_>> = self
            .slots
            .iter()
            .map(Slot::file)
            .chain(self.plugs.files())
            .map(|file| PollFd::from_borrowed_fd(file, PollFlags::IN))
            .collect();
        let patience = Timespec::try_from(patience).unwrap_or_default();
        match poll(&mut files, Some(&patience)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready = files.iter().map(|file| !file.revents().is_empty());
        Ok(ready.take(self.slots.len()).collect())
    }

    fn now(&self) -> Instant {
        let elapsed = self.started.elapsed().as_nanos();
        Instant::from_nanos(u64::try_from(elapsed).unwrap_or(u64::MAX))
    }

    /// Shows what drivers did wrong, and what they wanted and the models leave out.
    fn report(&self) {
        for entry in self.world.trace().take() {
            if !matches!(entry.kind, Kind::Note) {
                eprintln!("{entry}");
            }
        }
    }
}

impl Slot {
    /// Leaves the client where its last message, or its socket, was its end.
    fn judge(&mut self, result: Result<(), Broken>) {
        let Err(error) = result else {
            return;
        };
        self.session = None;
        self.left = true;
        if !matches!(error, Broken::Gone) {
            eprintln!("{}: {error}", self.requester);
            self.broken.get_or_insert(error);
        }
    }

    /// What to wait for: the client, or for one to come.
    fn file(&self) -> BorrowedFd<'_> {
        match &self.session {
            Some(session) => session.file(),
            None => self.listener.as_fd(),
        }
    }

    /// Handles what the client sent, up to a number of messages, or takes a client that came.
    fn handle(&mut self, ready: bool) -> Result<(), Broken> {
        let Some(session) = &mut self.session else {
            return if ready { self.accept() } else { Ok(()) };
        };
        if let Some(broken) = session.take_broken() {
            return Err(broken);
        }
        while session.handle_waiting()? {}
        let mut more = ready;
        for _ in 0..Server::MESSAGES {
            if !more {
                break;
            }
            session.handle_next()?;
            while session.handle_waiting()? {}
            more = is_readable(session)?;
        }
        Ok(())
    }

    fn accept(&mut self) -> Result<(), Broken> {
        match self.listener.accept() {
            Ok((stream, _)) => {
                let session = Session::new(stream, &self.endpoint, &self.guest)?;
                self.session = Some(session);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Whether the client has sent something.
fn is_readable(session: &Session) -> Result<bool, Broken> {
    let mut files = [PollFd::from_borrowed_fd(session.file(), PollFlags::IN)];
    let ready = poll(&mut files, Some(&Timespec::default())).map_err(io::Error::from)?;
    Ok(ready > 0)
}
