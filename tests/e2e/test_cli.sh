#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# volumectl against a real volumed: a new user's first ten minutes, what comes out of each command,
# and what is said when something is wrong.
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
volumectl=$(realpath "${volumed%/*}/volumectl")
export VOLUMED_SOCKET=$dir/data/volumed.sock

ctl() {
	timeout 120 "$volumectl" "$@"
}

# answers NAME STATUS PATTERN ARGUMENT...: volumectl ends with that status, and says what matches.
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

# json EXPRESSION ARGUMENT...: a Python expression over what volumectl --json prints, as `j`.
json() {
	local expression=$1

	shift
	ctl "$@" --json | /usr/bin/python3 -c 'import json, sys
j = json.load(sys.stdin)
print(eval(sys.argv[1]))' "$expression"
}

# ---- No daemon: each case says what to do about it ----

answers "no daemon" 3 "does not exist.*volumed --data-dir" status
answers "no daemon: a socket that is named" 3 "$dir/none does not exist" --socket "$dir/none" status
answers "no daemon: a file that is no socket" 3 "is no socket" --socket "$0" status
answers "no daemon: a path that is too long" 3 "at most 107 bytes" \
	--socket "$dir/$(printf 'x%.0s' {1..200})" status
answers "no daemon: ping" 3 "does not exist" ping
answers "no daemon: ping waits, and gives up" 3 "does not exist" ping --wait=1
if [ -e /run/volumed/volumed.sock ] || [ -e /var/lib/volumed/volumed.sock ]; then
	skip "no daemon, by the default places" "a volumed of this machine's own is there"
else
	output=$(cd "$dir" && env -u VOLUMED_SOCKET "$volumectl" status 2>&1)
	expect "no daemon, by the default places: exit status" 3 $?
	expect_match "no daemon, by the default places" "no volumed here.*VOLUMED_SOCKET" "$output"
fi

# ---- Help needs no daemon ----

for words in "" volume instance; do
	# shellcheck disable=SC2086 # words
	answers "volumectl $words --help" 0 "^Commands:" $words --help
done
while read -r words; do
	# shellcheck disable=SC2086
	answers "volumectl $words --help" 0 "^Usage: volumectl $words.*" $words --help
	# shellcheck disable=SC2086
	[ "$words" = help ] ||
		answers "volumectl help $words" 0 "^Usage: volumectl $words" help $words
done < <(ctl --help | sed -n '/^Commands:/,/^$/s/^  \([a-z]\+\( [a-z]\+\)\?\)  .*/\1/p')
answers "help on a command that is none" 2 "no command 'volume frob'" help volume frob
answers "--version" 0 "^volumectl [0-9]" --version
answers "no command" 2 "say what to do" </dev/null
answers "a slip of the pen" 2 "did you mean 'attach'" atach vol
answers "a missing option" 2 "--size SIZE is missing" volume create
answers "a size that is none" 2 "10GiB" volume create --size lots
answers "a size that is too large" 2 "too large" volume create --size 99999999TiB
answers "a tag that is none" 2 "KEY=VALUE" volume create --size 1GiB --tag novalue
answers "a tag twice" 2 "there already" volume create --size 1GiB --tag a=1 --tag a=2
answers "a number that is none" 2 "'x' is not a number" events --limit x
expect "output that can't be written is a failure" 1 \
	"$(ctl --help >/dev/full 2>/dev/null; echo $?)"

# ---- A daemon that is starting ----

ctl ping --wait --quiet &
waiter=$!
start_daemon --volume-size 64MiB --nbd-listen 127.0.0.1:0 || { fail "the daemon starts"; exit 1; }
wait $waiter
expect "ping --wait waits until it is ready" 0 $?
answers "ping" 0 "^ready$" ping
expect "the API socket has mode 0600" 600 "$(stat -c %a "$VOLUMED_SOCKET")"
answers "the first volume is attached" 0 "in-use +/dev/sdf" volume list
answers "status" 0 "health: +ok" status
answers "the NBD socket is not the API's" 3 "does not speak HTTP" --socket "$socket" status
expect "--socket overrides VOLUMED_SOCKET" ok \
	"$(api=$VOLUMED_SOCKET; VOLUMED_SOCKET=/none ctl status -q --socket "$api")"
