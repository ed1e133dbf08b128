/* SPDX-License-Identifier: Apache-2.0
 *
 * The parts of the instance store by themselves: its pages, AES-XTS, maps, and the key folder.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/util.h"
#include "instance-store/format.h"
#include "instance-store/keep_tmpfs.h"
#include "instance-store/map.h"
#include "instance-store/xts.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

static const struct istore_super super = {
    .uuid = {1, 2}, .host = {3, 4}, .sequence = 9, .slice_size = MiB, .n_slices = 100};

static struct istore_slot some_slot(void)
{
	return (struct istore_slot){
	    .version = 3,
	    .state = ISTORE_SLOT_USED,
	    .generation = 17,
	    .instance = {5, 6},
	    .number = 23,
	    .size = 3 * MiB - 4096,
	    .boot = {7, 8},
	    .discard = true,
	    .n_extents = 2,
	    .extents = {{98, 2}, {0, 1}},
	};
}

/* ---- Pages --------------------------------------------------------------------------- */

/* What is written is what is read. */
static void pages_round_trip(void **state)
{
	struct istore_slot slot = some_slot();
	struct istore_slot slot_back;
	struct istore_super super_back;
	uint8_t page[ISTORE_PAGE];

	(void)state;
	istore_super_encode(&super, page);
	assert_int_equal(istore_super_decode(page, &super_back), 0);
	assert_memory_equal(&super, &super_back, sizeof(super));
	istore_slot_encode(&slot, super.uuid, 5, page);
	memset(&slot_back, 0, sizeof(slot_back));
	assert_int_equal(istore_slot_decode(page, &super, 5, &slot_back), 0);
	assert_int_equal(slot_back.extents[0].first, 98);
	assert_int_equal(slot_back.generation, 17);
	assert_int_equal(slot_back.size, slot.size);
	assert_true(slot_back.discard);
	assert_true(id_equal(slot_back.boot, slot.boot));
}

/* Any bit that flips is found. */
static void flipped_bits_are_found(void **state)
{
	struct istore_slot slot = some_slot();
	uint8_t page[ISTORE_PAGE];

	(void)state;
	istore_slot_encode(&slot, super.uuid, 5, page);
	for (unsigned bit = 0; bit < ISTORE_PAGE * 8; bit += 7) {
		page[bit / 8] ^= (uint8_t)(1 << bit % 8);
		assert_true(istore_slot_decode(page, &super, 5, &slot) < 0);
		page[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
	assert_int_equal(istore_slot_decode(page, &super, 5, &slot), 0);
}

/* A page of another store or slot is refused, and zeroes are told from rubbish. */
static void pages_know_their_place(void **state)
{
	struct istore_super other = super;
	struct istore_slot slot = some_slot();
	uint8_t page[ISTORE_PAGE];

	(void)state;
	istore_slot_encode(&slot, super.uuid, 5, page);
	assert_int_equal(istore_slot_decode(page, &super, 6, &slot), -EUCLEAN);
	other.uuid.lo++;
	assert_int_equal(istore_slot_decode(page, &other, 5, &slot), -EUCLEAN);
	memset(page, 0, sizeof(page));
	assert_int_equal(istore_slot_decode(page, &super, 5, &slot), -ENODATA);
	page[100] = 1;
	assert_int_equal(istore_slot_decode(page, &super, 5, &slot), -EMEDIUMTYPE);
}

/* Values that a correct checksum covers are still not believed. */
static void values_are_checked(void **state)
{
	struct istore_slot bad[8];
	struct istore_slot back;
	uint8_t page[ISTORE_PAGE];

	(void)state;
	for (unsigned i = 0; i < 8; i++)
		bad[i] = some_slot();
	bad[0].extents[0].first = 99; /* past the end */
	bad[1].extents[0].count = 0;
	bad[2].size += MiB; /* more than its extents */
	bad[3].size += 1;
	bad[4].number = ISTORE_DISKS_MAX;
	bad[5].instance = (struct id){0, 0};
	bad[6].state = 7;
	bad[7].generation = 0;
	for (unsigned i = 0; i < 8; i++) {
		istore_slot_encode(&bad[i], super.uuid, 5, page);
		assert_int_equal(istore_slot_decode(page, &super, 5, &back), -EUCLEAN);
	}
}

/* Which of two copies counts. */
static void copies_are_judged(void **state)
{
	static const struct {
		int errors[2];
		uint64_t versions[2];
		int copy;
		bool repair;
	} table[] = {
	    {{0, 0}, {3, 4}, 1, false},
	    {{0, 0}, {5, 4}, 0, true}, /* the second was still to be written */
	    {{-EUCLEAN, 0}, {0, 4}, 1, true},
	    {{0, -EUCLEAN}, {5, 0}, 0, true},
	    {{0, -ENODATA}, {1, 0}, 0, true},
	    {{-ENODATA, -ENODATA}, {0, 0}, 0, false},
	    {{-EUCLEAN, -ENODATA}, {0, 0}, 1, true}, /* the very first, torn */
	    {{-EMEDIUMTYPE, -ENODATA}, {0, 0}, 1, true},
	    {{-EUCLEAN, -EUCLEAN}, {0, 0}, -1, false},
	    {{-ENODATA, -EUCLEAN}, {0, 0}, -1, false},
	};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(table); i++) {
		struct istore_judgement j = istore_slot_judge(table[i].errors, table[i].versions);

		assert_int_equal(j.copy, table[i].copy);
		assert_int_equal(j.repair, table[i].repair);
	}
}

/* ---- AES-256-XTS --------------------------------------------------------------------- */

/* Vector 10 of IEEE 1619-2007, whose data unit is the first 512 bytes of ours. */
static const char vector_key[] = "2718281828459045235360287471352662497757247093699959574966967627"
				 "3141592653589793238462643383279502884197169399375105820974944592";
static const char vector_cipher[] =
    "1c3b3a102f770386e4836c99e370cf9bea00803f5e482357a4ae12d414a3e63b"
    "5d31e276f8fe4a8d66b317f9ac683f44680a86ac35adfc3345befecb4bb188fd";

static void from_hex(const char *text, uint8_t *ret, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		unsigned byte;

		assert_int_equal(sscanf(text + 2 * i, "%2x", &byte), 1);
		ret[i] = (uint8_t)byte;
	}
}

