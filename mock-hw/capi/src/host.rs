//! The caller's machine: its memory and its interrupt controller.
#![expect(unsafe_code, reason = "calls the caller back")]

use core::{ffi::c_void, fmt};
use std::sync::{Mutex, PoisonError};

use parakernel_core::address::BusAddress;
use parakernel_mock_hw::{
    interrupt::Message,
    memory::{HostMemory, RequesterId},
};

use crate::{call::call_back, code::Code, pointer::Versioned};

/// `struct mock_hw_host`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Host {
    /// Bytes of the structure.
    pub size: usize,
    /// Handed to the callbacks.
    pub user: *mut c_void,
    /// Reads memory; 0 where all of it is there.
    pub dma_read: Option<
        unsafe extern "C" fn(*mut c_void, requester: u16, address: u64, *mut c_void, usize) -> i32,
    >,
    /// Writes memory; 0 where all of it is there.
    pub dma_write: Option<
        unsafe extern "C" fn(
            *mut c_void,
            requester: u16,
            address: u64,
            *const c_void,
            usize,
        ) -> i32,
    >,
    /// Takes an interrupt.
    pub interrupt: Option<
        unsafe extern "C" fn(*mut c_void, requester: u16, vector: u16, address: u64, data: u32),
    >,
}

// SAFETY: `#[repr(C)]`, the size first; null pointers and no functions are values.
unsafe impl Versioned for Host {
    const LEAST: usize = size_of::<Self>();
}

/// `struct mock_hw_config`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Config {
    /// Bytes of the structure.
    pub size: usize,
    /// The address of a network device.
    pub mac: [u8; 6],
    /// Queue pairs of virtio-net and NVMe.
    pub queue_pairs: u16,
    /// Entries of their largest queue.
    pub queue_entries: u16,
    /// Their MSI-X vectors.
    pub vectors: u16,
    /// Virtual functions of an 82599.
    pub virtual_functions: u16,
    /// 0.
    pub reserved: u16,
    /// Bytes of a block.
    pub block_len: u32,
    /// 0.
    pub reserved2: u32,
    /// Blocks of the namespace.
    pub blocks: u64,
    /// Features that virtio-net offers.
    pub features: u64,
}

// SAFETY: `#[repr(C)]`, the size first; all other fields are integers.
unsafe impl Versioned for Config {
    const LEAST: usize = size_of::<Self>();
}

impl Config {
    /// What a caller wants who says nothing.
    pub(crate) const DEFAULT: Self = Self {
        size: size_of::<Self>(),
        mac: [0; 6],
        queue_pairs: 0,
        queue_entries: 0,
        vectors: 0,
        virtual_functions: 0,
        reserved: 0,
        block_len: 0,
        reserved2: 0,
        blocks: 0,
        features: 0,
    };
}

/// The callbacks of one device, until it is destroyed.
pub(crate) struct Callbacks {
    /// Locked during a callback, so that the end of a device waits for it.
    host: Mutex<Option<Given>>,
}

/// What the caller gave.
#[derive(Clone, Copy)]
struct Given {
    user: *mut c_void,
    dma_read: unsafe extern "C" fn(*mut c_void, u16, u64, *mut c_void, usize) -> i32,
    dma_write: unsafe extern "C" fn(*mut c_void, u16, u64, *const c_void, usize) -> i32,
    interrupt: Option<unsafe extern "C" fn(*mut c_void, u16, u16, u64, u32)>,
}

// SAFETY: the library only hands `user` back; that its functions may be called with it from any thread that calls
// `mock_hw_step` or `mock_hw_run`, one at a time, is in the contract of `mock_hw_create`.
unsafe impl Send for Given {}

impl Callbacks {
    /// # Errors
    ///
    /// [`Code::Pointer`] where a function is missing that must be there.
    ///
    /// # Safety
    ///
    /// The functions of `host` may be called as `mock_hw.h` says, with its `user`, until [`close`](Self::close) returns.
    pub(crate) unsafe fn new(host: &Host) -> Result<Self, Code> {
        let given = Given {
            user: host.user,
            dma_read: host.dma_read.ok_or(Code::Pointer)?,
            dma_write: host.dma_write.ok_or(Code::Pointer)?,
            interrupt: host.interrupt,
        };
        Ok(Self {
            host: Mutex::new(Some(given)),
        })
    }

    /// Lets no callback begin any more, and waits for one that runs.
    pub(crate) fn close(&self) {
        *self.host.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Calls back, if the device still is there.
    fn with<T>(&self, callback: impl FnOnce(Given) -> T) -> Option<T> {
        let host = self.host.lock().unwrap_or_else(PoisonError::into_inner);
        host.map(|given| call_back(|| callback(given)))
    }

    pub(crate) fn interrupt(&self, message: Message) {
        let Message {
            requester: RequesterId(requester),
            vector,
            address,
            data,
            ..
        } = message;
        let _gone = self.with(|given| {
            if let Some(interrupt) = given.interrupt {
                // SAFETY: the contract of `new`.
                unsafe { interrupt(given.user, requester, vector, address, data) };
            }
        });
    }
}

impl fmt::Debug for Callbacks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Callbacks").finish_non_exhaustive()
    }
}

/// The caller's memory, as one function reaches it.
#[derive(Debug)]
pub(crate) struct CallersMemory {
    pub(crate) callbacks: alloc::sync::Arc<Callbacks>,
    pub(crate) requester: RequesterId,
}

impl HostMemory for CallersMemory {
    fn read(&self, address: BusAddress, bytes: &mut [u8]) -> bool {
        let RequesterId(requester) = self.requester;
        let (place, len) = (bytes.as_mut_ptr().cast(), bytes.len());
        let read = |given: Given| {
            // SAFETY: the contract of `Callbacks::new`; the buffer is `bytes`.
            unsafe { (given.dma_read)(given.user, requester, address.as_u64(), place, len) }
        };
        len == 0 || self.callbacks.with(read) == Some(0)
    }

    fn write(&self, address: BusAddress, bytes: &[u8]) -> bool {
        let RequesterId(requester) = self.requester;
        let (place, len) = (bytes.as_ptr().cast(), bytes.len());
        let write = |given: Given| {
            // SAFETY: the contract of `Callbacks::new`; the buffer is `bytes`.
            unsafe { (given.dma_write)(given.user, requester, address.as_u64(), place, len) }
        };
        len == 0 || self.callbacks.with(write) == Some(0)
    }
}
