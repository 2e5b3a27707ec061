//! The client's memory: what it mapped, reached directly or by messages.

use alloc::{collections::BTreeMap, sync::Arc};
use std::{os::fd::OwnedFd, sync::Mutex};

use parakernel_core::address::BusAddress;
use rustix::io::Errno;
use zerocopy::{FromBytes as _, IntoBytes as _};

use super::{
    channel::{Broken, Channel},
    mapping::{Mapping, Refused},
    wire::{DmaAccess, DmaMap, DmaUnmap, command},
};
use crate::{memory::HostMemory, sync::lock};

/// The memory of one client.
#[derive(Debug)]
pub(super) struct ClientMemory {
    channel: Channel,
    windows: Mutex<BTreeMap<u64, Window>>,
    /// What went wrong with a transfer by messages: the session ends on it.
    broken: Mutex<Option<Broken>>,
}

/// A range that the client mapped. Its first address is its key.
#[derive(Debug)]
struct Window {
    /// Its last address: a range may reach the end of the address space.
    last: u64,
    readable: bool,
    writeable: bool,
    /// `None` where it is reached by messages.
    mapping: Option<Mapping>,
}

/// What became of a request to map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Reach {
    /// Directly.
    Mapped,
    /// By messages, as the client sent no file.
    ByMessages,
    /// By messages, as the client could make its file shorter.
    NotSealed,
}

impl ClientMemory {
    /// The most ranges at once: the protocol's default.
    pub(super) const WINDOWS: usize = 65_535;

    pub(super) fn new(channel: Channel) -> Self {
        Self {
            channel,
            windows: Mutex::new(BTreeMap::new()),
            broken: Mutex::new(None),
        }
    }

    /// Maps what `request` says.
    pub(super) fn map(&self, request: DmaMap, file: Option<&OwnedFd>) -> Result<Reach, Errno> {
        let known = DmaMap::READABLE | DmaMap::WRITEABLE;
        if request.flags & !known != 0 || request.flags & known == 0 || request.size == 0 {
            return Err(Errno::INVAL);
        }
        let first = request.address;
        let last = first.checked_add(request.size - 1).ok_or(Errno::INVAL)?;
        let mut windows = lock(&self.windows);
        if windows.len() == Self::WINDOWS {
            return Err(Errno::NOSPC);
        }
        let below = windows.range(..=last).next_back();
        if below.is_some_and(|(_, window)| window.last >= first) {
            return Err(Errno::EXIST);
        }
        let writeable = request.flags & DmaMap::WRITEABLE != 0;
        let (mapping, reach) = reach(request, file, writeable)?;
        let window = Window {
            last,
            readable: request.flags & DmaMap::READABLE != 0,
            writeable,
            mapping,
        };
        windows.insert(first, window);
        Ok(reach)
    }

    /// Removes what lies in the range; that nothing does is no error, that something does in part is one.
    pub(super) fn unmap(&self, request: DmaUnmap) -> Result<(), Errno> {
        let mut windows = lock(&self.windows);
        if request.flags & DmaUnmap::ALL != 0 {
            windows.clear();
            return Ok(());
        }
        if request.flags != 0 || request.size == 0 {
            return Err(Errno::INVAL);
        }
        let first = request.address;
        let last = first.checked_add(request.size - 1).ok_or(Errno::INVAL)?;
        let touched: Vec<u64> = windows
            .range(..=last)
            .rev()
            .take_while(|(_, window)| window.last >= first)
            .map(|(start, _)| *start)
            .collect();
        let whole = |start: &u64| *start >= first && windows[start].last <= last;
        if !touched.iter().all(whole) {
            return Err(Errno::INVAL);
        }
        for start in touched {
            windows.remove(&start);
        }
        Ok(())
    }

    /// What ended the connection during a transfer, if something did.
    pub(super) fn take_broken(&self) -> Option<Broken> {
        lock(&self.broken).take()
    }

    /// Moves `len` bytes at `address`, a window at a time: `moved(window, offset in it, range of the bytes)`.
    fn each_window(
        &self,
        address: BusAddress,
        len: usize,
        mut moved: impl FnMut(&Window, usize, core::ops::Range<usize>) -> bool,
    ) -> bool {
        let windows = lock(&self.windows);
        let mut done = 0;
        while done < len {
            let Some(at) = address.as_u64().checked_add(done as u64) else {
                return false;
            };
            let Some((start, window)) = windows.range(..=at).next_back() else {
                return false;
            };
            if window.last < at {
                return false;
            }
            let left = usize::try_from(window.last - at).unwrap_or(usize::MAX - 1) + 1;
            let end = done + left.min(len - done);
            let offset = usize::try_from(at - start).unwrap_or(usize::MAX);
            if !moved(window, offset, done..end) {
                return false;
            }
            done = end;
        }
        true
    }

