//! The vfio-user server, spoken to as QEMU does, and as nobody should.
#![cfg(feature = "serve")]
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::panic_in_result_fn,
    reason = "a test"
)]

use core::{mem::MaybeUninit, time::Duration};
use std::{
    fs::File,
    io::{self, IoSlice, Read as _, Write as _},
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::{fs::FileExt as _, net::UnixListener, net::UnixStream},
    },
    path::PathBuf,
    thread::{self, JoinHandle},
    time::Instant,
};

use parakernel_core::address::BusAddress;
use parakernel_mock_hw::{
    Ixgbe, Nvme, World, ixgbe,
    memory::RequesterId,
    nvme::Config,
    plug::Plugs,
    vfio_user::{Broken, Guest, Message, Server, Session},
};
use proptest::prelude::*;
use rustix::{
    event::{EventfdFlags, eventfd},
    fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create},
    net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg},
};

const VERSION: u16 = 1;
const DMA_MAP: u16 = 2;
const DMA_UNMAP: u16 = 3;
const DEVICE_INFO: u16 = 4;
const REGION_INFO: u16 = 5;
const IRQ_INFO: u16 = 7;
const SET_IRQS: u16 = 8;
const REGION_READ: u16 = 9;
const REGION_WRITE: u16 = 10;
const DMA_READ: u16 = 11;
const DMA_WRITE: u16 = 12;
const RESET: u16 = 13;

const CONFIG_SPACE: u32 = 7;

/// An NVMe controller behind a socket, and the thread that serves it.
struct Served {
    stream: UnixStream,
    thread: Option<JoinHandle<Result<(), Broken>>>,
    path: PathBuf,
    /// Memory that the server reaches by messages only, at 1 MiB.
    remote: Vec<u8>,
}

