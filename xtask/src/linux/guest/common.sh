# What all guests have in common. Lines that begin with "@" are for the host.
/bin/busybox mkdir -p /sbin /usr/bin /usr/sbin /dev/shm
/bin/busybox --install -s /bin
export PATH=/programs:/bin LD_LIBRARY_PATH=/lib64
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
echo "@release $(uname -r)"

# check NAME COMMAND...: whether the command succeeds.
check() {
    name=$1
    shift
    echo "check: $name" > /dev/kmsg
    if (set -x; "$@") > /tmp/said 2>&1; then
        echo "@pass $name"
    else
        tail -n 24 /tmp/said
        echo "@fail $name"
    fi
}

# within SECONDS COMMAND...: waits until the command succeeds.
within() {
    left=$(($1 * 10))
    shift
    until "$@"; do
        left=$((left - 1))
        [ $left -gt 0 ] || return 1
        usleep 100000
    done
}

# same FILE SUM: whether the file has this checksum.
same() {
    [ "$(md5sum < "$1")" = "$2" ]
}

finish() {
    echo "@log"
    dmesg -r
    echo "@end"
    poweroff -f
}

load_all() {
    while read -r module; do
        insmod "/modules/$module.ko" || return 1
    done < /modules/order
}

check modules load_all
