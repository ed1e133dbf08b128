/* SPDX-License-Identifier: Apache-2.0
 *
 * Views of pinned roots. A view reads the map on its own, past the leaf cache: it keeps the root,
 * one index page and one leaf. What a pinned root refers to never changes and is not freed, so that
 * nothing else is to be minded; reads are counted on the segments as all others.
 *
 * The same for a root that a check holds (check_in_use.c), of which it counts what it refers to.
 */
#include "engine/volume.h"

#include "base/check.h"
#include "base/util.h"

#include <errno.h>
#include <string.h>

#define READS       16 /* in flight */
#define LEAF_UNITS  (LEAF_BLOCKS / VOLUME_UNIT_BLOCKS)
#define INDEX_UNITS (INDEX_LEAVES * LEAF_UNITS)
#define PENDING     0xff /* in states: to be read, with its neighbours */
#define PENDING_ONE 0xfe /* to be read alone: with its neighbours it could not be */
#define UNDER_WAY   0xfd
#define NONE        UINT64_MAX

enum view_want { WANT_ROOT, WANT_INDEX, WANT_LEAF, WANT_USAGE };
enum view_what { VIEW_NEXT, VIEW_READ, VIEW_USAGE };

struct view_read {
	struct volume_view *view;
	struct device_io io;
	struct segment *segment; /* NULL: not under way */
	uint32_t first;          /* block in the unit */
	uint32_t blocks;
};

struct volume_view {
	struct list link; /* volume->views */
	struct volume *volume;
	struct superblock_pin pin;
	struct volume_op *opening;
	struct volume_view_req *req; /* under way */
	enum view_what what;
	struct io_op turn;

	/* A blob on its way in. */
	enum view_want want;
	uint64_t want_number;
	struct blob_ref want_ref;
	int want_error;
	uint8_t *blob;
	size_t blob_size;
	uint32_t skip;
	struct segment *segment;
	struct device_io io;

	uint8_t *root;
	struct root_content root_content;
	uint64_t index_number; /* NONE: there is none */
	struct blob_ref index[INDEX_LEAVES];
	uint64_t leaf_number;
	struct leaf_content leaf;

	uint32_t n_reads;
	struct view_read reads[READS];
	bool asking;
	uint32_t base_at; /* blocks of the unit below it need no base any more */
	struct volume_base_req base;
	struct flight base_flight;
};

static void view_step(struct volume_view *view);
static void read_units(struct volume_view *view);

/* ---- Opening and closing -----------------------------------------------------------------------
 */

static void view_free(struct volume_view *view)
{
	list_remove(&view->link);
	mem_free_pages(view->blob, view->blob_size);
	mem_free(view->root);
	mem_free(view);
}

bool view_is_open(const struct volume *v, struct id snapshot)
{
	list_for_each (&v->views, node)
		if (id_equal(list_entry(node, struct volume_view, link)->pin.snapshot, snapshot))
			return true;
	list_for_each (&v->views_waiting, node)
		if (id_equal(list_entry(node, struct volume_op, link)->snapshot, snapshot))
			return true;
	return false;
}

static void open_end(struct volume_view *view, int error)
{
	struct volume_op *op = view->opening;
	char text[ID_TEXT_MAX];

	view->opening = NULL;
	if (error) {
		err_set(&op->err, error, "volume %s: the root of its snapshot can't be read: %s",
			id_format(view->volume->id, "vol", text), strerror(-error));
		view_free(view);
	} else {
		op->view = view;
	}
	op->done(op);
}

/* Reads a blob of the map; view_on_blob goes on. 0: asleep, or -EUCLEAN. */
static int view_blob(struct volume_view *view, enum view_want want, uint64_t number,
		     const struct blob_ref *ref)
{
	struct volume *v = view->volume;
	uint32_t alignment = v->store->info.alignment;
	uint32_t from = (uint32_t)round_down(ref->offset, alignment);
	uint64_t to = round_up((uint64_t)ref->offset + ref->length, alignment);

	view->segment = segments_find(v, ref->segment);
	if (!view->segment || ref->length == 0 || to > v->store->info.segment_size)
		return -EUCLEAN;
	if (to - from > view->blob_size) {
		mem_free_pages(view->blob, view->blob_size);
		view->blob_size = to - from;
		view->blob = mem_alloc_pages(view->blob_size);
	}
	if (!view->blob) {
		view->blob_size = 0;
		return -ENOMEM;
	}
	view->want = want;
	view->want_number = number;
	view->want_ref = *ref;
	view->skip = ref->offset - from;
	view->segment->users++;
	device_read(v, &view->io, VOLUME_IO_INSPECTION, ref->segment, from, view->blob,
		    (uint32_t)(to - from));
	return 0;
}

