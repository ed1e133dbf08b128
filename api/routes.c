/* SPDX-License-Identifier: Apache-2.0 */
#include "api/routes.h"

#include "api/limits.h"
#include "api/render.h"

#include <stdio.h>
#include <string.h>

#define ARGUMENT(member) offsetof(struct control_op, member)

static const struct api_field create_body[] = {
    {"size", ARGUMENT(create.size), FIELD_SIZE, false},
    {"snapshot", ARGUMENT(create.snapshot), FIELD_TEXT, false},
    {"initialization_rate", ARGUMENT(create.initialization_rate), FIELD_SIZE, false},
    {"full", ARGUMENT(create.full), FIELD_SWITCH, false},
    {"name", ARGUMENT(create.name), FIELD_TEXT, false},
    {"tags", ARGUMENT(create.tags), FIELD_TAGS, false},
    {"client_token", ARGUMENT(create.client_token), FIELD_TEXT, false},
    {.name = NULL},
};

static const struct api_field resize_body[] = {
    {"size", ARGUMENT(resize.size), FIELD_SIZE, true},
    {.name = NULL},
};

static const struct api_field snapshot_body[] = {
    {"volume", ARGUMENT(snapshot_create.volume), FIELD_TEXT, true},
    {"description", ARGUMENT(snapshot_create.description), FIELD_TEXT, false},
    {"tags", ARGUMENT(snapshot_create.tags), FIELD_TAGS, false},
    {.name = NULL},
};

static const struct api_field group_body[] = {
    {"exclude_boot", ARGUMENT(snapshot_create.exclude_boot), FIELD_SWITCH, false},
    {"description", ARGUMENT(snapshot_create.description), FIELD_TEXT, false},
    {"tags", ARGUMENT(snapshot_create.tags), FIELD_TAGS, false},
    {.name = NULL},
};

static const struct api_field copy_body[] = {
    {"to", ARGUMENT(snapshot_work.to), FIELD_TEXT, true},
    {"rate", ARGUMENT(snapshot_work.rate), FIELD_SIZE, false},
    {.name = NULL},
};

static const struct api_field verify_body[] = {
    {"rate", ARGUMENT(snapshot_work.rate), FIELD_SIZE, false},
    {.name = NULL},
};

static const struct api_field scrub_body[] = {
    {"rate", ARGUMENT(scrub.rate), FIELD_SIZE, false},
    {.name = NULL},
};

static const struct api_field attach_body[] = {
    {"instance", ARGUMENT(attach.instance), FIELD_TEXT, false},
    {"device", ARGUMENT(attach.device), FIELD_TEXT, false},
    {"delete_on_termination", ARGUMENT(attach.delete_on_termination), FIELD_SWITCH, false},
    {.name = NULL},
};

static const struct api_field detach_query[] = {
    {"instance", ARGUMENT(detach.instance), FIELD_TEXT, false},
    {"device", ARGUMENT(detach.device), FIELD_TEXT, false},
    {"force", ARGUMENT(detach.force), FIELD_SWITCH, false},
    {.name = NULL},
};

static const struct api_field register_body[] = {
    {"name", ARGUMENT(instance_register.name), FIELD_TEXT, false},
    {"host", ARGUMENT(instance_register.host), FIELD_TEXT, false},
    {.name = NULL},
};

static const struct api_field check_body[] = {
    {"deep", ARGUMENT(check.deep), FIELD_SWITCH, false},
    {.name = NULL},
};

