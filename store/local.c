/* SPDX-License-Identifier: Apache-2.0
 *
 * The store in one file, seen from outside: its function table, the way of a control operation to
 * the owner loop and back, closing, and what a check says.
 */
#include "base/check.h"
#include "base/mem.h"
#include "store/local_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

static void ctl_send(struct store *store, struct store_ctl *ctl, enum ctl_kind kind);
static void ctl_arrive(struct io_msg *msg);
static void ctl_serve(struct local *l, struct store_ctl *ctl);
static void ctl_return(struct io_msg *msg);
static void close_step(struct local *l);
static void close_on_sync(struct store_io *io);
static void close_end(struct local *l);

/* ---- To the owner loop and back ---------------------------------------------------------------
 */

static void local_lend(struct store *store, struct store_ctl *ctl)
{
	CHECK(ctl->stream >= STORE_STREAM_USER);
	CHECK(ctl->stream <= STORE_STREAM_MAP);

	ctl_send(store, ctl, CTL_LEND);
}

static void local_free(struct store *store, struct store_ctl *ctl)
{
	ctl_send(store, ctl, CTL_FREE);
}

static void local_object_get(struct store *store, struct store_ctl *ctl)
{
	ctl_send(store, ctl, CTL_OBJECT_GET);
}

static void local_object_swap(struct store *store, struct store_ctl *ctl)
{
	ctl_send(store, ctl, CTL_OBJECT_SWAP);
}

static void local_list(struct store *store, struct store_ctl *ctl)
{
	ctl_send(store, ctl, CTL_LIST);
}

static void local_object_list(struct store *store, struct store_ctl *ctl)
{
	ctl_send(store, ctl, CTL_OBJECT_LIST);
}

static void local_close(struct store *store, struct store_ctl *ctl)
{
	ctl_send(store, ctl, CTL_CLOSE);
}

static void local_space(const struct store *store, uint64_t *ret_capacity, uint64_t *ret_free)
{
	const struct local *l = container_of(store, struct local, store);
	uint64_t lendable = __atomic_load_n(&store->info.free, __ATOMIC_RELAXED);
	uint64_t lent = store->info.capacity - min_u64(lendable, store->info.capacity);

	*ret_free = min_u64(lendable, io_file_space(l->file));
	*ret_capacity = lent + *ret_free;
}

const struct store_ops local_ops = {
    .name = "local",
    .append = local_append,
    .read = local_read,
    .readv = local_readv,
    .sync = local_sync,
    .lend = local_lend,
    .free = local_free,
    .space = local_space,
    .object_get = local_object_get,
    .object_swap = local_object_swap,
    .list = local_list,
    .object_list = local_object_list,
    .close = local_close,
};

static void ctl_send(struct store *store, struct store_ctl *ctl, enum ctl_kind kind)
{
	ctl->store = store;
	ctl->kind = kind;
	ctl->msg.run = ctl_arrive;
	io_post(local_of(store)->loop, &ctl->msg);
}

static void ctl_arrive(struct io_msg *msg)
{
	struct store_ctl *ctl = container_of(msg, struct store_ctl, msg);

	list_init(&ctl->link);
	ctl_serve(local_of(ctl->store), ctl);
}

static void ctl_serve(struct local *l, struct store_ctl *ctl)
{
	enum ctl_kind kind = ctl->kind;

	CHECK(!l->closing);
	if (l->read_only && (kind == CTL_LEND || kind == CTL_FREE || kind == CTL_OBJECT_SWAP)) {
		ctl_finish(ctl, -EROFS);
		return;
	}
	switch (kind) {
	case CTL_LEND:
		table_lend(l, ctl);
		return;
	case CTL_FREE:
		table_free(l, ctl);
		return;
	case CTL_OBJECT_GET:
		object_get(l, ctl);
		return;
	case CTL_OBJECT_SWAP:
		object_swap(l, ctl);
		return;
	case CTL_LIST:
		table_list(l, ctl);
		return;
	case CTL_OBJECT_LIST:
		object_list(l, ctl);
		return;
	case CTL_CLOSE:
		l->closing = ctl;
		close_step(l);
		return;
	}
}

void ctl_finish(struct store_ctl *ctl, int error)
{
	ctl->error = error;
	if (error && ctl->kind == CTL_LEND)
		ctl->n = 0;
	ctl->msg.run = ctl_return;
	io_post(ctl->loop, &ctl->msg);
}

