/* SPDX-License-Identifier: Apache-2.0 */
#include "base/base64.h"

char *base64_encode(const uint8_t *bytes, size_t len, char *text)
{
	static const char digits[] =
	    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	char *out = text;

	for (size_t i = 0; i < len; i += 3) {
		size_t n = len - i;
		uint32_t group = (uint32_t)bytes[i] << 16;

		if (n > 1)
			group |= (uint32_t)bytes[i + 1] << 8;
		if (n > 2)
			group |= bytes[i + 2];
		*out++ = digits[group >> 18];
		*out++ = digits[group >> 12 & 63];
		*out++ = n > 1 ? digits[group >> 6 & 63] : '=';
		*out++ = n > 2 ? digits[group & 63] : '=';
	}
	*out = '\0';
	return text;
}
