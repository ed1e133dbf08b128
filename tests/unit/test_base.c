/* SPDX-License-Identifier: Apache-2.0
 *
 * base/: sizes and ids as text, the bounded cursor, lists, pools, checksums.
 */
#include "base/base64.h"
#include "base/bytes.h"
#include "base/crc32c.h"
#include "base/err.h"
#include "base/id.h"
#include "base/list.h"
#include "base/mem.h"
#include "base/size.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

/* The vectors of RFC 4648, section 10, and a byte of each digit's end. */
static void base64_vectors(void **state)
{
	static const char *const cases[][2] = {
	    {"", ""},
	    {"f", "Zg=="},
	    {"fo", "Zm8="},
	    {"foo", "Zm9v"},
	    {"foob", "Zm9vYg=="},
	    {"fooba", "Zm9vYmE="},
	    {"foobar", "Zm9vYmFy"},
	    {"\xfb\xff\xfe", "+//+"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char text[BASE64_TEXT(6)];
		size_t len = strlen(cases[i][0]);

		assert_string_equal(base64_encode((const uint8_t *)cases[i][0], len, text),
				    cases[i][1]);
	}
}

/* The forms that the header lists mean what it says. */
static void size_parse_forms(void **state)
{
	static const struct {
		const char *text;
		uint64_t bytes;
	} cases[] = {
	    {"0", 0},
	    {"4096", 4096},
	    {"512B", 512},
	    {"1K", 1024},
	    {"1k", 1024},
	    {"1KiB", 1024},
	    {"1KB", 1000},
	    {"512MiB", 512 * MiB},
	    {"10GiB", 10 * GiB},
	    {"10 GiB", 10 * GiB},
	    {"1.5TiB", 3 * TiB / 2},
	    {"2P", 2048 * TiB},
	    {"9223372036854775807", INT64_MAX},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		uint64_t bytes = 42;

		assert_int_equal(size_parse(cases[i].text, &bytes), 0);
		assert_true(bytes == cases[i].bytes);
	}
}

/* Anything else is refused, and the output stays untouched. */
static void size_parse_refuses(void **state)
{
	static const char *const wrong[] = {"",    "G",     "-1",    "+1",    " 1",   "1X",
					    "1Gi", "1GiBB", "1G 1",  "ten",   "0x10", "1e",
					    "inf", "nan",   "1KiB ", "1 GiB?"};
	static const char *const too_large[] = {"9223372036854775808", "8192P", "1e30G"};
	uint64_t bytes = 42;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++)
		assert_int_equal(size_parse(wrong[i], &bytes), -EINVAL);
	for (size_t i = 0; i < ARRAY_SIZE(too_large); i++)
		assert_int_equal(size_parse(too_large[i], &bytes), -ERANGE);
	assert_true(bytes == 42);
}

/* Sizes are shown in the largest unit that leaves one digit before the point. */
static void size_format_units(void **state)
{
	char text[SIZE_TEXT_MAX];

	(void)state;
	assert_string_equal(size_format(0, text), "0 B");
	assert_string_equal(size_format(512, text), "512 B");
	assert_string_equal(size_format(1024, text), "1 KiB");
	assert_string_equal(size_format(3 * MiB / 2, text), "1.5 MiB");
	assert_string_equal(size_format(10 * GiB, text), "10 GiB");
	assert_string_equal(size_format(64 * TiB, text), "64 TiB");
}

/* An id made from random bytes comes back from its text. */
static void id_round_trip(void **state)
{
	uint8_t random[16];
	char text[ID_TEXT_MAX];
	struct id id;
	struct id back;

	(void)state;
	for (unsigned i = 0; i < 16; i++)
		random[i] = (uint8_t)(i * 37 + 11);
	id = id_from_random(random);
	assert_int_equal(id_parse(id_format(id, "vol", text), "vol", &back), 0);
	assert_true(id_equal(id, back));
	assert_int_equal(strlen(text), strlen("vol-") + 17);
}

