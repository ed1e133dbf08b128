/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/client.h"

#include "base/arena.h"
#include "base/mem.h"
#include "base/util.h"
#include "cli/print.h"

#include <curl/curl.h>
#include <errno.h>
#include <pwd.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define REPLY_MAX ((size_t)64 << 20) /* bytes; 1,000 volumes with 50 tags each fit */

struct client {
	CURL *curl;
	char *socket;
	char *reply;
	size_t reply_len;
	bool reply_too_large;
	const char *waiting;
	struct arena memory;
};

/* ---- The socket -------------------------------------------------------------------- */

/* Whether somebody listens there: 0, or what connect(2) said. */
static int probe(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int r;
	int fd;

	if (strlen(path) >= sizeof(address.sun_path))
		return -ENAMETOOLONG;
	memcpy(address.sun_path, path, strlen(path) + 1);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	r = connect(fd, (const struct sockaddr *)&address, sizeof(address)) < 0 ? -errno : 0;
	close(fd);
	return r;
}

static void owner_of(const char *path, char ret[64])
{
	struct stat st;
	const struct passwd *user;

	if (stat(path, &st) < 0) {
		snprintf(ret, 64, "another user");
		return;
	}
	user = getpwuid(st.st_uid);
	if (user)
		snprintf(ret, 64, "the user %s", user->pw_name);
	else
		snprintf(ret, 64, "the user number %u", (unsigned)st.st_uid);
}

static bool is_socket(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 && S_ISSOCK(st.st_mode);
}

static int explain(const char *path, int code, struct err *err)
{
	char owner[64];

	if (code == -ECONNREFUSED && !is_socket(path))
		code = -ENOTSOCK;
	switch (-code) {
	case ENOENT:
		return err_set(
		    err, code,
		    "%s does not exist: is volumed running? Start it (volumed --data-dir "
		    "DIR; systemctl start volumed), or name its DIR/volumed.sock by "
		    "--socket or VOLUMED_SOCKET",
		    path);
	case ECONNREFUSED:
		return err_set(err, code,
			       "%s: nobody listens there any more: volumed has ended; start it "
			       "again (volumed --data-dir DIR; systemctl start volumed)",
			       path);
	case EACCES:
		owner_of(path, owner);
		return err_set(err, code,
			       "%s: permission denied: the socket is for %s and root alone; use "
			       "sudo, or become that user",
			       path, owner);
	case ENAMETOOLONG:
		return err_set(err, code,
			       "%s: a unix socket's path has at most %zu bytes: go to its folder "
			       "and use a relative one",
			       path, sizeof(((struct sockaddr_un *)0)->sun_path) - 1);
	case ENOTSOCK:
	case EPROTOTYPE:
		return err_set(err, code, "%s is no socket: name the DIR/volumed.sock of a volumed",
			       path);
	default:
		return err_set(err, code, "connecting to %s: %s", path, strerror(-code));
	}
}

/* Where volumed's packaging puts it, and where `make run` does. */
static const char *const defaults[] = {"/run/volumed/volumed.sock", "/var/lib/volumed/volumed.sock",
				       "data/volumed.sock"};

/* The first of them on which a daemon listens; else the first that exists is what the error is
 * about. */
static int find_default(const char **ret_path, struct err *err)
{
	const char *broken = NULL;
	int why = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(defaults); i++) {
		int r = probe(defaults[i]);

		*ret_path = defaults[i];
		if (r == 0)
			return 0;
		if (r != -ENOENT && !broken) {
			broken = defaults[i];
			why = r;
		}
	}
	if (broken)
		return explain(broken, why, err);
	return err_set(err, -ENOENT,
		       "there is no volumed here: none of %s, %s and ./%s exists. Start one "
		       "(volumed --data-dir DIR; systemctl start volumed), or name its "
		       "DIR/volumed.sock by --socket or VOLUMED_SOCKET",
		       defaults[0], defaults[1], defaults[2]);
}

static int find_socket(const char *path, const char **ret_path, struct err *err)
{
	int r;

	if (!path)
		return find_default(ret_path, err);
	*ret_path = path;
	r = probe(path);
	return r < 0 ? explain(path, r, err) : 0;
}

/* ---- Life -------------------------------------------------------------------------- */

int client_new(const char *path, struct client **ret_client, struct err *err)
{
	struct client *client;
	int r = find_socket(path, &path, err);

	if (r < 0)
		return r;
	client = mem_alloc(sizeof(*client));
	if (client)
		client->socket = arena_text(&client->memory, path);
	if (client && client->socket && curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK)
		client->curl = curl_easy_init();
	if (!client || !client->curl) {
		client_free(client);
		return err_set(err, -ENOMEM, "out of memory");
	}
	*ret_client = client;
	return 0;
}

void client_free(struct client *client)
{
	if (!client)
		return;
	curl_easy_cleanup(client->curl);
	mem_free(client->reply);
	arena_free(&client->memory);
	mem_free(client);
}

const char *client_socket(const struct client *client)
{
	return client->socket;
}

const char *client_escape(struct client *client, const char *text)
{
	char *escaped = curl_easy_escape(client->curl, text, 0);
	const char *copy = escaped ? arena_text(&client->memory, escaped) : NULL;

	curl_free(escaped);
	return copy;
}

const char *client_printf(struct client *client, const char *format, ...)
{
	va_list args;
	char *text;
	int len;

	va_start(args, format);
	len = vsnprintf(NULL, 0, format, args);
	va_end(args);
	text = len < 0 ? NULL : arena_alloc(&client->memory, (size_t)len + 1);
	if (!text)
		return NULL;
	va_start(args, format);
	vsnprintf(text, (size_t)len + 1, format, args);
	va_end(args);
	return text;
}

