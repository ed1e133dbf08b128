/* SPDX-License-Identifier: Apache-2.0 */
#include "nbd/options.h"

#include "nbd/limits.h"
#include "nbd/protocol.h"

#include <string.h>

static bool refuse(struct nbd_refusal *refusal, uint32_t rep, const char *text)
{
	*refusal = (struct nbd_refusal){.rep = rep, .text = text};
	return false;
}

static bool invalid(struct nbd_refusal *refusal, const char *text)
{
	return refuse(refusal, NBD_REP_ERR_INVALID, text);
}

/* ---- Parsing ---- */

bool nbd_client_flags_ok(uint32_t flags)
{
	return (flags & ~(uint32_t)(NBD_C_FIXED_NEWSTYLE | NBD_C_NO_ZEROES)) == 0;
}

bool nbd_option_parse(const uint8_t bytes[], struct nbd_option *ret_option)
{
	if (get_be64(bytes) != NBD_OPTION_MAGIC)
		return false;
	ret_option->option = get_be32(bytes + 8);
	ret_option->length = get_be32(bytes + 12);
	return true;
}

static bool name_check(const uint8_t *bytes, size_t length, struct nbd_name *ret_name,
		       struct nbd_refusal *refusal)
{
	if (length > NBD_STRING_MAX)
		return invalid(refusal, "the export name is longer than 4096 bytes");
	if (memchr(bytes, '\0', length))
		return invalid(refusal, "the export name has a NUL in it");
	*ret_name = (struct nbd_name){.bytes = (const char *)bytes, .length = (uint32_t)length};
	return true;
}

/* A 32-bit length and so many bytes of name. */
static bool name_take(struct cursor *in, struct nbd_name *ret_name, struct nbd_refusal *refusal)
{
	uint32_t length = cursor_get_be32(in);
	const uint8_t *bytes;

	if (in->bad)
		return invalid(refusal, "the option ends before the length of its export name");
	bytes = cursor_take(in, length);
	if (!bytes)
		return invalid(refusal, "the export name is longer than the option");
	return name_check(bytes, length, ret_name, refusal);
}

bool nbd_name_parse(const uint8_t *data, size_t length, struct nbd_name *ret_name,
		    struct nbd_refusal *ret_refusal)
{
	return name_check(data, length, ret_name, ret_refusal);
}

bool nbd_go_parse(const uint8_t *data, size_t length, struct nbd_go *ret_go,
		  struct nbd_refusal *ret_refusal)
{
	struct cursor in = cursor_over(data, length);
	struct nbd_go go = {0};
	uint16_t n;

	if (!name_take(&in, &go.name, ret_refusal))
		return false;
	n = cursor_get_be16(&in);
	if (in.bad)
		return invalid(ret_refusal, "the option ends before the count of its requests");
	if (in.left != (size_t)n * 2)
		return invalid(
		    ret_refusal,
		    "the count of information requests does not fit the option's length");
	for (uint16_t i = 0; i < n; i++) {
		uint16_t info = cursor_get_be16(&in);

		/* EXPORT and BLOCK_SIZE are always told; the spec has us ignore unknown ones. */
		go.wants_name |= info == NBD_INFO_NAME;
		go.wants_description |= info == NBD_INFO_DESCRIPTION;
	}
	*ret_go = go;
	return true;
}

static bool query_is(const uint8_t *query, uint32_t length, const char *text)
{
	return length == strlen(text) && memcmp(query, text, length) == 0;
}

bool nbd_meta_parse(const uint8_t *data, size_t length, struct nbd_meta *ret_meta,
		    struct nbd_refusal *ret_refusal)
{
	struct cursor in = cursor_over(data, length);
	struct nbd_meta meta = {0};

