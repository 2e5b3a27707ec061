/*
 * An 82599 brought up to one frame received and one sent, a controller of NVMe up to Identify, and a virtio-net device
 * up to the features that it offers: every register written from the device's specification.
 *
 *     cargo build -p parakernel-mock-hw-capi
 *     cc -std=c11 -Wall -Wextra -Werror -I mock-hw/capi/include -o models mock-hw/capi/examples/models.c \
 *        -L target/debug -lmock_hw_c -Wl,-rpath,target/debug
 *     ./models
 */
#include "mock_hw.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The machine: 1 MiB of memory at bus address 256 MiB, and a count of interrupts. */
#define MEMORY_BASE UINT64_C(0x10000000)
#define MEMORY_LEN ((size_t)1 << 20)

struct machine {
    uint8_t memory[MEMORY_LEN];
    unsigned interrupts;
    uint32_t last_data;
};

/* Where the memory of a transfer lies, or null. */
static uint8_t *place(struct machine *machine, uint64_t address, size_t len)
{
    uint64_t offset = address - MEMORY_BASE;

    if (address < MEMORY_BASE || offset > MEMORY_LEN || len > MEMORY_LEN - offset) {
        return NULL;
    }
    return machine->memory + offset;
}

static int32_t dma_read(void *user, uint16_t requester, uint64_t address, void *bytes, size_t len)
{
    uint8_t *from = place(user, address, len);

    (void)requester;
    if (from == NULL) {
        return -1;
    }
    memcpy(bytes, from, len);
    return 0;
}

static int32_t dma_write(void *user, uint16_t requester, uint64_t address, const void *bytes, size_t len)
{
    uint8_t *to = place(user, address, len);

    (void)requester;
    if (to == NULL) {
        return -1;
    }
    memcpy(to, bytes, len);
    return 0;
}

static void interrupt(void *user, uint16_t requester, uint16_t vector, uint64_t address, uint32_t data)
{
    struct machine *machine = user;

    (void)requester;
    (void)vector;
    (void)address;
    machine->interrupts += 1;
    machine->last_data = data;
}

/* Ends the program where a call failed. */
static void check(int32_t result, const char *what)
{
    if (result != MOCK_HW_OK) {
        fprintf(stderr, "%s: %s\n", what, mock_hw_message(result));
        exit(EXIT_FAILURE);
    }
}

/* Ends the program where a device did something else than its specification says. */
static void expect(int holds, const char *what)
{
    if (!holds) {
        fprintf(stderr, "unexpected: %s\n", what);
        exit(EXIT_FAILURE);
    }
}

#define CHECK(call) check((call), #call)
#define EXPECT(condition) expect((condition), #condition)

static uint32_t read32(mock_hw_device device, uint32_t bar, uint64_t offset)
{
    uint64_t value;

    CHECK(mock_hw_bar_read(device, bar, offset, 4, &value));
    return (uint32_t)value;
}

static void write32(mock_hw_device device, uint32_t bar, uint64_t offset, uint32_t value)
{
    CHECK(mock_hw_bar_write(device, bar, offset, 4, value));
}

/* Lets time pass until the register's bits under `mask` are `wanted`, 200 ms at most. */
static void await(mock_hw_world world, mock_hw_device device, uint64_t offset, uint32_t mask, uint32_t wanted)
{
    int attempt;

    for (attempt = 0; attempt < 2000; attempt += 1) {
        if ((read32(device, 0, offset) & mask) == wanted) {
            return;
        }
        CHECK(mock_hw_run(world, 100000));
    }
    fprintf(stderr, "register %#" PRIx64 " stays %#" PRIx32 "\n", offset, read32(device, 0, offset));
    exit(EXIT_FAILURE);
}

/* Little-endian words in memory. */
static void put64(struct machine *machine, uint64_t address, uint64_t value)
{
    uint8_t *to = place(machine, address, 8);
    int n;

    for (n = 0; n < 8; n += 1) {
        to[n] = (uint8_t)(value >> (8 * n));
    }
}

