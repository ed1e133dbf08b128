#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Who may include whom: fails on an #include that crosses a forbidden edge, or names no layer.
# ARCHITECTURE.md has the same table with its reasons.
set -u
cd "$(dirname "$0")/.." || exit 1

all="nbd block engine store io base instance-store snapshots metadata control api"
# Folder: the folders that its files may include, besides itself.
declare -A may=(
	[base]=""
	[io]="base"
	[block]="io base"
	[store]="io base"
	[engine]="block store io base"
	[instance-store]="block io base"
	# Its daemon: a program of its own, with volumed's sockets and signals.
	[instance-stored]="instance-store nbd block io base volumed"
	[snapshots]="engine block store io base"
	[metadata]="io base"
	[nbd]="block io base"
	[control]="engine snapshots store metadata block io base"
	[api]="control base"
	[cli]="base"
	[volumed]="$all"
	[bench]="$all"
	[tests]="$all cli volumed instance-stored"
)
# System headers that only one folder may use, since it hides them from the rest.
declare -A only=(
	[liburing.h]=io
	[isa-l/crc.h]=base
	[isa-l/igzip_lib.h]=snapshots
	[openssl/evp.h]="snapshots cli"
	[sqlite3.h]=metadata
	[gnutls/crypto.h]=instance-store
	[microhttpd.h]="api instance-stored"
	[jansson.h]="api cli bench instance-stored"
	[curl/curl.h]="cli instance-stored"
	[ini.h]=volumed
)
wrong=0

complain() {
	echo "$1" >&2
	wrong=1
}

check_include() {
	local where=$1 from=$2 to=$3

	if [[ $to != */* ]]; then
		complain "$where: \"$to\": write the path from the root (\"folder/file.h\")"
	elif [[ -z ${may[${to%%/*}]+known} ]]; then
		complain "$where: \"$to\" is in no folder that this table knows"
	elif [[ " $from ${may[$from]} " != *" ${to%%/*} "* ]]; then
		complain "$where: $from/ may not include \"$to\" (but: ${may[$from]:-nothing})"
	fi
}

while IFS=: read -r file line text; do
	from=${file%%/*}
	if [[ -z ${may[$from]+known} ]]; then
		complain "$file: its folder is in no layer; add it to scripts/layers.sh"
		continue
	fi
	if [[ $text =~ include[[:space:]]*\"([^\"]+)\" ]]; then
		check_include "$file:$line" "$from" "${BASH_REMATCH[1]}"
	elif [[ $text =~ include[[:space:]]*\<([^>]+)\> ]]; then
		header=${BASH_REMATCH[1]}
		[[ " ${only[$header]-$from} tests " == *" $from "* ]] ||
			complain "$file:$line: <$header> is for ${only[$header]}/ alone"
	fi
done < <(git ls-files -co --exclude-standard '*.c' '*.h' |
	xargs grep -nH '^[[:space:]]*#[[:space:]]*include')

exit $wrong