impl Served {
    fn new(name: &str) -> Self {
        let file = format!("mock-hw-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(file);
        drop(std::fs::remove_file(&path));
        let listener = UnixListener::bind(&path).unwrap();
        let thread = thread::spawn(move || {
            let world = World::new(1);
            let guest = Guest::default();
            let memory = world.host_memory(guest.memory());
            let device = RequesterId(0x0100);
            let nvme = Nvme::new(&world, &memory, device, Config::default());
            let mut server = Server::new(&world, Plugs::default());
            server.add(device, nvme.endpoint(), guest, listener)?;
            server.serve()
        });
        Self {
            stream: UnixStream::connect(&path).unwrap(),
            thread: Some(thread),
            path,
            remote: vec![0; 1 << 16],
        }
    }

    /// A client that has greeted.
    fn greeted(name: &str) -> Self {
        let mut served = Self::new(name);
        served.greet();
        served
    }

    fn greet(&mut self) {
        let served = self;
        let answer = served.ask(VERSION, &version(0, 1)).unwrap();
        assert_eq!(answer[..4], [0, 0, 1, 0]);
        assert!(
            String::from_utf8(answer[4..].to_vec())
                .unwrap()
                .contains("max_msg_fds")
        );
    }

    /// Two virtual functions of one card whose physical function stays with the server, each a client of its own; the
    /// first one has the server's thread.
    fn functions(name: &str) -> [Self; 2] {
        let paths = [1, 2].map(|n| {
            let file = format!("mock-hw-{name}-{n}-{}", std::process::id());
            let path = std::env::temp_dir().join(file);
            drop(std::fs::remove_file(&path));
            path
        });
        let listeners = paths
            .each_ref()
            .map(|path| UnixListener::bind(path).unwrap());
        let thread = thread::spawn(move || {
            let world = World::new(1);
            let card = RequesterId(0x0100);
            let guests = [Guest::default(), Guest::default()];
            let nobody = world.host_memory(Guest::default().memory());
            let config = ixgbe::Config {
                virtual_functions: 2,
                ..ixgbe::Config::default()
            };
            let ixgbe = Ixgbe::with_memories(&world, &nobody, card, config, |function| {
                let n = usize::from(function.0 - 0x0180) / 2;
                world.host_memory(guests[n].memory())
            });
            ixgbe.host_virtual_functions(&world);
            ixgbe.keep_virtual_functions();
            let mut server = Server::new(&world, Plugs::default());
            for (n, (guest, listener)) in (0_u16..).zip(guests.into_iter().zip(listeners)) {
                let endpoint = ixgbe.virtual_function(n.into()).unwrap();
                server.add(RequesterId(0x0180 + 2 * n), endpoint, guest, listener)?;
            }
            server.serve()
        });
        let mut thread = Some(thread);
        paths.map(|path| {
            let mut served = Self {
                stream: UnixStream::connect(&path).unwrap(),
                thread: thread.take(),
                path,
                remote: vec![0; 1 << 16],
            };
            served.greet();
            served.write(CONFIG_SPACE, 4, &6_u16.to_le_bytes()).unwrap();
            served
        })
    }

    fn set(&mut self, offset: u64, value: u32) {
        self.write(0, offset, &value.to_le_bytes()).unwrap();
    }

    /// Asks the mailbox for its reset; the address that the function gets.
    fn begin(&mut self) -> [u8; 6] {
        self.wait(0x02fc, 1 << 7);
        self.set(0x02fc, 4);
        self.set(0x0200, 1);
        self.set(0x02fc, 1);
        self.wait(0x02fc, 0x10);
        assert_eq!(self.register(0x0200), 1 << 31 | 1);
        let [a, b, c, d] = self.register(0x0204).to_le_bytes();
        let [e, f, ..] = self.register(0x0208).to_le_bytes();
        self.set(0x02fc, 2);
        [a, b, c, d, e, f]
    }

    fn wait(&mut self, offset: u64, bits: u32) {
        let began = Instant::now();
        while self.register(offset) & bits == 0 {
            assert!(began.elapsed() < Duration::from_secs(10), "{offset:#x}");
        }
    }

    fn send(&self, command: u16, flags: u32, body: &[u8], files: &[BorrowedFd<'_>]) {
        let mut bytes = header(command, 16 + body.len(), flags).to_vec();
        bytes.extend(body);
        let mut space = [MaybeUninit::uninit(); 256];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !files.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(files)));
        }
        let sent = sendmsg(
            &self.stream,
            &[IoSlice::new(&bytes)],
            &mut control,
            SendFlags::empty(),
        );
        assert_eq!(sent.unwrap(), bytes.len());
    }

    fn ask(&mut self, command: u16, body: &[u8]) -> Result<Vec<u8>, u32> {
        self.ask_with(command, body, &[])
    }

    fn ask_with(
        &mut self,
        command: u16,
        body: &[u8],
        files: &[BorrowedFd<'_>],
    ) -> Result<Vec<u8>, u32> {
        self.send(command, 0, body, files);
        self.answer(command)
    }

    /// The answer to `command`; serves what the server asks for meanwhile.
    fn answer(&mut self, command: u16) -> Result<Vec<u8>, u32> {
        loop {
            let (header, body) = self.receive().unwrap();
            let [kind, flags, error] = [
                word16(&header, 2).into(),
                word(&header, 8),
                word(&header, 12),
            ];
            if flags & 0xf == 1 {
                assert_eq!(kind, u32::from(command));
                return if flags & 0x20 == 0 {
                    Ok(body)
                } else {
                    Err(error)
                };
            }
            self.serve_dma(u16::try_from(kind).unwrap(), &header, &body);
        }
    }

    fn serve_dma(&mut self, command: u16, header: &[u8], body: &[u8]) {
        let at = usize::try_from(long(body, 0)).unwrap() - (1 << 20);
        let count = usize::try_from(long(body, 8)).unwrap();
        let mut answer = body[..16].to_vec();
        match command {
            DMA_READ => answer.extend(&self.remote[at..at + count]),
            DMA_WRITE => self.remote[at..at + count].copy_from_slice(&body[16..]),
            _ => panic!("the server asks for {command}"),
        }
        let mut bytes = header.to_vec();
        let len = u32::try_from(16 + answer.len()).unwrap();
        bytes[4..8].copy_from_slice(&len.to_le_bytes());
        bytes[8..12].copy_from_slice(&1_u32.to_le_bytes());
        bytes.extend(answer);
        self.stream.write_all(&bytes).unwrap();
    }

    fn receive(&mut self) -> io::Result<([u8; 16], Vec<u8>)> {
        let mut header = [0; 16];
        self.stream.read_exact(&mut header)?;
        let mut body = vec![0; word(&header, 4) as usize - 16];
        self.stream.read_exact(&mut body)?;
        Ok((header, body))
    }

    fn read(&mut self, region: u32, offset: u64, count: u32) -> Result<Vec<u8>, u32> {
        let answer = self.ask(REGION_READ, &access(region, offset, count))?;
        Ok(answer[16..].to_vec())
    }

    fn write(&mut self, region: u32, offset: u64, data: &[u8]) -> Result<Vec<u8>, u32> {
        let count = u32::try_from(data.len()).unwrap();
        let body = [&access(region, offset, count)[..], data].concat();
        self.ask(REGION_WRITE, &body)
    }

    fn register(&mut self, offset: u64) -> u32 {
        word(&self.read(0, offset, 4).unwrap(), 0)
    }

    /// Enables the controller with its admin queues at `queues`.
    fn enable(&mut self, queues: u64) {
        self.write(CONFIG_SPACE, 4, &6_u16.to_le_bytes()).unwrap();
        self.write(0, 0x24, &0x000f_000f_u32.to_le_bytes()).unwrap();
        self.write(0, 0x28, &queues.to_le_bytes()).unwrap();
        self.write(0, 0x30, &(queues + 4096).to_le_bytes()).unwrap();
        self.write(0, 0x14, &0x0046_0001_u32.to_le_bytes()).unwrap();
        while self.register(0x1c) & 1 == 0 {}
    }

    /// Goes away; what the server makes of it.
    fn leave(&mut self) -> Result<(), Broken> {
        self.stream.shutdown(std::net::Shutdown::Both).unwrap();
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.path));
    }
}

