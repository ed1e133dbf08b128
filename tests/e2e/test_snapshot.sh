#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Snapshots by volumectl: two daemons of two zones that share a repository, SIGKILL in the middle of
# an upload, limits and refusals.
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
volumectl=$(realpath "${volumed%/*}/volumectl")

# ctl ZONE ARGUMENT...
ctl() {
	local zone=$1

	shift
	timeout 120 "$volumectl" --socket "$dir/$zone/volumed.sock" "$@"
}

# answers NAME STATUS PATTERN ZONE ARGUMENT...
answers() {
	local name=$1 status=$2 pattern=$3 got=0 output

	shift 3
	output=$(ctl "$@" 2>&1 </dev/null) || got=$?
	if [ "$got" -ne "$status" ]; then
		fail "$name" "exit status $got, not $status: $output"
	else
		expect_match "$name" "$pattern" "$output"
	fi
}

# member EXPRESSION ZONE ARGUMENT...: a Python expression over what is printed as JSON, as `j`.
member() {
	local expression=$1

	shift
	ctl "$@" --json | /usr/bin/python3 -c 'import json, sys
j = json.load(sys.stdin)
print(eval(sys.argv[1]))' "$expression"
}

# start ZONE NUMBER [ARGUMENT...]: its pid is in pids[ZONE].
declare -A pids
start() {
	local zone=$1 number=$2

	shift 2
	"$volumed" --data-dir "$dir/$zone" --zone "zone-$zone" --zone-number "$number" \
		--volume-size none --snapshots "$dir/region" "$@" >>"$dir/log-$zone" 2>&1 &
	pids[$zone]=$!
	ctl "$zone" ping --wait --quiet || { fail "zone $zone starts" "$(cat "$dir/log-$zone")"; exit 1; }
}

# end ZONE SIGNAL: its exit status.
end() {
	local status=0

	kill -"$2" "${pids[$1]}"
	wait "${pids[$1]}" 2>/dev/null || status=$?
	return $status
}

start a 1
start b 2
head -c 24M /dev/urandom >"$dir/one"
vol=$(ctl a volume create --size 64MiB --name disk --quiet)
uri=$(ctl a attach disk --quiet)
run_ok "the disk is written" nbdcopy "$dir/one" "$uri"

# ---- One after the other ----

one=$(ctl a snapshot create disk --name first --description "of a test" --tag team=x \
	--wait-completed --quiet)
expect_match "create --quiet prints just the id" "^snap-[0-9a-f]{17}$" "$one"
answers "it is listed with its description" 0 "$one +first +$vol .*completed +100 % .*of a test" \
	a snapshot list
answers "show, by name" 0 "team=x" a snapshot show first
expect "what it holds" $((24 << 20)) "$(member 'j["full_bytes"]' a snapshot show first)"
run_ok "half a MiB is rewritten" qemu-io -f raw -c "write -P 7 8M 512k" "$uri"
two=$(ctl a snapshot create "$vol" --wait-completed --quiet)
expect "the second stores what has changed" True \
	"$(member 'j["stored_bytes"] < 700 * 1024' a snapshot show "$two")"
expect "it shares the rest with the first" "$one" "$(member 'j["parent"]' a snapshot show "$two")"
answers "filters" 0 "^$two$" a snapshot list --quiet --filter volume-id="$vol" --filter \
	"description="
answers "check" 0 "^clean" a check

# ---- The region ----

expect "the other zone lists both" "$(ctl a snapshot list -q)" "$(ctl b snapshot list -q)"
answers "... with tags and description" 0 "of a test" b snapshot list --filter tag:team=x
ctl b volume create --snapshot first --size 80MiB --name copy --initialization-rate 4MiB >/dev/null
copy=$(ctl b attach copy --quiet)
answers "a volume of it in the other zone says so" 0 "made of: +$one" b volume show copy
answers "the other zone deletes the first" 0 "is deleted" b snapshot delete first
expect "it is gone in both" "$two" "$(ctl a snapshot list -q)"
end b KILL
start b 2
copy=$(member 'j["attachments"][0]["uri"]' b volume show copy)
run_ok "the volume is read, in the middle of its hydration, after SIGKILL" nbdcopy "$copy" "$dir/copy"
truncate -s 80M "$dir/one"
run_ok "it holds what the snapshot held, and zeroes behind" cmp "$dir/one" "$dir/copy"
answers "a volume that is too small" 2 "can't be smaller than its snapshot" \
	b volume create --snapshot "$two" --size 16MiB
answers "a volume of no snapshot" 4 "does not exist" \
	b volume create --snapshot snap-01234567890123456
for _ in $(seq 300); do
	[ "$(member 'j["snapshot"]' b volume show copy)" != None ] || break
	sleep 0.1
