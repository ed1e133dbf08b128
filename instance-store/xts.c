/* SPDX-License-Identifier: Apache-2.0 */
#include "instance-store/xts.h"

#include "base/bytes.h"
#include "base/check.h"
#include "base/mem.h"

#include <errno.h>
#include <gnutls/crypto.h>

struct xts {
	gnutls_cipher_hd_t handle;
};

int xts_new(const uint8_t key[ISTORE_KEY_SIZE], struct xts **ret_xts, struct err *err)
{
	uint8_t zeroes[16] = {0};
	gnutls_datum_t k = {.data = (uint8_t *)(uintptr_t)key, .size = ISTORE_KEY_SIZE};
	gnutls_datum_t tweak = {.data = zeroes, .size = sizeof(zeroes)};
	struct xts *xts = mem_alloc(sizeof(*xts));
	int r;

	if (!xts)
		return err_set(err, -ENOMEM, "AES-256-XTS: out of memory");
	r = gnutls_cipher_init(&xts->handle, GNUTLS_CIPHER_AES_256_XTS, &k, &tweak);
	if (r < 0) {
		mem_free(xts);
		return err_set(err, -EINVAL, "AES-256-XTS: GnuTLS says: %s", gnutls_strerror(r));
	}
	*ret_xts = xts;
	return 0;
}

void xts_free(struct xts *xts)
{
	if (!xts)
		return;
	gnutls_cipher_deinit(xts->handle);
	mem_free(xts);
}

static void set_tweak(struct xts *xts, uint64_t block)
{
	uint8_t tweak[16] = {0};

	put_le64(tweak, block);
	gnutls_cipher_set_iv(xts->handle, tweak, sizeof(tweak));
}

void xts_encrypt(struct xts *xts, uint64_t block, uint64_t n, const void *from, void *to)
{
	const uint8_t *in = from;
	uint8_t *out = to;

	for (uint64_t i = 0; i < n; i++) {
		int r;

		set_tweak(xts, block + i);
		r = gnutls_cipher_encrypt2(xts->handle, in + i * ISTORE_PAGE, ISTORE_PAGE,
					   out + i * ISTORE_PAGE, ISTORE_PAGE);
		CHECK(r == 0);
	}
}

void xts_decrypt(struct xts *xts, uint64_t block, uint64_t n, const void *from, void *to)
{
	const uint8_t *in = from;
	uint8_t *out = to;

	for (uint64_t i = 0; i < n; i++) {
		int r;

		set_tweak(xts, block + i);
		r = gnutls_cipher_decrypt2(xts->handle, in + i * ISTORE_PAGE, ISTORE_PAGE,
					   out + i * ISTORE_PAGE, ISTORE_PAGE);
		CHECK(r == 0);
	}
}
