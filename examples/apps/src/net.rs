//! A TCP/IP stack that the tasks of one executor share.
//!
//! Two tasks drive it: [`Stack::ingress`], to run first in each turn, and [`Stack::egress`], to run last, so that all
//! that the tasks between them send leaves in one batch.

use core::{
    cell::{Cell, RefCell},
    fmt,
    future::poll_fn,
    mem::MaybeUninit,
    net::Ipv4Addr,
    task::{Context, Poll},
    time::Duration,
};

use parakernel_core::{
    error::{Error, ErrorKind},
    time::Instant,
};
use parakernel_smoltcp::{Device, Link, instant};
use smoltcp::{
    iface::{Config, Interface, PollIngressSingleResult, PollResult, SocketHandle, SocketSet},
    socket::{AnySocket, tcp, udp},
    wire::{EthernetAddress, IpCidr},
};

use crate::executor::{Agenda, next_turn};

pub use smoltcp::iface::SocketStorage;
pub use smoltcp::socket::udp::UdpMetadata;

/// Most frames that a turn takes from the link.
const BUDGET: usize = 64;

/// The longest datagram that fits a frame.
const DATAGRAM: usize = 1472;

/// Bytes that a UDP socket holds in either direction: what a turn brings at most, behind as much that could not be sent yet. With less,
/// a burst that a card or a host has kept (while the card was reset, say) would lose datagrams in the middle of a turn.
const UDP_PAYLOAD: usize = 2 * BUDGET * DATAGRAM;

/// How long the peer of a closed connection may take to close its side.
const FAREWELL: Duration = Duration::from_secs(5);

/// A process's place on the network.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Address {
    /// Ethernet address.
    pub mac: [u8; 6],
    /// IPv4 address.
    pub ip: Ipv4Addr,
    /// Bits of the network's prefix, up to 32.
    pub prefix: u8,
    /// Where datagrams to other networks go.
    pub gateway: Option<Ipv4Addr>,
}

/// Who a network process is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    /// Its place on the network.
    pub address: Address,
    /// Its key of the [nonce service](crate::nonce).
    pub key: u64,
}

/// Buffers of a UDP socket.
#[derive(Debug)]
pub struct UdpMemory {
    /// Written when the socket is made: what it starts from is not zero, and would take room in a program's file.
    metadata: MaybeUninit<[[udp::PacketMetadata; 256]; 2]>,
    payload: [[u8; UDP_PAYLOAD]; 2],
}

impl UdpMemory {
    /// Unused buffers; fit for a `static`.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            metadata: MaybeUninit::uninit(),
            payload: [[0; _]; 2],
        }
    }
}

impl Default for UdpMemory {
    fn default() -> Self {
        Self::new()
    }
}

/// Buffers of a server's sockets, fit for a `static`.
#[derive(Debug)]
pub struct ServerMemory<const UDP: usize, const TCP: usize> {
    pub(crate) udp: [UdpMemory; UDP],
    pub(crate) tcp: [TcpMemory; TCP],
}

impl<const UDP: usize, const TCP: usize> ServerMemory<UDP, TCP> {
    /// Unused buffers.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            udp: [const { UdpMemory::new() }; UDP],
            tcp: [const { TcpMemory::new() }; TCP],
        }
    }
}

impl<const UDP: usize, const TCP: usize> Default for ServerMemory<UDP, TCP> {
    fn default() -> Self {
        Self::new()
    }
}

/// Buffers of a TCP socket.
#[derive(Debug)]
pub struct TcpMemory([[u8; 0x4000]; 2]);

impl TcpMemory {
    /// Zeroed buffers; fit for a `static`.
    #[must_use]
    pub const fn new() -> Self {
        Self([[0; _]; 2])
    }
}

impl Default for TcpMemory {
    fn default() -> Self {
        Self::new()
    }
}

/// The other side of a TCP connection sends no more, or the connection is gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Closed;

/// A network interface and its sockets.
pub struct Stack<'a, L: Link> {
    inner: RefCell<Inner<'a, L>>,
    agenda: &'a Agenda,
}

struct Inner<'a, L: Link> {
    device: Device<'a, L>,
    interface: Interface,
    sockets: SocketSet<'a>,
    failure: Option<ErrorKind>,
}