fn header(command: u16, size: usize, flags: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[0..2].copy_from_slice(&7_u16.to_le_bytes());
    header[2..4].copy_from_slice(&command.to_le_bytes());
    header[4..8].copy_from_slice(&u32::try_from(size).unwrap().to_le_bytes());
    header[8..12].copy_from_slice(&flags.to_le_bytes());
    header
}

fn version(major: u16, minor: u16) -> Vec<u8> {
    let mut body = [major.to_le_bytes(), minor.to_le_bytes()].concat();
    body.extend(b"{\"capabilities\":{\"max_data_xfer_size\":1048576,\"write_multiple\":true}}\0");
    body
}

fn access(region: u32, offset: u64, count: u32) -> Vec<u8> {
    [
        &offset.to_le_bytes()[..],
        &region.to_le_bytes(),
        &count.to_le_bytes(),
    ]
    .concat()
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// A request to map, or with `argsz` 24 and no offset, to unmap.
fn map(offset: u64, address: u64, size: u64) -> Vec<u8> {
    let mut body = words(&[32, 3]);
    body.extend(
        [offset, address, size]
            .iter()
            .flat_map(|word| word.to_le_bytes()),
    );
    body
}

fn unmap(address: u64, size: u64) -> Vec<u8> {
    let mut body = words(&[24, 0]);
    body.extend([address, size].iter().flat_map(|word| word.to_le_bytes()));
    body
}

fn word16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap())
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// Memory as QEMU shares it.
fn memfd(len: u64, seals: SealFlags) -> OwnedFd {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = memfd_create("guest", flags).unwrap();
    rustix::fs::ftruncate(&file, len).unwrap();
    fcntl_add_seals(&file, seals).unwrap();
    file
}

/// An Identify command for the controller, with its data at `to`.
fn identify(to: u64) -> [u8; 64] {
    let mut command = [0; 64];
    command[0] = 6;
    command[24..32].copy_from_slice(&to.to_le_bytes());
    command[40] = 1;
    command
}

#[test]
fn a_client_learns_what_the_device_is() {
    let mut served = Served::greeted("info");
    assert_eq!(
        served.ask(DEVICE_INFO, &words(&[16, 0, 0, 0])).unwrap(),
        words(&[16, 3, 9, 5])
    );
    let bar = served
        .ask(REGION_INFO, &words(&[32, 0, 0, 0, 0, 0, 0, 0]))
        .unwrap();
    assert!(long(&bar, 16) >= 0x2000 && word(&bar, 4) == 3);
    let rom = served
        .ask(REGION_INFO, &words(&[32, 0, 6, 0, 0, 0, 0, 0]))
        .unwrap();
    assert_eq!(long(&rom, 16), 0);
    assert_eq!(
        served.ask(IRQ_INFO, &words(&[16, 0, 2, 0])).unwrap(),
        words(&[16, 1, 2, 65])
    );
    assert_eq!(
        served.read(CONFIG_SPACE, 0, 4).unwrap(),
        [0x36, 0x1b, 0x10, 0x00]
    );
    // The whole of configuration space at once, as QEMU reads it.
    assert_eq!(
        served.read(CONFIG_SPACE, 0, 4096).unwrap()[..2],
        [0x36, 0x1b]
    );
    assert!(matches!(served.leave(), Ok(())));
}

