/* SPDX-License-Identifier: Apache-2.0
 *
 * The catalog's own thread: a loop on which nothing else runs, so that SQLite may block it. What it
 * is to do comes as jobs, by mailbox, and goes back the same way. Each job is one transaction.
 */
#ifndef METADATA_WORKER_H
#define METADATA_WORKER_H

#include "io/io.h"
#include "metadata/catalog.h"

struct catalog_worker;

/* Belongs to the worker from catalog_submit until `done`. */
struct catalog_job {
	/* Runs on the catalog's thread; touches nothing but the catalog and what the owner set
	 * aside for it. 0 commits; a negative errno (with job->err) rolls back. It may run again,
	 * so it changes nothing outside that another run would not set again. */
	int (*run)(struct catalog *catalog, struct catalog_job *job);
	void (*done)(struct catalog_job *job);
	struct io_loop *loop; /* where done runs */
	/* It makes room or ends something: on a full disk the ballast is given up for it. */
	bool essential;
	struct err err; /* code 0, or what the job or its commit failed with */

	struct catalog_worker *worker;
	struct io_msg msg;
};

/* The catalog is the worker's from here on; `loop` runs, or will, in a thread of its own. Blocks
 * that loop while a job runs. NULL: out of memory. */
struct catalog_worker *catalog_worker_new(struct catalog *catalog, struct io_loop *loop);
/* Any thread; jobs of one thread run in order. */
void catalog_submit(struct catalog_worker *worker, struct catalog_job *job);
/* No job is under way and the loop has ended, or never ran. The catalog is the caller's again. NULL
 * is legal. */
void catalog_worker_free(struct catalog_worker *worker);

#endif
