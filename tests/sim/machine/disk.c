/* SPDX-License-Identifier: Apache-2.0
 *
 * The fake disk. Files are names in one flat space; they outlive lives. Its fault model:
 *
 *  - Operations complete in any order, after latencies by seed. Of writes that overlap and are in
 *    flight together, the last to complete is seen by live readers.
 *  - A read that races a write sees the old or the new bytes, sector by sector (512 bytes).
 *  - A write, punch or growth that completed is seen by every reader, and survives the death of the
 *    process. It is durable once a sync succeeded that was submitted after it completed.
 *  - At a power cut each change that is not durable, in flight ones included, is kept, dropped or
 *    torn by sectors, and several changes of one sector take effect in any order: an older one may
 *    be kept where a newer is dropped. The growth of a file may be lost, and the data with it; or
 *    kept, and the data lost (zeroes).
 *  - At the death of the process what is in flight is kept, dropped or torn; the rest stays.
 *  - A file's name is durable when io_file_open has made it.
 *  - A failed sync leaves each of the changes that it covered durable in part, still waiting for a
 *    later sync, or forgotten: readers see it until the power goes, and no later sync, successful
 * as it may be, makes it durable. That is what Linux does.
 *  - A failed write may have changed some of its sectors.
 *  - By option or hook: errors, latency spikes, operations that never complete, writes that are
 * lost or land elsewhere, syncs that lie, no space for growth. By call: flipped bits.
 */
#include "tests/sim/machine/platter.h"

#include "base/check.h"
#include "base/mem.h"

#include <errno.h>
#include <string.h>

#define NEVER UINT64_MAX

struct io_file {
	struct platter *platter;
	int flags;
	unsigned in_flight;
};

/* An operation in flight. It keeps what it needs of the caller's, who may be abandoned. */
struct disk_op {
	struct list node; /* sim->disk_ops */
	struct io_op *op; /* NULL: the loop is gone, nobody wants to know */
	struct io_loop *loop;
	struct io_file *file;
	struct platter *platter;
	enum sim_disk_kind kind;
	enum sim_fate fate;
	int error; /* of SIM_FAIL */
	uint64_t offset;
	uint64_t len;
	uint64_t tick; /* when it started */
	uint64_t due;
	struct iovec *iov;
	int n_iov;
	uint8_t *data; /* write: the bytes at the start. Read: what could be seen at the start */
};

/* ---- Files --------------------------------------------------------------------------- */

int io_file_open(const char *path, int flags, struct io_file **ret_file, struct err *err)
{
	struct sim *sim = sim_current();
	struct platter *p = platter_find(sim, path);
	struct io_file *file;

	if (!p && !(flags & IO_OPEN_CREATE))
		return err_set(err, -ENOENT, "%s: no such file", path);
	if (p && p->locked && (flags & IO_OPEN_EXCLUSIVE))
		return err_set(err, -EBUSY, "%s: another process holds it", path);
	if (!p)
		p = platter_make(sim, path);
	file = mem_alloc(sizeof(*file));
	if (!file)
		return err_set(err, -ENOMEM, "%s: out of memory", path);
	if (flags & IO_OPEN_EXCLUSIVE)
		p->locked = true;
	file->platter = p;
	file->flags = flags;
	p->n_open++;
	*ret_file = file;
	return 0;
}

void io_file_close(struct io_file *file)
{
	if (!file)
		return;
	if (file->in_flight)
		sim_fail(sim_current(), "%s is closed with %u operations in flight",
			 file->platter->path, file->in_flight);
	if (file->flags & IO_OPEN_EXCLUSIVE)
		file->platter->locked = false;
	file->platter->n_open--;
	mem_free(file);
}

void io_file_info(const struct io_file *file, struct io_file_info *ret_info)
{
	const struct sim_options *options = sim_options(sim_current());

	*ret_info = (struct io_file_info){
	    .size = file->platter->now.size,
	    .alignment = options->alignment,
	    .direct = true,
	    .is_device = options->is_device,
	};
}

