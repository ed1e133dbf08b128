/* SPDX-License-Identifier: Apache-2.0 */
#include "volumed/settings.h"

#include "base/size.h"
#include "base/util.h"

#include <ctype.h>
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

static int set_path(const char **path, const char *value, struct err *err)
{
	if (*value == '\0')
		return err_set(err, -EINVAL, "the path is empty");
	*path = value;
	return 0;
}

static int set_size(uint64_t *bytes, const char *value, struct err *err)
{
	int r = size_parse(value, bytes);

	if (r < 0)
		return err_set(err, r, "'%s' is %s: write it as 10GiB, 512MiB or 4096", value,
			       r == -ERANGE ? "too large" : "no size");
	return 0;
}

static int set_number(unsigned *number, unsigned long min, unsigned long max, const char *value,
		      struct err *err)
{
	char *end;
	unsigned long n;

	errno = 0;
	n = strtoul(value, &end, 10);
	if (errno || end == value || *end || !isdigit((unsigned char)*value) || n < min || n > max)
		return err_set(err, -EINVAL, "'%s' is not a number from %lu to %lu", value, min,
			       max);
	*number = (unsigned)n;
	return 0;
}

static int set_data_dir(struct options *o, const char *value, struct err *err)
{
	if (*value == '\0')
		return err_set(err, -EINVAL, "the name of the data folder is empty");
	o->data_dir = value;
	return 0;
}

static int set_listen(struct options *o, const char *value, struct err *err)
{
	if (o->n_listen == OPTIONS_LISTEN_MAX)
		return err_set(err, -E2BIG, "at most %d of them", OPTIONS_LISTEN_MAX);
	o->listen[o->n_listen++] = value;
	return 0;
}

static int set_allow_remote(struct options *o, const char *value, struct err *err)
{
	if (strcmp(value, "yes") != 0 && strcmp(value, "no") != 0)
		return err_set(err, -EINVAL, "'%s' is neither yes nor no", value);
	o->allow_remote = strcmp(value, "yes") == 0;
	return 0;
}

static int set_store(struct options *o, const char *value, struct err *err)
{
	return set_path(&o->store, value, err);
}

static int set_store_max_size(struct options *o, const char *value, struct err *err)
{
	return set_size(&o->store_max_size, value, err);
}

static int set_snapshots(struct options *o, const char *value, struct err *err)
{
	return set_path(&o->snapshots, value, err);
}

/* Bytes a second, or none. */
static int set_rate(uint64_t *bytes, const char *value, struct err *err)
{
	uint64_t rate = 0;
	int r = strcmp(value, "none") == 0 ? 0 : set_size(&rate, value, err);

	if (r == 0 && rate < MiB && strcmp(value, "none") != 0)
		return err_set(err, -EINVAL, "'%s': at least 1MiB a second, or none", value);
	if (r == 0)
		*bytes = rate;
	return r;
}

static int set_upload_rate(struct options *o, const char *value, struct err *err)
{
	return set_rate(&o->upload_rate, value, err);
}

static int set_hydration_rate(struct options *o, const char *value, struct err *err)
{
	return set_rate(&o->hydration_rate, value, err);
}

static int set_sweep_rate(struct options *o, const char *value, struct err *err)
{
	if (strcmp(value, "none") != 0)
		return set_number(&o->sweep_rate, 1, 10000, value, err);
	o->sweep_rate = 0;
	return 0;
}

static int set_volume_size(struct options *o, const char *value, struct err *err)
{
	uint64_t bytes = 0;
	int r;

	if (strcmp(value, "none") == 0) {
		o->volume_size = 0;
		return 0;
	}
	r = set_size(&bytes, value, err);
	if (r < 0)
		return r;
	if (bytes == 0 || !is_aligned(bytes, 4096) || bytes > 64 * TiB)
		return err_set(err, -EINVAL,
			       "'%s': a volume has a multiple of 4096 bytes, at most 64TiB", value);
	o->volume_size = bytes;
	return 0;
}

/* That it is enough for the threads is seen when they are made: either may come first. */
static int set_map_memory(struct options *o, const char *value, struct err *err)
{
	uint64_t bytes = 0;
	int r = set_size(&bytes, value, err);

	if (r < 0)
		return r;
	if (bytes < 8 * MiB || bytes > TiB)
		return err_set(err, -EINVAL, "'%s' is not from 8MiB to 1TiB", value);
	o->map_memory = bytes;
	return 0;
}

static int set_threads(struct options *o, const char *value, struct err *err)
{
	return set_number(&o->threads, 1, OPTIONS_THREADS_MAX, value, err);
}

/* What shows up in JSON, tables and events, and in the names of AWS. */
static int set_zone(struct options *o, const char *value, struct err *err)
{
	size_t len = strlen(value);

	if (len == 0 || len > OPTIONS_ZONE_MAX ||
	    strspn(value, "abcdefghijklmnopqrstuvwxyz0123456789-") != len)
		return err_set(err, -EINVAL,
			       "'%s' is no name of a zone: 1 to %d letters a to z, digits and -",
			       value, OPTIONS_ZONE_MAX);
	o->zone = value;
	return 0;
}

static int set_zone_number(struct options *o, const char *value, struct err *err)
{
	return set_number(&o->zone_number, 1, 255, value, err);
}

