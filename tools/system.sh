#!/usr/bin/env bash
# See that the programs the demo and the kernel tests call are here; as root on Debian, fetch what is missing.
set -euo pipefail

declare -A package=([nft]=nftables [iptables]=iptables [ipset]=ipset [conntrack]=conntrack [ip]=iproute2 [sysctl]=procps
    [nsenter]=util-linux)

# /usr/sbin is not on every user's path, and that is where these live.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
missing=()
for program in "${!package[@]}"; do
    command -v "$program" >/dev/null || missing+=("${package[$program]}")
done
[ ${#missing[@]} -gt 0 ] || exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q
    apt-get install -q -y --no-install-recommends "${missing[@]}"
else
    echo "missing: ${missing[*]} (install them, or run this as root on Debian)" >&2
    exit 1
fi
