/* SPDX-License-Identifier: Apache-2.0 */
#include "api/error.h"

#include "base/util.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int api_error_set(struct api_error *error, const char *code, const char *format, ...)
{
	va_list args;

	if (error->code)
		return -1;
	error->code = code;
	va_start(args, format);
	vsnprintf(error->text, sizeof(error->text), format, args);
	va_end(args);
	return -1;
}

static bool ends_with(const char *text, const char *end)
{
	size_t text_len = strlen(text);
	size_t end_len = strlen(end);

	return text_len >= end_len && strcmp(text + text_len - end_len, end) == 0;
}

unsigned api_status(const char *code)
{
	static const struct {
		const char *code;
		unsigned status;
	} table[] = {
	    {"VolumeInUse", 409},
	    {"IncorrectState", 409},
	    {"IncorrectInstanceState", 409},
	    {"DependencyViolation", 409},
	    {"IdempotentParameterMismatch", 409},
	    {"AttachmentLimitExceeded", 409},
	    {"ConcurrentSnapshotLimitExceeded", 409},
	    {"OperationNotPermitted", 403},
	    {"InsufficientVolumeCapacity", 507},
	    {API_NO_SUCH_ROUTE, 404},
	    {API_METHOD_NOT_ALLOWED, 405},
	    {API_TOO_LARGE, 413},
	    {API_UNAVAILABLE, 503},
	    {API_INTERNAL_ERROR, 500},
	};

	if (ends_with(code, ".NotFound"))
		return 404;
	for (unsigned i = 0; i < ARRAY_SIZE(table); i++)
		if (strcmp(table[i].code, code) == 0)
			return table[i].status;
	return 400; /* all the others say what is wrong with the request */
}
