/* SPDX-License-Identifier: Apache-2.0
 *
 * Volumes, instances, attachments. Column orders are those of sql.c.
 */
#include "base/util.h"
#include "metadata/sql.h"

#include <errno.h>
#include <string.h>

static const char *const volume_states[CATALOG_VOLUME_STATES] = {
    [CATALOG_CREATING] = "creating", [CATALOG_AVAILABLE] = "available", [CATALOG_IN_USE] = "in-use",
    [CATALOG_DELETING] = "deleting", [CATALOG_ERROR] = "error",
};

static const char *const attachment_states[CATALOG_ATTACHMENT_STATES] = {
    [CATALOG_ATTACHING] = "attaching",
    [CATALOG_ATTACHED] = "attached",
    [CATALOG_DETACHING] = "detaching",
};

const char *catalog_volume_state_name(enum catalog_volume_state state)
{
	return volume_states[state];
}

const char *catalog_attachment_state_name(enum catalog_attachment_state state)
{
	return attachment_states[state];
}

static int remove_by_id(struct catalog *c, enum sql_statement which, struct id id,
			const char *prefix, struct err *err)
{
	sqlite3_stmt *s = sql_use(c, which, err);

	if (!s)
		return err->code;
	sql_id(s, 1, id, prefix);
	return sql_run(c, s, true, err);
}

static int remove_tags(struct catalog *c, struct id id, const char *prefix, struct err *err)
{
	sqlite3_stmt *s = sql_use(c, SQL_TAGS_REMOVE, err);

	if (!s)
		return err->code;
	sql_id(s, 1, id, prefix);
	return sql_run(c, s, false, err);
}

/* ---- Volumes ----------------------------------------------------------------------- */

static void bind_volume(sqlite3_stmt *s, const struct catalog_volume *v)
{
	sql_id(s, 1, v->id, CATALOG_VOLUME_PREFIX);
	sql_text(s, 2, volume_states[v->state]);
	sql_int(s, 3, v->size);
	sql_int(s, 4, v->resize_to);
	sql_int(s, 5, v->created);
	sql_int(s, 6, v->generation);
	sql_text(s, 7, v->zone);
	sql_text(s, 8, v->error);
	sql_id(s, 9, v->base, CATALOG_SNAPSHOT_PREFIX);
	sql_int(s, 10, v->hydration_rate);
	sql_int(s, 11, v->scrubbed);
	sql_int(s, 12, v->scrub_bad);
	sql_id(s, 13, v->lineage, CATALOG_SNAPSHOT_PREFIX);
	sql_int(s, 14, v->full);
}

static int read_volume(sqlite3_stmt *s, void *ret_row, struct err *err)
{
	struct catalog_volume v = {0};
	unsigned state = 0;
	int r = sql_get_id(s, 0, CATALOG_VOLUME_PREFIX, &v.id, err);

	if (r == 0)
		r = sql_get_name(s, 1, volume_states, CATALOG_VOLUME_STATES, &state, err);
	v.state = (enum catalog_volume_state)state;
	v.size = sql_get_int(s, 2);
	v.resize_to = sql_get_int(s, 3);
	v.created = sql_get_int(s, 4);
	v.generation = sql_get_int(s, 5);
	if (r == 0)
		r = sql_get_text(s, 6, v.zone, sizeof(v.zone), err);
	if (r == 0)
		r = sql_get_text(s, 7, v.error, sizeof(v.error), err);
	if (r == 0)
		r = sql_get_id_or_zero(s, 8, CATALOG_SNAPSHOT_PREFIX, &v.base, err);
	v.hydration_rate = sql_get_int(s, 9);
	v.scrubbed = sql_get_int(s, 10);
	v.scrub_bad = sql_get_int(s, 11);
	if (r == 0)
		r = sql_get_id_or_zero(s, 12, CATALOG_SNAPSHOT_PREFIX, &v.lineage, err);
	v.full = sql_get_int(s, 13) == 0   ? CATALOG_FULL_NO
		 : sql_get_int(s, 13) == 1 ? CATALOG_FULL_WANTED
					   : CATALOG_FULL_COPYING;
	if (r == 0)
		*(struct catalog_volume *)ret_row = v;
	return r;
}

int catalog_volume_add(struct catalog *c, const struct catalog_volume *v, struct err *err)
{
	sqlite3_stmt *s = sql_use(c, SQL_VOLUME_ADD, err);

	if (!s)
		return err->code;
	bind_volume(s, v);
	return sql_run(c, s, false, err);
}

int catalog_volume_get(struct catalog *c, struct id id, struct catalog_volume *ret_v,
		       struct err *err)
{
	sqlite3_stmt *s = sql_use(c, SQL_VOLUME_GET, err);

