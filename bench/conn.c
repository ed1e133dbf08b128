/* SPDX-License-Identifier: Apache-2.0
 *
 * Batches out, replies in.
 */
#include "bench/conn.h"

#include "base/bytes.h"
#include "base/check.h"
#include "base/mem.h"

#include <errno.h>
#include <inttypes.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MAGIC_REQUEST      0x25609513u
#define MAGIC_SIMPLE_REPLY 0x67446698u
#define COMMAND_DISC       2
#define FLAG_FUA           1
#define REQUEST_SIZE       28
#define REPLY_SIZE         16
#define IOV_PER_SEND       1024
/* Stays in a core's L2 cache, and takes the replies of a deep queue in one go. */
#define RECEIVE_BUFFER (256 * KiB)

struct conn {
	int fd;
	unsigned number;
	unsigned depth;
	struct conn_owner owner;

	struct request *slots;
	uint32_t *free_slots; /* a stack, so that few slots stay hot in the cache */
	unsigned n_free;

	/* The batch on its way. Another is made when all of it is out. */
	uint8_t *headers;
	struct iovec *iov;
	unsigned iov_n;
	unsigned iov_at;

	uint8_t *in;
	size_t in_len;
	struct request *reading; /* whose payload is coming, and how much of it is to come */
	uint32_t payload_left;
};

static void make_batch(struct conn *c);
static void put_header(uint8_t *p, const struct request *r, uint32_t slot);
static void iov_add(struct conn *c, const void *p, size_t len);
static void batch_advance(struct conn *c, size_t sent);
static int take_replies(struct conn *c, uint64_t now, struct err *err);
static int take_header(struct conn *c, const uint8_t *p, uint64_t now, struct err *err);
static size_t take_payload(struct conn *c, const uint8_t *p, size_t len);
static int finish(struct conn *c, struct request *r, uint32_t error, uint64_t now);

uint64_t conn_clock_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * NSEC_PER_SEC + (uint64_t)now.tv_nsec;
}

struct conn *conn_new(int fd, unsigned number, unsigned depth, const struct conn_owner *owner)
{
	struct conn *c = mem_alloc(sizeof(*c));

	if (!c)
		return NULL;
	c->fd = -1;
	c->number = number;
	c->depth = depth;
	c->owner = *owner;
	c->slots = mem_calloc(depth, sizeof(c->slots[0]));
	c->free_slots = mem_calloc(depth, sizeof(c->free_slots[0]));
	c->headers = mem_calloc(depth, REQUEST_SIZE);
	c->iov = mem_calloc(depth, 2 * sizeof(c->iov[0]));
	c->in = mem_alloc_pages(RECEIVE_BUFFER);
	if (!c->slots || !c->free_slots || !c->headers || !c->iov || !c->in) {
		conn_free(c);
		return NULL;
	}
	for (unsigned i = 0; i < depth; i++)
		c->free_slots[c->n_free++] = depth - 1 - i;
	c->fd = fd;
	return c;
}

void conn_free(struct conn *c)
{
	if (!c)
		return;
	if (c->fd >= 0) {
		struct request bye = {.op = CONN_FLUSH};
		uint8_t header[REQUEST_SIZE];

		put_header(header, &bye, 0);
		put_be16(header + 6, COMMAND_DISC);
		if (!conn_wants_out(c))
			(void)!send(c->fd, header, sizeof(header), MSG_NOSIGNAL | MSG_DONTWAIT);
		close(c->fd);
	}
	mem_free(c->slots);
	mem_free(c->free_slots);
	mem_free(c->headers);
	mem_free(c->iov);
	mem_free_pages(c->in, RECEIVE_BUFFER);
	mem_free(c);
}

int conn_fd(const struct conn *c)
{
	return c->fd;
}

struct request *conn_slot(struct conn *c, unsigned i)
{
	CHECK(i < c->depth);
	return &c->slots[i];
}

bool conn_wants_out(const struct conn *c)
{
	return c->iov_at < c->iov_n;
}

int conn_send(struct conn *c, struct err *err)
{
	if (!conn_wants_out(c) && c->n_free > 0)
		make_batch(c);
	while (conn_wants_out(c)) {
		struct msghdr msg = {
		    .msg_iov = c->iov + c->iov_at,
		    .msg_iovlen = min_u64(c->iov_n - c->iov_at, IOV_PER_SEND),
		};
		ssize_t n = sendmsg(c->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n >= 0)
			batch_advance(c, (size_t)n);
		else if (errno == EAGAIN)
			return 0;
		else if (errno != EINTR)
			return err_set(err, -errno, "connection %u: cannot send: %s (%u in flight)",
				       c->number, strerror(errno), c->depth - c->n_free);
	}
	return 0;
}

