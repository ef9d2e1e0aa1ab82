# Sourced by every finding: a temporary folder that goes at the end, and Debian
# packages of one version unpacked into it. Nothing is installed on the machine.
set -eu
export LC_ALL=C

T=$(mktemp -d)
trap 'status=$?; finish; rm -rf "$T"; exit $status' EXIT
trap 'exit 130' INT TERM
finish() { :; }

# packages NAME=VERSION...: fetches each with the machine's own apt and unpacks it below $T/root.
packages() {
    mkdir -p "$T/debs" "$T/root"
    (cd "$T/debs" && apt-get -qq -o APT::Sandbox::User=root download "$@") || {
        echo "this machine's package sources do not offer $*" >&2
        exit 2
    }
    for deb in "$T"/debs/*.deb; do dpkg-deb -x "$deb" "$T/root"; done
    PATH=$T/root/usr/sbin:$T/root/usr/bin:$T/root/sbin:$T/root/bin:$PATH:/usr/sbin:/sbin
    LD_LIBRARY_PATH=$T/root/usr/lib/x86_64-linux-gnu:$T/root/lib/x86_64-linux-gnu
    export PATH LD_LIBRARY_PATH
}

# expect WHAT SEEN WANTED: prints what was seen, and fails when it is no longer that.
expect() {
    echo "  $1: $2"
    [ "$2" = "$3" ] || { echo "CHANGED: $1 was \"$3\"" >&2; exit 1; }
}

# suite NAME: package lists of another Debian release, from the machine's own mirror,
# kept below $T. Later calls of `packages` take from it alone.
suite() {
    mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | grep -m1 'debian$\|debian/$')
    mkdir -p "$T/apt/lists/partial" "$T/apt/cache/archives/partial"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $1 main" > "$T/apt/sources"
    : > "$T/apt/status"
    cat > "$T/apt/conf" <<C
Dir::Etc::SourceList "$T/apt/sources";
Dir::Etc::SourceParts "-";
Dir::State "$T/apt";
Dir::State::Status "$T/apt/status";
Dir::Cache "$T/apt/cache";
APT::Sandbox::User "root";
APT::Architecture "amd64";
Acquire::Check-Valid-Until "false";
C
    export APT_CONFIG="$T/apt/conf"
    apt-get -qq update
}
