/* SPDX-License-Identifier: Apache-2.0
 *
 * The last of garbage collection's steps: the log is told where blocks have gone. See gc.c.
 */
#include "engine/gc.h"

#include "base/util.h"

static void drop(struct gc_block *b)
{
	b->to->pending--;
	b->to = NULL;
}

/* Gathers [moved, next) for a MOVE: what lives still. The rest is dropped. */
static int gc_gather(struct gc *g, uint32_t *ret_n)
{
	*ret_n = 0;
	for (uint32_t i = g->moved; i < g->next; i++)
		*ret_n += g->blocks[i].to != NULL;
	for (uint32_t looks = 0; g->next < g->n_blocks && *ret_n < MOVE_BLOCKS; g->next++) {
		struct gc_block *b = &g->blocks[g->next];
		int r;

		if (!b->to)
			continue;
		if (++looks > LOOKS) {
			gc_rest(g, 0);
			return 1;
		}
		r = gc_is_live(g, b);
		if (r < 0)
			return 1;
		if (r == 0)
			drop(b);
		else
			++*ret_n;
	}
	return 0;
}

int gc_move(struct gc *g)
{
	struct volume *v = g->volume;
	struct op *op;
	uint32_t n;

	if (v->n_cutting > 0) { /* look behind the cut, not before it */
		gc_rest(g, NSEC_PER_MSEC);
		return 1;
	}
	v->moving = true;
	if (gc_gather(g, &n))
		return 1;
	if (n == 0) {
		g->victim->moved_out = true;
		g->victim->confirmed = g->whole && !g->victim->stuck;
		g->state = GC_END;
		return 0;
	}
	op = op_get(v, OP_MOVE);
	if (!op) {
		gc_rest(g, NSEC_PER_MSEC);
		return 1;
	}
	op->gc = g;
	g->state = GC_WAIT_MOVE;
	/* Ahead of writes, which may wait for the space that this makes. */
	list_add_head(&v->write_queue, &op->link);
	volume_kick(v);
	return 1;
}

bool gc_retract(struct volume *v)
{
	struct gc *g = v->engine->gc;

	list_for_each_safe (&v->write_queue, node) {
		struct op *op = list_entry(node, struct op, link);

		if (op->kind != OP_MOVE)
			continue;
		list_remove(&op->link);
		op_put(op);
		g->next = g->moved;
		v->moving = false;
		g->state = GC_MOVE;
		gc_rest(g, NSEC_PER_MSEC);
		return true;
	}
	return false;
}

void gc_bar(struct volume *v)
{
	struct gc *g = v->engine->gc;

	if (v->moving && !gc_retract(v) && g->state == GC_MOVE)
		g->next = g->moved; /* it is being looked up, and asleep */
}

void gc_on_moved(struct gc *g, int error)
{
	struct volume *v = g->volume;

	uint64_t bytes = 0;

	if (error)
		g->broken = true;
	for (; g->moved < g->next; g->moved++) {
		if (!g->blocks[g->moved].to)
			continue;
		drop(&g->blocks[g->moved]);
		bytes += BLOCK_SIZE;
	}
	gc_pace(g, bytes, g->live);
	v->moving = false;
	checkpoint_resume(v);
	g->state = GC_MOVE;
	gc_rest(g, 0);
}

/* Whether b goes on where the run ends, in all three places. */
static bool run_goes_on(const struct run *run, const struct gc_block *b)
{
	uint32_t sectors = (uint32_t)run->blocks * (BLOCK_SIZE / BLOCK_SECTOR);

	return run->lba + run->blocks == b->lba && run->stored + sectors == b->from &&
	       run->argument == b->to->id && run->payload_offset + sectors == b->to_offset;
}

static struct run run_of(const struct gc *g, const struct gc_block *b)
{
	return (struct run){.lba = b->lba,
			    .blocks = 1,
			    .type = RUN_MOVE,
			    .flags = RUN_MUST_UNDERSTAND,
			    .payload_offset = b->to_offset,
			    .stored = b->from,
			    .nonce = g->victim->id,
			    .argument = b->to->id};
}

/* Walks the runs of [moved, next); `runs` and `sums` may be NULL: only counted. */
static uint32_t move_walk(const struct gc *g, struct run *runs, uint32_t *sums, uint32_t *ret_sums)
{
	struct run run = {0};
	uint32_t n_runs = 0;

	*ret_sums = 0;
	for (uint32_t i = g->moved; i < g->next; i++) {
		const struct gc_block *b = &g->blocks[i];

		if (!b->to)
			continue;
		if (n_runs > 0 && run_goes_on(&run, b)) {
			run.blocks++;
		} else {
			run = run_of(g, b);
			n_runs++;
		}
		if (runs)
			runs[n_runs - 1] = run;
		if (sums)
			sums[*ret_sums] = b->sum;
		++*ret_sums;
	}
	return n_runs;
}

uint32_t gc_move_size(const struct gc *g, uint32_t *ret_sums)
{
	return move_walk(g, NULL, NULL, ret_sums);
}

void gc_move_fill(const struct gc *g, struct run *runs, uint32_t *sums)
{
	uint32_t n;

	move_walk(g, runs, sums, &n);
}