static void make_batch(struct conn *c)
{
	uint64_t now = conn_clock_ns();
	uint8_t *header = c->headers;

	c->iov_n = 0;
	c->iov_at = 0;
	while (c->n_free > 0) {
		uint32_t i = c->free_slots[c->n_free - 1];
		struct request *r = &c->slots[i];

		if (!c->owner.next(c->owner.arg, r))
			break;
		c->n_free--;
		r->generation++;
		r->in_flight = true;
		r->start_ns = now;
		put_header(header, r, i);
		iov_add(c, header, REQUEST_SIZE);
		header += REQUEST_SIZE;
		if (r->op == CONN_WRITE)
			iov_add(c, r->payload, r->length);
	}
}

static void put_header(uint8_t *p, const struct request *r, uint32_t slot)
{
	put_be32(p, MAGIC_REQUEST);
	put_be16(p + 4, r->fua ? FLAG_FUA : 0);
	put_be16(p + 6, (uint16_t)r->op);
	put_be64(p + 8, (uint64_t)r->generation << 32 | slot);
	put_be64(p + 16, r->offset);
	put_be32(p + 24, r->length);
}

/* Headers without payload lie side by side, and travel as one piece. */
static void iov_add(struct conn *c, const void *p, size_t len)
{
	struct iovec *last = c->iov_n > 0 ? &c->iov[c->iov_n - 1] : NULL;

	if (last && (uint8_t *)last->iov_base + last->iov_len == p)
		last->iov_len += len;
	else
		c->iov[c->iov_n++] = (struct iovec){(void *)(uintptr_t)p, len};
}

static void batch_advance(struct conn *c, size_t sent)
{
	while (sent > 0) {
		struct iovec *v = &c->iov[c->iov_at];

		if (sent < v->iov_len) {
			v->iov_base = (uint8_t *)v->iov_base + sent;
			v->iov_len -= sent;
			return;
		}
		sent -= v->iov_len;
		c->iov_at++;
	}
}

int conn_receive(struct conn *c, struct err *err)
{
	for (;;) {
		size_t room = RECEIVE_BUFFER - c->in_len;
		ssize_t n = recv(c->fd, c->in + c->in_len, room, MSG_DONTWAIT);
		unsigned in_flight = c->depth - c->n_free;
		int rc;

		if (n < 0 && errno == EAGAIN)
			return 0;
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_set(err, -errno, "connection %u: %s with %u requests in flight",
				       c->number, strerror(errno), in_flight);
		if (n == 0)
			return err_set(err, -ECONNRESET,
				       "connection %u: server hung up with %u requests in flight",
				       c->number, in_flight);
		c->in_len += (size_t)n;
		rc = take_replies(c, conn_clock_ns(), err);
		/* Less than was asked for means that no more is there. */
		if (rc < 0 || (size_t)n < room)
			return rc;
	}
}

static int take_replies(struct conn *c, uint64_t now, struct err *err)
{
	size_t at = 0;
	int rc = 0;

	while (rc == 0 && at < c->in_len) {
		if (c->payload_left > 0) {
			at += take_payload(c, c->in + at, c->in_len - at);
			if (c->payload_left == 0)
				rc = finish(c, c->reading, 0, now);
		} else if (c->in_len - at >= REPLY_SIZE) {
			rc = take_header(c, c->in + at, now, err);
			at += REPLY_SIZE;
		} else {
			break;
		}
	}
	c->in_len -= at;
	memmove(c->in, c->in + at, c->in_len);
	return rc;
}

static int take_header(struct conn *c, const uint8_t *p, uint64_t now, struct err *err)
{
	uint32_t error = get_be32(p + 4);
	uint32_t slot = get_be32(p + 12);
	struct request *r;

	if (get_be32(p) != MAGIC_SIMPLE_REPLY)
		return err_set(err, -EPROTO,
			       "connection %u: a reply begins with %08" PRIx32
			       ", which is not the magic number of a simple reply",
			       c->number, get_be32(p));
	r = slot < c->depth ? &c->slots[slot] : NULL;
	if (!r || !r->in_flight || r->generation != get_be32(p + 8))
		return err_set(err, -EPROTO,
			       "connection %u: a reply with cookie %016" PRIx64
			       ", which no request in flight has",
			       c->number, get_be64(p + 8));
	if (r->op != CONN_READ || error)
		return finish(c, r, error, now);
	c->reading = r;
	c->payload_left = r->length;
	return 0;
}

static size_t take_payload(struct conn *c, const uint8_t *p, size_t len)
{
	struct request *r = c->reading;
	uint32_t n = (uint32_t)min_u64(len, c->payload_left);

	if (r->into)
		memcpy(r->into + (r->length - c->payload_left), p, n);
	c->payload_left -= n;
	return n;
}

static int finish(struct conn *c, struct request *r, uint32_t error, uint64_t now)
{
	r->in_flight = false;
	c->free_slots[c->n_free++] = (uint32_t)(r - c->slots);
	return c->owner.done(c->owner.arg, r, error, now);
}
