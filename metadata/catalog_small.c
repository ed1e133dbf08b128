/* SPDX-License-Identifier: Apache-2.0
 *
 * Tokens, tags, events, settings.
 */
#include "metadata/sql.h"

#include <errno.h>
#include <string.h>

/* ---- Tokens ------------------------------------------------------------------------ */

int catalog_token_add(struct catalog *c, const struct catalog_token *t, struct err *err)
{
	sqlite3_stmt *s = sql_use(c, SQL_TOKEN_ADD, err);

	if (!s)
		return err->code;
	sql_text(s, 1, t->token);
	sql_int(s, 2, t->request[0]);
	sql_int(s, 3, t->request[1]);
	sql_id(s, 4, t->volume, CATALOG_VOLUME_PREFIX);
	sql_int(s, 5, t->expires);
	return sql_run(c, s, false, err);
}

static int read_token(sqlite3_stmt *s, struct catalog_token *t, struct err *err)
{
	int r = sql_get_text(s, 0, t->token, sizeof(t->token), err);

	t->request[0] = sql_get_int(s, 1);
	t->request[1] = sql_get_int(s, 2);
	if (r == 0)
		r = sql_get_id(s, 3, CATALOG_VOLUME_PREFIX, &t->volume, err);
	t->expires = sql_get_int(s, 4);
	return r;
}

int catalog_token_get(struct catalog *c, const char *token, struct catalog_token *ret_t,
		      struct err *err)
{
	sqlite3_stmt *s = sql_use(c, SQL_TOKEN_GET, err);
	struct catalog_token t = {0};
	int r;

	if (!s)
		return err->code;
	sql_text(s, 1, token);
	r = sql_row(c, s, err);
	if (r > 0)
		r = read_token(s, &t, err);
	else if (r == 0)
		r = err_set(err, -ENOENT, "the catalog has no such token");
	sql_end(s);
	if (r == 0)
		*ret_t = t;
	return r;
}

int catalog_token_remove(struct catalog *c, const char *token, struct err *err)
{
	sqlite3_stmt *s = sql_use(c, SQL_TOKEN_REMOVE, err);

	if (!s)
		return err->code;
	sql_text(s, 1, token);
	return sql_run(c, s, false, err);
}

int catalog_token_expire(struct catalog *c, uint64_t now, struct err *err)
{
	sqlite3_stmt *s = sql_use(c, SQL_TOKEN_EXPIRE, err);

	if (!s)
		return err->code;
	sql_int(s, 1, now);
	return sql_run(c, s, false, err);
}

/* ---- Tags -------------------------------------------------------------------------- */

int catalog_tag_put(struct catalog *c, const char *resource, const struct catalog_tag *tag,
		    struct err *err)
{
	sqlite3_stmt *s = sql_use(c, SQL_TAG_PUT, err);

	if (!s)
		return err->code;
	sql_text(s, 1, resource);
	sql_text(s, 2, tag->key);
	sql_text(s, 3, tag->value);
	return sql_run(c, s, false, err);
}

int catalog_tag_after(struct catalog *c, const char *resource, const char *key,
		      struct catalog_tag *ret_tag, struct err *err)
{
	sqlite3_stmt *s = sql_use(c, SQL_TAG_AFTER, err);
	int r;

	if (!s)
		return err->code;
	sql_text(s, 1, resource);
	sql_text(s, 2, key);
	r = sql_row(c, s, err);
	if (r > 0)
		r = sql_get_text(s, 0, ret_tag->key, sizeof(ret_tag->key), err);
	else if (r == 0)
		r = -ENOENT;
	if (r == 0)
		r = sql_get_text(s, 1, ret_tag->value, sizeof(ret_tag->value), err);
	sql_end(s);
	return r;
}

/* ---- Events ------------------------------------------------------------------------ */

int catalog_event_add(struct catalog *c, const struct catalog_event *e, uint64_t keep,
		      struct err *err)
{
	sqlite3_stmt *s = sql_use(c, SQL_EVENT_ADD, err);
	int r;

	if (!s)
		return err->code;
	sql_int(s, 1, e->time);
	sql_text(s, 2, e->who);
	sql_text(s, 3, e->what);
	sql_text(s, 4, e->resource);
	sql_text(s, 5, e->detail);
	r = sql_run(c, s, false, err);
	if (r < 0)
		return r;
	s = sql_use(c, SQL_EVENT_TRIM, err);
	if (!s)
		return err->code;
	sql_int(s, 1, keep);
	return sql_run(c, s, false, err);
}

static int read_event(sqlite3_stmt *s, struct catalog_event *e, struct err *err)
{
	int r;

	e->sequence = sql_get_int(s, 0);
	e->time = sql_get_int(s, 1);
	r = sql_get_text(s, 2, e->who, sizeof(e->who), err);
	if (r == 0)
		r = sql_get_text(s, 3, e->what, sizeof(e->what), err);
	if (r == 0)
		r = sql_get_text(s, 4, e->resource, sizeof(e->resource), err);
	if (r == 0)
		r = sql_get_text(s, 5, e->detail, sizeof(e->detail), err);
	return r;
}

int catalog_event_before(struct catalog *c, uint64_t sequence, struct catalog_event *ret_e,
			 struct err *err)
{
	sqlite3_stmt *s = sql_use(c, SQL_EVENT_BEFORE, err);
	int r;

	if (!s)
		return err->code;
	sql_int(s, 1, sequence > INT64_MAX ? INT64_MAX : sequence);
	r = sql_row(c, s, err);
	if (r > 0)
		r = read_event(s, ret_e, err);
	else if (r == 0)
		r = -ENOENT;
	sql_end(s);
	return r;
}

/* ---- Settings ---------------------------------------------------------------------- */

int catalog_meta_get(struct catalog *c, const char *key, char *ret_value, size_t size,
		     struct err *err)
{
	sqlite3_stmt *s = sql_use(c, SQL_META_GET, err);
	int r;

	if (!s)
		return err->code;
	sql_text(s, 1, key);
	r = sql_row(c, s, err);
	if (r > 0)
		r = sql_get_text(s, 0, ret_value, size, err);
	else if (r == 0)
		r = -ENOENT;
	sql_end(s);
	return r;
}

int catalog_meta_set(struct catalog *c, const char *key, const char *value, struct err *err)
{
	sqlite3_stmt *s = sql_use(c, SQL_META_SET, err);

	if (!s)
		return err->code;
	sql_text(s, 1, key);
	sql_text(s, 2, value);
	return sql_run(c, s, false, err);
}
