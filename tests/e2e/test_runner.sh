#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# scripts/check.sh itself: a test that fails, dies, hangs, or never ran can't look like a pass.
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"

# The runner's last line and exit status for a program with the given body.
verdict() {
	local status=0

	printf '#!/bin/bash\n%s\n' "$1" >"$dir/program.sh"
	chmod +x "$dir/program.sh"
	CHECK_TIMEOUT=2 scripts/check.sh "$dir/program.sh" >"$dir/out" || status=$?
	echo "$(tail -n 1 "$dir/out"), exit $status"
}

expect "two tests pass" "2 passed, 0 failed, exit 0" \
	"$(verdict 'echo 1..2; echo "ok 1 - a"; echo "ok 2 - b"')"
expect "one of two fails" "1 passed, 1 failed, exit 1" \
	"$(verdict 'echo 1..2; echo "ok 1 - a"; echo "not ok 2 - b"; exit 1')"
expect "one fails but the program exits with 0" "0 passed, 1 failed, exit 1" \
	"$(verdict 'echo 1..1; echo "not ok 1 - a"')"
expect "dies after the first of three" "1 passed, 2 failed, exit 1" \
	"$(verdict 'echo 1..3; echo "ok 1 - a"; kill -SEGV $$')"
expect "exits with an error after all passed" "1 passed, 1 failed, exit 1" \
	"$(verdict 'echo 1..1; echo "ok 1 - a"; exit 3')"
expect "hangs" "1 passed, 1 failed, exit 1" \
	"$(verdict 'echo 1..2; echo "ok 1 - a"; sleep 60')"
expect "skips one of two" "1 passed, 0 failed, exit 0" \
	"$(verdict 'echo 1..2; echo "ok 1 - a"; echo "not ok 2 # SKIP no such device"')"
expect "runs no test" "0 passed, 1 failed, exit 1" "$(verdict 'exit 0')"
expect "prints no count and exits with 1" "0 passed, 1 failed, exit 1" "$(verdict 'exit 1')"
expect "skips all" "0 passed, 1 failed, exit 1" "$(verdict 'echo "ok 1 # SKIP all"')"
expect "unittest, all well" "3 passed, 0 failed, exit 0" \
	"$(verdict 'echo "Ran 3 tests in 0.1s"; echo; echo OK')"
expect "unittest, with all sorts" "2 passed, 2 failed, exit 1" "$(verdict \
	'echo "Ran 5 tests in 0.1s"; echo "FAILED (failures=1, errors=1, skipped=1)"; exit 1')"

status=0
scripts/check.sh >"$dir/out" || status=$?
expect "no program at all" "0 passed, 1 failed, exit 1" "$(tail -n 1 "$dir/out"), exit $status"
