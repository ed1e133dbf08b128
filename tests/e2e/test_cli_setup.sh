#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# What comes around the programs: the README's first ten minutes with volumectl, the config file,
# make install, the completion for bash, and man pages that say what the programs do.
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
root=$PWD
bin=$(realpath "${volumed%/*}")
unset VOLUMED_SOCKET

# ---- The config file ----

# refused NAME PATTERN LINES: volumed does not start with such a file, and says why.
refused() {
	local got=0 output

	printf '%b' "$3" >"$dir/conf"
	output=$(timeout 60 "$volumed" --config "$dir/conf" 2>&1) || got=$?
	expect "$1: exit status" 2 "$got"
	expect_match "$1" "$2" "$output"
}
refused "an unknown setting" "conf:2: .*'data-dire'; did you mean data-dir" "# x\ndata-dire = x\n"
refused "a bad value" "conf:1: threads: 'many' is not" "threads = many\n"
refused "a setting twice" "conf:3: threads is set twice; it was in line 1" \
	"threads = 1\n\nthreads = 2\n"
refused "no data folder" "say where the data is" "threads = 1\n"
expect_match "a config file that is not there" "config file $dir/none: No such file" \
	"$("$volumed" --config "$dir/none" 2>&1)"
printf 'data-dir = %s\nvolume-size = 64MiB\nnbd-listen = 127.0.0.1:0\nlog-level = debug\n' \
	"$dir/data" >"$dir/conf"
"$volumed" --config "$dir/conf" --volume-size 128MiB >"$dir/log" 2>&1 &
pid=$!
run_ok "volumed --config" "$bin/volumectl" --socket "$dir/data/volumed.sock" ping --wait
list=$("$bin/volumectl" --socket "$dir/data/volumed.sock" volume list)
expect_match "an option overrides the file" "128 MiB" "$list"
expect_match "a list in the file" "127.0.0.1:" "$(grep ready "$dir/log")"
stop_daemon
expect "its clean stop" 0 $?
rm -rf "$dir/data"

# What the service's settings do.
printf 'data-dir = %s\nvolume-size = none\nstore-max-size = 1GiB\novercommit-limit = 2\n' \
	"$dir/data" >"$dir/conf"
printf 'zone = eu-1a\nzone-number = 171 # ab\n' >>"$dir/conf"
"$volumed" --config "$dir/conf" >"$dir/log" 2>&1 &
pid=$!
export VOLUMED_SOCKET=$dir/data/volumed.sock
run_ok "a daemon with all of that" "$bin/volumectl" ping --wait
expect "volume-size = none makes none" "" "$("$bin/volumectl" volume list --quiet)"
expect_match "zone and overcommit-limit are in the status" "eu-1a \(171\).*limit is 2.00" \
	"$("$bin/volumectl" status | tr '\n' ' ')"
expect_match "zone-number begins the ids" "^vol-ab" \
	"$("$bin/volumectl" volume create --size 1GiB --quiet)"
"$bin/volumectl" volume create --size 2GiB >/dev/null 2>&1
expect "a volume beyond overcommit-limit" 6 $?
stop_daemon
expect "the clean stop of that" 0 $?
unset VOLUMED_SOCKET
rm -rf "$dir/data"

# What is in the way of the API's socket is left alone.
mkdir "$dir/data"
echo precious >"$dir/data/volumed.sock"
expect_match "a file in place of the API's socket" "volumed.sock exists and is no socket" \
	"$(timeout 60 "$volumed" --data-dir "$dir/data" 2>&1)"
expect "... stays" precious "$(cat "$dir/data/volumed.sock")"
rm -rf "$dir/data"

# ---- The README ----

sed -n '/^    PATH=/,/^Before the end/s/^    //p' README.md >"$dir/readme.sh"
expect_match "the README has its commands" "volumectl attach db --quiet" "$(cat "$dir/readme.sh")"
cd "$dir" || exit 1
"$bin/volumed" --data-dir data >"$dir/log" 2>&1 &
pid=$!
mkdir build
ln -s "$bin" build/bin
run_ok "the daemon is ready" build/bin/volumectl ping --wait
if output=$(bash -e readme.sh 2>&1); then
	pass "the README's first ten minutes, as they stand there"