static void xts_known_answer(void **state)
{
	uint8_t key[ISTORE_KEY_SIZE];
	uint8_t cipher[64];
	uint8_t plain[2 * ISTORE_PAGE] = {0};
	uint8_t out[2 * ISTORE_PAGE];
	uint8_t back[2 * ISTORE_PAGE];
	struct xts *xts;
	struct err err;

	(void)state;
	from_hex(vector_key, key, sizeof(key));
	from_hex(vector_cipher, cipher, sizeof(cipher));
	for (unsigned i = 0; i < 512; i++)
		plain[i] = (uint8_t)i;
	assert_int_equal(xts_new(key, &xts, &err), 0);
	xts_encrypt(xts, 0xff, 2, plain, out);
	assert_memory_equal(out, cipher, sizeof(cipher));
	xts_decrypt(xts, 0xff, 2, out, back);
	assert_memory_equal(back, plain, sizeof(plain));
	/* The second block has a tweak of its own, and in place is the same. */
	assert_memory_not_equal(out + 512, out + ISTORE_PAGE + 512, 512);
	xts_encrypt(xts, 0xff, 2, plain, plain);
	assert_memory_equal(plain, out, sizeof(plain));
	xts_free(xts);
}

/* ---- Maps ---------------------------------------------------------------------------- */

/* Against an array of bytes, over the borders of words. */
static void map_is_as_an_array(void **state)
{
	enum { N = 200 };
	uint64_t map[4] = {0};
	uint8_t model[N] = {0};
	uint32_t random = 1;

	(void)state;
	for (unsigned round = 0; round < 20000; round++) {
		unsigned first, end, run, count = 0;
		bool set;

		random = random * 1103515245 + 12345;
		first = (random >> 8) % N;
		end = first + (random >> 16) % (N - first + 1);
		set = random & 64;
		if (set)
			map_set(map, first, end);
		else
			map_clear(map, first, end);
		memset(model + first, set, end - first);
		first = (random >> 11) % N;
		for (run = first; run < N && model[run] == set; run++)
			;
		assert_int_equal(map_run_end(map, first, N, set), run);
		for (unsigned i = first; i < N; i++)
			count += model[i];
		assert_int_equal(map_count(map, first, N), count);
		assert_int_equal(map_get(map, first), model[first]);
	}
}