static uint64_t get64(struct machine *machine, uint64_t address)
{
    const uint8_t *from = place(machine, address, 8);
    uint64_t value = 0;
    int n;

    for (n = 0; n < 8; n += 1) {
        value |= (uint64_t)from[n] << (8 * n);
    }
    return value;
}

/* Intel 82599 datasheet, 4.6.3: reset, EEPROM and DMA ready, link. */
static void ixgbe_reset(mock_hw_world world, mock_hw_device nic)
{
    write32(nic, 0, 0x00888, 0x7fffffff);           /* EIMC: no interrupts */
    write32(nic, 0, 0x00000, 1u << 2);              /* CTRL: no new requests on the bus, 5.2.5.3.2 */
    await(world, nic, 0x00008, 1u << 19, 0);        /* STATUS: none outstanding */
    write32(nic, 0, 0x00000, 1u << 26 | 1u << 3);   /* CTRL: software and link reset */
    await(world, nic, 0x00000, 1u << 26 | 1u << 3, 0);
    CHECK(mock_hw_run(world, 10000000));            /* 10 ms after a reset, 4.6.3.2 */
    write32(nic, 0, 0x00888, 0x7fffffff);
    await(world, nic, 0x10010, 1u << 9, 1u << 9);   /* EEC: EEPROM read */
    await(world, nic, 0x02f00, 1u << 3, 1u << 3);   /* RDRXCTL: DMA initialised */
    await(world, nic, 0x042a4, 1u << 30, 1u << 30); /* LINKS: link up */
}

