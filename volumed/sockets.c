/* SPDX-License-Identifier: Apache-2.0 */
#include "volumed/sockets.h"

#include "base/log.h"
#include "base/util.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <systemd/sd-daemon.h>
#include <time.h>
#include <unistd.h>

#define BACKLOG        128
#define LISTENER_TRIES 100 /* with pauses of 20 ms: 2 s */

union address {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
	struct sockaddr_un un;
	struct sockaddr_storage storage;
};

/* Fills in name and kind of a listening socket by asking the kernel. */
static int describe(struct listener *l, struct err *err)
{
	union address a = {0};
	socklen_t len = sizeof(a);
	char ip[INET6_ADDRSTRLEN];

	if (getsockname(l->fd, &a.any, &len) < 0)
		return err_set(err, -errno, "listening socket %d: %s", l->fd, strerror(errno));
	l->is_unix = a.any.sa_family == AF_UNIX;
	if (l->is_unix)
		snprintf(l->name, sizeof(l->name), "%s%s", a.un.sun_path[0] ? "" : "@",
			 a.un.sun_path[0] ? a.un.sun_path : a.un.sun_path + 1);
	else if (a.any.sa_family == AF_INET)
		snprintf(l->name, sizeof(l->name), "%s:%u",
			 inet_ntop(AF_INET, &a.v4.sin_addr, ip, sizeof(ip)), ntohs(a.v4.sin_port));
	else if (a.any.sa_family == AF_INET6)
		snprintf(l->name, sizeof(l->name), "[%s]:%u",
			 inet_ntop(AF_INET6, &a.v6.sin6_addr, ip, sizeof(ip)),
			 ntohs(a.v6.sin6_port));
	else
		return err_set(err, -EAFNOSUPPORT,
			       "listening socket %d: NBD is served on unix and TCP sockets, not on "
			       "address family %d",
			       l->fd, a.any.sa_family);
	return 0;
}

/* Takes the socket over, even on failure. */
static int add(struct listeners *listeners, int fd, bool inherited, struct err *err)
{
	struct listener *l = &listeners->all[listeners->n];
	int r;

	if (listeners->n == LISTENERS_MAX) {
		close(fd);
		return err_set(err, -EMFILE, "more than %d listening sockets", LISTENERS_MAX);
	}
	*l = (struct listener){.fd = fd, .inherited = inherited};
	r = describe(l, err);
	if (r < 0)
		close(fd);
	else
		listeners->n++;
	return r;
}

int listeners_inherit(struct listeners *listeners, struct err *err)
{
	int n = sd_listen_fds(1);
	int r;

	if (n < 0)
		return err_set(err, n, "sockets from the service manager (LISTEN_FDS): %s",
			       strerror(-n));
	for (int fd = SD_LISTEN_FDS_START; fd < SD_LISTEN_FDS_START + n; fd++) {
		if (sd_is_socket(fd, AF_UNSPEC, SOCK_STREAM, 1) <= 0)
			return err_set(err, -EINVAL,
				       "descriptor %d from the service manager is no listening "
				       "stream socket: use ListenStream= in the socket unit",
				       fd);
		r = add(listeners, fd, true, err);
		if (r < 0)
			return r;
	}
	return 0;
}

/* ---- Unix -------------------------------------------------------------------------- */

static bool is_same_file(const char *a, const char *b)
{
	struct stat sa;
	struct stat sb;

	return stat(a, &sa) == 0 && stat(b, &sb) == 0 && sa.st_dev == sb.st_dev &&
	       sa.st_ino == sb.st_ino;
}

static bool is_inherited(const struct listeners *listeners, const char *path)
{
	for (unsigned i = 0; i < listeners->n; i++) {
		const struct listener *l = &listeners->all[i];

		if (l->inherited && l->is_unix && is_same_file(l->name, path))
			return true;
	}
	return false;
}

/* A full backlog says EAGAIN: somebody listens. */
static bool is_refused(int fd, const struct sockaddr_un *address)
{
	return connect(fd, (const struct sockaddr *)address, sizeof(*address)) < 0 &&
	       errno == ECONNREFUSED;
}

/* Something of that name exists: removes it if it is a socket on which nobody listens. Our lock on
 * the data folder keeps a second daemon from doing the same at this moment. The kernel takes down
 * the io_uring of a daemon that was killed a moment after the process has ended, and its sockets
 * with it: hence several tries. */
static int remove_stale(const struct sockaddr_un *address, struct err *err)
{
	const struct timespec pause = {.tv_nsec = 20 * NSEC_PER_MSEC};
	const char *path = address->sun_path;
	struct stat st;
	bool refused = false;

	if (lstat(path, &st) < 0)
		return errno == ENOENT ? 0 : err_set(err, -errno, "%s: %s", path, strerror(errno));
	if (!S_ISSOCK(st.st_mode))
		return err_set(err, -EEXIST,
			       "%s exists and is no socket; it is left alone: move it away", path);
	for (unsigned i = 0; i < LISTENER_TRIES && !refused; i++) {
		int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

		if (fd < 0)
			return err_set(err, -errno, "a socket: %s", strerror(errno));
		refused = is_refused(fd, address);
		close(fd);
		if (!refused)
			nanosleep(&pause, NULL);
	}
	if (!refused)
		return err_set(err, -EADDRINUSE,
			       "%s: another process listens on it; stop that one first", path);
	if (unlink(path) < 0 && errno != ENOENT)
		return err_set(err, -errno, "%s is left from a crash, and removing it failed: %s",
			       path, strerror(errno));
	return 0;
}