/* ---- Requests ---------------------------------------------------------------------- */

static size_t on_data(char *data, size_t size, size_t n, void *arg)
{
	struct client *client = arg;
	size_t len = size * n;
	char *reply;

	if (client->reply_len + len > REPLY_MAX) {
		client->reply_too_large = true;
		return 0;
	}
	reply = mem_realloc(client->reply, client->reply_len + len + 1);
	if (!reply)
		return 0;
	memcpy(reply + client->reply_len, data, len);
	client->reply = reply;
	client->reply_len += len;
	return len;
}

/* libcurl calls it about once a second. */
static int on_progress(void *arg, curl_off_t in, curl_off_t in_now, curl_off_t out,
		       curl_off_t out_now)
{
	struct client *client = arg;
	curl_off_t us = 0;

	(void)in;
	(void)in_now;
	(void)out;
	(void)out_now;
	curl_easy_getinfo(client->curl, CURLINFO_TOTAL_TIME_T, &us);
	if (us >= 1000000)
		print_progress("%s: %ld s", client->waiting, (long)(us / 1000000));
	return 0;
}

static void set_up(struct client *client, const struct client_call *call, const char *body,
		   struct curl_slist *headers, char error[CURL_ERROR_SIZE])
{
	CURL *curl = client->curl;
	const char *url = client_printf(client, "http://volumed%s", call->path);

	curl_easy_reset(curl);
	curl_easy_setopt(curl, CURLOPT_UNIX_SOCKET_PATH, client->socket);
	curl_easy_setopt(curl, CURLOPT_URL, url);
	curl_easy_setopt(curl, CURLOPT_PROXY, "");
	curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(curl, CURLOPT_USERAGENT, "volumectl/" VOLUMED_VERSION);
	curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, call->method);
	curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
	curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, call->timeout_ms);
	curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, error);
	curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_data);
	curl_easy_setopt(curl, CURLOPT_WRITEDATA, client);
	if (body)
		curl_easy_setopt(curl, CURLOPT_POSTFIELDS, body);
	client->waiting = call->waiting;
	curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, on_progress);
	curl_easy_setopt(curl, CURLOPT_XFERINFODATA, client);
	curl_easy_setopt(curl, CURLOPT_NOPROGRESS, call->waiting ? 0L : 1L);
}

static struct curl_slist *make_headers(struct client *client, const struct client_call *call)
{
	struct curl_slist *headers = curl_slist_append(NULL, "Expect:");
	const char *token =
	    call->token ? client_printf(client, "Client-Token: %s", call->token) : NULL;

	if (call->body)
		headers = curl_slist_append(headers, "Content-Type: application/json");
	if (token)
		headers = curl_slist_append(headers, token);
	return headers;
}

static int perform(struct client *client, const struct client_call *call, const char *body,
		   struct err *err)
{
	char error[CURL_ERROR_SIZE] = "";
	struct curl_slist *headers = make_headers(client, call);
	CURLcode code;

	set_up(client, call, body, headers, error);
	code = curl_easy_perform(client->curl);
	print_progress_end();
	curl_slist_free_all(headers);
	if (code == CURLE_OK)
		return 0;
	if (client->reply_too_large)
		return err_set(err, -EMSGSIZE, "the daemon's answer is larger than %zu bytes",
			       REPLY_MAX);
	if (code == CURLE_OPERATION_TIMEDOUT)
		return err_set(err, -ETIMEDOUT, "the daemon on %s does not answer in %ld s",
			       client->socket, call->timeout_ms / 1000);
	if (code == CURLE_UNSUPPORTED_PROTOCOL || code == CURLE_WEIRD_SERVER_REPLY)
		return err_set(err, -EPROTO,
			       "%s does not speak HTTP: name the DIR/volumed.sock of a volumed",
			       client->socket);
	return err_set(err, -ECONNABORTED,
		       "the daemon on %s did not answer (%s): did it end? Whether the command was "
		       "carried out, `volumectl volume list` shows once it runs again",
		       client->socket, error[0] ? error : curl_easy_strerror(code));
}

static int take_bytes(struct client *client, struct client_call *call, struct err *err)
{
	struct curl_header *header = NULL;

	curl_easy_header(client->curl, "Checksum", 0, CURLH_HEADER, -1, &header);
	call->checksum = arena_text(&client->memory, header ? header->value : "");
	call->bytes = (const uint8_t *)client->reply;
	call->len = client->reply_len;
	return call->checksum ? 0 : err_set(err, -ENOMEM, "out of memory");
}

static int take_reply(struct client *client, struct client_call *call, struct err *err)
{
	json_error_t where;
	long status = 0;

	curl_easy_getinfo(client->curl, CURLINFO_RESPONSE_CODE, &status);
	call->status = (unsigned)status;
	if (call->raw && status / 100 == 2)
		return take_bytes(client, call, err);
	call->reply = json_loadb(client->reply ? client->reply : "", client->reply_len, 0, &where);
	if (!json_is_object(call->reply)) {
		json_decref(call->reply);
		call->reply = NULL;
		return err_set(err, -EBADMSG,
			       "%s: this is not the API of volumed: HTTP status %ld, and no JSON "
			       "(%s)",
			       client->socket, status, where.text);
	}
	return 0;
}

int client_send(struct client *client, struct client_call *call, struct err *err)
{
	char *body = call->body ? json_dumps(call->body, JSON_COMPACT) : NULL;
	int r;

	call->reply = NULL;
	client->reply_len = 0;
	client->reply_too_large = false;
	if (call->body && !body)
		return err_set(err, -ENOMEM, "out of memory");
	r = perform(client, call, body, err);
	mem_free(body); /* main gave jansson our allocator */
	return r < 0 ? r : take_reply(client, call, err);
}
