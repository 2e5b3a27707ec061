#!/bin/sh
# Boots the reference kernel with `hello` and `one-block`, and fails unless both do what they are for.
# Usage: boot.sh [TARGET-DIRECTORY]. Needs cargo, cpio, timeout and qemu-system-x86_64.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
target=${1:-$here/../../../target/kernel}
mkdir -p "$target"
target=$(CDPATH='' cd -- "$target" && pwd)

# The kernel and all processes. Cargo reads the kernel's settings from the folder it is started in.
cd "$here/../../../examples/reference-kernel"
cargo build --quiet --workspace --bins --target-dir "$target"

# The initial RAM disk: the manifest, and each program under its name.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp "$target/debug/hello" "$target/debug/one-block" "$work"
cd "$work"
cat > manifest <<MANIFEST
kernel policy=integrity report_ms=500 seconds=60
process name=first elf=hello core=1
process name=second elf=one-block core=2 nvme_queues=1 volume=1:100+16:0x77
MANIFEST
printf '%s\n' manifest hello one-block | cpio --quiet -o -H newc > initrd.cpio
truncate -s 16M disk.img

status=0
timeout 120 qemu-system-x86_64 -accel tcg -machine q35 -cpu max -smp 4 -m 512M -display none -no-reboot \
    -kernel "$target/debug/kernel" -initrd initrd.cpio -append parakernel \
    -device nvme,id=nvme0,serial=parakernel \
    -drive if=none,id=disk,file=disk.img,format=raw -device nvme-ns,drive=disk,bus=nvme0,nsid=1 \
    -serial stdio -serial file:log.bin -device isa-debug-exit,iobase=0xf4,iosize=1 \
    < /dev/null > console.txt || status=$?
cat console.txt

# 33 is the kernel's word for success; the rest is looked up from outside.
test "$status" = 33
grep -q 'hello from core 1' console.txt
grep -q '"process":"second","key":"verified","value":1' console.txt
test "$(tail -c +51201 disk.img | head -c 9)" = 'one block'
echo 'boot.sh: both processes did what they are for'
