/* SPDX-License-Identifier: Apache-2.0
 *
 * Errors as the API shows them: a code that programs compare, and a text for people.
 */
#ifndef API_ERROR_H
#define API_ERROR_H

#include "base/err.h"

struct control_error;

/* The codes that are the API's own, besides those of control/control.h. */
#define API_MALFORMED_JSON     "MalformedJSON"
#define API_UNKNOWN_PARAMETER  "UnknownParameter"
#define API_INVALID_PARAMETER  "InvalidParameterValue"
#define API_MISSING_PARAMETER  "MissingParameter"
#define API_BAD_COMBINATION    "InvalidParameterCombination"
#define API_NO_SUCH_ROUTE      "NoSuchRoute"
#define API_METHOD_NOT_ALLOWED "MethodNotAllowed"
#define API_TOO_LARGE          "RequestTooLarge"
#define API_INTERNAL_ERROR     "InternalError"
#define API_UNAVAILABLE        "Unavailable"
#define API_INCORRECT_STATE    "IncorrectState"

struct api_error {
	const char *code; /* NULL: no error. A static string */
	char text[ERR_TEXT_MAX];
};

/* Keeps the first error that is set. Returns -1, so that a parser can end with it. */
int api_error_set(struct api_error *error, const char *code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* The HTTP status of a code. */
unsigned api_status(const char *code);

#endif
