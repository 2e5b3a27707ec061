# What only this card has.

link_speed() {
    ethtool eth0 | grep -q "Speed: 10000Mb/s" && ethtool eth0 | grep -q "Port: FIBRE"
}

# All offloads off, then on again: the same bytes arrive.
offloads() {
    ethtool -K eth0 tso off gso off rx off tx off gro off && move 2 || return 1
    ethtool -K eth0 tso on gso on rx on tx on gro on && move 2
}

vlan_by_software() {
    ethtool -K eth0 rxvlan off txvlan off && within 10 carrier && vlan && vlan_gone || return 1
    ethtool -K eth0 rxvlan on txvlan on && within 10 carrier
}

rings() {
    ethtool -G eth0 rx 128 tx 128 && within 10 carrier && reach $FAR && move 2 || return 1
    ethtool -g eth0 | tail -n 8 | grep -q "^RX:.128" || ethtool -g eth0 | grep -q "128"
}

queue_count() {
    ethtool -S eth0 | sed -n "s/.*rx_queue_$1_packets: //p"
}

# A flow to a port has to reach the queue that the rule names, whatever its hash says.
steering() {
    ethtool -K eth0 ntuple on && within 10 carrier && reach $FAR || return 1
    ethtool -N eth0 flow-type tcp4 dst-port 5999 action 3 loc 1 || return 1
    ethtool -N eth0 flow-type tcp4 dst-port 6000 action 2 loc 2 || return 1
    httpd -p 5999 -h /tmp/web && httpd -p 6000 -h /tmp/web || return 1
    for pair in 5999:3 6000:2; do
        queue=${pair#*:}
        before=$(queue_count "$queue")
        far timeout 60 wget -q -O /tmp/got "http://$NEAR:${pair%:*}/data" && same /tmp/got "$(md5sum < /tmp/web/data)" || return 1
        [ $(($(queue_count "$queue") - before)) -gt 20 ] || return 1
    done
    ethtool -N eth0 delete 1 && ethtool -N eth0 delete 2 && ethtool -K eth0 ntuple off && within 10 carrier
}

# One queue for all hashes: everything arrives at queue 2. With n-tuple rules on, the driver does not steer flows by
# itself; turning them on makes it write the table anew.
rss() {
    ethtool -K eth0 ntuple on && within 10 carrier && reach $FAR || return 1
    ethtool -X eth0 weight 0 0 1 0 || return 1
    others=$(($(queue_count 0) + $(queue_count 1) + $(queue_count 3)))
    before=$(queue_count 2)
    far timeout 60 wget -q -O /dev/null http://$NEAR:80/data || return 1
    [ $(($(queue_count 2) - before)) -gt 20 ] || return 1
    # Only what has no hash (ARP) may go elsewhere.
    [ $(($(queue_count 0) + $(queue_count 1) + $(queue_count 3) - others)) -lt 5 ] || return 1
    ethtool -X eth0 equal 4 && ethtool -K eth0 ntuple off && within 10 carrier
}

module() {
    ethtool -m eth0 | grep -q "10G Base-SR" && ethtool -m eth0 | grep -q PARAKERNEL
}

# What the card counts is what the driver counts, after the driver has had time to read it.
counters_agree() {
    sleep 3
    ethtool -S eth0 > /tmp/counters
    for pair in rx_packets:rx_pkts_nic tx_packets:tx_pkts_nic; do
        one=$(sed -n "s/^ *${pair%:*}: //p" /tmp/counters)
        other=$(sed -n "s/^ *${pair#*:}: //p" /tmp/counters)
        echo "$pair $one $other"
        [ "$one" = "$other" ] && [ "$one" -gt 1000 ] || return 1
    done
    ! grep -E "(errors|dropped): [1-9]" /tmp/counters
}

fresh() {
    rmmod ixgbe && insmod /modules/ixgbe.ko && bring_up && reach $FAR && move 8
}

dump() {
    [ "$(ethtool -d eth0 | wc -l)" -gt 1000 ] && ethtool -e eth0 length 128 | grep -q "^0x0070"
}

self_test() {
    ethtool -t eth0 offline > /tmp/selftest
    cat /tmp/selftest
    grep -q PASS /tmp/selftest && within 10 carrier && reach $FAR
}

check speed link_speed
check offloads offloads
check vlan-by-software vlan_by_software
check rings rings
check rss rss
check steering steering
check module module
check dump dump
check self-test self_test
check fresh fresh
check counters counters_agree
check reload reload "$RELOADS"
finish
