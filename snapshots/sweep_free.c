/* SPDX-License-Identifier: Apache-2.0
 *
 * Pack by pack: one that nobody needs is removed; of one that is needed in part, the rest is
 * punched, if that is worth it. What is decided was decided by the marks: nothing becomes needed
 * again (S3).
 */
#include "snapshots/sweep_internal.h"

#include "base/check.h"
#include "base/mem.h"

#include <errno.h>
#include <string.h>

#define WORTH_PUNCHING (64 * KiB)

static void free_next(struct snap_sweeping *s);
static void free_pack(struct snap_sweeping *s);
static void punch_read(struct snap_sweeping *s);
static void punch_next(struct snap_sweeping *s);

static struct snap_sweeping *of(struct blob_op *blob)
{
	return container_of(blob, struct snap_sweeping, blob);
}

static struct mark_pack *pack_now(struct snap_sweeping *s)
{
	return &s->marks.packs[s->pack_at];
}

/* ---- At a limited rate ------------------------------------------------------------------------
 */

static void on_timer(struct io_op *timer)
{
	struct snap_sweeping *s = container_of(timer, struct snap_sweeping, timer);

	lease_check(s, s->timer_next);
}

static void later(struct snap_sweeping *s, void (*next)(struct snap_sweeping *s))
{
	s->timer_next = next;
	s->timer.done = on_timer;
	io_timer(s->loop, &s->timer, NSEC_PER_SEC / s->sweep->config.removes_per_second);
}

/* ---- Removing ---------------------------------------------------------------------------------
 */

static void remove_on_blob(struct blob_op *blob)
{
	struct snap_sweeping *s = of(blob);
	struct mark_pack *p = pack_now(s);
	char name[BLOB_NAME_MAX];

	if (blob->result < 0) {
		sweep_end(s, blob_error(&s->sweep->err, s->repository, blob->name,
					"can't be removed", blob->result));
		return;
	}
	if (p->copy && !s->on_copy) {
		s->on_copy = true;
		blob_remove(s->repository->blobs, s->loop, &s->blob, pack_name(&p->id, true, name));
		return;
	}
	s->sweep->removed++;
	s->sweep->freed += p->stored;
	s->pack_at++;
	later(s, free_next);
}

/* ---- Punching ---------------------------------------------------------------------------------
 */

static void punch_on_read(struct blob_op *blob)
{
	struct snap_sweeping *s = of(blob);
	struct mark_pack *p = pack_now(s);

	/* What can't be read keeps its space; verify tells of it. */
	if (blob->result < 0 || pack_end_decode(s->pack_end, (uint64_t)blob->result, p->size,
						&p->id, s->items, &s->n_items) < 0) {
		s->pack_at++;
		lease_check(s, free_next);
		return;
	}
	s->slot_at = 0;
	punch_next(s);
}

static void punch_read(struct snap_sweeping *s)
{
	struct mark_pack *p = pack_now(s);
	uint64_t len = min_u64(p->size, PACK_END_MAX);
	char name[BLOB_NAME_MAX];

	s->blob.done = punch_on_read;
	blob_read(s->repository->blobs, s->loop, &s->blob, pack_name(&p->id, s->on_copy, name),
		  s->pack_end, p->size - len, len);
}

static void punch_on_blob(struct blob_op *blob)
{
	struct snap_sweeping *s = of(blob);

	if (blob->result == -EOPNOTSUPP || blob->result == -ENOENT) {
		s->pack_at++;
		lease_check(s, free_next);
	} else if (blob->result < 0) {
		sweep_end(s, blob_error(&s->sweep->err, s->repository, blob->name,
					"can't be punched", blob->result));
	} else {
		s->sweep->freed += blob->len;
		later(s, punch_next);
	}
}

static bool is_dead(struct snap_sweeping *s, uint32_t slot)
{
	const struct mark_pack *p = pack_now(s);

	return slot >= p->n_slots || p->owner[slot] == OWNER_NONE;
}

/* The next run of items that nobody needs. */
static void punch_next(struct snap_sweeping *s)
{
	struct mark_pack *p = pack_now(s);
	char name[BLOB_NAME_MAX];
	uint64_t from, end;

	while (s->slot_at < s->n_items && !is_dead(s, s->slot_at))
		s->slot_at++;
	if (s->slot_at == s->n_items) {
		if (p->copy && !s->on_copy) {
			s->on_copy = true;
			punch_read(s);
			return;
		}
		s->pack_at++;
		lease_check(s, free_next);
		return;
	}
	from = end = s->items[s->slot_at].offset;
	while (s->slot_at < s->n_items && is_dead(s, s->slot_at) &&
	       s->items[s->slot_at].offset == end) {
		end += s->items[s->slot_at].length;
		s->slot_at++;
	}
	if (end == from) { /* items in no order: none of ours */
		s->slot_at++;
		punch_next(s);
		return;
	}
	s->blob.done = punch_on_blob;
	blob_punch(s->repository->blobs, s->loop, &s->blob, pack_name(&p->id, s->on_copy, name),
		   from, end - from);
}

/* ---- Each pack --------------------------------------------------------------------------------
 */

static bool is_young(struct snap_sweeping *s, const struct mark_pack *p)
{
	uint64_t now = io_wall_clock(s->loop);

	return p->modified + s->sweep->config.grace_ns > now;
}

static void free_next(struct snap_sweeping *s)
{
	for (; s->pack_at < s->marks.n; s->pack_at++) {
		struct mark_pack *p = pack_now(s);

		if (!p->listed || sweep_is_pending(s, p->id.snapshot) || is_young(s, p))
			continue;
		/* What it takes besides live items: head, directory, the edges of holes. */
		if (p->live > 0 && p->stored < p->live * (p->copy ? 2 : 1) + WORTH_PUNCHING)
			continue;
		s->on_copy = false;
		lease_check(s, free_pack);
		return;
	}
	s->on_end(s);
}

static void free_pack(struct snap_sweeping *s)
{
	struct mark_pack *p = pack_now(s);
	char name[BLOB_NAME_MAX];

	if (p->live > 0) {
		punch_read(s);
		return;
	}
	s->blob.done = remove_on_blob;
	blob_remove(s->repository->blobs, s->loop, &s->blob, pack_name(&p->id, false, name));
}

void free_start(struct snap_sweeping *s, void (*next)(struct snap_sweeping *s))
{
	s->on_end = next;
	s->pack_at = 0;
	s->items = mem_calloc(PACK_ITEMS_MAX, sizeof(*s->items));
	s->pack_end = mem_alloc(PACK_END_MAX);
	if (s->items && s->pack_end)
		free_next(s);
	else
		sweep_end(s, sweep_no_memory(s));
}