uint64_t io_file_space(const struct io_file *file)
{
	struct sim *sim = sim_current();

	(void)file;
	if (sim_options(sim)->is_device || sim_options(sim)->capacity == 0)
		return UINT64_MAX;
	return sim_options(sim)->capacity - min_u64(platters_size(sim), sim_options(sim)->capacity);
}

/* ---- Fates --------------------------------------------------------------------------- */

static enum sim_fate fate_by_option(struct sim *sim, struct disk_op *d)
{
	const struct sim_options *o = &sim->options;
	uint32_t fail = d->kind == SIM_READ   ? o->fail_read
			: d->kind == SIM_SYNC ? o->fail_sync
					      : o->fail_write;

	if (sim_chance(sim, fail))
		return SIM_FAIL;
	if (sim_chance(sim, o->stall))
		return SIM_STALL;
	if (sim_chance(sim, o->slow))
		return SIM_SLOW;
	if (d->kind == SIM_WRITE && sim_chance(sim, o->lose_write))
		return SIM_LOSE;
	if (d->kind == SIM_WRITE && sim_chance(sim, o->misdirect))
		return SIM_MISDIRECT;
	return SIM_PROCEED;
}

static enum sim_fate choose_fate(struct sim *sim, struct disk_op *d)
{
	struct sim_disk_op view = {
	    .path = d->platter->path,
	    .kind = d->kind,
	    .offset = d->offset,
	    .len = d->len,
	    .error = -EIO,
	};
	enum sim_fate fate = SIM_PROCEED;

	if (sim->hook)
		fate = sim->hook(sim->hook_arg, &view);
	if (sim->nth && (d->kind & sim->nth_kinds) && --sim->nth == 0) {
		fate = sim->nth_fate;
		view.error = sim->nth_error;
	}
	if (fate == SIM_PROCEED)
		fate = fate_by_option(sim, d);
	d->error = view.error;
	return fate;
}

static uint64_t queue_due(struct sim *sim, const struct disk_op *d)
{
	bool moves = d->kind == SIM_READ || d->kind == SIM_WRITE;
	uint64_t pipe_ns = moves ? d->len * sim->options.page_ns / 4096 : 0;
	uint64_t *free_at = &sim->channel_free_at[0];

	for (uint32_t i = 1; i < sim->options.channels; i++)
		if (sim->channel_free_at[i] < *free_at)
			free_at = &sim->channel_free_at[i];
	*free_at = max_u64(*free_at, sim->now) + sim->options.op_ns;
	sim->pipe_free_at = max_u64(sim->pipe_free_at, sim->now) + pipe_ns;
	return max_u64(*free_at + pipe_ns, sim->pipe_free_at);
}

static uint64_t choose_due(struct sim *sim, const struct disk_op *d)
{
	uint64_t usual = d->kind == SIM_READ   ? sim->tempo.read_ns
			 : d->kind == SIM_SYNC ? sim->tempo.sync_ns
					       : sim->tempo.write_ns;

	if (d->fate == SIM_STALL)
		return NEVER;
	if (sim->options.channels)
		return queue_due(sim, d);
	return sim->now + sim_latency(sim, usual) * (d->fate == SIM_SLOW ? 1000 : 1);
}

void sim_disk_hook(struct sim *sim, enum sim_fate (*hook)(void *arg, struct sim_disk_op *op),
		   void *arg)
{
	sim->hook = hook;
	sim->hook_arg = arg;
}

void sim_disk_nth(struct sim *sim, unsigned kinds, uint64_t n, enum sim_fate fate, int error)
{
	sim->nth_kinds = kinds;
	sim->nth = n;
	sim->nth_fate = fate;
	sim->nth_error = error;
}

