/* SPDX-License-Identifier: Apache-2.0
 *
 * The phases of a sweep. Their order is what S3 rests on:
 *
 *   LEASE
 *   PACKS       what there is. What comes later is not ours to remove
 *   TOMBSTONES  who is deleted by now. Uploads that were given up join them
 *   HOLDS       after the tombstones: a hold on one of them, made before the deletion, is there
 *   SNAPSHOTS   whoever was made of one of the tombstones, before its deletion, is there, too.
 *               Tombstones that are new since count as alive
 *   MARK        all that holds and snapshots need
 *   FREE        packs of PACKS that no mark is on and that belong to no pending snapshot
 *   BURY        the tombstones of TOMBSTONES
 */
#include "snapshots/sweep_internal.h"

#include "base/check.h"
#include "base/mem.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define LEASE_DFLT   (60 * NSEC_PER_SEC)
#define GRACE_DFLT   (600 * NSEC_PER_SEC)
#define MARGIN_DFLT  (600 * NSEC_PER_SEC)
#define REMOVES_DFLT 100
#define CLOCKS_MAX   (300 * NSEC_PER_SEC) /* our clock and the repository's may differ by that */

static void clock_look(struct snap_sweeping *s);
static void packs_list(struct snap_sweeping *s);
static void tombstones_list(struct snap_sweeping *s);
static void holds_list(struct snap_sweeping *s);
static void snapshots_list(struct snap_sweeping *s);
static void marking(struct snap_sweeping *s);
static void freeing(struct snap_sweeping *s);
static void bury_next(struct snap_sweeping *s);

static struct snap_sweeping *of(struct blob_op *blob)
{
	return container_of(blob, struct snap_sweeping, blob);
}

/* ---- Small pieces -----------------------------------------------------------------------------
 */

void *sweep_list_add(struct sweep_list *list, size_t size)
{
	char *item;

	if (list->n == list->room) {
		uint32_t room = list->room ? list->room * 2 : 64;
		void *wider = mem_realloc(list->items, room * size);

		if (!wider)
			return NULL;
		list->items = wider;
		list->room = room;
	}
	item = (char *)list->items + list->n++ * size;
	memset(item, 0, size);
	return item;
}

/* Both kinds of elements begin with the id. */
static bool has_id(const struct sweep_list *list, size_t size, struct id id)
{
	uint32_t low = 0, high = list->n;

	while (low < high) {
		uint32_t middle = (low + high) / 2;
		const struct id *at = (const void *)((const char *)list->items + middle * size);

		if (id_equal(*at, id))
			return true;
		if (at->hi < id.hi || (at->hi == id.hi && at->lo < id.lo))
			low = middle + 1;
		else
			high = middle;
	}
	return false;
}

bool sweep_has_tombstone(const struct snap_sweeping *s, struct id id)
{
	return has_id(&s->tombstones, sizeof(struct tombstone), id);
}

bool sweep_is_pending(const struct snap_sweeping *s, struct id id)
{
	return has_id(&s->pending, sizeof(struct id), id);
}

int sweep_no_memory(struct snap_sweeping *s)
{
	return err_set(&s->sweep->err, -ENOMEM, "out of memory for the sweep");
}

/* ---- The end ----------------------------------------------------------------------------------
 */

static bool usage_take(struct snap_sweeping *s)
{
	struct snap_sweep *sweep = s->sweep;
	const struct sweep_root *roots = s->roots.items;

	sweep->usage = mem_calloc(s->roots.n + 1, sizeof(*sweep->usage));
	if (!sweep->usage)
		return false;
	for (uint32_t i = 0; i < s->roots.n; i++)
		if (roots[i].completed)
			sweep->usage[sweep->n_usage++] = (struct snap_usage){
			    .id = roots[i].id,
			    .unique = (uint64_t)roots[i].unique,
			};
	return true;
}

static void ended(struct io_op *defer)
{
	struct snap_sweeping *s = container_of(defer, struct snap_sweeping, defer);
	struct snap_sweep *sweep = s->sweep;

	sweep->error = s->error;
	if (s->error == 0 && !usage_take(s))
		sweep->error = sweep_no_memory(s);
	marks_free(&s->marks);
	pages_free(s->pages);
	mem_free(s->roots.items);
	mem_free(s->tombstones.items);
	mem_free(s->pending.items);
	mem_free(s->entries);
	mem_free(s->bytes);
	mem_free(s->changed);
	mem_free(s->info);
	mem_free(s->items);
	mem_free(s->pack_end);
	mem_free(s);
	sweep->at_work = NULL;
	sweep->done(sweep);
}