#[test]
fn the_device_works_on_shared_memory_and_signals_a_descriptor() {
    let mut served = Served::greeted("shared");
    let memory = memfd(1 << 20, SealFlags::SHRINK);
    served
        .ask_with(DMA_MAP, &map(0, 0x10_0000, 1 << 20), &[memory.as_fd()])
        .unwrap();
    let event = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    let irqs = words(&[20, 0x24, 2, 0, 1]);
    served.ask_with(SET_IRQS, &irqs, &[event.as_fd()]).unwrap();
    served.enable(0x10_0000);
    // MSI-X on: the client keeps the table.
    let msix = (0x40..0x100).find(|at| served.read(CONFIG_SPACE, *at, 1).unwrap() == [0x11]);
    served
        .write(CONFIG_SPACE, msix.unwrap() + 2, &0x8000_u16.to_le_bytes())
        .unwrap();
    let file = File::from(memory.try_clone().unwrap());
    file.write_all_at(&identify(0x10_4000), 0).unwrap();
    served.write(0, 0x1000, &1_u32.to_le_bytes()).unwrap();
    let mut count = [0; 8];
    assert_eq!(rustix::io::read(&event, &mut count).unwrap(), 8);
    assert_eq!(count, 1_u64.to_ne_bytes());
    let mut vendor = [0; 2];
    file.read_exact_at(&mut vendor, 0x4000).unwrap();
    assert_eq!(vendor, [0x36, 0x1b]);
    assert!(matches!(served.leave(), Ok(())));
}

#[test]
fn memory_without_a_file_or_without_a_seal_is_reached_by_messages() {
    for sealed in [false, true] {
        let mut served = Served::greeted(if sealed { "unsealed" } else { "remote" });
        let memory = memfd(1 << 16, SealFlags::GROW);
        let files = if sealed { vec![memory.as_fd()] } else { vec![] };
        served
            .ask_with(DMA_MAP, &map(0, 1 << 20, 1 << 16), &files)
            .unwrap();
        served.enable(1 << 20);
        served.remote[..64].copy_from_slice(&identify((1 << 20) + 0x4000));
        served.write(0, 0x1000, &1_u32.to_le_bytes()).unwrap();
        // Reading registers lets the transfers happen that are under way.
        while served.remote[0x4000..0x4002] != [0x36, 0x1b] {
            served.register(0x1c);
        }
        assert!(matches!(served.leave(), Ok(())));
    }
}

#[test]
fn memory_may_reach_the_end_of_the_address_space() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let world = World::new(1);
    let guest = Guest::default();
    let memory = world.host_memory(guest.memory());
    let nvme = Nvme::new(&world, &memory, RequesterId(0x0100), Config::default());
    let mut session = Session::new(ours, &nvme.endpoint(), &guest).unwrap();
    let first = u64::MAX - 0xfff;
    for (command, body) in [
        (VERSION, vec![0, 0, 1, 0]),
        (DMA_MAP, map(0, first, 0x1000)),
    ] {
        let message = Message::parse(header(command, 16 + body.len(), 0), body, Vec::new());
        session.handle(message.unwrap()).unwrap();
        let mut answer = [0; 16];
        theirs.read_exact(&mut answer).unwrap();
        assert_eq!(word(&answer, 8), 1);
        theirs
            .read_exact(&mut vec![0; word(&answer, 4) as usize - 16])
            .unwrap();
    }
    // Answers everything, and remembers what was written.
    let client = thread::spawn(move || {
        let mut written = Vec::new();
        let mut asked = [0; 16];
        while theirs.read_exact(&mut asked).is_ok() {
            let mut body = vec![0; word(&asked, 4) as usize - 16];
            theirs.read_exact(&mut body).unwrap();
            let mut answer = body[..16].to_vec();
            let count = usize::try_from(long(&body, 8)).unwrap();
            if word16(&asked, 2) == DMA_READ {
                answer.resize(16 + count, 7);
            }
            written.extend_from_slice(&body[16..]);
            let mut head = header(word16(&asked, 2), 16 + answer.len(), 1);
            head[..2].copy_from_slice(&asked[..2]);
            theirs.write_all(&[&head[..], &answer].concat()).unwrap();
        }
        written
    });
    let last = BusAddress::new(u64::MAX - 15);
    let mut bytes = [0; 16];
    assert!(guest.memory().read(last, &mut bytes));
    assert_eq!(bytes, [7; 16]);
    assert!(guest.memory().write(last, &[9; 16]));
    // Beyond the end there is nothing, and no panic.
    assert!(!guest.memory().read(last, &mut [0; 17]));
    drop(session);
    assert_eq!(client.join().unwrap(), [9; 16]);
}

