/*
 * Behavioural models of hardware, for drivers and benches in any language.
 *
 * A world holds time and the devices. Nothing in a device happens by itself: an access to a register leaves work
 * behind, and mock_hw_step() or mock_hw_run() let the devices do it, in an order that the world's seed decides. All
 * memory that a device reads or writes is the caller's, reached by two callbacks.
 *
 * Results. Every function returns MOCK_HW_OK, which is 0, or one of the negative codes below; mock_hw_message() says
 * what it means. A call that fails has changed nothing, and written nothing to its out parameters, unless said
 * otherwise. No C++ exception and no panic leaves the library.
 *
 * Handles are numbers, 0 is none. One that was destroyed, or never existed, is found out: MOCK_HW_E_HANDLE. They are
 * never used a second time.
 *
 * Pointers. A null or misaligned pointer is found out: MOCK_HW_E_POINTER. That a pointer leads to as much memory as its
 * type, or the length beside it, says is the caller's promise. Pointers are not kept after the call returns, except for
 * `user` and the functions of struct mock_hw_host, which must stay valid until mock_hw_destroy() or
 * mock_hw_world_destroy() returns.
 *
 * Structures begin with their size, which the caller sets to sizeof. A later version may add fields at the end, of
 * which 0 means what is done today: a program built with an older header goes on working with a newer library. With an
 * older library, fields that it does not know must be 0, else MOCK_HW_E_VERSION.
 *
 * Threads. Any function may be called from any thread. Calls that reach the same device take turns. Callbacks come
 * only inside mock_hw_step() and mock_hw_run(), on the thread that called; those two take turns in one world. A callback
 * must not call this library (MOCK_HW_E_CALLBACK), nor wait for a thread that does, nor leave by longjmp or by an
 * exception.
 */
#ifndef MOCK_HW_H
#define MOCK_HW_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The version of this header: a library whose mock_hw_version() is as high, or higher, does what it says. */
#define MOCK_HW_VERSION 1

/* Results. */
#define MOCK_HW_OK 0
#define MOCK_HW_E_POINTER (-1)     /* a pointer is null or misaligned */
#define MOCK_HW_E_HANDLE (-2)      /* no such world, or no such device */
#define MOCK_HW_E_ARGUMENT (-3)    /* a value is out of its range */
#define MOCK_HW_E_VERSION (-4)     /* a structure's size, or fields of a later version that are not 0 */
#define MOCK_HW_E_UNSUPPORTED (-5) /* this kind of device has no such thing */
#define MOCK_HW_E_SPACE (-6)       /* the buffer is too small; the length that is needed was written */
#define MOCK_HW_E_EMPTY (-7)       /* nothing is there */
#define MOCK_HW_E_FULL (-8)        /* no room: the wire is full, or the world has had as many devices as it takes */
#define MOCK_HW_E_CALLBACK (-9)    /* called from a callback */
#define MOCK_HW_E_PANIC (-10)      /* a bug of the library; details are on the standard error output */

typedef uint64_t mock_hw_world;
typedef uint64_t mock_hw_device;

/* Kinds of devices. */
#define MOCK_HW_IXGBE 1u      /* Intel 82599: registers in BAR 0, MSI-X in BAR 4 */
#define MOCK_HW_VIRTIO_NET 2u /* virtio-net 1.3 over PCI: virtio in BAR 4, MSI-X in BAR 2 */
#define MOCK_HW_NVME 3u       /* NVMe 1.4: registers and MSI-X in BAR 0 */

/* The caller's machine, as devices see it. */
typedef struct mock_hw_host {
    size_t size; /* sizeof(struct mock_hw_host) */
    /* Handed to the callbacks as it is. */
    void *user;
    /*
     * Reads `len` bytes, at least 1, at bus address `address` into `bytes`; 0 if all of it is there and the device
     * `requester` may read it, else anything else: the device then does what it does when the bus refuses. `requester`
     * is the device's bus, device and function number (8, 5 and 3 bits).
     */
    int32_t (*dma_read)(void *user, uint16_t requester, uint64_t address, void *bytes, size_t len);
    /* The same for writing. */
    int32_t (*dma_write)(void *user, uint16_t requester, uint64_t address, const void *bytes, size_t len);
    /* An MSI-X message: entry `vector` of the device's table, which holds `address` and `data`. Null: not wanted. */
    void (*interrupt)(void *user, uint16_t requester, uint16_t vector, uint64_t address, uint32_t data);
} mock_hw_host;

