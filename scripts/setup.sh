#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Installs the Debian packages that are missing of the named groups: build, test, fuzz, lint,
# bench, guest. With nothing missing it changes nothing and needs no network. NO_SETUP=1 turns it
# off.
set -eu

packages_of() {
	case $1 in
	build)
		echo gcc libc6-dev make pkg-config liburing-dev libisal-dev libssl-dev \
			libsystemd-dev libmicrohttpd-dev libjansson-dev libcurl4-gnutls-dev libinih-dev \
			libsqlite3-dev libgnutls28-dev
		;;
	test)
		echo libcmocka-dev libnbd-bin python3-libnbd nbdkit fio qemu-utils e2fsprogs \
			procps curl
		;;
	fuzz) echo clang libclang-rt-14-dev ;;
	lint) echo clang clang-format clang-tidy shellcheck mandoc git libjansson-dev ;;
	bench) echo libjansson-dev fio qemu-utils qemu-system-common nbdkit nbd-server ;;
	guest)
		echo qemu-system-x86 busybox-static kmod nbd-client
		echo e2fsprogs xfsprogs btrfs-progs dosfstools
		;;
	*)
		echo "setup: no group '$1' (there are: build test fuzz lint bench guest)" >&2
		exit 2
		;;
	esac
}

installed() {
	[ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

give_up() {
	echo "setup: $1" >&2
	echo "setup: install these by hand, then run make again with NO_SETUP=1:$missing" >&2
	exit 1
}

[ -z "${NO_SETUP:-}" ] || exit 0
[ $# -gt 0 ] || set -- build test lint

missing=
for group in "$@"; do
	packages=$(packages_of "$group")
	for package in $packages; do
		installed "$package" && continue
		case " $missing " in
		*" $package "*) ;;
		*) missing="$missing $package" ;;
		esac
	done
done
[ -n "$missing" ] || exit 0

command -v apt-get >/dev/null ||
	give_up "this is no Debian system (there is no apt-get); the names below are Debian 12's"
if [ "$(id -u)" -eq 0 ]; then
	root=
elif command -v sudo >/dev/null; then
	root=sudo
else
	give_up "packages are missing, and installing them needs root or sudo"
fi

echo "setup: installing$missing"
apt() {
	$root env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 "$@"
}
apt update || give_up "apt-get update failed (see above): is there a network?"
# shellcheck disable=SC2086 # a list of words
apt install -y --no-install-recommends $missing ||
	give_up "apt-get install failed (see above)"