/* The text form is that of EC2: prefix, dash, 17 lower-case hex digits; nothing else parses. */
static void id_parse_refuses(void **state)
{
	static const char *const wrong[] = {
	    "",
	    "vol-",
	    "vol-0123456789abcdef",
	    "vol-0123456789abcdef00",
	    "vol-0123456789ABCDEF0",
	    "vol_0123456789abcdef0",
	    "snap-123456789abcdef0",
	    "vol-0123456789abcdeg0",
	    "0123456789abcdef00000",
	};
	struct id id = {.hi = 1, .lo = 2};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++)
		assert_int_equal(id_parse(wrong[i], "vol", &id), -EINVAL);
	assert_true(id.hi == 1 && id.lo == 2);
	assert_int_equal(id_parse("vol-f0123456789abcdef", "vol", &id), 0);
	assert_true(id.hi == 0xf);
	assert_true(id.lo == 0x0123456789abcdef);
}

/* What a cursor writes in one byte order it reads back, byte by byte where it should be. */
static void cursor_round_trip(void **state)
{
	static const uint8_t expected[] = {0xab, 0x34, 0x12, 0x12, 0x34, 0x78, 0x56, 0x34, 0x12,
					   0,    0,    0,    0,    0,    0,    0,    0x2a};
	uint8_t buf[sizeof(expected)] = {0};
	struct cursor c = cursor_over(buf, sizeof(buf));

	(void)state;
	cursor_put_u8(&c, 0xab);
	cursor_put_le16(&c, 0x1234);
	cursor_put_be16(&c, 0x1234);
	cursor_put_le32(&c, 0x12345678);
	cursor_put_be64(&c, 42);
	assert_false(c.bad);
	assert_int_equal(c.left, 0);
	assert_memory_equal(buf, expected, sizeof(expected));

	c = cursor_over(buf, sizeof(buf));
	assert_int_equal(cursor_get_u8(&c), 0xab);
	assert_int_equal(cursor_get_le16(&c), 0x1234);
	assert_int_equal(cursor_get_be16(&c), 0x1234);
	assert_int_equal(cursor_get_le32(&c), 0x12345678);
	assert_true(cursor_get_be64(&c) == 42);
	assert_false(c.bad);
}

/* Past the end a cursor reads zeroes, drops writes, says so, and stays that way. */
static void cursor_overrun(void **state)
{
	uint8_t buf[8] = {1, 2, 3, 4, 5, 6, 7, 8};
	struct cursor c = cursor_over(buf, 6);

	(void)state;
	assert_true(cursor_get_le32(&c) == 0x04030201);
	assert_true(cursor_get_le32(&c) == 0);
	assert_true(c.bad);
	assert_int_equal(cursor_get_u8(&c), 0); /* two bytes are left, but it is bad now */
	assert_null(cursor_take(&c, 0));

	c = cursor_over(buf, 6);
	cursor_put_be64(&c, 0);
	assert_true(c.bad);
	for (unsigned i = 0; i < sizeof(buf); i++)
		assert_int_equal(buf[i], i + 1);

	c = cursor_over(buf, 6);
	assert_null(cursor_take(&c, SIZE_MAX));
	assert_true(c.bad);
}

struct item {
	unsigned n;
	struct list node;
};

static void expect_order(struct list *l, const char *digits)
{
	list_for_each (l, node) {
		assert_true(*digits != '\0');
		assert_int_equal(list_entry(node, struct item, node)->n, (unsigned)(*digits - '0'));
		digits++;
	}
	assert_int_equal(*digits, '\0');
}

/* Both ends, splicing and popping keep the order. */
static void list_order(void **state)
{
	struct item items[6];
	struct list a;
	struct list b;

	(void)state;
	list_init(&a);
	list_init(&b);
	for (unsigned i = 0; i < 6; i++)
		items[i].n = i;
	list_add_tail(&a, &items[1].node);
	list_add_tail(&a, &items[2].node);
	list_add_head(&a, &items[0].node);
	list_add_tail(&b, &items[3].node);
	list_add_tail(&b, &items[4].node);
	list_splice_tail(&a, &b);
	assert_true(list_empty(&b));
	list_splice_tail(&a, &b); /* an empty list adds nothing */
	expect_order(&a, "01234");
	assert_ptr_equal(list_pop(&a), &items[0].node);
	assert_int_equal(list_first(&a, struct item, node)->n, 1);
	list_for_each_safe (&a, node)
		list_remove(node);
	assert_null(list_pop(&a));
}

