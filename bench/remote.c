/* SPDX-License-Identifier: Apache-2.0
 *
 * Socket and handshake of the load generator.
 */
#include "bench/remote.h"

#include "base/bytes.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#define MAGIC_HELLO      UINT64_C(0x4e42444d41474943) /* NBDMAGIC */
#define MAGIC_OPTION     UINT64_C(0x49484156454f5054) /* IHAVEOPT */
#define MAGIC_REPLY      UINT64_C(0x3e889045565a9)
#define HELLO_NEWSTYLE   1u
#define HELLO_NO_ZEROES  2u
#define OPT_GO           7u
#define REP_ACK          1u
#define REP_INFO         3u
#define REP_ERROR        (1u << 31)
#define REP_ERR_UNSUP    (REP_ERROR + 1)
#define REP_ERR_POLICY   (REP_ERROR + 2)
#define REP_ERR_TLS      (REP_ERROR + 5)
#define REP_ERR_UNKNOWN  (REP_ERROR + 6)
#define INFO_EXPORT      0u
#define INFO_BLOCK_SIZE  3u
#define EXPORT_NAME_MAX  4096
#define REPLY_DATA_MAX   8192
#define UNIX_SEND_BUFFER (2 * 1024 * 1024)

static int connect_unix(const char *path, int *ret_fd, struct err *err);
static int connect_tcp(const char *address, int *ret_fd, struct err *err);
static void set_deadline(int fd, unsigned seconds);
static int handshake(int fd, const char *export_name, struct remote *r, struct err *err);
static int send_go(int fd, const char *export_name, struct err *err);
static int take_info(struct cursor c, struct remote *r, bool *have_export, struct err *err);
static int refused(uint32_t type, const char *text, const char *export_name, struct err *err);
static int read_all(int fd, void *buf, size_t len, struct err *err);
static int write_all(int fd, const void *buf, size_t len, struct err *err);

int remote_open(const char *address, const char *export_name, unsigned timeout_s,
		struct remote *ret_remote, int *ret_fd, struct err *err)
{
	struct remote r = {.min_block = 1, .max_block = 32 * MiB};
	bool is_unix = strncmp(address, "unix:", 5) == 0;
	int fd = -1;
	int rc;

	if (is_unix)
		rc = connect_unix(address + 5, &fd, err);
	else
		rc = connect_tcp(address, &fd, err);
	if (rc < 0)
		return err_wrap(err, "%s", address);
	set_deadline(fd, timeout_s);
	rc = handshake(fd, export_name, &r, err);
	if (rc == 0 && fcntl(fd, F_SETFL, O_NONBLOCK) < 0)
		rc = err_set(err, -errno, "cannot make the socket non-blocking");
	if (rc < 0) {
		close(fd);
		return err_wrap(err, "%s", address);
	}
	*ret_remote = r;
	*ret_fd = fd;
	return 0;
}

static int connect_unix(const char *path, int *ret_fd, struct err *err)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	int bytes = UNIX_SEND_BUFFER;
	size_t len = strlen(path);
	int fd;

	if (len == 0 || len >= sizeof(sun.sun_path))
		return err_set(err, -EINVAL, "a socket's path has 1 to %zu characters",
			       sizeof(sun.sun_path) - 1);
	memcpy(sun.sun_path, path, len);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return err_set(err, -errno, "socket: %s", strerror(errno));
	if (connect(fd, (struct sockaddr *)&sun, sizeof(sun)) < 0) {
		err_set(err, -errno, "cannot connect: %s (is the server running?)",
			strerror(errno));
		close(fd);
		return err->code;
	}
	/* A whole batch of writes should fit; the kernel caps it where it wants. */
	setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
	*ret_fd = fd;
	return 0;
}

static int connect_tcp(const char *address, int *ret_fd, struct err *err)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found = NULL;
	const char *colon = strrchr(address, ':');
	char host[256];
	size_t len;
	int rc, fd = -1, one = 1;

	if (!colon || colon == address || !colon[1])
		return err_set(err, -EINVAL, "an address is unix:PATH or HOST:PORT");
	len = (size_t)(colon - address);
	if (address[0] == '[' && colon[-1] == ']') {
		address++;
		len -= 2;
	}
	if (len >= sizeof(host))
		return err_set(err, -EINVAL, "the host's name is too long");
	memcpy(host, address, len);
	host[len] = 0;
	rc = getaddrinfo(host, colon + 1, &hints, &found);
	if (rc != 0)
		return err_set(err, -ENOENT, "cannot look up the address: %s", gai_strerror(rc));
	err_set(err, -ENOENT, "the name has no address");
	for (struct addrinfo *a = found; a && fd < 0; a = a->ai_next) {
		fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, a->ai_protocol);
		if (fd >= 0 && connect(fd, a->ai_addr, a->ai_addrlen) == 0)
			break;
		err_set(err, -errno, "cannot connect: %s (is the server running?)",
			strerror(errno));
		if (fd >= 0)
			close(fd);
		fd = -1;
	}
	freeaddrinfo(found);
	if (fd < 0)
		return err->code;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	*ret_fd = fd;
	return 0;
}

static void set_deadline(int fd, unsigned seconds)
{
	struct timeval limit = {.tv_sec = seconds};

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
}

