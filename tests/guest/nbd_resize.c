/* SPDX-License-Identifier: Apache-2.0
 *
 * For the guest: nbd_resize DEVICE BYTES tells the kernel the new size of a connected NBD device.
 * nbd-client has no word for it.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/nbd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

int main(int argc, char **argv)
{
	unsigned long size;
	char *end;
	int fd;

	if (argc != 3)
		return 2;
	size = strtoul(argv[2], &end, 10);
	if (end == argv[2] || *end)
		return 2;
	fd = open(argv[1], O_RDWR | O_CLOEXEC);
	if (fd < 0 || ioctl(fd, NBD_SET_SIZE, size) < 0) {
		fprintf(stderr, "nbd_resize: %s: %s\n", argv[1], strerror(errno));
		return 1;
	}
	return 0;
}