static void end_later(struct snap_sweeping *s)
{
	s->defer.done = ended;
	io_defer(s->loop, &s->defer, 0);
}

void sweep_end(struct snap_sweeping *s, int error)
{
	s->phase = PHASE_GIVE_BACK;
	s->error = error;
	if (s->has_lease)
		lease_give_back(s, end_later);
	else
		end_later(s);
}

void snap_sweep_cancel(struct snap_sweep *sweep)
{
	if (sweep->at_work)
		sweep->at_work->cancelled = true;
}

void snap_sweep_clear(struct snap_sweep *sweep)
{
	mem_free(sweep->usage);
	sweep->usage = NULL;
	sweep->n_usage = 0;
}

/* ---- Start ------------------------------------------------------------------------------------
 */

static void start_without_memory(struct io_op *defer)
{
	struct snap_sweeping *s = container_of(defer, struct snap_sweeping, defer);

	sweep_end(s, sweep_no_memory(s));
}

static void start_never(struct io_op *defer)
{
	struct snap_sweep *sweep = container_of(defer, struct snap_sweep, defer);

	sweep->done(sweep);
}

static uint64_t number_or(uint64_t n, uint64_t otherwise)
{
	return n ? n : otherwise;
}

void snap_sweep_start(struct repository *repository, struct io_loop *loop,
		      struct snap_sweep_memory *memory, struct snap_sweep *sweep)
{
	struct snap_sweep_config *c = &sweep->config;
	struct snap_sweeping *s = mem_alloc(sizeof(*s));

	*sweep = (struct snap_sweep){.done = sweep->done, .config = sweep->config, .at_work = s};
	if (!s) {
		sweep->error = err_set(&sweep->err, -ENOMEM, "out of memory for a sweep");
		sweep->defer.done = start_never;
		io_defer(loop, &sweep->defer, 0);
		return;
	}
	c->lease_ns = number_or(c->lease_ns, LEASE_DFLT);
	c->grace_ns = number_or(c->grace_ns, GRACE_DFLT);
	c->margin_ns = number_or(c->margin_ns, MARGIN_DFLT);
	c->removes_per_second = c->removes_per_second ? c->removes_per_second : REMOVES_DFLT;
	s->repository = repository;
	s->loop = loop;
	s->sweep = sweep;
	s->memory = memory;
	s->entries = mem_calloc(BLOB_LIST_MAX, sizeof(*s->entries));
	s->bytes = mem_alloc(BLOB_SWAP_MAX);
	s->changed = mem_alloc(BLOB_SWAP_MAX);
	s->info = mem_alloc(sizeof(*s->info));
	if (!s->entries || !s->bytes || !s->changed || !s->info) {
		s->defer.done = start_without_memory;
		io_defer(loop, &s->defer, 0);
		return;
	}
	if (c->dry_run)
		packs_list(s);
	else
		lease_take(s, clock_look);
}

/* The lease was written a moment ago, by the repository's clock. */
static bool clock_on_entry(struct snap_sweeping *s, const struct blob_entry *entry, uint64_t len)
{
	uint64_t now = io_wall_clock(s->loop);
	uint64_t apart = entry->modified > now ? entry->modified - now : now - entry->modified;

	(void)len;
	if (strcmp(entry->name, NAME_LEASE) == 0)
		s->sweep->clock_is_off = apart > CLOCKS_MAX;
	return true;
}

static void clock_look(struct snap_sweeping *s)
{
	s->phase = PHASE_CLOCK;
	scan_start(s, "lease/", true, clock_on_entry, packs_list);
}

/* ---- Packs ------------------------------------------------------------------------------------
 */

static bool pack_on_entry(struct snap_sweeping *s, const struct blob_entry *entry, uint64_t len)
{
	struct snap_pack id;
	struct mark_pack *p;
	bool copy;

	(void)len;
	if (pack_name_parse(entry->name, &id, &copy) < 0)
		return true; /* none of ours */
	p = marks_pack(&s->marks, &id);
	if (!p) {
		sweep_end(s, sweep_no_memory(s));
		return false;
	}
	/* A copy whose first is gone (a crash between two removals) is taken for a pack. */
	p->listed = true;
	p->copy |= copy;
	p->size = max_u64(p->size, entry->size);
	p->stored += entry->stored;
	p->modified = max_u64(p->modified, entry->modified);
	s->sweep->packs += !copy;
	s->sweep->stored += entry->stored;
	return true;
}