static int handshake(int fd, const char *export_name, struct remote *r, struct err *err)
{
	bool have_export = false;
	uint8_t head[20];
	uint8_t data[REPLY_DATA_MAX + 1];
	int rc = read_all(fd, head, 18, err);

	if (rc < 0)
		return rc;
	if (get_be64(head) != MAGIC_HELLO || get_be64(head + 8) != MAGIC_OPTION ||
	    !(get_be16(head + 16) & HELLO_NEWSTYLE))
		return err_set(err, -EPROTO, "not an NBD server with the fixed newstyle handshake");
	rc = send_go(fd, export_name, err);
	while (rc == 0) {
		uint32_t type, len;

		rc = read_all(fd, head, 20, err);
		if (rc < 0)
			return rc;
		type = get_be32(head + 12);
		len = get_be32(head + 16);
		if (get_be64(head) != MAGIC_REPLY || get_be32(head + 8) != OPT_GO)
			return err_set(err, -EPROTO, "what answers NBD_OPT_GO is no reply to it");
		if (len > REPLY_DATA_MAX)
			return err_set(err, -EPROTO, "an option reply of %" PRIu32 " bytes", len);
		rc = read_all(fd, data, len, err);
		if (rc < 0)
			return rc;
		data[len] = 0;
		if (type == REP_ACK)
			return have_export ? 0
					   : err_set(err, -EPROTO, "server did not tell the size");
		if (type & REP_ERROR)
			return refused(type, (char *)data, export_name, err);
		if (type == REP_INFO)
			rc = take_info(cursor_over(data, len), r, &have_export, err);
	}
	return rc;
}

static int send_go(int fd, const char *export_name, struct err *err)
{
	uint8_t buf[4 + 16 + 4 + EXPORT_NAME_MAX + 4];
	struct cursor c = cursor_over(buf, sizeof(buf));
	size_t len = strlen(export_name);

	if (len > EXPORT_NAME_MAX)
		return err_set(err, -EINVAL, "an export's name has at most %d bytes",
			       EXPORT_NAME_MAX);
	/* The server obeys NO_ZEROES only for EXPORT_NAME, but some want to see it. */
	cursor_put_be32(&c, HELLO_NEWSTYLE | HELLO_NO_ZEROES);
	cursor_put_be64(&c, MAGIC_OPTION);
	cursor_put_be32(&c, OPT_GO);
	cursor_put_be32(&c, (uint32_t)(4 + len + 2 + 2));
	cursor_put_be32(&c, (uint32_t)len);
	for (size_t i = 0; i < len; i++)
		cursor_put_u8(&c, (uint8_t)export_name[i]);
	cursor_put_be16(&c, 1);
	cursor_put_be16(&c, INFO_BLOCK_SIZE);
	return write_all(fd, buf, sizeof(buf) - c.left, err);
}

static int take_info(struct cursor c, struct remote *r, bool *have_export, struct err *err)
{
	uint16_t kind = cursor_get_be16(&c);

	if (kind == INFO_EXPORT) {
		r->size = cursor_get_be64(&c);
		r->flags = cursor_get_be16(&c);
		*have_export = true;
	} else if (kind == INFO_BLOCK_SIZE) {
		r->min_block = cursor_get_be32(&c);
		cursor_get_be32(&c);
		r->max_block = cursor_get_be32(&c);
	}
	if (c.bad || r->min_block == 0)
		return err_set(err, -EPROTO, "malformed NBD_REP_INFO of kind %u", kind);
	return 0;
}

static int refused(uint32_t type, const char *text, const char *export_name, struct err *err)
{
	const char *why = "the server refused the export";

	if (type == REP_ERR_UNKNOWN)
		why = "the server has no such export";
	else if (type == REP_ERR_UNSUP)
		why = "the server does not know NBD_OPT_GO";
	else if (type == REP_ERR_TLS)
		why = "the server wants TLS, which this client does not speak";
	else if (type == REP_ERR_POLICY)
		why = "the server does not allow this export";
	return err_set(err, -ENOENT, "export \"%s\": %s (NBD error %" PRIu32 "%s%.200s)",
		       export_name, why, type & ~REP_ERROR, *text ? ": " : "", text);
}

static int read_all(int fd, void *buf, size_t len, struct err *err)
{
	uint8_t *p = buf;

	while (len > 0) {
		ssize_t n = recv(fd, p, len, 0);

		if (n > 0) {
			p += n;
			len -= (size_t)n;
		} else if (n == 0) {
			return err_set(err, -ECONNRESET, "server hung up during the handshake");
		} else if (errno == EAGAIN) {
			return err_set(err, -ETIMEDOUT, "server is silent during the handshake");
		} else if (errno != EINTR) {
			return err_set(err, -errno, "handshake: %s", strerror(errno));
		}
	}
	return 0;
}

static int write_all(int fd, const void *buf, size_t len, struct err *err)
{
	const uint8_t *p = buf;

	while (len > 0) {
		ssize_t n = send(fd, p, len, MSG_NOSIGNAL);

		if (n >= 0) {
			p += n;
			len -= (size_t)n;
		} else if (errno != EINTR) {
			return err_set(err, -errno, "handshake: %s", strerror(errno));
		}
	}
	return 0;
}