void sim_release_stalled(struct sim *sim)
{
	list_for_each (&sim->disk_ops, node) {
		struct disk_op *d = container_of(node, struct disk_op, node);

		if (d->due == NEVER)
			d->due = sim->now;
	}
}

unsigned sim_disk_in_flight(const struct sim *sim, unsigned kinds)
{
	unsigned n = 0;

	list_for_each (&sim->disk_ops, node)
		n += (container_of(node, struct disk_op, node)->kind & kinds) != 0;
	return n;
}

/* ---- Starting ------------------------------------------------------------------------ */

static const char *kind_name(enum sim_disk_kind kind)
{
	switch (kind) {
	case SIM_READ:
		return "read";
	case SIM_WRITE:
		return "write";
	case SIM_SYNC:
		return "sync";
	case SIM_GROW:
		return "grow";
	case SIM_PUNCH:
		return "punch";
	case SIM_RESERVE:
		return "reserve";
	}
	return "?";
}

static void trace_op(struct sim *sim, const struct disk_op *d, const char *what)
{
	sim_trace(sim, "%s %s %s [%llu, +%llu)", d->platter->path, kind_name(d->kind), what,
		  (unsigned long long)d->offset, (unsigned long long)d->len);
	sim_note(sim, (uint64_t)d->kind << 56 ^ d->offset << 8 ^ d->len);
}

/* The rules that a caller keeps; told, and then the operation fails as on a real machine. */
static bool is_lawful(struct sim *sim, const struct disk_op *d)
{
	uint64_t mask = sim->options.alignment;
	const char *wrong = NULL;

	if (d->kind != SIM_GROW && (!is_aligned(d->offset, mask) || !is_aligned(d->len, mask)))
		wrong = "is not aligned";
	for (int i = 0; i < d->n_iov; i++)
		if (!is_aligned((uintptr_t)d->iov[i].iov_base, mask) ||
		    !is_aligned(d->iov[i].iov_len, mask))
			wrong = "has an unaligned buffer";
	if (d->n_iov > 1024)
		wrong = "has more than 1024 iovecs";
	if (d->kind & (SIM_READ | SIM_WRITE) && d->len == 0)
		wrong = "is empty";
	if (d->kind != SIM_READ && d->file->flags & IO_OPEN_READ_ONLY)
		wrong = "goes to a file that was opened read-only";
	list_for_each (&sim->disk_ops, node)
		if (container_of(node, struct disk_op, node)->op == d->op)
			wrong = "uses an op that is in flight";
	if (wrong)
		sim_fail(sim, "%s of %s [%llu, +%llu) %s", kind_name(d->kind), d->platter->path,
			 (unsigned long long)d->offset, (unsigned long long)d->len, wrong);
	return !wrong;
}

static void gather(const struct disk_op *d, uint8_t *to)
{
	for (int i = 0; i < d->n_iov; i++) {
		memcpy(to, d->iov[i].iov_base, d->iov[i].iov_len);
		to += d->iov[i].iov_len;
	}
}

static void scatter(const struct disk_op *d, const uint8_t *from)
{
	for (int i = 0; i < d->n_iov; i++) {
		memcpy(d->iov[i].iov_base, from, d->iov[i].iov_len);
		from += d->iov[i].iov_len;
	}
}

/* What a reader could see at this moment: of writes in flight, some sectors. */
static void look(struct sim *sim, const struct disk_op *d, uint8_t *to)
{
	image_read(&d->platter->now, d->offset, to, d->len);
	list_for_each (&sim->disk_ops, node) {
		const struct disk_op *w = container_of(node, struct disk_op, node);
		uint64_t from = max_u64(w->offset, d->offset);
		uint64_t end = min_u64(w->offset + w->len, d->offset + d->len);

		if (w->kind != SIM_WRITE || w->platter != d->platter || w->fate == SIM_LOSE ||
		    w->fate == SIM_MISDIRECT)
			continue;
		for (uint64_t at = from; at < end; at += SECTOR)
			if (sim_below(sim, 2))
				memcpy(to + (at - d->offset), w->data + (at - w->offset), SECTOR);
	}
}

