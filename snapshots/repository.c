/* SPDX-License-Identifier: Apache-2.0
 *
 * Operations on the repository's head, on snapshots' objects and on holds. Each is a small machine:
 * a read, perhaps a change by swap, and again if somebody else was faster.
 *
 *   open     READ -> (PUT -> READ) -> end
 *   get      READ -> end
 *   change   READ -> SWAP -> end; -ESTALE: READ
 *   hold     READ_HOLD -> SWAP (renewal) -> end
 *            READ_HOLD -> READ -> SWAP -> LOOK -> SWAP -> end; deleted meanwhile: UNDO -> end
 */
#include "snapshots/internal.h"

#include "base/check.h"
#include "base/mem.h"

#include <errno.h>
#include <string.h>

enum { OPEN, GET, GET_HELD, LABELS, DELETE, HOLD, RELEASE };

enum { READ, PUT, SWAP, READ_HOLD, LOOK, UNDO };

static void step(struct repository_op *op, int64_t result);
static void read_object(struct repository_op *op, int next);

int blob_error(struct err *err, const struct repository *r, const char *name, const char *what,
	       int64_t result)
{
	if (result >= 0)
		return 0;
	return err_set(err, (int)result, "%s: %s: %s: %s", r->blobs->place, name, what,
		       strerror((int)-result));
}

/* ---- The exit ---------------------------------------------------------------------------------
 */

static void finish(struct repository_op *op, int error)
{
	op->error = error;
	mem_free(op->old);
	mem_free(op->new);
	mem_free(op->found);
	op->old = NULL;
	op->new = NULL;
	op->found = NULL;
	if (op->kind == OPEN && error) {
		repository_close(op->repository);
		op->repository = NULL;
	}
	op->done(op);
}

static void on_blob(struct blob_op *blob)
{
	struct repository_op *op = container_of(blob, struct repository_op, blob);

	step(op, blob->result);
}

static void begin(struct repository *r, struct io_loop *loop, struct repository_op *op, int kind)
{
	op->repository = r;
	op->loop = loop;
	op->kind = kind;
	op->error = 0;
	op->err.code = 0;
	op->err.text[0] = '\0';
	op->blob.done = on_blob;
	op->old = mem_alloc(BLOB_SWAP_MAX);
	op->new = mem_alloc(BLOB_SWAP_MAX);
	op->found = mem_alloc(sizeof(*op->found));
}

/* Out of memory is told as any other error: later. */
static bool begin_failed(struct repository_op *op)
{
	if (op->old && op->new && op->found)
		return false;
	err_set(&op->err, -ENOMEM, "out of memory for an operation on the repository");
	return true;
}

static void late_failure(struct io_op *defer)
{
	struct blob_op *blob = container_of(defer, struct blob_op, op);
	struct repository_op *op = container_of(blob, struct repository_op, blob);

	finish(op, op->err.code);
}

static void fail_later(struct repository_op *op)
{
	op->blob.op.done = late_failure;
	io_defer(op->loop, &op->blob.op, 0);
}

/* ---- Steps ------------------------------------------------------------------------------------
 */

static void read_object(struct repository_op *op, int next)
{
	op->step = next;
	blob_read(op->repository->blobs, op->loop, &op->blob, op->name, op->old, 0, BLOB_SWAP_MAX);
}

static void open_step(struct repository_op *op, int64_t result)
{
	struct repository *r = op->repository;
	struct repository_head head;
	struct iovec *iov = (struct iovec *)(void *)op->new;
	int e;

	if (op->step == PUT) {
		if (result < 0 && result != -EEXIST)
			finish(op, blob_error(&op->err, r, op->name, "can't be made", result));
		else
			read_object(op, READ);
		return;
	}
	if (result == -ENOENT && op->create) {
		op->create = false;
		io_random(op->loop, &r->uuid, sizeof(r->uuid));
		*iov = (struct iovec){op->new + sizeof(*iov), 0};
		iov->iov_len = repository_encode(iov->iov_base, r->uuid);
		op->step = PUT;
		blob_put(r->blobs, op->loop, &op->blob, op->name, iov, 1);
		return;
	}
	if (result == -ENOENT) {
		finish(op, err_set(&op->err, -ENOENT, "%s: there is no snapshot repository",
				   r->blobs->place));
		return;
	}
	if (result < 0) {
		finish(op, blob_error(&op->err, r, op->name, "can't be read", result));
		return;
	}
	e = repository_decode(op->old, (size_t)result, &head);
	if (e == -ENOTSUP || (e == 0 && head.read_only_features))
		e = err_set(&op->err, -ENOTSUP,
			    "%s: the repository needs a newer version of volumed", r->blobs->place);
	else if (e < 0)
		e = err_set(&op->err, e,
			    "%s: %s is damaged; restore it from a copy of the repository",
			    r->blobs->place, op->name);
	else
		r->uuid = head.uuid;
	finish(op, e);
}

