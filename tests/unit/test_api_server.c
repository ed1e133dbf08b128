/* SPDX-License-Identifier: Apache-2.0
 *
 * The HTTP server of api/ over a unix socket, on a fake control/: a thread that answers operations,
 * and holds back those that the test tells it to.
 */
#include "api/api.h"
#include "api/limits.h"
#include "base/check.h"
#include "base/mem.h"
#include "control/control.h"

#include <errno.h>
#include <jansson.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

/* ---- A control/ ------------------------------------------------------------------------------
 */

struct control {
	pthread_t thread;
	pthread_mutex_t mutex;
	pthread_cond_t changed;
	struct list ops;
	int hold; /* operations of this kind wait; -1: none */
	bool stop;
	unsigned n_submitted;
	unsigned n_released;
	char volume[64]; /* the newest operation's argument */
	char token[64];
	char who[CONTROL_WHO_MAX + 1];
};

static struct control fake;

void control_submit(struct control *control, struct control_op *op)
{
	pthread_mutex_lock(&control->mutex);
	control->n_submitted++;
	snprintf(control->who, sizeof(control->who), "%s", op->who ? op->who : "");
	if (op->kind == CONTROL_VOLUME_SHOW)
		snprintf(control->volume, sizeof(control->volume), "%s", op->show.volume);
	if (op->kind == CONTROL_VOLUME_CREATE)
		snprintf(control->token, sizeof(control->token), "%s",
			 op->create.client_token ? op->create.client_token : "");
	list_add_tail(&control->ops, &op->node);
	pthread_cond_broadcast(&control->changed);
	pthread_mutex_unlock(&control->mutex);
}

void control_op_release(struct control_op *op)
{
	pthread_mutex_lock(&fake.mutex);
	fake.n_released++;
	pthread_mutex_unlock(&fake.mutex);
	arena_free(&op->memory);
}

static void answer(struct control_op *op)
{
	if (op->kind == CONTROL_VOLUME_SHOW && strcmp(op->show.volume, "vol-none") == 0) {
		op->error =
		    (struct control_error){.code = "InvalidVolume.NotFound", .err = -ENOENT};
		snprintf(op->error.text, sizeof(op->error.text), "no volume vol-none");
	} else if (op->kind == CONTROL_CHECK) {
		op->result.checked = arena_alloc(&op->memory, sizeof(*op->result.checked));
		op->result.checked->n_volumes = 4;
		op->result.checked->n_in_use = 2;
	} else if (op->kind == CONTROL_VOLUME_SHOW || op->kind == CONTROL_VOLUME_CREATE) {
		op->result.volumes = arena_alloc(&op->memory, sizeof(*op->result.volumes));
		op->result.volumes->id = "vol-1";
		op->n_items = 1;
	} else if (op->kind == CONTROL_VOLUME_LIST) {
		/* A page that takes several sends. */
		op->result.volumes =
		    arena_calloc(&op->memory, CONTROL_PAGE_MAX, sizeof(*op->result.volumes));
		op->n_items = CONTROL_PAGE_MAX;
		for (unsigned i = 0; i < CONTROL_PAGE_MAX; i++)
			op->result.volumes[i].id = "vol-1";
	}
	op->done(op);
}

/* The next operation that is not held back, or NULL. */
static struct control_op *next_op(void)
{
	list_for_each (&fake.ops, node) {
		struct control_op *op = list_entry(node, struct control_op, node);

		if ((int)op->kind == fake.hold && !fake.stop)
			continue;
		list_remove(node);
		return op;
	}
	return NULL;
}

static void *run_fake(void *arg)
{
	(void)arg;
	pthread_mutex_lock(&fake.mutex);
	for (;;) {
		struct control_op *op = next_op();

		if (op) {
			pthread_mutex_unlock(&fake.mutex);
			answer(op);
			pthread_mutex_lock(&fake.mutex);
		} else if (fake.stop) {
			break;
		} else {
			pthread_cond_wait(&fake.changed, &fake.mutex);
		}
	}
	pthread_mutex_unlock(&fake.mutex);
	return NULL;
}

static void hold(int kind)
{
	pthread_mutex_lock(&fake.mutex);
	fake.hold = kind;
	pthread_cond_broadcast(&fake.changed);
	pthread_mutex_unlock(&fake.mutex);
}