    fn read_by_messages(&self, address: u64, bytes: &mut [u8]) -> Result<bool, Broken> {
        let largest = self.largest();
        let mut at = address;
        for chunk in bytes.chunks_mut(largest) {
            let access = DmaAccess {
                address: at,
                count: chunk.len() as u64,
            };
            let answer = self.channel.ask(command::DMA_READ, &[access.as_bytes()])?;
            if answer.header.is_error() {
                return Ok(false);
            }
            let data = DmaAccess::read_from_prefix(&answer.body).map(|(_, data)| data);
            match data {
                Ok(data) if data.len() == chunk.len() => chunk.copy_from_slice(data),
                _ => return Err(short("DMA_READ")),
            }
            // Past the last byte of the address space comes no further chunk.
            at = at.wrapping_add(chunk.len() as u64);
        }
        Ok(true)
    }

    fn write_by_messages(&self, address: u64, bytes: &[u8]) -> Result<bool, Broken> {
        let largest = self.largest();
        let mut at = address;
        for chunk in bytes.chunks(largest) {
            let access = DmaAccess {
                address: at,
                count: chunk.len() as u64,
            };
            let parts = [access.as_bytes(), chunk];
            let answer = self.channel.ask(command::DMA_WRITE, &parts)?;
            if answer.header.is_error() {
                return Ok(false);
            }
            // Past the last byte of the address space comes no further chunk.
            at = at.wrapping_add(chunk.len() as u64);
        }
        Ok(true)
    }

    fn largest(&self) -> usize {
        usize::try_from(self.channel.largest_data()).unwrap_or(Channel::LARGEST_DATA)
    }

    /// Notes what ended the connection; whether the transfer was made.
    fn note(&self, result: Result<bool, Broken>) -> bool {
        result.unwrap_or_else(|error| {
            lock(&self.broken).get_or_insert(error);
            false
        })
    }
}

impl HostMemory for ClientMemory {
    fn read(&self, address: BusAddress, bytes: &mut [u8]) -> bool {
        self.each_window(address, bytes.len(), |window, offset, range| {
            if !window.readable {
                return false;
            }
            let at = address.as_u64() + range.start as u64;
            let part = &mut bytes[range];
            match &window.mapping {
                Some(mapping) => mapping.bytes().load(offset, part),
                None => self.note(self.read_by_messages(at, part)),
            }
        })
    }

    fn write(&self, address: BusAddress, bytes: &[u8]) -> bool {
        self.each_window(address, bytes.len(), |window, offset, range| {
            if !window.writeable {
                return false;
            }
            let at = address.as_u64() + range.start as u64;
            let part = &bytes[range];
            match &window.mapping {
                Some(mapping) => mapping.bytes().store(offset, part),
                None => self.note(self.write_by_messages(at, part)),
            }
        })
    }
}

fn reach(
    request: DmaMap,
    file: Option<&OwnedFd>,
    writeable: bool,
) -> Result<(Option<Mapping>, Reach), Errno> {
    let Some(file) = file else {
        return Ok((None, Reach::ByMessages));
    };
    match Mapping::new(file, request.offset, request.size, writeable) {
        Ok(mapping) => Ok((Some(mapping), Reach::Mapped)),
        Err(Refused::NotSealed) => Ok((None, Reach::NotSealed)),
        Err(Refused::TooShort) => Err(Errno::INVAL),
        Err(Refused::Kernel(error)) => Err(Errno::from_io_error(&error).unwrap_or(Errno::INVAL)),
    }
}

fn short(command: &str) -> Broken {
    Broken::Protocol(format!("an answer to {command} without the data asked for"))
}

/// The memory of whichever client is attached at the moment. Clones are the same memory.
#[derive(Clone, Debug, Default)]
pub struct Guest(Arc<Mutex<Option<Arc<ClientMemory>>>>);

impl Guest {
    /// As memory for [`World::host_memory`](crate::World::host_memory).
    #[must_use]
    pub fn memory(&self) -> Arc<dyn HostMemory> {
        Arc::new(self.clone())
    }

    pub(super) fn attach(&self, client: Option<Arc<ClientMemory>>) {
        *lock(&self.0) = client;
    }

    fn client(&self) -> Option<Arc<ClientMemory>> {
        lock(&self.0).clone()
    }
}

impl HostMemory for Guest {
    fn read(&self, address: BusAddress, bytes: &mut [u8]) -> bool {
        self.client()
            .is_some_and(|client| client.read(address, bytes))
    }

    fn write(&self, address: BusAddress, bytes: &[u8]) -> bool {
        self.client()
            .is_some_and(|client| client.write(address, bytes))
    }
}
