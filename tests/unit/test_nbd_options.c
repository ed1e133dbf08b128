/* SPDX-License-Identifier: Apache-2.0
 *
 * Option parsers: what is accepted, and one refusal for each rule that can be broken.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/mem.h"
#include "nbd/options.h"
#include "nbd/protocol.h"

#include <stdlib.h>

#define BYTES(...) {__VA_ARGS__}, sizeof((uint8_t[]){__VA_ARGS__})

struct bad {
	uint8_t data[64];
	size_t length;
	const char *text; /* part of what the client is told */
};

/* Client flags: the two that we offer, and nothing else. */
static void client_flags(void **state)
{
	(void)state;
	assert_true(nbd_client_flags_ok(0));
	assert_true(nbd_client_flags_ok(1));
	assert_true(nbd_client_flags_ok(2));
	assert_true(nbd_client_flags_ok(3));
	for (int bit = 2; bit < 32; bit++)
		assert_false(nbd_client_flags_ok(UINT32_C(1) << bit | 3));
}

/* An option's header is its magic, its number, its length. */
static void option_header(void **state)
{
	uint8_t bytes[] = "IHAVEOPT\0\0\0\7\0\1\0\2";
	struct nbd_option option;

	(void)state;
	assert_true(nbd_option_parse(bytes, &option));
	assert_int_equal(option.option, NBD_OPT_GO);
	assert_int_equal(option.length, 0x10002);
	for (int i = 0; i < 8; i++) {
		bytes[i] ^= 1;
		assert_false(nbd_option_parse(bytes, &option));
		bytes[i] ^= 1;
	}
}

/* GO with a name and requests, known ones, unknown ones, repeated ones. */
static void go_good(void **state)
{
	const uint8_t data[] = {0, 0, 0, 2, 'a', 'b', 0, 5, 0, 0, 0, 1, 0, 3, 9, 9, 0, 1};
	struct nbd_refusal refusal;
	struct nbd_go go;

	(void)state;
	assert_true(nbd_go_parse(data, sizeof(data), &go, &refusal));
	assert_int_equal(go.name.length, 2);
	assert_memory_equal(go.name.bytes, "ab", 2);
	assert_true(go.wants_name);
	assert_false(go.wants_description);
}

/* The default export, and no request. */
static void go_shortest(void **state)
{
	const uint8_t data[6] = {0};
	struct nbd_refusal refusal;
	struct nbd_go go;

	(void)state;
	assert_true(nbd_go_parse(data, sizeof(data), &go, &refusal));
	assert_int_equal(go.name.length, 0);
	assert_false(go.wants_name);
}