static void wait_for_submitted(unsigned n)
{
	pthread_mutex_lock(&fake.mutex);
	while (fake.n_submitted < n)
		pthread_cond_wait(&fake.changed, &fake.mutex);
	pthread_mutex_unlock(&fake.mutex);
}

/* As control_stop does: all that is held gets its answer. */
static void stop_fake(void)
{
	pthread_mutex_lock(&fake.mutex);
	fake.stop = true;
	pthread_cond_broadcast(&fake.changed);
	pthread_mutex_unlock(&fake.mutex);
	pthread_join(fake.thread, NULL);
}

/* ---- A client --------------------------------------------------------------------------------
 */

static char socket_path[64];
static struct api *api;

static int connect_to_api(void)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	const struct timeval patience = {.tv_sec = 60};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	snprintf(address.sun_path, sizeof(address.sun_path), "%s", socket_path);
	assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	return fd;
}

static void send_text(int fd, const char *text)
{
	assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), (ssize_t)strlen(text));
}

struct answer {
	int status; /* 0: the connection was closed without one */
	char head[2048];
	json_t *json;
};

/* Reads one reply by its Content-Length. */
static struct answer read_answer(int fd)
{
	static char buf[4 << 20];
	struct answer a = {0};
	size_t used = 0;
	size_t wanted = 0;
	char *body = NULL;

	while (!body || used < wanted) {
		ssize_t n = recv(fd, buf + used, sizeof(buf) - 1 - used, 0);

		if (n <= 0)
			break;
		used += (size_t)n;
		buf[used] = '\0';
		body = body ? body : strstr(buf, "\r\n\r\n");
		if (body && wanted == 0) {
			const char *length = strstr(buf, "Content-Length: ");

			assert_non_null(length);
			wanted = (size_t)(body + 4 - buf) + strtoul(length + 16, NULL, 10);
		}
	}
	if (!body)
		return a;
	assert_true(used >= wanted);
	assert_int_equal(sscanf(buf, "HTTP/1.1 %d", &a.status), 1);
	snprintf(a.head, sizeof(a.head), "%.*s", (int)(body - buf), buf);
	a.json = json_loads(body + 4, 0, NULL);
	return a;
}

static void close_answer(struct answer *a)
{
	json_decref(a->json);
	*a = (struct answer){0};
}

static const char *code_of(const struct answer *a)
{
	const json_t *error = json_object_get(a->json, "error");
	const char *code = json_string_value(json_object_get(error, "code"));

	return code ? code : "";
}

static const char *member(const struct answer *a, const char *name)
{
	const char *text = json_string_value(json_object_get(a->json, name));

	return text ? text : "";
}

/* A whole request on a connection of its own. */
static struct answer ask(const char *head, const char *body)
{
	char text[8192];
	struct answer a;
	int fd = connect_to_api();

	snprintf(text, sizeof(text), "%s HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n\r\n%s",
		 head, strlen(body), body);
	send_text(fd, text);
	a = read_answer(fd);
	close(fd);
	return a;
}

static void expect(const char *head, const char *body, int status, const char *code)
{
	struct answer a = ask(head, body);

	if (a.status != status || strcmp(code_of(&a), code) != 0)
		fail_msg("%s %s: %d %s", head, body, a.status, code_of(&a));
	close_answer(&a);
}

/* ---- Around each test ------------------------------------------------------------------------
 */

static int start(void **state)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct api_config config = {.control = &fake};
	struct err err;

	(void)state;
	fake = (struct control){.hold = -1};
	pthread_mutex_init(&fake.mutex, NULL);
	pthread_cond_init(&fake.changed, NULL);
	list_init(&fake.ops);
	CHECK(pthread_create(&fake.thread, NULL, run_fake, NULL) == 0);
	snprintf(socket_path, sizeof(socket_path), "/tmp/volumed-api-%d.sock", (int)getpid());
	snprintf(address.sun_path, sizeof(address.sun_path), "%s", socket_path);
	config.listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	CHECK(bind(config.listen_fd, (struct sockaddr *)&address, sizeof(address)) == 0);
	CHECK(listen(config.listen_fd, 128) == 0);
	return api_new(&config, &api, &err);
}

/* Everything that was submitted is released by the end. */
static int stop(void **state)
{
	(void)state;
	api_quiesce(api);
	stop_fake();
	while (api_is_busy(api))
		usleep(1000);
	api_free(api);
	unlink(socket_path);
	assert_int_equal(fake.n_submitted, fake.n_released);
	pthread_mutex_destroy(&fake.mutex);
	pthread_cond_destroy(&fake.changed);
	return 0;
}

