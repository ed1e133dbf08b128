/* SPDX-License-Identifier: Apache-2.0
 *
 * Any bytes as a config file: settings, or an error that names the line.
 */
#include "base/check.h"
#include "volumed/config.h"
#include "volumed/settings.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static int fd = -1;
	static char path[32];
	struct options o;
	struct err err = {0};

	if (fd < 0) {
		fd = memfd_create("volumed.conf", MFD_CLOEXEC);
		CHECK(fd >= 0);
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	}
	CHECK(ftruncate(fd, 0) == 0);
	CHECK(pwrite(fd, data, size, 0) == (ssize_t)size);
	settings_init(&o);
	if (config_load(path, &o, &err) < 0) {
		CHECK(err.code < 0);
		CHECK(strncmp(err.text, path, strlen(path)) == 0);
	}
	CHECK(o.n_listen <= OPTIONS_LISTEN_MAX);
	CHECK(o.threads >= 1 && o.threads <= OPTIONS_THREADS_MAX);
	arena_free(&o.memory);
	return 0;
}