expect "the socket by default" ready "$(cd "$dir" && env -u VOLUMED_SOCKET "$volumectl" ping)"
if [ "$(id -u)" -eq 0 ] && command -v setpriv >/dev/null; then
	chmod 711 "$dir" "$dir/data"
	cp "$volumectl" "$dir/volumectl"
	chmod 755 "$dir/volumectl"
	output=$(setpriv --reuid 65534 --clear-groups "$dir/volumectl" status 2>&1)
	expect "another user: exit status" 3 $?
	expect_match "another user is told whose it is" "for the user root and root" "$output"
	chmod 700 "$dir/data"
else
	skip "another user" "needs root, to become somebody else"
fi

# ---- The first ten minutes ----

db=$(ctl volume create --size 1GiB --name db --tag team=storage --quiet)
expect_match "create --quiet prints just the id" "^vol-[0-9a-f]{17}$" "$db"
answers "it is available" 0 "$db +db +1 GiB +available" volume list
answers "show, by name" 0 "team=storage" volume show db
uri=$(ctl attach db --quiet)
expect_match "attach --quiet prints just the URI" "^nbd\+unix:///.+\?socket=.*nbd.sock$" "$uri"
run_ok "nbdinfo" nbdinfo "$uri"
expect "its size" 1073741824 "$(nbdinfo --size "$uri")"
truncate -s 64M "$dir/image"
mkfs.ext4 -q "$dir/image"
run_ok "qemu-img convert" qemu-img convert -n -f raw -O raw "$dir/image" "$uri"
run_ok "qemu-img info" qemu-img info "$uri"
run_ok "fio" fio --name=try --ioengine=nbd --uri="$uri" --rw=randwrite --bs=4k --iodepth=16 \
	--offset=64m --size=16m --verify=crc32c --verify_state_save=0 --randrepeat=0
answers "show says what is stored" 0 "stored: +[0-9.]+ MiB" volume show db
answers "detach" 0 "^$db is detached$" detach db
if nbdinfo "$uri" >/dev/null 2>&1; then
	fail "the URI ends with the attachment"
else
	pass "the URI ends with the attachment"
fi
web=$(ctl instance register web1 --quiet)
expect_match "register --quiet prints just the id" "^i-[0-9a-f]{17}$" "$web"
answers "attach to another instance, by name" 0 "$db is attached to $web as /dev/sdh" \
	attach db --instance web1 --device /dev/sdh
second=$(json 'j["attachments"][0]["uri"]' volume show db)
expect "the bytes are there" "$(sha256sum <"$dir/image")" \
	"$(nbdcopy "$second" - | head -c 64M | sha256sum)"
answers "grow, while attached" 0 "has 2 GiB now" volume resize db --size 2GiB
expect "a new client sees the new size" 2147483648 "$(nbdinfo --size "$second")"
answers "an attached volume is not deleted" 5 "attached" volume delete db
answers "an instance with volumes stays" 5 "$web" instance deregister web1
answers "detach from it" 0 detached detach db --instance web1
answers "deregister" 0 "no longer registered" instance deregister web1
answers "delete" 0 "$db is deleted" volume delete db
for _ in $(seq 100); do # its space comes back behind the answer
	ctl volume show db >/dev/null 2>&1 || break
	sleep 0.05
done
answers "it is gone" 4 "no volume has the name 'db'" volume show db
answers "its id, too" 4 "$db" volume show "$db"
answers "the events tell it all" 0 "deleteVolume +$db +volumectl, user" events
answers "the events of one volume" 0 "createVolume" events "$(ctl volume list -q | head -n 1)"
answers "check" 0 "^clean: .*, 1 of them in use, 0 things wrong" check
answers "check --deep" 0 "^clean: .*, 1 of them in use, 0 things wrong" check --deep
expect "check --quiet says nothing" "" "$(ctl check --quiet)"

# ---- Errors, and their exit statuses ----

