/* SPDX-License-Identifier: Apache-2.0
 *
 * The segment table: who has which segment. Lending and freeing change memory at once, and are
 * answered when a round has made the change durable in both copies, so that no answer is lost with
 * one of them:
 *
 *   IDLE -> WAIT_WRITES -> WAIT_SYNC -> WAIT_MIRRORS -> WAIT_MIRRORS_SYNC -> IDLE
 *
 * WAIT_WRITES   every dirty page goes to the copy that does not hold its newest durable version,
 *               under an odd version
 * WAIT_MIRRORS  when that is durable, each of them goes to its other copy, under the next version,
 *               which is even: with what changed meanwhile, too
 *
 * What comes while a round runs waits for the next, together. A freed segment is lent again only
 * when its freeing is durable (T3): a crash before shows it as lent to its old volume, with its old
 * bytes.
 */
#include "base/check.h"
#include "base/mem.h"
#include "store/local_internal.h"

#include <errno.h>

static bool lend_one(struct local *l, struct store_ctl *ctl);
static void lend_refuse(struct local *l, struct store_ctl *ctl, int error);
static struct segment *segment_take(struct local *l);
static void segment_lend(struct local *l, struct segment *segment, struct store_ctl *ctl);
static bool segment_is_lent_to(const struct segment *segment, const struct store_ctl *ctl,
			       unsigned i);
static void segment_free(struct local *l, struct segment *segment);
static void round_step(struct local *l);
static bool round_wanted(const struct local *l);
static void round_begin(struct local *l);
static void round_settle(struct local *l);
static void round_fail(struct local *l);
static unsigned list_drop(struct list *list);
static unsigned writers_fill(struct local *l, bool mirror);
static void writer_on_done(struct io_op *op);
static void round_sync(struct local *l);
static void round_on_sync(struct store_io *io);
static void round_mirror(struct local *l);

/* ---- Set-up -----------------------------------------------------------------------------------
 */

int table_init(struct local *l)
{
	list_init(&l->pool);
	list_init(&l->bare);
	list_init(&l->lends);
	list_init(&l->dirty);
	list_init(&l->waiting);
	list_init(&l->freed);
	list_init(&l->freeing);
	list_init(&l->round.todo);
	list_init(&l->round.written);
	list_init(&l->round.waiters);
	for (unsigned i = 0; i < LOCAL_PAGE_WRITERS; i++) {
		struct page_writer *w = &l->round.writers[i];

		w->local = l;
		w->op.done = writer_on_done;
		w->buffer = mem_alloc_pages(FORMAT_PAGE);
		if (!w->buffer)
			return -ENOMEM;
	}
	return 0;
}

void table_destroy(struct local *l)
{
	for (unsigned i = 0; i < LOCAL_PAGE_WRITERS; i++)
		mem_free_pages(l->round.writers[i].buffer, FORMAT_PAGE);
	for (uint64_t i = 0; i < l->n_groups; i++)
		mem_free(l->groups[i]);
	mem_free(l->groups);
}

struct group *group_new(uint64_t number)
{
	struct group *g = mem_alloc(sizeof(*g));

	if (!g)
		return NULL;
	for (unsigned i = 0; i < FORMAT_PAGES_PER_GROUP; i++) {
		list_init(&g->pages[i].dirty_link);
		list_init(&g->pages[i].round_link);
		g->pages[i].group = number;
		g->pages[i].index = i;
	}
	for (unsigned i = 0; i < FORMAT_SEGMENTS; i++) {
		struct segment *segment = &g->segments[i];

		list_init(&segment->link);
		segment->id = format_segment_id(number, i);
		segment->place = SEGMENT_OUTSIDE;
	}
	return g;
}

int table_reserve_group(struct local *l)
{
	uint64_t room = l->groups_room ? 2 * l->groups_room : 64;
	struct group **groups;

	if (l->n_groups < l->groups_room)
		return 0;
	groups = mem_realloc(l->groups, room * sizeof(struct group *));
	if (!groups)
		return -ENOMEM;
	l->groups = groups;
	l->groups_room = room;
	return 0;
}

