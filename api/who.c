/* SPDX-License-Identifier: Apache-2.0 */
#include "api/who.h"

#include "base/util.h"

#include <microhttpd.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#define PROGRAM_MAX 32
#define USER_MAX    64

/* The letters of a User-Agent up to its version: what is quoted in a log. */
static void get_program(struct MHD_Connection *connection, char ret[PROGRAM_MAX])
{
	static const char legal[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
				    "0123456789-_.";
	const char *agent =
	    MHD_lookup_connection_value(connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_USER_AGENT);
	size_t len = agent ? strspn(agent, legal) : 0;

	if (len == 0)
		snprintf(ret, PROGRAM_MAX, "api");
	else
		snprintf(ret, PROGRAM_MAX, "%.*s", (int)min_u64(len, PROGRAM_MAX - 1), agent);
}

static void get_user(struct MHD_Connection *connection, char ret[USER_MAX])
{
	const union MHD_ConnectionInfo *info =
	    MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
	struct ucred peer;
	socklen_t len = sizeof(peer);
	struct passwd entry;
	struct passwd *found = NULL;
	char names[1024];

	if (!info || getsockopt(info->connect_fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0) {
		snprintf(ret, USER_MAX, "unknown");
		return;
	}
	if (getpwuid_r(peer.uid, &entry, names, sizeof(names), &found) == 0 && found)
		snprintf(ret, USER_MAX, "%s", found->pw_name);
	else
		snprintf(ret, USER_MAX, "%u", (unsigned)peer.uid);
}

const char *who_is(struct MHD_Connection *connection, struct arena *memory)
{
	char program[PROGRAM_MAX];
	char user[USER_MAX];

	get_program(connection, program);
	get_user(connection, user);
	return arena_printf(memory, "%s, user %s", program, user);
}