static int take_root(struct volume_view *view, const uint8_t *bytes)
{
	const struct blob_ref *ref = &view->want_ref;

	if (root_decode(bytes, ref->length, view->volume->id, ref->sum, &view->root_content) < 0)
		return -EUCLEAN;
	view->root = mem_alloc(ref->length);
	if (!view->root)
		return -ENOMEM;
	memcpy(view->root, bytes, ref->length);
	return 0;
}

static int take_index(struct volume_view *view, const uint8_t *bytes)
{
	const struct blob_ref *ref = &view->want_ref;

	if (index_decode(bytes, ref->length, view->volume->id, view->want_number, ref->sum,
			 view->index) < 0)
		return -EIO;
	view->index_number = view->want_number;
	return 0;
}

static int take_leaf(struct volume_view *view, const uint8_t *bytes)
{
	const struct blob_ref *ref = &view->want_ref;

	if (leaf_decode(bytes, ref->length, view->volume->id, view->want_number, ref->sum,
			&view->leaf) < 0)
		return -EIO;
	view->leaf_number = view->want_number;
	return 0;
}

static int take_usage(struct volume_view *view, const uint8_t *bytes)
{
	const struct blob_ref *ref = &view->want_ref;

	return usage_decode(bytes, ref->length, view->volume->id, (uint32_t)view->want_number,
			    ref->sum, view->req->buf) < 0
		   ? -EIO
		   : 0;
}

static void req_end(struct volume_view *view, int error)
{
	struct volume_view_req *req = view->req;

	req->error = error;
	view->req = NULL;
	view->want_error = 0;
	req->done(req);
}

static void on_blob(struct device_io *io)
{
	struct volume_view *view = container_of(io, struct volume_view, io);
	const uint8_t *bytes = view->blob + view->skip;
	int r = io->result < 0 ? -EIO : 0;

	view->segment->users--;
	if (view->want == WANT_INDEX)
		view->index_number = NONE;
	if (view->want == WANT_LEAF)
		view->leaf_number = NONE;
	if (r == 0 && view->want == WANT_ROOT)
		r = take_root(view, bytes);
	else if (r == 0 && view->want == WANT_USAGE)
		r = take_usage(view, bytes);
	else if (r == 0)
		r = view->want == WANT_INDEX ? take_index(view, bytes) : take_leaf(view, bytes);
	if (view->want == WANT_ROOT) {
		open_end(view, r);
		return;
	}
	if (view->want == WANT_USAGE) {
		req_end(view, r);
		return;
	}
	view->want_error = r;
	view_step(view);
}

void view_start(struct volume_op *op, const struct superblock_pin *pin)
{
	struct volume *v = op->volume;
	struct volume_view *view = mem_alloc(sizeof(*view));
	int r;

	if (!view) {
		volume_op_refuse(op, -ENOMEM, "no memory for reading its snapshot");
		return;
	}
	view->volume = v;
	view->pin = *pin;
	view->opening = op;
	view->io.done = on_blob;
	view->index_number = view->leaf_number = NONE;
	for (int i = 0; i < READS; i++)
		view->reads[i].view = view;
	if (id_is_zero(pin->snapshot)) /* it is a check's: closing waits for that */
		list_init(&view->link);
	else
		list_add_tail(&v->views, &view->link);
	r = view_blob(view, WANT_ROOT, 0, &pin->root);
	if (r < 0) {
		view_free(view);
		volume_op_refuse(op, r, "the root of its snapshot is damaged");
	}
}

void volume_view_open(struct volume_op *op)
{
	struct volume *v = op->volume;
	struct superblock_pin *pin = pin_find(&v->sb, op->snapshot);

	op->err.code = 0;
	op->view = NULL;
	if (pin)
		view_start(op, pin);
	else if (!cut_is_waiting(v, op->snapshot))
		volume_op_refuse(op, -ENOENT, "it has no pending snapshot of that id");
	else if (v->failed || v->read_only)
		volume_op_refuse(op, -EIO, "its snapshot is not on disk yet; open it anew");
	else
		list_add_tail(&v->views_waiting, &op->link);
}

void views_feed(struct volume *v)
{
	list_for_each_safe (&v->views_waiting, node) {
		struct volume_op *op = list_entry(node, struct volume_op, link);
		struct superblock_pin *pin = pin_find(&v->sb, op->snapshot);

		if (!pin && !v->failed)
			continue;
		list_remove(&op->link);
		volume_view_open(op);
	}
}

void volume_view_close(struct volume_view *view)
{
	CHECK(!view->req && !view->opening);
	view_free(view);
}

