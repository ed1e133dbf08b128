/* SPDX-License-Identifier: Apache-2.0
 *
 * How a checkpoint's blobs get to the map stream: packed one after the other into buffers, two of
 * which take turns.
 */
#include "base/check.h"
#include "base/util.h"
#include "engine/checkpoint.h"

#include <errno.h>
#include <string.h>

static void out_on_append(struct device_io *io);

struct checkpoint *checkpoint_new(struct volume *v)
{
	struct checkpoint *c = mem_alloc(sizeof(*c));

	if (!c)
		return NULL;
	c->volume = v;
	list_init(&c->waits);
	c->leaves = mem_alloc_pages(MERGE_AHEAD * sizeof(c->leaves[0]));
	for (int i = 0; i < OUT_BUFFERS; i++) {
		struct map_out *out = &c->outs[i];

		out->checkpoint = c;
		out->size = v->engine->config.map_out_bytes;
		out->buf = mem_alloc_pages(out->size);
		if (!out->buf || !c->leaves) {
			checkpoint_free(c);
			return NULL;
		}
	}
	return c;
}

void checkpoint_free(struct checkpoint *c)
{
	CHECK(!c->page);
	for (int i = 0; i < OUT_BUFFERS; i++) {
		CHECK(!c->outs[i].busy);
		mem_free_pages(c->outs[i].buf, c->outs[i].size);
	}
	mem_free_pages(c->leaves, MERGE_AHEAD * sizeof(c->leaves[0]));
	mem_free(c->before);
	mem_free(c->sorted);
	mem_free(c);
}

const uint8_t *checkpoint_out_find(const struct volume *v, const struct blob_ref *ref)
{
	for (int i = 0; v->checkpoint && i < OUT_BUFFERS; i++) {
		const struct map_out *out = &v->checkpoint->outs[i];

		if ((out->busy || out == v->checkpoint->out) && out->segment->id == ref->segment &&
		    ref->offset >= out->offset &&
		    (uint64_t)ref->offset + ref->length <= (uint64_t)out->offset + out->used)
			return out->buf + (ref->offset - out->offset);
	}
	return NULL;
}

/* The map stream's head, with room for len bytes; NULL: asleep. */
static struct segment *out_segment(struct checkpoint *c, size_t len)
{
	struct volume *v = c->volume;

	if (v->map_head && v->map_head->tail + len + 2 * 4096 <= v->store->info.segment_size)
		return v->map_head;
	if (v->map_head) {
		v->map_head->state = SEGMENT_CLOSED;
		v->map_head = NULL;
	}
	v->map_head = segments_take(v, STORE_STREAM_MAP);
	if (!v->map_head)
		c->wants_space = true;
	return v->map_head;
}

static bool out_begin(struct checkpoint *c, size_t len)
{
	struct map_out *out = NULL;
	struct segment *segment = out_segment(c, len);

	if (!segment)
		return false;
	for (int i = 0; !out && i < OUT_BUFFERS; i++)
		if (!c->outs[i].busy)
			out = &c->outs[i];
	if (!out)
		return false; /* an append will wake us */
	if (len > out->size) {
		uint8_t *buf = mem_alloc_pages(len);

		if (!buf) {
			c->wants_space = true;
			volume_fail(c->volume, -ENOMEM);
			return false;
		}
		mem_free_pages(out->buf, out->size);
		out->buf = buf;
		out->size = round_up(len, 4096);
	}
	out->used = 0;
	out->segment = segment;
	out->offset = segment->tail;
	c->out = out;
	return true;
}

uint8_t *checkpoint_out(struct checkpoint *c, size_t len)
{
	struct map_out *out = c->out;

	if (out && (out->used + len > out->size - 4096 ||
		    out->offset + out->used + len + 2 * 4096 > c->volume->store->info.segment_size))
		checkpoint_out_flush(c);
	if (!c->out && !out_begin(c, len))
		return NULL;
	return c->out->buf + c->out->used;
}

void checkpoint_out_done(struct checkpoint *c, struct blob_ref *ref, struct blob_ref *old, bool own)
{
	struct volume *v = c->volume;
	struct map_out *out = c->out;
	uint32_t padded = (uint32_t)round_up(ref->length, BLOB_ALIGN);

	ref->segment = out->segment->id;
	ref->offset = out->offset + out->used;
	memset(out->buf + out->used + ref->length, 0, padded - ref->length);
	out->used += padded;
	if (old->length)
		segments_live_map(v, old->segment, -(int64_t)old->length, own);
	segments_live_map(v, ref->segment, ref->length, own);
	*old = *ref;
}

void checkpoint_out_flush(struct checkpoint *c)
{
	struct volume *v = c->volume;
	struct map_out *out = c->out;
	uint32_t padded;

	if (!out)
		return;
	padded = (uint32_t)round_up(out->used, v->store->info.alignment);
	memset(out->buf + out->used, 0, padded - out->used);
	out->segment->tail += padded;
	v->stats.map_bytes += padded;
	out->segment->users++;
	out->busy = true;
	out->iov.iov_base = out->buf;
	out->iov.iov_len = padded;
	out->io.done = out_on_append;
	c->out = NULL;
	c->n_appends++;
	device_append(v, &out->io, VOLUME_IO_CHECKPOINT, out->segment->id, out->offset, &out->iov,
		      1);
}

static void out_on_append(struct device_io *io)
{
	struct map_out *out = container_of(io, struct map_out, io);
	struct checkpoint *c = out->checkpoint;

	out->busy = false;
	out->segment->users--;
	c->n_appends--;
	if (io->result < 0) {
		volume_fail(c->volume, (int)io->result);
		merge_revert(c); /* at once: nobody may look for what is not there */
	}
	checkpoint_kick(c);
}