/* What was read into `buf`, as a snapshot's object. */
static int manifest_read(struct repository_op *op, const uint8_t *buf, int64_t result,
			 struct snap_info *info, uint64_t *ret_renewals)
{
	char text[ID_TEXT_MAX];
	int r;

	id_format(op->id, SNAP_PREFIX, text);
	if (result == -ENOENT)
		return err_set(&op->err, -ENOENT, "there is no snapshot %s", text);
	if (result < 0)
		return blob_error(&op->err, op->repository, op->name, "can't be read", result);
	r = manifest_decode(buf, (size_t)result, op->id, info, ret_renewals);
	if (r == -ENOTSUP)
		return err_set(&op->err, r, "snapshot %s needs a newer version of volumed", text);
	if (r < 0)
		return err_set(&op->err, r, "%s: %s is damaged: snapshot %s can't be opened",
			       op->repository->blobs->place, op->name, text);
	if (info->state == SNAP_DELETED)
		return err_set(&op->err, -ENOENT, "snapshot %s is deleted", text);
	return 0;
}

static void swap(struct repository_op *op)
{
	op->step = SWAP;
	blob_swap(op->repository->blobs, op->loop, &op->blob, op->name,
		  op->old_len ? op->old : NULL, op->old_len, op->new, op->new_len);
}

static void delete_step(struct repository_op *op, int64_t result)
{
	struct snap_info *info = op->found;
	uint64_t renewals = 0;
	int r;

	if (op->step == SWAP) {
		if (result == -ESTALE)
			read_object(op, READ);
		else
			finish(op, blob_error(&op->err, op->repository, op->name,
					      "can't be changed", result));
		return;
	}
	if (result == -ENOENT) {
		finish(op, 0);
		return;
	}
	r = manifest_read(op, op->old, result, info, &renewals);
	if (r == -ENOENT || (r < 0 && result < 0) || r == -ENOTSUP) {
		finish(op, r == -ENOENT ? 0 : r);
		return;
	}
	if (r < 0) /* damaged: nothing of it can be used any more */
		*info = (struct snap_info){.id = op->id};
	op->err.code = 0;
	op->err.text[0] = '\0';
	info->state = SNAP_DELETED;
	op->old_len = (uint64_t)result;
	op->new_len = manifest_encode(op->new, info, renewals + 1);
	swap(op);
}

static void labels_step(struct repository_op *op, int64_t result)
{
	struct snap_info *info = op->found;
	uint64_t renewals;
	int r;

	if (op->step == SWAP) {
		if (result == -ESTALE)
			read_object(op, READ);
		else
			finish(op, blob_error(&op->err, op->repository, op->name,
					      "can't be changed", result));
		return;
	}
	r = manifest_read(op, op->old, result, info, &renewals);
	if (r < 0) {
		finish(op, r);
		return;
	}
	info->labels_len = op->labels_len;
	if (op->labels_len)
		memcpy(info->labels, op->labels, op->labels_len);
	op->old_len = (uint64_t)result;
	op->new_len = manifest_encode(op->new, info, renewals + 1);
	swap(op);
}

/* ---- Holds ------------------------------------------------------------------------------------
 */

static uint64_t expiry(struct repository_op *op)
{
	uint64_t expires;

	if (__builtin_add_overflow(io_wall_clock(op->loop), op->ttl, &expires))
		return UINT64_MAX;
	return expires;
}

/* A hold counts once it was confirmed: its maker has seen that the snapshot was not deleted before
 * the hold was there (S3). Unconfirmed ones have 0 renewals. */
static void hold_look(struct repository_op *op)
{
	char name[BLOB_NAME_MAX];

	op->step = LOOK;
	blob_read(op->repository->blobs, op->loop, &op->blob, manifest_name(op->id, name), op->new,
		  0, BLOB_SWAP_MAX);
}

