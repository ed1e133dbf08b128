/* SPDX-License-Identifier: Apache-2.0 */
#include "metadata/worker.h"

#include "base/mem.h"
#include "base/util.h"

#include <errno.h>

#define BALLAST_RETRY (10 * NSEC_PER_SEC) /* between attempts to make it again */

struct catalog_worker {
	struct catalog *catalog;
	struct io_loop *loop;
	bool ballast_missing;
	uint64_t ballast_at; /* when to try again */
};

static void worker_on_job(struct io_msg *msg);
static int run_once(struct catalog *c, struct catalog_job *job);
static void job_on_done(struct io_msg *msg);

struct catalog_worker *catalog_worker_new(struct catalog *catalog, struct io_loop *loop)
{
	struct catalog_worker *w = mem_alloc(sizeof(*w));

	if (!w)
		return NULL;
	w->catalog = catalog;
	w->loop = loop;
	w->ballast_missing = true; /* unless opening has made it: a look costs little */
	return w;
}

void catalog_worker_free(struct catalog_worker *worker)
{
	mem_free(worker);
}

void catalog_submit(struct catalog_worker *worker, struct catalog_job *job)
{
	job->worker = worker;
	job->msg.run = worker_on_job;
	io_post(worker->loop, &job->msg);
}

static void look_after_ballast(struct catalog_worker *w)
{
	if (!w->ballast_missing || io_now(w->loop) < w->ballast_at)
		return;
	w->ballast_missing = !catalog_ballast_restore(w->catalog);
	w->ballast_at = io_now(w->loop) + BALLAST_RETRY;
}

static void worker_on_job(struct io_msg *msg)
{
	struct catalog_job *job = container_of(msg, struct catalog_job, msg);
	struct catalog_worker *w = job->worker;

	while (run_once(w->catalog, job) == -ENOSPC && job->essential &&
	       catalog_ballast_release(w->catalog)) {
		w->ballast_missing = true;
		w->ballast_at = io_now(w->loop) + BALLAST_RETRY;
	}
	look_after_ballast(w);
	job->msg.run = job_on_done;
	io_post(job->loop, &job->msg);
}

static int run_once(struct catalog *c, struct catalog_job *job)
{
	int r;

	job->err = (struct err){0};
	r = catalog_begin(c, &job->err);
	if (r < 0)
		return r;
	r = job->run(c, job);
	if (r == 0)
		r = catalog_commit(c, &job->err);
	if (r < 0)
		catalog_rollback(c);
	if (r < 0 && job->err.code == 0)
		err_set(&job->err, r, "the catalog's job failed");
	return r;
}

static void job_on_done(struct io_msg *msg)
{
	struct catalog_job *job = container_of(msg, struct catalog_job, msg);

	job->done(job);
}
