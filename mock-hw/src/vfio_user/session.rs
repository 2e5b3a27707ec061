//! One client, from its greeting to its end: what each command does.

use alloc::sync::Arc;
use std::os::{
    fd::{BorrowedFd, OwnedFd},
    unix::net::UnixStream,
};

use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{
    channel::{Broken, Channel, Message},
    dma::{ClientMemory, Guest, Reach},
    interrupts::{self, Vectors},
    regions::{self, Regions},
    wire::{
        DeviceInfo, DmaMap, Header, IrqInfo, IrqSet, RegionAccess, RegionInfo, Version, command,
    },
};
use crate::pci::Endpoint;

/// One client and the device that it has.
#[derive(Debug)]
pub struct Session {
    channel: Channel,
    memory: Arc<ClientMemory>,
    guest: Guest,
    endpoint: Endpoint,
    regions: Regions,
    vectors: Vectors,
    greeted: bool,
    /// Said once: that memory is reached by messages only.
    slow: bool,
}

/// What a command yields: the body of the answer, or why it is refused.
type Answer = Result<Vec<u8>, Errno>;

/// What the two sides offer each other.
#[derive(Debug, Default, Deserialize, Serialize)]
struct Offer {
    #[serde(default)]
    capabilities: Capabilities,
}

#[derive(Debug, Default, Deserialize, Serialize)]
struct Capabilities {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_msg_fds: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_data_xfer_size: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_dma_maps: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pgsizes: Option<u64>,
}

impl Session {
    /// A client at the other end of `stream`, who gets the device `endpoint`, whose memory is that of `guest`.
    ///
    /// # Errors
    ///
    /// Where the socket cannot be set up.
    pub fn new(stream: UnixStream, endpoint: &Endpoint, guest: &Guest) -> Result<Self, Broken> {
        let channel = Channel::new(stream)?;
        let memory = Arc::new(ClientMemory::new(channel.clone()));
        guest.attach(Some(memory.clone()));
        endpoint.leave_msix_table_to_host();
        Ok(Self {
            channel,
            memory,
            guest: guest.clone(),
            regions: Regions::new(endpoint),
            vectors: Vectors::new(endpoint.vectors()),
            endpoint: endpoint.clone(),
            greeted: false,
            slow: false,
        })
    }