static void prepare_buffers(struct sim *sim, struct disk_op *d)
{
	uint8_t poison = (uint8_t)sim_random(sim);

	if (d->kind == SIM_WRITE) {
		d->data = sim_alloc(d->len);
		gather(d, d->data);
	} else if (d->kind == SIM_READ) {
		d->data = sim_alloc(d->len);
		look(sim, d, d->data);
		for (int i = 0; i < d->n_iov; i++)
			memset(d->iov[i].iov_base, poison, d->iov[i].iov_len);
	}
}

static void free_op(struct disk_op *d)
{
	list_remove(&d->node);
	sim_release(d->iov);
	sim_release(d->data);
	sim_release(d);
}

static void start(struct io_loop *loop, struct io_op *op, struct io_file *file,
		  enum sim_disk_kind kind, uint64_t offset, uint64_t len, struct iovec *iov, int n)
{
	struct sim *sim = sim_current();
	struct disk_op *d;

	if (!sim_may_start(loop, kind_name(kind)))
		return;
	loop_started(loop);
	d = sim_alloc(sizeof(*d));
	*d = (struct disk_op){.op = op,
			      .loop = loop,
			      .file = file,
			      .platter = file->platter,
			      .kind = kind,
			      .offset = offset,
			      .len = len,
			      .n_iov = n};
	list_init(&d->node);
	if (n) {
		d->iov = sim_alloc((size_t)n * sizeof(*iov));
		memcpy(d->iov, iov, (size_t)n * sizeof(*iov));
		for (int i = 0; i < n; i++)
			d->len += iov[i].iov_len;
		/* The array is io/'s now, and altered. */
		memset(iov, 0, (size_t)n * sizeof(*iov));
	}
	op->loop = loop;
	op->file = file;
	if (!is_lawful(sim, d)) {
		free_op(d);
		loop_complete(loop, op, -EINVAL);
		return;
	}
	d->tick = sim->tick++;
	d->fate = choose_fate(sim, d);
	d->due = choose_due(sim, d);
	prepare_buffers(sim, d);
	list_add_tail(&sim->disk_ops, &d->node);
	file->in_flight++;
	trace_op(sim, d, "started");
	if (kind != SIM_READ)
		sim_point(sim);
}

void io_read(struct io_loop *loop, struct io_op *op, struct io_file *file, void *buf, size_t len,
	     uint64_t offset)
{
	struct iovec iov = {.iov_base = buf, .iov_len = len};

	start(loop, op, file, SIM_READ, offset, 0, &iov, 1);
}

void io_readv(struct io_loop *loop, struct io_op *op, struct io_file *file, struct iovec *iov,
	      int n, uint64_t offset)
{
	start(loop, op, file, SIM_READ, offset, 0, iov, n);
}

void io_write(struct io_loop *loop, struct io_op *op, struct io_file *file, const void *buf,
	      size_t len, uint64_t offset)
{
	struct iovec iov = {.iov_base = (void *)(uintptr_t)buf, .iov_len = len};

	start(loop, op, file, SIM_WRITE, offset, 0, &iov, 1);
}

void io_writev(struct io_loop *loop, struct io_op *op, struct io_file *file, struct iovec *iov,
	       int n, uint64_t offset)
{
	start(loop, op, file, SIM_WRITE, offset, 0, iov, n);
}

void io_sync(struct io_loop *loop, struct io_op *op, struct io_file *file)
{
	start(loop, op, file, SIM_SYNC, 0, 0, NULL, 0);
}

void io_grow(struct io_loop *loop, struct io_op *op, struct io_file *file, uint64_t size)
{
	start(loop, op, file, SIM_GROW, 0, size, NULL, 0);
}

void io_reserve(struct io_loop *loop, struct io_op *op, struct io_file *file, uint64_t offset,
		uint64_t len)
{
	start(loop, op, file, SIM_RESERVE, offset, len, NULL, 0);
}

