/* SPDX-License-Identifier: Apache-2.0
 *
 * The lease: {number, owner, renewals}. It is taken by swap, when it was given back, or when its
 * bytes have stood still for its time by our own clock.
 */
#include "snapshots/sweep_internal.h"

#include <errno.h>
#include <string.h>

static struct snap_sweeping *of(struct blob_op *blob)
{
	return container_of(blob, struct snap_sweeping, blob);
}

static void lease_swap(struct snap_sweeping *s, void (*done)(struct blob_op *blob))
{
	lease_encode(s->lease_new, &s->lease);
	s->blob.done = done;
	blob_swap(s->repository->blobs, s->loop, &s->blob, NAME_LEASE,
		  s->lease_old_len ? s->lease_old : NULL, s->lease_old_len, s->lease_new,
		  LEASE_BYTES);
}

static void lease_is(struct snap_sweeping *s)
{
	memcpy(s->lease_old, s->lease_new, LEASE_BYTES);
	s->lease_old_len = LEASE_BYTES;
	s->renewed_at = io_now(s->loop);
}

static void take_on_swap(struct blob_op *blob)
{
	struct snap_sweeping *s = of(blob);

	if (blob->result == -ESTALE) {
		sweep_end(s, err_set(&s->sweep->err, -EBUSY, "another sweep has just begun"));
	} else if (blob->result < 0) {
		sweep_end(s, blob_error(&s->sweep->err, s->repository, NAME_LEASE, "can't be taken",
					blob->result));
	} else {
		s->has_lease = true;
		s->memory->seen_at = 0;
		lease_is(s);
		s->lease_next(s);
	}
}

/* True: whoever had it is done, or has not moved for its time. */
static bool lease_is_free(struct snap_sweeping *s)
{
	struct snap_sweep_memory *m = s->memory;
	uint64_t now = io_now(s->loop);

	if (s->lease_old_len == 0 || id_is_zero(s->lease.owner))
		return true;
	if (m->seen_at == 0 || m->length != s->lease_old_len ||
	    memcmp(m->lease, s->lease_old, m->length) != 0) {
		m->seen_at = now ? now : 1;
		m->length = (uint32_t)s->lease_old_len;
		memcpy(m->lease, s->lease_old, m->length);
		return false;
	}
	return now - m->seen_at > s->sweep->config.lease_ns;
}

static void take_on_read(struct blob_op *blob)
{
	struct snap_sweeping *s = of(blob);

	if (blob->result < 0 && blob->result != -ENOENT) {
		sweep_end(s, blob_error(&s->sweep->err, s->repository, NAME_LEASE, "can't be read",
					blob->result));
		return;
	}
	s->lease_old_len = blob->result < 0 ? 0 : (uint64_t)blob->result;
	/* A damaged one is replaced when it has stood still. */
	if (lease_decode(s->lease_old, s->lease_old_len, &s->lease) < 0)
		s->lease = (struct lease){.owner = {1, 1}};
	if (!lease_is_free(s)) {
		sweep_end(s, err_set(&s->sweep->err, -EBUSY,
				     "another daemon sweeps, or its lease has yet to run out"));
		return;
	}
	s->lease.number++;
	s->lease.renewals = 0;
	io_random(s->loop, &s->lease.owner, sizeof(s->lease.owner));
	lease_swap(s, take_on_swap);
}

void lease_take(struct snap_sweeping *s, void (*next)(struct snap_sweeping *s))
{
	s->lease_next = next;
	s->blob.done = take_on_read;
	blob_read(s->repository->blobs, s->loop, &s->blob, NAME_LEASE, s->lease_old, 0,
		  LEASE_BYTES);
}

static void renew_on_swap(struct blob_op *blob)
{
	struct snap_sweeping *s = of(blob);

	if (blob->result < 0) {
		s->has_lease = blob->result != -ESTALE;
		sweep_end(s, err_set(&s->sweep->err, (int)blob->result,
				     "the sweep's lease can't be renewed: %s",
				     blob->result == -ESTALE ? "another has it"
							     : strerror((int)-blob->result)));
		return;
	}
	lease_is(s);
	s->lease_next(s);
}

void lease_check(struct snap_sweeping *s, void (*next)(struct snap_sweeping *s))
{
	if (s->cancelled) {
		sweep_end(s, err_set(&s->sweep->err, -ECANCELED, "the sweep was cancelled"));
		return;
	}
	if (!s->has_lease || io_now(s->loop) - s->renewed_at < s->sweep->config.lease_ns / 3) {
		next(s);
		return;
	}
	s->lease_next = next;
	s->lease.renewals++;
	lease_swap(s, renew_on_swap);
}

static void back_on_swap(struct blob_op *blob)
{
	struct snap_sweeping *s = of(blob);

	s->lease_next(s); /* whatever the result: it runs out by itself */
}

void lease_give_back(struct snap_sweeping *s, void (*next)(struct snap_sweeping *s))
{
	s->has_lease = false;
	s->lease_next = next;
	s->lease.owner = (struct id){0};
	s->lease.renewals++;
	lease_swap(s, back_on_swap);
}
