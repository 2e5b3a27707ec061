//! The functions of `mock_hw.h`, which says what they do.
#![expect(
    unsafe_code,
    reason = "functions without mangled names, called with pointers from other languages"
)]

use core::ffi::{c_char, c_void};

use crate::{
    call::call,
    code::{self, Code},
    device, fault,
    host::{Callbacks, Config, Host},
    pointer::{Buffer, Out, copy, structure},
    registry,
    world::World,
};

/// The longest frame, in bytes.
const LONGEST_FRAME: usize = 65_536;

/// The version of the library.
#[unsafe(no_mangle)]
pub extern "C" fn mock_hw_version() -> u32 {
    1
}

/// What a result means, as a text that ends with 0.
#[unsafe(no_mangle)]
pub extern "C" fn mock_hw_message(code: i32) -> *const c_char {
    code::message(code).as_ptr()
}

/// A world without devices.
///
/// # Safety
///
/// A `u64` may be written at `world`, where it is neither null nor misaligned.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mock_hw_world_create(seed: u64, world: *mut u64) -> i32 {
    call(|| {
        // SAFETY: this function's contract.
        let world = unsafe { Out::new(world) }?;
        world.put(registry::add_world(World::new(seed)));
        Ok(())
    })
}

/// Ends a world and all its devices.
#[unsafe(no_mangle)]
pub extern "C" fn mock_hw_world_destroy(world: u64) -> i32 {
    call(|| {
        let devices = registry::take_world(world)?;
        devices.iter().for_each(|device| device.end());
        Ok(())
    })
}

/// Lets the devices do up to `limit` steps.
///
/// # Safety
///
/// A `u64` may be written at `done`, where it is neither null nor misaligned.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mock_hw_step(world: u64, limit: u64, done: *mut u64) -> i32 {
    call(|| {
        // SAFETY: this function's contract.
        let done = unsafe { Out::optional(done) }?;
        let steps = registry::world(world)?.step(limit);
        if let Some(done) = done {
            done.put(steps);
        }
        Ok(())
    })
}

/// Lets the devices work for so long in their time.
#[unsafe(no_mangle)]
pub extern "C" fn mock_hw_run(world: u64, nanoseconds: u64) -> i32 {
    call(|| {
        registry::world(world)?.run(nanoseconds);
        Ok(())
    })
}

/// The devices' time.
///
/// # Safety
///
/// A `u64` may be written at `nanoseconds`, where it is neither null nor misaligned.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mock_hw_now(world: u64, nanoseconds: *mut u64) -> i32 {
    call(|| {
        // SAFETY: this function's contract.
        let nanoseconds = unsafe { Out::new(nanoseconds) }?;
        nanoseconds.put(registry::world(world)?.models.now().as_nanos());
        Ok(())
    })
}

/// Takes the oldest entry of the trace.
///
/// # Safety
///
/// A `u32` may be written at `kind`, a `usize` at `len`, `capacity` bytes at `text`, where they are neither null nor
/// misaligned.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mock_hw_trace(
    world: u64,
    kind: *mut u32,
    text: *mut c_char,
    capacity: usize,
    len: *mut usize,
) -> i32 {
    call(|| {
        // SAFETY: this function's contract.
        let kind = unsafe { Out::new(kind) }?;
        // SAFETY: this function's contract.
        let text = unsafe { Buffer::new(text.cast(), capacity) }?;
        // SAFETY: this function's contract.
        let len = unsafe { Out::new(len) }?;
        registry::world(world)?.take_entry(kind, text, len)
    })
}

/// How many entries of the trace were lost.
///
/// # Safety
///
/// A `u64` may be written at `lost`, where it is neither null nor misaligned.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mock_hw_trace_lost(world: u64, lost: *mut u64) -> i32 {
    call(|| {
        // SAFETY: this function's contract.
        let lost = unsafe { Out::new(lost) }?;
        lost.put(registry::world(world)?.models.trace().dropped());
        Ok(())
    })
}

