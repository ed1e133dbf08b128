#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Writes what a program's tables say into its man page: "PROGRAM help --mdoc" prints blocks between
# lines `.\" BEGIN name` and `.\" END name`, and each replaces the page's block of that name.
# Arguments: the program, the page. With --check it changes nothing, and fails if it would.
set -eu
check=
if [ "$1" = --check ]; then
	check=1
	shift
fi
program=$1
page=$2

new=$(mktemp "${TMPDIR:-/tmp}/volumed-man.XXXXXX")
trap 'rm -f "$new"' EXIT
"$program" help --mdoc | awk '
	NR == FNR && index($0, ".\\\" BEGIN ") == 1 { name = substr($0, 10) }
	NR == FNR { block[name] = block[name] $0 "\n"; next }
	index($0, ".\\\" BEGIN ") == 1 && substr($0, 10) in block {
		name = substr($0, 10)
		printf "%s", block[name]
		delete block[name]
		skip = 1
	}
	!skip
	index($0, ".\\\" END ") == 1 { skip = 0 }
	END {
		for (name in block) {
			print "no place for the block \"" name "\"" >"/dev/stderr"
			exit 1
		}
	}' - "$page" >"$new"
cmp -s "$new" "$page" && exit 0
if [ -n "$check" ]; then
	echo "$page is not what $program says: run make man" >&2
	exit 1
fi
cat "$new" >"$page"
