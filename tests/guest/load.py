# SPDX-License-Identifier: Apache-2.0
"""A guest that writes, in its own shell: a load that goes on until it is stopped, and its check."""
from guest import expect

# Overwrites eight files in place, over and over. A write counts once its fsync has succeeded:
# /run/synced/FILE then holds the number that FILE begins with; the pool follows it.
PREPARE = """
rm -f /run/stop /run/failed /run/done.*
mkdir -p /run/synced
dd if=/dev/urandom of=/tmp/pool bs=64k count=2 2>/dev/null
cat >/tmp/writer <<'END'
i=0
while [ ! -e /run/stop ]; do
	i=$((i + 1))
	file=$1.$((i % 8))
	if ! { echo $i; cat /tmp/pool; } |
		dd of=$2/$file bs=16k conv=notrunc,fsync 2>/run/dd.$1; then
		cat /run/dd.$1 >>/run/failed
		break
	fi
	echo $i >/run/synced/$file
done
touch /run/done.$1
END
"""
WAIT_UNTIL_WRITTEN = """
for second in $(seq 100); do
	[ ! -e /run/failed ] || break
	total=0
	for n in $(cat /run/synced/* 2>/dev/null); do
		total=$((total + n))
	done
	[ $total -le %d ] || exit 0
	sleep 1
done
echo "no write gets through"
cat /run/failed
exit 1
"""
STOP = """
touch /run/stop
for writer in $(seq %d); do
	while [ ! -e /run/done.$writer ]; do
		sleep 0.1
	done
done
[ ! -e /run/failed ] || { cat /run/failed; exit 1; }
"""
# What is in the page cache proves nothing.
VERIFY = """
echo 3 >/proc/sys/vm/drop_caches
for file in /run/synced/*; do
	{ cat $file; cat /tmp/pool; } | cmp - %s/${file##*/} || exit 1
done
"""


class Load:
    """Writers in a guest, on the file system at `mount`."""

    def __init__(self, guest, mount="/mnt", writers=2):
        self.guest = guest
        self.mount = mount
        self.writers = writers
        guest.run(PREPARE)
        guest.run("".join(f"sh /tmp/writer {n} {mount} &\n" for n in range(1, writers + 1)))

    def synced(self):
        """A number that grows with each fsync that has succeeded."""
        return sum(map(int, self.guest.run("cat /run/synced/* 2>/dev/null || true").split()))

    def expect_progress(self):
        """The writers get on: more is fsynced than was at the call."""
        self.guest.run(WAIT_UNTIL_WRITTEN % self.synced())

    def stop(self):
        """Ends the writers. None of them may have seen an error, and each file must hold what was
        written to it last."""
        self.guest.run(STOP % self.writers)
        expect(self.synced() > 0, "the writers wrote nothing")
        self.guest.run(VERIFY % self.mount)