void volume_view_info(const struct volume_view *view, struct volume_pin *ret_pin)
{
	*ret_pin = (struct volume_pin){.snapshot = view->pin.snapshot,
				       .sequence = view->pin.sequence,
				       .size = view->pin.size,
				       .ready = true};
}

/* ---- The map -----------------------------------------------------------------------------------
 */

/* The first index page from `number` on; false: there is none. */
static bool root_find(const struct volume_view *view, uint64_t number, uint64_t *ret_number,
		      struct blob_ref *ret_ref, uint32_t *ret_at)
{
	uint32_t low = 0;
	uint32_t high = view->root_content.n_index;
	uint32_t found = 0;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		root_get_ref(view->root, middle, &found, ret_ref);
		if (found < number)
			low = middle + 1;
		else
			high = middle;
	}
	if (low == view->root_content.n_index)
		return false;
	root_get_ref(view->root, low, &found, ret_ref);
	*ret_number = found;
	*ret_at = low;
	return true;
}

/* 0: view->index is that page; 1: asleep; negative errno. */
static int need_index(struct volume_view *view, uint64_t number, const struct blob_ref *ref)
{
	int r = view->want_error;

	view->want_error = 0;
	if (r < 0 || view->index_number == number)
		return r;
	r = view_blob(view, WANT_INDEX, number, ref);
	return r < 0 ? -EIO : 1;
}

static int need_leaf(struct volume_view *view, uint64_t number)
{
	int r = view->want_error;

	view->want_error = 0;
	if (r < 0 || view->leaf_number == number)
		return r;
	r = view_blob(view, WANT_LEAF, number, &view->index[number % INDEX_LEAVES]);
	return r < 0 ? -EIO : 1;
}

bool view_root_ref(const struct volume_view *view, uint32_t i, uint32_t *ret_number,
		   struct blob_ref *ret_ref)
{
	if (i >= view->root_content.n_index + view->root_content.n_usage)
		return false;
	root_get_ref(view->root, i, ret_number, ret_ref);
	return true;
}

bool view_root_is_usage(const struct volume_view *view, uint32_t i)
{
	return i >= view->root_content.n_index;
}

const struct blob_ref *view_index(const struct volume_view *view, uint64_t number)
{
	return view->index_number == number ? view->index : NULL;
}

const struct leaf_content *view_leaf(const struct volume_view *view, uint64_t number)
{
	return view->leaf_number == number ? &view->leaf : NULL;
}

/* ---- What has changed --------------------------------------------------------------------------
 */

/* The next leaf in this index page that has something newer: false: none, go on behind it. */
static bool index_skip(const struct volume_view *view, struct volume_view_req *req)
{
	uint64_t leaf = req->unit / LEAF_UNITS;

	for (uint64_t i = leaf % INDEX_LEAVES; i < INDEX_LEAVES; i++, leaf++) {
		const struct blob_ref *ref = &view->index[i];

		if (ref->length != 0 && (req->all || ref->birth > req->since)) {
			req->unit = max_u64(req->unit, leaf * LEAF_UNITS);
			return true;
		}
	}
	req->unit = leaf * LEAF_UNITS;
	return false;
}

static bool leaf_skip(const struct volume_view *view, struct volume_view_req *req)
{
	for (uint64_t i = req->unit % LEAF_UNITS; i < LEAF_UNITS; i++, req->unit++) {
		if (!req->all && view->leaf.birth[i] <= req->since)
			continue;
		req->birth = view->leaf.birth[i];
		return true;
	}
	return false;
}

/* 1: asleep; else the answer. */
static int next_step(struct volume_view *view)
{
	struct volume_view_req *req = view->req;

	for (;;) {
		struct blob_ref ref;
		uint64_t page;
		uint32_t at;
		uint32_t number;
		int r;

		if (!root_find(view, req->unit / INDEX_UNITS, &page, &ref, &at))
			return -ENOENT;
		while (!req->all && ref.birth <= req->since) {
			if (++at == view->root_content.n_index)
				return -ENOENT;
			root_get_ref(view->root, at, &number, &ref);
			page = number;
		}
		req->unit = max_u64(req->unit, page * INDEX_UNITS);
		r = need_index(view, page, &ref);
		if (r != 0)
			return r;
		if (!index_skip(view, req))
			continue;
		if (req->unit * VOLUME_UNIT >= view->pin.size)
			return -ENOENT;
		r = need_leaf(view, req->unit / LEAF_UNITS);
		if (r != 0)
			return r;
		if (leaf_skip(view, req))
			return req->unit * VOLUME_UNIT < view->pin.size ? 0 : -ENOENT;
	}
}

