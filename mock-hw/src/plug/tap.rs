//! A tap: a network interface of this machine whose frames are read and written here.
#![expect(unsafe_code, reason = "asks the tun driver for an interface")]

use core::ffi::c_short;
use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsFd as _, BorrowedFd},
        unix::fs::OpenOptionsExt as _,
    },
};

use rustix::{
    fs::OFlags,
    ioctl::{Setter, ioctl, opcode},
};

use super::{Plug, received, sent};

/// `struct ifreq` of `linux/if.h` with flags: 40 bytes.
#[repr(C)]
struct Request {
    name: [u8; 16],
    flags: c_short,
    unused: [u8; 22],
}

/// A tap that exists, or that is made and goes with this value.
#[derive(Debug)]
pub struct Tap(File);

impl Tap {
    /// The tap called `name`.
    ///
    /// # Errors
    ///
    /// Where it cannot be opened or made: `/dev/net/tun` is missing, or this user may not.
    pub fn open(name: &str) -> io::Result<Self> {
        /// Frames without a header of the driver's.
        const TAP_WITHOUT_HEADER: c_short = 0x1002;
        /// `TUNSETIFF` of `linux/if_tun.h`.
        const SET_INTERFACE: u32 = opcode::write::<core::ffi::c_int>(b'T', 202);

        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or(0))
            .open("/dev/net/tun")?;
        let mut request = Request {
            name: [0; 16],
            flags: TAP_WITHOUT_HEADER,
            unused: [0; 22],
        };
        let room = request
            .name
            .get_mut(..name.len())
            .filter(|_| name.len() < 16);
        let Some(room) = room else {
            let what = format!("`{name}` is too long for an interface");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        };
        room.copy_from_slice(name.as_bytes());
        // SAFETY: this request takes a `struct ifreq`, which `Request` is.
        let setter = unsafe { Setter::<SET_INTERFACE, Request>::new(request) };
        // SAFETY: the driver reads that structure and keeps nothing of it.
        unsafe { ioctl(&file, setter) }?;
        Ok(Self(file))
    }
}

impl Plug for Tap {
    fn file(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        received(self.0.read(buffer))
    }

    fn send(&mut self, frame: &[u8]) -> io::Result<()> {
        match sent(self.0.write(frame)) {
            // The interface is down: an unplugged cable.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => {
                Ok(())
            }
            other => other,
        }
    }
}