void table_add_group(struct local *l, struct group *group)
{
	CHECK(l->n_groups < l->groups_room);

	l->groups[l->n_groups] = group;
	__atomic_store_n(&l->n_groups, l->n_groups + 1, __ATOMIC_RELEASE);
}

/* ---- Segments ---------------------------------------------------------------------------------
 */

struct segment *table_segment(struct local *l, uint64_t id)
{
	if (id == 0 || format_segment_group(id) >= l->n_groups)
		return NULL;
	return &l->groups[format_segment_group(id)]->segments[format_segment_index(id)];
}

uint64_t table_volume_bit(struct id volume)
{
	return UINT64_C(1) << (hash_u64(volume.hi ^ hash_u64(volume.lo)) % 64);
}

static struct table_page *segment_page(struct local *l, const struct segment *segment)
{
	struct group *g = l->groups[format_segment_group(segment->id)];

	return &g->pages[format_segment_index(segment->id) / FORMAT_ENTRIES_PER_PAGE];
}

void table_mark(struct local *l, struct segment *segment)
{
	struct table_page *page = segment_page(l, segment);

	if (list_empty(&page->dirty_link))
		list_add_tail(&l->dirty, &page->dirty_link);
}

void table_publish_free(struct local *l)
{
	__atomic_store_n(&l->store.info.free, l->n_free * l->store.info.segment_size,
			 __ATOMIC_RELAXED);
}

bool table_is_lendable(const struct local *l, const struct segment *segment)
{
	return segment->id <= l->n_possible && segment->entry.generation < UINT32_MAX;
}

void table_place_free(struct local *l, struct segment *segment)
{
	if (segment->id > l->n_possible) {
		segment->place = SEGMENT_OUTSIDE;
	} else if (segment->entry.generation == UINT32_MAX) {
		segment->place = SEGMENT_WORN;
	} else if (segment->entry.flags & FORMAT_SEGMENT_WRITTEN) {
		segment->place = SEGMENT_POOL;
		list_add_tail(&l->pool, &segment->link);
		l->n_pool++;
	} else {
		segment->place = SEGMENT_BARE;
		list_add_tail(&l->bare, &segment->link);
		l->n_bare++;
	}
}

/* ---- Lending ----------------------------------------------------------------------------------
 */

void table_lend(struct local *l, struct store_ctl *ctl)
{
	CHECK(ctl->n > 0);
	CHECK(ctl->n <= STORE_LEND_MAX);

	list_add_tail(&l->lends, &ctl->link);
	table_pump(l);
}

void table_pump(struct local *l)
{
	while (!list_empty(&l->lends)) {
		struct store_ctl *ctl = list_first(&l->lends, struct store_ctl, link);

		if (!lend_one(l, ctl))
			break;
	}
	if (!l->opening)
		space_punch(l);
	round_step(l);
}

/* Segments that could be lent right now. */
static uint64_t n_at_hand(const struct local *l)
{
	return l->n_pool + (space_needs_backing(l) ? 0 : l->n_bare);
}

/* By all who wait: what is backed together is lent in one round. */
static uint64_t n_wanted(const struct local *l)
{
	uint64_t n = 0;

	list_for_each (&l->lends, node)
		n += list_entry(node, struct store_ctl, link)->n;
	return n;
}

/* The last segments are for what makes room: only with them does a full store find its way back.
 * Copies leave some for the maps and the log, without which nothing that was copied is ever freed.
 */
static uint64_t n_kept_from(const struct local *l, const struct store_ctl *ctl)
{
	if (ctl->last)
		return 0;
	switch (ctl->stream) {
	case STORE_STREAM_USER:
		return l->reserve;
	case STORE_STREAM_MOVED:
		return l->reserve / 2;
	default:
		return 0;
	}
}