/* ---- The key folder ------------------------------------------------------------------ */

static char folder[64];
static const struct id store = {.hi = 11, .lo = 12};
static const struct keep_name name = {.slot = 3, .generation = 4};
static uint8_t key[ISTORE_KEY_SIZE];

static int folder_setup(void **state)
{
	(void)state;
	snprintf(folder, sizeof(folder), "/tmp/volumed-test.XXXXXX");
	for (unsigned i = 0; i < sizeof(key); i++)
		key[i] = (uint8_t)(i + 1);
	return mkdtemp(folder) ? 0 : -1;
}

static int folder_teardown(void **state)
{
	char command[128];

	(void)state;
	snprintf(command, sizeof(command), "rm -rf '%s'", folder);
	return system(command);
}

static struct keep *keep_in_boot(uint64_t boot)
{
	static struct keep_tmpfs_source source;
	struct keep *keep = NULL;
	struct err err;

	keep_tmpfs_source_init(&source, folder, true);
	source.source.boot = (struct id){.hi = 1, .lo = boot};
	assert_int_equal(source.source.open(&source.source, store, &keep, &err), 0);
	return keep;
}

static int open_error(struct keep *keep)
{
	struct keep_item *item = NULL;
	struct err err;
	int r = keep->ops->open(keep, &name, 1000, &item, &err);

	if (r == 0)
		keep->ops->close(keep, item);
	return r;
}

static void make_one(struct keep *keep)
{
	struct keep_item *item;
	struct err err;

	assert_int_equal(keep->ops->make(keep, &name, 1000, key, &item, &err), 0);
	map_set(item->map, 10, 20);
	keep->ops->close(keep, item);
}

static const char *path_of(const char *end, char path[160])
{
	char uuid[ID_TEXT_MAX];

	snprintf(path, 160, "%s/%s/3-4%s", folder, uuid_format(store, uuid), end);
	return path;
}

