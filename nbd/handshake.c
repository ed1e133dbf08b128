/* SPDX-License-Identifier: Apache-2.0
 *
 * Option haggling of the fixed newstyle handshake, on loops[0].
 *
 *   GREET -> READ_FLAGS -> WAIT_FLAGS -> READ_OPTION -> WAIT_OPTION -> READ_DATA -> WAIT_DATA
 *                                            ^                                        |
 *        WAIT_SENT <- (LIST) <- WAIT_RESOLVE <----- ANSWER <--------------------------'
 *            |`-> READ_OPTION, LIST
 *            |`-> TRANSMIT   GO and EXPORT_NAME succeeded: off to the device's loop
 *             `-> END
 *
 * It receives just what an option announces and no byte more, so that nothing is left in a buffer
 * when the peer moves on (or, one day, begins TLS).
 */
#include "base/check.h"
#include "nbd/internal.h"
#include "nbd/protocol.h"

#include <errno.h>
#include <string.h>

enum next { AGAIN, WAIT };

static void handshake_step(struct nbd_handshake *h);
static void handshake_enter(struct nbd_handshake *h, enum nbd_handshake_state state);
static enum next handshake_greet(struct nbd_handshake *h);
static enum next handshake_receive(struct nbd_handshake *h, size_t n,
				   enum nbd_handshake_state wait);
static enum next handshake_flags(struct nbd_handshake *h);
static enum next handshake_option(struct nbd_handshake *h);
static enum next handshake_read_data(struct nbd_handshake *h);
static enum next handshake_data(struct nbd_handshake *h);
static enum next handshake_answer(struct nbd_handshake *h);
static enum next answer_simple(struct nbd_handshake *h);
static enum next answer_export_name(struct nbd_handshake *h);
static enum next answer_go(struct nbd_handshake *h);
static enum next answer_meta(struct nbd_handshake *h);
static enum next handshake_resolve(struct nbd_handshake *h, const struct nbd_name *name);
static void handshake_on_resolved(struct export_op *op);
static enum next handshake_resolved(struct nbd_handshake *h);
static enum next resolved_go(struct nbd_handshake *h);
static enum next resolved_meta(struct nbd_handshake *h);
static enum next handshake_list(struct nbd_handshake *h);
static enum next handshake_refuse(struct nbd_handshake *h, uint32_t rep, const char *text);
static enum next handshake_send(struct nbd_handshake *h, enum nbd_handshake_state after);
static void handshake_on_io(struct io_op *op);
static enum next handshake_fail(struct nbd_handshake *h, const char *why);
static void handshake_move(struct nbd_handshake *h);
static void handshake_end(struct nbd_handshake *h);

void nbd_handshake_start(struct nbd_handshake *h, struct nbd_conn *conn)
{
	memset(h, 0, offsetof(struct nbd_handshake, input)); /* the buffers need not be clean */
	h->conn = conn;
	h->since = io_now(conn->server->loop);
	h->op.done = handshake_on_io;
	list_init(&h->node);
	handshake_enter(h, HANDSHAKE_GREET);
	handshake_step(h);
}

void nbd_handshake_kill(struct nbd_handshake *h, const char *cause)
{
	if (h->cause)
		return;
	h->cause = cause;
	io_sock_shutdown(h->conn->server->loop, h->conn->sock);
}