/* ---- Reading -----------------------------------------------------------------------------------
 */

static const struct entry *unit_entries(const struct volume_view *view)
{
	uint64_t first = view->req->unit % LEAF_UNITS * VOLUME_UNIT_BLOCKS;

	return &view->leaf.entries[first];
}

static uint64_t unit_lba(const struct volume_view *view)
{
	return view->req->unit * VOLUME_UNIT_BLOCKS;
}

static uint8_t *unit_block(const struct volume_view *view, uint32_t i)
{
	return (uint8_t *)view->req->buf + (size_t)i * BLOCK_SIZE;
}

static void block_is_bad(struct volume_view *view, uint32_t i, const char *why)
{
	memset(unit_block(view, i), 0, BLOCK_SIZE);
	view->req->states[i] = VOLUME_BLOCK_BAD;
	volume_bad_block(view->volume, unit_lba(view) + i, why);
}

/* What the map says of each block. Zeroes are there at once. */
static void unit_begin(struct volume_view *view, bool has_leaf)
{
	struct volume_view_req *req = view->req;
	struct volume *v = view->volume;

	memset(req->buf, 0, VOLUME_UNIT);
	for (uint32_t i = 0; i < VOLUME_UNIT_BLOCKS; i++) {
		uint64_t lba = unit_lba(view) + i;
		uint8_t state = has_leaf ? unit_entries(view)[i].state : ENTRY_INHERIT;

		req->states[i] = VOLUME_BLOCK_ZERO;
		if (lba * BLOCK_SIZE >= view->pin.size)
			continue;
		if (state == ENTRY_INHERIT && hydrate_has(v, lba))
			req->states[i] = VOLUME_BLOCK_BASE;
		else if (state == ENTRY_DATA)
			req->states[i] = PENDING;
		else if (state == ENTRY_BAD)
			block_is_bad(view, i, "known to be lost");
	}
}

static void on_block_read(struct device_io *io)
{
	struct view_read *r = container_of(io, struct view_read, io);
	struct volume_view *view = r->view;
	const struct entry *e = unit_entries(view);

	r->segment->users--;
	r->segment = NULL;
	view->n_reads--;
	for (uint32_t i = r->first; i < r->first + r->blocks; i++) {
		if (io->result < 0 && r->blocks > 1)
			view->req->states[i] = PENDING_ONE;
		else if (io->result < 0)
			block_is_bad(view, i, "the store can't read it");
		else if (block_sum(view->volume->id, unit_lba(view) + i, unit_block(view, i)) !=
			 e[i].sum)
			block_is_bad(view, i, "its checksum is wrong");
		else
			view->req->states[i] = VOLUME_BLOCK_DATA;
	}
	read_units(view);
}

/* Starts reading block i, and those after it that lie behind it in the store. */
static void read_run(struct volume_view *view, uint32_t i)
{
	struct volume *v = view->volume;
	struct view_read *r = view->reads;
	const struct entry *e = &unit_entries(view)[i];
	uint8_t *states = view->req->states;
	uint32_t most = states[i] == PENDING_ONE ? 1 : VOLUME_UNIT_BLOCKS - i;
	uint32_t n = 1;

	while (r->segment)
		r++;
	while (n < most && states[i + n] == PENDING && e[n].segment == e->segment &&
	       e[n].offset == e->offset + n * (BLOCK_SIZE / BLOCK_SECTOR))
		n++;
	r->segment = segments_find(v, e->segment);
	if (!r->segment || (uint64_t)e->offset * BLOCK_SECTOR + (uint64_t)n * BLOCK_SIZE >
			       v->store->info.segment_size) {
		r->segment = NULL;
		block_is_bad(view, i, "its map entry leads nowhere");
		return;
	}
	r->first = i;
	r->blocks = n;
	memset(&states[i], UNDER_WAY, n);
	r->segment->users++;
	view->n_reads++;
	r->io.done = on_block_read;
	device_read(v, &r->io, VOLUME_IO_INSPECTION, e->segment, e->offset * BLOCK_SECTOR,
		    unit_block(view, i), n * BLOCK_SIZE);
}

static void on_base_read(struct volume_base_req *base)
{
	struct volume_view *view = container_of(base, struct volume_view, base);
	uint32_t first = (uint32_t)(base->lba - unit_lba(view));

	view->asking = false;
	flight_end(view->volume, &view->base_flight);
	hydrate_user(view->volume, -1);
	for (uint32_t i = first; i < first + base->blocks; i++) {
		view->req->states[i] = VOLUME_BLOCK_BASE;
		if (base->error)
			block_is_bad(view, i, "its base snapshot can't be read");
	}
	read_units(view);
}

