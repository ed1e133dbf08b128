#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The blocks of snapshots, as the EBS direct APIs show them: which there are, in which two differ,
# and the bytes of one with its checksum; in pages, from the other zone, and with clear errors.
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
volumectl=$(realpath "${volumed%/*}/volumectl")

in_zone() {
	local zone=$1

	shift
	timeout 120 "$volumectl" --socket "$dir/$zone/volumed.sock" "$@"
}

ctl() {
	in_zone a "$@"
}

start() {
	"$volumed" --data-dir "$dir/$1" --zone "zone-$1" --zone-number "$2" --volume-size none \
		--snapshots "$dir/region" >>"$dir/log" 2>&1 &
	pids+=($!)
	in_zone "$1" ping --wait --quiet || { fail "zone $1 starts" "$(cat "$dir/log")"; exit 1; }
}

http() {
	curl -sS --max-time 60 --unix-socket "$dir/a/volumed.sock" "http://volumed/v1/snapshots/$1" \
		"${@:2}"
}

# The code of an error.
code() {
	http "$@" | /usr/bin/python3 -c 'import json, sys; print(json.load(sys.stdin)["error"]["code"])'
}

# refused NAME TEXT STATUS COMMAND...: it says so, with the exit status
refused() {
	local name=$1 text=$2 want=$3 said status=0

	shift 3
	said=$("$@" 2>&1 >/dev/null) || status=$?
	expect "$name: exit status" "$want" "$status"
	case $said in
	*"$text"*) ;;
	*) fail "$name" "it said: $said" ;;
	esac
}

sum_of() {
	dd if="$1" bs=512k skip="$2" count=1 status=none | openssl dgst -sha256 -binary | base64
}

pids=()
start a 1
start b 2
# 2306 blocks, of which three pages hold something: the first ones much, the others little.
/usr/bin/python3 - "$dir/one" <<'PY'
import os, sys
with open(sys.argv[1], "wb") as f:
    f.truncate(1153 << 20)
    f.write(os.urandom(20 << 20))
    for block in range(40, 2200):
        f.seek(block << 19)
        f.write(os.urandom(4096))
PY
ctl volume create --size 1153MiB --name disk --quiet >/dev/null
uri=$(ctl attach disk --quiet)
run_ok "the disk is written" nbdcopy "$dir/one" "$uri"
one=$(ctl snapshot create disk --wait-completed --quiet)
run_ok "a block changes" qemu-io -f raw -c "write -P 7 8M 4k" "$uri"
run_ok "one comes" qemu-io -f raw -c "write -P 9 1152M 4k" "$uri"
run_ok "one goes" qemu-io -f raw -c "discard 32M 512k" "$uri"
two=$(ctl snapshot create disk --wait-completed --quiet)

# ---- Lists ----

ctl snapshot blocks "$one" >"$dir/blocks"
expect "all blocks that hold something, over all pages" "$(seq 0 2199)" \
	"$(awk '{ print $1 }' "$dir/blocks")"
for i in 0 999 1000 2199; do
	expect "the checksum of block $i" "$(sum_of "$dir/one" $i)" \
		"$(awk -v i=$i '$1 == i { print $2 }' "$dir/blocks")"
done
expect "the other zone tells the same" "$(cat "$dir/blocks")" "$(in_zone b snapshot blocks "$one")"
expect "--from and --max" "$(seq 995 1004)" \
	"$(ctl snapshot blocks "$one" --from 995 --max 10 --quiet)"
expect "--from in a hole" 2304 "$(ctl snapshot blocks "$two" --from 2200 --quiet)"
expect "--from behind the end" "" "$(ctl snapshot blocks "$one" --from 99999 --quiet)"
expect "JSON of all pages" "2200 524288 None" "$(ctl snapshot blocks "$one" --json | /usr/bin/python3 -c '
import json, sys
x = json.load(sys.stdin)
print(len(x["blocks"]), x["block_size"], x["next_token"])')"
expect "what differs" "16 changed
64 gone
2304 added" "$(ctl snapshot changed "$one" "$two" | awk '{ print $1, $2 }')"
expect "the same, turned round" "16 changed
64 added
2304 gone" "$(ctl snapshot changed "$two" "$one" | awk '{ print $1, $2 }')"
expect "nothing differs from itself" "" "$(ctl snapshot changed "$one" "$one")"

