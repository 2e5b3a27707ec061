#!/bin/sh
# Dumps the ACPI tables of every machine again: see README.md.
set -eu
cd "$(dirname "$0")"
qemu=qemu-system-x86_64

# Two nodes that differ in everything: memory, distances, latency, bandwidth and caches; IOMMU and root ports.
./dump.py q35 $qemu -M q35,hmat=on -m 6G -smp 8,sockets=2,cores=4,threads=1 \
  -object memory-backend-ram,id=m0,size=2G -object memory-backend-ram,id=m1,size=4G \
  -numa node,nodeid=0,memdev=m0,initiator=0 -numa node,nodeid=1,memdev=m1,initiator=1 \
  -numa cpu,node-id=0,socket-id=0 -numa cpu,node-id=1,socket-id=1 \
  -numa dist,src=0,dst=1,val=21 -numa dist,src=1,dst=0,val=31 \
  -numa hmat-lb,initiator=0,target=0,hierarchy=memory,data-type=access-latency,latency=5 \
  -numa hmat-lb,initiator=0,target=1,hierarchy=memory,data-type=access-latency,latency=15 \
  -numa hmat-lb,initiator=1,target=0,hierarchy=memory,data-type=access-latency,latency=20 \
  -numa hmat-lb,initiator=1,target=1,hierarchy=memory,data-type=access-latency,latency=10 \
  -numa hmat-lb,initiator=0,target=0,hierarchy=memory,data-type=access-bandwidth,bandwidth=400M \
  -numa hmat-lb,initiator=0,target=1,hierarchy=memory,data-type=access-bandwidth,bandwidth=200M \
  -numa hmat-lb,initiator=1,target=0,hierarchy=memory,data-type=access-bandwidth,bandwidth=100M \
  -numa hmat-lb,initiator=1,target=1,hierarchy=memory,data-type=access-bandwidth,bandwidth=300M \
  -numa hmat-cache,node-id=0,size=10K,level=1,associativity=direct,policy=write-back,line=8 \
  -numa hmat-cache,node-id=1,size=20K,level=1,associativity=complex,policy=write-through,line=16 \
  -device intel-iommu,intremap=on,device-iotlb=on,aw-bits=48 \
  -device pcie-root-port,id=rp1,chassis=1,slot=1 -device pcie-root-port,id=rp2,chassis=2,slot=2

# The reference kernel's machine: 8 cores on 2 nodes.
./dump.py demo $qemu -M q35 -m 1G -smp 8 \
  -object memory-backend-ram,id=m0,size=512M -object memory-backend-ram,id=m1,size=512M \
  -numa node,nodeid=0,cpus=0-3,memdev=m0 -numa node,nodeid=1,cpus=4-7,memdev=m1 \
  -numa dist,src=0,dst=1,val=21

# Revision 2 of the root pointer, with an XSDT.
./dump.py microvm $qemu -M microvm,acpi=on,pcie=on -m 256M -smp 3

# More cores than an 8-bit APIC id can name: x2APIC structures. QEMU wants KVM for this one.
./dump.py x2apic $qemu -M q35,kernel-irqchip=split -accel kvm -m 256M -smp 1,maxcpus=260 \
  -object memory-backend-ram,id=m0,size=128M -object memory-backend-ram,id=m1,size=128M \
  -numa node,nodeid=0,cpus=0-249,memdev=m0 -numa node,nodeid=1,cpus=250-259,memdev=m1 \
  -device intel-iommu,intremap=on,eim=on
