/* SPDX-License-Identifier: Apache-2.0
 *
 * The results of control's operations as JSON, in the form that docs/api.md promises. Each returns
 * a new reference, or NULL when there is no memory.
 */
#ifndef API_RENDER_H
#define API_RENDER_H

#include "control/control.h"

#include <jansson.h>

json_t *api_render_ping(const struct control_op *op);
json_t *api_render_status(const struct control_op *op);
json_t *api_render_checked(const struct control_check *checked);
json_t *api_render_volume(const struct control_op *op);
json_t *api_render_volumes(const struct control_op *op);
json_t *api_render_snapshot(const struct control_op *op);
json_t *api_render_snapshots(const struct control_op *op);
json_t *api_render_blocks(const struct control_op *op);
json_t *api_render_attachment(const struct control_op *op);
json_t *api_render_instance(const struct control_op *op);
json_t *api_render_instances(const struct control_op *op);
json_t *api_render_events(const struct control_op *op);
json_t *api_render_error(const char *code, const char *message);

/* "2026-11-22T23:48:40.123Z" for ns since 1970. Returns `text`. */
#define API_TIME_TEXT 32
const char *api_time_format(uint64_t ns, char text[API_TIME_TEXT]);

#endif