static void packs_list(struct snap_sweeping *s)
{
	s->phase = PHASE_PACKS;
	scan_start(s, PREFIX_PACKS, true, pack_on_entry, tombstones_list);
}

/* ---- Tombstones -------------------------------------------------------------------------------
 */

static int info_read(struct snap_sweeping *s, const struct blob_entry *entry, uint64_t len,
		     uint64_t *ret_renewals)
{
	struct id id;
	int r;

	if (manifest_name_parse(entry->name, &id) < 0)
		return -EINVAL; /* none of ours */
	r = manifest_decode(s->bytes, len, id, s->info, ret_renewals);
	if (r < 0)
		sweep_end(s, err_set(&s->sweep->err, -EBADMSG,
				     "%s: %s is damaged; nothing is swept until it is deleted or "
				     "restored from a copy",
				     s->repository->blobs->place, entry->name));
	return r == -EINVAL ? -EBADMSG : r;
}

static bool has_expired(struct snap_sweeping *s, uint64_t expires)
{
	uint64_t end;

	if (s->sweep->clock_is_off || s->sweep->config.dry_run)
		return false;
	if (__builtin_add_overflow(expires, s->sweep->config.margin_ns, &end))
		return false;
	return end < io_wall_clock(s->loop);
}

static bool tombstone_add(struct snap_sweeping *s, struct id id, uint64_t renewals)
{
	struct tombstone *t = sweep_list_add(&s->tombstones, sizeof(*t));

	if (!t) {
		sweep_end(s, sweep_no_memory(s));
		return false;
	}
	*t = (struct tombstone){id, renewals};
	return true;
}

/* A pending one that nobody renewed has become a tombstone; or its writer was faster. */
static void give_up_on_swap(struct blob_op *blob)
{
	struct snap_sweeping *s = of(blob);

	if (blob->result < 0 && blob->result != -ESTALE) {
		sweep_end(s, blob_error(&s->sweep->err, s->repository, blob->name,
					"can't be given up", blob->result));
		return;
	}
	if (blob->result == 0) {
		uint64_t renewals;

		s->sweep->given_up++;
		CHECK(manifest_decode(s->changed, blob->wanted_len, s->info->id, s->info,
				      &renewals) == 0);
		if (!tombstone_add(s, s->info->id, renewals))
			return;
	}
	scan_next(s);
}

static bool tombstone_on_object(struct snap_sweeping *s, const struct blob_entry *entry,
				uint64_t len)
{
	uint64_t renewals;
	int r = info_read(s, entry, len, &renewals);

	if (r < 0)
		return r == -EINVAL;
	if (s->info->state == SNAP_DELETED)
		return tombstone_add(s, s->info->id, renewals);
	if (s->info->state != SNAP_PENDING || !has_expired(s, s->info->expires))
		return true;
	s->info->state = SNAP_DELETED;
	s->blob.done = give_up_on_swap;
	blob_swap(s->repository->blobs, s->loop, &s->blob, entry->name, s->bytes, len, s->changed,
		  manifest_encode(s->changed, s->info, renewals + 1));
	return false;
}

static void tombstones_list(struct snap_sweeping *s)
{
	s->phase = PHASE_TOMBSTONES;
	scan_start(s, PREFIX_SNAPSHOTS, false, tombstone_on_object, holds_list);
}

/* ---- Holds ------------------------------------------------------------------------------------
 */

static bool root_add(struct snap_sweeping *s, bool completed)
{
	struct sweep_root *root = sweep_list_add(&s->roots, sizeof(*root));

	if (!root) {
		sweep_end(s, sweep_no_memory(s));
		return false;
	}
	root->root = s->info->root;
	root->id = s->info->id;
	root->completed = completed;
	return true;
}

