#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# clang-tidy by .clang-tidy over the sources (or those named), two at a time. What passed is
# remembered in build/tidy by the hash of the preprocessed source, and not looked at again.
set -u
cd "$(dirname "$0")/.." || exit 1
mkdir -p build/tidy

tidy_one() {
	local file=$1 flags=(-std=c11 -I. -D_GNU_SOURCE '-DVOLUMED_VERSION=""') key

	key=$( (cat .clang-tidy && clang -E -P "${flags[@]}" "$file") | sha256sum | cut -d' ' -f1)
	[ -e "build/tidy/$key" ] && return 0
	clang-tidy --quiet --warnings-as-errors='*' "$file" -- "${flags[@]}" 2>/dev/null || return 1
	: >"build/tidy/$key"
}
export -f tidy_one

if [ $# -eq 0 ]; then
	mapfile -t files < <(git ls-files -co --exclude-standard '*.c')
	set -- "${files[@]}"
fi
# shellcheck disable=SC2016 # $1 is the inner shell's
printf '%s\0' "$@" | xargs -0 -P 2 -I{} bash -c 'tidy_one "$1"' _ {}
