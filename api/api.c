/* SPDX-License-Identifier: Apache-2.0 */
#include "api/api.h"

#include "api/call.h"
#include "api/limits.h"
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

void api_quiesce(struct api *api)
{
	if (!api)
		return;
	__atomic_store_n(&api->quiet, 1, __ATOMIC_RELAXED);
}

/* Control has answered everything: what is left is to send it. */
static void wait_for_replies(struct api *api)
{
	const struct timespec tick = {.tv_nsec = 2 * NSEC_PER_MSEC};

	for (uint64_t waited = 0; waited < REPLY_GRACE_NS; waited += (uint64_t)tick.tv_nsec) {
		if (__atomic_load_n(&api->n_calls, __ATOMIC_RELAXED) == 0)
			return;
		nanosleep(&tick, NULL);
	}
}

void api_free(struct api *api)
{
	if (!api)
		return;
	wait_for_replies(api);
	MHD_stop_daemon(api->http);
	api_check_free(&api->check);
	mem_free(api);
}