#[test]
fn maps_must_not_overlap_and_unmaps_of_nothing_are_no_error() {
    let mut served = Served::greeted("maps");
    served.ask(DMA_MAP, &map(0, 0x1000, 0x1000)).unwrap();
    for (address, size) in [(0x1000, 0x1000), (0x1fff, 1), (0, 0x1001), (0x1800, 8)] {
        assert_eq!(served.ask(DMA_MAP, &map(0, address, size)), Err(17));
    }
    for (address, size) in [(0, 0), (u64::MAX, 2), (u64::MAX - 4095, 4097)] {
        assert_eq!(served.ask(DMA_MAP, &map(0, address, size)), Err(22));
    }
    // As a client with an IOMMU sends it.
    served
        .ask(DMA_UNMAP, &unmap(0xfef0_0000, 0xffff_ffff_0110_0000))
        .unwrap();
    assert_eq!(served.ask(DMA_UNMAP, &unmap(0x1800, 0x1000)), Err(22));
    served.ask(DMA_UNMAP, &unmap(0, 0x4000)).unwrap();
    served.ask(DMA_MAP, &map(0, 0x1000, 0x1000)).unwrap();
    // A file that is too short for what it shall hold.
    let memory = memfd(0x1000, SealFlags::SHRINK);
    let short = served.ask_with(DMA_MAP, &map(0x800, 0x8000, 0x1000), &[memory.as_fd()]);
    assert_eq!(short, Err(22));
    assert!(matches!(served.leave(), Ok(())));
}

#[test]
fn accesses_outside_of_a_region_are_refused() {
    let mut served = Served::greeted("regions");
    for (region, offset, count) in [
        (CONFIG_SPACE, 4096, 1),
        (CONFIG_SPACE, 4095, 2),
        (CONFIG_SPACE, u64::MAX, 4),
        (CONFIG_SPACE, 0, 0),
        (6, 0, 4),
        (8, 0, 4),
        (9, 0, 4),
        (u32::MAX, 0, 4),
        (0, 0, u32::MAX),
    ] {
        assert_eq!(
            served.read(region, offset, count),
            Err(22),
            "{region} {offset} {count}"
        );
    }
    assert_eq!(served.write(9, 0, &[0; 4]), Err(22));
    // A write that says another length than it has.
    let body = [&access(0, 0x14, 8)[..], &[0; 4]].concat();
    assert_eq!(served.ask(REGION_WRITE, &body), Err(22));
    assert_eq!(served.ask(6, &[]), Err(95));
    served.ask(RESET, &[]).unwrap();
    assert!(matches!(served.leave(), Ok(())));
}

