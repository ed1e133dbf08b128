/* SPDX-License-Identifier: Apache-2.0 */
#include "api/api.h"

#include "api/call.h"
#include "api/limits.h"
#include "base/check.h"
#include "base/log.h"
#include "base/mem.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define REPLY_GRACE_NS NSEC_PER_SEC

/* What libmicrohttpd says is about clients that misbehave: of interest to who debugs one. */
__attribute__((format(printf, 2, 0))) static void on_message(void *arg, const char *format,
							     va_list args)
{
	char text[300];

	(void)arg;
	vsnprintf(text, sizeof(text), format, args);
	text[strcspn(text, "\n")] = '\0';
	log_debug("api: %s", text);
}

static enum MHD_Result on_request(void *arg, struct MHD_Connection *connection, const char *path,
				  const char *method, const char *version, const char *data,
				  size_t *data_len, void **state)
{
	(void)version;
	if (!*state)
		*state = call_new(arg, connection, path, method);
	return *state ? call_step(*state, data, data_len) : MHD_NO;
}

static void on_completed(void *arg, struct MHD_Connection *connection, void **state,
			 enum MHD_RequestTerminationCode why)
{
	(void)arg;
	(void)connection;
	(void)why;
	if (*state)
		call_free(*state);
	*state = NULL;
}

int api_new(const struct api_config *config, struct api **ret_api, struct err *err)
{
	struct api *api = mem_alloc(sizeof(*api));

	if (!api)
		return err_set(err, -ENOMEM, "the API: out of memory");
	api->control = config->control;
	errno = 0;
	api->http = MHD_start_daemon(
	    MHD_USE_ERROR_LOG | MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME, 0, NULL,
	    NULL, on_request, api, MHD_OPTION_EXTERNAL_LOGGER, on_message, NULL,
	    MHD_OPTION_LISTEN_SOCKET, config->listen_fd, MHD_OPTION_CONNECTION_LIMIT,
	    (unsigned)API_CONNECTIONS_MAX, MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)API_HEAD_MAX,
	    MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)API_IDLE_SECONDS, MHD_OPTION_NOTIFY_COMPLETED,
	    on_completed, NULL, MHD_OPTION_END);
	if (!api->http) {
		int code = errno ? -errno : -EIO;

		mem_free(api);
		return err_set(err, code, "the API's HTTP server did not start: %s",
			       strerror(-code));
	}
	*ret_api = api;
	return 0;
}

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * NSEC_PER_SEC + (uint64_t)now.tv_nsec;
}

void api_quiesce(struct api *api)
{
	if (!api)
		return;
	api->quiet_since = now_ns();
	__atomic_store_n(&api->quiet, 1, __ATOMIC_SEQ_CST);
}

bool api_is_busy(struct api *api)
{
	CHECK(api->quiet);
	if (__atomic_load_n(&api->n_operations, __ATOMIC_SEQ_CST) > 0)
		return true;
	return __atomic_load_n(&api->n_calls, __ATOMIC_SEQ_CST) > 0 &&
	       now_ns() - api->quiet_since < REPLY_GRACE_NS;
}

void api_free(struct api *api)
{
	if (!api)
		return;
	CHECK(__atomic_load_n(&api->n_operations, __ATOMIC_SEQ_CST) == 0);
	MHD_stop_daemon(api->http);
	api_check_free(&api->check);
	mem_free(api);
}
