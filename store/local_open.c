/* SPDX-License-Identifier: Apache-2.0
 *
 * Opening and formatting:
 *
 *   START -> WAIT_HEAD -+-> TAIL -> WAIT_TAIL -> WAIT_SIZE -> WAIT_SIZE_SYNC -+    (blank: format)
 *                       +-> SETTLE -> WAIT_SETTLED ---------------------------+-> WAIT_SUPER -+
 *                       +-> (read-only) ------------------------------------------------------+
 *             END <- WAIT_MENDED <- WAIT_OBJECTS <- WAIT_TABLES <- TABLES <--------------------+
 *
 * WAIT_SETTLED is a sync before the first write: the newest copies that a process left when it was
 * killed may so far live in the disk's cache only, and the next change overwrites the other copies.
 * WAIT_MENDED is for pages of the table that one copy alone knows: nothing is built on them before.
 * Formatting is the first write of the superblock: a power cut before it leaves a blank file, which
 * is formatted again, and one after it a store.
 */
#include "base/mem.h"
#include "base/size.h"
#include "store/local_load.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

enum open_state {
	OPEN_START,
	OPEN_WAIT_HEAD,
	OPEN_TAIL, /* blank so far */
	OPEN_WAIT_TAIL,
	OPEN_WAIT_SIZE,
	OPEN_WAIT_SIZE_SYNC,
	OPEN_SETTLE, /* a store */
	OPEN_WAIT_SETTLED,
	OPEN_WAIT_SUPER,
	OPEN_TABLES,
	OPEN_WAIT_TABLES,
	OPEN_WAIT_OBJECTS,
	OPEN_WAIT_MENDED,
	OPEN_END,
};

struct opening {
	enum open_state state;
	struct local *local;
	struct store_open *open;
	struct err *err;
	const char *path;
	struct io_op op;
	struct store_io sync;
	int result; /* of what was waited for */
	struct loader loader;
};

static void open_step(struct opening *o);
static int open_file(struct opening *o);
static void open_read(struct opening *o, uint64_t offset);
static int open_foreign(struct opening *o);
static enum open_state open_judge_head(struct opening *o);
static int super_choose(struct opening *o, const int errors[2], struct format_super supers[2]);
static int open_check_super(struct opening *o);
static uint64_t size_limit(const struct opening *o);
static int open_judge_tail(struct opening *o);
static void open_format(struct opening *o);
static int open_groups(struct opening *o);
static void open_on_op(struct io_op *op);
static void open_on_sync(struct store_io *io);
static void open_on_super(struct local *l, int error);
static void open_on_loaded(struct loader *ld);
static void open_end(struct opening *o);

void store_local_open(struct store_open *open)
{
	struct opening *o = mem_alloc(sizeof(*o));
	struct local *l = mem_alloc(sizeof(*l));

	open->err = (struct err){0};
	open->store = NULL;
	if (!o || !l) {
		mem_free(o);
		mem_free(l);
		err_set(&open->err, -ENOMEM, "store %s: out of memory", open->config.path);
		open->done(open);
		return;
	}
	o->local = l;
	o->open = open;
	o->err = &open->err;
	o->path = open->config.path;
	l->loop = open->loop;
	l->store.ops = &local_ops;
	l->read_only = open->config.read_only;
	l->opening = o;
	sync_init(l);
	o->op.done = open_on_op;
	o->sync.done = open_on_sync;
	io_defer(l->loop, &o->op, 0);
}

