/* SPDX-License-Identifier: Apache-2.0
 *
 * EC2's filters: AND between them, OR between the values of one. Pure functions.
 */
#include "control/internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

/* `*`: any text; `?`: any byte; a backslash takes the next one as it is. Goes back to the last star
 * only, so that no pattern takes longer than the product of the lengths. */
bool filter_match(const char *pattern, const char *text)
{
	const char *star = NULL;
	const char *retry = NULL;

	while (*text) {
		bool literal = *pattern == '\\' && pattern[1];

		if (*pattern == '*') {
			star = ++pattern;
			retry = text;
		} else if (*pattern &&
			   ((!literal && *pattern == '?') || pattern[literal] == *text)) {
			pattern += 1 + literal;
			text++;
		} else if (star) {
			pattern = star;
			text = ++retry;
		} else {
			return false;
		}
	}
	while (*pattern == '*')
		pattern++;
	return *pattern == '\0';
}

static bool any_value(const struct control_filter *f, const char *text)
{
	for (unsigned i = 0; i < f->n_values; i++)
		if (filter_match(f->values[i], text))
			return true;
	return false;
}

/* ---- What may be asked ------------------------------------------------------------- */

static const char *const volume_names[] = {
    "volume-id",
    "status",
    "size",
    "create-time",
    "tag-key",
    "attachment.instance-id",
    "attachment.device",
    "attachment.status",
    "attachment.id",
};
static const char *const snapshot_names[] = {
    "snapshot-id", "status", "volume-id", "volume-size", "start-time", "description", "tag-key",
};
static const char *const instance_names[] = {"instance-id", "name", "host", "instance-state-name"};
static const char *const event_names[] = {"what", "who", "resource"};

static bool is_known(enum control_kind kind, const char *name)
{
	const char *const *names = volume_names;
	size_t n = ARRAY_SIZE(volume_names);

	if (kind == CONTROL_SNAPSHOT_LIST) {
		names = snapshot_names;
		n = ARRAY_SIZE(snapshot_names);
	} else if (kind == CONTROL_INSTANCE_LIST) {
		names = instance_names;
		n = ARRAY_SIZE(instance_names);
	} else if (kind == CONTROL_EVENT_LIST) {
		names = event_names;
		n = ARRAY_SIZE(event_names);
	}
	if ((kind == CONTROL_VOLUME_LIST || kind == CONTROL_SNAPSHOT_LIST) &&
	    strncmp(name, "tag:", 4) == 0)
		return true;
	for (size_t i = 0; i < n; i++)
		if (strcmp(names[i], name) == 0)
			return true;
	return false;
}

int filter_check(const struct control_op *op, struct control_error *error)
{
	unsigned n_values = 0;

	if (op->list.n_filters > CONTROL_FILTERS_MAX)
		return control_fail(error, "FilterLimitExceeded", -E2BIG,
				    "at most %d filters can be given", CONTROL_FILTERS_MAX);
	for (unsigned i = 0; i < op->list.n_filters; i++) {
		const struct control_filter *f = &op->list.filters[i];

		if (!f->name || !is_known(op->kind, f->name))
			return control_fail(error, "InvalidParameterValue", -EINVAL,
					    "The filter '%.64s' is invalid",
					    f->name ? f->name : "");
		n_values += f->n_values;
		if (n_values > CONTROL_FILTER_VALUES)
			return control_fail(error, "FilterLimitExceeded", -E2BIG,
					    "at most %d filter values can be given",
					    CONTROL_FILTER_VALUES);
	}
	return 0;
}

/* ---- Volumes ----------------------------------------------------------------------- */

/* As it is printed: "2026-01-31T12:00:00.000Z". */
static void format_time(uint64_t ns, char *ret, size_t size)
{
	time_t seconds = (time_t)(ns / NSEC_PER_SEC);
	struct tm tm;
	char text[32];

	gmtime_r(&seconds, &tm);
	strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(ret, size, "%s.%03uZ", text, (unsigned)(ns / NSEC_PER_MSEC % 1000));
}

