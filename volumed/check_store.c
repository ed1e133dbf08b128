/* SPDX-License-Identifier: Apache-2.0
 *
 *     STORE -> WAIT_STORE -> WAIT_LIST -> NEXT -> WAIT_OPEN -> WAIT_CHECK -> WAIT_CLOSE -> NEXT ...
 *     NEXT (none left) -> CLOSE -> WAIT_CLOSED -> DONE
 *
 * A volume that can't be opened goes back to NEXT; a store that can't, straight to DONE.
 */
#include "volumed/check_store.h"

#include "base/mem.h"
#include "base/size.h"
#include "engine/engine.h"
#include "store/local.h"
#include "volumed/data_dir.h"
#include "volumed/volume_list.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum check_state {
	CHECK_STORE,
	CHECK_WAIT_STORE,
	CHECK_WAIT_LIST,
	CHECK_NEXT,
	CHECK_WAIT_OPEN,
	CHECK_WAIT_CHECK,
	CHECK_WAIT_CLOSE,
	CHECK_CLOSE,
	CHECK_WAIT_CLOSED,
	CHECK_DONE,
};

struct check {
	enum check_state state;
	struct io_loop *loop;
	struct data_dir dir;
	struct store_open open;
	struct engine *engine;
	struct volume_list list;
	unsigned next; /* in the list */
	struct volume_op op;
	struct store_ctl close;
	struct io_op begin;

	uint64_t n_wrong;
	struct err err; /* could not look */
	char subject[ID_TEXT_MAX];
};

static void check_begin(struct io_op *op);
static void check_step(struct check *c);
static void check_on_store(struct store_open *open);
static void check_on_list(struct volume_list *list);
static void check_on_volume(struct volume_op *op);
static void check_on_closed(struct store_ctl *ctl);

static void check_say(void *arg, const char *text)
{
	const struct check *c = arg;

	printf("%s: %s\n", c->subject, text);
}

/* ---- The steps --------------------------------------------------------------------- */

static void check_enter(struct check *c, enum check_state state)
{
	c->state = state;
}

static void open_store(struct check *c)
{
	c->open = (struct store_open){
	    .loop = c->loop,
	    .config = {.path = c->dir.store, .read_only = true},
	    .done = check_on_store,
	};
	store_local_open(&c->open);
}

/* The store's own structures, which opening has read. */
static int check_opened(struct check *c)
{
	const struct engine_config config = {0};
	char size[SIZE_TEXT_MAX];

	snprintf(c->subject, sizeof(c->subject), "store");
	/* Damage is a finding; all else says that we could not look. */
	if (c->open.err.code == -EUCLEAN) {
		check_say(c, c->open.err.text);
		c->n_wrong++;
		return -EUCLEAN;
	}
	if (c->open.err.code) {
		c->err = c->open.err;
		return c->err.code;
	}
	c->n_wrong += store_local_check(c->open.store, check_say, c);
	printf("store: %s, segments of %s, owner term %" PRIu64 "\n", c->dir.store,
	       size_format(c->open.store->info.segment_size, size), c->open.store->info.owner_term);
	return engine_new(c->loop, c->open.store, &config, &c->engine, &c->err);
}

static void list_volumes(struct check *c)
{
	c->list.loop = c->loop;
	c->list.store = c->open.store;
	c->list.done = check_on_list;
	volume_list_get(&c->list);
}

static void open_next(struct check *c)
{
	struct id id = c->list.ids[c->next++];

	id_format(id, "vol", c->subject);
	c->op = (struct volume_op){
	    .engine = c->engine,
	    .id = id,
	    .read_only = true,
	    .done = check_on_volume,
	};
	volume_open(&c->op);
}

/* The same op goes on with the open volume. */
static void check_volume(struct check *c)
{
	struct volume *volume = c->op.volume;

	c->op = (struct volume_op){
	    .engine = c->engine,
	    .id = c->op.id,
	    .volume = volume,
	    .say = check_say,
	    .arg = c,
	    .done = check_on_volume,
	};
	volume_check(&c->op);
}

static void report_volume(struct check *c)
{
	struct volume_stats stats;
	char size[SIZE_TEXT_MAX];
	char live[SIZE_TEXT_MAX];

	volume_stats(c->op.volume, &stats);
	c->n_wrong += c->op.n_wrong;
	if (c->op.err.code && !c->err.code)
		c->err = c->op.err;
	printf("%s: %s, %s stored in %" PRIu64 " segments, sequence %" PRIu64 ": %" PRIu64
	       " wrong\n",
	       c->subject, size_format(stats.size, size), size_format(stats.live_bytes, live),
	       stats.segments, stats.sequence, c->op.n_wrong);
}