/* Removing a node that is on no list does no harm. */
static void list_remove_twice(void **state)
{
	struct item items[2] = {{.n = 0}, {.n = 1}};
	struct list l;

	(void)state;
	list_init(&l);
	list_add_tail(&l, &items[0].node);
	list_add_tail(&l, &items[1].node);
	list_remove(&items[0].node);
	list_remove(&items[0].node);
	expect_order(&l, "1");
}

/* A pool hands out just as many distinct objects as it has, then NULL: never more memory. */
static void pool_exhaustion(void **state)
{
	struct pool *p = pool_new(100, 4);
	char *objects[4];

	(void)state;
	assert_non_null(p);
	for (unsigned i = 0; i < 4; i++) {
		objects[i] = pool_get(p);
		assert_non_null(objects[i]);
		memset(objects[i], (int)i, 100);
	}
	assert_null(pool_get(p));
	assert_int_equal(pool_in_use(p), 4);
	for (unsigned i = 0; i < 4; i++) {
		assert_int_equal(objects[i][0], i);
		assert_int_equal(objects[i][99], i);
	}
	pool_put(p, objects[2]);
	assert_ptr_equal(pool_get(p), objects[2]);
	for (unsigned i = 0; i < 4; i++)
		pool_put(p, objects[i]);
	assert_int_equal(pool_in_use(p), 0);
	pool_free(p);
	pool_free(NULL);
}

/* Objects of a page or more are page-aligned: they serve direct I/O. */
static void pool_alignment(void **state)
{
	struct pool *p = pool_new(5000, 2);
	void *a = pool_get(p);
	void *b = pool_get(p);

	(void)state;
	assert_int_equal((uintptr_t)a % 4096, 0);
	assert_int_equal((uintptr_t)b % 4096, 0);
	pool_put(p, a);
	pool_put(p, b);
	pool_free(p);
}

/* The published check value of CRC-32C: initial value and final inversion are the caller's. */
static void crc32c_check_value(void **state)
{
	(void)state;
	assert_int_equal(crc32c(0xffffffff, "123456789", 9) ^ 0xffffffff, 0xe3069283);
}

/* A checksum over two pieces is that of the whole, and a seed changes it. */
static void crc32c_seed(void **state)
{
	uint8_t buf[5000];
	uint32_t whole;

	(void)state;
	for (unsigned i = 0; i < sizeof(buf); i++)
		buf[i] = (uint8_t)(i * 7);
	whole = crc32c(17, buf, sizeof(buf));
	assert_int_equal(crc32c(crc32c(17, buf, 1234), buf + 1234, sizeof(buf) - 1234), whole);
	assert_int_not_equal(crc32c(18, buf, sizeof(buf)), whole);
	assert_int_equal(crc32c(17, buf, 0), 17);
}

/* An error keeps its code while it gathers context, and never runs over its text. */
static void err_context(void **state)
{
	struct err err = {0};
	char long_text[2 * ERR_TEXT_MAX];

	(void)state;
	assert_int_equal(err_set(&err, -ENOENT, "%s is missing", "volume"), -ENOENT);
	assert_int_equal(err_wrap(&err, "start of %d", 7), -ENOENT);
	assert_string_equal(err.text, "start of 7: volume is missing");
	assert_int_equal(err_set(NULL, -EIO, "nobody listens"), -EIO);

	memset(long_text, 'x', sizeof(long_text) - 1);
	long_text[sizeof(long_text) - 1] = '\0';
	assert_int_equal(err_set(&err, -EIO, "%s", long_text), -EIO);
	assert_int_equal(err_wrap(&err, "%s", long_text), -EIO);
	assert_int_equal(strlen(err.text), ERR_TEXT_MAX - 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(size_parse_forms),  cmocka_unit_test(size_parse_refuses),
	    cmocka_unit_test(size_format_units), cmocka_unit_test(id_round_trip),
	    cmocka_unit_test(id_parse_refuses),  cmocka_unit_test(cursor_round_trip),
	    cmocka_unit_test(cursor_overrun),    cmocka_unit_test(list_order),
	    cmocka_unit_test(list_remove_twice), cmocka_unit_test(pool_exhaustion),
	    cmocka_unit_test(pool_alignment),    cmocka_unit_test(crc32c_check_value),
	    cmocka_unit_test(base64_vectors),    cmocka_unit_test(crc32c_seed),
	    cmocka_unit_test(err_context),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