static void ctl_return(struct io_msg *msg)
{
	struct store_ctl *ctl = container_of(msg, struct store_ctl, msg);

	ctl->done(ctl);
}

/* ---- Close ------------------------------------------------------------------------------------
 */

void local_quiet(struct local *l)
{
	if (l->opening)
		open_on_table(l);
	if (l->closing)
		close_step(l);
}

/* Waits for what runs in the background, writes what nobody waited for, syncs, and is gone. */
static void close_step(struct local *l)
{
	bool writable = !l->read_only && !l->control_failed && !sync_failed(l);

	if (!table_is_quiet(l) || !object_is_quiet(l) || l->grow.state != GROW_IDLE ||
	    !list_empty(&l->back.segments) || l->punch.segment || l->close_syncing)
		return;
	if (!writable) {
		close_end(l);
		return;
	}
	if (!list_empty(&l->dirty)) {
		table_kick(l);
		return;
	}
	l->close_syncing = true;
	l->close_sync.done = close_on_sync;
	local_sync(&l->store, l->loop, &l->close_sync);
}

static void close_on_sync(struct store_io *io)
{
	close_end(container_of(io, struct local, close_sync));
}

static void close_end(struct local *l)
{
	struct store_ctl *ctl = l->closing;
	int error = sync_failed(l) || l->control_failed ? -EIO : 0;

	local_destroy(l);
	ctl_finish(ctl, error);
}

void local_destroy(struct local *l)
{
	if (!l)
		return;
	table_destroy(l);
	space_destroy(l);
	object_destroy(l);
	super_destroy(l);
	io_file_close(l->file);
	mem_free(l->findings);
	mem_free(l);
}

/* ---- Check ------------------------------------------------------------------------------------
 */

void local_find(struct local *l, enum finding_kind kind, uint64_t a, uint64_t b, uint64_t c)
{
	if (!l->findings)
		l->findings = mem_calloc(LOCAL_FINDINGS_MAX, sizeof(l->findings[0]));
	if (l->findings && l->n_findings < LOCAL_FINDINGS_MAX)
		l->findings[l->n_findings] = (struct finding){.kind = kind, .a = a, .b = b, .c = c};
	l->n_findings++;
}

static void finding_format(const struct finding *f, char *text, size_t size)
{
	switch (f->kind) {
	case FINDING_SUPER:
		snprintf(text, size, "copy %" PRIu64 " of the superblock is damaged", f->a);
		return;
	case FINDING_TABLE:
		snprintf(text, size,
			 "group %" PRIu64 ": copy %" PRIu64 " of page %" PRIu64
			 " of the segment table is damaged",
			 f->a, f->c, f->b);
		return;
	case FINDING_TABLE_LOST:
		snprintf(text, size,
			 "group %" PRIu64 ": both copies of page %" PRIu64
			 " of the segment table are damaged: whose the segments are is unknown",
			 f->a, f->b);
		return;
	case FINDING_SLOT:
		snprintf(text, size,
			 "segment %" PRIu64 ": one copy of object %" PRIu64
			 " is damaged (a power cut in the middle of its change does that, too)",
			 f->a, f->b);
		return;
	case FINDING_SLOT_LOST:
		snprintf(text, size,
			 "segment %" PRIu64 ": both copies of object %" PRIu64
			 " are damaged: it is lost",
			 f->a, f->b);
		return;
	case FINDING_SLOT_TWICE:
		snprintf(text, size,
			 "segment %" PRIu64 ": object %" PRIu64
			 " has a name that another object has already",
			 f->a, f->b);
		return;
	case FINDING_TERM:
		snprintf(text, size,
			 "segment %" PRIu64 ": was lent under an owner term that never was", f->a);
		return;
	}
}

unsigned store_local_check(struct store *store, void (*say)(void *arg, const char *text), void *arg)
{
	const struct local *l = local_of(store);
	unsigned kept = l->findings ? l->n_findings : 0;
	char text[200];

	if (kept > LOCAL_FINDINGS_MAX)
		kept = LOCAL_FINDINGS_MAX;
	for (unsigned i = 0; i < kept; i++) {
		finding_format(&l->findings[i], text, sizeof(text));
		say(arg, text);
	}
	if (kept < l->n_findings) {
		snprintf(text, sizeof(text), "and %u more of that kind", l->n_findings - kept);
		say(arg, text);
	}
	return l->n_findings;
}
