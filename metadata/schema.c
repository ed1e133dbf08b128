/* SPDX-License-Identifier: Apache-2.0
 *
 * The tables, as a list of steps from each version to the next. Steps are only ever added: a
 * catalog that was written by an older volumed is brought up to date, one by a newer is refused.
 * Each step is one transaction.
 *
 * Ids are text in the form that people know, so that `sqlite3 catalog` can be read; a state is its
 * name. `user_version` is the number of steps taken, `application_id` says whose file it is.
 */
#include "base/util.h"
#include "metadata/sql.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#define APPLICATION_ID 0x766f6c64 /* "vold" */

static const char *const steps[] = {
    /* 1 */
    "CREATE TABLE meta ("
    "  key TEXT PRIMARY KEY NOT NULL,"
    "  value TEXT NOT NULL) STRICT, WITHOUT ROWID;"

    "CREATE TABLE volumes ("
    "  id TEXT PRIMARY KEY NOT NULL,"
    "  state TEXT NOT NULL CHECK (state IN"
    "    ('creating', 'available', 'in-use', 'deleting', 'error')),"
    "  size INTEGER NOT NULL,"
    "  resize_to INTEGER NOT NULL DEFAULT 0,"
    "  created INTEGER NOT NULL,"
    "  generation INTEGER NOT NULL DEFAULT 0,"
    "  zone TEXT NOT NULL,"
    "  error TEXT NOT NULL DEFAULT '') STRICT, WITHOUT ROWID;"

    "CREATE TABLE instances ("
    "  id TEXT PRIMARY KEY NOT NULL,"
    "  created INTEGER NOT NULL,"
    "  name TEXT NOT NULL,"
    "  host TEXT NOT NULL,"
    "  state TEXT NOT NULL) STRICT, WITHOUT ROWID;"

    "CREATE TABLE attachments ("
    "  id TEXT PRIMARY KEY NOT NULL,"
    "  volume TEXT NOT NULL UNIQUE REFERENCES volumes (id),"
    "  instance TEXT NOT NULL REFERENCES instances (id),"
    "  state TEXT NOT NULL CHECK (state IN ('attaching', 'attached', 'detaching')),"
    "  generation INTEGER NOT NULL,"
    "  created INTEGER NOT NULL,"
    "  delete_on_termination INTEGER NOT NULL,"
    "  device TEXT NOT NULL,"
    "  export_name TEXT NOT NULL UNIQUE,"
    "  UNIQUE (instance, device)) STRICT, WITHOUT ROWID;"

    "CREATE TABLE tokens ("
    "  token TEXT PRIMARY KEY NOT NULL,"
    "  request_1 INTEGER NOT NULL,"
    "  request_2 INTEGER NOT NULL,"
    "  volume TEXT NOT NULL,"
    "  expires INTEGER NOT NULL) STRICT, WITHOUT ROWID;"
    "CREATE INDEX tokens_by_expiry ON tokens (expires);"

    "CREATE TABLE tags ("
    "  resource TEXT NOT NULL,"
    "  key TEXT NOT NULL,"
    "  value TEXT NOT NULL,"
    "  PRIMARY KEY (resource, key)) STRICT, WITHOUT ROWID;"

    "CREATE TABLE events ("
    "  sequence INTEGER PRIMARY KEY AUTOINCREMENT,"
    "  time INTEGER NOT NULL,"
    "  who TEXT NOT NULL,"
    "  what TEXT NOT NULL,"
    "  resource TEXT NOT NULL,"
    "  detail TEXT NOT NULL) STRICT;",
    /* 2: snapshots. `sequence` is the cut's place in the volume's log; 0: not known to be made. */
    "CREATE TABLE snapshots ("
    "  id TEXT PRIMARY KEY NOT NULL,"
    "  volume TEXT NOT NULL,"
    "  parent TEXT NOT NULL DEFAULT '',"
    "  state TEXT NOT NULL CHECK (state IN ('pending', 'completed', 'error', 'deleting')),"
    "  size INTEGER NOT NULL,"
    "  sequence INTEGER NOT NULL DEFAULT 0,"
    "  started INTEGER NOT NULL,"
    "  completed INTEGER NOT NULL DEFAULT 0,"
    "  stored INTEGER NOT NULL DEFAULT 0,"
    "  description TEXT NOT NULL DEFAULT '',"
    "  error TEXT NOT NULL DEFAULT '') STRICT, WITHOUT ROWID;"
    "CREATE INDEX snapshots_by_volume ON snapshots (volume, state, sequence);"
    "ALTER TABLE volumes ADD COLUMN base TEXT NOT NULL DEFAULT '';"
    "ALTER TABLE volumes ADD COLUMN hydration_rate INTEGER NOT NULL DEFAULT 0;",
    /* 3: the newest whole scrub: when it ended, and how many bad places it found. And the snapshot
     * that a volume was made of, once it needs no block of it any more. */
    "ALTER TABLE volumes ADD COLUMN scrubbed INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE volumes ADD COLUMN scrub_bad INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE volumes ADD COLUMN lineage TEXT NOT NULL DEFAULT '';",
    /* 4: enum catalog_full. */
    "ALTER TABLE volumes ADD COLUMN full INTEGER NOT NULL DEFAULT 0;",
    /* 5: snapshots of several volumes at one point. */
    "ALTER TABLE snapshots ADD COLUMN cutting INTEGER NOT NULL DEFAULT 0;",
};

