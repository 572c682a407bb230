# For `. tests/peers/debian.sh`: what two installers get of Debian's packages. Who reads it has `say`, `fail` and `place`, the directory
# target/peers.
# shellcheck shell=sh disable=SC2034,SC2154

need_package() {
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ] || wanted="$wanted $1"
}

update_once() {
    [ -n "${updated-}" ] || apt-get update >&2 || fail 'apt-get update failed; is this machine connected?'
    updated=yes
}

# opendkim verifies messages in files, with public keys from a file. Installed it would start as a milter.
unpack_opendkim() {
    [ -x "$place/opendkim/usr/sbin/opendkim" ] && return
    [ "$(id -u)" = 0 ] || fail "opendkim is not unpacked in $place/opendkim yet. Run this as root once."
    say 'unpacking opendkim'
    update_once
    rm -rf "$place/opendkim" "$place/packages"
    mkdir -p "$place/packages"
    wanted=opendkim
    only_depends='--no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces --no-enhances'
    # shellcheck disable=SC2086
    for library in $(apt-cache depends --recurse $only_depends opendkim | grep '^lib[^ ]*$' | grep -v perl | sort -u); do
        need_package "$library"
    done
    # shellcheck disable=SC2086
    (cd "$place/packages" && apt-get -o APT::Sandbox::User=root download $wanted >&2) ||
        fail "apt-get could not download:$wanted"
    for package in "$place"/packages/*.deb; do
        dpkg-deb -x "$package" "$place/opendkim.part"
    done
    mv "$place/opendkim.part" "$place/opendkim"
}