    /// The socket, to wait for.
    #[must_use]
    pub fn file(&self) -> BorrowedFd<'_> {
        self.channel.file()
    }

    /// Whether a message arrived while an answer was waited for.
    #[must_use]
    pub fn has_waiting(&self) -> bool {
        self.channel.has_waiting()
    }

    /// Handles one message that arrived while an answer was waited for; whether there was one.
    ///
    /// # Errors
    ///
    /// As [`handle`](Self::handle).
    pub fn handle_waiting(&mut self) -> Result<bool, Broken> {
        let Some(message) = self.channel.take_waiting() else {
            return Ok(false);
        };
        self.handle(message).map(|()| true)
    }

    /// Reads the next message from the socket, and handles it.
    ///
    /// # Errors
    ///
    /// As [`handle`](Self::handle).
    pub fn handle_next(&mut self) -> Result<(), Broken> {
        let message = self.channel.receive()?;
        self.handle(message)
    }

    /// Does what `message` says and answers it.
    ///
    /// # Errors
    ///
    /// [`Broken`] where the client cannot be served any longer.
    pub fn handle(&mut self, message: Message) -> Result<(), Broken> {
        let header = message.header;
        if !header.is_request() {
            let what = format!("an answer that nobody waits for: {header:?}");
            return Err(Broken::Protocol(what));
        }
        if self.greeted == (header.command == command::VERSION) {
            let what = "the version is agreed upon once, and first";
            return Err(Broken::Protocol(what.to_owned()));
        }
        let answer = self.answer(header, &message.body, message.files);
        if let Some(broken) = self.memory.take_broken() {
            return Err(broken);
        }
        if header.command == command::VERSION && answer.is_err() {
            let what = "no version in common".to_owned();
            return Err(Broken::Protocol(what));
        }
        if !header.wants_reply() {
            return Ok(());
        }
        match answer {
            Ok(body) => self.channel.send(header.reply(), &[&body]),
            Err(error) => {
                let number = u32::try_from(error.raw_os_error()).unwrap_or(0);
                self.channel.send(header.refusal(number), &[])
            }
        }
    }

    /// Signals the interrupt `vector` to the client.
    ///
    /// # Errors
    ///
    /// Where the client's descriptor does not take it.
    pub fn interrupt(&self, vector: u16) -> Result<(), Broken> {
        self.vectors.signal(vector).map_err(Broken::from)
    }

    /// What ended the connection while the device moved data, if something did.
    #[must_use]
    pub fn take_broken(&self) -> Option<Broken> {
        self.memory.take_broken()
    }

    fn answer(&mut self, header: Header, body: &[u8], files: Vec<OwnedFd>) -> Answer {
        match header.command {
            command::VERSION => self.greet(body),
            command::DMA_MAP => self.map(body, &files),
            command::DMA_UNMAP => {
                self.memory.unmap(exactly(body)?)?;
                Ok(body.to_vec())
            }
            command::DEVICE_GET_INFO => device_info(body),
            command::DEVICE_GET_REGION_INFO => self.region_info(body),
            command::DEVICE_GET_IRQ_INFO => {
                let info: IrqInfo = exactly(body)?;
                let known = info.index < interrupts::KINDS;
                let info = known.then(|| self.vectors.info(info.index));
                info.map(|info| info.as_bytes().to_vec())
                    .ok_or(Errno::INVAL)
            }
            command::DEVICE_SET_IRQS => {
                let (set, _) = IrqSet::read_from_prefix(body).map_err(|_| Errno::INVAL)?;
                self.vectors.set(set, files).map(|()| Vec::new())
            }
            command::REGION_READ => self.read(body),
            command::REGION_WRITE => self.write(body),
            command::DEVICE_RESET => {
                self.endpoint.reset();
                Ok(Vec::new())
            }
            _ => Err(Errno::NOTSUP),
        }
    }

    /// Agrees on version 0.1 or 0.0 and on sizes.
    fn greet(&mut self, body: &[u8]) -> Answer {
        let (version, text) = Version::read_from_prefix(body).map_err(|_| Errno::INVAL)?;
        if version.major != 0 {
            return Err(Errno::NOTSUP);
        }
        let text = text.strip_suffix(&[0]).unwrap_or(text);
        let theirs: Offer = if text.is_empty() {
            Offer::default()
        } else {
            serde_json::from_slice(text).map_err(|_| Errno::INVAL)?
        };
        if let Some(bytes) = theirs.capabilities.max_data_xfer_size {
            self.channel.set_largest_data(bytes);
        }
        let ours = Offer {
            capabilities: Capabilities {
                max_msg_fds: Some(Channel::FILES as u64),
                max_data_xfer_size: Some(Channel::LARGEST_DATA as u64),
                max_dma_maps: Some(ClientMemory::WINDOWS as u64),
                pgsizes: Some(4096),
            },
        };
        let version = Version {
            major: 0,
            minor: version.minor.min(1),
        };
        let mut answer = version.as_bytes().to_vec();
        answer.extend(serde_json::to_vec(&ours).map_err(|_| Errno::INVAL)?);
        answer.push(0);
        self.greeted = true;
        Ok(answer)
    }

    fn map(&mut self, body: &[u8], files: &[OwnedFd]) -> Answer {
        let request: DmaMap = exactly(body)?;
        if files.len() > 1 {
            return Err(Errno::INVAL);
        }
        let reach = self.memory.map(request, files.first())?;
        if reach == Reach::NotSealed && !self.slow {
            self.slow = true;
            eprintln!(
                "guest memory at {:#x} could be cut off by its owner, so it is reached by messages, slowly: \
                 use `memory-backend-memfd` with its seal",
                request.address
            );
        }
        Ok(Vec::new())
    }

    fn region_info(&self, body: &[u8]) -> Answer {
        /// May be read and written.
        const FLAGS: u32 = 3;

        let asked: RegionInfo = exactly(body)?;
        if asked.index >= regions::COUNT {
            return Err(Errno::INVAL);
        }
        let size = self.regions.len(asked.index) as u64;
        let info = RegionInfo {
            argsz: 32,
            flags: if size == 0 { 0 } else { FLAGS },
            index: asked.index,
            cap_offset: 0,
            size,
            offset: 0,
        };
        Ok(info.as_bytes().to_vec())
    }

    fn read(&self, body: &[u8]) -> Answer {
        let access: RegionAccess = exactly(body)?;
        let count = access.count as usize;
        if count > Channel::LARGEST_DATA {
            return Err(Errno::INVAL);
        }
        let mut answer = access.as_bytes().to_vec();
        let start = answer.len();
        answer.resize(start + count, 0);
        self.regions
            .read(access.region, access.offset, &mut answer[start..])
            .ok_or(Errno::INVAL)?;
        Ok(answer)
    }

    fn write(&self, body: &[u8]) -> Answer {
        let (access, data) = RegionAccess::read_from_prefix(body).map_err(|_| Errno::INVAL)?;
        if data.len() != access.count as usize {
            return Err(Errno::INVAL);
        }
        self.regions
            .write(access.region, access.offset, data)
            .ok_or(Errno::INVAL)?;
        Ok(access.as_bytes().to_vec())
    }
}

/// The client's memory is gone with it.
impl Drop for Session {
    fn drop(&mut self) {
        self.guest.attach(None);
    }
}

fn device_info(body: &[u8]) -> Answer {
    /// It can be reset, and is a PCI device.
    const FLAGS: u32 = 3;

    let _: DeviceInfo = exactly(body)?;
    let info = DeviceInfo {
        argsz: 16,
        flags: FLAGS,
        regions: regions::COUNT,
        irqs: interrupts::KINDS,
    };
    Ok(info.as_bytes().to_vec())
}

/// The body as a structure, which is all of it.
fn exactly<T: FromBytes + IntoBytes + KnownLayout + Immutable>(body: &[u8]) -> Result<T, Errno> {
    T::read_from_bytes(body).map_err(|_| Errno::INVAL)
}
