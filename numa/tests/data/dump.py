#!/usr/bin/env python3
"""Saves the ACPI tables that QEMU gives to its guest, as SIGNATURE@ADDRESS.bin.

Usage: dump.py DIRECTORY qemu-system-x86_64 ARGUMENT...

Runs the given QEMU command for a few seconds (long enough for the firmware to place the tables), reads guest memory
through the monitor and follows RSDP, RSDT and XSDT. It shares no code with the crate that the tables test.
"""

import json
import pathlib
import socket
import struct
import subprocess
import sys
import tempfile
import time


class Guest:
    """A running QEMU whose memory can be read."""

    def __init__(self, command, scratch):
        path = f"{scratch}/qmp"
        self.dump = f"{scratch}/memory"
        extra = ["-display", "none", "-serial", "none", "-qmp", f"unix:{path},server=on,wait=off"]
        self.process = subprocess.Popen(command + extra)
        self.socket = socket.socket(socket.AF_UNIX)
        for _ in range(100):
            time.sleep(0.1)
            if self.process.poll() is not None:
                sys.exit("QEMU ended early")
            if pathlib.Path(path).exists():
                break
        self.socket.connect(path)
        self.lines = self.socket.makefile("r")
        self.lines.readline()
        self.call("qmp_capabilities")

    def call(self, name, **arguments):
        self.socket.sendall(json.dumps({"execute": name, "arguments": arguments}).encode() + b"\n")
        while True:
            reply = json.loads(self.lines.readline())
            if "error" in reply:
                sys.exit(f"{name}: {reply['error']}")
            if "return" in reply:
                return reply["return"]

    def read(self, address, length):
        self.call("pmemsave", val=address, size=length, filename=self.dump)
        return pathlib.Path(self.dump).read_bytes()


def find_rsdp(guest):
    """The RSDP lies on a 16-byte boundary below 1 MiB (ACPI 6.5, 5.2.5.1)."""
    window = guest.read(0xE0000, 0x20000)
    for offset in range(0, len(window), 16):
        candidate = window[offset : offset + 36]
        if candidate[:8] == b"RSD PTR " and sum(candidate[:20]) % 256 == 0:
            return 0xE0000 + offset, candidate if candidate[15] >= 2 else candidate[:20]
    return None


def main():
    target = pathlib.Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        guest = Guest(sys.argv[2:], scratch)
        try:
            for _ in range(30):
                time.sleep(1)
                found = find_rsdp(guest)
                if found:
                    break
            address, rsdp = found

            def save(name, address, content):
                (target / f"{name}@{address:08x}.bin").write_bytes(content)
                print(f"{name} at {address:#010x}: {len(content)} bytes")

            def table(address):
                length = struct.unpack_from("<I", guest.read(address, 36), 4)[0]
                return guest.read(address, length)

            save("RSDP", address, rsdp)
            roots = [(struct.unpack_from("<I", rsdp, 16)[0], "<I")]
            if len(rsdp) >= 36:
                roots.append((struct.unpack_from("<Q", rsdp, 24)[0], "<Q"))
            entries = set()
            for address, width in roots:
                if address:
                    root = table(address)
                    save(root[:4].decode(), address, root)
                    entries.update(entry for (entry,) in struct.iter_unpack(width, root[36:]))
            for address in sorted(entries):
                content = table(address)
                save(content[:4].decode(), address, content)
        finally:
            guest.process.kill()


main()
