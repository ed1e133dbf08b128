/* SPDX-License-Identifier: Apache-2.0 */
#include "volumed/region.h"

#include "base/log.h"
#include "snapshots/blobs_dir.h"

static void on_open(struct repository_op *op)
{
	struct region *r = container_of(op, struct region, op);

	r->err = op->err;
	r->repository = op->repository;
	r->done(r);
}

bool region_open(struct region *region, const char *place, struct io_loop *loop)
{
	struct blobs *blobs = NULL;

	if (blobs_dir_open(place, true, &blobs, &region->err) < 0)
		return false;
	region->op = (struct repository_op){.done = on_open};
	repository_open(blobs, loop, true, &region->op);
	return true;
}

void region_say(const struct region *region)
{
	if (!region->repository)
		log_error("snapshots can be neither taken nor read: %s; put that right, and start "
			  "volumed again",
			  region->err.text);
}

void region_close(struct region *region)
{
	repository_close(region->repository);
}
