/* SPDX-License-Identifier: Apache-2.0
 *
 * An error of the control path: a negative errno and a text that names the thing, the cause and the
 * remedy. The data path passes the number alone.
 */
#ifndef BASE_ERR_H
#define BASE_ERR_H

#define ERR_TEXT_MAX 400

struct err {
	int code; /* 0, or a negative errno */
	char text[ERR_TEXT_MAX];
};

/* Sets both parts and returns `code`. `err` may be NULL. */
int err_set(struct err *err, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Puts "...: " before the text that is there, and returns err->code. */
int err_wrap(struct err *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
