/* SPDX-License-Identifier: Apache-2.0 */
#include "api/check.h"

#include "api/call.h"
#include "api/render.h"
#include "base/check.h"

static bool is_finished(const struct api_check *check)
{
	return __atomic_load_n(&check->finished, __ATOMIC_ACQUIRE);
}

static void check_on_done(struct control_op *op)
{
	struct api_check *check = container_of(op, struct api_check, op);

	__atomic_store_n(&check->finished, 1, __ATOMIC_RELEASE);
	api_end_operation(check->api);
}

int api_check_start(struct api *api, bool deep, uint64_t now, struct api_error *error)
{
	struct api_check *check = &api->check;

	if (check->started && !is_finished(check)) {
		if (check->op.check.deep == deep)
			return 0;
		return api_error_set(error, API_INCORRECT_STATE,
				     "a check that is %sdeep is running: wait for its end",
				     check->op.check.deep ? "" : "not ");
	}
	if (!api_begin_operation(api))
		return api_error_set(error, API_UNAVAILABLE, "the daemon is stopping");
	api_check_free(check);
	check->api = api;
	check->started = true;
	check->finished = 0;
	check->start_time = now;
	check->op = (struct control_op){
	    .kind = CONTROL_CHECK,
	    .done = check_on_done,
	    .check = {.deep = deep},
	};
	control_submit(api->control, &check->op);
	return 0;
}

json_t *api_check_render(const struct api_check *check)
{
	const struct control_error *error = &check->op.error;
	char since[API_TIME_TEXT];
	uint64_t steps_done;
	uint64_t steps;
	json_t *object;

	if (!check->started)
		return json_pack("{s:s}", "state", "none");
	control_progress(&check->op, &steps_done, &steps);
	object = json_pack("{s:b, s:s, s:I, s:I}", "deep", check->op.check.deep, "start_time",
			   api_time_format(check->start_time, since), "steps_done",
			   (json_int_t)steps_done, "steps", (json_int_t)steps);
	if (!object)
		return NULL;
	if (!is_finished(check)) {
		json_object_set_new(object, "state", json_string("running"));
	} else if (error->code) {
		json_object_set_new(object, "state", json_string("failed"));
		json_object_update_new(object, api_render_error(error->code, error->text));
	} else {
		json_object_set_new(object, "state", json_string("done"));
		json_object_update_new(object, api_render_checked(check->op.result.checked));
	}
	return object;
}

void api_check_free(struct api_check *check)
{
	if (!check->started)
		return;
	CHECK(is_finished(check));
	control_op_release(&check->op);
	check->started = false;
}
