/* SPDX-License-Identifier: Apache-2.0
 *
 * Marks what each root needs. A page that one root has marked is passed over by itself; another
 * root that comes to it goes down once more, to mark what is below as shared, and a third passes
 * over it. So each page is read at most twice, however many snapshots there are.
 *
 * The walk's only state is the root and the next block, as in walk.c.
 */
#include "snapshots/sweep_internal.h"

#include "base/check.h"

#include <errno.h>

#define BLOCKS_END      (UINT64_C(1) << page_shift(PAGE_LEVELS))
#define PAGES_IN_A_TURN 64

struct path {
	struct snap_item item[PAGE_LEVELS];
	const uint8_t *page[PAGE_LEVELS];
};

static void mark_step(struct snap_sweeping *s);

static struct sweep_root *root_now(struct snap_sweeping *s)
{
	return &((struct sweep_root *)s->roots.items)[s->root_at];
}

static struct sweep_root *root_of(struct snap_sweeping *s, uint32_t owner)
{
	return &((struct sweep_root *)s->roots.items)[owner - 1];
}

/* The root at hand needs the item. False: out of memory. */
static bool mark(struct snap_sweeping *s, const struct snap_item *item)
{
	struct mark_pack *pack;
	uint32_t *owner = marks_owner(&s->marks, item, &pack);

	if (!owner)
		return false;
	if (*owner == OWNER_NONE) {
		*owner = s->root_at + 1;
		root_now(s)->unique += item->length;
		pack->live += item->length;
		s->sweep->live += item->length;
	} else if (*owner != s->root_at + 1 && *owner != OWNER_SHARED) {
		root_of(s, *owner)->unique -= item->length;
		*owner = OWNER_SHARED;
	}
	return true;
}

/* All below is marked, as far as this root is concerned. */
static bool is_marked(struct snap_sweeping *s, const struct snap_item *item)
{
	const struct mark_pack *p = marks_find(&s->marks, &item->pack);
	uint32_t owner = p && item->slot < p->n_slots ? p->owner[item->slot] : OWNER_NONE;

	return owner == OWNER_SHARED || owner == s->root_at + 1;
}

static void mark_on_page(struct page_wait *wait, const uint8_t *bytes, int error)
{
	struct snap_sweeping *s = container_of(wait, struct snap_sweeping, wait);

	(void)bytes;
	s->error = error;
	io_defer(s->loop, &s->defer, 0); /* the pages may be freed there */
}

/* The page of `level` on the path, or NULL: it is being loaded. */
static const uint8_t *path_page(struct snap_sweeping *s, const struct snap_item *item,
				unsigned level)
{
	const uint8_t *page = pages_find(s->pages, item);

	if (page)
		return page;
	s->wait = (struct page_wait){
	    .done = mark_on_page,
	    .err = &s->sweep->err,
	    .item = *item,
	    .level = level,
	    .number = (uint32_t)(s->pos >> page_shift(level + 1)),
	};
	pages_load(s->pages, &s->wait);
	return NULL;
}

/* s->pos moves on to `next`; pages that end there are done. */
static bool leave(struct snap_sweeping *s, const struct path *path, unsigned level, uint64_t next)
{
	for (; level < PAGE_LEVELS; level++) {
		uint64_t covers = UINT64_C(1) << page_shift(level + 1);

		if (next / covers == s->pos / covers)
			break;
		if (!mark(s, &path->item[level]))
			return false;
		s->sweep->pages_done++;
	}
	s->pos = next;
	return true;
}

static bool mark_leaf(struct snap_sweeping *s, const uint8_t *page)
{
	struct snap_entry e;

	for (uint32_t i = 0; i < page_count(page); i++) {
		page_get(page, i, &e);
		if (e.state != ENTRY_ZERO && !mark(s, &e.item))
			return false;
	}
	return true;
}

/* Goes down at s->pos. 1: moved on; 0: a page is on its way; or a negative errno. */
static int mark_down(struct snap_sweeping *s)
{
	struct path path;
	struct snap_entry e = {.state = ENTRY_PAGE, .item = root_now(s)->root};

	for (unsigned level = PAGE_LEVELS; level-- > 0;) {
		uint64_t covers = UINT64_C(1) << page_shift(level + 1);
		uint64_t start = round_down(s->pos, covers);
		const uint8_t *page;
		uint32_t at;

		path.item[level] = e.item;
		if (is_marked(s, &e.item))
			return leave(s, &path, level, start + covers) ? 1 : -ENOMEM;
		page = path_page(s, &e.item, level);
		if (!page)
			return 0;
		if (level == 0)
			return mark_leaf(s, page) && leave(s, &path, 0, start + covers) ? 1
											: -ENOMEM;
		at = page_search(page, (uint32_t)((s->pos - start) >> page_shift(level)));
		if (at == page_count(page))
			return leave(s, &path, level, start + covers) ? 1 : -ENOMEM;
		/* What is in between is absent: nothing ends there that is not left anyway. */
		s->pos = max_u64(s->pos,
				 start + ((uint64_t)page_get(page, at, &e) << page_shift(level)));
	}
	CHECK(!"a leaf is always left");
	return -EIO;
}

static void mark_deferred(struct io_op *defer)
{
	struct snap_sweeping *s = container_of(defer, struct snap_sweeping, defer);

	if (s->error)
		sweep_end(s, err_wrap(&s->sweep->err, "nothing is swept"));
	else
		lease_check(s, mark_step);
}

static void mark_step(struct snap_sweeping *s)
{
	for (int n = 0; s->root_at < s->roots.n; n++) {
		int r = 1;

		if (root_now(s)->root.length == 0 || s->pos >= BLOCKS_END) {
			s->root_at++;
			s->pos = 0;
			continue;
		}
		if (n == PAGES_IN_A_TURN) { /* others have their turn, and the lease */
			io_defer(s->loop, &s->defer, 0);
			return;
		}
		r = mark_down(s);
		if (r == 0)
			return;
		if (r < 0) {
			sweep_end(s, sweep_no_memory(s));
			return;
		}
	}
	s->on_end(s);
}

void mark_start(struct snap_sweeping *s, void (*next)(struct snap_sweeping *s))
{
	s->on_end = next;
	s->root_at = 0;
	s->pos = 0;
	s->error = 0;
	s->defer.done = mark_deferred;
	s->pages = pages_new(s->repository, s->loop, 0);
	if (s->pages)
		mark_step(s);
	else
		sweep_end(s, sweep_no_memory(s));
}
