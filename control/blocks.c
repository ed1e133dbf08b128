/* SPDX-License-Identifier: Apache-2.0
 *
 * The blocks of completed snapshots, as the EBS direct APIs show them: which there are, in which
 * two snapshots differ (no data is read for either), and what is in one.
 *
 *     LINE -> OPEN -> WAIT_OPEN -> [OPEN -> WAIT_OPEN] -> WALK -> WAIT_WALK -> [READ -> WAIT_READ]
 *          -> CLOSE -> [WAIT_AGAIN] -> END
 *
 * Nothing is held meanwhile: what fails since somebody has deleted the snapshot is found out
 * afterwards, and said so. A few are at work, the others in line, whatever clients ask for.
 */
#include "base/base64.h"
#include "base/mem.h"
#include "control/snapshot.h"
#include "snapshots/reader.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define AT_WORK_MAX 8 /* each takes about 2 MiB */

enum blocks_state {
	BLOCKS_LINE,
	BLOCKS_OPEN,
	BLOCKS_WAIT_OPEN,
	BLOCKS_WALK,
	BLOCKS_WAIT_WALK,
	BLOCKS_READ,
	BLOCKS_WAIT_READ,
	BLOCKS_CLOSE,
	BLOCKS_WAIT_AGAIN,
	BLOCKS_END,
};

/* The snapshot that is listed or read, and the older one that it is compared to. */
enum side { SECOND, FIRST, SIDES };

/* t->private. */
struct block_reading {
	struct task *task;
	struct list link; /* control->block_line */
	unsigned opening; /* the side that is, or is opened next */
	unsigned n_sides;
	struct id id[SIDES];
	uint64_t from;
	struct snap_reader_config config;
	struct snap_reader_op open;
	struct snap_reader *reader[SIDES];
	struct snap_walk walk;
	struct snap_block *blocks;
	struct snap_read read;
	uint8_t *data;
	unsigned asked; /* WAIT_AGAIN: about which side */
	struct repository_op again;
	struct snap_info info;
};

static void blocks_step(struct task *t);
static void on_reader(struct snap_reader_op *op);
static void on_walk(struct snap_walk *walk);
static void on_read(struct snap_read *read);
static void on_again(struct repository_op *op);

/* ---- Arguments ------------------------------------------------------------------------------- */

/* Of a page token: what must not change from page to page. */
static int token_head(const struct block_reading *b, char *text, size_t size)
{
	char first[ID_TEXT_MAX] = "list";
	char second[ID_TEXT_MAX];

	if (b->n_sides == SIDES)
		id_format(b->id[FIRST], CATALOG_SNAPSHOT_PREFIX, first);
	return snprintf(text, size, "%s.%s.",
			id_format(b->id[SECOND], CATALOG_SNAPSHOT_PREFIX, second), first);
}

static int parse_token(struct block_reading *b, const char *token, struct control_error *error)
{
	char head[2 * ID_TEXT_MAX + 4];
	size_t len = (size_t)token_head(b, head, sizeof(head));
	const char *digits = token + len;

	if (strncmp(token, head, len) != 0 || strspn(digits, "0123456789") != strlen(digits) ||
	    !*digits || strlen(digits) > 12)
		return control_fail(error, "InvalidParameterValue", -EINVAL,
				    "next_token: '%.64s' is not of this list", token);
	b->from = strtoull(digits, NULL, 10);
	return 0;
}

static int parse_list(struct block_reading *b, struct control_op *op)
{
	const char *token = op->blocks.next_token;

	if (op->kind == CONTROL_SNAPSHOT_CHANGED) {
		b->n_sides = SIDES;
		if (args_snapshot_id(op->blocks.first, &b->id[FIRST], &op->error) < 0)
			return -EINVAL;
	}
	if (op->blocks.max_results > CONTROL_PAGE_MAX)
		return control_fail(&op->error, "InvalidParameterValue", -EINVAL,
				    "max_results: at most %d in one call", CONTROL_PAGE_MAX);
	if (token && op->blocks.from)
		return control_fail(&op->error, "InvalidParameterCombination", -EINVAL,
				    "from and next_token exclude each other");
	b->from = op->blocks.from;
	return token ? parse_token(b, token, &op->error) : 0;
}