static void handshake_step(struct nbd_handshake *h)
{
	enum next next = AGAIN;

	while (next == AGAIN) {
		switch (h->state) {
		case HANDSHAKE_GREET:
			next = handshake_greet(h);
			break;
		case HANDSHAKE_READ_FLAGS:
			next = handshake_receive(h, NBD_CLIENT_FLAGS_SIZE, HANDSHAKE_WAIT_FLAGS);
			break;
		case HANDSHAKE_WAIT_FLAGS:
			next = handshake_flags(h);
			break;
		case HANDSHAKE_READ_OPTION:
			next = handshake_receive(h, NBD_OPTION_HEADER_SIZE, HANDSHAKE_WAIT_OPTION);
			break;
		case HANDSHAKE_WAIT_OPTION:
			next = handshake_option(h);
			break;
		case HANDSHAKE_READ_DATA:
			next = handshake_read_data(h);
			break;
		case HANDSHAKE_WAIT_DATA:
			next = handshake_data(h);
			break;
		case HANDSHAKE_ANSWER:
			next = handshake_answer(h);
			break;
		case HANDSHAKE_WAIT_RESOLVE:
			next = handshake_resolved(h);
			break;
		case HANDSHAKE_LIST:
			next = handshake_list(h);
			break;
		case HANDSHAKE_WAIT_SENT:
			/* Who holds a claim gives it back on the device's loop, come what may. */
			if (h->op.result < 0 && h->after_send != HANDSHAKE_TRANSMIT)
				h->after_send = HANDSHAKE_END;
			handshake_enter(h, h->after_send);
			break;
		case HANDSHAKE_TRANSMIT:
			handshake_move(h);
			return;
		case HANDSHAKE_END:
			handshake_end(h);
			return;
		}
	}
}

static void handshake_enter(struct nbd_handshake *h, enum nbd_handshake_state state)
{
	h->state = state;
}

/* ---- Input ---- */

static enum next handshake_greet(struct nbd_handshake *h)
{
	h->out = cursor_over(h->output, sizeof(h->output));
	nbd_put_greeting(&h->out);
	return handshake_send(h, HANDSHAKE_READ_FLAGS);
}

static enum next handshake_receive(struct nbd_handshake *h, size_t n, enum nbd_handshake_state wait)
{
	struct nbd_conn *conn = h->conn;

	h->wanted = n;
	handshake_enter(h, wait);
	io_recv(conn->server->loop, &h->op, conn->sock, h->input, n, n);
	return WAIT;
}

/* All that handshake_receive asked for has come. */
static bool handshake_received(const struct nbd_handshake *h)
{
	return h->op.result == (int64_t)h->wanted;
}

static enum next handshake_flags(struct nbd_handshake *h)
{
	uint32_t flags;

	if (!handshake_received(h))
		return handshake_fail(h, NULL);
	h->spoke = true;
	flags = get_be32(h->input);
	if (!nbd_client_flags_ok(flags))
		return handshake_fail(h, "its client flags have a bit that we did not offer");
	h->fixed = flags & NBD_C_FIXED_NEWSTYLE;
	h->no_zeroes = flags & NBD_C_NO_ZEROES;
	handshake_enter(h, HANDSHAKE_READ_OPTION);
	return AGAIN;
}

static enum next handshake_option(struct nbd_handshake *h)
{
	if (!handshake_received(h))
		return handshake_fail(h, NULL); /* between options anyone may go */
	if (!nbd_option_parse(h->input, &h->option))
		return handshake_fail(h, "it sent garbage instead of an option");
	if (h->option.length > NBD_OPTION_DATA_DROP)
		return handshake_fail(h, "it announced more than 64 KiB of option data");
	if (++h->n_options > NBD_OPTIONS_MAX)
		return handshake_fail(h, "it sent more than 1024 options");
	h->data_left = h->option.length;
	handshake_enter(h, HANDSHAKE_READ_DATA);
	return AGAIN;
}

/* Data that is too long comes in pieces, each over the one before. */
static enum next handshake_read_data(struct nbd_handshake *h)
{
	if (h->data_left > 0)
		return handshake_receive(h, min_u64(h->data_left, sizeof(h->input)),
					 HANDSHAKE_WAIT_DATA);
	handshake_enter(h, HANDSHAKE_ANSWER);
	return AGAIN;
}

static enum next handshake_data(struct nbd_handshake *h)
{
	if (!handshake_received(h))
		return handshake_fail(h, "it hung up within an option");
	h->data_left -= (uint32_t)h->wanted;
	handshake_enter(h, HANDSHAKE_READ_DATA);
	return AGAIN;
}

/* ---- Options ---- */

static enum next handshake_answer(struct nbd_handshake *h)
{
	uint32_t option = h->option.option;

