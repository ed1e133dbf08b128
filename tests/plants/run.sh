#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Plants bugs, one at a time, in a copy of the tree, and expects the tests to catch each.
# A plant is tests/plants/NAME.patch: first lines of the form "Key: value", then a diff for
# `git apply`. Keys:
#
#   Breaks    the promise, and how
#   Runs      the test program (NAME.c in tests/sim/ or tests/unit/), and the test in it
#   Seeds     within so many seeds it must be caught; without: the test takes none
#
# Usage: run.sh [NAME ...]; all, when none is named. Run it from a built tree, and only what a plant
# changes is compiled. PLANT_KEEP=1 leaves the copy with the last plant in it.
set -u
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
copy=$(mktemp -d "${TMPDIR:-/tmp}/volumed-plants.XXXXXX")
[ -n "${PLANT_KEEP:-}" ] || trap 'rm -rf "$copy"' EXIT
limit=${PLANT_TIMEOUT:-600}
passed=0
failed=0

value() {
	sed -n "s/^$1:[[:space:]]*//p" "$2" | head -n 1
}

# Where the program NAME ends up.
binary() {
	local prefix=

	[ -e "$root/tests/sim/$1.c" ] && prefix=sim_
	echo "build/release/tests/$prefix$1"
}

build() {
	make -C "$copy" --no-print-directory NO_SETUP=1 "$(binary "$1")" \
		>"$copy/build.log" 2>&1
}

# In a shell of its own, whose "Aborted" nobody needs to read.
run() {
	(SIM_TEST=$2 SIM_SEEDS=$3 timeout "$limit" "$1" >"$copy/run.log" 2>&1)
}

# Prints what the first line of a failure says.
told() {
	grep -aoE 'seed [0-9]+ failed: .*|CHECK\(.*|error: .*|Segmentation fault.*|world stands still.*' "$1" |
		head -n 1 | cut -c 1-150
}

verdict() {
	if [ "$1" = ok ]; then
		passed=$((passed + 1))
		echo "ok $((passed + failed)) - $2"
	else
		failed=$((failed + 1))
		echo "not ok $((passed + failed)) - $2"
	fi
}

plant() {
	local patch=$1 name program tests seeds status

	name=$(basename "$patch" .patch)
	read -r program tests <<<"$(value Runs "$patch")"
	seeds=$(value Seeds "$patch")
	if ! git -C "$copy" apply --unidiff-zero "$patch"; then
		verdict no "$name: the patch does not apply any more"
		return
	fi
	if build "$program"; then
		run "$copy/$(binary "$program")" "$tests" "${seeds:-1}" 2>/dev/null
		status=$?
		if [ "$status" -eq 0 ] || [ "$status" -eq 124 ]; then
			verdict no "$name: not caught by $tests${seeds:+ within $seeds seeds} ($status)"
		else
			verdict ok "$name: $tests: $(told "$copy/run.log")"
		fi
	else
		verdict no "$name: does not build"
		tail -n 20 "$copy/build.log" | sed 's/^/# /'
	fi
	git -C "$copy" apply --unidiff-zero -R "$patch"
}

# The working tree as it is, with what was built from it, so that make finds it up to date.
(cd "$root" && git ls-files -co --exclude-standard -z | xargs -0 cp -a --parents -t "$copy")
for mode in obj flags; do
	[ -e "$root/build/release/$mode" ] && mkdir -p "$copy/build/release" &&
		cp -a "$root/build/release/$mode" "$copy/build/release/"
done
git -C "$copy" init -q

if [ $# -eq 0 ]; then
	patches=("$here"/*.patch)
else
	patches=("${@/#/$here/}")
	patches=("${patches[@]/%/.patch}")
fi
echo "1..${#patches[@]}"
for patch in "${patches[@]}"; do
	plant "$patch"
done
[ "$failed" -eq 0 ]