const struct route routes[] = {
    {
	.method = "GET",
	.path = "/v1",
	.summary = "what there is",
	.kind = ROUTE_INDEX,
    },
    {
	.method = "GET",
	.path = "/v1/ping",
	.summary = "is the daemon ready?",
	.op = CONTROL_PING,
	.status = 200,
	.render = api_render_ping,
    },
    {
	.method = "GET",
	.path = "/v1/status",
	.summary = "health, space and counts",
	.op = CONTROL_STATUS,
	.status = 200,
	.render = api_render_status,
    },
    {
	.method = "POST",
	.path = "/v1/check",
	.summary = "start a check of catalog and store",
	.kind = ROUTE_CHECK_START,
	.op = CONTROL_CHECK,
	.body = check_body,
    },
    {
	.method = "GET",
	.path = "/v1/check",
	.summary = "the newest check: its progress, or what it found",
	.kind = ROUTE_CHECK_SHOW,
    },
    {
	.method = "GET",
	.path = "/v1/volumes",
	.summary = "list volumes",
	.op = CONTROL_VOLUME_LIST,
	.status = 200,
	.is_list = true,
	.render = api_render_volumes,
    },
    {
	.method = "POST",
	.path = "/v1/volumes",
	.summary = "create a volume",
	.op = CONTROL_VOLUME_CREATE,
	.status = 201,
	.body = create_body,
	.idempotent = true,
	.located = "/v1/volumes/",
	.render = api_render_volume,
    },
    {
	.method = "GET",
	.path = "/v1/volumes/{id}",
	.summary = "show a volume",
	.op = CONTROL_VOLUME_SHOW,
	.status = 200,
	.id_offset = ARGUMENT(show.volume),
	.render = api_render_volume,
    },
    {
	.method = "PATCH",
	.path = "/v1/volumes/{id}",
	.summary = "grow a volume",
	.op = CONTROL_VOLUME_RESIZE,
	.status = 200,
	.id_offset = ARGUMENT(resize.volume),
	.body = resize_body,
	.render = api_render_volume,
    },
    {
	.method = "DELETE",
	.path = "/v1/volumes/{id}",
	.summary = "delete a volume",
	.op = CONTROL_VOLUME_DELETE,
	.status = 202,
	.id_offset = ARGUMENT(delete.volume),
	.render = api_render_volume,
    },
    {
	.method = "POST",
	.path = "/v1/volumes/{id}/scrub",
	.summary = "scrub a volume",
	.op = CONTROL_SCRUB,
	.status = 202,
	.id_offset = ARGUMENT(scrub.volume),
	.body = scrub_body,
	.render = api_render_volume,
    },
    {
	.method = "DELETE",
	.path = "/v1/volumes/{id}/scrub",
	.summary = "stop the scrub of a volume",
	.op = CONTROL_SCRUB_STOP,
	.status = 202,
	.id_offset = ARGUMENT(scrub.volume),
	.render = api_render_volume,
    },
    {
	.method = "POST",
	.path = "/v1/volumes/{id}/attachments",
	.summary = "attach a volume to an instance",
	.op = CONTROL_ATTACH,
	.status = 201,
	.id_offset = ARGUMENT(attach.volume),
	.body = attach_body,
	.render = api_render_attachment,
    },
    {
	.method = "DELETE",
	.path = "/v1/volumes/{id}/attachments",
	.summary = "detach a volume",
	.op = CONTROL_DETACH,
	.status = 200,
	.id_offset = ARGUMENT(detach.volume),
	.query = detach_query,
	.render = api_render_attachment,
    },
    {
	.method = "GET",
	.path = "/v1/snapshots",
	.summary = "list snapshots",
	.op = CONTROL_SNAPSHOT_LIST,
	.status = 200,
	.is_list = true,
	.render = api_render_snapshots,
    },
    {
	.method = "POST",
	.path = "/v1/snapshots",
	.summary = "take a snapshot of a volume",
	.op = CONTROL_SNAPSHOT_CREATE,
	.status = 201,
	.body = snapshot_body,
	.located = "/v1/snapshots/",
	.render = api_render_snapshot,
    },
    {
	.method = "GET",
	.path = "/v1/snapshots/{id}",
	.summary = "show a snapshot",
	.op = CONTROL_SNAPSHOT_LIST,
	.status = 200,
	.one_of_list = true,
	.render = api_render_snapshot,
    },
    {
	.method = "DELETE",
	.path = "/v1/snapshots/{id}",
	.summary = "delete a snapshot",
	.op = CONTROL_SNAPSHOT_DELETE,
	.status = 202,
	.id_offset = ARGUMENT(snapshot_delete.snapshot),
	.render = api_render_snapshot,
    },
    {
	.method = "POST",
	.path = "/v1/snapshots/{id}/verify",
	.summary = "read all that a snapshot needs, and tell what is bad",
	.op = CONTROL_SNAPSHOT_VERIFY,
	.status = 202,
	.id_offset = ARGUMENT(snapshot_work.snapshot),
	.body = verify_body,
	.render = api_render_snapshot,
    },
    {
	.method = "DELETE",
	.path = "/v1/snapshots/{id}/verify",
	.summary = "stop verifying a snapshot",
	.op = CONTROL_SNAPSHOT_VERIFY_STOP,
	.status = 202,
	.id_offset = ARGUMENT(snapshot_work.snapshot),
	.render = api_render_snapshot,
    },
    {
	.method = "POST",
	.path = "/v1/snapshots/{id}/copy",
	.summary = "copy a snapshot to another repository",
	.op = CONTROL_SNAPSHOT_COPY,
	.status = 202,
	.id_offset = ARGUMENT(snapshot_work.snapshot),
	.body = copy_body,
	.render = api_render_snapshot,
    },
    {
	.method = "DELETE",
	.path = "/v1/snapshots/{id}/copy",
	.summary = "stop copying a snapshot",
	.op = CONTROL_SNAPSHOT_COPY_STOP,
	.status = 202,
	.id_offset = ARGUMENT(snapshot_work.snapshot),
	.render = api_render_snapshot,
    },
    {
	.method = "GET",
	.path = "/v1/instances",
	.summary = "list instances",
	.op = CONTROL_INSTANCE_LIST,
	.status = 200,
	.is_list = true,
	.render = api_render_instances,
    },
    {
	.method = "POST",
	.path = "/v1/instances",
	.summary = "register an instance",
	.op = CONTROL_INSTANCE_REGISTER,
	.status = 201,
	.body = register_body,
	.located = "/v1/instances/",
	.render = api_render_instance,
    },
    {
	.method = "GET",
	.path = "/v1/instances/{id}",
	.summary = "show an instance",
	.op = CONTROL_INSTANCE_LIST,
	.status = 200,
	.one_of_list = true,
	.render = api_render_instance,
    },
    {
	.method = "DELETE",
	.path = "/v1/instances/{id}",
	.summary = "deregister an instance that has no volumes",
	.op = CONTROL_INSTANCE_DEREGISTER,
	.status = 200,
	.id_offset = ARGUMENT(deregister.instance),
	.render = api_render_instance,
    },
    {
	.method = "POST",
	.path = "/v1/instances/{id}/snapshots",
	.summary = "take snapshots of all volumes of an instance, at one point",
	.op = CONTROL_SNAPSHOT_GROUP,
	.status = 201,
	.id_offset = ARGUMENT(snapshot_create.instance),
	.body = group_body,
	.render = api_render_snapshots,
    },
    {
	.method = "GET",
	.path = "/v1/events",
	.summary = "what has happened, the newest first",
	.op = CONTROL_EVENT_LIST,
	.status = 200,
	.is_list = true,
	.render = api_render_events,
    },
    {.method = NULL},
};