/* ---- Tests ------------------------------------------------------------------------------------
 */

/* An operation's result comes back as JSON, its error with code, text and status. */
static void server_answers(void **state)
{
	struct answer a = ask("GET /v1/ping", "");

	(void)state;
	assert_int_equal(a.status, 200);
	assert_string_equal(member(&a, "status"), "ok");
	assert_non_null(strstr(a.head, "Content-Type: application/json"));
	close_answer(&a);

	a = ask("GET /v1/volumes/vol-%31", "");
	assert_int_equal(a.status, 200);
	assert_string_equal(member(&a, "id"), "vol-1");
	assert_string_equal(fake.volume, "vol-1");
	close_answer(&a);

	a = ask("GET /v1/volumes/vol-none", "");
	assert_int_equal(a.status, 404);
	assert_string_equal(code_of(&a), "InvalidVolume.NotFound");
	assert_string_equal(
	    json_string_value(json_object_get(json_object_get(a.json, "error"), "message")),
	    "no volume vol-none");
	close_answer(&a);
}

/* What is made says where it is. */
static void server_creates(void **state)
{
	struct answer a = ask("POST /v1/volumes", "{\"size\": 4096}");

	(void)state;
	assert_int_equal(a.status, 201);
	assert_non_null(strstr(a.head, "Location: /v1/volumes/vol-1\r\n"));
	close_answer(&a);
}

/* Bad requests never reach control/. */
static void server_refuses(void **state)
{
	(void)state;
	expect("POST /v1/volumes", "{", 400, "MalformedJSON");
	expect("PATCH /v1/volumes/vol-1", "{}", 400, "MissingParameter");
	expect("POST /v1/volumes?size=3", "{\"size\": 1}", 400, "UnknownParameter");
	expect("GET /v1/ping", "{}", 400, "UnknownParameter");
	expect("GET /v1/volumes?max_results=no", "", 400, "InvalidParameterValue");
	expect("GET /v1/nothing", "", 404, "NoSuchRoute");
	expect("GET /", "", 404, "NoSuchRoute");
	expect("GET /v1/volumes/..%2fping", "", 404, "NoSuchRoute");
	expect("PUT /v1/volumes", "", 405, "MethodNotAllowed");
	expect("GET /v1/check?deep=true", "", 400, "UnknownParameter");
	assert_int_equal(fake.n_submitted, 0);
}

/* Bytes that are no HTTP get an error or a closed connection, and the next client is served. */
static void server_survives_garbage(void **state)
{
	static const char *const garbage[] = {
	    "\r\n\r\n",
	    "hello\r\n\r\n",
	    "GET\r\n\r\n",
	    "GET /v1/ping HTTP/9.9\r\n\r\n",
	    "GET /v1/ping HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
	    "GET /v1/ping HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n",
	    "POST /v1/volumes HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
	    "GET /v1/%00 HTTP/1.1\r\nHost: x\r\n\r\n",
	    "GET /v1/volumes?%%%=%zz&&&= HTTP/1.1\r\nHost: x\r\n\r\n",
	    "\x16\x03\x01\x02\x01",
	    "",
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(garbage); i++) {
		int fd = connect_to_api();
		struct answer a;

		send_text(fd, garbage[i]);
		shutdown(fd, SHUT_WR);
		a = read_answer(fd);
		assert_true(a.status == 0 || a.status >= 400);
		close_answer(&a);
		close(fd);
	}
	expect("GET /v1/ping", "", 200, "");
}

/* A head that does not end is cut off at its bound. */
static void server_bounds_the_head(void **state)
{
	static char junk[2 * API_HEAD_MAX];
	struct answer a;
	int fd = connect_to_api();

	(void)state;
	send_text(fd, "GET /v1/ping HTTP/1.1\r\nX: ");
	memset(junk, 'x', sizeof(junk));
	send(fd, junk, sizeof(junk), MSG_NOSIGNAL);
	a = read_answer(fd);
	assert_true(a.status == 0 || a.status == 431 || a.status == 413 || a.status == 400);
	close_answer(&a);
	close(fd);
	expect("GET /v1/ping", "", 200, "");
}

