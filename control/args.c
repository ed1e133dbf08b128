/* SPDX-License-Identifier: Apache-2.0
 *
 * What callers pass, looked at before anything happens. Pure functions, but for the search for a
 * free device name.
 */
#include "base/crc32c.h"
#include "base/size.h"
#include "control/internal.h"
#include "snapshots/repository.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

/* ---- Text -------------------------------------------------------------------------- */

/* The length of the well-formed UTF-8 character at p, or 0. */
static unsigned utf8_step(const unsigned char *p)
{
	unsigned n = p[0] < 0x80 ? 1 : p[0] < 0xc2 ? 0 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;
	bool bad = p[0] > 0xf4 || (p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) ||
		   (p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f);

	for (unsigned i = 1; i < n; i++)
		if ((p[i] & 0xc0) != 0x80)
			return 0;
	return bad ? 0 : n;
}

/* Characters of the text; -1: not UTF-8, or more than `max`. */
static long count_characters(const char *text, long max)
{
	const unsigned char *p = (const unsigned char *)text;
	long n = 0;

	while (*p) {
		unsigned step = utf8_step(p);

		if (step == 0 || n == max)
			return -1;
		p += step;
		n++;
	}
	return n;
}

int args_text(const char *what, const char *text, size_t max, struct control_error *error)
{
	if (strnlen(text, max + 1) > max)
		return control_fail(error, "InvalidParameterValue", -EINVAL,
				    "%s is longer than %zu bytes", what, max);
	for (const char *p = text; *p; p++)
		if ((unsigned char)*p < ' ' || *p == 127)
			return control_fail(error, "InvalidParameterValue", -EINVAL,
					    "%s has a control character in it", what);
	if (count_characters(text, (long)max) < 0)
		return control_fail(error, "InvalidParameterValue", -EINVAL, "%s is not UTF-8",
				    what);
	return 0;
}

/* ---- Ids --------------------------------------------------------------------------- */

int args_volume_id(const char *text, struct id *ret_id, struct control_error *error)
{
	if (!text)
		return control_fail(error, "MissingParameter", -EINVAL,
				    "The request must contain the parameter volumeId");
	if (id_parse(text, CATALOG_VOLUME_PREFIX, ret_id) == 0 && !id_is_zero(*ret_id))
		return 0;
	return control_fail(error, "InvalidVolumeID.Malformed", -EINVAL,
			    "Invalid id: \"%.64s\" (expecting \"vol-\" and 17 hex digits)", text);
}

int args_instance_id(const char *text, struct id *ret_id, struct control_error *error)
{
	if (!text)
		return control_fail(error, "MissingParameter", -EINVAL,
				    "The request must contain the parameter instanceId");
	if (id_parse(text, CATALOG_INSTANCE_PREFIX, ret_id) == 0 && !id_is_zero(*ret_id))
		return 0;
	return control_fail(error, "InvalidInstanceID.Malformed", -EINVAL,
			    "Invalid id: \"%.64s\" (expecting \"i-\" and 17 hex digits)", text);
}

int args_snapshot_id(const char *text, struct id *ret_id, struct control_error *error)
{
	if (!text)
		return control_fail(error, "MissingParameter", -EINVAL,
				    "The request must contain the parameter snapshotId");
	if (id_parse(text, CATALOG_SNAPSHOT_PREFIX, ret_id) == 0 && !id_is_zero(*ret_id))
		return 0;
	return control_fail(error, "InvalidSnapshotID.Malformed", -EINVAL,
			    "Invalid id: \"%.64s\" (expecting \"snap-\" and 17 hex digits)", text);
}

/* ---- Create ------------------------------------------------------------------------ */

int args_size(uint64_t size, uint64_t *ret_size, struct control_error *error)
{
	char text[SIZE_TEXT_MAX];
	char least[SIZE_TEXT_MAX];

	if (size == 0)
		return control_fail(error, "MissingParameter", -EINVAL,
				    "The request must contain the parameter size");
	if (size < CONTROL_VOLUME_SIZE_MIN || size > VOLUME_BYTES_MAX)
		return control_fail(error, "InvalidParameterValue", -EINVAL,
				    "a volume can't have %s: the least is %s, the most 64 TiB",
				    size_format(size, text),
				    size_format(CONTROL_VOLUME_SIZE_MIN, least));
	*ret_size = round_up(size, CONTROL_VOLUME_SIZE_UNIT);
	return 0;
}

