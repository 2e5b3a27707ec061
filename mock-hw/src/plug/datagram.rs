//! Frames as datagrams, one each: the framing of QEMU's `-netdev dgram`.

use core::net::SocketAddr;
use std::{
    fs, io,
    net::UdpSocket,
    os::{
        fd::{AsFd as _, BorrowedFd},
        unix::net::UnixDatagram,
    },
    path::{Path, PathBuf},
};

use super::{Plug, received, sent};

/// A datagram socket and the one that it talks to.
#[derive(Debug)]
pub enum Datagrams {
    /// Over Unix sockets: ours, which is removed at the end, and theirs.
    Unix(UnixDatagram, PathBuf, PathBuf),
    /// Over UDP.
    Udp(UdpSocket),
}

impl Datagrams {
    /// Unix sockets at `local`, replacing a socket that was left there, and `remote`, which may come later.
    ///
    /// # Errors
    ///
    /// Where the socket cannot be made.
    pub fn unix(local: &Path, remote: &Path) -> io::Result<Self> {
        remove_socket(local)?;
        let socket = UnixDatagram::bind(local)?;
        socket.set_nonblocking(true)?;
        Ok(Self::Unix(socket, local.to_owned(), remote.to_owned()))
    }

    /// UDP from `local` to `remote`; datagrams of others are not taken.
    ///
    /// # Errors
    ///
    /// Where the socket cannot be made.
    pub fn udp(local: SocketAddr, remote: SocketAddr) -> io::Result<Self> {
        let socket = UdpSocket::bind(local)?;
        socket.connect(remote)?;
        socket.set_nonblocking(true)?;
        Ok(Self::Udp(socket))
    }
}

impl Plug for Datagrams {
    fn file(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(socket, ..) => socket.as_fd(),
            Self::Udp(socket) => socket.as_fd(),
        }
    }

    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let result = match self {
            Self::Unix(socket, ..) => socket.recv(buffer),
            Self::Udp(socket) => socket.recv(buffer),
        };
        match received(result) {
            // Nobody was there to take what was sent before.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(None),
            other => other,
        }
    }

    fn send(&mut self, frame: &[u8]) -> io::Result<()> {
        let result = match self {
            Self::Unix(socket, _, remote) => socket.send_to(frame, remote),
            Self::Udp(socket) => socket.send(frame),
        };
        match sent(result) {
            // The other side is not there yet, or no longer: an unplugged cable.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound
                ) =>
            {
                Ok(())
            }
            other => other,
        }
    }
}

impl Drop for Datagrams {
    fn drop(&mut self) {
        if let Self::Unix(_, local, _) = self {
            // That somebody removed it before is as good.
            let _gone = fs::remove_file(local);
        }
    }
}

/// Removes a socket that an earlier run left at `path`; anything else there stays.
///
/// # Errors
///
/// Where something else is there, or it cannot be removed.
pub fn remove_socket(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::FileTypeExt as _;
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(data) if data.file_type().is_socket() => fs::remove_file(path),
        Ok(_) => Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            format!("{} is there and is no socket", path.display()),
        )),
    }
}
