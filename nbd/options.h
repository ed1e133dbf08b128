/* SPDX-License-Identifier: Apache-2.0
 *
 * Option haggling as pure functions: bytes in, a struct or a refusal out; and the replies as bytes.
 * No I/O, no state, no memory of their own: names point into the input.
 */
#ifndef NBD_OPTIONS_H
#define NBD_OPTIONS_H

#include "base/bytes.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Why an option is not accepted: what the client is told. */
struct nbd_refusal {
	uint32_t rep;     /* NBD_REP_ERR_... */
	const char *text; /* static */
};

/* A name on the wire: no NUL in it, at most NBD_STRING_MAX bytes, no NUL at its end. */
struct nbd_name {
	const char *bytes;
	uint32_t length;
};

struct nbd_option {
	uint32_t option; /* enum nbd_opt, or one that we do not know */
	uint32_t length; /* of the data that follows */
};

/* Data of NBD_OPT_INFO and NBD_OPT_GO. */
struct nbd_go {
	struct nbd_name name;
	bool wants_name;
	bool wants_description;
};

/* Data of NBD_OPT_LIST_META_CONTEXT and NBD_OPT_SET_META_CONTEXT. */
struct nbd_meta {
	struct nbd_name name;
	uint32_t n_queries;
	bool base_allocation; /* asked for by its name */
	bool base_wildcard;   /* "base:" */
};

/* The peer's flags are a subset of those that we offer. */
bool nbd_client_flags_ok(uint32_t flags);
/* False: the magic is wrong. */
bool nbd_option_parse(const uint8_t bytes[], struct nbd_option *ret_option);
/* Each returns true, or false and a refusal. */
bool nbd_name_parse(const uint8_t *data, size_t length, struct nbd_name *ret_name,
		    struct nbd_refusal *ret_refusal);
bool nbd_go_parse(const uint8_t *data, size_t length, struct nbd_go *ret_go,
		  struct nbd_refusal *ret_refusal);
bool nbd_meta_parse(const uint8_t *data, size_t length, struct nbd_meta *ret_meta,
		    struct nbd_refusal *ret_refusal);
/* For options that have no data. */
bool nbd_empty_parse(size_t length, struct nbd_refusal *ret_refusal);

/* The replies. What does not fit sets out->bad. */
void nbd_put_greeting(struct cursor *out);
void nbd_put_ack(struct cursor *out, uint32_t option);
void nbd_put_refusal(struct cursor *out, uint32_t option, const struct nbd_refusal *refusal);
void nbd_put_server(struct cursor *out, const char *name);
void nbd_put_info_export(struct cursor *out, uint32_t option, uint64_t size, uint16_t flags);
void nbd_put_info_text(struct cursor *out, uint32_t option, uint16_t info, const char *text);
void nbd_put_info_block_size(struct cursor *out, uint32_t option);
void nbd_put_meta_context(struct cursor *out, uint32_t option, uint32_t id, const char *name);
void nbd_put_export_name(struct cursor *out, uint64_t size, uint16_t flags, bool zeroes);

#endif