/// What one function sends to the other goes from the first one's memory to the second one's, and a client that is left
/// takes nobody with it.
#[test]
fn functions_of_one_card_have_each_its_own_memory_and_client() {
    const BASE: u64 = 1 << 20;

    let [mut one, mut two] = Served::functions("functions");
    assert_eq!(
        one.read(CONFIG_SPACE, 0, 4),
        Ok(vec![0x86, 0x80, 0xed, 0x10])
    );
    let memory = [(); 2].map(|()| File::from(memfd(1 << 16, SealFlags::SHRINK)));
    for (served, file) in [&mut one, &mut two].into_iter().zip(&memory) {
        let body = map(0, BASE, 1 << 16);
        served.ask_with(DMA_MAP, &body, &[file.as_fd()]).unwrap();
    }
    let (from, to) = (one.begin(), two.begin());
    // A receive queue of the second, with its ring at 0 and a buffer at 4,096.
    memory[1]
        .write_all_at(&(BASE + 4096).to_le_bytes(), 0)
        .unwrap();
    for (offset, value) in [
        (0x1000, 1 << 20),
        (0x1008, 128),
        (0x1014, 1 << 25 | 2),
        (0x1028, 1 << 25),
        (0x1018, 1),
    ] {
        two.set(offset, value);
    }
    // A transmit queue of the first, with a frame at the same addresses.
    let mut frame = [to, from].concat();
    frame.extend([0x88, 0xb5]);
    frame.resize(100, 0x5a);
    memory[0].write_all_at(&frame, 4096).unwrap();
    let words = [BASE + 4096, 100 << 46 | 0x2b30_0000 | 100].map(u64::to_le_bytes);
    memory[0].write_all_at(&words.concat(), 0).unwrap();
    for (offset, value) in [
        (0x2000, 1 << 20),
        (0x2008, 128),
        (0x2028, 1 << 25),
        (0x2018, 1),
    ] {
        one.set(offset, value);
    }
    one.wait(0x2010, 1); // The head has moved.
    let began = Instant::now();
    let mut got = [0; 100];
    while got[..] != frame {
        assert!(began.elapsed() < Duration::from_secs(10));
        memory[1].read_exact_at(&mut got, 4096).unwrap();
    }
    // The first breaks the protocol: it is left, and the second goes on.
    one.stream.write_all(&header(REGION_READ, 15, 0)).unwrap();
    let mut end = [0];
    assert_eq!(one.stream.read(&mut end).unwrap(), 0);
    assert_eq!(two.register(0x0010) >> 30 & 1, 1);
    two.stream.shutdown(std::net::Shutdown::Both).unwrap();
    let result = one.thread.take().unwrap().join().unwrap();
    assert!(matches!(result, Err(Broken::Protocol(_))), "{result:?}");
}

#[test]
fn a_client_that_breaks_the_protocol_is_left() {
    let messages: [(&str, Vec<u8>); 4] = [
        ("large", header(REGION_READ, 0x7fff_ffff, 0).to_vec()),
        ("small", header(REGION_READ, 15, 0).to_vec()),
        ("answer", header(REGION_READ, 16, 1).to_vec()),
        (
            "again",
            [&header(VERSION, 16 + 4, 0)[..], &[0, 0, 1, 0]].concat(),
        ),
    ];
    for (name, bytes) in messages {
        let mut served = Served::greeted(name);
        served.stream.write_all(&bytes).unwrap();
        let result = served.thread.take().unwrap().join().unwrap();
        assert!(
            matches!(result, Err(Broken::Protocol(_))),
            "{name}: {result:?}"
        );
    }
    let mut early = Served::new("early");
    early.send(DEVICE_INFO, 0, &words(&[16, 0, 0, 0]), &[]);
    let result = early.thread.take().unwrap().join().unwrap();
    assert!(matches!(result, Err(Broken::Protocol(_))));
    let mut newer = Served::new("newer");
    newer.send(VERSION, 0, &version(1, 0), &[]);
    let result = newer.thread.take().unwrap().join().unwrap();
    assert!(matches!(result, Err(Broken::Protocol(_))));
}

proptest! {
    /// "Nothing that a client sends makes the server panic, or write outside of what was asked for."
    #[test]
    fn no_message_is_the_servers_end(
        messages in prop::collection::vec((0..20_u16, 0..64_u32, prop::collection::vec(any::<u8>(), 0..80)), 1..40),
    ) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let world = World::new(1);
        let guest = Guest::default();
        let memory = world.host_memory(guest.memory());
        let nvme = Nvme::new(&world, &memory, RequesterId(0x0100), Config::default());
        let mut session = Session::new(theirs, &nvme.endpoint(), &guest).unwrap();
        let hello = Message::parse(header(VERSION, 20, 0), vec![0, 0, 1, 0], Vec::new()).unwrap();
        session.handle(hello).unwrap();
        for (command, flags, body) in messages {
            let message = Message::parse(header(command, 16 + body.len(), flags), body, Vec::new());
            if session.handle(message.unwrap()).is_err() {
                break;
            }
            world.settle(100);
        }
    }
}
