#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Runs test programs and prints each one's result, the output of those that fail, and at the end a
# line "N passed, N failed"; the seconds say what took long. Arguments: cmocka programs, fuzz targets
# (fuzz_*, under libFuzzer in build/fuzz), and scripts, perhaps with arguments in the same word. A
# program counts by its TAP lines ("ok", "not ok") or by what Python's unittest prints at the end;
# one that dies, hangs, runs no test or fewer than it planned has failed. Two run at a time.
#
#   CHECK_JOBS     how many run at a time (2)
#   CHECK_TIMEOUT  seconds for one program (300)
#   FUZZ_RUNS      of each fuzz target with the plain driver (200000); of whole conversations,
#                  each of which boots a machine, a fortieth
#   FUZZ_SECONDS   for each fuzz target under libFuzzer (60)
set -u
jobs=${CHECK_JOBS:-2}
limit=${CHECK_TIMEOUT:-300}
fuzz_seconds=${FUZZ_SECONDS:-60}
logs=$(mktemp -d "${TMPDIR:-/tmp}/volumed-check.XXXXXX")
trap 'rm -rf "$logs"' EXIT
export CMOCKA_MESSAGE_OUTPUT=TAP PYTHONDONTWRITEBYTECODE=1

# Runs $1 with its output in $2.log and its exit status in $2.status.
run_one() {
	local program=$1 log=$2 name=${1##*/} command

	read -ra command <<<"$program"
	if [[ $program == build/fuzz/* ]]; then
		mkdir -p "build/fuzz/corpus/$name"
		command+=("-max_total_time=$fuzz_seconds" -timeout=10 -rss_limit_mb=1024
			"-artifact_prefix=build/fuzz/$name-" "build/fuzz/corpus/$name"
			"tests/fuzz/corpus/${name#fuzz_}")
	elif [[ $name == fuzz_* ]]; then
		local runs=${FUZZ_RUNS:-200000}

		[[ $name == *_conversation ]] && runs=$(((runs + 39) / 40))
		command+=("$runs" "tests/fuzz/corpus/${name#fuzz_}"/*)
	fi
	local start=$EPOCHSECONDS
	timeout --kill-after=10 "$limit" "${command[@]}" >"$log.log" 2>&1 </dev/null
	echo $? >"$log.tmp"
	echo $((EPOCHSECONDS - start)) >"$log.seconds"
	mv "$log.tmp" "$log.status"
}

# Prints "passed failed skipped" of the run whose files begin with $1. $2 is 1 if it prints no count
# of its own.
count() {
	awk -v status="$(cat "$1.status")" -v counts_as_one="$2" '
		/^1\.\.[0-9]+/ { split($0, plan, "[.][.]"); planned += plan[2] }
		/^Ran [0-9]+ tests? in / { passed += $2 }
		/^(FAILED|OK) \(/ {
			while (match($0, /(failures|errors|skipped)=[0-9]+/)) {
				split(substr($0, RSTART, RLENGTH), part, "=")
				passed -= part[2]
				if (part[1] == "skipped")
					skipped += part[2]
				else
					failed += part[2]
				$0 = substr($0, RSTART + RLENGTH)
			}
		}
		/^(not )?ok .*# SKIP/ { skipped++; next }
		/^ok / { passed++ }
		/^not ok / { failed++ }
		END {
			seen = passed + failed + skipped
			if (seen < planned)
				failed += planned - seen
			if (seen == 0 && planned == 0 && status == 0 && counts_as_one)
				passed = 1
			else if (seen == 0)
				failed = planned ? planned : 1
			if (status != 0 && failed == 0)
				failed = 1
			print passed + 0, failed + 0, skipped + 0
		}' "$1.log"
}

passed=0
failed=0
skipped=0
report() {
	local program=$1 log=$2 one=0 p f s note=

	[[ $program == */fuzz_* ]] && one=1
	read -r p f s < <(count "$log" $one)
	passed=$((passed + p))
	failed=$((failed + f))
	skipped=$((skipped + s))
	[ "$s" -gt 0 ] && note=", $s skipped"
	note="$note, $(cat "$log.seconds") s"
	if [ "$f" -eq 0 ]; then
		echo "ok    $program ($p passed$note)"
		sed -n 's/.*# SKIP/      skipped:/p' "$log.log"
		return
	fi
	[ "$(cat "$log.status")" -eq 124 ] && note="$note, and stopped"
	echo "FAIL  $program ($p passed, $f failed$note; exit status $(cat "$log.status"))"
	sed 's/^/      | /' "$log.log" | tail -n 200
}

# Reports the runs that have ended.
reap() {
	local i

	for i in "${!running[@]}"; do
		[ -f "$logs/$i.status" ] || continue
		report "${running[$i]}" "$logs/$i"
		unset "running[$i]"
	done
}

declare -A running=()
n=0
for program in "$@"; do
	while [ "${#running[@]}" -ge "$jobs" ]; do
		wait -n
		reap
	done
	n=$((n + 1))
	running[$n]=$program
	run_one "$program" "$logs/$n" 2>/dev/null & # the shell's own "Segmentation fault"
done
while [ "${#running[@]}" -gt 0 ]; do
	wait -n
	reap
done

if [ $((passed + failed)) -eq 0 ]; then
	echo "no test ran"
	failed=1
fi
[ "$skipped" -eq 0 ] || echo "$skipped skipped (reasons above)"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