static bool path_matches(const char *pattern, const char *path, struct route_id *ret_id)
{
	const char *hole = strchr(pattern, '{');
	size_t before = hole ? (size_t)(hole - pattern) : strlen(pattern);
	const char *after = hole ? strchr(hole, '}') + 1 : "";

	*ret_id = (struct route_id){0};
	if (strncmp(pattern, path, before) != 0)
		return false;
	path += before;
	if (hole) {
		ret_id->text = path;
		ret_id->len = strcspn(path, "/");
		path += ret_id->len;
		if (ret_id->len == 0)
			return false;
	}
	return strcmp(after, path) == 0;
}

const struct route *route_find(const char *method, const char *path, struct route_id *ret_id,
			       char ret_allow[64], struct api_error *error)
{
	size_t used = 0;

	ret_allow[0] = '\0';
	for (const struct route *r = routes; r->method; r++) {
		if (!path_matches(r->path, path, ret_id))
			continue;
		if (strcmp(r->method, method) == 0)
			return r;
		used += (size_t)snprintf(ret_allow + used, 64 - used, "%s%s", used ? ", " : "",
					 r->method);
	}
	if (used > 0)
		api_error_set(error, API_METHOD_NOT_ALLOWED,
			      "%.*s does not know the method %.*s: "
			      "use %s",
			      API_QUOTE_MAX, path, API_QUOTE_MAX, method, ret_allow);
	else
		api_error_set(error, API_NO_SUCH_ROUTE,
			      "there is no %.*s here: GET /v1 lists what there is", API_QUOTE_MAX,
			      path);
	return NULL;
}

json_t *routes_render(void)
{
	json_t *array = json_array();

	for (const struct route *r = routes; array && r->method; r++)
		json_array_append_new(array, json_pack("{s:s, s:s, s:s}", "method", r->method,
						       "path", r->path, "summary", r->summary));
	return json_pack("{s:s, s:o}", "version", "v1", "routes", array);
}
