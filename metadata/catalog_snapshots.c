/* SPDX-License-Identifier: Apache-2.0
 *
 * Snapshots. Column orders are those of sql.c.
 */
#include "metadata/sql.h"

#include <errno.h>

static const char *const states[CATALOG_SNAPSHOT_STATES] = {
    [CATALOG_SNAPSHOT_PENDING] = "pending",
    [CATALOG_SNAPSHOT_COMPLETED] = "completed",
    [CATALOG_SNAPSHOT_ERROR] = "error",
    [CATALOG_SNAPSHOT_DELETING] = "deleting",
};

const char *catalog_snapshot_state_name(enum catalog_snapshot_state state)
{
	return states[state];
}

static void bind(sqlite3_stmt *s, const struct catalog_snapshot *n)
{
	sql_id(s, 1, n->id, CATALOG_SNAPSHOT_PREFIX);
	sql_id(s, 2, n->volume, CATALOG_VOLUME_PREFIX);
	sql_id(s, 3, n->parent, CATALOG_SNAPSHOT_PREFIX);
	sql_text(s, 4, states[n->state]);
	sql_int(s, 5, n->size);
	sql_int(s, 6, n->sequence);
	sql_int(s, 7, n->started);
	sql_int(s, 8, n->completed);
	sql_int(s, 9, n->stored);
	sql_text(s, 10, n->description);
	sql_text(s, 11, n->error);
	sql_int(s, 12, n->cutting);
}

static int read_row(sqlite3_stmt *s, void *ret_row, struct err *err)
{
	struct catalog_snapshot n = {0};
	unsigned state = 0;
	int r = sql_get_id(s, 0, CATALOG_SNAPSHOT_PREFIX, &n.id, err);

	if (r == 0)
		r = sql_get_id(s, 1, CATALOG_VOLUME_PREFIX, &n.volume, err);
	if (r == 0)
		r = sql_get_id_or_zero(s, 2, CATALOG_SNAPSHOT_PREFIX, &n.parent, err);
	if (r == 0)
		r = sql_get_name(s, 3, states, CATALOG_SNAPSHOT_STATES, &state, err);
	n.state = (enum catalog_snapshot_state)state;
	n.size = sql_get_int(s, 4);
	n.sequence = sql_get_int(s, 5);
	n.started = sql_get_int(s, 6);
	n.completed = sql_get_int(s, 7);
	n.stored = sql_get_int(s, 8);
	if (r == 0)
		r = sql_get_text(s, 9, n.description, sizeof(n.description), err);
	if (r == 0)
		r = sql_get_text(s, 10, n.error, sizeof(n.error), err);
	n.cutting = sql_get_int(s, 11);
	if (r == 0)
		*(struct catalog_snapshot *)ret_row = n;
	return r;
}

int catalog_snapshot_add(struct catalog *c, const struct catalog_snapshot *n, struct err *err)
{
	sqlite3_stmt *s = sql_use(c, SQL_SNAPSHOT_ADD, err);

	if (!s)
		return err->code;
	bind(s, n);
	return sql_run(c, s, false, err);
}

int catalog_snapshot_put(struct catalog *c, const struct catalog_snapshot *n, struct err *err)
{
	sqlite3_stmt *s = sql_use(c, SQL_SNAPSHOT_PUT, err);

	if (!s)
		return err->code;
	bind(s, n);
	return sql_run(c, s, true, err);
}

int catalog_snapshot_get(struct catalog *c, struct id id, struct catalog_snapshot *ret_s,
			 struct err *err)
{
	sqlite3_stmt *s = sql_use(c, SQL_SNAPSHOT_GET, err);

	if (!s)
		return err->code;
	sql_id(s, 1, id, CATALOG_SNAPSHOT_PREFIX);
	return sql_take_one(c, s, ret_s, read_row, "snapshot", err);
}

static int remove_from(struct catalog *c, enum sql_statement which, struct id id, struct err *err)
{
	sqlite3_stmt *s = sql_use(c, which, err);

	if (!s)
		return err->code;
	sql_id(s, 1, id, CATALOG_SNAPSHOT_PREFIX);
	return sql_run(c, s, false, err);
}

int catalog_snapshot_remove(struct catalog *c, struct id id, struct err *err)
{
	int r = remove_from(c, SQL_TAGS_REMOVE, id, err);

	return r < 0 ? r : remove_from(c, SQL_SNAPSHOT_REMOVE, id, err);
}

static int take_after(struct catalog *c, enum sql_statement which, struct id after,
		      const char *prefix, struct catalog_snapshot *ret_s, struct err *err)
{
	sqlite3_stmt *s = sql_use(c, which, err);

	if (!s)
		return err->code;
	sql_id(s, 1, after, prefix);
	return sql_take_one(c, s, ret_s, read_row, NULL, err);
}

int catalog_snapshot_after(struct catalog *c, struct id after, struct catalog_snapshot *ret_s,
			   struct err *err)
{
	return take_after(c, SQL_SNAPSHOT_AFTER, after, CATALOG_SNAPSHOT_PREFIX, ret_s, err);
}

int catalog_snapshot_unfinished_after(struct catalog *c, struct id after,
				      struct catalog_snapshot *ret_s, struct err *err)
{
	return take_after(c, SQL_SNAPSHOT_UNFINISHED, after, CATALOG_SNAPSHOT_PREFIX, ret_s, err);
}

int catalog_snapshot_next_pending(struct catalog *c, struct id volume,
				  struct catalog_snapshot *ret_s, struct err *err)
{
	return take_after(c, SQL_SNAPSHOT_NEXT_PENDING, volume, CATALOG_VOLUME_PREFIX, ret_s, err);
}

int catalog_snapshot_parent(struct catalog *c, struct id volume, uint64_t sequence,
			    struct catalog_snapshot *ret_s, struct err *err)
{
	sqlite3_stmt *s = sql_use(c, SQL_SNAPSHOT_PARENT, err);

	if (!s)
		return err->code;
	sql_id(s, 1, volume, CATALOG_VOLUME_PREFIX);
	sql_int(s, 2, sequence);
	return sql_take_one(c, s, ret_s, read_row, NULL, err);
}

int catalog_snapshots_pending(struct catalog *c, struct id volume, uint64_t *ret_n, struct err *err)
{
	sqlite3_stmt *s = sql_use(c, SQL_SNAPSHOTS_PENDING, err);
	int r;

	if (!s)
		return err->code;
	sql_id(s, 1, volume, CATALOG_VOLUME_PREFIX);
	r = sql_row(c, s, err);
	if (r > 0)
		*ret_n = sql_get_int(s, 0);
	sql_end(s);
	return r < 0 ? r : 0;
}
