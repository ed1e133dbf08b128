/* SPDX-License-Identifier: Apache-2.0
 *
 * What HTTP clients send to an instance store: lines of method and path, and after them the body.
 * What is refused must be so with a code; what is accepted is in range; both have a reply.
 */
#include "base/check.h"
#include "instance-stored/route.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct route_call r;
	char *text = malloc(size + 1);
	char *rest = text;
	const char *method, *path;
	json_t *json;

	CHECK(text);
	memcpy(text, data, size);
	text[size] = '\0';
	method = strsep(&rest, "\n");
	path = rest ? strsep(&rest, "\n") : "";
	route_begin(&r, method, path);
	if (route_parse(&r, rest ? rest : "", rest ? strlen(rest) : 0) == 0) {
		CHECK(r.has_op);
		CHECK(r.status == 0);
		CHECK(r.op.number < ISTORE_DISKS_MAX || r.op.number == ISTORE_ALL);
		CHECK(r.op.kind != ISTORE_CREATE || r.op.size > 0);
		CHECK(r.op.kind == ISTORE_LIST || !id_is_zero(r.op.instance));
		r.op.error.code = -1;
	} else {
		CHECK(r.status >= 400);
		CHECK(r.code[0]);
	}
	json = route_render(&r);
	CHECK(!json || r.status >= 400);
	json_decref(json);
	free(text);
	return 0;
}