/* What a device is like. 0 is the model's default; anything else where the kind of device has no such thing is refused. */
typedef struct mock_hw_config {
    size_t size;                /* sizeof(struct mock_hw_config) */
    uint8_t mac[6];             /* network: its address */
    uint16_t queue_pairs;       /* virtio-net: up to 32767; NVMe: up to 65535 */
    uint16_t queue_entries;     /* virtio-net: up to 32768; NVMe: 2 to 65535 */
    uint16_t vectors;           /* virtio-net, NVMe: MSI-X vectors, up to 2048 */
    uint16_t virtual_functions; /* 82599: up to 63 */
    uint16_t reserved;          /* 0 */
    uint32_t block_len;         /* NVMe: bytes of a block, 512 or 4096 */
    uint32_t reserved2;         /* 0 */
    uint64_t blocks;            /* NVMe: blocks of its namespace, up to 2^40; those never written take no room */
    uint64_t features;          /* virtio-net: what it offers, by the numbers of virtio 1.3; unknown ones are refused */
} mock_hw_config;

/* The version of the library. */
uint32_t mock_hw_version(void);

/* What a result means: a text that is always there, also for a code that does not exist. */
const char *mock_hw_message(int32_t code);

/* A world without devices. The same seed and the same calls give the same run. */
int32_t mock_hw_world_create(uint64_t seed, mock_hw_world *world);

/* Ends a world and all its devices. When it returns no callback runs, and none will. */
int32_t mock_hw_world_destroy(mock_hw_world world);

/* Lets the devices do up to `limit` steps, one being a command fetched, a transfer, a completion. `done`, unless null,
 * gets how many were done: less than `limit` where nobody has anything to do. Does not skip ahead to timers. */
int32_t mock_hw_step(mock_hw_world world, uint64_t limit, uint64_t *done);

/* Lets the devices work for so long in their time, timers included. */
int32_t mock_hw_run(mock_hw_world world, uint64_t nanoseconds);

/* The devices' time. */
int32_t mock_hw_now(mock_hw_world world, uint64_t *nanoseconds);

/* What an entry of the trace is. */
#define MOCK_HW_VIOLATION 1u /* a driver did what the device's specification forbids */
#define MOCK_HW_LEFT_OUT 2u  /* a driver used what a real device has and the model leaves out */
#define MOCK_HW_FAULTED 3u   /* a fault took effect */
#define MOCK_HW_NOTE 4u      /* anything else worth knowing: a reset, a link change */

/* Takes the oldest entry of the trace: its kind, and a line of text in UTF-8, of `len` bytes without the 0 that ends it.
 * MOCK_HW_E_EMPTY where there is none. MOCK_HW_E_SPACE where `capacity` is not more than `len`: `len` was written, and
 * the entry stays. */
int32_t mock_hw_trace(mock_hw_world world, uint32_t *kind, char *text, size_t capacity, size_t *len);

/* How many entries were lost because nobody took them: the trace keeps 100,000. */
int32_t mock_hw_trace_lost(mock_hw_world world, uint64_t *lost);

/* A device of this kind, powered on. `config` may be null. MOCK_HW_E_FULL where the world has had 255 already. */
int32_t mock_hw_create(mock_hw_world world, uint32_t kind, const struct mock_hw_host *host,
                       const struct mock_hw_config *config, mock_hw_device *device);

/* Pulls a device out of its slot for good, with its virtual functions. When it returns no callback of it runs, and none
 * will. A virtual function cannot be destroyed alone: MOCK_HW_E_UNSUPPORTED. */
int32_t mock_hw_destroy(mock_hw_device device);

/* Virtual function `n`, counted from 0, of an 82599 made with some: registers in BAR 0, MSI-X in BAR 3. It reads as all
 * ones until the card's SR-IOV capability, at 0x160 of its configuration space, turns it on. It uses the callbacks of its
 * card, with its own requester. */
int32_t mock_hw_virtual_function(mock_hw_device device, uint16_t n, mock_hw_device *function);

/* The identity that the device shows on the bus. */
int32_t mock_hw_requester(mock_hw_device device, uint16_t *requester);

/* Function-level reset, as the machine does it around the driver. */
int32_t mock_hw_reset(mock_hw_device device);

