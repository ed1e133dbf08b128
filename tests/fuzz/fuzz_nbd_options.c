/* SPDX-License-Identifier: Apache-2.0
 *
 * Option haggling: an option's header, then its data, through each parser of such data. What a
 * parser accepts must hold what its header promises.
 */
#include "base/check.h"
#include "nbd/options.h"
#include "nbd/protocol.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_name(const struct nbd_name *name, const uint8_t *data, size_t size)
{
	const uint8_t *bytes = (const uint8_t *)name->bytes;

	CHECK(name->length <= NBD_STRING_MAX);
	CHECK(bytes >= data);
	CHECK(bytes + name->length <= data + size);
	CHECK(!memchr(bytes, 0, name->length));
}

static void check_refusal(const struct nbd_refusal *refusal)
{
	uint8_t out[512];
	struct cursor c = cursor_over(out, sizeof(out));

	CHECK(refusal->rep & NBD_REP_ERR);
	CHECK(refusal->text[0]);
	nbd_put_refusal(&c, 1, refusal);
	CHECK(!c.bad);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct nbd_refusal refusal;
	struct nbd_option option;
	struct nbd_name name;
	struct nbd_meta meta;
	struct nbd_go go;

	if (size < NBD_OPTION_HEADER_SIZE)
		return 0;
	if (nbd_option_parse(data, &option))
		CHECK(option.length == get_be32(data + 12));
	data += NBD_OPTION_HEADER_SIZE;
	size -= NBD_OPTION_HEADER_SIZE;
	if (nbd_name_parse(data, size, &name, &refusal))
		check_name(&name, data, size);
	else
		check_refusal(&refusal);
	if (nbd_go_parse(data, size, &go, &refusal))
		check_name(&go.name, data, size);
	else
		check_refusal(&refusal);
	if (nbd_meta_parse(data, size, &meta, &refusal)) {
		check_name(&meta.name, data, size);
		CHECK(meta.n_queries <= size / 5);
	} else {
		check_refusal(&refusal);
	}
	if (!nbd_empty_parse(size, &refusal))
		check_refusal(&refusal);
	return 0;
}
