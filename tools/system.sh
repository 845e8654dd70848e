#!/usr/bin/env bash
# See that the programs the demo and the kernel tests call are here; as root on Debian, fetch what is missing.
# With the word `guest`, those of the tests in a User-mode Linux guest too; these can be done without, and where
# they cannot be had the tests say so and are skipped.
set -euo pipefail

declare -A needed=([nft]=nftables [iptables]=iptables [ipset]=ipset [conntrack]=conntrack [ip]=iproute2
    [sysctl]=procps [nsenter]=util-linux)
declare -A useful=()
if [ "${1:-}" = guest ]; then
    useful=([linux.uml]=user-mode-linux [modprobe]=kmod [ipvsadm]=ipvsadm)
fi

# /usr/sbin is not on every user's path, and that is where these live.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
must=() may=()
for program in "${!needed[@]}"; do
    command -v "$program" >/dev/null || must+=("${needed[$program]}")
done
for program in "${!useful[@]}"; do
    command -v "$program" >/dev/null || may+=("${useful[$program]}")
done
[ $((${#must[@]} + ${#may[@]})) -gt 0 ] || exit 0

can=
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    can=1
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q || can=
fi
fetch() { [ "$can" ] && apt-get install -q -y --no-install-recommends "$@"; }

# One by one: not every architecture has user-mode-linux, and the others are of use without it.
for package in "${may[@]}"; do
    fetch "$package" || echo "missing: $package; tests in a guest are skipped" >&2
done
if [ ${#must[@]} -gt 0 ] && ! fetch "${must[@]}"; then
    echo "missing: ${must[*]} (install them, or run this as root on Debian)" >&2
    exit 1
fi
