/* SPDX-License-Identifier: Apache-2.0
 *
 * The catalog's file: whose it is, which version, how an older one is brought up to date.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/util.h"
#include "metadata/sql.h"

static char folder[64];
static char path[80];
static struct err err;

static int setup(void **state)
{
	(void)state;
	snprintf(folder, sizeof(folder), "/tmp/volumed-test.XXXXXX");
	if (!mkdtemp(folder))
		return -1;
	snprintf(path, sizeof(path), "%s/catalog", folder);
	return 0;
}

static int teardown(void **state)
{
	static const char *const suffixes[] = {"", "-wal", "-shm", "-journal", "-ballast"};
	char name[100];

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(suffixes); i++) {
		snprintf(name, sizeof(name), "%s%s", path, suffixes[i]);
		unlink(name);
	}
	return rmdir(folder);
}

static int open_it(struct catalog **ret_catalog)
{
	const struct catalog_config config = {.path = path};

	*ret_catalog = NULL;
	return catalog_open(&config, ret_catalog, &err);
}

/* What another program does to the file. */
static void do_sql(const char *sql)
{
	sqlite3 *db = NULL;

	assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
	assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
	assert_int_equal(sqlite3_close(db), SQLITE_OK);
}

static int64_t number(struct catalog *c, const char *sql)
{
	int64_t n = -1;

	assert_int_equal(sql_number(c, sql, &n, &err), 0);
	return n;
}

static void refused_with(int code, const char *what, const char *remedy)
{
	struct catalog *c;

	assert_int_equal(open_it(&c), code);
	assert_null(c);
	assert_non_null(strstr(err.text, path));
	assert_non_null(strstr(err.text, what));
	assert_non_null(strstr(err.text, remedy));
}

/* A catalog that a newer volumed wrote is refused, and stays as it is. */
static void newer_is_refused(void **state)
{
	char restore[64];
	struct catalog *c;

	(void)state;
	assert_int_equal(open_it(&c), 0);
	assert_true(catalog_is_new(c));
	snprintf(restore, sizeof(restore), "PRAGMA user_version = %d",
		 (int)number(c, "PRAGMA user_version"));
	catalog_close(c);
	do_sql("PRAGMA user_version = 99");
	refused_with(-ENOTSUP, "version 99", "upgrade volumed");
	do_sql(restore);
	assert_int_equal(open_it(&c), 0);
	assert_false(catalog_is_new(c));
	catalog_close(c);
}

/* Somebody else's database, or no database at all, is refused, and stays as it is. */
static void foreign_is_refused(void **state)
{
	FILE *file;

	(void)state;
	do_sql("CREATE TABLE songs (name TEXT); INSERT INTO songs VALUES ('one')");
	refused_with(-EMEDIUMTYPE, "no catalog of volumed", "move it away");
	do_sql("INSERT INTO songs VALUES ('two')");
	assert_int_equal(unlink(path), 0);
	file = fopen(path, "w");
	assert_non_null(file);
	for (int i = 0; i < 1000; i++)
		fputs("no database at all\n", file);
	assert_int_equal(fclose(file), 0);
	refused_with(-EUCLEAN, "damaged", "Put back a copy");
}

/* Migrations go forward only, each whole or not at all, and keep what is there. */
static void older_is_brought_up_to_date(void **state)
{
	static const char *const later[] = {
	    "ALTER TABLE volumes ADD COLUMN iops INTEGER NOT NULL DEFAULT 3000;"
	    "CREATE TABLE audits (id TEXT PRIMARY KEY NOT NULL) STRICT, WITHOUT ROWID;",
	    "ALTER TABLE audits ADD COLUMN size INTEGER NOT NULL DEFAULT 0;"
	    "CREATE TABLE audits (id TEXT);", /* fails after a change */
	};
	const struct catalog_volume v = {.id = {.hi = 1, .lo = 2}, .size = 4096, .zone = "z"};
	const char *steps[32];
	struct catalog_volume got;
	struct catalog *c;
	char newer[32];
	size_t n;

	(void)state;
	assert_int_equal(open_it(&c), 0);
	n = (size_t)number(c, "PRAGMA user_version");
	assert_true(n + 2 <= ARRAY_SIZE(steps));
	for (size_t i = 0; i < n; i++)
		steps[i] = "never taken again";
	memcpy(steps + n, later, sizeof(later));
	assert_int_equal(catalog_volume_add(c, &v, &err), 0);
	assert_int_equal(schema_take_steps(c, steps, n + 1, &err), 0);
	assert_int_equal(number(c, "PRAGMA user_version"), n + 1);
	assert_int_equal(number(c, "SELECT iops FROM volumes"), 3000);
	assert_int_equal(catalog_volume_get(c, v.id, &got, &err), 0);
	assert_true(got.size == v.size);
	assert_true(schema_take_steps(c, steps, n + 2, &err) < 0);
	assert_int_equal(number(c, "PRAGMA user_version"), n + 1);
	assert_int_equal(number(c, "SELECT count(*) FROM pragma_table_info('audits')"), 1);
	assert_int_equal(schema_take_steps(c, steps, n + 1, &err), 0);
	catalog_close(c);
	snprintf(newer, sizeof(newer), "version %zu", n + 1);
	refused_with(-ENOTSUP, newer, "upgrade volumed");
}

/* A catalog of before there were snapshots keeps its volumes. */
static void version_1_learns_snapshots(void **state)
{
	const struct catalog_volume v = {.id = {.hi = 1, .lo = 2}, .size = 4096, .zone = "z"};
	const struct catalog_snapshot s = {.id = {.hi = 1, .lo = 3}, .volume = v.id};
	struct catalog_snapshot snapshot;
	struct catalog_volume got;
	struct catalog *c;

	(void)state;
	assert_int_equal(open_it(&c), 0);
	assert_int_equal(catalog_volume_add(c, &v, &err), 0);
	catalog_close(c);
	do_sql("DROP TABLE snapshots; ALTER TABLE volumes DROP COLUMN base;"
	       "ALTER TABLE volumes DROP COLUMN hydration_rate;"
	       "ALTER TABLE volumes DROP COLUMN scrubbed;"
	       "ALTER TABLE volumes DROP COLUMN scrub_bad;"
	       "ALTER TABLE volumes DROP COLUMN full;"
	       "ALTER TABLE volumes DROP COLUMN lineage; PRAGMA user_version = 1");
	assert_int_equal(open_it(&c), 0);
	assert_int_equal(catalog_volume_get(c, v.id, &got, &err), 0);
	assert_true(got.size == v.size && id_is_zero(got.base));
	assert_int_equal(catalog_snapshot_add(c, &s, &err), 0);
	assert_int_equal(catalog_snapshot_next_pending(c, v.id, &snapshot, &err), 0);
	assert_true(id_equal(snapshot.id, s.id));
	catalog_close(c);
}

/* One process at a time has it. */
static void second_is_refused(void **state)
{
	struct catalog *c;

	(void)state;
	assert_int_equal(open_it(&c), 0);
	refused_with(-EBUSY, "", "");
	catalog_close(c);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(newer_is_refused),
	    TEST(foreign_is_refused),
	    TEST(older_is_brought_up_to_date),
	    TEST(version_1_learns_snapshots),
	    TEST(second_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
