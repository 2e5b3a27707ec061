# Virtual functions: eth0 here and eth1 in a namespace beside it are of one card, whose physical function is the host's.
# The other end of the wire, a whole card with its own driver, is eth1 in the far namespace.
BESIDE=10.9.0.3
QUEUES="0 1"

FAR_NAMESPACE=$NAMESPACE
apart || finish
BESIDE_NAMESPACE=$NAMESPACE
NAMESPACE=$FAR_NAMESPACE

beside() {
    case $1 in
        ip | ping) nsenter -t "$BESIDE_NAMESPACE" -n "/programs/$@" ;;
        *) nsenter -t "$BESIDE_NAMESPACE" -n "$@" ;;
    esac
}

# The whole card, once.
set_far_up() {
    within 20 [ -e /sys/class/net/eth2 ] && ip link set eth2 netns "$NAMESPACE" || return 1
    far ip link set lo up
    far ip link set eth2 name eth1
    far ip addr add $FAR/24 dev eth1
    far ip link set eth1 up
}

bring_up() {
    within 20 there || return 1
    ip link set lo up
    ip link set eth1 netns "$BESIDE_NAMESPACE" || return 1
    beside ip addr add $BESIDE/24 dev eth1
    beside ip link set eth1 up
    ip addr add $NEAR/24 dev eth0
    up
}

queues() {
    [ "$(ls -d /sys/class/net/eth0/queues/rx-* | wc -l)" = 2 ] && reach $FAR
}

switch() {
    ethtool -K eth0 tso "$1" gso "$1" rx "$1" tx "$1" gro "$1"
}

# The two virtual functions reach each other inside their card.
neighbours() {
    beside httpd -p 80 -h /tmp/web && reach $BESIDE && get http://$BESIDE:80/data && same /tmp/got "$(md5sum < /tmp/web/data)"
}

speed() {
    ethtool eth0 | grep -q "Speed: 10000Mb/s"
}

rings() {
    ethtool -G eth0 rx 128 tx 128 && linked && reach $FAR && move 2 && ethtool -G eth0 rx 512 tx 512 && linked && reach $FAR
}

dump() {
    [ "$(ethtool -d eth0 | wc -l)" -gt 10 ]
}

self_test() {
    ethtool -t eth0 offline > /tmp/selftest
    cat /tmp/selftest
    grep -q PASS /tmp/selftest && linked && reach $FAR
}

counter() {
    ethtool -S eth0 | sed -n "s/^ *$1: //p"
}

# Frames to a group are counted by the card; the driver reads its counters every two seconds.
counters() {
    before=$(counter multicast)
    far ip route add 224.0.0.0/4 dev eth1
    far ping -q -c 20 -i 0.02 -W 1 224.0.0.1
    within 20 have_grown && [ $(($(counter multicast) - before)) -le 30 ] || return 1
    ! ethtool -S eth0 | grep -E "(errors|failed): [1-9]"
}

have_grown() {
    [ $(($(counter multicast) - before)) -ge 20 ]
}

need far-card set_far_up
network_checks
check speed speed
check neighbours neighbours
check rings rings
check dump dump
check self-test self_test
check reload reload "$RELOADS"
check counters counters
finish