/// A device of this kind.
///
/// # Safety
///
/// A structure of the size in its first word lies at `host`, and one at `config`, and a `u64` may be written at
/// `device`, where they are neither null nor misaligned. The functions of `host` may be called as `mock_hw.h` says, from
/// any thread that calls [`mock_hw_step`] or [`mock_hw_run`], until [`mock_hw_destroy`] or [`mock_hw_world_destroy`]
/// returns; they do not unwind.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mock_hw_create(
    world: u64,
    kind: u32,
    host: *const Host,
    config: *const Config,
    device: *mut u64,
) -> i32 {
    call(|| {
        // SAFETY: this function's contract.
        let out = unsafe { Out::new(device) }?;
        // SAFETY: this function's contract.
        let host: Host = unsafe { structure(host) }?;
        let config = if config.is_null() {
            Config::DEFAULT
        } else {
            // SAFETY: this function's contract.
            unsafe { structure(config) }?
        };
        // SAFETY: this function's contract.
        let callbacks = unsafe { Callbacks::new(&host) }?;
        let owner = registry::world(world)?;
        let functions = device::create(&owner, kind, callbacks, &config)?;
        out.put(registry::add_devices(world, functions)?);
        Ok(())
    })
}

/// Pulls a device out of its slot for good.
#[unsafe(no_mangle)]
pub extern "C" fn mock_hw_destroy(device: u64) -> i32 {
    call(|| {
        let functions = registry::take_device(device)?;
        functions.iter().for_each(|function| function.end());
        Ok(())
    })
}

/// Virtual function `n` of an 82599.
///
/// # Safety
///
/// A `u64` may be written at `function`, where it is neither null nor misaligned.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mock_hw_virtual_function(device: u64, n: u16, function: *mut u64) -> i32 {
    call(|| {
        // SAFETY: this function's contract.
        let function = unsafe { Out::new(function) }?;
        function.put(registry::virtual_function(device, n)?);
        Ok(())
    })
}

/// The identity that the device shows on the bus.
///
/// # Safety
///
/// A `u16` may be written at `requester`, where it is neither null nor misaligned.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mock_hw_requester(device: u64, requester: *mut u16) -> i32 {
    call(|| {
        // SAFETY: this function's contract.
        let requester = unsafe { Out::new(requester) }?;
        requester.put(registry::device(device)?.requester());
        Ok(())
    })
}

/// Function-level reset.
#[unsafe(no_mangle)]
pub extern "C" fn mock_hw_reset(device: u64) -> i32 {
    call(|| {
        registry::device(device)?.reset();
        Ok(())
    })
}

/// Reads configuration space.
///
/// # Safety
///
/// A `u32` may be written at `value`, where it is neither null nor misaligned.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mock_hw_config_read(
    device: u64,
    offset: u64,
    width: u32,
    value: *mut u32,
) -> i32 {
    call(|| {
        // SAFETY: this function's contract.
        let value = unsafe { Out::new(value) }?;
        value.put(registry::device(device)?.config_read(offset, width)?);
        Ok(())
    })
}

/// Writes configuration space.
#[unsafe(no_mangle)]
pub extern "C" fn mock_hw_config_write(device: u64, offset: u64, width: u32, value: u32) -> i32 {
    call(|| registry::device(device)?.config_write(offset, width, value))
}

/// Turns memory space and bus mastering on.
#[unsafe(no_mangle)]
pub extern "C" fn mock_hw_enable(device: u64) -> i32 {
    call(|| {
        registry::device(device)?.enable();
        Ok(())
    })
}

/// Bytes of a base address register.
///
/// # Safety
///
/// A `u64` may be written at `len`, where it is neither null nor misaligned.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mock_hw_bar_len(device: u64, bar: u32, len: *mut u64) -> i32 {
    call(|| {
        // SAFETY: this function's contract.
        let len = unsafe { Out::new(len) }?;
        len.put(registry::device(device)?.bar_len(bar)?);
        Ok(())
    })
}

/// Reads a register.
///
/// # Safety
///
/// A `u64` may be written at `value`, where it is neither null nor misaligned.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mock_hw_bar_read(
    device: u64,
    bar: u32,
    offset: u64,
    width: u32,
    value: *mut u64,
) -> i32 {
    call(|| {
        // SAFETY: this function's contract.
        let value = unsafe { Out::new(value) }?;
        value.put(registry::device(device)?.bar_read(bar, offset, width)?);
        Ok(())
    })
}