else
	fail "the README's first ten minutes, as they stand there" "$output"
fi
expect_match "they grow it" "has 2 GiB now" "$output"
expect_match "they end clean" "^clean: " "$output"
cd "$root" || exit 1

# ---- Completion ----

# complete WORD...: what bash offers for the last word.
complete_words() {
	VOLUMED_SOCKET=$dir/data/volumed.sock PATH=$bin:$PATH bash -c '
		source <(volumectl completion bash)
		COMP_WORDS=("$@")
		COMP_CWORD=$(($# - 1))
		_volumectl
		echo "${COMPREPLY[*]}"' bash "$@"
}
expect "completion of a command" "attach" "$(complete_words volumectl att)"
expect "completion of a group" "volume" "$(complete_words volumectl vol)"
expect "completion of a group's command" "create" "$(complete_words volumectl volume cr)"
expect "completion after an option" "resize" \
	"$(complete_words volumectl --socket x volume --json re)"
expect "completion of an option" "--size" "$(complete_words volumectl volume create --si)"
expect "completion of no other command's option" "" "$(complete_words volumectl volume list --si)"
expect_match "completion of a volume" "^vol-[0-9a-f]{17}$" "$(complete_words volumectl attach vol-)"
expect_match "completion of an instance" "i-[0-9a-f]{17}" \
	"$(complete_words volumectl attach x --instance i-)"
expect_match "completion of --name=value" "i-[0-9a-f]{17}" \
	"$(complete_words volumectl attach x --instance = i-)"
expect "completion of a file" "$dir/readme.sh" "$(complete_words volumectl --socket "$dir/readm")"
expect "completion of a shell" "bash" "$(complete_words volumectl completion b)"
expect "completion of nothing" "" "$(complete_words volumectl status x)"
"$bin/volumectl" completion bash >"$dir/completion"
run_ok "the completion is good bash" bash -n "$dir/completion"
if command -v shellcheck >/dev/null; then
	run_ok "... and shellcheck agrees" shellcheck -s bash "$dir/completion"
else
	skip "... and shellcheck agrees" "no shellcheck"
fi
stop_daemon
expect "a clean stop" 0 $?

# ---- Man pages and make install ----

run_ok "volumectl(1) is what its tables say" \
	scripts/man.sh --check "$bin/volumectl" man/volumectl.1
while read -r setting; do
	expect_match "volumed.conf(5) explains $setting" "^.It Ic $setting " \
		"$(cat man/volumed.conf.5)"
	expect_match "volumed(8) explains --$setting" "Fl -$setting" "$(cat man/volumed.8)"
done < <(sed -n 's/^#\?\([a-z-]\+\) = .*/\1/p' packaging/volumed.conf)
expect_match "volumed(8) explains --config" "Fl -config" "$(cat man/volumed.8)"
if output=$(make --no-print-directory install DESTDIR="$dir/root" PREFIX=/usr \
	UNITDIR=/lib/systemd/system 2>&1); then
	pass "make install"
else
	fail "make install" "$output"
fi
for file in usr/sbin/volumed usr/bin/volumectl usr/share/man/man1/volumectl.1 \
	usr/share/man/man5/volumed.conf.5 usr/share/man/man8/volumed.8 \
	usr/share/bash-completion/completions/volumectl etc/volumed/volumed.conf \
	lib/systemd/system/volumed.service; do
	run_ok "it installs $file" test -s "$dir/root/$file"
done
expect_match "the unit reads the config" "--config /etc/volumed/volumed.conf" \
	"$(cat "$dir/root/lib/systemd/system/volumed.service")"
echo "threads = 1" >>"$dir/root/etc/volumed/volumed.conf"
make --no-print-directory install DESTDIR="$dir/root" PREFIX=/usr UNITDIR=/lib/systemd/system \
	>/dev/null 2>&1
expect_match "a second install keeps the admin's config" "^threads = 1" \
	"$(cat "$dir/root/etc/volumed/volumed.conf")"
