//! The models as PCI devices of a virtual machine: a server of the vfio-user protocol 0.1, for QEMU 10.1 and newer.
//!
//! Written from QEMU's *vfio-user Protocol Specification* (`docs/interop/vfio-user.rst`) and the structures of
//! `linux/vfio.h` that it names. A client has one device; a server may serve several, each at a
//! socket of its own:
//!
//! ```text
//! mock-hw serve --device nvme --socket /tmp/nvme.sock
//! qemu-system-x86_64 -machine q35,memory-backend=mem -object memory-backend-memfd,id=mem,size=512M,share=on \
//!     -device '{"driver":"vfio-user-pci","socket":{"type":"unix","path":"/tmp/nvme.sock"}}' …
//! ```
//!
//! What a client sends is not trusted: a message is read only as far as its kind allows, every range is checked, and a
//! client that breaks the protocol, or lets an answer wait too long, is left. Guest memory arrives as a file: it is
//! mapped if its size is sealed (so that it cannot vanish under the server), else it is reached by messages, as is
//! memory that comes without a file. Time in the [`World`](crate::World) follows the real clock.
//!
//! Left out: mapped BARs, ioeventfds, twin sockets, combined writes, migration, and interrupts but MSI-X.

mod channel;
mod dma;
mod interrupts;
mod mapping;
mod regions;
mod server;
mod session;
mod wire;

pub use channel::{Broken, Message};
pub use dma::Guest;
pub use server::Server;
pub use session::Session;
