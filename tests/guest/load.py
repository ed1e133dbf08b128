# SPDX-License-Identifier: Apache-2.0
"""What the guests write, in their own shell: a load that never stops, and its check."""
from guest import expect

# Overwrites files in place, each write fsynced, none of it in the page cache alone. What
# /run/synced/FILE names is what FILE holds: its number and then the pool.
PREPARE = """
mkdir -p /run/synced && dd if=/dev/urandom of=/tmp/pool bs=64k count=8 2>/dev/null
cat >/tmp/writer <<'END'
writer=$1
i=0
while [ ! -e /run/stop ]; do
	i=$((i + 1))
	file=$writer.$((i % 8))
	if ! { echo $i; cat /tmp/pool; } | dd of=$2/$file bs=16k conv=notrunc,fsync 2>/run/dd.$writer
	then
		cat /run/dd.$writer >/run/failed
		exit 1
	fi
	echo $i >/run/synced/$file
done
END
"""
# A file that holds another number or other bytes fails.
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
        guest.run(PREPARE)
        guest.run("rm -f /run/stop /run/failed; " +
                  "".join(f"sh /tmp/writer {n} {mount} & " for n in range(writers)))

    def synced(self):
        """A number that grows with each fsync that has succeeded."""
        return sum(map(int, self.guest.run("cat /run/synced/* 2>/dev/null || true").split()))

    def expect_progress(self, since):
        """The writers get on: more is synced than `since`."""
        self.guest.run(f"""
            for second in $(seq 100); do
                [ ! -e /run/failed ] || break
                total=0
                for n in $(cat /run/synced/* 2>/dev/null); do total=$((total + n)); done
                [ $total -le {since} ] || exit 0
                sleep 1
            done
            echo "no write gets through"; cat /run/failed; exit 1""")

    def stop(self):
        """Ends the writers. None of them may have seen an error, and what is on the disk must be
        what they have written last."""
        self.guest.run("touch /run/stop; while pgrep -f /tmp/writer >/dev/null; do sleep 0.1; "
                       "done; [ ! -e /run/failed ] || { cat /run/failed; exit 1; }")
        expect(self.synced() > 0, "the writers wrote nothing")
        self.guest.run(VERIFY % self.mount)