/* A frame in, through receive queue 0 with one interrupt; a frame out, through transmit queue 0. */
static void ixgbe(mock_hw_world world, struct machine *machine, const struct mock_hw_host *host)
{
    const uint64_t rx_ring = MEMORY_BASE, tx_ring = MEMORY_BASE + 0x1000;
    const uint64_t rx_buffer = MEMORY_BASE + 0x2000, tx_buffer = MEMORY_BASE + 0x3000;
    struct mock_hw_config config = {.size = sizeof(config), .mac = {0x02, 0, 0, 0, 0, 0x99}};
    uint8_t frame[64] = {0x02, 0, 0, 0, 0, 0x99, 0x02, 0, 0, 0, 0, 0x11, 0x88, 0xb5, 'h', 'e', 'l', 'l', 'o'};
    uint8_t sent[1514];
    mock_hw_device nic;
    size_t len;
    uint32_t id;

    CHECK(mock_hw_create(world, MOCK_HW_IXGBE, host, &config, &nic));
    CHECK(mock_hw_enable(nic));
    CHECK(mock_hw_config_read(nic, 0, 4, &id));
    EXPECT(id == 0x10fb8086);
    ixgbe_reset(world, nic);
    EXPECT(read32(nic, 0, 0x0a200) == 0x00000002 && (read32(nic, 0, 0x0a204) & 0xffff) == 0x9900); /* RAL, RAH */

    /* MSI-X: vector 0 in the table of BAR 4, the capability at 0x70 (9.3.8); receive queue 0 leads to it (7.3.4). */
    write32(nic, 4, 0x0, 0xfee00000);
    write32(nic, 4, 0x8, 0x41);
    write32(nic, 4, 0xc, 0);
    CHECK(mock_hw_config_write(nic, 0x72, 2, 0x8000));
    write32(nic, 0, 0x00898, 0x80000030); /* GPIE */
    write32(nic, 0, 0x00900, 0x80);       /* IVAR */
    write32(nic, 0, 0x00880, 1);          /* EIMS */

    /* Receive, 4.6.7: a ring of 8 descriptors of which one is armed, advanced format, buffers of 2 KiB. */
    put64(machine, rx_ring, rx_buffer);
    put64(machine, rx_ring + 8, 0);
    write32(nic, 0, 0x01000, (uint32_t)rx_ring); /* RDBAL, RDBAH */
    write32(nic, 0, 0x01004, (uint32_t)(rx_ring >> 32));
    write32(nic, 0, 0x01008, 8 * 16);            /* RDLEN */
    write32(nic, 0, 0x01014, 1u << 25 | 2);      /* SRRCTL */
    write32(nic, 0, 0x01028, 1u << 25);          /* RXDCTL */
    await(world, nic, 0x01028, 1u << 25, 1u << 25);
    write32(nic, 0, 0x01018, 1);                 /* RDT */
    write32(nic, 0, 0x03000, 1);                 /* RXCTRL */

    CHECK(mock_hw_frame_in(nic, frame, sizeof(frame)));
    CHECK(mock_hw_run(world, 1000000));
    EXPECT((get64(machine, rx_ring + 8) & 3) == 3);                         /* done, end of packet (7.1.6.2) */
    EXPECT((get64(machine, rx_ring + 8) >> 32 & 0xffff) == sizeof(frame));
    EXPECT(memcmp(place(machine, rx_buffer, sizeof(frame)), frame, sizeof(frame)) == 0);
    EXPECT(machine->interrupts == 1 && machine->last_data == 0x41);

    /* Transmit, 4.6.8, and one advanced data descriptor (7.2.3.2.4): EOP, IFCS, RS, DEXT. */
    memcpy(place(machine, tx_buffer, sizeof(frame)), frame, sizeof(frame));
    put64(machine, tx_ring, tx_buffer);
    put64(machine, tx_ring + 8, (uint64_t)sizeof(frame) << 46 | 0x2b300000 | sizeof(frame));
    write32(nic, 0, 0x06000, (uint32_t)tx_ring); /* TDBAL, TDBAH */
    write32(nic, 0, 0x06004, (uint32_t)(tx_ring >> 32));
    write32(nic, 0, 0x06008, 8 * 16);            /* TDLEN */
    write32(nic, 0, 0x04a80, 1);                 /* DMATXCTL */
    write32(nic, 0, 0x06028, 1u << 25);          /* TXDCTL */
    await(world, nic, 0x06028, 1u << 25, 1u << 25);
    write32(nic, 0, 0x06018, 1);                 /* TDT */
    CHECK(mock_hw_run(world, 1000000));
    EXPECT((get64(machine, tx_ring + 8) >> 32 & 1) == 1);
    EXPECT(mock_hw_frame_out(nic, sent, 10, &len) == MOCK_HW_E_SPACE && len == sizeof(frame));
    CHECK(mock_hw_frame_out(nic, sent, sizeof(sent), &len));
    EXPECT(len == sizeof(frame) && memcmp(sent, frame, len) == 0);
    EXPECT(mock_hw_frame_out(nic, sent, sizeof(sent), &len) == MOCK_HW_E_EMPTY);
    printf("82599: received and sent a frame of %zu bytes, %u interrupt\n", len, machine->interrupts);

    /* A broken cable. */
    CHECK(mock_hw_set_link(nic, 0));
    EXPECT((read32(nic, 0, 0x042a4) & 1u << 30) == 0);
    CHECK(mock_hw_destroy(nic));
    EXPECT(mock_hw_enable(nic) == MOCK_HW_E_HANDLE);
}