void io_punch(struct io_loop *loop, struct io_op *op, struct io_file *file, uint64_t offset,
	      uint64_t len)
{
	start(loop, op, file, SIM_PUNCH, offset, len, NULL, 0);
}

/* ---- Ending -------------------------------------------------------------------------- */

static bool lacks_space(struct sim *sim, const struct disk_op *d)
{
	uint64_t end = d->offset + d->len;

	return sim->options.capacity && end > d->platter->now.size &&
	       platters_size(sim) + (end - d->platter->now.size) > sim->options.capacity;
}

/* The change that the op makes, in d->data's bytes, which it takes. */
static struct change change_of(struct sim *sim, struct disk_op *d)
{
	struct change c = {.offset = d->offset, .len = d->len, .grows = d->kind == SIM_GROW};

	if (d->kind == SIM_PUNCH) {
		/* A punch never makes a file longer. */
		c.len = min_u64(d->len, max_u64(d->platter->now.size, d->offset) - d->offset);
		if (sim->options.is_device) {
			d->data = sim_alloc(c.len);
			memset(d->data, (int)sim_random(sim), c.len);
		}
	}
	if (d->fate == SIM_MISDIRECT && d->platter->now.size > d->len)
		c.offset = round_down(sim_below(sim, d->platter->now.size - d->len), SECTOR);
	return c;
}

static void change_disk(struct sim *sim, struct disk_op *d, bool whole)
{
	struct change c = change_of(sim, d);
	uint8_t *data = d->data;

	d->data = NULL;
	if (c.len == 0 || (c.grows && c.len <= d->platter->now.size))
		sim_release(data);
	else if (whole)
		platter_change(sim, d->platter, &c, data);
	else
		platter_tear(sim, d->platter, &c, data);
}

static void check_stable(struct sim *sim, const struct disk_op *d)
{
	const uint8_t *was = d->data;

	for (int i = 0; i < d->n_iov; i++) {
		if (memcmp(was, d->iov[i].iov_base, d->iov[i].iov_len) != 0) {
			sim_fail(sim, "the buffer of a write to %s [%llu, +%llu) changed under way",
				 d->platter->path, (unsigned long long)d->offset,
				 (unsigned long long)d->len);
			return;
		}
		was += d->iov[i].iov_len;
	}
}

static int64_t end_write(struct sim *sim, struct disk_op *d)
{
	if (d->op)
		check_stable(sim, d);
	if (d->kind != SIM_PUNCH && lacks_space(sim, d))
		return -ENOSPC;
	if (d->fate == SIM_FAIL) {
		change_disk(sim, d, false);
		return d->error;
	}
	if (d->fate != SIM_LOSE)
		change_disk(sim, d, true);
	return d->kind == SIM_WRITE ? (int64_t)d->len : 0;
}

static int64_t end_read(struct sim *sim, struct disk_op *d)
{
	uint8_t *last;
	int64_t result = (int64_t)d->len;

	if (!d->op)
		return 0;
	if (d->fate == SIM_FAIL)
		return d->error;
	if (d->offset + d->len > d->platter->now.size)
		return -EIO;
	last = sim_alloc(d->len);
	look(sim, d, last);
	for (uint64_t at = 0; at < d->len; at += SECTOR)
		if (memcmp(d->data + at, last + at, SECTOR) != 0 && sim_below(sim, 2))
			memcpy(d->data + at, last + at, SECTOR);
	scatter(d, d->data);
	sim_release(last);
	return result;
}

static int64_t end_sync(struct sim *sim, struct disk_op *d)
{
	if (d->fate == SIM_FAIL) {
		platter_spoil(sim, d->platter, d->tick);
		return d->error;
	}
	if (d->fate != SIM_LOSE)
		platter_commit(d->platter, d->tick);
	return 0;
}