static int parse(struct control *c, struct block_reading *b, struct control_op *op)
{
	bool is_list = op->kind != CONTROL_SNAPSHOT_BLOCK;

	b->n_sides = 1;
	b->from = is_list ? 0 : op->block.index;
	if (args_snapshot_id(is_list ? op->blocks.snapshot : op->block.snapshot, &b->id[SECOND],
			     &op->error) < 0)
		return -EINVAL;
	if (is_list && parse_list(b, op) < 0)
		return -EINVAL;
	return snapshot_check_repository(c, &op->error);
}

/* What the operation will need of memory. */
static int make_room(struct block_reading *b, struct control_op *op)
{
	bool is_list = op->kind != CONTROL_SNAPSHOT_BLOCK;

	b->walk.max = !is_list                 ? 1
		      : op->blocks.max_results ? (uint32_t)op->blocks.max_results
					       : CONTROL_PAGE_MAX;
	b->walk.blocks = b->blocks = arena_calloc(&op->memory, b->walk.max, sizeof(*b->blocks));
	op->result.blocks = arena_calloc(&op->memory, 1, sizeof(*op->result.blocks));
	return b->blocks && op->result.blocks ? 0 : -ENOMEM;
}

void control_snapshot_blocks(struct control *c, struct control_op *op)
{
	struct block_reading *b = mem_alloc(sizeof(*b));
	struct task *t = NULL;

	if (b && parse(c, b, op) == 0 && make_room(b, op) == 0)
		t = task_new(c, op, blocks_step);
	if (!t) {
		if (!op->error.code)
			control_fail(&op->error, "InternalError", -ENOMEM, "out of memory");
		mem_free(b);
		control_finish(c, op);
		return;
	}
	b->task = t;
	t->private = b;
	list_add_tail(&c->block_line, &b->link);
	if (c->n_block_readings < AT_WORK_MAX)
		blocks_step(t);
}

/* ---- Opening --------------------------------------------------------------------------------- */

static void fail_open(struct block_reading *b, unsigned side)
{
	const struct snap_reader_op *op = &b->open;
	struct control_error *error = &b->task->error;
	char id[ID_TEXT_MAX];

	id_format(b->id[side], CATALOG_SNAPSHOT_PREFIX, id);
	if (op->error == -ENOENT)
		control_fail(error, "InvalidSnapshot.NotFound", -ENOENT,
			     "There is no completed snapshot '%s'.", id);
	else if (op->error == -EAGAIN)
		control_fail(error, "IncorrectState", -EAGAIN,
			     "Snapshot '%s' is pending; its blocks can be read when it is "
			     "completed.",
			     id);
	else
		control_fail_from(error, &op->err);
}

/* A volume's snapshots are of one lineage; so are a snapshot and the one that it was based on. */
static bool are_related(const struct snap_info *a, const struct snap_info *b)
{
	if (!id_is_zero(a->volume) && id_equal(a->volume, b->volume))
		return true;
	return id_equal(a->parent, b->id) || id_equal(b->parent, a->id) || id_equal(a->id, b->id);
}

static int check_pair(struct block_reading *b)
{
	const struct snap_info *first = snap_reader_info(b->reader[FIRST]);
	const struct snap_info *second = snap_reader_info(b->reader[SECOND]);
	struct control_error *error = &b->task->error;
	char first_id[ID_TEXT_MAX], second_id[ID_TEXT_MAX];

	id_format(first->id, CATALOG_SNAPSHOT_PREFIX, first_id);
	id_format(second->id, CATALOG_SNAPSHOT_PREFIX, second_id);
	if (!are_related(first, second))
		return control_fail(error, "InvalidParameterValue", -EINVAL,
				    "The snapshots are not related: '%s' and '%s' are neither of "
				    "one volume, nor is one the other's parent.",
				    first_id, second_id);
	if (first->size > second->size)
		return control_fail(error, "InvalidParameterValue", -EINVAL,
				    "Snapshot '%s' (%" PRIu64
				    " bytes) is larger than '%s' (%" PRIu64
				    "), and volumes only grow: name the older one first.",
				    first_id, first->size, second_id, second->size);
	return 0;
}

