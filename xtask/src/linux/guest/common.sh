# What all guests have in common. Lines that begin with "@" are for the host.
/bin/busybox mkdir -p /sbin /usr/bin /usr/sbin /dev/shm
/bin/busybox --install -s /bin
export PATH=/programs:/bin LD_LIBRARY_PATH=/lib64
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
echo "@release $(uname -r)"

# Seconds since the start.
now() {
    read -r seconds rest < /proc/uptime
    echo "$seconds"
}

# made NAME COMMAND...: makes a check: whether the command succeeds.
made() {
    name=$1
    shift
    echo "check: $name" > /dev/kmsg
    echo "@start $(now) $name"
    if (set -x; "$@") > /tmp/said 2>&1; then
        echo "@pass $(now) $name"
    else
        tail -n 24 /tmp/said
        echo "@fail $(now) $name"
        return 1
    fi
}

# need NAME COMMAND...: a check that the others rest on: without it there are none.
need() {
    made "$@" || finish
}

# check NAME COMMAND...: a check that may be left out: where ONLY names some, others are not made.
check() {
    case " $ONLY " in
        "  " | *" $1 "*) made "$@" ;;
    esac
}

# figure NAME VALUE: a number for the host.
figure() {
    echo "@figure $1 $2" > /dev/console
}

# A sign of life from within a check that takes long.
alive() {
    echo "@alive" > /dev/console
}

# within SECONDS COMMAND...: waits until the command succeeds, however long it takes itself.
within() {
    read -r seconds rest < /proc/uptime
    deadline=$((${seconds%.*} + $1))
    shift
    until "$@"; do
        read -r seconds rest < /proc/uptime
        [ "${seconds%.*}" -lt $deadline ] || return 1
        usleep 50000
    done
}

# same FILE SUM: whether the file has this checksum.
same() {
    [ "$(md5sum < "$1")" = "$2" ]
}

# sample WHEN: the memory in use, without what comes back when it is asked for, and how much of it are small objects;
# the host looks at the model's at this moment.
sample() {
    sync
    usleep 500000
    echo 3 > /proc/sys/vm/drop_caches
    figure "objects-$1" "$(memory Slab)"
    # Each processor keeps some free pages for itself.
    kept=$(awk '$1 == "count:" { n += $2 } END { print 4 * n }' /proc/zoneinfo)
    figure "used-$1" $(($(memory MemTotal) - $(memory MemFree) - kept))
}

# memory NAME: so many KiB.
memory() {
    sed -n "s/^$1: *\([0-9]*\) kB/\1/p" /proc/meminfo
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

need modules load_all