impl<'a, L: Link> Stack<'a, L> {
    /// A stack at `address`. `storage` has a place for each socket to come.
    #[must_use]
    pub fn new(
        mut device: Device<'a, L>,
        address: Address,
        storage: &'a mut [SocketStorage<'a>],
        agenda: &'a Agenda,
    ) -> Self {
        let mac = EthernetAddress(address.mac);
        let now = instant(agenda.now());
        let mut interface = Interface::new(Config::new(mac.into()), &mut device, now);
        interface.update_ip_addrs(|addresses| {
            // There is room for the first address, so this cannot fail.
            let _ = addresses.push(IpCidr::new(address.ip.into(), address.prefix.min(32)));
        });
        if let Some(gateway) = address.gateway {
            // The same holds for the first route.
            let _ = interface.routes_mut().add_default_ipv4_route(gateway);
        }
        let inner = Inner {
            device,
            interface,
            sockets: SocketSet::new(storage),
            failure: None,
        };
        Self {
            inner: RefCell::new(inner),
            agenda,
        }
    }

    /// Adds a UDP socket at `port`, which is not 0.
    ///
    /// # Panics
    ///
    /// If there is no place left for a socket.
    pub fn add_udp(&self, port: u16, memory: &'a mut UdpMemory) -> SocketHandle {
        let [rx, tx] = memory
            .metadata
            .write([[udp::PacketMetadata::EMPTY; 256]; 2]);
        let [rx_payload, tx_payload] = &mut memory.payload;
        let mut socket = udp::Socket::new(
            udp::PacketBuffer::new(&mut rx[..], &mut rx_payload[..]),
            udp::PacketBuffer::new(&mut tx[..], &mut tx_payload[..]),
        );
        // A new socket takes any port but 0.
        let _ = socket.bind(port);
        self.inner.borrow_mut().sockets.add(socket)
    }

    /// Adds a TCP socket.
    ///
    /// # Panics
    ///
    /// If there is no place left for a socket.
    pub fn add_tcp(&self, memory: &'a mut TcpMemory) -> SocketHandle {
        let [rx, tx] = &mut memory.0;
        let rx = tcp::SocketBuffer::new(&mut rx[..]);
        let mut socket = tcp::Socket::new(rx, tcp::SocketBuffer::new(&mut tx[..]));
        // Answers are written whole: there is nothing to wait for.
        socket.set_nagle_enabled(false);
        // A peer that has gone without a word gives its socket back.
        socket.set_keep_alive(Some(smoltcp::time::Duration::from_secs(15)));
        socket.set_timeout(Some(smoltcp::time::Duration::from_secs(60)));
        self.inner.borrow_mut().sockets.add(socket)
    }

    /// How the link failed, if it did.
    #[must_use]
    pub fn failure(&self) -> Option<ErrorKind> {
        self.inner.borrow().failure
    }

    /// The task that takes frames from the link, once per turn. Stops the executor when the link fails.
    pub async fn ingress(&self) {
        while self.receive_batch().is_ok() {
            next_turn().await;
        }
    }

    /// The task that sends what the sockets have to say, once per turn. Stops the executor when the link fails.
    pub async fn egress(&self) {
        while self.send_batch().is_ok() {
            next_turn().await;
        }
    }

    fn receive_batch(&self) -> Result<(), ErrorKind> {
        let mut inner = self.inner.borrow_mut();
        let filled = inner.device.fill(BUDGET).map_err(Error::kind);
        if filled.map_err(|kind| self.fail(&mut inner, kind))? > 0 {
            self.agenda.note_work();
            inner.take_frames(self.agenda.now());
        }
        Ok(())
    }

    fn send_batch(&self) -> Result<(), ErrorKind> {
        let mut inner = self.inner.borrow_mut();
        if let Some(next) = inner.send_frames(self.agenda.now()) {
            self.agenda.wake_at(next);
        }
        let flushed = inner.device.flush().map_err(Error::kind);
        flushed.map_err(|kind| self.fail(&mut inner, kind))
    }

    fn fail(&self, inner: &mut Inner<'_, L>, kind: ErrorKind) -> ErrorKind {
        inner.failure = Some(kind);
        self.agenda.stop();
        kind
    }

    /// Waits for a datagram that fits into `buffer`, and copies it there. One that is longer is dropped as a whole.
    pub async fn receive_from(
        &self,
        handle: SocketHandle,
        buffer: &mut [u8],
    ) -> (usize, UdpMetadata) {
        self.until(handle, |socket: &mut udp::Socket<'_>, context| {
            loop {
                match socket.recv_slice(buffer) {
                    Ok(received) => return Poll::Ready(received),
                    Err(udp::RecvError::Truncated) => {}
                    Err(udp::RecvError::Exhausted) => {
                        socket.register_recv_waker(context.waker());
                        return Poll::Pending;
                    }
                }
            }
        })
        .await
    }

    /// Sends `datagram`, once there is room for it. One that can never be sent is dropped.
    pub async fn send_to(&self, handle: SocketHandle, datagram: &[u8], to: UdpMetadata) {
        self.until(handle, |socket: &mut udp::Socket<'_>, context| {
            let fits = datagram.len() <= socket.payload_send_capacity();
            match socket.send_slice(datagram, to) {
                Err(udp::SendError::BufferFull) if fits => {
                    socket.register_send_waker(context.waker());
                    Poll::Pending
                }
                Ok(()) | Err(udp::SendError::BufferFull | udp::SendError::Unaddressable) => {
                    Poll::Ready(())
                }
            }
        })
        .await;
    }

    /// Waits for a client to connect to `port`, which is not 0. The socket must be closed.
    pub async fn accept(&self, handle: SocketHandle, port: u16) {
        self.until(handle, |socket: &mut tcp::Socket<'_>, context| {
            if socket.may_send() {
                return Poll::Ready(());
            }
            if !socket.is_open() {
                // A closed socket listens at any port but 0.
                let _ = socket.listen(port);
            }
            socket.register_send_waker(context.waker());
            Poll::Pending
        })
        .await;
    }

    /// Waits for bytes of the peer and copies some into `buffer`; returns how many.
    ///
    /// # Errors
    ///
    /// [`Closed`] after the last byte.
    pub async fn read(&self, handle: SocketHandle, buffer: &mut [u8]) -> Result<usize, Closed> {
        self.until(
            handle,
            |socket: &mut tcp::Socket<'_>, context| match socket.recv_slice(buffer) {
                Ok(0) => {
                    socket.register_recv_waker(context.waker());
                    Poll::Pending
                }
                Ok(count) => Poll::Ready(Ok(count)),
                Err(tcp::RecvError::Finished | tcp::RecvError::InvalidState) => {
                    Poll::Ready(Err(Closed))
                }
            },
        )
        .await
    }

    /// Sends all of `bytes`, as fast as there is room for them.
    ///
    /// # Errors
    ///
    /// [`Closed`] where the connection ended before they all had room.
    pub async fn write(&self, handle: SocketHandle, bytes: &[u8]) -> Result<(), Closed> {
        let mut rest = bytes;
        self.until(handle, |socket: &mut tcp::Socket<'_>, context| {
            match socket.send_slice(rest) {
                Ok(count) => rest = rest.get(count..).unwrap_or_default(),
                Err(tcp::SendError::InvalidState) => return Poll::Ready(Err(Closed)),
            }
            if rest.is_empty() {
                return Poll::Ready(Ok(()));
            }
            socket.register_send_waker(context.waker());
            Poll::Pending
        })
        .await
    }

    /// Closes the connection once everything was sent and acknowledged, and frees the socket for the next one.
    pub async fn close(&self, handle: SocketHandle) {
        let mut limit = None;
        self.until(handle, |socket: &mut tcp::Socket<'_>, context| {
            socket.close();
            if socket.send_queue() == 0 && limit.is_none() {
                limit = Some(self.agenda.now().saturating_add(FAREWELL));
            }
            let over = limit.is_some_and(|limit| self.agenda.now() >= limit);
            if over || !socket.is_active() {
                // Not waiting out the time in which old segments may come: they will find no connection.
                socket.abort();
                return Poll::Ready(());
            }
            socket.register_recv_waker(context.waker());
            socket.register_send_waker(context.waker());
            limit.iter().for_each(|limit| self.agenda.wake_at(*limit));
            Poll::Pending
        })
        .await;
    }

    /// Waits until `look` at the socket is ready; it sees to it that it is woken.
    async fn until<S: AnySocket<'a>, T>(
        &self,
        handle: SocketHandle,
        mut look: impl FnMut(&mut S, &mut Context<'_>) -> Poll<T>,
    ) -> T {
        poll_fn(|context| {
            let mut inner = self.inner.borrow_mut();
            look(inner.sockets.get_mut(handle), context)
        })
        .await
    }
}

