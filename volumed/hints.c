/* SPDX-License-Identifier: Apache-2.0 */
#include "volumed/hints.h"

#include <ctype.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Percent-encodes a path for the query of a URI; what comes out needs no quoting inside '...'. */
static void encode(const char *path, char *ret, size_t size)
{
	size_t used = 0;

	for (; *path && used + 4 <= size; path++) {
		unsigned char c = (unsigned char)*path;

		if (isalnum(c) || strchr("/-._~", c))
			ret[used++] = (char)c;
		else
			used += (size_t)snprintf(ret + used, 4, "%%%02X", c);
	}
	ret[used] = '\0';
}

/* On a unix socket a volume goes by its id; elsewhere by a name that nobody can guess. */
static const char *name_on(const struct listener *l, const struct control_volume *volume)
{
	return l->is_unix ? volume->id : volume->attachments[0].export_name;
}

static void uri_of(const struct listener *l, const struct control_volume *volume, char *ret,
		   size_t size)
{
	char absolute[PATH_MAX];
	char encoded[3 * LISTENER_NAME_MAX + PATH_MAX];

	if (!l->is_unix) {
		snprintf(ret, size, "nbd://%s/%s", l->name, name_on(l, volume));
		return;
	}
	encode(realpath(l->name, absolute) ? absolute : l->name, encoded, sizeof(encoded));
	snprintf(ret, size, "nbd+unix:///%s?socket=%s", name_on(l, volume), encoded);
}

/* Quoted for a shell. */
static void print_quoted(const char *text)
{
	putchar('\'');
	for (; *text; text++) {
		if (*text == '\'')
			fputs("'\\''", stdout);
		else
			putchar(*text);
	}
	putchar('\'');
}

/* The address as QEMU's -blockdev takes it; commas in a path are doubled. */
static void print_qemu_server(const struct listener *l)
{
	char path[PATH_MAX];
	const char *colon = strrchr(l->name, ':');

	if (!l->is_unix) {
		size_t len = (size_t)(colon - l->name);

		if (l->name[0] == '[')
			printf("server.type=inet,server.host=%.*s,server.port=%s", (int)len - 2,
			       l->name + 1, colon + 1);
		else
			printf("server.type=inet,server.host=%.*s,server.port=%s", (int)len,
			       l->name, colon + 1);
		return;
	}
	printf("server.type=unix,server.path=");
	for (const char *p = realpath(l->name, path) ? path : l->name; *p; p++) {
		if (*p == ',')
			fputs(",,", stdout);
		else if (*p == '\'')
			fputs("'\\''", stdout);
		else
			putchar(*p);
	}
}

static void print_disk(const struct listeners *listeners, const struct control_volume *volume)
{
	char uri[2 * PATH_MAX];

	printf("\nThe volume %s is attached to this machine, and served at\n", volume->id);
	for (unsigned i = 0; i < listeners->n; i++) {
		uri_of(&listeners->all[i], volume, uri, sizeof(uri));
		printf("  %s\n", uri);
	}
	uri_of(&listeners->all[0], volume, uri, sizeof(uri));
	printf("\nTry, from another terminal (apt install libnbd-bin qemu-utils fio):\n"
	       "  nbdinfo '%s'\n"
	       "  nbdcopy '%s' copy.raw\n"
	       "  qemu-img convert -f raw -O qcow2 '%s' copy.qcow2\n",
	       uri, uri, uri);
	printf("These write to the disk:\n"
	       "  truncate -s 256M image.raw && /sbin/mkfs.ext4 -q image.raw\n"
	       "  nbdcopy image.raw '%s'\n"
	       "  qemu-img convert -n -f raw -O raw image.raw '%s'\n"
	       "  fio --name=try --ioengine=nbd --uri='%s' --rw=randwrite --bs=4k --iodepth=32 "
	       "--size=256m --verify=crc32c --verify_state_save=0\n",
	       uri, uri, uri);
	printf("A virtual machine with the disk, which lives through a restart of volumed (apt "
	       "install qemu-system-x86):\n"
	       "  qemu-system-x86_64 -m 1G -nographic -device virtio-blk-pci,drive=disk \\\n"
	       "    -blockdev 'driver=nbd,node-name=disk,reconnect-delay=30,");
	print_qemu_server(&listeners->all[0]);
	printf(",export=%s'\n", name_on(&listeners->all[0], volume));
}

/* The one that was built with us, if it is there. */
static void find_volumectl(char ret[PATH_MAX])
{
	ssize_t len = readlink("/proc/self/exe", ret, PATH_MAX - sizeof("volumectl"));
	char *slash;

	ret[len < 0 ? 0 : len] = '\0';
	slash = strrchr(ret, '/');
	if (slash)
		memcpy(slash + 1, "volumectl", sizeof("volumectl"));
	if (!slash || access(ret, X_OK) < 0)
		memcpy(ret, "volumectl", sizeof("volumectl"));
}

static void print_more(const char *api)
{
	char volumectl[PATH_MAX];
	char absolute[PATH_MAX];

	find_volumectl(volumectl);
	printf("\nMore disks:\n  export VOLUMED_SOCKET=");
	print_quoted(realpath(api, absolute) ? absolute : api);
	printf("\n  volumectl() { ");
	print_quoted(volumectl);
	printf(" \"$@\"; }\n"
	       "  volumectl volume create --size 20GiB --name second\n"
	       "  volumectl attach second\n"
	       "  volumectl volume list\n"
	       "  volumectl status\n"
	       "  volumectl --help\n");
}

void hints_print(const struct listeners *listeners, const char *api,
		 const struct control_volume *volume)
{
	if (listeners->n == 0)
		return;
	if (volume && volume->n_attachments > 0)
		print_disk(listeners, volume);
	print_more(api);
	printf("\nCtrl-C stops volumed; the next start finds all data again.\n\n");
	fflush(stdout);
}