static int check_tag(const struct control_tag *tags, unsigned i, struct control_error *error)
{
	const char *key = tags[i].key;

	if (!key || !tags[i].value)
		return control_fail(error, "MissingParameter", -EINVAL,
				    "a tag has a key and a value");
	if (count_characters(key, CONTROL_TAG_KEY_MAX) < 1)
		return control_fail(error, "InvalidParameterValue", -EINVAL,
				    "Tag key '%.64s': it has 1 to %d characters of UTF-8", key,
				    CONTROL_TAG_KEY_MAX);
	if (count_characters(tags[i].value, CONTROL_TAG_VALUE_MAX) < 0)
		return control_fail(error, "InvalidParameterValue", -EINVAL,
				    "Tag '%.64s': its value has at most %d characters of UTF-8",
				    key, CONTROL_TAG_VALUE_MAX);
	if (strncmp(key, "aws:", 4) == 0)
		return control_fail(error, "InvalidParameterValue", -EINVAL,
				    "Tag keys starting with 'aws:' are reserved for internal use");
	for (unsigned k = 0; k < i; k++)
		if (strcmp(tags[k].key, key) == 0)
			return control_fail(error, "InvalidParameterValue", -EINVAL,
					    "Duplicate tag key '%.64s' specified.", key);
	return 0;
}

static int check_tags(const struct control_tag *tags, unsigned n, const char *name,
		      struct control_error *error)
{
	bool named = name && name[0];
	int r = 0;

	if (n + named > CONTROL_TAGS_MAX)
		return control_fail(error, "TagLimitExceeded", -E2BIG,
				    "A resource can have at most %d tags", CONTROL_TAGS_MAX);
	for (unsigned i = 0; i < n && r == 0; i++) {
		r = check_tag(tags, i, error);
		if (r == 0 && named && strcmp(tags[i].key, "Name") == 0)
			r = control_fail(error, "InvalidParameterCombination", -EINVAL,
					 "The name is the tag 'Name': give one of the two");
	}
	return r;
}

/* The repository keeps description and tags in one small object. */
int args_snapshot_create(const struct control_op *op, struct control_error *error)
{
	const char *description = op->snapshot_create.description;
	const struct control_tag *tags = op->snapshot_create.tags;
	unsigned n = op->snapshot_create.n_tags;
	int r = check_tags(tags, n, NULL, error);
	size_t bytes = 1 + (description ? strlen(description) : 0);

	if (r == 0 && description)
		r = args_text("the description", description, CONTROL_NAME_MAX, error);
	for (unsigned i = 0; i < n && r == 0; i++)
		bytes += strlen(tags[i].key) + strlen(tags[i].value) + 2;
	if (r == 0 && bytes > SNAP_LABELS_MAX)
		r = control_fail(error, "TagLimitExceeded", -E2BIG,
				 "The description and the tags of a snapshot can have %d bytes "
				 "together: make them shorter",
				 SNAP_LABELS_MAX);
	return r;
}

int args_create(const struct control_op *op, struct control_error *error)
{
	const char *name = op->create.name;
	const char *token = op->create.client_token;
	int r = check_tags(op->create.tags, op->create.n_tags, name, error);

	if (r == 0 && name && count_characters(name, CONTROL_TAG_VALUE_MAX) < 0)
		r = control_fail(error, "InvalidParameterValue", -EINVAL,
				 "the name has at most %d characters of UTF-8",
				 CONTROL_TAG_VALUE_MAX);
	if (r < 0 || !token)
		return r;
	if (strnlen(token, CONTROL_TOKEN_MAX + 1) > CONTROL_TOKEN_MAX)
		return control_fail(error, "InvalidParameterValue", -EINVAL,
				    "Client token must be less than or equal to %d characters.",
				    CONTROL_TOKEN_MAX);
	for (const char *p = token; *p; p++)
		if (*p < ' ' || *p >= 127)
			return control_fail(error, "InvalidParameterValue", -EINVAL,
					    "Client token must be of printable ASCII characters.");
	return 0;
}

