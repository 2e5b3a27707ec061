# Two network cards joined by a wire: eth0 here, eth1 in a network namespace of its own.
NEAR=10.9.0.2
FAR=10.9.0.1

# This busybox prefers its own programs of these names to those in the path.
ip() {
    /programs/ip "$@"
}

ping() {
    /programs/ping "$@"
}

unshare -n sleep 1000000 &
NAMESPACE=$!
usleep 300000

far() {
    case $1 in
        ip | ping) nsenter -t "$NAMESPACE" -n "/programs/$@" ;;
        *) nsenter -t "$NAMESPACE" -n "$@" ;;
    esac
}

carrier() {
    [ "$(cat /sys/class/net/eth0/carrier 2>/dev/null)" = 1 ]
}

up() {
    ip link set eth0 up && within 10 carrier
}

there() {
    [ -e /sys/class/net/eth0 ] && [ -e /sys/class/net/eth1 ]
}

# Both cards from their probe to addresses on them.
bring_up() {
    within 10 there || return 1
    ip link set lo up
    ip link set eth1 netns "$NAMESPACE" || return 1
    far ip link set lo up
    far ip addr add $FAR/24 dev eth1
    far ip link set eth1 up
    ip addr add $NEAR/24 dev eth0
    up
}

# reach ADDRESS [OPTION...]: whether the other side answers; the first packet may be late.
reach() {
    address=$1
    shift
    within 5 ping -c 1 -W 1 -q "$@" "$address" && ping -c 5 -i 0.2 -W 3 -q "$@" "$address" | grep -q "5 received"
}

# move MIB: that much by TCP in each direction, checksummed.
move() {
    dd if=/dev/urandom of=/tmp/web/data bs=1M count=$(($1 < 32 ? $1 : 32)) 2>/dev/null
    sum=$(md5sum < /tmp/web/data)
    rounds=$((($1 + 31) / 32))
    while [ $rounds -gt 0 ]; do
        timeout 60 wget -q -O /tmp/got http://$FAR:80/data && same /tmp/got "$sum" || return 1
        far timeout 60 wget -q -O /tmp/got http://$NEAR:80/data && same /tmp/got "$sum" || return 1
        rounds=$((rounds - 1))
    done
}

serve_files() {
    mkdir -p /tmp/web
    httpd -p 80 -h /tmp/web && far httpd -p 80 -h /tmp/web
}

queues() {
    ethtool -L eth0 combined 4 && within 10 carrier && reach $FAR
}

# Every queue has to have seen frames, in both directions.
queues_used() {
    n=0
    while [ $n -lt 4 ]; do
        for what in rx tx; do
            ethtool -S eth0 | grep -q "${what}_queue_${n}_packets: [1-9]" || return 1
        done
        n=$((n + 1))
    done
}

# Many flows: more than there are queues.
many_flows() {
    n=0
    while [ $n -lt 24 ]; do
        timeout 60 wget -q -O /dev/null http://$FAR:80/small || return 1
        n=$((n + 1))
    done
    queues_used
}

jumbo() {
    ip link set eth0 mtu 9000 && far ip link set eth1 mtu 9000 && within 10 carrier || return 1
    reach $FAR -s 8900 && reach $FAR -s 30000 && move 4 || return 1
    far ip link set eth1 mtu 1500 && ip link set eth0 mtu 1500 && within 10 carrier
}

vlan() {
    ip link add link eth0 name v5 type vlan id 5 && ip addr add 10.9.5.2/24 dev v5 && ip link set v5 up || return 1
    far ip link add link eth1 name v5 type vlan id 5 && far ip addr add 10.9.5.1/24 dev v5 && far ip link set v5 up
    reach 10.9.5.1 && reach 10.9.5.1 -s 1400 && timeout 60 wget -q -O /dev/null http://10.9.5.1:80/data
}

vlan_gone() {
    ip link del v5 && far ip link del v5
}

ipv6() {
    ip -6 addr add fd00::2/64 dev eth0 nodad && far ip -6 addr add fd00::1/64 dev eth1 nodad || return 1
    reach fd00::1 -6 && timeout 60 wget -q -O /tmp/got "http://[fd00::1]:80/data" && same /tmp/got "$(md5sum < /tmp/web/data)"
}

down_and_up() {
    for n in 1 2 3; do
        ip link set eth0 down && up || return 1
    done
    reach $FAR
}

# reload COUNT: the driver goes and comes back.
reload() {
    n=0
    while [ $n -lt "$1" ]; do
        rmmod "$MODULE" && insmod "/modules/$MODULE.ko" || return 1
        bring_up && reach $FAR || return 1
        n=$((n + 1))
    done
}

check link bring_up
check ping reach $FAR
check servers serve_files
head -c 1000 /dev/urandom > /tmp/web/small
check queues queues
check transfer move $((MIB / 2))
check flows many_flows
check jumbo jumbo
check vlan vlan
check vlan-gone vlan_gone
check ipv6 ipv6
check down-and-up down_and_up
type card > /dev/null 2>&1 || [ "$MODULE" = ixgbe ] || {
    check reload reload "$RELOADS"
    finish
}