a=$(ctl volume create --size 64MiB --name same -q)
b=$(ctl volume create --size 64MiB --name same -q)
answers "a name that two have" 2 "$a.*$b|$b.*$a" volume show same
answers "a bad id" 4 "'vol-12' is no volume's id" volume show vol-12
answers "an id that nobody has" 4 "vol-01234567890abcdef" volume show vol-01234567890abcdef
answers "an instance's id as a volume" 4 "no volume has the name" volume show "$web"
answers "an instance that nobody has" 4 "no instance has the name" attach "$a" -i nobody
answers "a bad instance id" 4 "no instance's id" attach "$a" -i i-xyz
answers "shrinking" 2 "$a" volume resize "$a" --size 32MiB
answers "detaching what is not attached" 5 "$a" detach "$a"
ctl attach "$a" -q >/dev/null
answers "attaching twice" 5 "$a" attach "$a"
answers "a device that is taken" 2 "/dev/sdg" attach "$b" --device /dev/sdg
answers "a device that is none" 2 "device" attach "$b" --device nonsense
answers "detach with a wrong device" 4 "$a" detach "$a" --device /dev/sdz
answers "detach --force" 0 "detached" detach "$a" --force
answers "a volume of no size" 2 "size" volume create --size 0
answers "a filter that is none" 2 "frob" volume list --filter frob=1
answers "a filter without a value" 2 "NAME=VALUE" volume list --filter status
answers "odd letters in a name" 0 "available" volume create --size 64MiB --name $'a*?\\"\e[2Jb'
expect "... it is found by it" 1 \
	"$(ctl volume show $'a*?\\"\e[2Jb' -q | wc -l)"
if ctl volume list | grep -q $'\e'; then
	fail "... and can't play with the terminal"
else
	pass "... and can't play with the terminal"
fi
answers "... nor is it a pattern" 4 "no volume" volume show 'a*'

# ---- The same request twice ----

one=$(ctl volume create --size 64MiB --client-token once -q)
expect "a token makes one volume" "$one" "$(ctl volume create --size 64MiB --client-token once -q)"
answers "a token with other parameters" 5 "[Ii]dempotent|token" \
	volume create --size 128MiB --client-token once

# ---- JSON, of each command ----

expect "json: create" available "$(json 'j["state"]' volume create --size 64MiB --name j)"
expect "json: list" True "$(json 'len(j["volumes"]) > 3' volume list)"
expect "json: list --filter" j "$(json 'j["volumes"][0]["name"]' volume list -f tag:Name=j)"
expect "json: list, several filters" 2 "$(json 'len(j["volumes"])' \
	volume list -f "volume-id=$a" -f "volume-id=$b" -f status=available)"
expect "json: list of nothing" 0 "$(json 'len(j["volumes"])' volume list -f tag:Name=none)"
expect "json: show" 67108864 "$(json 'j["size"]' volume show j)"
expect "json: attach" attached "$(json 'j["state"]' attach j)"
expect "json: resize" 134217728 "$(json 'j["size"]' volume resize j --size 128MiB)"
expect "json: detach" /dev/ "$(json 'j["device"][:5]' detach j)"
expect "json: delete" deleting "$(json 'j["state"]' volume delete j)"
expect "json: instance register" api1 "$(json 'j["name"]' instance register api1)"
expect "json: instance list" True "$(json 'any(i["own"] for i in j["instances"])' instance list)"
expect "json: instance deregister" api1 "$(json 'j["name"]' instance deregister api1)"
expect "json: status" True "$(json 'j["healthy"] and j["space"]["capacity"] > 0' status)"
expect "json: ping" ok "$(json 'j["status"]' ping)"
expect "json: check" "done" "$(json 'j["state"]' check)"
expect "json: events" 7 "$(json 'len(j["events"])' events --limit 7)"
expect "json: events, newest first" True \
	"$(json 'j["events"] == sorted(j["events"], key=lambda e: -e["sequence"])' events -l 50)"
expect "quiet: list prints ids" "$(json '"\n".join(v["id"] for v in j["volumes"])' volume list)" \
	"$(ctl volume list -q)"

# ---- After a restart ----

uri=$(ctl attach "$a" -q)
before=$(ctl volume list -q)
stop_daemon
expect "a clean stop" 0 $?
[ -e "$VOLUMED_SOCKET" ] && fail "the API socket is gone with the daemon"
answers "... which is said" 3 "does not exist" status
start_daemon --volume-size 64MiB || fail "it starts again"
expect "the volumes are there" "$before" "$(ctl volume list -q)"
run_ok "the attachment is, too" nbdinfo "$uri"
kill -KILL "$pid"
wait "$pid" 2>/dev/null
answers "a daemon that was killed" 3 "nobody listens" status
start_daemon --volume-size 64MiB || fail "it starts after SIGKILL"
run_ok "ping after SIGKILL" "$volumectl" ping
run_ok "the attachment after SIGKILL" nbdinfo "$uri"
answers "check after SIGKILL" 0 "^clean" check
stop_daemon
expect "the last stop is clean" 0 $?