/* Serves one, or returns false: it has to wait. */
static bool lend_one(struct local *l, struct store_ctl *ctl)
{
	uint64_t kept = n_kept_from(l, ctl);
	uint64_t wanted;
	uint32_t n = 0;

	if (l->control_failed || sync_failed(l)) {
		lend_refuse(l, ctl, -EIO);
		return true;
	}
	wanted = n_wanted(l) + kept;
	if (n_at_hand(l) < wanted && space_back(l, wanted - n_at_hand(l)))
		return false;
	if (n_at_hand(l) <= kept) {
		/* A round is quick. A punch may not be: it is waited for only when all else is
		 * used up. */
		if (l->n_freeing > 0)
			return false;
		if (l->back.error) {
			lend_refuse(l, ctl, l->back.error);
			return true;
		}
		if (space_can_grow(l)) {
			space_grow(l);
			return false;
		}
		if (l->punch.segment)
			return false;
		lend_refuse(l, ctl, -ENOSPC);
		return true;
	}
	list_remove(&ctl->link);
	if (ctl == &l->objects.grow_ctl) {
		object_got_segment(l, segment_take(l));
		return true;
	}
	while (n < ctl->n && n_at_hand(l) > kept) {
		struct segment *segment = segment_take(l);

		segment_lend(l, segment, ctl);
		ctl->segments[n++] = (struct store_segment){
		    .id = segment->id,
		    .generation = segment->entry.generation,
		    .stream = segment->entry.stream,
		    .incarnation = segment->entry.incarnation,
		};
	}
	ctl->n = n;
	list_add_tail(&l->waiting, &ctl->link);
	return true;
}

static void lend_refuse(struct local *l, struct store_ctl *ctl, int error)
{
	list_remove(&ctl->link);
	if (ctl == &l->objects.grow_ctl)
		object_no_segment(l, error);
	else
		ctl_finish(ctl, error);
}

void table_refuse_lends(struct local *l, int error)
{
	while (!list_empty(&l->lends))
		lend_refuse(l, list_first(&l->lends, struct store_ctl, link), error);
}

/* Already written space first: writing there is much faster than to space that the file system has
 * yet to give. */
static struct segment *segment_take(struct local *l)
{
	struct list *node = list_pop(&l->pool);
	struct segment *segment;

	if (node) {
		l->n_pool--;
	} else {
		node = list_pop(&l->bare);
		CHECK(node);
		l->n_bare--;
	}
	segment = list_entry(node, struct segment, link);
	segment->place = SEGMENT_RESERVED;
	l->n_free--;
	table_publish_free(l);
	return segment;
}

static void segment_lend(struct local *l, struct segment *segment, struct store_ctl *ctl)
{
	struct format_entry *e = &segment->entry;

	CHECK(segment->place == SEGMENT_RESERVED);
	CHECK(e->state != FORMAT_SEGMENT_LENT);

	*e = (struct format_entry){
	    .state = FORMAT_SEGMENT_LENT,
	    .stream = ctl->stream,
	    .generation = e->generation + 1,
	    .volume = ctl->volume,
	    .incarnation = ctl->incarnation,
	    .owner_term = l->super.owner_term,
	    .order = l->next_order++,
	};
	segment->place = SEGMENT_LENT;
	l->groups[format_segment_group(segment->id)]->volumes |= table_volume_bit(e->volume);
	table_mark(l, segment);
}

void table_lend_reserved(struct local *l, struct store_ctl *ctl, struct segment *segment)
{
	segment_lend(l, segment, ctl);
	list_add_tail(&l->waiting, &ctl->link);
	round_step(l);
}

void table_give_back(struct local *l, struct segment *segment)
{
	table_place_free(l, segment);
	l->n_free++;
	table_publish_free(l);
	table_pump(l);
}

/* ---- Freeing ----------------------------------------------------------------------------------
 */

void table_free(struct local *l, struct store_ctl *ctl)
{
	CHECK(ctl->n <= STORE_LEND_MAX);

	if (l->control_failed || sync_failed(l)) {
		ctl_finish(ctl, -EIO);
		return;
	}
	for (unsigned i = 0; i < ctl->n; i++) {
		struct segment *segment = table_segment(l, ctl->segments[i].id);

		if (!segment || !segment_is_lent_to(segment, ctl, i)) {
			ctl_finish(ctl, -ESTALE);
			return;
		}
	}
	for (unsigned i = 0; i < ctl->n; i++)
		segment_free(l, table_segment(l, ctl->segments[i].id));
	list_add_tail(&l->waiting, &ctl->link);
	round_step(l);
}