static void hold_on_swap(struct blob_op *blob)
{
	struct snap_sweeping *s = of(blob);

	if (blob->result == 0) {
		s->sweep->given_up++;
	} else if (blob->result != -ESTALE) {
		sweep_end(s, blob_error(&s->sweep->err, s->repository, blob->name,
					"can't be given up", blob->result));
		return;
	} else if (!root_add(s, false)) { /* it was renewed */
		return;
	}
	scan_next(s);
}

static bool hold_on_object(struct snap_sweeping *s, const struct blob_entry *entry, uint64_t len)
{
	struct hold hold = {.info = s->info};

	if (hold_decode(s->bytes, len, &hold) < 0) {
		sweep_end(s, err_set(&s->sweep->err, -EBADMSG,
				     "%s: %s is damaged; nothing is swept until it is released",
				     s->repository->blobs->place, entry->name));
		return false;
	}
	if (!has_expired(s, hold.expires))
		return root_add(s, false);
	s->blob.done = hold_on_swap;
	blob_swap(s->repository->blobs, s->loop, &s->blob, entry->name, s->bytes, len, NULL, 0);
	return false;
}

static void holds_list(struct snap_sweeping *s)
{
	s->phase = PHASE_HOLDS;
	scan_start(s, PREFIX_HOLDS, false, hold_on_object, snapshots_list);
}

/* ---- Snapshots --------------------------------------------------------------------------------
 */

static bool snapshot_on_object(struct snap_sweeping *s, const struct blob_entry *entry,
			       uint64_t len)
{
	int r = info_read(s, entry, len, NULL);
	struct id *id;

	if (r < 0)
		return r == -EINVAL;
	if (s->info->state == SNAP_DELETED && sweep_has_tombstone(s, s->info->id))
		return true;
	if (s->info->state != SNAP_COMPLETED) {
		id = sweep_list_add(&s->pending, sizeof(*id));
		if (!id) {
			sweep_end(s, sweep_no_memory(s));
			return false;
		}
		*id = s->info->id;
	}
	return root_add(s, s->info->state == SNAP_COMPLETED);
}

static void snapshots_list(struct snap_sweeping *s)
{
	s->phase = PHASE_SNAPSHOTS;
	scan_start(s, PREFIX_SNAPSHOTS, false, snapshot_on_object, marking);
}

static void marking(struct snap_sweeping *s)
{
	s->phase = PHASE_MARK;
	mark_start(s, freeing);
}

static void freeing(struct snap_sweeping *s)
{
	s->phase = PHASE_FREE;
	if (s->sweep->config.dry_run) {
		sweep_end(s, 0);
		return;
	}
	s->at = 0;
	free_start(s, bury_next);
}

/* ---- Tombstones are removed -------------------------------------------------------------------
 */

static void bury_go_on(struct snap_sweeping *s)
{
	lease_check(s, bury_next);
}

static void bury_on_swap(struct blob_op *blob)
{
	struct snap_sweeping *s = of(blob);

	if (blob->result < 0 && blob->result != -ESTALE) {
		sweep_end(s, blob_error(&s->sweep->err, s->repository, blob->name,
					"can't be removed", blob->result));
		return;
	}
	s->sweep->tombstones += blob->result == 0;
	bury_go_on(s);
}

static void bury_on_read(struct blob_op *blob)
{
	struct snap_sweeping *s = of(blob);
	const struct tombstone *t = (struct tombstone *)s->tombstones.items + (s->at - 1);
	uint64_t renewals = 0;

	if (blob->result < 0 ||
	    manifest_decode(s->bytes, (uint64_t)blob->result, t->id, s->info, &renewals) < 0 ||
	    s->info->state != SNAP_DELETED || renewals != t->renewals) {
		bury_go_on(s);
		return;
	}
	s->blob.done = bury_on_swap;
	blob_swap(s->repository->blobs, s->loop, &s->blob, blob->name, s->bytes,
		  (uint64_t)blob->result, NULL, 0);
}

static void bury_next(struct snap_sweeping *s)
{
	const struct tombstone *t;
	char name[BLOB_NAME_MAX];

	s->phase = PHASE_BURY;
	if (s->at == s->tombstones.n) {
		sweep_end(s, 0);
		return;
	}
	t = (struct tombstone *)s->tombstones.items + s->at++;
	s->blob.done = bury_on_read;
	blob_read(s->repository->blobs, s->loop, &s->blob, manifest_name(t->id, name), s->bytes, 0,
		  BLOB_SWAP_MAX);
}
