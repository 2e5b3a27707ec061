# What only this card has.

switch() {
    ethtool -K eth0 tso "$1" gso "$1" rx "$1" tx "$1" gro "$1"
}

link_speed() {
    ethtool eth0 | grep -q "Speed: 10000Mb/s" && ethtool eth0 | grep -q "Port: FIBRE"
}

vlan_by_software() {
    ethtool -K eth0 rxvlan off txvlan off && linked && vlan && ethtool -K eth0 rxvlan on txvlan on && linked
}

# ring_sizes COUNT: the rings have so many descriptors, and frames pass.
ring_sizes() {
    ethtool -G eth0 rx "$1" tx "$1" && linked && reach $FAR && move 2 || return 1
    for ring in RX TX; do
        [ "$(ethtool -g eth0 | sed -n "/Current/,\$s/^$ring:[[:space:]]*//p")" = "$1" ] || return 1
    done
}

rings() {
    ring_sizes 128 && ring_sizes 512
}

# With n-tuple rules on, the driver does not steer flows by itself.
ntuple() {
    ethtool -K eth0 ntuple "$1" && linked && reach $FAR
}

# One queue for all hashes: everything arrives there. Turning n-tuple rules off makes the driver write the table anew.
table() {
    ntuple on && ethtool -X eth0 weight 0 0 1 0 && rss && ethtool -X eth0 equal 4 && ntuple off
}

rule() {
    ethtool -N eth0 flow-type tcp4 dst-port "$1" action "$2" loc "$3"
}

# A flow to a port has to reach the queue that the rule names, whatever its hash says, or nobody.
steering() {
    ntuple on && rule 5999 3 1 && rule 6000 2 2 && rule 6001 -1 3 || return 1
    ethtool -n eth0 | grep -q "Total 3 rules" || return 1
    for port in 5999 6000 6001; do
        httpd -p $port -h /tmp/web || return 1
    done
    for pair in 5999:3 6000:2; do
        queue=${pair#*:}
        before=$(queue_count rx "$queue")
        far_get "http://$NEAR:${pair%:*}/data" && same /tmp/got "$(md5sum < /tmp/web/data)" || return 1
        [ $(($(queue_count rx "$queue") - before)) -gt 20 ] || return 1
    done
    ! far timeout 2 wget -q -O /dev/null http://$NEAR:6001/small || return 1
    ethtool -S eth0 > /tmp/counters && [ "$(counter fdir_match /tmp/counters)" -gt 40 ] || return 1
    ethtool -N eth0 delete 1 && ethtool -N eth0 delete 2 && ethtool -N eth0 delete 3 || return 1
    far_get "http://$NEAR:6001/small" && ntuple off
}

module() {
    ethtool -m eth0 | grep -q "10G Base-SR" && ethtool -m eth0 | grep -q PARAKERNEL
}

dump() {
    [ "$(ethtool -d eth0 | wc -l)" -gt 1000 ] && ethtool -e eth0 length 128 | grep -q "^0x0070"
}

self_test() {
    ethtool -t eth0 offline > /tmp/selftest
    cat /tmp/selftest
    grep -q PASS /tmp/selftest && linked && reach $FAR
}

# counter COUNTER FILE: its value in what `ethtool -S` said.
counter() {
    sed -n "s/^ *$1: //p" "$2"
}

# look WHEN: the counters of both cards at this moment.
look() {
    ethtool -S eth0 > "/tmp/near-$1" && far ethtool -S eth1 > "/tmp/far-$1"
}

# grown near|far COUNTER: by how much from `look before` to `look after`.
grown() {
    echo $(($(counter "$2" "/tmp/$1-after") - $(counter "$2" "/tmp/$1-before")))
}

# between LOW NUMBER HIGH
between() {
    [ "$2" -ge "$1" ] && [ "$2" -le "$3" ]
}

# What the card counts is what was sent: by number, length and kind of address. A few frames more are the kernel's own.
exact() {
    look before || return 1
    # 1,000 bytes of data have 46 bytes around them: check sequence, Ethernet, IPv4, ICMP.
    ping -q -c 100 -i 0.02 -s 1000 $FAR && look after || return 1
    for way in tx rx; do
        between 100 "$(grown near ${way}_pkts_nic)" 110 && between 104600 "$(grown near ${way}_bytes_nic)" 106000 || return 1
    done
    look before || return 1
    far ip route add 224.0.0.0/4 dev eth1
    far ping -q -c 20 -i 0.02 -W 1 -b 10.9.0.255
    far ping -q -c 20 -i 0.02 -W 1 224.0.0.1
    look after && between 20 "$(grown near broadcast)" 24 && between 20 "$(grown near multicast)" 30
}

# The card and its driver agree, and so do the two ends of the wire. Where the guest was too slow, a frame that found no
# descriptor is one that only the card has counted.
agreed() {
    look after || return 1
    [ "$(grown near tx_packets)" -gt 1000 ] && [ "$(grown near tx_packets)" = "$(grown near tx_pkts_nic)" ] || return 1
    received=$(($(grown near rx_packets) + $(grown near rx_no_dma_resources)))
    [ $received -gt 1000 ] && [ $received = "$(grown near rx_pkts_nic)" ] || return 1
    [ "$(grown near tx_pkts_nic)" = "$(grown far rx_pkts_nic)" ] && [ "$(grown near tx_bytes_nic)" = "$(grown far rx_bytes_nic)" ]
}

# A frame on its way while the counters are read is seen by one of them only: they are read again then.
agree() {
    look before && move 4 && within 5 agreed && ! grep "errors: [1-9]" /tmp/near-after
}

counters() {
    exact && agree
}

network_checks
check speed link_speed
check vlan-by-software vlan_by_software
check rings rings
check rss table
check steering steering
check module module
check dump dump
check self-test self_test
check reload reload "$RELOADS"
check counters counters
finish