token=$(http "$one/blocks?max_results=7" | /usr/bin/python3 -c '
import json, sys; print(json.load(sys.stdin)["next_token"])')
kill -KILL "${pids[0]}"
wait "${pids[0]}" 2>/dev/null
start a 1
expect "a page token survives the daemon" "7 13" \
	"$(http "$one/blocks?max_results=7&next_token=$token" | /usr/bin/python3 -c '
import json, sys; b = json.load(sys.stdin)["blocks"]; print(b[0]["index"], b[-1]["index"])')"
expect "... of another snapshot" InvalidParameterValue "$(code "$two/blocks?next_token=$token")"
expect "... of another kind" InvalidParameterValue \
	"$(code "$one/changed-blocks?first=$two&next_token=$token")"
expect "a page is bounded" InvalidParameterValue "$(code "$one/blocks?max_results=1001")"
expect "no number" InvalidParameterValue "$(code "$one/blocks?from=x")"
expect "no first" MissingParameter "$(code "$one/changed-blocks")"

# ---- One block ----

for i in 0 16 2199; do
	run_ok "block $i" sh -c "'$volumectl' --socket '$dir/a/volumed.sock' \
		snapshot get-block '$one' $i >'$dir/block'"
	run_ok "... as it was written" \
		cmp "$dir/block" <(dd if="$dir/one" bs=512k skip=$i count=1 status=none)
done
http "$one/block?index=3" -D "$dir/headers" -o "$dir/block"
expect "HTTP: the checksum's header" "$(sum_of "$dir/one" 3)" \
	"$(sed -n 's/^Checksum: *\([^ \r]*\).*/\1/p' "$dir/headers")"
run_ok "HTTP: the body" cmp "$dir/block" <(dd if="$dir/one" bs=512k skip=3 count=1 status=none)
for i in $(seq 40); do
	http "$one/block?index=$i" -o "$dir/block.$i" &
	readers[i]=$!
done
wait "${readers[@]}"
bad=
for i in $(seq 40); do
	cmp -s "$dir/block.$i" <(dd if="$dir/one" bs=512k skip="$i" count=1 status=none) ||
		bad+=" $i"
done
expect "forty at a time" "" "$bad"
refused "a hole" "reads as zeroes" 4 ctl snapshot get-block "$one" 2200
refused "behind the end" "it has 2306 blocks" 2 ctl snapshot get-block "$one" 2306
expect "no index" MissingParameter "$(code "$one/block")"

# ---- What does not go ----

refused "no such snapshot" "There is no completed snapshot" 4 \
	ctl snapshot blocks snap-01234567890123456
ctl volume create --size 64MiB --name other --quiet >/dev/null
ctl attach other --quiet >/dev/null
other=$(ctl snapshot create other --wait-completed --quiet)
refused "another volume's" "not related" 2 ctl snapshot changed "$one" "$other"
ctl volume resize disk --size 1200MiB >/dev/null
grown=$(ctl snapshot create disk --wait-completed --quiet)
expect "a volume that grew" "16 changed
64 gone
2304 added" "$(ctl snapshot changed "$one" "$grown" | awk '{ print $1, $2 }')"
refused "the larger one first" "name the older one first" 2 ctl snapshot changed "$grown" "$one"

pack=$(find "$dir/region/packs" -type f -size +8M | sort | head -n 1)
printf '\x55\xaa\x55\xaa' | dd of="$pack" bs=1 seek=3000000 conv=notrunc status=none
failed=0
for i in $(seq 0 40); do
	ctl snapshot get-block "$one" "$i" >"$dir/block" 2>>"$dir/said" || { failed=$((failed + 1)); continue; }
	cmp -s "$dir/block" <(dd if="$dir/one" bs=512k skip="$i" count=1 status=none) ||
		fail "block $i is other bytes"
done
expect "a damaged block is refused, the others are as they were" 1 "$failed"
expect_match "... by its name" "block [0-9]+" "$(cat "$dir/said")"
ctl snapshot delete "$one" >/dev/null
refused "a deleted one" "There is no completed snapshot" 4 ctl snapshot get-block "$one" 0
kill "${pids[@]:1}"
wait "${pids[@]:1}"
expect "both stop cleanly" 0 $?