static void close_volume(struct check *c)
{
	struct volume *volume = c->op.volume;

	c->op = (struct volume_op){
	    .engine = c->engine,
	    .id = c->op.id,
	    .volume = volume,
	    .done = check_on_volume,
	};
	volume_close(&c->op);
}

static void close_store(struct check *c)
{
	c->close.loop = c->loop;
	c->close.done = check_on_closed;
	c->open.store->ops->close(c->open.store, &c->close);
}

static void check_step(struct check *c)
{
	for (;;) {
		switch (c->state) {
		case CHECK_STORE:
			check_enter(c, CHECK_WAIT_STORE);
			open_store(c);
			return;
		case CHECK_WAIT_STORE:
			if (check_opened(c) < 0) {
				check_enter(c, c->open.err.code ? CHECK_DONE : CHECK_CLOSE);
				continue;
			}
			check_enter(c, CHECK_WAIT_LIST);
			list_volumes(c);
			return;
		case CHECK_WAIT_LIST:
			c->err = c->list.err;
			check_enter(c, c->err.code ? CHECK_CLOSE : CHECK_NEXT);
			continue;
		case CHECK_NEXT:
			if (c->next == c->list.n) {
				check_enter(c, CHECK_CLOSE);
				continue;
			}
			check_enter(c, CHECK_WAIT_OPEN);
			open_next(c);
			return;
		case CHECK_WAIT_OPEN:
			if (c->op.err.code) {
				check_say(c, c->op.err.text);
				c->n_wrong++;
				check_enter(c, CHECK_NEXT);
				continue;
			}
			check_enter(c, CHECK_WAIT_CHECK);
			check_volume(c);
			return;
		case CHECK_WAIT_CHECK:
			report_volume(c);
			check_enter(c, CHECK_WAIT_CLOSE);
			close_volume(c);
			return;
		case CHECK_WAIT_CLOSE:
			check_enter(c, CHECK_NEXT);
			continue;
		case CHECK_CLOSE:
			check_enter(c, CHECK_WAIT_CLOSED);
			close_store(c);
			return;
		case CHECK_WAIT_CLOSED:
			check_enter(c, CHECK_DONE);
			continue;
		case CHECK_DONE:
			io_loop_stop(c->loop);
			return;
		}
	}
}

static void check_begin(struct io_op *op)
{
	check_step(container_of(op, struct check, begin));
}

static void check_on_store(struct store_open *open)
{
	check_step(container_of(open, struct check, open));
}

static void check_on_list(struct volume_list *list)
{
	check_step(container_of(list, struct check, list));
}

static void check_on_volume(struct volume_op *op)
{
	check_step(container_of(op, struct check, op));
}

static void check_on_closed(struct store_ctl *ctl)
{
	check_step(container_of(ctl, struct check, close));
}

/* ---- All of it --------------------------------------------------------------------- */

static void run(struct check *c, const struct options *o)
{
	const struct io_loop_config config = {.name = "volumed/check", .cpu = -1};
	int r;

	if (data_dir_open(&c->dir, o->data_dir, o->store, false, &c->err) < 0 ||
	    io_loop_new(&config, &c->loop, &c->err) < 0)
		return;
	c->begin.done = check_begin;
	io_defer(c->loop, &c->begin, 0);
	r = io_loop_run(c->loop);
	if (r < 0)
		err_set(&c->err, r, "the loop failed: %s", strerror(-r));
}

int check_store(const struct options *options)
{
	struct check *c = mem_alloc(sizeof(*c));
	int status;

	if (!c) {
		log_error("out of memory");
		return 2;
	}
	c->dir.fd = -1;
	run(c, options);
	if (c->err.code)
		log_error("%s", c->err.text);
	else
		printf("%s: %" PRIu64 " wrong\n", c->n_wrong ? "damaged" : "clean", c->n_wrong);
	fflush(stdout);
	status = c->n_wrong ? 1 : c->err.code ? 2 : 0;
	engine_free(c->engine);
	mem_free(c->list.ids);
	io_loop_free(c->loop);
	data_dir_close(&c->dir);
	mem_free(c);
	return status;
}