static bool match_tag(const struct control_filter *f, const struct control_tag *tags, unsigned n)
{
	bool by_key = strcmp(f->name, "tag-key") == 0;

	for (unsigned i = 0; i < n; i++) {
		const struct control_tag *tag = &tags[i];

		if (by_key && any_value(f, tag->key))
			return true;
		if (!by_key && strcmp(f->name + 4, tag->key) == 0 && any_value(f, tag->value))
			return true;
	}
	return false;
}

static bool match_attachment(const struct control_filter *f, const struct control_volume *v)
{
	const char *field = f->name + strlen("attachment.");

	for (unsigned i = 0; i < v->n_attachments; i++) {
		const struct control_attachment *a = &v->attachments[i];
		const char *text = strcmp(field, "instance-id") == 0 ? a->instance
				   : strcmp(field, "device") == 0    ? a->device
				   : strcmp(field, "status") == 0    ? a->state
								     : a->id;

		if (any_value(f, text))
			return true;
	}
	return false;
}

static bool match_volume(const struct control_filter *f, const struct control_volume *v)
{
	char text[64];

	if (strncmp(f->name, "tag", 3) == 0)
		return match_tag(f, v->tags, v->n_tags);
	if (strncmp(f->name, "attachment.", 11) == 0)
		return match_attachment(f, v);
	if (strcmp(f->name, "volume-id") == 0)
		return any_value(f, v->id);
	if (strcmp(f->name, "status") == 0)
		return any_value(f, v->state);
	if (strcmp(f->name, "size") == 0)
		snprintf(text, sizeof(text), "%" PRIu64, v->size / GiB);
	else
		format_time(v->create_time, text, sizeof(text));
	return any_value(f, text);
}

bool filter_volume(const struct control_list_args *list, const struct control_volume *v)
{
	for (unsigned i = 0; i < list->n_filters; i++)
		if (!match_volume(&list->filters[i], v))
			return false;
	return true;
}

/* ---- Snapshots --------------------------------------------------------------------- */

static bool match_snapshot(const struct control_filter *f, const struct control_snapshot *s)
{
	char text[64];

	if (strncmp(f->name, "tag", 3) == 0)
		return match_tag(f, s->tags, s->n_tags);
	if (strcmp(f->name, "snapshot-id") == 0)
		return any_value(f, s->id);
	if (strcmp(f->name, "status") == 0)
		return any_value(f, s->state);
	if (strcmp(f->name, "volume-id") == 0)
		return any_value(f, s->volume);
	if (strcmp(f->name, "description") == 0)
		return any_value(f, s->description);
	if (strcmp(f->name, "volume-size") == 0)
		snprintf(text, sizeof(text), "%" PRIu64, s->size / GiB);
	else
		format_time(s->start_time, text, sizeof(text));
	return any_value(f, text);
}

bool filter_snapshot(const struct control_list_args *list, const struct control_snapshot *s)
{
	for (unsigned i = 0; i < list->n_filters; i++)
		if (!match_snapshot(&list->filters[i], s))
			return false;
	return true;
}

/* ---- Instances, events ------------------------------------------------------------- */

bool filter_instance(const struct control_list_args *list, const struct control_instance *i)
{
	for (unsigned k = 0; k < list->n_filters; k++) {
		const struct control_filter *f = &list->filters[k];
		const char *text = strcmp(f->name, "instance-id") == 0 ? i->id
				   : strcmp(f->name, "name") == 0      ? i->name
				   : strcmp(f->name, "host") == 0      ? i->host
								       : i->state;

		if (!any_value(f, text))
			return false;
	}
	return true;
}

bool filter_event(const struct control_list_args *list, const struct control_event *e)
{
	for (unsigned k = 0; k < list->n_filters; k++) {
		const struct control_filter *f = &list->filters[k];
		const char *text = strcmp(f->name, "what") == 0  ? e->what
				   : strcmp(f->name, "who") == 0 ? e->who
								 : e->resource;

		if (!any_value(f, text))
			return false;
	}
	return true;
}
