# Sourced after lib.sh by findings that need a network: two network namespaces,
# $A (10.91.0.1) and $B (10.91.0.2), joined by one cable. They go at the end.
A=fa$$ B=fb$$
finish() {
    for room in $A $B; do
        ip netns pids $room 2> /dev/null | xargs -r kill 2> /dev/null || true
        ip netns del $room 2> /dev/null || true
    done
    return 0
}
# room BROADCAST: "brd +" gives the interfaces a broadcast address, "" none.
room() {
    ip netns add $A && ip netns add $B
    ip link add va$$ type veth peer name vb$$
    ip link set va$$ netns $A name eth0
    ip link set vb$$ netns $B name eth0
    ip -n $A addr add 10.91.0.1/24 $1 dev eth0
    ip -n $B addr add 10.91.0.2/24 $1 dev eth0
    for ns in $A $B; do ip -n $ns link set lo up; ip -n $ns link set eth0 up; done
}