static bool segment_is_lent_to(const struct segment *segment, const struct store_ctl *ctl,
			       unsigned i)
{
	for (unsigned j = 0; j < i; j++)
		CHECK(ctl->segments[j].id != segment->id);
	return segment->place == SEGMENT_LENT && id_equal(segment->entry.volume, ctl->volume) &&
	       segment->entry.generation == ctl->segments[i].generation &&
	       segment->entry.stream != STORE_STREAM_OBJECTS;
}

static void segment_free(struct local *l, struct segment *segment)
{
	struct format_entry *e = &segment->entry;

	*e = (struct format_entry){
	    .state = FORMAT_SEGMENT_FREE,
	    .flags = FORMAT_SEGMENT_WRITTEN,
	    .generation = e->generation,
	    .owner_term = l->super.owner_term,
	    .order = e->order,
	};
	segment->place = SEGMENT_FREEING;
	list_add_tail(&l->freed, &segment->link);
	l->n_freeing++;
	if (table_is_lendable(l, segment))
		l->n_free++;
	table_publish_free(l);
	table_mark(l, segment);
}

/* ---- Listing ----------------------------------------------------------------------------------
 */

void table_list(struct local *l, struct store_ctl *ctl)
{
	uint64_t position = ctl->private[0];
	uint64_t bit = table_volume_bit(ctl->volume);

	ctl->n = 0;
	while (ctl->n < STORE_LEND_MAX && position < l->n_groups * FORMAT_SEGMENTS) {
		struct group *g = l->groups[position / FORMAT_SEGMENTS];
		const struct segment *segment = &g->segments[position % FORMAT_SEGMENTS];

		if (!(g->volumes & bit)) {
			position += FORMAT_SEGMENTS - position % FORMAT_SEGMENTS;
			continue;
		}
		position++;
		if (segment->place != SEGMENT_LENT || !id_equal(segment->entry.volume, ctl->volume))
			continue;
		ctl->segments[ctl->n++] = (struct store_segment){
		    .id = segment->id,
		    .generation = segment->entry.generation,
		    .stream = segment->entry.stream,
		    .incarnation = segment->entry.incarnation,
		};
	}
	ctl->private[0] = position;
	ctl_finish(ctl, 0);
}

/* ---- Rounds -----------------------------------------------------------------------------------
 */

void table_kick(struct local *l)
{
	if (l->round.state == ROUND_IDLE && !list_empty(&l->dirty) && !l->control_failed) {
		round_begin(l);
		round_step(l);
	}
}

static void round_step(struct local *l)
{
	struct round *r = &l->round;

	for (;;) {
		switch (r->state) {
		case ROUND_IDLE:
			if (!round_wanted(l)) {
				local_quiet(l);
				return;
			}
			round_begin(l);
			continue;
		case ROUND_WAIT_WRITES:
			if (writers_fill(l, false) > 0)
				return;
			if (r->error) {
				round_fail(l);
				continue;
			}
			r->state = ROUND_WAIT_SYNC;
			round_sync(l);
			return;
		case ROUND_WAIT_MIRRORS:
			if (writers_fill(l, true) > 0)
				return;
			if (r->error) {
				round_fail(l);
				continue;
			}
			r->state = ROUND_WAIT_MIRRORS_SYNC;
			round_sync(l);
			return;
		case ROUND_WAIT_SYNC:
		case ROUND_WAIT_MIRRORS_SYNC:
			return;
		}
	}
}

static bool round_wanted(const struct local *l)
{
	return !list_empty(&l->waiting) || !list_empty(&l->freed);
}

static void round_begin(struct local *l)
{
	struct round *r = &l->round;

	CHECK(list_empty(&r->todo));
	list_for_each_safe (&l->dirty, node) {
		struct table_page *page = list_entry(node, struct table_page, dirty_link);

		list_remove(&page->dirty_link);
		list_add_tail(&r->todo, &page->round_link);
	}
	list_splice_tail(&r->waiters, &l->waiting);
	list_splice_tail(&l->freeing, &l->freed);
	r->error = l->control_failed ? -EIO : 0;
	r->state = ROUND_WAIT_WRITES;
}

