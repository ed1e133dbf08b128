#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# House rules that a text search can hold: lengths of functions (70 lines), files (800) and lines
# (100 columns, tabs of 8), calls that have a better replacement here, leftovers.
set -u
cd "$(dirname "$0")/.." || exit 1
status=0

mapfile -t sources < <(git ls-files -co --exclude-standard '*.c' '*.h')
mapfile -t texts < <(git ls-files -co --exclude-standard '*.c' '*.h' '*.sh' '*.py' '*.mk' \
	Makefile .ci/run)

# A function's body begins with "{" in the first column; its length counts from there.
awk '
	function complain(where, what) { print where ": " what; bad = 1 }
	function file_ends() {
		if (lines > 800)
			complain(previous, lines " lines; split it (800)")
	}
	FNR == 1 { file_ends(); previous = FILENAME; start = 0 }
	{ lines = FNR }
	/^\{/ { start = FNR }
	/^\}/ && start {
		if (FNR - start + 1 > 70)
			complain(FILENAME ":" start, FNR - start + 1 " lines; split it (70)")
		start = 0
	}
	END { file_ends(); exit bad }
' "${sources[@]}" || status=1

for file in "${texts[@]}"; do
	# A line of a script may show what a person would paste.
	case $file in *.c | *.h) columns=100 ;; *) columns=120 ;; esac
	# UTF-8 continuation bytes take no column.
	expand -t 8 "$file" | LC_ALL=C tr -d '\200-\277' | awk -v file="$file" -v max="$columns" '
		length($0) > max { print file ":" NR ": " length($0) " columns (" max ")"; bad = 1 }
		END { exit bad }' || status=1
done

# The code without strings and comments, line by line.
strip() {
	sed -E 's,"([^"\\]|\\.)*","",g
		s,/\*.*\*/,,g
		s,//.*,,
		s,^[[:space:]]*\*([[:space:]].*|/.*|)$,,
		s,/\*.*,,' "$1"
}

stripped=$(mktemp -d "${TMPDIR:-/tmp}/volumed-tidy.XXXXXX")
trap 'rm -rf "$stripped"' EXIT
for file in "${sources[@]}"; do
	mkdir -p "$stripped/${file%/*}"
	strip "$file" >"$stripped/$file"
done

# ban PATTERN REPLACEMENT [FILES in which it is allowed, as a pattern]
ban() {
	local found

	found=$(cd "$stripped" && grep -nE "$1" "${sources[@]}" /dev/null |
		grep -vE "${3:-^$}") || return 0
	printf '%s\n    use %s\n' "$found" "$2"
	status=1
}
ban '\<strcpy *\(' 'snprintf, or memcpy with a length'
ban '\<strcat *\(' 'snprintf with an offset'
ban '\<sprintf *\(' 'snprintf'
ban '\<vsprintf *\(' 'vsnprintf'
ban '\<gets *\(' 'fgets'
ban '\<ato[ilf]+ *\(' 'size_parse (base/size.h), or strtoul and its checks'
ban '\<strtok *\(' 'strtok_r or strcspn'
ban '\<alloca *\(' 'an array of fixed size'
ban '\<time *\(NULL\)' 'io_now or io_wall_clock (io/io.h)'
ban '\<s?rand(om)? *\(' 'io_random (io/io.h); in tests a generator with a seed'
ban '(^|[^>.a-z_])(malloc|calloc|realloc|free) *\(' \
	'mem_alloc and mem_free, or a pool (base/mem.h)' '^(base/mem\.c|tests/.*):'
ban '<assert\.h>' 'CHECK (base/check.h)'
ban '\<assert *\(' 'CHECK (base/check.h)'

# Leftovers.
if git ls-files -co --exclude-standard -z | grep -zv '^scripts/tidy.sh$' |
	xargs -0 grep -nIwE 'FIXME|XXX|TODO|HACK'; then
	echo "    leftovers: do it, or file an issue"
	status=1
fi

# Each source says its licence at the top.
for file in "${texts[@]}"; do
	# A line of a script may show what a person would paste.
	case $file in *.c | *.h) columns=100 ;; *) columns=120 ;; esac
	case $file in
	Makefile | *.mk) continue ;;
	esac
	head -n 3 "$file" | grep -q 'SPDX-License-Identifier: Apache-2.0' && continue
	echo "$file: no SPDX-License-Identifier line at the top"
	status=1
done

exit $status
