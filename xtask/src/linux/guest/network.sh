# Two network cards joined by a wire: eth0 here, eth1 in a network namespace of its own.
NEAR=10.9.0.2
FAR=10.9.0.1

# The queues of eth0.
QUEUES="0 1 2 3"

# This busybox prefers its own programs of these names to those in the path.
ip() {
    /programs/ip "$@"
}

ping() {
    /programs/ping "$@"
}

# A process in a network namespace of its own; its number is in NAMESPACE.
apart() {
    unshare -n sleep 1000000 &
    NAMESPACE=$!
    within 20 is_apart
}

is_apart() {
    [ "$(readlink "/proc/$NAMESPACE/ns/net")" != "$(readlink /proc/self/ns/net)" ]
}

apart || finish

far() {
    case $1 in
        ip | ping) nsenter -t "$NAMESPACE" -n "/programs/$@" ;;
        *) nsenter -t "$NAMESPACE" -n "$@" ;;
    esac
}

carrier() {
    [ "$(cat /sys/class/net/eth0/carrier 2>/dev/null)" = 1 ]
}

linked() {
    within 20 carrier
}

up() {
    ip link set eth0 up && linked
}

there() {
    [ -e /sys/class/net/eth0 ] && [ -e /sys/class/net/eth1 ]
}

# Both cards from their probe to addresses on them.
bring_up() {
    within 20 there || return 1
    ip link set lo up
    ip link set eth1 netns "$NAMESPACE" || return 1
    far ip link set lo up
    far ip addr add $FAR/24 dev eth1
    far ip link set eth1 up
    ip addr add $NEAR/24 dev eth0
    up
}

# reach ADDRESS [OPTION...]: whether the other side answers; the first packet may be late. With a deadline (-w) ping ends well only
# if as many answers came as were asked for; without one it waits for the last only twice as long as another took, which is too short
# where the host is busy.
reach() {
    address=$1
    shift
    within 10 ping -c 1 -W 1 -q "$@" "$address" && ping -c 5 -i 0.05 -w 10 -q "$@" "$address"
}

# get URL: what is there, into /tmp/got.
get() {
    timeout "$PATIENCE" wget -q -O /tmp/got "$1"
}

far_get() {
    far timeout "$PATIENCE" wget -q -O /tmp/got "$1"
}

# move MIB: that much by TCP in each direction, checksummed.
move() {
    dd if=/dev/urandom of=/tmp/web/data bs=1M count=$(($1 < 32 ? $1 : 32)) 2>/dev/null
    sum=$(md5sum < /tmp/web/data)
    size=$(stat -c %s /tmp/web/data)
    rounds=$((($1 + 31) / 32))
    while [ $rounds -gt 0 ]; do
        get http://$FAR:80/data && same /tmp/got "$sum" || return 1
        figure bytes-received "$size"
        far_get http://$NEAR:80/data && same /tmp/got "$sum" || return 1
        figure bytes-sent "$size"
        rounds=$((rounds - 1))
    done
}

serve_files() {
    mkdir -p /tmp/web
    httpd -p 80 -h /tmp/web && far httpd -p 80 -h /tmp/web || return 1
    head -c 1000 /dev/urandom > /tmp/web/small
    dd if=/dev/urandom of=/tmp/web/data bs=1M count=2
}

# Fewer queues, then four: the driver says how many it has, and frames pass.
queues() {
    for count in 2 4; do
        # Asking for what there is already is an error.
        [ "$(channels)" = $count ] || ethtool -L eth0 combined $count || return 1
        linked && reach $FAR && [ "$(channels)" = $count ] || return 1
    done
}

channels() {
    ethtool -l eth0 | sed -n '/Current/,$s/^Combined:[[:space:]]*//p'
}

# queue_count rx|tx QUEUE: frames that passed this queue of eth0.
queue_count() {
    ethtool -S eth0 | sed -n "s/^ *$1_queue_$2_packets: //p"
}

# Every queue has to have seen frames, in both directions.
queues_used() {
    for queue in $QUEUES; do
        [ "$(queue_count rx $queue)" -gt 0 ] && [ "$(queue_count tx $queue)" -gt 0 ] || return 1
    done
}

# Many flows: more than there are queues, until every queue was used.
many_flows() {
    n=0
    until [ $n -ge 8 ] && queues_used; do
        [ $n -lt 48 ] && get http://$FAR:80/small && same /tmp/got "$(md5sum < /tmp/web/small)" || return 1
        n=$((n + 1))
    done
}

# All offloads off, then on again: the same bytes arrive.
offloads() {
    switch off && linked && move 2 && switch on && linked && move 2
}

jumbo() {
    ip link set eth0 mtu 9000 && far ip link set eth1 mtu 9000 && linked || return 1
    reach $FAR -s 8900 && reach $FAR -s 30000 && move 4 || return 1
    far ip link set eth1 mtu 1500 && ip link set eth0 mtu 1500 && linked
}

vlan() {
    ip link add link eth0 name v5 type vlan id 5 && ip addr add 10.9.5.2/24 dev v5 && ip link set v5 up || return 1
    far ip link add link eth1 name v5 type vlan id 5 && far ip addr add 10.9.5.1/24 dev v5 && far ip link set v5 up
    reach 10.9.5.1 && reach 10.9.5.1 -s 1400 || return 1
    get http://10.9.5.1:80/data && same /tmp/got "$(md5sum < /tmp/web/data)" || return 1
    ip link del v5 && far ip link del v5
}

ipv6() {
    ip -6 addr add fd00::2/64 dev eth0 nodad && far ip -6 addr add fd00::1/64 dev eth1 nodad || return 1
    reach fd00::1 -6 && get "http://[fd00::1]:80/data" && same /tmp/got "$(md5sum < /tmp/web/data)"
}

down_and_up() {
    for n in 1 2 3; do
        ip link set eth0 down && ! carrier && up || return 1
    done
    reach $FAR
}

# What arrives at queue 2 if the table of hashes names no other.
rss() {
    others=$(($(queue_count rx 0) + $(queue_count rx 1) + $(queue_count rx 3)))
    before=$(queue_count rx 2)
    far_get http://$NEAR:80/data || return 1
    [ $(($(queue_count rx 2) - before)) -gt 20 ] || return 1
    # Only what has no hash (ARP) may go elsewhere.
    [ $(($(queue_count rx 0) + $(queue_count rx 1) + $(queue_count rx 3) - others)) -lt 5 ]
}

# The driver goes and comes back.
again() {
    rmmod "$MODULE" && insmod "/modules/$MODULE.ko" && bring_up && reach $FAR
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

# What every card is tried with; the card's own script says how `switch` does it.
network_checks() {
    need link bring_up
    need ping reach $FAR
    need servers serve_files
    need queues queues
    check transfer move "$MIB"
    check flows many_flows
    check offloads offloads
    check jumbo jumbo
    check vlan vlan
    check ipv6 ipv6
    check down-and-up down_and_up
}