/* Two independent sums of the bytes, well mixed. Not against forgery: a caller who makes two of
 * its own requests look alike hurts nobody else. */
static void hash_text(uint64_t hash[2], const char *text)
{
	size_t n = strlen(text);

	for (unsigned i = 0; i < 2; i++) {
		uint64_t h = hash_u64(n + i);

		for (size_t k = 0; k < n; k++)
			h = hash_u64(h ^ (unsigned char)text[k]) + i;
		hash[i] = h;
	}
}

void args_hash_create(const struct control_op *op, uint64_t ret_hash[2])
{
	uint64_t name[2];

	uint64_t snapshot[2];

	hash_text(name, op->create.name ? op->create.name : "");
	hash_text(snapshot, op->create.snapshot ? op->create.snapshot : "");
	ret_hash[0] = hash_u64(op->create.size ^ name[0]) + hash_u64(snapshot[0]);
	ret_hash[1] = hash_u64(op->create.size + name[1]) + hash_u64(snapshot[1]);
	ret_hash[0] += hash_u64(op->create.initialization_rate);
	ret_hash[1] += op->create.full;
	/* A sum over the tags does not depend on their order. */
	for (unsigned i = 0; i < op->create.n_tags; i++) {
		uint64_t key[2];
		uint64_t value[2];

		hash_text(key, op->create.tags[i].key);
		hash_text(value, op->create.tags[i].value);
		ret_hash[0] += hash_u64(key[0] ^ hash_u64(value[0]));
		ret_hash[1] += hash_u64(key[1] + hash_u64(value[1]));
	}
	/* SQLite's numbers are signed. */
	ret_hash[0] &= INT64_MAX;
	ret_hash[1] &= INT64_MAX;
}

/* ---- Devices ----------------------------------------------------------------------------------
 * EC2's names for disks: /dev/sd[f-p] are recommended, /dev/sd[b-z], /dev/xvd[a-z] and
 * /dev/xvd[a-d][a-z] allowed; /dev/sda1 and /dev/xvda are for a root disk.
 */

static bool is_letter(char c, char from, char to)
{
	return c >= from && c <= to;
}

int args_device(const char *device, struct control_error *error)
{
	const char *p = device;

	if (strcmp(device, "/dev/sda1") == 0)
		return 0;
	if (strncmp(p, "/dev/sd", 7) == 0 && is_letter(p[7], 'b', 'z') && p[8] == '\0')
		return 0;
	if (strncmp(p, "/dev/xvd", 8) == 0 && is_letter(p[8], 'a', 'z') && p[9] == '\0')
		return 0;
	if (strncmp(p, "/dev/xvd", 8) == 0 && is_letter(p[8], 'a', 'd') &&
	    is_letter(p[9], 'a', 'z') && p[10] == '\0')
		return 0;
	return control_fail(
	    error, "InvalidParameterValue", -EINVAL,
	    "Value (%.64s) for parameter device is invalid. %.64s is not a valid EBS "
	    "device name: /dev/sd[f-p] are good ones",
	    device, device);
}

/* The n-th name to try; false: there are no more. */
static bool nth_device(unsigned n, char ret_device[CATALOG_DEVICE_MAX + 1])
{
	if (n < 11) { /* f to p */
		snprintf(ret_device, CATALOG_DEVICE_MAX + 1, "/dev/sd%c", 'f' + n);
		return true;
	}
	n -= 11;
	if (n < 10) { /* q to z */
		snprintf(ret_device, CATALOG_DEVICE_MAX + 1, "/dev/sd%c", 'q' + n);
		return true;
	}
	n -= 10;
	if (n >= 4 * 26)
		return false;
	snprintf(ret_device, CATALOG_DEVICE_MAX + 1, "/dev/xvd%c%c", 'a' + (n / 26 + 1) % 4,
		 'a' + n % 26);
	return true;
}

int device_next_free(struct catalog *c, struct id instance, char ret_device[CATALOG_DEVICE_MAX + 1],
		     struct err *err)
{
	bool taken = true;
	int r = 0;

	for (unsigned n = 0; r == 0 && taken; n++) {
		if (!nth_device(n, ret_device))
			return -ENOSPC;
		r = catalog_device_is_taken(c, instance, ret_device, &taken, err);
	}
	return r;
}