/* Keeps the writers busy. Returns how many are. */
static unsigned writers_fill(struct local *l, bool mirror)
{
	struct round *r = &l->round;

	for (unsigned i = 0; i < LOCAL_PAGE_WRITERS && !r->error; i++) {
		struct page_writer *w = &r->writers[i];
		struct list *node;
		uint64_t at;

		if (w->page)
			continue;
		node = list_pop(&r->todo);
		if (!node)
			break;
		w->page = list_entry(node, struct table_page, round_link);
		table_encode(l, w->page,
			     mirror ? w->page->version + 1 : format_table_first(w->page->version),
			     w->buffer);
		at = format_table_offset(l->super.segment_size, w->page->group, !w->page->newest) +
		     w->page->index * FORMAT_PAGE;
		r->in_flight++;
		io_write(l->loop, &w->op, l->file, w->buffer, FORMAT_PAGE, at);
	}
	return r->in_flight;
}

void table_encode(struct local *l, struct table_page *page, uint64_t version, uint8_t *buffer)
{
	struct format_table table = {.version = version};
	const struct segment *segments =
	    &l->groups[page->group]->segments[page->index * FORMAT_ENTRIES_PER_PAGE];

	for (unsigned i = 0; i < FORMAT_ENTRIES_PER_PAGE; i++)
		table.entries[i] = segments[i].entry;
	format_table_encode(&table, l->super.uuid, page->group, page->index, buffer);
}

static void writer_on_done(struct io_op *op)
{
	struct page_writer *w = container_of(op, struct page_writer, op);
	struct local *l = w->local;

	if (op->result < 0)
		l->round.error = (int)op->result;
	list_add_tail(&l->round.written, &w->page->round_link);
	w->page = NULL;
	l->round.in_flight--;
	round_step(l);
}

static void round_sync(struct local *l)
{
	l->round.sync.done = round_on_sync;
	local_sync(&l->store, l->loop, &l->round.sync);
}

static void round_on_sync(struct store_io *io)
{
	struct local *l = container_of(io, struct local, round.sync);

	if (io->result < 0) {
		l->round.error = (int)io->result;
		round_fail(l);
	} else if (l->round.state == ROUND_WAIT_SYNC) {
		round_mirror(l);
		l->round.state = ROUND_WAIT_MIRRORS;
	} else {
		round_settle(l);
		l->round.state = ROUND_IDLE;
	}
	table_pump(l);
}

/* What was written is durable in one copy now. */
static void round_mirror(struct local *l)
{
	struct round *r = &l->round;

	list_for_each (&r->written, node) {
		struct table_page *page = list_entry(node, struct table_page, round_link);

		page->version = format_table_first(page->version);
		page->newest = !page->newest;
	}
	list_splice_tail(&r->todo, &r->written);
}

/* In both. */
static void round_settle(struct local *l)
{
	struct round *r = &l->round;
	struct list *node;

	while ((node = list_pop(&r->written))) {
		struct table_page *page = list_entry(node, struct table_page, round_link);

		page->version++;
		page->newest = !page->newest;
	}
	while ((node = list_pop(&l->freeing))) {
		l->n_freeing--;
		table_place_free(l, list_entry(node, struct segment, link));
	}
	while ((node = list_pop(&r->waiters)))
		ctl_finish(list_entry(node, struct store_ctl, link), 0);
}

/* Memory is ahead of the disk for good: nothing more is lent, freed or swapped until the store is
 * opened anew. */
static void round_fail(struct local *l)
{
	struct round *r = &l->round;
	struct list *node;

	l->control_failed = true;
	list_splice_tail(&r->waiters, &l->waiting);
	while ((node = list_pop(&r->waiters)))
		ctl_finish(list_entry(node, struct store_ctl, link), -EIO);
	l->n_freeing -= list_drop(&l->freeing) + list_drop(&l->freed);
	list_drop(&r->todo);
	list_drop(&r->written);
	r->state = ROUND_IDLE;
	table_refuse_lends(l, -EIO);
}

static unsigned list_drop(struct list *list)
{
	unsigned n = 0;

	while (list_pop(list))
		n++;
	return n;
}

bool table_is_quiet(const struct local *l)
{
	return l->round.state == ROUND_IDLE && list_empty(&l->lends) && list_empty(&l->waiting);
}
