/* SPDX-License-Identifier: Apache-2.0
 *
 * snapshot blocks, changed, get-block.
 */
#include "base/base64.h"
#include "base/util.h"
#include "cli/client.h"
#include "cli/print.h"
#include "cli/request.h"

#include <errno.h>
#include <inttypes.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PAGE 1000 /* blocks that are asked for at a time */

/* ---- Lists ----------------------------------------------------------------------------------- */

/* A whole number of at most 15 digits. */
static int parse_number(const char *what, const char *text, uint64_t *ret)
{
	size_t len = strlen(text);

	if (len == 0 || len > 15 || strspn(text, "0123456789") != len)
		return cli_fail(EXIT_USAGE, "%s '%.64s' is no whole number", what, text);
	*ret = strtoull(text, NULL, 10);
	return EXIT_OK;
}

struct listing {
	const char *path; /* up to where the parameters of a page go */
	uint64_t from;
	uint64_t max; /* 0: all */
	uint64_t n;   /* so far */
	json_t *all;  /* --json: the pages together */
	bool is_changed;
};

static void print_changed(const json_t *b)
{
	const char *first = get_text(b, "first_checksum");
	const char *second = get_text(b, "second_checksum");

	printf("%12" PRIu64 "  %s\n", get_number(b, "index"),
	       !*first    ? "added"
	       : !*second ? "gone"
			  : "changed");
}

static int take_page(struct cli *cli, struct listing *l, json_t *page)
{
	json_t *blocks = json_object_get(page, "blocks");
	const json_t *b;
	size_t i;

	l->n += json_array_size(blocks);
	if (cli->json && !l->all) {
		l->all = json_incref(page);
		return EXIT_OK;
	}
	if (cli->json) {
		json_object_set(l->all, "next_token", json_object_get(page, "next_token"));
		return json_array_extend(json_object_get(l->all, "blocks"), blocks) < 0
			   ? cli_out_of_memory()
			   : EXIT_OK;
	}
	json_array_foreach(blocks, i, b)
	{
		if (cli->quiet)
			printf("%" PRIu64 "\n", get_number(b, "index"));
		else if (l->is_changed)
			print_changed(b);
		else
			printf("%12" PRIu64 "  %s\n", get_number(b, "index"),
			       get_text(b, "checksum"));
	}
	return EXIT_OK;
}

static int list_pages(struct cli *cli, struct listing *l)
{
	const char *start = client_printf(cli->client, "from=%" PRIu64, l->from);
	int status = EXIT_OK;

	while (status == EXIT_OK && start) {
		uint64_t left = l->max ? l->max - l->n : PAGE;
		struct cli_request request = {
		    .method = "GET",
		    .path = client_printf(cli->client, "%smax_results=%" PRIu64 "&%s", l->path,
					  left < PAGE ? left : PAGE, start),
		};
		const char *next;
		json_t *page;

		status = cli_send(cli, &request, &page);
		if (status != EXIT_OK)
			break;
		status = take_page(cli, l, page);
		next = json_string_value(json_object_get(page, "next_token"));
		start = next && (!l->max || l->n < l->max)
			    ? client_printf(cli->client, "next_token=%s",
					    client_escape(cli->client, next))
			    : NULL;
		json_decref(page);
	}
	return status;
}

static int list(struct cli *cli, struct listing *l)
{
	const char *from = cli->line.value[OPT_FROM];
	const char *max = cli->line.value[OPT_MAX];
	int status = from ? parse_number("--from", from, &l->from) : EXIT_OK;

	if (status == EXIT_OK && max)
		status = parse_number("--max", max, &l->max);
	if (status == EXIT_OK && max && l->max == 0)
		status = cli_fail(EXIT_USAGE, "--max: at least 1");
	if (status == EXIT_OK && !l->path)
		status = cli_out_of_memory();
	if (status == EXIT_OK)
		status = list_pages(cli, l);
	if (status == EXIT_OK && cli->json)
		cli_print_json(l->all);
	json_decref(l->all);
	return status;
}

int run_snapshot_blocks(struct cli *cli)
{
	struct listing l = {.is_changed = false};
	const char *id;
	int status = cli_find_snapshot(cli, cli->line.arguments[0], &id);

	if (status != EXIT_OK)
		return status;
	l.path = client_printf(cli->client, "/v1/snapshots/%s/blocks?", id);
	return list(cli, &l);
}

int run_snapshot_changed(struct cli *cli)
{
	struct listing l = {.is_changed = true};
	const char *first;
	const char *second;
	int status = cli_find_snapshot(cli, cli->line.arguments[0], &first);

	if (status == EXIT_OK)
		status = cli_find_snapshot(cli, cli->line.arguments[1], &second);
	if (status != EXIT_OK)
		return status;
	l.path =
	    client_printf(cli->client, "/v1/snapshots/%s/changed-blocks?first=%s&", second, first);
	return list(cli, &l);
}

/* ---- One ------------------------------------------------------------------------------------- */

static int write_all(const uint8_t *bytes, size_t len)
{
	while (len > 0) {
		ssize_t n = write(STDOUT_FILENO, bytes, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return cli_fail(EXIT_FAILED, "standard output: %s", strerror(errno));
		bytes += n;
		len -= (size_t)n;
	}
	return EXIT_OK;
}

/* From the daemon to here nothing may change, either. */
static int check_sum(const struct cli_bytes *b)
{
	uint8_t hash[32];
	char text[BASE64_TEXT(sizeof(hash))];

	if (EVP_Digest(b->bytes, b->len, hash, NULL, EVP_sha256(), NULL) != 1)
		return cli_out_of_memory();
	base64_encode(hash, sizeof(hash), text);
	if (strcmp(text, b->checksum) != 0)
		return cli_fail(EXIT_FAILED,
				"the block came with the checksum %s, but has %s: ask again",
				*b->checksum ? b->checksum : "(none)", text);
	return EXIT_OK;
}

int run_snapshot_get_block(struct cli *cli)
{
	struct cli_bytes bytes;
	const char *path;
	const char *id;
	uint64_t index;
	int status = parse_number("INDEX", cli->line.arguments[1], &index);

	if (status == EXIT_OK && isatty(STDOUT_FILENO))
		status = cli_fail(EXIT_USAGE, "a block is 512 KiB of data: redirect it to a file");
	if (status == EXIT_OK)
		status = cli_find_snapshot(cli, cli->line.arguments[0], &id);
	if (status != EXIT_OK)
		return status;
	path = client_printf(cli->client, "/v1/snapshots/%s/block?index=%" PRIu64, id, index);
	status = cli_get_bytes(cli, path, &bytes);
	if (status == EXIT_OK)
		status = check_sum(&bytes);
	return status == EXIT_OK ? write_all(bytes.bytes, bytes.len) : status;
}