	if (!s)
		return err->code;
	sql_id(s, 1, id, CATALOG_VOLUME_PREFIX);
	return sql_take_one(c, s, ret_v, read_volume, "volume", err);
}

int catalog_volume_put(struct catalog *c, const struct catalog_volume *v, struct err *err)
{
	sqlite3_stmt *s = sql_use(c, SQL_VOLUME_PUT, err);

	if (!s)
		return err->code;
	bind_volume(s, v);
	return sql_run(c, s, true, err);
}

int catalog_volume_remove(struct catalog *c, struct id id, struct err *err)
{
	int r = remove_tags(c, id, CATALOG_VOLUME_PREFIX, err);

	return r < 0 ? r : remove_by_id(c, SQL_VOLUME_REMOVE, id, CATALOG_VOLUME_PREFIX, err);
}

int catalog_volume_after(struct catalog *c, struct id after, struct catalog_volume *ret_v,
			 struct err *err)
{
	sqlite3_stmt *s = sql_use(c, SQL_VOLUME_AFTER, err);

	if (!s)
		return err->code;
	sql_id(s, 1, after, CATALOG_VOLUME_PREFIX);
	return sql_take_one(c, s, ret_v, read_volume, NULL, err);
}

int catalog_provisioned(struct catalog *c, uint64_t *ret_bytes, struct err *err)
{
	sqlite3_stmt *s = sql_use(c, SQL_PROVISIONED, err);
	int r;

	if (!s)
		return err->code;
	r = sql_row(c, s, err);
	if (r > 0)
		*ret_bytes = sql_get_int(s, 0);
	sql_end(s);
	return r < 0 ? r : 0;
}

static int count_volumes(struct catalog *c, struct catalog_counts *counts, struct err *err)
{
	sqlite3_stmt *s = sql_use(c, SQL_COUNT_VOLUMES, err);
	unsigned state;
	int r;

	if (!s)
		return err->code;
	while ((r = sql_row(c, s, err)) > 0) {
		r = sql_get_name(s, 0, volume_states, CATALOG_VOLUME_STATES, &state, err);
		if (r < 0)
			break;
		counts->volumes[state] = sql_get_int(s, 1);
	}
	sql_end(s);
	return r;
}

int catalog_count(struct catalog *c, struct catalog_counts *ret_counts, struct err *err)
{
	struct catalog_counts counts = {0};
	int r = count_volumes(c, &counts, err);
	sqlite3_stmt *s = r == 0 ? sql_use(c, SQL_COUNT_OTHERS, err) : NULL;

	if (!s)
		return err->code;
	r = sql_row(c, s, err);
	counts.instances = r > 0 ? sql_get_int(s, 0) : 0;
	counts.attachments = r > 0 ? sql_get_int(s, 1) : 0;
	sql_end(s);
	if (r > 0)
		*ret_counts = counts;
	return r < 0 ? r : 0;
}

/* ---- Instances --------------------------------------------------------------------- */

static int read_instance(sqlite3_stmt *s, void *ret_row, struct err *err)
{
	struct catalog_instance i = {0};
	int r = sql_get_id(s, 0, CATALOG_INSTANCE_PREFIX, &i.id, err);

	i.created = sql_get_int(s, 1);
	if (r == 0)
		r = sql_get_text(s, 2, i.name, sizeof(i.name), err);
	if (r == 0)
		r = sql_get_text(s, 3, i.host, sizeof(i.host), err);
	if (r == 0)
		r = sql_get_text(s, 4, i.state, sizeof(i.state), err);
	if (r == 0)
		*(struct catalog_instance *)ret_row = i;
	return r;
}

int catalog_instance_add(struct catalog *c, const struct catalog_instance *i, struct err *err)
{
	sqlite3_stmt *s = sql_use(c, SQL_INSTANCE_ADD, err);

	if (!s)
		return err->code;
	sql_id(s, 1, i->id, CATALOG_INSTANCE_PREFIX);
	sql_int(s, 2, i->created);
	sql_text(s, 3, i->name);
	sql_text(s, 4, i->host);
	sql_text(s, 5, i->state);
	return sql_run(c, s, false, err);
}

int catalog_instance_get(struct catalog *c, struct id id, struct catalog_instance *ret_i,
			 struct err *err)
{
	sqlite3_stmt *s = sql_use(c, SQL_INSTANCE_GET, err);

	if (!s)
		return err->code;
	sql_id(s, 1, id, CATALOG_INSTANCE_PREFIX);
	return sql_take_one(c, s, ret_i, read_instance, "instance", err);
}

int catalog_instance_remove(struct catalog *c, struct id id, struct err *err)
{
	int r = remove_tags(c, id, CATALOG_INSTANCE_PREFIX, err);

	return r < 0 ? r : remove_by_id(c, SQL_INSTANCE_REMOVE, id, CATALOG_INSTANCE_PREFIX, err);
}