	h->out = cursor_over(h->output, sizeof(h->output));
	if (option == NBD_OPT_EXPORT_NAME)
		return answer_export_name(h);
	if (!h->fixed)
		return handshake_fail(h, "it sent an option without having agreed to fixed "
					 "newstyle");
	if (option == NBD_OPT_ABORT) {
		nbd_put_ack(&h->out, option);
		return handshake_send(h, HANDSHAKE_END);
	}
	if (h->conn->server->stopping)
		return handshake_refuse(h, NBD_REP_ERR_SHUTDOWN, "the server is shutting down");
	if (option == NBD_OPT_SET_META_CONTEXT)
		h->allocation = false; /* forgotten even if this one fails */
	if (h->option.length > sizeof(h->input))
		return handshake_refuse(h, NBD_REP_ERR_TOO_BIG,
					"the option's data is longer than 16 KiB");
	return answer_simple(h);
}

static enum next answer_simple(struct nbd_handshake *h)
{
	struct nbd_refusal refusal;

	switch (h->option.option) {
	case NBD_OPT_INFO:
	case NBD_OPT_GO:
		return answer_go(h);
	case NBD_OPT_LIST_META_CONTEXT:
	case NBD_OPT_SET_META_CONTEXT:
		return answer_meta(h);
	case NBD_OPT_LIST:
	case NBD_OPT_STARTTLS:
	case NBD_OPT_STRUCTURED_REPLY:
		break;
	default:
		return handshake_refuse(h, NBD_REP_ERR_UNSUP, "the option is unknown here");
	}
	if (!nbd_empty_parse(h->option.length, &refusal))
		return handshake_refuse(h, refusal.rep, refusal.text);
	if (h->option.option == NBD_OPT_LIST) {
		h->n_listed = 0;
		handshake_enter(h, HANDSHAKE_LIST);
		return AGAIN;
	}
	if (h->option.option == NBD_OPT_STARTTLS)
		return handshake_refuse(h, NBD_REP_ERR_UNSUP, "this server has no TLS");
	if (h->structured)
		return handshake_refuse(h, NBD_REP_ERR_INVALID,
					"structured replies are on already");
	h->structured = true;
	nbd_put_ack(&h->out, h->option.option);
	return handshake_send(h, HANDSHAKE_READ_OPTION);
}

static enum next answer_export_name(struct nbd_handshake *h)
{
	struct nbd_refusal refusal;

	if (h->conn->server->stopping)
		return handshake_fail(h, "the server is shutting down");
	if (h->option.length > sizeof(h->input))
		return handshake_fail(h, "its export name is longer than 4096 bytes");
	if (!nbd_name_parse(h->input, h->option.length, &h->go.name, &refusal))
		return handshake_fail(h, refusal.text);
	return handshake_resolve(h, &h->go.name);
}

static enum next answer_go(struct nbd_handshake *h)
{
	struct nbd_refusal refusal;

	if (!nbd_go_parse(h->input, h->option.length, &h->go, &refusal))
		return handshake_refuse(h, refusal.rep, refusal.text);
	return handshake_resolve(h, &h->go.name);
}

static enum next answer_meta(struct nbd_handshake *h)
{
	struct nbd_refusal refusal;

	if (!h->structured)
		return handshake_refuse(h, NBD_REP_ERR_INVALID,
					"metadata contexts need structured replies first");
	if (!nbd_meta_parse(h->input, h->option.length, &h->meta, &refusal))
		return handshake_refuse(h, refusal.rep, refusal.text);
	return handshake_resolve(h, &h->meta.name);
}

/* ---- Names ---- */

static bool wants_claim(const struct nbd_handshake *h)
{
	return h->option.option == NBD_OPT_GO || h->option.option == NBD_OPT_EXPORT_NAME;
}

static enum next handshake_resolve(struct nbd_handshake *h, const struct nbd_name *name)
{
	struct nbd_server *server = h->conn->server;
	struct export_op *op = &h->resolve;