int listeners_add_unix(struct listeners *listeners, const char *path, struct err *err)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd;
	int r;

	if (is_inherited(listeners, path))
		return 0;
	if (strlen(path) >= sizeof(address.sun_path))
		return err_set(err, -ENAMETOOLONG,
			       "%s: a unix socket's path has at most %zu bytes: choose a data "
			       "folder with a shorter path, or start in it with a relative one",
			       path, sizeof(address.sun_path) - 1);
	memcpy(address.sun_path, path, strlen(path) + 1);
	r = remove_stale(&address, err);
	if (r < 0)
		return r;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return err_set(err, -errno, "a socket: %s", strerror(errno));
	/* The mode of the socket becomes that of its name: nobody gets in between bind
	 * and chmod. */
	if (fchmod(fd, 0600) < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 ||
	    listen(fd, BACKLOG) < 0) {
		r = err_set(err, -errno, "listening on %s: %s", path, strerror(errno));
		close(fd);
		return r;
	}
	return add(listeners, fd, false, err);
}

/* ---- TCP --------------------------------------------------------------------------- */

/* getaddrinfo takes only the low 16 bits of a larger one. */
static bool is_port(const char *text)
{
	char *end;
	unsigned long port;

	if (!isdigit((unsigned char)*text))
		return false;
	port = strtoul(text, &end, 10);
	return *end == '\0' && port <= 65535;
}

/* Splits "ADDR:PORT" or "[ADDR]:PORT". */
static int split(const char *text, char *addr, size_t addr_size, const char **ret_port)
{
	const char *colon = strrchr(text, ':');
	size_t len;

	if (!colon || colon == text || colon[1] == '\0')
		return -EINVAL;
	len = (size_t)(colon - text);
	if (text[0] == '[') {
		if (text[len - 1] != ']')
			return -EINVAL;
		text++;
		len -= 2;
	} else if (memchr(text, ':', len)) {
		return -EINVAL; /* IPv6 wants its brackets */
	}
	if (len == 0 || len >= addr_size)
		return -EINVAL;
	memcpy(addr, text, len);
	addr[len] = '\0';
	*ret_port = colon + 1;
	return is_port(colon + 1) ? 0 : -EINVAL;
}

static bool is_loopback(const struct sockaddr *address)
{
	const struct sockaddr_in *v4 = (const struct sockaddr_in *)address;
	const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)address;

	if (address->sa_family == AF_INET)
		return ntohl(v4->sin_addr.s_addr) >> 24 == 127;
	return address->sa_family == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&v6->sin6_addr);
}

/* Again while the address is taken: see remove_stale. */
static bool try_to_listen(int fd, const struct addrinfo *at)
{
	const struct timespec pause = {.tv_nsec = 20 * NSEC_PER_MSEC};
	bool bound = false;

	for (unsigned i = 0; i < LISTENER_TRIES; i++) {
		bound = bound || bind(fd, at->ai_addr, at->ai_addrlen) == 0;
		if (bound && listen(fd, BACKLOG) == 0)
			return true;
		if (errno != EADDRINUSE)
			return false;
		nanosleep(&pause, NULL);
		errno = EADDRINUSE;
	}
	return false;
}

static int listen_at(struct listeners *listeners, const struct addrinfo *at, const char *text,
		     struct err *err)
{
	int fd = socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int one = 1;
	int code;

	if (fd < 0)
		return err_set(err, -errno, "--nbd-listen %s: %s", text, strerror(errno));
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (at->ai_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one));
	if (try_to_listen(fd, at))
		return add(listeners, fd, false, err);
	code = -errno;
	close(fd);
	return err_set(err, code, "--nbd-listen %s: %s%s", text, strerror(-code),
		       code == -EADDRINUSE ? "; stop what listens there, or choose another port"
		       : code == -EADDRNOTAVAIL ? "; this machine has no such address"
						: "");
}

int listeners_add_tcp(struct listeners *listeners, const char *text, bool allow_remote,
		      struct err *err)
{
	struct addrinfo hints = {
	    .ai_family = AF_UNSPEC,
	    .ai_socktype = SOCK_STREAM,
	    .ai_flags = AI_PASSIVE | AI_NUMERICHOST | AI_NUMERICSERV,
	};
	struct addrinfo *found;
	char addr[INET6_ADDRSTRLEN + IF_NAMESIZE];
	const char *port;
	int r;

	if (split(text, addr, sizeof(addr), &port) < 0 ||
	    getaddrinfo(addr, port, &hints, &found) != 0)
		return err_set(err, -EINVAL,
			       "--nbd-listen '%s': write a numeric address and a port, as in "
			       "127.0.0.1:10809 or [::1]:10809",
			       text);
	if (is_loopback(found->ai_addr)) {
		r = listen_at(listeners, found, text, err);
	} else if (allow_remote) {
		log_warning("%s is served without TLS: whoever can connect to it can read and "
			    "write every volume",
			    text);
		r = listen_at(listeners, found, text, err);
	} else {
		r = err_set(err, -EACCES,
			    "--nbd-listen %s: other machines can reach this address, and NBD "
			    "without TLS lets all of them read and write every volume; listen on a "
			    "loopback address, or say --allow-remote-plaintext if the network is "
			    "trusted",
			    text);
	}
	freeaddrinfo(found);
	return r;
}

void listeners_close(struct listeners *listeners)
{
	for (unsigned i = 0; i < listeners->n; i++) {
		struct listener *l = &listeners->all[i];

		if (l->is_unix && !l->inherited)
			unlink(l->name);
		if (l->fd >= 0)
			close(l->fd);
	}
	listeners->n = 0;
}
