#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The first and only process of a test guest: loads the drivers, then runs what the host sends on
# the second serial port, one script a line in base64, and answers with its output and "\001STATUS".
# With rootdisk=DEVICE on the kernel's command line it boots from that disk, whose /init is this.
export PATH=/bin HOME=/
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
mkdir -p /mnt
for module in virtio_pci virtio_blk crc32c_generic; do
	modprobe $module || echo "modprobe $module failed" >/dev/console
done

if [ -n "$rootdisk" ]; then
	disk=$rootdisk
	unset rootdisk
	# The first mount replays the journal; after it nothing may be left for e2fsck to mend.
	mount -t ext4 "$disk" /mnt && umount /mnt && e2fsck -fn "$disk" >/dev/console 2>&1 &&
		mount -t ext4 "$disk" /mnt && umount /run /tmp /dev /sys /proc &&
		exec switch_root /mnt /init
	echo "can't boot from $disk" >/dev/console
	poweroff -f
fi

exec </dev/ttyS1 >/dev/ttyS1 2>&1
stty raw -echo
printf 'ready\001\n'
while read -r line; do
	echo "$line" | base64 -d >/tmp/script
	sh /tmp/script </dev/null
	printf '\001%d\n' $?
done
poweroff -f
