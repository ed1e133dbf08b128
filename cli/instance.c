/* SPDX-License-Identifier: Apache-2.0
 *
 * instance register, list, deregister.
 */
#include "base/util.h"
#include "cli/client.h"
#include "cli/print.h"
#include "cli/request.h"

#include <stdio.h>

int run_instance_register(struct cli *cli)
{
	struct cli_request request = {.method = "POST", .path = "/v1/instances"};
	json_t *reply;
	int status;

	request.body =
	    json_pack("{s:s*, s:s*}", "name", cli->line.n_arguments ? cli->line.arguments[0] : NULL,
		      "host", cli->line.value[OPT_HOST]);
	if (!request.body)
		return cli_fail(EXIT_USAGE, "the name or the host is no UTF-8");
	status = cli_send(cli, &request, &reply);
	if (status != EXIT_OK)
		return status;
	if (cli->json)
		cli_print_json(reply);
	else if (cli->quiet)
		puts(get_text(reply, "id"));
	else
		printf("%s is registered\n", get_text(reply, "id"));
	json_decref(reply);
	return EXIT_OK;
}

static int print_instances(const json_t *instances)
{
	static const struct print_column columns[] = {{"ID", false},     {"NAME", false},
						      {"STATE", false},  {"HOST", false},
						      {"VOLUMES", true}, {"REGISTERED", false}};
	struct print_table table;
	const json_t *instance;
	size_t i;

	print_table_init(&table, columns, ARRAY_SIZE(columns));
	json_array_foreach(instances, i, instance)
	{
		char volumes[16];
		char created[32];
		bool own = json_is_true(json_object_get(instance, "own"));
		const char *name = get_text(instance, "name");
		const char *cells[] = {
		    get_text(instance, "id"),
		    own && !*name ? "(this machine)" : name,
		    get_text(instance, "state"),
		    get_text(instance, "host"),
		    volumes,
		    cli_time(get_text(instance, "create_time"), created),
		};

		snprintf(volumes, sizeof(volumes), "%zu",
			 json_array_size(json_object_get(instance, "attachments")));
		if (print_table_add(&table, cells) < 0)
			return cli_out_of_memory();
	}
	print_table_end(&table);
	return EXIT_OK;
}

int run_instance_list(struct cli *cli)
{
	const char *query;
	const json_t *item;
	json_t *instances;
	size_t i;
	int status = cli_filters(cli, &query);

	if (status == EXIT_OK)
		status = cli_list(cli, "/v1/instances", query, "instances", 0, &instances);
	if (status != EXIT_OK)
		return status;
	if (cli->json) {
		json_t *object = json_pack("{s:O}", "instances", instances);

		cli_print_json(object);
		json_decref(object);
	} else if (cli->quiet) {
		json_array_foreach(instances, i, item) puts(get_text(item, "id"));
	} else {
		status = print_instances(instances);
	}
	json_decref(instances);
	return status;
}

int run_instance_deregister(struct cli *cli)
{
	struct cli_request request = {.method = "DELETE"};
	const char *id;
	json_t *reply;
	int status = cli_find_instance(cli, cli->line.arguments[0], &id);

	if (status != EXIT_OK)
		return status;
	request.path = client_printf(cli->client, "/v1/instances/%s", id);
	status = cli_send(cli, &request, &reply);
	if (status != EXIT_OK)
		return status;
	if (cli->json)
		cli_print_json(reply);
	else if (cli->quiet)
		puts(id);
	else
		printf("%s is no longer registered\n", id);
	json_decref(reply);
	return EXIT_OK;
}