/* op->old is the hold as it is, op->found what it holds. */
static void hold_renew(struct repository_op *op, uint64_t renewals)
{
	struct hold hold = {
	    .info = op->found,
	    .expires = expiry(op),
	    .renewals = renewals + 1,
	};

	op->create = false;
	op->new_len = hold_encode(op->new, &hold);
	swap(op);
}

static void hold_found(struct repository_op *op, int64_t result)
{
	struct hold hold = {.info = op->found};
	char text[ID_TEXT_MAX];

	op->old_len = (uint64_t)result;
	if (hold_decode(op->old, op->old_len, &hold) < 0)
		finish(op, err_set(&op->err, -EBADMSG, "%s: %s is damaged; release it",
				   op->repository->blobs->place, op->name));
	else if (!id_equal(hold.info->id, op->id))
		finish(op, err_set(&op->err, -EBUSY, "%s holds snapshot %s already", op->holder,
				   id_format(hold.info->id, SNAP_PREFIX, text)));
	else if (hold.renewals > 0)
		hold_renew(op, hold.renewals);
	else
		hold_look(op);
}

static void hold_make(struct repository_op *op, int64_t result)
{
	struct hold hold = {.info = op->found, .expires = expiry(op)};
	int r = manifest_read(op, op->old, result, op->found, NULL);

	if (r == 0 && op->found->state == SNAP_PENDING)
		r = err_set(&op->err, -EAGAIN, "the snapshot is not completed yet");
	if (r < 0) {
		finish(op, r);
		return;
	}
	hold_name(op->holder, op->name);
	op->create = true;
	op->old_len = 0;
	op->new_len = hold_encode(op->new, &hold);
	swap(op);
}

static void hold_looked(struct repository_op *op, int64_t result)
{
	struct snap_info *info = mem_alloc(sizeof(*info));
	int r = info ? manifest_read(op, op->new, result, info, NULL)
		     : err_set(&op->err, -ENOMEM, "out of memory for a hold");

	mem_free(info);
	hold_name(op->holder, op->name);
	if (r == 0) {
		hold_renew(op, 0);
	} else if (r == -ENOENT) {
		op->step = UNDO;
		blob_remove(op->repository->blobs, op->loop, &op->blob, op->name);
	} else {
		finish(op, r); /* unconfirmed: asking again looks again */
	}
}

static void hold_swapped(struct repository_op *op, int64_t result)
{
	if (result == -ESTALE) {
		hold_name(op->holder, op->name);
		read_object(op, READ_HOLD);
	} else if (result < 0) {
		finish(op,
		       blob_error(&op->err, op->repository, op->name, "can't be written", result));
	} else if (op->create) {
		memcpy(op->old, op->new, op->new_len);
		op->old_len = op->new_len;
		hold_look(op);
	} else {
		if (op->info)
			*op->info = *op->found;
		finish(op, 0);
	}
}

static void hold_step(struct repository_op *op, int64_t result)
{
	switch (op->step) {
	case READ_HOLD:
		if (result == -ENOENT) {
			manifest_name(op->id, op->name);
			read_object(op, READ);
		} else if (result < 0) {
			finish(op, blob_error(&op->err, op->repository, op->name, "can't be read",
					      result));
		} else {
			hold_found(op, result);
		}
		return;
	case READ:
		hold_make(op, result);
		return;
	case SWAP:
		hold_swapped(op, result);
		return;
	case LOOK:
		hold_looked(op, result);
		return;
	default: /* UNDO */
		finish(op, -ENOENT);
		return;
	}
}

static void held_step(struct repository_op *op, int64_t result)
{
	struct hold hold = {.info = op->info};

	if (result == -ENOENT)
		finish(op, err_set(&op->err, -ENOENT, "there is no hold %s", op->name));
	else if (result < 0)
		finish(op, blob_error(&op->err, op->repository, op->name, "can't be read", result));
	else if (hold_decode(op->old, (size_t)result, &hold) < 0 ||
		 !id_equal(hold.info->id, op->id))
		finish(op, err_set(&op->err, -EBADMSG, "%s: %s is damaged, or holds another",
				   op->repository->blobs->place, op->name));
	else
		finish(op, 0);
}