impl<L: Link> fmt::Debug for Stack<'_, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stack").finish_non_exhaustive()
    }
}

impl<L: Link> Inner<'_, L> {
    /// Lets the stack work on the frames that the device holds.
    fn take_frames(&mut self, now: Instant) {
        let Self {
            device,
            interface,
            sockets,
            ..
        } = self;
        let now = instant(now);
        interface.poll_maintenance(now);
        while interface.poll_ingress_single(now, device, sockets) != PollIngressSingleResult::None {
        }
    }

    /// Sends while there is something to send and room for it; returns when there may be more.
    fn send_frames(&mut self, now: Instant) -> Option<Instant> {
        let Self {
            device,
            interface,
            sockets,
            ..
        } = self;
        let now = instant(now);
        while interface.poll_egress(now, device, sockets) != PollResult::None {}
        let next = interface.poll_at(now, sockets)?;
        let micros = u64::try_from(next.total_micros()).unwrap_or(0);
        Some(Instant::from_nanos(micros.saturating_mul(1000)))
    }
}

/// Sends each datagram of `socket` back after `transform`, if that says so, and counts those in `served`.
pub async fn answer<L: Link>(
    stack: &Stack<'_, L>,
    socket: SocketHandle,
    served: &Cell<u64>,
    transform: impl Fn(&mut [u8]) -> bool,
) {
    let mut buffer = [0; DATAGRAM];
    loop {
        let (len, from) = stack.receive_from(socket, &mut buffer).await;
        let datagram = buffer.get_mut(..len).unwrap_or_default();
        if transform(datagram) {
            stack.send_to(socket, datagram, from).await;
            served.set(served.get() + 1);
        }
    }
}