/* The base's blocks, one run after the other. */
static void read_base(struct volume_view *view)
{
	struct volume *v = view->volume;
	const uint8_t *states = view->req->states;
	uint32_t first = view->base_at;
	uint32_t n = 0;

	while (first < VOLUME_UNIT_BLOCKS && states[first] != VOLUME_BLOCK_BASE)
		first++;
	while (first + n < VOLUME_UNIT_BLOCKS && states[first + n] == VOLUME_BLOCK_BASE)
		n++;
	view->base_at = v->base ? first + n : VOLUME_UNIT_BLOCKS;
	if (n == 0 || view->req->skip_base)
		return;
	if (!v->base) {
		for (uint32_t i = first; i < VOLUME_UNIT_BLOCKS; i++)
			if (states[i] == VOLUME_BLOCK_BASE)
				block_is_bad(view, i, "its base snapshot is not at hand");
		return;
	}
	view->asking = true;
	view->base = (struct volume_base_req){.lba = unit_lba(view) + first,
					      .blocks = n,
					      .buf = unit_block(view, first),
					      .done = on_base_read};
	v->stats.base_bytes += (uint64_t)n * BLOCK_SIZE;
	hydrate_user(v, 1);
	flight_begin(v, &view->base_flight, VOLUME_IO_BASE);
	v->base->ops->read(v->base, &view->base);
}

static void read_units(struct volume_view *view)
{
	const uint8_t *states = view->req->states;

	for (uint32_t i = 0; i < VOLUME_UNIT_BLOCKS && view->n_reads < READS; i++)
		if (states[i] == PENDING || states[i] == PENDING_ONE)
			read_run(view, i);
	if (!view->asking && view->base_at < VOLUME_UNIT_BLOCKS)
		read_base(view);
	if (view->n_reads == 0 && !view->asking)
		req_end(view, 0);
}

/* Finds the leaf of the unit, then reads. */
static int unit_step(struct volume_view *view)
{
	struct volume_view_req *req = view->req;
	uint64_t leaf = req->unit / LEAF_UNITS;
	struct blob_ref ref;
	uint64_t page;
	uint32_t at;
	int r;

	if (!root_find(view, leaf / INDEX_LEAVES, &page, &ref, &at) ||
	    page != leaf / INDEX_LEAVES) {
		unit_begin(view, false);
		return 0;
	}
	r = need_index(view, page, &ref);
	if (r != 0)
		return r;
	if (view->index[leaf % INDEX_LEAVES].length == 0) {
		unit_begin(view, false);
		return 0;
	}
	r = need_leaf(view, leaf);
	if (r == 0)
		unit_begin(view, true);
	return r;
}

/* ---- Requests ----------------------------------------------------------------------------------
 */

/* 1: asleep; else the answer. */
static int usage_step(struct volume_view *view)
{
	struct volume_view_req *req = view->req;
	struct blob_ref ref;
	uint32_t number;

	if (req->unit >= view->root_content.n_usage)
		return -ENOENT;
	view_root_ref(view, view->root_content.n_index + (uint32_t)req->unit, &number, &ref);
	req->unit = number;
	return view_blob(view, WANT_USAGE, number, &ref) < 0 ? -EIO : 1;
}

static void view_step(struct volume_view *view)
{
	struct volume_view_req *req = view->req;
	int r = view->what == VIEW_READ    ? unit_step(view)
		: view->what == VIEW_USAGE ? usage_step(view)
					   : next_step(view);

	if (r == 1)
		return;
	if (r == 0 && view->what == VIEW_READ) {
		read_units(view);
		return;
	}
	if (r < 0 && view->what == VIEW_READ)
		memset(req->states, VOLUME_BLOCK_BAD, sizeof(req->states));
	req_end(view, r);
}

static void on_turn(struct io_op *op)
{
	view_step(container_of(op, struct volume_view, turn));
}

static void view_begin(struct volume_view_req *req, enum view_what what)
{
	struct volume_view *view = req->view;

	CHECK(!view->req && !view->opening);
	view->req = req;
	view->want_error = 0;
	view->what = what;
	view->base_at = 0;
	view->turn.done = on_turn;
	io_defer(view->volume->loop, &view->turn, 0);
}

void volume_view_next(struct volume_view_req *req)
{
	view_begin(req, VIEW_NEXT);
}

void volume_view_read(struct volume_view_req *req)
{
	view_begin(req, VIEW_READ);
}

void view_usage(struct volume_view_req *req)
{
	view_begin(req, VIEW_USAGE);
}