static void step(struct repository_op *op, int64_t result)
{
	switch (op->kind) {
	case GET_HELD:
		held_step(op, result);
		return;
	case OPEN:
		open_step(op, result);
		return;
	case GET:
		finish(op, manifest_read(op, op->old, result, op->info, NULL));
		return;
	case LABELS:
		labels_step(op, result);
		return;
	case DELETE:
		delete_step(op, result);
		return;
	case HOLD:
		hold_step(op, result);
		return;
	default: /* RELEASE */
		finish(op,
		       blob_error(&op->err, op->repository, op->name, "can't be removed", result));
		return;
	}
}

/* ---- What others call -------------------------------------------------------------------------
 */

static void open_without_memory(struct io_op *defer)
{
	struct blob_op *blob = container_of(defer, struct blob_op, op);
	struct repository_op *op = container_of(blob, struct repository_op, blob);

	op->error = err_set(&op->err, -ENOMEM, "out of memory for the repository");
	op->done(op);
}

void repository_open(struct blobs *blobs, struct io_loop *loop, bool create,
		     struct repository_op *op)
{
	struct repository *r = mem_alloc(sizeof(*r));

	if (!r) {
		blobs_close(blobs);
		op->blob.op.done = open_without_memory;
		io_defer(loop, &op->blob.op, 0);
		return;
	}
	r->blobs = blobs;
	begin(r, loop, op, OPEN);
	if (begin_failed(op)) {
		fail_later(op);
		return;
	}
	op->create = create;
	memcpy(op->name, NAME_REPOSITORY, sizeof(NAME_REPOSITORY));
	read_object(op, READ);
}

void repository_close(struct repository *repository)
{
	if (!repository)
		return;
	blobs_close(repository->blobs);
	mem_free(repository);
}

struct id repository_uuid(const struct repository *repository)
{
	return repository->uuid;
}

const char *repository_place(const struct repository *repository)
{
	return repository->blobs->place;
}

static void begin_on_snapshot(struct repository *repository, struct io_loop *loop,
			      struct repository_op *op, int kind, struct id id)
{
	begin(repository, loop, op, kind);
	op->id = id;
	if (begin_failed(op)) {
		fail_later(op);
		return;
	}
	manifest_name(id, op->name);
	read_object(op, READ);
}

void snap_get(struct repository *repository, struct io_loop *loop, struct repository_op *op,
	      struct id id, struct snap_info *info)
{
	op->info = info;
	begin_on_snapshot(repository, loop, op, GET, id);
}

void snap_set_labels(struct repository *repository, struct io_loop *loop, struct repository_op *op,
		     struct id id, const char *labels, uint32_t labels_len)
{
	op->labels = labels;
	op->labels_len = labels_len;
	if (labels_len <= SNAP_LABELS_MAX) {
		begin_on_snapshot(repository, loop, op, LABELS, id);
		return;
	}
	begin(repository, loop, op, LABELS);
	err_set(&op->err, -E2BIG, "description and tags take %u bytes, at most %d are kept",
		labels_len, SNAP_LABELS_MAX);
	fail_later(op);
}

void snap_delete(struct repository *repository, struct io_loop *loop, struct repository_op *op,
		 struct id id)
{
	begin_on_snapshot(repository, loop, op, DELETE, id);
}

void snap_hold(struct repository *repository, struct io_loop *loop, struct repository_op *op,
	       struct id id, const char *holder, uint64_t ttl_ns, struct snap_info *info)
{
	size_t n = strlen(holder);

	CHECK(n > 0);
	CHECK(n < SNAP_HOLDER_MAX);
	memcpy(op->holder, holder, n + 1);
	op->info = info;
	op->ttl = ttl_ns;
	begin(repository, loop, op, HOLD);
	op->id = id;
	if (begin_failed(op)) {
		fail_later(op);
		return;
	}
	hold_name(holder, op->name);
	read_object(op, READ_HOLD);
}

void snap_release(struct repository *repository, struct io_loop *loop, struct repository_op *op,
		  const char *holder)
{
	begin(repository, loop, op, RELEASE);
	if (begin_failed(op)) {
		fail_later(op);
		return;
	}
	blob_remove(repository->blobs, loop, &op->blob, hold_name(holder, op->name));
}

void snap_get_held(struct repository *repository, struct io_loop *loop, struct repository_op *op,
		   struct id id, const char *holder, struct snap_info *info)
{
	op->info = info;
	begin(repository, loop, op, GET_HELD);
	op->id = id;
	if (begin_failed(op)) {
		fail_later(op);
		return;
	}
	hold_name(holder, op->name);
	read_object(op, READ);
}
