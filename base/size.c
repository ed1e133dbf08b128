/* SPDX-License-Identifier: Apache-2.0 */
#include "base/size.h"

#include "base/util.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char units[] = "KMGTP";

/* The factor that `suffix` names, 0 if it names none. */
static uint64_t size_factor(const char *suffix)
{
	const char *unit;
	uint64_t base;
	uint64_t factor = 1;

	if (*suffix == '\0' || strcmp(suffix, "B") == 0)
		return 1;
	unit = strchr(units, toupper((unsigned char)*suffix));
	if (!unit)
		return 0;
	if (suffix[1] == '\0' || strcmp(suffix + 1, "iB") == 0)
		base = 1024;
	else if (strcmp(suffix + 1, "B") == 0)
		base = 1000;
	else
		return 0;
	for (const char *u = units; u <= unit; u++)
		factor *= base;
	return factor;
}

int size_parse(const char *text, uint64_t *ret_bytes)
{
	uint64_t factor;
	char *end;
	long double value;

	if (!isdigit((unsigned char)*text))
		return -EINVAL;
	if (text[0] == '0' && (text[1] == 'x' || text[1] == 'X'))
		return -EINVAL;
	value = strtold(text, &end);
	while (*end == ' ')
		end++;
	factor = size_factor(end);
	if (factor == 0)
		return -EINVAL;
	value *= (long double)factor;
	if (value >= 9223372036854775808.0L)
		return -ERANGE;
	*ret_bytes = (uint64_t)value;
	return 0;
}

const char *size_format(uint64_t bytes, char text[SIZE_TEXT_MAX])
{
	double value = (double)bytes;
	int unit = -1;

	while (value >= 1024 && unit + 1 < (int)sizeof(units) - 1) {
		value /= 1024;
		unit++;
	}
	if (unit < 0)
		snprintf(text, SIZE_TEXT_MAX, "%llu B", (unsigned long long)bytes);
	else
		snprintf(text, SIZE_TEXT_MAX,
			 value == (double)(long)value ? "%.0f %ciB" : "%.1f %ciB", value,
			 units[unit]);
	return text;
}