static int64_t end_op(struct sim *sim, struct disk_op *d)
{
	enum sim_disk_kind kind = d->kind;
	int64_t result;

	/* Off the list first, so that a read does not see itself, nor a write race itself. */
	list_remove(&d->node);
	if (kind == SIM_READ)
		result = end_read(sim, d);
	else if (kind == SIM_SYNC)
		result = end_sync(sim, d);
	else if (kind == SIM_RESERVE)
		result = d->fate == SIM_FAIL ? d->error : 0;
	else
		result = end_write(sim, d);
	trace_op(sim, d, result < 0 ? "failed" : "ended");
	if (d->op) {
		d->file->in_flight--;
		loop_complete(d->loop, d->op, result);
	}
	free_op(d);
	if (kind != SIM_READ)
		sim_point(sim);
	return result;
}

/* ---- Without a loop --------------------------------------------------------------------------
 */

int64_t disk_do_now(struct sim *sim, struct platter *p, enum sim_disk_kind kind, uint64_t offset,
		    uint64_t len, const void *data)
{
	struct disk_op *d;

	if (sim->life != ALIVE)
		return -EIO;
	d = sim_alloc(sizeof(*d));
	*d = (struct disk_op){
	    .platter = p, .kind = kind, .offset = offset, .len = len, .due = NEVER};
	list_init(&d->node);
	d->tick = sim->tick++;
	d->fate = choose_fate(sim, d);
	if (data) {
		d->data = sim_alloc(len);
		memcpy(d->data, data, len);
	}
	list_add_tail(&sim->disk_ops, &d->node);
	trace_op(sim, d, "started, and waited for,");
	sim_point(sim);
	/* A life that ends here settles what is in flight. */
	return sim->life == ALIVE ? end_op(sim, d) : -EIO;
}

/* ---- For the choice of the next event ------------------------------------------------ */

size_t disk_ready(struct sim *sim)
{
	size_t n = 0;

	list_for_each (&sim->disk_ops, node)
		n += container_of(node, struct disk_op, node)->due <= sim->now;
	return n;
}

void disk_do_nth(struct sim *sim, size_t n)
{
	/* do_one let the clock go on meanwhile: more may be due, and the n-th is due still. */
	list_for_each (&sim->disk_ops, node) {
		struct disk_op *d = container_of(node, struct disk_op, node);

		if (d->due <= sim->now && n-- == 0) {
			end_op(sim, d);
			return;
		}
	}
	CHECK(!"no such event");
}

uint64_t disk_next_due(struct sim *sim)
{
	uint64_t due = NEVER;

	list_for_each (&sim->disk_ops, node)
		due = min_u64(due, container_of(node, struct disk_op, node)->due);
	return due;
}

/* ---- Ends ---------------------------------------------------------------------------- */

void disk_forget_loop(struct sim *sim, struct io_loop *loop)
{
	list_for_each (&sim->disk_ops, node) {
		struct disk_op *d = container_of(node, struct disk_op, node);

		if (d->loop == loop && d->op) {
			d->op = NULL;
			d->file->in_flight--;
		}
	}
}

/* What is in flight lands in part; then, without power, the rest settles. */
void disk_end_life(struct sim *sim)
{
	list_for_each_safe (&sim->disk_ops, node) {
		struct disk_op *d = container_of(node, struct disk_op, node);

		if (d->kind & (SIM_WRITE | SIM_PUNCH | SIM_GROW) && d->fate != SIM_LOSE &&
		    !lacks_space(sim, d))
			change_disk(sim, d, false);
		free_op(d);
	}
	list_for_each (&sim->files, node) {
		struct platter *p = container_of(node, struct platter, node);

		p->n_open = 0;
		p->locked = false;
		if (sim->life != KILLED)
			platter_settle(sim, p);
	}
}

void disk_free(struct sim *sim)
{
	list_for_each_safe (&sim->files, node)
		platter_free(container_of(node, struct platter, node));
}