static int check_index(struct block_reading *b)
{
	const struct snap_info *info = snap_reader_info(b->reader[SECOND]);
	uint64_t n = (info->size + SNAP_BLOCK - 1) / SNAP_BLOCK;

	if (b->task->op->kind != CONTROL_SNAPSHOT_BLOCK || b->from < n)
		return 0;
	return control_fail(&b->task->error, "InvalidParameterValue", -EINVAL,
			    "index: block %" PRIu64
			    " is beyond the snapshot's size: it has %" PRIu64 " blocks of 512 KiB",
			    b->from, n);
}

static void opened(struct block_reading *b)
{
	struct task *t = b->task;

	t->state = BLOCKS_CLOSE;
	if (b->open.error) {
		fail_open(b, b->opening);
		return;
	}
	b->reader[b->opening] = b->open.reader;
	if (++b->opening < b->n_sides)
		t->state = BLOCKS_OPEN;
	else if (check_index(b) == 0 && (b->n_sides == 1 || check_pair(b) == 0))
		t->state = BLOCKS_WALK;
}

static void open_next(struct block_reading *b)
{
	struct control *c = b->task->control;

	b->task->state = BLOCKS_WAIT_OPEN;
	b->config = (struct snap_reader_config){.id = b->id[b->opening], .reads = 1};
	b->open = (struct snap_reader_op){.done = on_reader};
	snap_reader_open(c->config.repository, c->loop, &b->config, &b->open);
}

static void on_reader(struct snap_reader_op *op)
{
	blocks_step(container_of(op, struct block_reading, open)->task);
}

/* ---- Lists ----------------------------------------------------------------------------------- */

static void walk(struct block_reading *b)
{
	b->task->state = BLOCKS_WAIT_WALK;
	b->walk.done = on_walk;
	b->walk.next = b->from;
	if (b->n_sides == SIDES)
		snap_compare(b->reader[FIRST], b->reader[SECOND], &b->walk);
	else
		snap_list_blocks(b->reader[SECOND], &b->walk);
}

static void on_walk(struct snap_walk *w)
{
	blocks_step(container_of(w, struct block_reading, walk)->task);
}

static const char *checksum(struct arena *memory, bool is_there, const uint8_t hash[SNAP_HASH])
{
	char text[BASE64_TEXT(SNAP_HASH)];

	return is_there ? arena_text(memory, base64_encode(hash, SNAP_HASH, text)) : NULL;
}

static int describe(struct arena *memory, const struct snap_block *s, struct control_block *ret_b)
{
	ret_b->index = s->block;
	ret_b->first = checksum(memory, s->in_first, s->first_hash);
	ret_b->second = checksum(memory, s->in_second, s->second_hash);
	return !ret_b->first == s->in_first || !ret_b->second == s->in_second ? -ENOMEM : 0;
}

static int describe_all(struct block_reading *b)
{
	struct control_op *op = b->task->op;
	struct control_blocks *r = op->result.blocks;
	char text[2 * ID_TEXT_MAX + 32];
	int len;

	r->size = snap_reader_info(b->reader[SECOND])->size;
	r->first_size = b->n_sides == SIDES ? snap_reader_info(b->reader[FIRST])->size : 0;
	r->block_size = SNAP_BLOCK;
	r->blocks = arena_calloc(&op->memory, b->walk.n + 1, sizeof(*r->blocks));
	if (!r->blocks)
		return -ENOMEM;
	for (uint32_t i = 0; i < b->walk.n; i++)
		if (describe(&op->memory, &b->blocks[i], &r->blocks[i]) < 0)
			return -ENOMEM;
	op->n_items = b->walk.n;
	if (op->kind == CONTROL_SNAPSHOT_BLOCK || b->walk.next == UINT64_MAX)
		return 0;
	len = token_head(b, text, sizeof(text));
	snprintf(text + len, sizeof(text) - (size_t)len, "%" PRIu64, b->walk.next);
	op->next_token = arena_text(&op->memory, text);
	return op->next_token ? 0 : -ENOMEM;
}

static void walked(struct block_reading *b)
{
	struct task *t = b->task;

	t->state = BLOCKS_CLOSE;
	if (b->walk.error)
		control_fail_from(&t->error, &b->walk.err);
	else if (describe_all(b) < 0)
		control_fail(&t->error, "InternalError", -ENOMEM, "out of memory");
	else if (t->op->kind == CONTROL_SNAPSHOT_BLOCK)
		t->state = BLOCKS_READ;
}

