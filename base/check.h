/* SPDX-License-Identifier: Apache-2.0
 *
 * CHECK is for what only a bug of ours can break, and is compiled into every build. Bytes from a
 * disk, a socket, a config or a person are never CHECKed: functions that return errors verify
 * those.
 */
#ifndef BASE_CHECK_H
#define BASE_CHECK_H

_Noreturn void check_failed(const char *what, const char *file, int line);

#define CHECK(x)                                                                                   \
	do {                                                                                       \
		if (__builtin_expect(!(x), 0))                                                     \
			check_failed(#x, __FILE__, __LINE__);                                      \
	} while (0)

#endif