/// Writes a register.
#[unsafe(no_mangle)]
pub extern "C" fn mock_hw_bar_write(
    device: u64,
    bar: u32,
    offset: u64,
    width: u32,
    value: u64,
) -> i32 {
    call(|| registry::device(device)?.bar_write(bar, (offset, width), value))
}

/// Sends the device a frame.
///
/// # Safety
///
/// `len` bytes may be read at `bytes`, where it is not null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mock_hw_frame_in(device: u64, bytes: *const c_void, len: usize) -> i32 {
    call(|| {
        // SAFETY: this function's contract.
        let frame = unsafe { copy(bytes.cast(), len, LONGEST_FRAME) }?;
        registry::device(device)?.frame_in(&frame)
    })
}

/// Takes the oldest frame that the device sent.
///
/// # Safety
///
/// `capacity` bytes may be written at `bytes`, and a `usize` at `len`, where they are neither null nor misaligned.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mock_hw_frame_out(
    device: u64,
    bytes: *mut c_void,
    capacity: usize,
    len: *mut usize,
) -> i32 {
    call(|| {
        // SAFETY: this function's contract.
        let buffer = unsafe { Buffer::new(bytes.cast(), capacity) }?;
        // SAFETY: this function's contract.
        let len = unsafe { Out::new(len) }?;
        registry::device(device)?.frame_out(buffer, len)
    })
}

/// How many frames that the device sent found no room.
///
/// # Safety
///
/// A `u64` may be written at `lost`, where it is neither null nor misaligned.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mock_hw_frames_lost(device: u64, lost: *mut u64) -> i32 {
    call(|| {
        // SAFETY: this function's contract.
        let lost = unsafe { Out::new(lost) }?;
        lost.put(registry::device(device)?.wire()?.lost());
        Ok(())
    })
}

/// Joins the wires of two network devices.
#[unsafe(no_mangle)]
pub extern "C" fn mock_hw_connect(one: u64, other: u64) -> i32 {
    call(|| {
        let wires = (
            registry::device(one)?.wire()?,
            registry::device(other)?.wire()?,
        );
        if one == other {
            wires.0.loop_back();
        } else {
            parakernel_mock_hw::wire::Wire::connect(&wires.0, &wires.1);
        }
        Ok(())
    })
}

/// Plugs the cable of a network device in, or out.
#[unsafe(no_mangle)]
pub extern "C" fn mock_hw_set_link(device: u64, plugged: u32) -> i32 {
    call(|| {
        let plugged = match plugged {
            0 => false,
            1 => true,
            _ => return Err(Code::Argument),
        };
        registry::device(device)?.set_link(plugged)
    })
}

/// Injects a fault.
#[unsafe(no_mangle)]
pub extern "C" fn mock_hw_fault(device: u64, fault: u32, queue: u16, when: u32, n: u64) -> i32 {
    call(|| {
        let faults = registry::device(device)?.faults()?;
        faults.inject(fault::fault(fault, queue)?, fault::when(when, n)?);
        Ok(())
    })
}

/// Takes back all faults that have not taken effect.
#[unsafe(no_mangle)]
pub extern "C" fn mock_hw_fault_clear(device: u64) -> i32 {
    call(|| {
        registry::device(device)?.faults()?.clear_all();
        Ok(())
    })
}

/// How often faults were injected, and took effect.
///
/// # Safety
///
/// A `u64` may be written at each of `injected` and `activated`, where they are neither null nor misaligned.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mock_hw_fault_counts(
    device: u64,
    injected: *mut u64,
    activated: *mut u64,
) -> i32 {
    call(|| {
        // SAFETY: this function's contract.
        let injected = unsafe { Out::new(injected) }?;
        // SAFETY: this function's contract.
        let activated = unsafe { Out::new(activated) }?;
        let count = registry::device(device)?.faults()?.total();
        injected.put(count.injected);
        activated.put(count.activated);
        Ok(())
    })
}
