# One NVMe controller with one namespace.
DISK=/dev/nvme0n1

there() {
    [ -b $DISK ]
}

# move MIB: random bytes to the disk and back, past the cache.
move() {
    dd if=/dev/urandom of=/tmp/data bs=1M count=32 || return 1
    sum=$(md5sum < /tmp/data)
    rounds=$((($1 + 31) / 32))
    while [ $rounds -gt 0 ]; do
        # Elsewhere on the disk each time.
        place=$((rounds % 7 * 32))
        dd if=/tmp/data of=$DISK bs=1M seek=$place oflag=direct || return 1
        figure bytes-written $((32 << 20))
        dd if=$DISK of=/tmp/got bs=1M skip=$place count=32 iflag=direct && same /tmp/got "$sum" || return 1
        figure bytes-read $((32 << 20))
        rounds=$((rounds - 1))
    done
}

queues() {
    [ "$(ls /sys/block/nvme0n1/mq | wc -l)" = 4 ]
}

queues_used() {
    for core in 0 1 2 3; do
        taskset $((1 << core)) dd if=$DISK of=/dev/null bs=4k count=64 iflag=direct || return 1
    done
    [ "$(grep -E 'nvme0q[1-4]' /proc/interrupts | awk '{ n = $2 + $3 + $4 + $5; if (n > 0) used++ } END { print used }')" = 4 ]
}

partition() {
    printf 'n\np\n1\n\n+100M\nw\n' | fdisk $DISK
    within 5 [ -b ${DISK}p1 ]
}

file_system() {
    head -c 30000000 /dev/urandom > /tmp/data
    mkfs.ext4 -q ${DISK}p1 && mount ${DISK}p1 /mnt && cp /tmp/data /mnt/data && umount /mnt || return 1
    e2fsck -f -n ${DISK}p1 && mount ${DISK}p1 /mnt && same /mnt/data "$(md5sum < /tmp/data)" && umount /mnt
}

verify() {
    fio --name=verify --filename=${DISK}p1 --rw=randrw --bsrange=4k-128k --size=32M --verify=crc32c --direct=1 \
        --ioengine=libaio --iodepth=32 --output-format=terse
}

# What was discarded reads as zeros.
discard() {
    dd if=/tmp/data of=$DISK bs=1M count=1 oflag=direct && blkdiscard -o 0 -l 1048576 $DISK || return 1
    dd if=$DISK bs=1M count=1 iflag=direct | cmp -n 1048576 - /dev/zero
}

# block_size BYTES FORMAT: the disk in this format has blocks of so many bytes, nothing in them, and works.
block_size() {
    dd if=/tmp/data of=$DISK bs=1M count=8 oflag=direct || return 1
    nvme format $DISK --lbaf="$2" --force && within 20 has_blocks "$1" || return 1
    dd if=$DISK bs=1M count=8 iflag=direct | cmp -n $((8 << 20)) - /dev/zero || return 1
    move 32
}

has_blocks() {
    [ "$(blockdev --getss $DISK)" = "$1" ]
}

format() {
    move 32 && block_size 4096 1 && block_size 512 0
}

errors() {
    nvme smart-log /dev/nvme0 | sed -n 's/^num_err_log_entries[^:]*: //p'
}

# What the newest entry of the error log says of a field.
newest() {
    nvme error-log /dev/nvme0 --log-entries=1 | sed -n "s/^$1[[:space:]]*: *//p"
}

# A command that has to fail leaves an entry in the error log, and is counted.
error_log() {
    before=$(errors)
    ! nvme read $DISK --start-block=305419896 --data-size=512 --data=/tmp/got || return 1
    nvme error-log /dev/nvme0 --log-entries=1
    [ "$(errors)" = $((before + 1)) ] && [ "$(newest lba)" = 0x12345678 ] && [ "$(newest nsid)" = 0x1 ] || return 1
    newest status_field | grep -q "LBA_RANGE\|0x80\|LBA Out"
}

identify() {
    nvme id-ctrl /dev/nvme0 | grep -q "^mn .*Parakernel mock NVMe" && [ "$(nvme list-ns /dev/nvme0 | grep -c ']:0x1')" = 1 ]
}

reset() {
    echo 1 > /sys/class/nvme/nvme0/reset_controller && within 20 grep -q live /sys/class/nvme/nvme0/state && move 32
}

again() {
    rmmod nvme && insmod /modules/nvme.ko && within 20 there && dd if=$DISK of=/dev/null bs=64k count=16 iflag=direct
}

# reload COUNT: so often; memory is looked at after the first time and after the last.
reload() {
    again && sample before || return 1
    n=1
    while [ $n -lt "$1" ]; do
        again || return 1
        alive
        n=$((n + 1))
    done
    figure reloads $n
    sample after
}

need disk within 20 there
check queues queues
check transfer move "$MIB"
check queues-used queues_used
check partition partition
check file-system file_system
check verify verify
check discard discard
check format format
check identify identify
check error-log error_log
check reset reset
check reload reload "$RELOADS"
finish
