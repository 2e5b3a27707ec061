# What only this card has.

switch() {
    ethtool -K eth0 tso "$1" gso "$1" tx "$1" gro "$1"
}

# One queue for all hashes: everything arrives there.
table() {
    ethtool -X eth0 weight 0 0 1 0 && rss && ethtool -X eth0 equal 4
}

network_checks
check rss table
check reload reload "$RELOADS"
finish