/* A body that is too large is refused by its announced length, at once... */
static void server_bounds_the_body(void **state)
{
	struct answer a;
	int fd = connect_to_api();

	(void)state;
	send_text(fd,
		  "POST /v1/volumes HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000000\r\n\r\n");
	a = read_answer(fd);
	assert_int_equal(a.status, 413);
	assert_string_equal(code_of(&a), "RequestTooLarge");
	close_answer(&a);
	close(fd);
}

/* ... and by its bytes, where no length was announced. */
static void server_bounds_a_chunked_body(void **state)
{
	static char chunk[4096 + 8];
	struct answer a;
	int fd = connect_to_api();

	(void)state;
	send_text(fd, "POST /v1/volumes HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
	memset(chunk, ' ', sizeof(chunk));
	chunk[snprintf(chunk, sizeof(chunk), "1000\r\n")] = ' ';
	chunk[6 + 4096] = '\r';
	chunk[7 + 4096] = '\n';
	for (int i = 0; i < API_BODY_MAX / 4096 + 10; i++)
		assert_int_equal(send(fd, chunk, sizeof(chunk), MSG_NOSIGNAL), sizeof(chunk));
	send_text(fd, "0\r\n\r\n");
	a = read_answer(fd);
	assert_int_equal(a.status, 413);
	close_answer(&a);
	close(fd);

	/* One that never ends is cut off. */
	fd = connect_to_api();
	send_text(fd, "POST /v1/volumes HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
	while (send(fd, chunk, sizeof(chunk), MSG_NOSIGNAL) == sizeof(chunk))
		;
	close(fd);
	assert_int_equal(fake.n_submitted, 0);
	expect("GET /v1/ping", "", 200, "");
}

/* Clients that dawdle over a head or a body hold up nobody. */
static void server_slow_clients_block_nobody(void **state)
{
	struct answer a;
	int slow[20];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(slow); i++) {
		slow[i] = connect_to_api();
		send_text(slow[i], i % 2 ? "GET /v1/pi"
					 : "POST /v1/volumes HTTP/1.1\r\nHost: x\r\n"
					   "Content-Length: 14\r\n\r\n{\"si");
	}
	expect("GET /v1/ping", "", 200, "");
	send_text(slow[0], "ze\": 4096}");
	a = read_answer(slow[0]);
	assert_int_equal(a.status, 201);
	close_answer(&a);
	for (size_t i = 0; i < ARRAY_SIZE(slow); i++)
		close(slow[i]);
}

/* An operation that takes long holds up nobody, on its own connection alone. */
static void server_long_operations_block_nobody(void **state)
{
	struct answer a;
	int fd = connect_to_api();

	(void)state;
	hold(CONTROL_VOLUME_SHOW);
	send_text(fd, "GET /v1/volumes/vol-1 HTTP/1.1\r\nHost: x\r\n\r\n");
	wait_for_submitted(1);
	for (int i = 0; i < 10; i++)
		expect("GET /v1/ping", "", 200, "");
	hold(-1);
	a = read_answer(fd);
	assert_int_equal(a.status, 200);
	close_answer(&a);
	/* The connection goes on. */
	send_text(fd, "GET /v1/ping HTTP/1.1\r\nHost: x\r\n\r\n");
	a = read_answer(fd);
	assert_int_equal(a.status, 200);
	close_answer(&a);
	close(fd);
}

/* A client that hangs up leaves its operation to end, and nothing behind (see stop). */
static void server_client_leaves(void **state)
{
	int fd;

	(void)state;
	hold(CONTROL_VOLUME_SHOW);
	for (unsigned i = 1; i <= 20; i++) {
		fd = connect_to_api();
		send_text(fd, "GET /v1/volumes/vol-1 HTTP/1.1\r\nHost: x\r\n\r\n");
		wait_for_submitted(i);
		close(fd);
	}
	hold(-1);
	expect("GET /v1/ping", "", 200, "");
	/* In the middle of a large reply, too. */
	fd = connect_to_api();
	send_text(fd, "GET /v1/volumes HTTP/1.1\r\nHost: x\r\n\r\n");
	wait_for_submitted(22);
	close(fd);
	expect("GET /v1/ping", "", 200, "");
}

/* A page of a thousand arrives whole. */
static void server_large_reply(void **state)
{
	struct answer a = ask("GET /v1/volumes", "");

	(void)state;
	assert_int_equal(a.status, 200);
	assert_int_equal(json_array_size(json_object_get(a.json, "volumes")), CONTROL_PAGE_MAX);
	close_answer(&a);
}

/* While control stops, operations under way are answered, and new requests hear why they are not.
 */
static void server_stops(void **state)
{
	struct answer a;
	int fd = connect_to_api();

	(void)state;
	hold(CONTROL_VOLUME_SHOW);
	send_text(fd, "GET /v1/volumes/vol-1 HTTP/1.1\r\nHost: x\r\n\r\n");
	wait_for_submitted(1);
	api_quiesce(api);
	expect("GET /v1/ping", "", 503, "Unavailable");
	hold(-1);
	a = read_answer(fd);
	assert_int_equal(a.status, 200);
	close_answer(&a);
	close(fd);
}

/* The token comes by the header or in the body, and not by both unless they agree. */
static void server_client_token(void **state)
{
	(void)state;
	expect("POST /v1/volumes HTTP/1.1\r\nClient-Token: abc\r\nX:", "{\"size\": 1}", 201, "");
	assert_string_equal(fake.token, "abc");
	expect("POST /v1/volumes", "{\"size\": 1, \"client_token\": \"def\"}", 201, "");
	assert_string_equal(fake.token, "def");
	expect("POST /v1/volumes HTTP/1.1\r\nClient-Token: abc\r\nX:",
	       "{\"size\": 1, \"client_token\": \"abc\"}", 201, "");
	expect("POST /v1/volumes HTTP/1.1\r\nClient-Token: abc\r\nX:",
	       "{\"size\": 1, \"client_token\": \"def\"}", 400, "InvalidParameterCombination");
	expect("POST /v1/instances HTTP/1.1\r\nClient-Token: abc\r\nX:", "{}", 400,
	       "UnknownParameter");
}

/* Events learn which program and which user asked; odd letters do not get through. */
static void server_says_who(void **state)
{
	(void)state;
	expect("GET /v1/ping HTTP/1.1\r\nUser-Agent: tool/1.0\r\nX:", "", 200, "");
	assert_int_equal(strncmp(fake.who, "tool, user ", 11), 0);
	expect("GET /v1/ping HTTP/1.1\r\nUser-Agent: \x1b[2Jx\r\nX:", "", 200, "");
	assert_int_equal(strncmp(fake.who, "api, user ", 10), 0);
}

/* A check goes on by itself: started, joined, followed, read. */
static void server_check(void **state)
{
	struct answer a = ask("GET /v1/check", "");

	(void)state;
	assert_string_equal(member(&a, "state"), "none");
	close_answer(&a);
	hold(CONTROL_CHECK);
	a = ask("POST /v1/check", "{\"deep\": true}");
	assert_int_equal(a.status, 202);
	assert_string_equal(member(&a, "state"), "running");
	close_answer(&a);
	wait_for_submitted(1);
	expect("POST /v1/check", "{\"deep\": true}", 202, "");
	expect("POST /v1/check", "{\"deep\": false}", 409, "IncorrectState");
	assert_int_equal(fake.n_submitted, 1);
	hold(-1);
	do {
		close_answer(&a);
		a = ask("GET /v1/check", "");
	} while (strcmp(member(&a, "state"), "running") == 0);
	assert_string_equal(member(&a, "state"), "done");
	assert_int_equal(json_integer_value(json_object_get(a.json, "volumes")), 4);
	assert_int_equal(json_integer_value(json_object_get(a.json, "in_use")), 2);
	close_answer(&a);
	expect("POST /v1/check", "", 202, "");
}

/* The index names every route. */
static void server_index(void **state)
{
	struct answer a = ask("GET /v1", "");

	(void)state;
	assert_int_equal(a.status, 200);
	assert_true(json_array_size(json_object_get(a.json, "routes")) > 10);
	close_answer(&a);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, start, stop)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(server_answers),
	    TEST(server_creates),
	    TEST(server_refuses),
	    TEST(server_survives_garbage),
	    TEST(server_bounds_the_head),
	    TEST(server_bounds_the_body),
	    TEST(server_bounds_a_chunked_body),
	    TEST(server_slow_clients_block_nobody),
	    TEST(server_long_operations_block_nobody),
	    TEST(server_client_leaves),
	    TEST(server_large_reply),
	    TEST(server_stops),
	    TEST(server_client_token),
	    TEST(server_says_who),
	    TEST(server_check),
	    TEST(server_index),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