/* Each rule of GO's data has its own refusal. */
static void go_bad(void **state)
{
	static const struct bad table[] = {
	    {BYTES(0), "before the length"},
	    {BYTES(0, 0, 0), "before the length"},
	    {BYTES(0, 0, 0, 1), "longer than the option"},
	    {BYTES(0xff, 0xff, 0xff, 0xff, 'a', 0, 0), "longer than the option"},
	    {BYTES(0x80, 0, 0, 0, 'a', 0, 0), "longer than the option"},
	    {BYTES(0, 0, 0, 1, 'a'), "before the count"},
	    {BYTES(0, 0, 0, 1, 'a', 0), "before the count"},
	    {BYTES(0, 0, 0, 0, 0, 1), "does not fit"},
	    {BYTES(0, 0, 0, 0, 0, 1, 0), "does not fit"},
	    {BYTES(0, 0, 0, 0, 0xff, 0xff, 0, 3), "does not fit"},
	    {BYTES(0, 0, 0, 0, 0, 0, 0), "does not fit"},
	    {BYTES(0, 0, 0, 0, 0, 1, 0, 3, 0), "does not fit"},
	    {BYTES(0, 0, 0, 1, 0, 0, 0), "NUL"},
	    {BYTES(0, 0, 0, 3, 'a', 0, 'b', 0, 0), "NUL"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		struct nbd_refusal refusal = {0};
		struct nbd_go go = {.wants_name = true};

		assert_false(nbd_go_parse(table[i].data, table[i].length, &go, &refusal));
		assert_int_equal(refusal.rep, NBD_REP_ERR_INVALID);
		assert_non_null(strstr(refusal.text, table[i].text));
		assert_true(go.wants_name); /* untouched */
	}
}

/* Names of up to 4096 bytes are names. */
static void name_length(void **state)
{
	struct nbd_refusal refusal;
	struct nbd_name name;
	uint8_t data[4097];

	(void)state;
	memset(data, 'n', sizeof(data));
	assert_true(nbd_name_parse(data, 4096, &name, &refusal));
	assert_int_equal(name.length, 4096);
	assert_false(nbd_name_parse(data, 4097, &name, &refusal));
	assert_non_null(strstr(refusal.text, "4096"));
}

struct meta_case {
	const char *queries[4];
	uint32_t n;
	bool allocation;
	bool wildcard;
};

static size_t put_meta(uint8_t *out, size_t size, const struct meta_case *c)
{
	struct cursor cursor = cursor_over(out, size);

	cursor_put_be32(&cursor, 1);
	cursor_put_u8(&cursor, 'x');
	cursor_put_be32(&cursor, c->n);
	for (uint32_t i = 0; i < c->n; i++) {
		size_t n = strlen(c->queries[i]);

		cursor_put_be32(&cursor, (uint32_t)n);
		memcpy(cursor_take(&cursor, n), c->queries[i], n);
	}
	return size - cursor.left;
}

/* Queries: the one context by its name, its namespace, and others that are ignored. */
static void meta_good(void **state)
{
	static const struct meta_case table[] = {
	    {{NULL}, 0, false, false},
	    {{"base:allocation"}, 1, true, false},
	    {{"base:"}, 1, false, true},
	    {{"base:allocation", "base:"}, 2, true, true},
	    {{"base:allocatio", "base:allocationx", "Base:allocation"}, 3, false, false},
	    {{"qemu:dirty-bitmap:b", "x:", ":", "base:allocation"}, 4, true, false},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		struct nbd_refusal refusal;
		struct nbd_meta meta;
		uint8_t data[256];
		size_t n = put_meta(data, sizeof(data), &table[i]);

		assert_true(nbd_meta_parse(data, n, &meta, &refusal));
		assert_int_equal(meta.n_queries, table[i].n);
		assert_int_equal(meta.base_allocation, table[i].allocation);
		assert_int_equal(meta.base_wildcard, table[i].wildcard);
	}
}

/* Each rule of the contexts' data has its own refusal. */
static void meta_bad(void **state)
{
	static const struct bad table[] = {
	    {BYTES(0, 0), "before the length"},
	    {BYTES(0, 0, 0, 9, 'a'), "longer than the option"},
	    {BYTES(0, 0, 0, 1, 'a', 0, 0, 0), "before the count"},
	    {BYTES(0, 0, 0, 0, 0, 0, 0, 1), "queries are longer"},
	    {BYTES(0, 0, 0, 0, 0, 0, 0, 1, 0, 0), "queries are longer"},
	    {BYTES(0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 3, 'a', ':'), "queries are longer"},
	    {BYTES(0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, ':'), "queries are longer"},
	    {BYTES(0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff), "queries are longer"},
	    {BYTES(0, 0, 0, 0, 0, 0, 0, 0, 'x'), "left over"},
	    {BYTES(0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 'a', ':', 'x'), "left over"},
	    {BYTES(0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 'a'), "colon"},
	    {BYTES(0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0), "colon"},
	    {BYTES(0, 0, 0, 1, 0, 0, 0, 0, 0), "NUL"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		struct nbd_refusal refusal = {0};
		struct nbd_meta meta;

		assert_false(nbd_meta_parse(table[i].data, table[i].length, &meta, &refusal));
		assert_int_equal(refusal.rep, NBD_REP_ERR_INVALID);
		assert_non_null(strstr(refusal.text, table[i].text));
	}
}

/* Whole data is accepted; every shorter piece of it is refused, and not one byte past it is read
 * (the sanitizers watch). */
static void truncated_everywhere(void **state)
{
	static const struct meta_case meta_case = {{"base:allocation", "x:y"}, 2, true, false};
	uint8_t go_data[] = {0, 0, 0, 2, 'a', 'b', 0, 2, 0, 1, 0, 3};
	uint8_t meta_data[64];
	size_t meta_size = put_meta(meta_data, sizeof(meta_data), &meta_case);
	struct nbd_refusal refusal;
	struct nbd_meta meta;
	struct nbd_go go;

	(void)state;
	for (size_t n = 0; n <= meta_size; n++) {
		uint8_t *exact = malloc(n + 1);

		assert_non_null(exact);
		memcpy(exact + 1, meta_data, n);
		assert_int_equal(nbd_meta_parse(exact + 1, n, &meta, &refusal), n == meta_size);
		if (n <= sizeof(go_data)) {
			memcpy(exact + 1, go_data, n);
			assert_int_equal(nbd_go_parse(exact + 1, n, &go, &refusal),
					 n == sizeof(go_data));
		}
		free(exact);
	}
}

/* Options that take no data take none. */
static void empty(void **state)
{
	struct nbd_refusal refusal = {0};

	(void)state;
	assert_true(nbd_empty_parse(0, &refusal));
	assert_false(nbd_empty_parse(1, &refusal));
	assert_int_equal(refusal.rep, NBD_REP_ERR_INVALID);
}

/* Replies, byte by byte. */
static void replies(void **state)
{
	static const uint8_t ack[] = {0, 3, 0xe8, 0x89, 4, 0x55, 0x65, 0xa9, 0, 0,
				      0, 7, 0,    0,    0, 1,    0,    0,    0, 0};
	static const uint8_t export[] = {0, 3, 0xe8, 0x89, 4, 0x55, 0x65, 0xa9, 0,  0,   0,
					 7, 0, 0,    0,    3, 0,    0,    0,    12, 0,   0,
					 0, 0, 0,    0,    0, 0,    0x10, 0,    5,  0xed};
	uint8_t out[512];
	struct cursor c = cursor_over(out, sizeof(out));

	(void)state;
	nbd_put_ack(&c, NBD_OPT_GO);
	assert_int_equal(sizeof(out) - c.left, sizeof(ack));
	assert_memory_equal(out, ack, sizeof(ack));

	c = cursor_over(out, sizeof(out));
	nbd_put_info_export(&c, NBD_OPT_GO, 4096, 0x5ed);
	assert_int_equal(sizeof(out) - c.left, sizeof(export));
	assert_memory_equal(out, export, sizeof(export));

	c = cursor_over(out, sizeof(out));
	nbd_put_export_name(&c, 4096, 1, true);
	assert_int_equal(sizeof(out) - c.left, 134);
	c = cursor_over(out, sizeof(out));
	nbd_put_export_name(&c, 4096, 1, false);
	assert_int_equal(sizeof(out) - c.left, 10);
}

/* What does not fit is not written past the end, and says so. */
static void reply_too_long(void **state)
{
	uint8_t out[24] = {0};
	struct cursor c = cursor_over(out, 23);

	(void)state;
	nbd_put_server(&c, "name");
	assert_true(c.bad);
	assert_int_equal(out[23], 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(client_flags), cmocka_unit_test(option_header),
	    cmocka_unit_test(go_good),      cmocka_unit_test(go_shortest),
	    cmocka_unit_test(go_bad),       cmocka_unit_test(name_length),
	    cmocka_unit_test(meta_good),    cmocka_unit_test(meta_bad),
	    cmocka_unit_test(empty),        cmocka_unit_test(truncated_everywhere),
	    cmocka_unit_test(replies),      cmocka_unit_test(reply_too_long),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