int catalog_instance_after(struct catalog *c, struct id after, struct catalog_instance *ret_i,
			   struct err *err)
{
	sqlite3_stmt *s = sql_use(c, SQL_INSTANCE_AFTER, err);

	if (!s)
		return err->code;
	sql_id(s, 1, after, CATALOG_INSTANCE_PREFIX);
	return sql_take_one(c, s, ret_i, read_instance, NULL, err);
}

/* ---- Attachments ------------------------------------------------------------------- */

static int read_attachment(sqlite3_stmt *s, void *ret_row, struct err *err)
{
	struct catalog_attachment a = {0};
	unsigned state = 0;
	int r = sql_get_id(s, 0, CATALOG_ATTACHMENT_PREFIX, &a.id, err);

	if (r == 0)
		r = sql_get_id(s, 1, CATALOG_VOLUME_PREFIX, &a.volume, err);
	if (r == 0)
		r = sql_get_id(s, 2, CATALOG_INSTANCE_PREFIX, &a.instance, err);
	if (r == 0)
		r = sql_get_name(s, 3, attachment_states, CATALOG_ATTACHMENT_STATES, &state, err);
	a.state = (enum catalog_attachment_state)state;
	a.generation = sql_get_int(s, 4);
	a.created = sql_get_int(s, 5);
	a.delete_on_termination = sql_get_int(s, 6) != 0;
	if (r == 0)
		r = sql_get_text(s, 7, a.device, sizeof(a.device), err);
	if (r == 0)
		r = sql_get_text(s, 8, a.export_name, sizeof(a.export_name), err);
	if (r == 0)
		*(struct catalog_attachment *)ret_row = a;
	return r;
}

int catalog_attachment_add(struct catalog *c, const struct catalog_attachment *a, struct err *err)
{
	sqlite3_stmt *s = sql_use(c, SQL_ATTACHMENT_ADD, err);

	if (!s)
		return err->code;
	sql_id(s, 1, a->id, CATALOG_ATTACHMENT_PREFIX);
	sql_id(s, 2, a->volume, CATALOG_VOLUME_PREFIX);
	sql_id(s, 3, a->instance, CATALOG_INSTANCE_PREFIX);
	sql_text(s, 4, attachment_states[a->state]);
	sql_int(s, 5, a->generation);
	sql_int(s, 6, a->created);
	sql_int(s, 7, a->delete_on_termination);
	sql_text(s, 8, a->device);
	sql_text(s, 9, a->export_name);
	return sql_run(c, s, false, err);
}

int catalog_attachment_get(struct catalog *c, struct id volume, struct catalog_attachment *ret_a,
			   struct err *err)
{
	sqlite3_stmt *s = sql_use(c, SQL_ATTACHMENT_GET, err);

	if (!s)
		return err->code;
	sql_id(s, 1, volume, CATALOG_VOLUME_PREFIX);
	return sql_take_one(c, s, ret_a, read_attachment, "attachment", err);
}

int catalog_attachment_set_state(struct catalog *c, struct id id,
				 enum catalog_attachment_state state, struct err *err)
{
	sqlite3_stmt *s = sql_use(c, SQL_ATTACHMENT_STATE, err);

	if (!s)
		return err->code;
	sql_id(s, 1, id, CATALOG_ATTACHMENT_PREFIX);
	sql_text(s, 2, attachment_states[state]);
	return sql_run(c, s, true, err);
}

int catalog_attachment_remove(struct catalog *c, struct id id, struct err *err)
{
	return remove_by_id(c, SQL_ATTACHMENT_REMOVE, id, CATALOG_ATTACHMENT_PREFIX, err);
}

int catalog_attachment_after(struct catalog *c, struct id instance, const char *device,
			     struct catalog_attachment *ret_a, struct err *err)
{
	sqlite3_stmt *s = sql_use(c, SQL_ATTACHMENT_AFTER, err);

	if (!s)
		return err->code;
	sql_id(s, 1, instance, CATALOG_INSTANCE_PREFIX);
	sql_text(s, 2, device);
	return sql_take_one(c, s, ret_a, read_attachment, NULL, err);
}

int catalog_device_is_taken(struct catalog *c, struct id instance, const char *device,
			    bool *ret_taken, struct err *err)
{
	sqlite3_stmt *s = sql_use(c, SQL_DEVICE_TAKEN, err);
	int r;

	if (!s)
		return err->code;
	sql_id(s, 1, instance, CATALOG_INSTANCE_PREFIX);
	sql_text(s, 2, device);
	r = sql_row(c, s, err);
	if (r > 0)
		*ret_taken = sql_get_int(s, 0) > 0;
	sql_end(s);
	return r < 0 ? r : 0;
}