static void open_step(struct opening *o)
{
	struct local *l = o->local;

	if (o->result < 0 && !o->err->code)
		err_set(o->err, o->result, "store %s: can't be %s: %s", o->path,
			o->state <= OPEN_WAIT_TAIL ? "read" : "written", strerror(-o->result));
	for (;;) {
		if (o->err->code)
			o->state = OPEN_END;
		switch (o->state) {
		case OPEN_START:
			if (open_file(o) < 0)
				continue;
			o->state = OPEN_WAIT_HEAD;
			open_read(o, 0);
			return;
		case OPEN_WAIT_HEAD:
			o->state = open_judge_head(o);
			continue;
		case OPEN_TAIL:
			o->state = OPEN_WAIT_TAIL;
			open_read(o, round_down(l->file_info.size, FORMAT_PAGE) - FORMAT_HEAD_SIZE);
			return;
		case OPEN_WAIT_TAIL:
			if (open_judge_tail(o) < 0)
				continue;
			o->state = OPEN_WAIT_SIZE;
			open_format(o);
			return;
		case OPEN_WAIT_SIZE:
			o->state = OPEN_WAIT_SIZE_SYNC;
			local_sync(&l->store, l->loop, &o->sync);
			return;
		case OPEN_SETTLE:
			o->state = OPEN_WAIT_SETTLED;
			local_sync(&l->store, l->loop, &o->sync);
			return;
		case OPEN_WAIT_SIZE_SYNC:
		case OPEN_WAIT_SETTLED:
			o->state = OPEN_WAIT_SUPER;
			l->super.owner_term++;
			super_write(l, open_on_super);
			return;
		case OPEN_WAIT_SUPER:
		case OPEN_TABLES:
			if (open_groups(o) < 0)
				continue;
			o->state = OPEN_WAIT_TABLES;
			load_tables(&o->loader, open_on_loaded);
			return;
		case OPEN_WAIT_TABLES:
			if (load_settle_tables(l, o->path, o->err) < 0)
				continue;
			o->state = OPEN_WAIT_OBJECTS;
			load_objects(&o->loader, open_on_loaded);
			return;
		case OPEN_WAIT_OBJECTS:
			o->state = OPEN_WAIT_MENDED;
			table_kick(l);
			if (!table_is_quiet(l))
				return;
			continue;
		case OPEN_WAIT_MENDED:
		case OPEN_END:
			open_end(o);
			return;
		}
	}
}

/* ---- What is there ----------------------------------------------------------------------------
 */

static int open_file(struct opening *o)
{
	const struct store_local_config *c = &o->open->config;
	struct local *l = o->local;
	int flags =
	    c->read_only ? IO_OPEN_READ_ONLY : IO_OPEN_EXCLUSIVE | (c->create ? IO_OPEN_CREATE : 0);
	uint64_t segment_size = c->segment_size ? c->segment_size : 8 * MiB;

	if (segment_size < FORMAT_SEGMENT_SIZE_MIN || segment_size > FORMAT_SEGMENT_SIZE_MAX ||
	    segment_size % FORMAT_SEGMENT_SIZE_UNIT)
		return err_set(o->err, -EINVAL,
			       "store %s: the segment size must be a multiple of 1 MiB from 4 MiB "
			       "to 1 GiB",
			       o->path);
	l->super.segment_size = (uint32_t)segment_size;
	l->pool_segments = c->pool_segments ? c->pool_segments : LOCAL_POOL_SEGMENTS;
	if (io_file_open(o->path, flags, &l->file, o->err) < 0)
		return err_wrap(o->err, "store");
	io_file_info(l->file, &l->file_info);
	if (l->file_info.size > 0 && l->file_info.size < FORMAT_HEAD_SIZE)
		return err_set(o->err, -EMEDIUMTYPE,
			       "store %s: is not a volumed store: it is too short for one, and not "
			       "empty; nothing was changed. Give another path, or remove it if "
			       "nobody needs it",
			       o->path);
	if (loader_init(&o->loader, l) < 0 || super_init(l) < 0)
		return err_set(o->err, -ENOMEM, "store %s: out of memory", o->path);
	return 0;
}

static void open_read(struct opening *o, uint64_t offset)
{
	if (o->local->file_info.size == 0)
		io_defer(o->local->loop, &o->op, 0);
	else
		io_read(o->local->loop, &o->op, o->local->file, o->loader.readers[0].buffer,
			FORMAT_HEAD_SIZE, offset);
}

static int open_foreign(struct opening *o)
{
	return err_set(
	    o->err, -EMEDIUMTYPE,
	    "store %s: is not a volumed store: it holds bytes of something else; nothing "
	    "was changed. Give another path, or clear it (wipefs) if nobody needs it",
	    o->path);
}

/* What to do now. */
static enum open_state open_judge_head(struct opening *o)
{
	const uint8_t *head = o->loader.readers[0].buffer;
	struct format_super supers[2];
	int errors[2];

