/* SPDX-License-Identifier: Apache-2.0
 *
 * Files for code that blocks.
 */
#include "tests/sim/machine/platter.h"

#include <errno.h>
#include <string.h>

static struct platter *platter_of(struct sim *sim, const char *path)
{
	struct platter *p = platter_find(sim, path);

	return p ? p : platter_make(sim, path);
}

int sim_now_read(struct sim *sim, const char *path, uint64_t offset, void *buf, size_t len)
{
	if (sim_is_dead(sim))
		return -EIO;
	if (sim_chance(sim, sim->options.fail_read))
		return -EIO;
	image_read(&platter_of(sim, path)->now, offset, buf, len);
	return 0;
}

int sim_now_write(struct sim *sim, const char *path, uint64_t offset, const void *buf, size_t len)
{
	struct platter *p = platter_of(sim, path);
	uint64_t from = round_down(offset, SECTOR);
	uint64_t end = round_up(offset + len, SECTOR);
	uint8_t *sectors = sim_alloc(end - from);
	int64_t r;

	image_read(&p->now, from, sectors, end - from);
	memcpy(sectors + (offset - from), buf, len);
	r = disk_do_now(sim, p, SIM_WRITE, from, end - from, sectors);
	sim_release(sectors);
	return r < 0 ? (int)r : 0;
}

int sim_now_sync(struct sim *sim, const char *path)
{
	return (int)disk_do_now(sim, platter_of(sim, path), SIM_SYNC, 0, 0, NULL);
}

/* Two points, as for any other change. */
static int change_name(struct sim *sim)
{
	if (sim_is_dead(sim))
		return -EIO;
	sim_point(sim);
	return sim_is_dead(sim) ? -EIO : 0;
}

int sim_now_truncate(struct sim *sim, const char *path, uint64_t size)
{
	int r = change_name(sim);

	if (r < 0)
		return r;
	platter_of(sim, path);
	sim_file_truncate(sim, path, size);
	sim_point(sim);
	return 0;
}

int sim_now_remove(struct sim *sim, const char *path)
{
	int r = change_name(sim);

	if (r < 0)
		return r;
	if (!sim_file_exists(sim, path))
		return -ENOENT;
	sim_file_remove(sim, path);
	sim_point(sim);
	return 0;
}