/* NVM Express 1.4: the admin queue, Identify Controller. */
static void nvme(mock_hw_world world, struct machine *machine, const struct mock_hw_host *host)
{
    const uint64_t submissions = MEMORY_BASE + 0x10000, completions = MEMORY_BASE + 0x11000;
    const uint64_t identity = MEMORY_BASE + 0x12000;
    mock_hw_device disk;
    const uint8_t *data;

    CHECK(mock_hw_create(world, MOCK_HW_NVME, host, NULL, &disk));
    CHECK(mock_hw_enable(disk));
    EXPECT(read32(disk, 0, 0x08) == 0x00010400); /* VS */
    write32(disk, 0, 0x24, 0x00070007);          /* AQA: 8 entries each */
    write32(disk, 0, 0x28, (uint32_t)submissions);
    write32(disk, 0, 0x2c, (uint32_t)(submissions >> 32));
    write32(disk, 0, 0x30, (uint32_t)completions);
    write32(disk, 0, 0x34, (uint32_t)(completions >> 32));
    write32(disk, 0, 0x14, 0x00460001);          /* CC: entries of 64 and 16 bytes, enable */
    await(world, disk, 0x1c, 1, 1);              /* CSTS.RDY */

    put64(machine, submissions, UINT64_C(0x00420006));    /* Identify, command 0x42 */
    put64(machine, submissions + 24, identity);           /* PRP1 */
    put64(machine, submissions + 40, 1);                  /* CNS: the controller */
    write32(disk, 0, 0x1000, 1);                          /* the doorbell */
    CHECK(mock_hw_run(world, 1000000));
    EXPECT(get64(machine, completions + 8) >> 32 == 0x00010042); /* phase 1, no error, command 0x42 */
    data = place(machine, identity, 4096);
    EXPECT((data[80] | data[81] << 8 | data[82] << 16) == 0x00010400);
    printf("NVMe: \"%.20s\" \"%.40s\"\n", (const char *)data + 4, (const char *)data + 24);
    CHECK(mock_hw_destroy(disk));
}

/* virtio 1.3, 4.1.4: the common configuration, found by the capabilities. */
static void virtio_net(mock_hw_world world, const struct mock_hw_host *host)
{
    struct mock_hw_config config = {.size = sizeof(config), .queue_pairs = 2};
    uint32_t id, at, next, kind, bar, offset;
    mock_hw_device nic;

    CHECK(mock_hw_create(world, MOCK_HW_VIRTIO_NET, host, &config, &nic));
    CHECK(mock_hw_enable(nic));
    CHECK(mock_hw_config_read(nic, 0, 4, &id));
    EXPECT(id == 0x10411af4);
    CHECK(mock_hw_config_read(nic, 0x34, 1, &at));
    for (;;) {
        EXPECT(at != 0);
        CHECK(mock_hw_config_read(nic, at, 4, &next));
        kind = next >> 24;
        if ((next & 0xff) == 0x09 && kind == 1) {
            break;
        }
        at = next >> 8 & 0xff;
    }
    CHECK(mock_hw_config_read(nic, at + 4, 1, &bar));
    CHECK(mock_hw_config_read(nic, at + 8, 4, &offset));
    write32(nic, bar, offset, 1);                            /* device_feature_select: bits 32 to 63 */
    EXPECT((read32(nic, bar, offset + 4) & 1) == 1);         /* VIRTIO_F_VERSION_1 */
    EXPECT(mock_hw_frame_in(nic, "", 0) == MOCK_HW_E_ARGUMENT);
    printf("virtio-net: the common configuration lies in BAR %" PRIu32 " at %#" PRIx32 "\n", bar, offset);
    CHECK(mock_hw_destroy(nic));
}

int main(void)
{
    static struct machine machine;
    const struct mock_hw_host host = {
        .size = sizeof(host),
        .user = &machine,
        .dma_read = dma_read,
        .dma_write = dma_write,
        .interrupt = interrupt,
    };
    mock_hw_world world;
    char text[512];
    uint32_t kind;
    size_t len;
    int broken = 0;

    EXPECT(mock_hw_version() >= MOCK_HW_VERSION);
    CHECK(mock_hw_world_create(42, &world));
    ixgbe(world, &machine, &host);
    nvme(world, &machine, &host);
    virtio_net(world, &host);

    /* Rules that this program broke, and things it used that the models leave out: none. */
    while (mock_hw_trace(world, &kind, text, sizeof(text), &len) == MOCK_HW_OK) {
        if (kind == MOCK_HW_VIOLATION || kind == MOCK_HW_LEFT_OUT) {
            fprintf(stderr, "%s\n", text);
            broken = 1;
        }
    }
    CHECK(mock_hw_world_destroy(world));
    return broken ? EXIT_FAILURE : EXIT_SUCCESS;
}