	memcpy(op->name, name->bytes, name->length);
	op->name[name->length] = '\0';
	op->loop = server->loop;
	op->local = h->conn->local;
	op->claim = wants_claim(h);
	op->leave = nbd_conn_leave;
	op->holder = h->conn;
	op->done = handshake_on_resolved;
	handshake_enter(h, HANDSHAKE_WAIT_RESOLVE);
	server->exports->resolve(server->exports, op);
	return WAIT;
}

static void handshake_on_resolved(struct export_op *op)
{
	handshake_step(container_of(op, struct nbd_handshake, resolve));
}

/* Cut and made printable: who may choose a name may not draw on the log. */
static void name_for_log(const char *name, char text[NBD_LOG_NAME])
{
	size_t n = 0;

	for (; n + 1 < NBD_LOG_NAME && name[n]; n++)
		text[n] = name[n] < ' ' || name[n] == 127 ? '?' : name[n];
	text[n] = '\0';
	if (n == 0)
		memcpy(text, "\"\"", 3);
}

static void log_unresolved(struct nbd_handshake *h, const char *why)
{
	struct nbd_server *server = h->conn->server;
	char name[NBD_LOG_NAME];

	name_for_log(h->resolve.name, name);
	if (log_limit_pass(&server->log, io_now(server->loop), NBD_LOG_BURST))
		log_warning("nbd: %s did not get export %s: %s", h->conn->peer, name, why);
}

static enum next handshake_resolved(struct nbd_handshake *h)
{
	int error = h->resolve.error;
	uint32_t rep = NBD_REP_ERR_UNKNOWN;
	const char *why = "there is no such export";

	if (!error)
		return h->option.option == NBD_OPT_LIST_META_CONTEXT ||
			       h->option.option == NBD_OPT_SET_META_CONTEXT
			   ? resolved_meta(h)
			   : resolved_go(h);
	if (error == -EACCES) {
		rep = NBD_REP_ERR_POLICY;
		why = "this peer may not use the export";
	} else if (error == -ESHUTDOWN) {
		rep = NBD_REP_ERR_SHUTDOWN;
		why = "the export is shutting down";
	} else if (error == -EAGAIN) {
		why = "the export is not ready yet: try again";
	}
	if (wants_claim(h))
		log_unresolved(h, why);
	if (h->option.option == NBD_OPT_EXPORT_NAME)
		return handshake_fail(h, NULL);
	return handshake_refuse(h, rep, why);
}

static uint16_t transmission_flags(const struct nbd_handshake *h)
{
	const struct export_info *info = &h->resolve.info;
	uint16_t flags = NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA |
			 NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_WRITE_ZEROES | NBD_FLAG_SEND_FAST_ZERO |
			 NBD_FLAG_SEND_CACHE;

	if (info->read_only || (info->dev->flags & BLOCK_DEV_READ_ONLY))
		flags |= NBD_FLAG_READ_ONLY;
	if (info->multi_conn)
		flags |= NBD_FLAG_CAN_MULTI_CONN;
	if (h->structured)
		flags |= NBD_FLAG_SEND_DF;
	return flags;
}

/* The way into transmission is open: the peer has its lane from here on, and with it the duty to
 * give the claim back there. */
static void handshake_agree(struct nbd_handshake *h)
{
	struct nbd_conn *conn = h->conn;
	const struct export_info *info = &h->resolve.info;

	conn->terms = (struct nbd_terms){
	    .flags = transmission_flags(h),
	    .structured = h->structured,
	    .allocation = h->allocation && strcmp(h->meta_name, h->resolve.name) == 0,
	};
	conn->dev = info->dev;
	conn->claim = h->resolve.claim_handle;
	conn->lane = nbd_server_lane(conn->server, info->loop);
	name_for_log(info->name, conn->name);
}

static enum next resolved_go(struct nbd_handshake *h)
{
	const struct export_info *info = &h->resolve.info;
	uint32_t option = h->option.option;
	enum nbd_handshake_state after = HANDSHAKE_READ_OPTION;