static int set_overcommit_limit(struct options *o, const char *value, struct err *err)
{
	double limit;
	char *end;

	if (strcmp(value, "none") == 0) {
		o->overcommit_limit = 0;
		return 0;
	}
	limit = strtod(value, &end);
	if (!isdigit((unsigned char)*value) || *end || !(limit >= 0.1 && limit <= 1000))
		return err_set(err, -EINVAL, "'%s' is neither a number from 0.1 to 1000 nor none",
			       value);
	o->overcommit_limit = limit;
	return 0;
}

static int set_detach_wait(struct options *o, const char *value, struct err *err)
{
	return set_number(&o->detach_wait, 1, 600, value, err);
}

static int set_io_stuck_after(struct options *o, const char *value, struct err *err)
{
	return set_number(&o->io_stuck_after, 1, 3600, value, err);
}

static int set_log_level(struct options *o, const char *value, struct err *err)
{
	static const char *const names[] = {"error", "warning", "info", "debug"};

	for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
		if (strcmp(value, names[i]) != 0)
			continue;
		o->log_level = (enum log_level)i;
		return 0;
	}
	return err_set(err, -EINVAL, "'%s' is not one of error, warning, info, debug", value);
}

/* clang-format off */
const struct setting settings[] = {
	{"data-dir", 'd', "DIR",
	 "Keep everything in DIR (made if missing) and serve DIR/nbd.sock",
	 0, 1, set_data_dir},
	{"nbd-listen", 'l', "ADDR:PORT",
	 "Serve NBD on this TCP address, too: 127.0.0.1:10809 or [::1]:10809 (repeatable)",
	 SETTING_REPEATABLE, 1, set_listen},
	{"allow-remote-plaintext", 0, NULL,
	 "Let --nbd-listen take an address that other machines can reach. There is no TLS and no "
	 "password here: whoever can connect can read and write every volume",
	 SETTING_IS_SWITCH, 1, set_allow_remote},
	{"store", 0, "PATH", "A file or block device, in place of DIR/store", 0, 2, set_store},
	{"store-max-size", 0, "SIZE",
	 "Bound of the store file's growth (default: what the file system has)",
	 0, 2, set_store_max_size},
	{"volume-size", 0, "SIZE",
	 "Size of the first volume, made when the store has none (default: 10GiB), or none",
	 0, 2, set_volume_size},
	{"overcommit-limit", 0, "RATIO",
	 "How large all volumes together may be, by the store's capacity: 2, 1.5 (default: none)",
	 0, 2, set_overcommit_limit},
	{"snapshots", 0, "PATH",
	 "The region's snapshot repository, a folder that the daemons of its zones may share "
	 "(default: DIR/snapshots)", 0, 2, set_snapshots},
	{"snapshot-upload-rate", 0, "SIZE",
	 "Bytes a second at which the snapshots of a volume are copied to the repository, as "
	 "200MiB (default: none, as fast as it goes)", 0, 2, set_upload_rate},
	{"hydration-rate", 0, "SIZE",
	 "Bytes a second at which the blocks of its snapshot are copied to a volume that was "
	 "made of one (default: none, as fast as it goes)", 0, 2, set_hydration_rate},
	{"snapshot-sweep-rate", 0, "N",
	 "How many objects of deleted snapshots are removed a second, behind all else (default: "
	 "100); none: this daemon leaves that to others", 0, 2, set_sweep_rate},
	{"zone", 0, "NAME", "Name of the availability zone that this daemon serves (default: "
	 "zone-a)", 0, 3, set_zone},
	{"zone-number", 0, "N",
	 "Its number, 1 to 255, with which all ids begin; each zone of a region has its own, for "
	 "good (default: 1)", 0, 3, set_zone_number},
	{"detach-wait", 0, "SECONDS",
	 "How long a detach lets clients take their last replies (default: 10)",
	 0, 3, set_detach_wait},
	{"io-stuck-after", 0, "SECONDS",
	 "When I/O of a volume that has not completed is called stalled, in the log and by "
	 "volumectl status (default: 30)", 0, 3, set_io_stuck_after},
	{"threads", 0, "N", "Threads that serve volumes (default: one a core)", 0, 3, set_threads},
	{"map-memory", 0, "SIZE",
	 "Memory for the maps of all volumes: where their blocks are (default: 128MiB a thread)",
	 0, 3, set_map_memory},
	{"log-level", 0, "LEVEL", "error, warning, info (default) or debug", 0, 3, set_log_level},
	{0},
};
/* clang-format on */

_Static_assert(ARRAY_SIZE(settings) <= SETTINGS_MAX, "options.given has a bit for each");

int setting_find(const char *name)
{
	for (int i = 0; settings[i].name; i++)
		if (strcmp(settings[i].name, name) == 0)
			return i;
	return -1;
}

static unsigned count_cores(void)
{
	cpu_set_t set;

	if (sched_getaffinity(0, sizeof(set), &set) < 0)
		return 1;
	return (unsigned)min_u64((uint64_t)CPU_COUNT(&set), OPTIONS_THREADS_MAX);
}

void settings_init(struct options *o)
{
	*o = (struct options){
	    .volume_size = 10 * GiB,
	    .zone = "zone-a",
	    .zone_number = 1,
	    .sweep_rate = 100,
	    .detach_wait = 10,
	    .io_stuck_after = 30,
	    .threads = count_cores(),
	    .log_level = LOG_LEVEL_INFO,
	};
}