static int take_step(struct catalog *c, const char *step, unsigned from, struct err *err)
{
	char version[80];
	int r = sql_script(c, "BEGIN IMMEDIATE", "a migration", err);

	if (r < 0)
		return r;
	snprintf(version, sizeof(version),
		 "PRAGMA user_version = %u; PRAGMA application_id = %d; COMMIT", from + 1,
		 APPLICATION_ID);
	r = sql_script(c, step, "a migration", err);
	if (r == 0)
		r = sql_script(c, version, "a migration", err);
	if (r < 0)
		sql_script(c, "ROLLBACK", "a migration", NULL);
	return r;
}

/* A file that has tables but not our mark is somebody else's. */
static int check_owner(struct catalog *c, int64_t version, struct err *err)
{
	int64_t application = 0;
	int64_t tables = 0;
	int r = sql_number(c, "PRAGMA application_id", &application, err);

	if (r == 0)
		r = sql_number(c, "SELECT count(*) FROM sqlite_schema", &tables, err);
	if (r < 0)
		return r;
	if (application == APPLICATION_ID || (version == 0 && tables == 0 && application == 0))
		return 0;
	return err_set(err, -EMEDIUMTYPE,
		       "%s is an SQLite file, but no catalog of volumed; move it away, or name "
		       "another data folder",
		       c->path);
}

int schema_check(struct catalog *c, struct err *err)
{
	int64_t version = 0;
	int r = sql_number(c, "PRAGMA user_version", &version, err);

	if (r == 0)
		r = check_owner(c, version, err);
	if (r < 0)
		return r;
	if (version < 0 || version > (int64_t)ARRAY_SIZE(steps))
		return err_set(err, -ENOTSUP,
			       "the catalog %s has version %" PRId64 ", and this volumed knows "
			       "versions up to %zu: a newer volumed wrote it; upgrade volumed",
			       c->path, version, ARRAY_SIZE(steps));
	c->is_new = version == 0;
	return 0;
}

int schema_take_steps(struct catalog *c, const char *const *list, size_t n, struct err *err)
{
	int64_t version = 0;
	int r = sql_number(c, "PRAGMA user_version", &version, err);

	for (size_t i = (size_t)version; i < n && r == 0; i++)
		r = take_step(c, list[i], (unsigned)i, err);
	return r;
}

int schema_migrate(struct catalog *c, struct err *err)
{
	return schema_take_steps(c, steps, ARRAY_SIZE(steps), err);
}
