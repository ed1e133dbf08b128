#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The HTTP API of a real volumed, as scripts use it (curl), and as rude clients do.
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
api=$dir/data/volumed.sock

# request METHOD PATH [CURL ARGUMENT...]: prints the body and, on a line of its own, the status.
request() {
	local method=$1 path=$2

	shift 2
	curl --silent --show-error --max-time 60 --unix-socket "$api" -X "$method" \
		-w '\n%{http_code}' "http://volumed$path" "$@" 2>&1
}

# status METHOD PATH [CURL ARGUMENT...]
status() {
	request "$@" | tail -n 1
}

# member EXPRESSION METHOD PATH [CURL ARGUMENT...]: of the JSON, as `j`.
member() {
	local expression=$1

	shift
	request "$@" | sed '$d' | /usr/bin/python3 -c 'import json, sys
j = json.load(sys.stdin)
print(eval(sys.argv[1]))' "$expression"
}

start_daemon --volume-size 64MiB || { fail "the daemon starts"; exit 1; }

# What docs/api.md shows.
expect "GET /v1 lists the routes" True "$(member 'len(j["routes"]) > 10' GET /v1)"
expect "POST /v1/volumes" 201 "$(status POST /v1/volumes -d '{"size": "1GiB", "name": "db"}')"
id=$(member 'j["volumes"][0]["id"]' GET '/v1/volumes?filter.tag:Name=db')
expect "GET /v1/volumes/{id}" 1073741824 "$(member 'j["size"]' GET "/v1/volumes/$id")"
expect "PATCH /v1/volumes/{id}" 2147483648 \
	"$(member 'j["size"]' PATCH "/v1/volumes/$id" -d '{"size": 2147483648}')"
expect "POST .../attachments without a body" 201 "$(status POST "/v1/volumes/$id/attachments")"
expect "DELETE of an attached volume" 409 "$(status DELETE "/v1/volumes/$id")"
expect "... says why" VolumeInUse "$(member 'j["error"]["code"]' DELETE "/v1/volumes/$id")"
expect "DELETE .../attachments" 200 "$(status DELETE "/v1/volumes/$id/attachments?force=true")"
expect "DELETE /v1/volumes/{id}" 202 "$(status DELETE "/v1/volumes/$id")"
for _ in $(seq 100); do # its space comes back behind the answer
	[ "$(status GET "/v1/volumes/$id")" = 200 ] || break
	sleep 0.05
done
expect "GET of a deleted volume" 404 "$(status GET "/v1/volumes/$id")"
expect "a malformed id" InvalidVolumeID.Malformed \
	"$(member 'j["error"]["code"]' GET /v1/volumes/vol-1)"
expect "POST /v1/check" 202 "$(status POST /v1/check -d '{"deep": true}')"
expect "GET /v1/status" True "$(member 'j["healthy"]' GET /v1/status)"
first=$(member 'j["id"]' POST /v1/volumes -H 'Client-Token: t' -d '{"size": 4194304}')
expect "a Client-Token" "$first" \
	"$(member 'j["id"]' POST /v1/volumes -H 'Client-Token: t' -d '{"size": 4194304}')"
expect "a Client-Token with other parameters" 409 \
	"$(status POST /v1/volumes -H 'Client-Token: t' -d '{"size": 8388608}')"
expect "an instance" 200 \
	"$(status GET "/v1/instances/$(member 'j["id"]' POST /v1/instances -d '{"name": "i"}')")"

# Pages: every volume once, in the same order as in one page.
for _ in 1 2 3 4 5; do
	status POST /v1/volumes -d '{"size": 4194304}' >/dev/null
done
token=
paged=
while :; do
	page=$(member '" ".join(v["id"] for v in j["volumes"]) + ";" + (j["next_token"] or "")' \
		GET "/v1/volumes?max_results=2${token:+&next_token=$token}")
	paged="$paged${paged:+ }${page%;*}"
	token=${page#*;}
	[ -n "$token" ] || break
done
expect "pages of two are the whole list" \
	"$(member '" ".join(v["id"] for v in j["volumes"])' GET /v1/volumes)" "$paged"
expect "a token that is none" 400 "$(status GET '/v1/volumes?next_token=nonsense')"

# Bodies that are wrong.
expect "malformed JSON" 400 "$(status POST /v1/volumes -d '{"size": ')"
expect "no JSON" 400 "$(status POST /v1/volumes --data-binary @base/util.h)"
head -c 300000 /dev/zero | tr '\0' ' ' >"$dir/huge"
expect "a huge body" 413 "$(status POST /v1/volumes --data-binary @"$dir/huge")"
expect "a huge body in chunks" 413 \
	"$(status POST /v1/volumes -H 'Transfer-Encoding: chunked' --data-binary @"$dir/huge")"
head -c 200000 /dev/zero | tr '\0' '[' >"$dir/deep"
expect "a deep body" 400 "$(status POST /v1/volumes --data-binary @"$dir/deep")"
expect "a huge header" 431 "$(status GET /v1/ping -H "X: $(head -c 100000 /dev/zero | tr '\0' x)")"
expect "a wrong method" 405 "$(status PUT /v1/volumes)"
expect "no such path" 404 "$(status GET /v2/volumes)"
expect "it is well after all that" 200 "$(status GET /v1/ping)"

# Clients that connect and dawdle, or only connect.
/usr/bin/python3 - "$api" >"$dir/slow.log" <<'END' &
import socket, sys, time

slow = []
for i in range(200):
    s = socket.socket(socket.AF_UNIX)
    s.connect(sys.argv[1])
    s.send((b"", b"GET /v1/p",
            b"POST /v1/volumes HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")[i % 3])
    slow.append(s)
print("connected", flush=True)
time.sleep(600)
END
slow=$!
for _ in $(seq 100); do
	grep -q connected "$dir/slow.log" && break
	sleep 0.1
done
expect "200 slow clients hold up nobody" 200 "$(status GET /v1/ping)"
expect "... not even a write" 201 "$(status POST /v1/volumes -d '{"size": 4194304}')"

# They don't hold up a stop, either.
stop_daemon
expect "a clean stop with all of them connected" 0 $?
kill $slow
wait $slow 2>/dev/null || true