/* Configuration space: `width` is 1, 2 or 4 bytes, `offset` a multiple of it, below 4096. */
int32_t mock_hw_config_read(mock_hw_device device, uint64_t offset, uint32_t width, uint32_t *value);
int32_t mock_hw_config_write(mock_hw_device device, uint64_t offset, uint32_t width, uint32_t value);

/* Turns memory space and bus mastering on, as a kernel does before it hands a device to its driver. */
int32_t mock_hw_enable(mock_hw_device device);

/* Bytes of base address register `bar`, less than 6; 0 where there is none. */
int32_t mock_hw_bar_len(mock_hw_device device, uint32_t bar, uint64_t *len);

/* Registers: `width` is 1, 2, 4 or 8 bytes, `offset` a multiple of it, inside the BAR. Values are in the CPU's order. A
 * device that was pulled, or whose memory space is off, reads as all ones: that is no error of the call. */
int32_t mock_hw_bar_read(mock_hw_device device, uint32_t bar, uint64_t offset, uint32_t width, uint64_t *value);
int32_t mock_hw_bar_write(mock_hw_device device, uint32_t bar, uint64_t offset, uint32_t width, uint64_t value);

/* Sends the device a frame of 1 to 65536 bytes, from the destination address on, without the checksum at its end.
 * MOCK_HW_E_FULL where 65,536 frames wait already. */
int32_t mock_hw_frame_in(mock_hw_device device, const void *bytes, size_t len);

/* Takes the oldest frame that the device sent, of `len` bytes. MOCK_HW_E_EMPTY where there is none. MOCK_HW_E_SPACE
 * where it is longer than `capacity`: `len` was written, and the frame stays. */
int32_t mock_hw_frame_out(mock_hw_device device, void *bytes, size_t capacity, size_t *len);

/* Frames that found no room because nobody took them: a wire keeps 65,536. */
int32_t mock_hw_frames_lost(mock_hw_device device, uint64_t *lost);

/* From now on what either of two network devices sends goes to the other; where both are the same, back to it. */
int32_t mock_hw_connect(mock_hw_device one, mock_hw_device other);

/* Plugs the cable of a network device in (1), or out (0). */
int32_t mock_hw_set_link(mock_hw_device device, uint32_t plugged);

/* What can go wrong with a device. Which of it a model has is in the documentation of its `faults()`. */
#define MOCK_HW_FAULT_LINK_FLAP 1u
#define MOCK_HW_FAULT_STUCK_QUEUE 2u /* `queue` says which */
#define MOCK_HW_FAULT_STUCK_DONE 3u
#define MOCK_HW_FAULT_LOST_INTERRUPT 4u
#define MOCK_HW_FAULT_RESET_MID_DMA 5u
#define MOCK_HW_FAULT_FATAL_STATUS 6u
#define MOCK_HW_FAULT_REMOVAL 7u
#define MOCK_HW_FAULT_ADMIN_TIMEOUT 8u
#define MOCK_HW_FAULT_ADMIN_WRONG_ID 9u
#define MOCK_HW_FAULT_BAD_ID 10u
#define MOCK_HW_FAULT_BAD_LENGTH 11u
#define MOCK_HW_FAULT_DUPLICATE_COMPLETION 12u
#define MOCK_HW_FAULT_INDEX_JUMP 13u
#define MOCK_HW_FAULT_SLOW_READY 14u
#define MOCK_HW_FAULT_IOMMU_FAULT 15u

/* When a fault takes effect, and what `n` means. */
#define MOCK_HW_WHEN_AFTER 1u  /* once, after `n` opportunities */
#define MOCK_HW_WHEN_CHANCE 2u /* at each opportunity with a probability of `n` thousandths, up to 1000 */
#define MOCK_HW_WHEN_ALWAYS 3u /* at each opportunity; `n` is 0 */

/* Injects a fault; `queue` is 0 but for a stuck queue. */
int32_t mock_hw_fault(mock_hw_device device, uint32_t fault, uint16_t queue, uint32_t when, uint64_t n);

/* Takes back all faults that have not taken effect. */
int32_t mock_hw_fault_clear(mock_hw_device device);

/* How often faults were injected, and how often they took effect, since the device was made. */
int32_t mock_hw_fault_counts(mock_hw_device device, uint64_t *injected, uint64_t *activated);

#ifdef __cplusplus
}
#endif

#endif