	if (wants_claim(h)) {
		handshake_agree(h);
		after = HANDSHAKE_TRANSMIT;
	}
	if (option == NBD_OPT_EXPORT_NAME) {
		nbd_put_export_name(&h->out, info->size, transmission_flags(h), !h->no_zeroes);
		return handshake_send(h, after);
	}
	nbd_put_info_export(&h->out, option, info->size, transmission_flags(h));
	nbd_put_info_block_size(&h->out, option);
	if (h->go.wants_name)
		nbd_put_info_text(&h->out, option, NBD_INFO_NAME, info->name);
	if (h->go.wants_description && info->description[0])
		nbd_put_info_text(&h->out, option, NBD_INFO_DESCRIPTION, info->description);
	nbd_put_ack(&h->out, option);
	return handshake_send(h, after);
}

static enum next resolved_meta(struct nbd_handshake *h)
{
	uint32_t option = h->option.option;
	bool setting = option == NBD_OPT_SET_META_CONTEXT;
	bool found = h->meta.base_allocation;

	if (!setting)
		found |= h->meta.base_wildcard || h->meta.n_queries == 0;
	if (setting) {
		h->allocation = found;
		memcpy(h->meta_name, h->resolve.name, sizeof(h->meta_name));
	}
	if (found)
		nbd_put_meta_context(&h->out, option, setting ? NBD_BASE_ALLOCATION_ID : 0,
				     NBD_BASE_ALLOCATION);
	nbd_put_ack(&h->out, option);
	return handshake_send(h, HANDSHAKE_READ_OPTION);
}

static enum next handshake_list(struct nbd_handshake *h)
{
	struct exports *exports = h->conn->server->exports;
	char names[NBD_LIST_BATCH][EXPORT_DESCRIPTION_MAX];
	unsigned n = exports->list(exports, h->conn->local, h->n_listed, NBD_LIST_BATCH, names);

	h->out = cursor_over(h->output, sizeof(h->output));
	for (unsigned i = 0; i < n; i++)
		nbd_put_server(&h->out, names[i]);
	h->n_listed += n;
	if (n > 0)
		return handshake_send(h, HANDSHAKE_LIST);
	nbd_put_ack(&h->out, NBD_OPT_LIST);
	return handshake_send(h, HANDSHAKE_READ_OPTION);
}

/* ---- Output ---- */

static enum next handshake_refuse(struct nbd_handshake *h, uint32_t rep, const char *text)
{
	struct nbd_refusal refusal = {.rep = rep, .text = text};

	log_debug("nbd: %s: option %u refused: %s", h->conn->peer, h->option.option, text);
	h->out = cursor_over(h->output, sizeof(h->output));
	nbd_put_refusal(&h->out, h->option.option, &refusal);
	return handshake_send(h, rep == NBD_REP_ERR_SHUTDOWN && h->conn->server->stopping
				     ? HANDSHAKE_END
				     : HANDSHAKE_READ_OPTION);
}

static enum next handshake_send(struct nbd_handshake *h, enum nbd_handshake_state after)
{
	CHECK(!h->out.bad);
	h->after_send = after;
	h->iov = (struct iovec){h->output, sizeof(h->output) - h->out.left};
	handshake_enter(h, HANDSHAKE_WAIT_SENT);
	io_send(h->conn->server->loop, &h->op, h->conn->sock, &h->iov, 1);
	return WAIT;
}

static void handshake_on_io(struct io_op *op)
{
	handshake_step(container_of(op, struct nbd_handshake, op));
}

/* ---- The end ---- */

/* `why` is NULL when it is nobody's fault. */
static enum next handshake_fail(struct nbd_handshake *h, const char *why)
{
	struct nbd_server *server = h->conn->server;

	if (h->cause)
		why = h->spoke ? h->cause : NULL;
	if (why && log_limit_pass(&server->log, io_now(server->loop), NBD_LOG_BURST))
		log_warning("nbd: dropped %s in the handshake: %s", h->conn->peer, why);
	handshake_enter(h, HANDSHAKE_END);
	return AGAIN;
}

static void handshake_move(struct nbd_handshake *h)
{
	CHECK(h->conn->lane);
	nbd_server_handshake_ended(h);
}

static void handshake_end(struct nbd_handshake *h)
{
	CHECK(!h->conn->lane);
	nbd_server_handshake_ended(h);
}