	/* The buffer of an empty file was never read into. */
	if (format_is_zero(head, FORMAT_HEAD_SIZE)) {
		if (o->open->config.create && !o->local->read_only)
			return OPEN_TAIL;
		err_set(o->err, -EMEDIUMTYPE, "store %s: is blank: no store was made there yet",
			o->path);
		return OPEN_END;
	}
	for (unsigned copy = 0; copy < 2; copy++)
		errors[copy] =
		    format_super_decode(head + copy * FORMAT_SUPER_DISTANCE, &supers[copy]);
	if (super_choose(o, errors, supers) < 0 || open_check_super(o) < 0)
		return OPEN_END;
	return o->local->read_only ? OPEN_TABLES : OPEN_SETTLE;
}

static int super_choose(struct opening *o, const int errors[2], struct format_super supers[2])
{
	struct local *l = o->local;
	unsigned best = 0;

	if (errors[0] == -ENOTSUP || errors[1] == -ENOTSUP)
		return err_set(o->err, -ENOTSUP,
			       "store %s: has a format newer than this program's (version %d) or "
			       "needs features that it lacks; use the program that wrote it",
			       o->path, FORMAT_VERSION);
	if (errors[0] < 0 && errors[1] < 0) {
		if (errors[0] != -EUCLEAN && errors[1] != -EUCLEAN)
			return open_foreign(o);
		return err_set(o->err, -EUCLEAN,
			       "store %s: no copy of its superblock is whole; look at the disk's "
			       "health, and bring the file back from a copy",
			       o->path);
	}
	if (errors[0] < 0 || (errors[1] == 0 && supers[1].sequence > supers[0].sequence))
		best = 1;
	if (errors[0] == 0 && errors[1] == 0 && !id_equal(supers[0].uuid, supers[1].uuid))
		return err_set(o->err, -EUCLEAN,
			       "store %s: the two copies of its superblock belong to different "
			       "stores",
			       o->path);
	for (unsigned copy = 0; copy < 2; copy++) {
		/* The creation may have been cut short after its first copy. */
		bool never_written = errors[copy] == -ENODATA && supers[best].sequence == 1;

		if (errors[copy] < 0 && !never_written)
			local_find(l, FINDING_SUPER, copy, 0, 0);
	}
	l->super = supers[best];
	l->super_newest = best;
	return 0;
}

static int open_check_super(struct opening *o)
{
	const struct format_super *s = &o->local->super;
	const struct io_file_info *info = &o->local->file_info;

	if ((s->features_read_only & ~(uint64_t)FORMAT_FEATURES_READ_ONLY) && !o->local->read_only)
		return err_set(o->err, -ENOTSUP,
			       "store %s: uses features that this program lacks, and can only be "
			       "read by it (volumed --check); use the program that wrote it",
			       o->path);
	if (info->alignment > s->alignment)
		return err_set(o->err, -EINVAL,
			       "store %s: was made on a disk with sectors of %" PRIu32
			       " bytes, and here they are of %" PRIu32
			       "; put it on a disk like the first",
			       o->path, s->alignment, info->alignment);
	if (s->groups > 0 &&
	    info->size < format_group_offset(s->segment_size, s->groups - 1) + FORMAT_GROUP_HEAD)
		return err_set(o->err, -EUCLEAN,
			       "store %s: was cut off: it is %" PRIu64
			       " bytes long, and has %" PRIu64
			       " groups of segments; bring the file back from a copy",
			       o->path, info->size, s->groups);
	return 0;
}

/* What the segments must lie below. */
static uint64_t size_limit(const struct opening *o)
{
	uint64_t max = o->open->config.max_size ? o->open->config.max_size : UINT64_MAX;

	return o->local->file_info.is_device ? min_u64(max, o->local->file_info.size) : max;
}

/* Some file systems and arrays keep their label at the end. */
static int open_judge_tail(struct opening *o)
{
	struct local *l = o->local;
	char text[SIZE_TEXT_MAX];

	if (format_segments_in(l->super.segment_size, size_limit(o)) == 0)
		return err_set(o->err, -EINVAL, "store %s: is too small for a store: give it %s",
			       o->path,
			       size_format(format_segment_offset(l->super.segment_size, 2), text));
	if (!format_is_zero(o->loader.readers[0].buffer, FORMAT_HEAD_SIZE))
		return open_foreign(o);
	return 0;
}

