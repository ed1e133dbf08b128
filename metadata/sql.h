/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to metadata/: one connection, its prepared statements, and SQLite's errors as ours.
 *
 * A statement is used so:
 *
 *     sqlite3_stmt *s = sql_use(c, SQL_VOLUME_GET, err);
 *     if (!s) return err->code;
 *     sql_id(s, 1, id, "vol");
 *     r = sql_row(c, s, err);      1: a row, read it by sql_get_...; 0: none; or a negative errno
 *     sql_end(s);
 */
#ifndef METADATA_SQL_H
#define METADATA_SQL_H

#include "metadata/catalog.h"

#include <sqlite3.h>
#include <stddef.h>

enum sql_statement {
	SQL_BEGIN,
	SQL_COMMIT,
	SQL_ROLLBACK,
	SQL_VOLUME_ADD,
	SQL_VOLUME_GET,
	SQL_VOLUME_PUT,
	SQL_VOLUME_REMOVE,
	SQL_VOLUME_AFTER,
	SQL_PROVISIONED,
	SQL_COUNT_VOLUMES,
	SQL_COUNT_OTHERS,
	SQL_INSTANCE_ADD,
	SQL_INSTANCE_GET,
	SQL_INSTANCE_REMOVE,
	SQL_INSTANCE_AFTER,
	SQL_ATTACHMENT_ADD,
	SQL_ATTACHMENT_GET,
	SQL_ATTACHMENT_STATE,
	SQL_ATTACHMENT_REMOVE,
	SQL_ATTACHMENT_AFTER,
	SQL_DEVICE_TAKEN,
	SQL_SNAPSHOT_ADD,
	SQL_SNAPSHOT_GET,
	SQL_SNAPSHOT_PUT,
	SQL_SNAPSHOT_REMOVE,
	SQL_SNAPSHOT_AFTER,
	SQL_SNAPSHOT_UNFINISHED,
	SQL_SNAPSHOT_NEXT_PENDING,
	SQL_SNAPSHOT_PARENT,
	SQL_SNAPSHOTS_PENDING,
	SQL_TOKEN_ADD,
	SQL_TOKEN_GET,
	SQL_TOKEN_REMOVE,
	SQL_TOKEN_EXPIRE,
	SQL_TAG_PUT,
	SQL_TAG_AFTER,
	SQL_TAGS_REMOVE,
	SQL_EVENT_ADD,
	SQL_EVENT_TRIM,
	SQL_EVENT_BEFORE,
	SQL_META_GET,
	SQL_META_SET,
	SQL_STATEMENTS,
};

struct catalog {
	sqlite3 *db;
	char *path;
	char *ballast_path;
	uint64_t ballast_size;
	const char *vfs;
	bool is_new;
	sqlite3_stmt *statements[SQL_STATEMENTS]; /* prepared at first use */
};

/* Turns the connection's last error into ours. `doing`: "reading a volume". */
int sql_error(struct catalog *c, int code, const char *doing, struct err *err);
/* Runs a script. */
int sql_script(struct catalog *c, const char *script, const char *doing, struct err *err);
/* The number that a pragma or a count gives. */
int sql_number(struct catalog *c, const char *sql, int64_t *ret_number, struct err *err);

sqlite3_stmt *sql_use(struct catalog *c, enum sql_statement which, struct err *err);
int sql_row(struct catalog *c, sqlite3_stmt *s, struct err *err);
/* For statements without rows; ends them. Changes of no row are -ENOENT if `must_change`. */
int sql_run(struct catalog *c, sqlite3_stmt *s, bool must_change, struct err *err);
void sql_end(sqlite3_stmt *s);

/* Parameters are numbered from 1; what they point at lives until sql_end. */
void sql_int(sqlite3_stmt *s, int i, uint64_t value);
void sql_text(sqlite3_stmt *s, int i, const char *text);
void sql_id(sqlite3_stmt *s, int i, struct id id, const char *prefix);

/* Columns are numbered from 0. A row that does not hold what it should: -EUCLEAN. */
uint64_t sql_get_int(sqlite3_stmt *s, int i);
int sql_get_text(sqlite3_stmt *s, int i, char *ret_text, size_t size, struct err *err);
int sql_get_id(sqlite3_stmt *s, int i, const char *prefix, struct id *ret_id, struct err *err);
/* The same where "" stands for no id. */
int sql_get_id_or_zero(sqlite3_stmt *s, int i, const char *prefix, struct id *ret_id,
		       struct err *err);
/* One row by what is bound: 0, or -ENOENT, with `what` in the text; NULL: err is untouched. Ends
 * the statement. */
int sql_take_one(struct catalog *c, sqlite3_stmt *s, void *ret_row,
		 int (*read)(sqlite3_stmt *s, void *ret_row, struct err *err), const char *what,
		 struct err *err);
/* The index of the text in `names`. */
int sql_get_name(sqlite3_stmt *s, int i, const char *const *names, unsigned n, unsigned *ret_index,
		 struct err *err);

/* schema.c. Whose file it is, and of which version: refuses what is not ours, or newer. */
int schema_check(struct catalog *c, struct err *err);
/* Makes the tables, or brings them up to date. */
int schema_migrate(struct catalog *c, struct err *err);
/* The same by a list of one's own: the steps that the file has not taken yet, each of them whole or
 * not at all. */
int schema_take_steps(struct catalog *c, const char *const *list, size_t n, struct err *err);

#endif
