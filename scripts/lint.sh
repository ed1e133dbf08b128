#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# All of `make lint` but the build with -Werror: each check by name, and what it found. clang-tidy
# takes minutes, and is a target of its own.
set -u
cd "$(dirname "$0")/.." || exit 1
status=0

run() {
	local name=$1 output

	shift
	if output=$("$@" 2>&1); then
		echo "ok    $name"
	else
		echo "FAIL  $name"
		echo "${output//$'\n'/$'\n'      }" | sed '1s/^/      /'
		status=1
	fi
}

# shellcheck disable=SC2317 # called by run
format() {
	git ls-files -co --exclude-standard '*.c' '*.h' | xargs clang-format --dry-run -Werror
}

# shellcheck disable=SC2317
shell() {
	git ls-files -co --exclude-standard '*.sh' .ci/run | xargs shellcheck -x
}

# shellcheck disable=SC2317
python() {
	git ls-files -co --exclude-standard '*.py' | xargs -r /usr/bin/python3 -c '
import ast, sys
for name in sys.argv[1:]:
    ast.parse(open(name).read(), name)'
}

# shellcheck disable=SC2317
manuals() {
	mandoc -Tlint -W warning man/*.[1-8]
}

run layers scripts/layers.sh
run tidy scripts/tidy.sh
run format format
run shellcheck shell
run python python
run manuals manuals
exit $status
