#!/usr/bin/env bash
# Boots the reference kernel with `hello`, `one-block` and `tally`, and fails unless they do what they are for.
# Usage: boot.sh [TARGET-DIRECTORY]. Needs cargo, cpio, coreutils and qemu-system-x86_64.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
target=${1:-$here/../../../target/kernel}
mkdir -p "$target"
target=$(CDPATH='' cd -- "$target" && pwd)

# The kernel and all processes. Cargo reads the kernel's settings from the folder it is started in; the caller's would spoil them.
unset RUSTFLAGS CARGO_BUILD_RUSTFLAGS CARGO_ENCODED_RUSTFLAGS CARGO_BUILD_TARGET
cd "$here/../../../examples/reference-kernel"
cargo build --quiet --release --workspace --bins --target-dir "$target"

# The initial RAM disk: the manifest, and each program under its name.
work=$(mktemp -d)
qemu=
trap 'test -z "$qemu" || kill "$qemu" 2> /dev/null || true; rm -rf "$work"' EXIT
for program in hello one-block tally; do cp "$target/release/$program" "$work"; done
cd "$work"
cat > manifest <<MANIFEST
kernel policy=integrity report_ms=100 seconds=60 net=10.0.0.0/24 gateway=10.0.0.1
process name=first elf=hello core=1
process name=second elf=one-block core=2 nvme_queues=1 volume=1:100+16:0x77
process name=third elf=tally core=3 nic_queues=1 ip=10.0.0.2
MANIFEST
printf '%s\n' manifest hello one-block tally | cpio --quiet -o -H newc > initrd.cpio
truncate -s 16M disk.img

fail() {
    cat console.txt errors.txt
    echo "boot.sh: $1" >&2
    exit 1
}

# Waits up to 30 s until the console holds $1.
wait_for() {
    for _ in $(seq 300); do
        ! grep -q "$1" console.txt || return 0
        kill -0 "$qemu" 2> /dev/null || return 1
        sleep 0.1
    done
    return 1
}

# The machine. QEMU leads datagrams for a port of the host to the process; another program may have that port.
for _ in 1 2 3; do
    port=$((20000 + RANDOM % 20000))
    timeout 90 qemu-system-x86_64 -accel tcg -machine q35 -cpu max -smp 4 -m 512M -display none -no-reboot \
        -kernel "$target/release/kernel" -initrd initrd.cpio -append parakernel \
        -device nvme,id=nvme0,serial=parakernel \
        -drive if=none,id=disk,file=disk.img,format=raw -device nvme-ns,drive=disk,bus=nvme0,nsid=1 \
        -netdev "user,id=wire,net=10.0.0.0/24,host=10.0.0.1,hostfwd=udp:127.0.0.1:$port-10.0.0.2:2000" \
        -device virtio-net-pci,netdev=wire \
        -serial stdio -serial file:log.bin -device isa-debug-exit,iobase=0xf4,iosize=1 \
        < /dev/null > console.txt 2> errors.txt &
    qemu=$!
    ! wait_for '^parakernel' || break
done

# One question, one answer: printed, or nothing after a second.
ask() {
    printf 'how many?' >&3
    timeout 1 dd bs=64 count=1 status=none <&3 || true
}

# The first question may come before the process has its address.
wait_for '"name":"third",.*"queues":2' || fail 'the network process got no queues'
exec 3<> "/dev/udp/127.0.0.1/$port"
first=
for _ in $(seq 20); do
    first=$(ask)
    test -z "$first" || break
done
second=$(ask)
test "${second:-0}" -gt "${first:-0}" || fail "after answer '$first' came '$second'"
printf end >&3

# 33 is the kernel's word for success; the rest is looked up from outside.
status=0
wait "$qemu" || status=$?
qemu=
test "$status" = 33 || fail "QEMU ended with $status"
grep -q 'hello from core 1' console.txt || fail 'hello did not say where it runs'
grep -q '"process":"second","key":"verified","value":1}' console.txt || fail 'one-block has verified nothing'
test "$(tail -c +51201 disk.img | head -c 9)" = 'one block' || fail 'the block is not on the disk'
grep -q "\"process\":\"third\",\"key\":\"served\",\"value\":$second}" console.txt || fail 'tally has not counted'
cat console.txt
echo 'boot.sh: all three processes did what they are for'