/* Key and map outlive the process: what was set is there, without anything being written. */
static void keys_are_kept(void **state)
{
	struct keep *keep = keep_in_boot(1);
	struct keep_item *item;
	struct err err;
	struct stat st;
	char path[160];

	(void)state;
	make_one(keep);
	keep->ops->free(keep);
	keep = keep_in_boot(1);
	assert_int_equal(keep->ops->open(keep, &name, 1000, &item, &err), 0);
	assert_memory_equal(item->key, key, sizeof(key));
	assert_int_equal(map_count(item->map, 0, 1000), 10);
	assert_true(map_get(item->map, 19));
	keep->ops->close(keep, item);
	assert_int_equal(stat(path_of(".key", path), &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	keep->ops->free(keep);
}

/* A destroyed key is nowhere any more: not by name, and not in what an open descriptor sees. */
static void destroyed_keys_are_gone(void **state)
{
	struct keep *keep = keep_in_boot(1);
	struct keep_item *item;
	struct err err;
	uint8_t page[ISTORE_PAGE];
	char path[160];
	int fd;

	(void)state;
	make_one(keep);
	fd = open(path_of(".key", path), O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(keep->ops->open(keep, &name, 1000, &item, &err), 0);
	keep->ops->destroy_key(keep, item);
	assert_null(item->key);
	assert_int_equal(open_error(keep), -ENOENT);
	assert_int_equal(pread(fd, page, sizeof(page), 0), sizeof(page));
	for (unsigned i = 0; i < sizeof(page); i++)
		assert_int_equal(page[i], 0);
	close(fd);
	keep->ops->close(keep, item);
	assert_int_equal(access(path_of(".map", path), F_OK), -1);
	keep->ops->free(keep);
}

/* Another boot, another size, damage: nothing is opened. */
static void wrong_keys_are_not_opened(void **state)
{
	struct keep *keep = keep_in_boot(1);
	struct keep_item *item = NULL;
	struct err err;
	char path[160];
	int fd;

	(void)state;
	make_one(keep);
	assert_int_equal(keep->ops->open(keep, &name, 70000, &item, &err), -ENOENT);
	keep->ops->free(keep);
	keep = keep_in_boot(2);
	assert_int_equal(open_error(keep), -ENOENT);
	keep->ops->free(keep);
	fd = open(path_of(".key", path), O_RDWR | O_CLOEXEC);
	assert_int_equal(pwrite(fd, "x", 1, ISTORE_KEY_AT + 5), 1);
	close(fd);
	keep = keep_in_boot(1);
	assert_int_equal(open_error(keep), -ENOENT);
	keep->ops->free(keep);
}

static bool wants_none(void *arg, const struct keep_name *n)
{
	(void)n;
	return arg == NULL;
}

/* What nobody wants is destroyed, and other files are left alone. */
static void sweep_destroys(void **state)
{
	struct keep *keep = keep_in_boot(1);
	struct err err;
	char path[160];
	int some = 0;
	int fd;

	(void)state;
	make_one(keep);
	fd = open(path_of("x", path), O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	close(fd);
	assert_int_equal(keep->ops->sweep(keep, wants_none, NULL, &err), 0);
	assert_int_equal(open_error(keep), 0);
	assert_int_equal(keep->ops->sweep(keep, wants_none, &some, &err), 1);
	assert_int_equal(open_error(keep), -ENOENT);
	assert_int_equal(access(path_of(".map", path), F_OK), -1);
	assert_int_equal(access(path_of("x", path), F_OK), 0);
	keep->ops->free(keep);
}

/* One process has the keys of a store. */
static void key_folder_is_locked(void **state)
{
	struct keep *keep = keep_in_boot(1);
	struct keep *other = NULL;
	struct keep_tmpfs_source source;
	struct err err;

	(void)state;
	keep_tmpfs_source_init(&source, folder, true);
	assert_int_equal(source.source.open(&source.source, store, &other, &err), -EBUSY);
	keep->ops->free(keep);
}

/* A folder that outlasts the host's power is refused, with what to do. */
static void key_folder_is_on_tmpfs(void **state)
{
	struct keep_tmpfs_source source;
	struct keep *keep = NULL;
	struct statfs fs;
	struct err err;

	(void)state;
	assert_int_equal(statfs(folder, &fs), 0);
	if (fs.f_type == 0x01021994) /* TMPFS_MAGIC */
		skip();
	keep_tmpfs_source_init(&source, folder, false);
	assert_int_equal(source.source.open(&source.source, store, &keep, &err), -EINVAL);
	assert_non_null(strstr(err.text, "--key-dir"));
}

static void write_file(const char *path, const char *text)
{
	FILE *f = fopen(path, "w");

	assert_non_null(f);
	fputs(text, f);
	fclose(f);
}

static void ids_are_read(void **state)
{
	char path[160];
	struct err err;
	struct id id;

	(void)state;
	snprintf(path, sizeof(path), "%s/id", folder);
	write_file(path, "00112233-4455-6677-8899-aabbccddeeff\n");
	assert_int_equal(keep_read_id(path, &id, &err), 0);
	assert_true(id.hi == UINT64_C(0x0011223344556677));
	assert_true(id.lo == UINT64_C(0x8899aabbccddeeff));
	write_file(path, "00112233445566778899aabbccddee\n");
	assert_int_equal(keep_read_id(path, &id, &err), -EINVAL);
	write_file(path, "00112233445566778899aabbccddeeff00");
	assert_int_equal(keep_read_id(path, &id, &err), -EINVAL);
	write_file(path, "uninitialized\n");
	assert_int_equal(keep_read_id(path, &id, &err), -EINVAL);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(keep_read_id(path, &id, &err), -ENOENT);
}

#define FOLDER_TEST(f) cmocka_unit_test_setup_teardown(f, folder_setup, folder_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(pages_round_trip),
	    cmocka_unit_test(flipped_bits_are_found),
	    cmocka_unit_test(pages_know_their_place),
	    cmocka_unit_test(values_are_checked),
	    cmocka_unit_test(copies_are_judged),
	    cmocka_unit_test(xts_known_answer),
	    cmocka_unit_test(map_is_as_an_array),
	    FOLDER_TEST(keys_are_kept),
	    FOLDER_TEST(destroyed_keys_are_gone),
	    FOLDER_TEST(wrong_keys_are_not_opened),
	    FOLDER_TEST(sweep_destroys),
	    FOLDER_TEST(key_folder_is_locked),
	    FOLDER_TEST(key_folder_is_on_tmpfs),
	    FOLDER_TEST(ids_are_read),
	};

	cmocka_set_test_filter(getenv("SIM_TEST"));
	return cmocka_run_group_tests(tests, NULL, NULL);
}