	if (!name_take(&in, &meta.name, ret_refusal))
		return false;
	meta.n_queries = cursor_get_be32(&in);
	if (in.bad)
		return invalid(ret_refusal, "the option ends before the count of its queries");
	/* Ends at the first query that is not there, so that the count can't make us work. */
	for (uint32_t i = 0; i < meta.n_queries; i++) {
		uint32_t n = cursor_get_be32(&in);
		const uint8_t *query = cursor_take(&in, n);

		if (!query)
			return invalid(ret_refusal, "the queries are longer than the option");
		if (n > NBD_STRING_MAX)
			return invalid(ret_refusal, "a query is longer than 4096 bytes");
		if (!memchr(query, ':', n))
			return invalid(ret_refusal, "a query lacks the colon after its namespace");
		meta.base_allocation |= query_is(query, n, NBD_BASE_ALLOCATION);
		meta.base_wildcard |= query_is(query, n, NBD_BASE);
	}
	if (in.left > 0)
		return invalid(ret_refusal, "bytes are left over after the last query");
	*ret_meta = meta;
	return true;
}

bool nbd_empty_parse(size_t length, struct nbd_refusal *ret_refusal)
{
	return length == 0 || invalid(ret_refusal, "this option takes no data");
}

/* ---- Replies ---- */

static void put_bytes(struct cursor *out, const void *bytes, size_t length)
{
	uint8_t *p = cursor_take(out, length);

	if (p && length > 0)
		memcpy(p, bytes, length);
}

static void put_rep(struct cursor *out, uint32_t option, uint32_t rep, size_t length)
{
	cursor_put_be64(out, NBD_REP_MAGIC);
	cursor_put_be32(out, option);
	cursor_put_be32(out, rep);
	cursor_put_be32(out, (uint32_t)length);
}

void nbd_put_greeting(struct cursor *out)
{
	cursor_put_be64(out, NBD_MAGIC);
	cursor_put_be64(out, NBD_OPTION_MAGIC);
	cursor_put_be16(out, NBD_FIXED_NEWSTYLE | NBD_NO_ZEROES);
}

void nbd_put_ack(struct cursor *out, uint32_t option)
{
	put_rep(out, option, NBD_REP_ACK, 0);
}

void nbd_put_refusal(struct cursor *out, uint32_t option, const struct nbd_refusal *refusal)
{
	put_rep(out, option, refusal->rep, strlen(refusal->text));
	put_bytes(out, refusal->text, strlen(refusal->text));
}

void nbd_put_server(struct cursor *out, const char *name)
{
	put_rep(out, NBD_OPT_LIST, NBD_REP_SERVER, 4 + strlen(name));
	cursor_put_be32(out, (uint32_t)strlen(name));
	put_bytes(out, name, strlen(name));
}

void nbd_put_info_export(struct cursor *out, uint32_t option, uint64_t size, uint16_t flags)
{
	put_rep(out, option, NBD_REP_INFO, 12);
	cursor_put_be16(out, NBD_INFO_EXPORT);
	cursor_put_be64(out, size);
	cursor_put_be16(out, flags);
}

void nbd_put_info_text(struct cursor *out, uint32_t option, uint16_t info, const char *text)
{
	put_rep(out, option, NBD_REP_INFO, 2 + strlen(text));
	cursor_put_be16(out, info);
	put_bytes(out, text, strlen(text));
}

void nbd_put_info_block_size(struct cursor *out, uint32_t option)
{
	put_rep(out, option, NBD_REP_INFO, 14);
	cursor_put_be16(out, NBD_INFO_BLOCK_SIZE);
	cursor_put_be32(out, NBD_MIN_BLOCK);
	cursor_put_be32(out, NBD_PREFERRED_BLOCK);
	cursor_put_be32(out, NBD_MAX_PAYLOAD);
}

void nbd_put_meta_context(struct cursor *out, uint32_t option, uint32_t id, const char *name)
{
	put_rep(out, option, NBD_REP_META_CONTEXT, 4 + strlen(name));
	cursor_put_be32(out, id);
	put_bytes(out, name, strlen(name));
}

void nbd_put_export_name(struct cursor *out, uint64_t size, uint16_t flags, bool zeroes)
{
	cursor_put_be64(out, size);
	cursor_put_be16(out, flags);
	if (zeroes) {
		uint8_t *p = cursor_take(out, NBD_EXPORT_NAME_ZEROES);

		if (p)
			memset(p, 0, NBD_EXPORT_NAME_ZEROES);
	}
}