/* ---- One block ------------------------------------------------------------------------------- */

/* False: there is nothing to read. */
static bool read_begin(struct block_reading *b)
{
	struct task *t = b->task;
	struct control_blocks *r = t->op->result.blocks;
	char id[ID_TEXT_MAX];

	t->state = BLOCKS_CLOSE;
	if (b->walk.n == 0 || b->blocks[0].block != b->from) {
		control_fail(&t->error, "InvalidBlock.NotFound", -ENOENT,
			     "Snapshot '%s' holds nothing in block %" PRIu64
			     ": it reads as zeroes. The list of its blocks says what it holds.",
			     id_format(b->id[SECOND], CATALOG_SNAPSHOT_PREFIX, id), b->from);
		return false;
	}
	b->data = arena_alloc(&t->op->memory, SNAP_BLOCK);
	if (!b->data) {
		control_fail(&t->error, "InternalError", -ENOMEM, "out of memory");
		return false;
	}
	r->data = b->data;
	t->state = BLOCKS_WAIT_READ;
	b->read.done = on_read;
	snap_read(b->reader[SECOND], &b->read, b->data, b->from * SNAP_BLOCK, SNAP_BLOCK);
	return true;
}

static void on_read(struct snap_read *read)
{
	blocks_step(container_of(read, struct block_reading, read)->task);
}

static void was_read(struct block_reading *b)
{
	b->task->state = BLOCKS_CLOSE;
	if (b->read.error)
		control_fail_from(&b->task->error, &b->read.err);
}

/* ---- The end --------------------------------------------------------------------------------- */

static void close_readers(struct block_reading *b)
{
	for (unsigned i = 0; i < SIDES; i++) {
		snap_reader_close(b->reader[i]);
		b->reader[i] = NULL;
	}
}

/* What could not be read may have been deleted meanwhile. True: asleep. */
static bool ask_again(struct block_reading *b)
{
	struct task *t = b->task;
	struct control *c = t->control;

	t->state = BLOCKS_END;
	if ((t->error.err != -EIO && t->error.err != -EBADMSG) || b->asked == b->n_sides)
		return false;
	t->state = BLOCKS_WAIT_AGAIN;
	b->again = (struct repository_op){.done = on_again};
	snap_get(c->config.repository, c->loop, &b->again, b->id[b->asked++], &b->info);
	return true;
}

static void on_again(struct repository_op *op)
{
	struct block_reading *b = container_of(op, struct block_reading, again);
	struct task *t = b->task;
	char id[ID_TEXT_MAX];

	if (op->error == -ENOENT)
		control_fail(&t->error, "InvalidSnapshot.NotFound", -ENOENT,
			     "Snapshot '%s' was deleted while it was read.",
			     id_format(b->id[b->asked - 1], CATALOG_SNAPSHOT_PREFIX, id));
	blocks_step(t);
}

static void blocks_end(struct block_reading *b)
{
	struct task *t = b->task;
	struct control *c = t->control;
	struct list *next;

	mem_free(b);
	c->n_block_readings--;
	next = list_empty(&c->block_line) ? NULL : c->block_line.next;
	task_end(t);
	if (next)
		blocks_step(list_entry(next, struct block_reading, link)->task);
}

static void blocks_step(struct task *t)
{
	struct block_reading *b = t->private;

	for (;;) {
		switch ((enum blocks_state)t->state) {
		case BLOCKS_LINE:
			list_remove(&b->link);
			t->control->n_block_readings++;
			t->state = BLOCKS_OPEN;
			continue;
		case BLOCKS_OPEN:
			open_next(b);
			return;
		case BLOCKS_WAIT_OPEN:
			opened(b);
			continue;
		case BLOCKS_WALK:
			walk(b);
			return;
		case BLOCKS_WAIT_WALK:
			walked(b);
			continue;
		case BLOCKS_READ:
			if (read_begin(b))
				return;
			continue;
		case BLOCKS_WAIT_READ:
			was_read(b);
			continue;
		case BLOCKS_CLOSE:
		case BLOCKS_WAIT_AGAIN:
			close_readers(b);
			if (ask_again(b))
				return;
			continue;
		case BLOCKS_END:
			blocks_end(b);
			return;
		}
	}
}