/* ---- Formatting, and the numbers of the store -------------------------------------------------
 */

static void open_format(struct opening *o)
{
	struct local *l = o->local;
	uint64_t random[2];

	io_random(l->loop, random, sizeof(random));
	l->super.uuid = (struct id){.hi = random[0] | 1, .lo = random[1]};
	/* A file system serialises direct writes that are not whole blocks of its own, at a cost of
	 * tens of times; a device takes its sectors as they come. */
	l->super.alignment = l->file_info.is_device ? l->file_info.alignment : FILE_SYSTEM_BLOCK;
	l->super.made_at = io_wall_clock(l->loop);
	l->super_newest = 0;
	if (l->file_info.is_device)
		io_defer(l->loop, &o->op, 0);
	else
		io_grow(l->loop, &o->op, l->file, FORMAT_HEAD_SIZE);
}

/* Room for the groups, empty, and the numbers that all of the store goes by. */
static int open_groups(struct opening *o)
{
	struct local *l = o->local;
	struct store_info *info = &l->store.info;

	l->n_possible = format_segments_in(l->super.segment_size, size_limit(o));
	*info = (struct store_info){
	    .uuid = l->super.uuid,
	    .owner_term = l->super.owner_term,
	    .alignment = l->super.alignment,
	    .segment_size = l->super.segment_size,
	    .capacity = l->n_possible * l->super.segment_size,
	    .direct = l->file_info.direct,
	};
	if (table_init(l) < 0 || space_init(l) < 0 || object_init(l) < 0)
		return err_set(o->err, -ENOMEM, "store %s: out of memory", o->path);
	for (uint64_t i = 0; i < l->super.groups; i++) {
		struct group *group = group_new(i);

		if (!group || table_reserve_group(l) < 0) {
			mem_free(group);
			return err_set(o->err, -ENOMEM, "store %s: out of memory", o->path);
		}
		table_add_group(l, group);
	}
	return 0;
}

/* ---- Waking up --------------------------------------------------------------------------------
 */

static void open_on_op(struct io_op *op)
{
	struct opening *o = container_of(op, struct opening, op);

	o->result = op->result < 0 ? (int)op->result : 0;
	open_step(o);
}

static void open_on_sync(struct store_io *io)
{
	struct opening *o = container_of(io, struct opening, sync);

	o->result = io->result < 0 ? (int)io->result : 0;
	open_step(o);
}

static void open_on_super(struct local *l, int error)
{
	l->opening->result = error;
	open_step(l->opening);
}

static void open_on_loaded(struct loader *ld)
{
	struct opening *o = container_of(ld, struct opening, loader);

	if (ld->error)
		err_set(o->err, ld->error, "store %s: out of memory", o->path);
	open_step(o);
}

void open_on_table(struct local *l)
{
	if (l->opening->state == OPEN_WAIT_MENDED)
		open_step(l->opening);
}

/* Of what the file system has, too: it may be much smaller than what is possible. */
static void open_reserve(struct local *l)
{
	uint64_t capacity = 0;
	uint64_t left = 0;

	l->store.ops->space(&l->store, &capacity, &left);
	l->reserve = capacity / l->super.segment_size;
	l->reserve = max_u64(min_u64(LOCAL_RESERVE_MIN, l->reserve / 8),
			     min_u64(LOCAL_RESERVE_MAX, l->reserve / 256));
	l->store.info.reserve = l->reserve * l->super.segment_size;
	/* What is backed for the reserve must not be punched again. */
	if (l->pool_segments < l->reserve)
		l->pool_segments = (uint32_t)l->reserve;
}

static void open_end(struct opening *o)
{
	struct store_open *open = o->open;
	struct local *l = o->local;

	l->opening = NULL;
	loader_destroy(&o->loader);
	mem_free(o);
	if (open->err.code) {
		local_destroy(l);
	} else {
		open->store = &l->store;
		open_reserve(l);
		if (!l->read_only) {
			space_punch(l);
			object_mend(l);
		}
	}
	open->done(open);
}