done
expect "it needs the snapshot no longer" None "$(member 'j["snapshot"]' b volume show copy)"
run_ok "it is read again" nbdcopy "$copy" "$dir/copy"
run_ok "it holds the same" cmp "$dir/one" "$dir/copy"
answers "the second is whole without it" 0 "completed" a snapshot show "$two"

# ---- Nobody attaches it ----

wait_hydrated() {
	for _ in $(seq 300); do
		[ "$(member 'j["snapshot"]' b volume show "$1")" != None ] || return 0
		sleep 0.1
	done
	fail "$1 is copied to its end" "$(ctl b volume show "$1")"
}

ctl b volume create --snapshot "$two" --name quiet --initialization-rate 8MiB --quiet >/dev/null
ctl b volume create --snapshot "$two" --name gone --initialization-rate 1MiB --quiet >/dev/null
answers "it is being copied, though detached" 0 "copied: " b volume show quiet
end b KILL
start b 2
answers "one that is being copied is deleted at once" 0 "is deleted" b volume delete gone
ctl b attach quiet --quiet >/dev/null
answers "attached and detached meanwhile" 0 "is detached" b detach quiet
wait_hydrated quiet
run_ok "after SIGKILL it is copied to its end" test "$(member 'j["snapshot"]' b volume show quiet)" \
	= None
quiet=$(ctl b attach quiet --quiet)
run_ok "it is read" nbdcopy "$quiet" "$dir/copy"
run_ok "the first MiB holds what the snapshot held" cmp -n 1048576 "$dir/one" "$dir/copy"
run_ok "and what was rewritten before it" qemu-io -f raw -c "read -P 7 8M 512k" "$dir/copy"
run_ok "4 KiB of it are written" qemu-io -f raw -c "write -P 9 32M 4k" "$quiet"
four=$(ctl b snapshot create quiet --wait-completed --quiet)
expect "its first snapshot shares with the one that it was made of" "$two" \
	"$(member 'j["parent"]' b snapshot show "$four")"
expect "... and stores what was written" True \
	"$(member 'j["stored_bytes"] < 700 * 1024' b snapshot show "$four")"
ctl b volume create --snapshot "$four" --name again --quiet >/dev/null
again=$(ctl b attach again --quiet)
run_ok "all of it is in there" nbdcopy "$again" "$dir/again"
run_ok "... as it was" qemu-io -f raw -c "read -P 7 8M 512k" -c "read -P 9 32M 4k" "$dir/again"
run_ok "... and the rest" cmp -n 1048576 "$dir/one" "$dir/again"
answers "check of that zone" 0 "^clean" b check

# ---- Refusals ----

answers "show: no such snapshot" 4 "does not exist" a snapshot show snap-01234567890123456
answers "delete: no such snapshot" 4 "does not exist" a snapshot delete snap-01234567890123456
answers "show: no id" 4 "no snapshot" a snapshot show nothing
answers "create: no such volume" 4 "does not exist" a snapshot create vol-01234567890123456
answers "create: a description that is too long" 2 "255 bytes" a snapshot create disk \
	--description "$(printf 'x%.0s' {1..256})"

# ---- Killed in the middle ----

end a TERM
start a 1 --snapshot-upload-rate 4MiB
uri=$(member 'j["attachments"][0]["uri"]' a volume show disk)
head -c 24M /dev/urandom >"$dir/two"
run_ok "the disk is written anew" nbdcopy "$dir/two" "$uri"
three=$(ctl a snapshot create disk --quiet)
answers "it is pending" 0 "pending" a snapshot show "$three"
for n in 2 3 4 5; do
	run_ok "pending snapshot $n" ctl a snapshot create disk --quiet
done
answers "a sixth is refused" 5 "Maximum allowed in-progress snapshots" a snapshot create disk
answers "a pending one is deleted" 0 "deleted" a snapshot delete \
	"$(member 'j["snapshots"][-1]["id"]' a snapshot list --filter status=pending)"
end a KILL
start a 1
for _ in $(seq 100); do
	[ -n "$(ctl a snapshot list -q --filter status=pending)" ] || break
	sleep 0.1
done
expect "after SIGKILL all are completed" "" "$(ctl a snapshot list -q --filter status=pending; \
	ctl a snapshot list -q --filter status=error)"
answers "the disk is detached" 0 "detached" a detach disk
answers "it is deleted while a snapshot of it is pending" 0 "" a snapshot create disk
answers "... and" 0 "is deleted" a volume delete disk
for _ in $(seq 100); do
	[ -n "$(ctl a volume list -q)" ] || break
	sleep 0.1
done
expect "its space comes back after that" "" "$(ctl a volume list -q)"
expect "its snapshots stay" "" "$(ctl a snapshot list -q --filter status=pending)"
answers "check" 0 "^clean" a check
end a TERM
expect "zone a stops cleanly" 0 $?
end b TERM
expect "zone b stops cleanly" 0 $?
