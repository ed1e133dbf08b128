/* SPDX-License-Identifier: Apache-2.0
 *
 * nbdload: load for NBD servers, from a client that costs so little that the server is what is
 * measured. The command line, and the exit code: 0 all well, 1 something failed, 2 wrong usage.
 */
#include "base/size.h"
#include "bench/load.h"
#include "bench/report.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXIT_USAGE 2

static const char usage_text[] =
    "usage: nbdload [options] ADDRESS [EXPORT]\n"
    "\n"
    "ADDRESS is unix:PATH or HOST:PORT. EXPORT is \"\" unless given.\n"
    "\n"
    "  -p, --pattern P         randread (default), randwrite, read, write, mixed, none\n"
    "      --read-percent N    reads in a mixed pattern (default 70)\n"
    "  -b, --block-size SIZE   of each request (default 4KiB)\n"
    "  -q, --depth N           requests in flight on each connection (default 32)\n"
    "  -c, --connections N     (default 1)\n"
    "  -t, --runtime SECONDS   to measure (default 10, or no limit with --ios)\n"
    "  -n, --ios N             stop after so many reads and writes\n"
    "  -w, --warmup SECONDS    of load before the measurement (default 0)\n"
    "      --working-set SIZE  use only the first SIZE of the export\n"
    "      --flush-every N     a flush after every N writes\n"
    "      --fua               writes with FUA\n"
    "  -f, --fill              first write the whole working set in sequence, and flush\n"
    "      --fill-block SIZE   of the fill's requests (default 256KiB)\n"
    "  -v, --verify            stamp what is written, check what is read, at the end read all\n"
    "  -k, --keep-going        count errors instead of stopping at the first\n"
    "      --seed N            of the random choices (default 1)\n"
    "      --timeout SECONDS   for the handshake and for a server that is silent (default 30)\n"
    "      --server-pid PID    count the CPU time of this process, with threads and children\n"
    "  -j, --json              results as one JSON object\n"
    "  -h, --help\n"
    "\n"
    "Sizes are bytes or like 4KiB, 1GiB. Writing patterns destroy what the export holds.\n";

enum option_id {
	OPT_READ_PERCENT = 256,
	OPT_WORKING_SET,
	OPT_FLUSH_EVERY,
	OPT_FUA,
	OPT_FILL_BLOCK,
	OPT_SEED,
	OPT_TIMEOUT,
	OPT_SERVER_PID,
};

static const struct option long_options[] = {
    {"pattern", required_argument, NULL, 'p'},
    {"read-percent", required_argument, NULL, OPT_READ_PERCENT},
    {"block-size", required_argument, NULL, 'b'},
    {"depth", required_argument, NULL, 'q'},
    {"connections", required_argument, NULL, 'c'},
    {"runtime", required_argument, NULL, 't'},
    {"ios", required_argument, NULL, 'n'},
    {"warmup", required_argument, NULL, 'w'},
    {"working-set", required_argument, NULL, OPT_WORKING_SET},
    {"flush-every", required_argument, NULL, OPT_FLUSH_EVERY},
    {"fua", no_argument, NULL, OPT_FUA},
    {"fill", no_argument, NULL, 'f'},
    {"fill-block", required_argument, NULL, OPT_FILL_BLOCK},
    {"verify", no_argument, NULL, 'v'},
    {"keep-going", no_argument, NULL, 'k'},
    {"seed", required_argument, NULL, OPT_SEED},
    {"timeout", required_argument, NULL, OPT_TIMEOUT},
    {"server-pid", required_argument, NULL, OPT_SERVER_PID},
    {"json", no_argument, NULL, 'j'},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
};

struct command {
	struct load_config load;
	bool runtime_given;
	bool json;
	bool help;
};

static bool parse_command(int argc, char **argv, struct command *cmd);
static bool parse_option(int option, const char *text, struct command *cmd);
static bool parse_number(const char *text, uint64_t min, uint64_t max, uint64_t *ret);
static bool parse_size(const char *text, uint64_t max, uint64_t *ret);
static bool parse_seconds(const char *text, uint64_t *ret_ns);
static bool check_command(struct command *cmd);

int main(int argc, char **argv)
{
	/* Too large for a comfortable stack. */
	static struct load_result result;
	struct command cmd = {
	    .load =
		{
		    .export_name = "",
		    .connections = 1,
		    .depth = 32,
		    .pattern = LOAD_RANDREAD,
		    .read_percent = 70,
		    .block_size = 4 * KiB,
		    .fill_block = 256 * KiB,
		    .runtime_ns = 10 * NSEC_PER_SEC,
		    .seed = 1,
		    .timeout_s = 30,
		},
	};
	struct err err = {0};
	int rc;

	if (!parse_command(argc, argv, &cmd)) {
		fputs("nbdload: try nbdload --help\n", stderr);
		return EXIT_USAGE;
	}
	if (cmd.help) {
		fputs(usage_text, stdout);
		return EXIT_SUCCESS;
	}
	rc = load_run(&cmd.load, &result, &err);
	if (rc < 0) {
		fprintf(stderr, "nbdload: %s\n", err.text);
		return EXIT_FAILURE;
	}
	if (cmd.json)
		rc = report_json(&cmd.load, &result);
	else
		report_text(&cmd.load, &result);
	if (rc < 0 || fflush(stdout) != 0) {
		fputs("nbdload: cannot write the results\n", stderr);
		return EXIT_FAILURE;
	}
	return result.errors || result.mismatches ? EXIT_FAILURE : EXIT_SUCCESS;
}

static bool parse_command(int argc, char **argv, struct command *cmd)
{
	int option;

	while ((option = getopt_long(argc, argv, "p:b:q:c:t:n:w:fvkjh", long_options, NULL)) != -1)
		if (option == '?' || !parse_option(option, optarg, cmd))
			return false;
	if (cmd->help)
		return true;
	if (argc - optind < 1 || argc - optind > 2) {
		fputs("nbdload: give one ADDRESS, and at most one EXPORT\n", stderr);
		return false;
	}
	cmd->load.address = argv[optind];
	if (argc - optind == 2)
		cmd->load.export_name = argv[optind + 1];
	return check_command(cmd);
}

static bool parse_option(int option, const char *text, struct command *cmd)
{
	struct load_config *load = &cmd->load;
	uint64_t n = 0;
	bool good = true;

	switch (option) {
	case 'p':
		good = pattern_parse(text, &load->pattern) == 0;
		break;
	case OPT_READ_PERCENT:
		good = parse_number(text, 0, 100, &n);
		load->read_percent = (unsigned)n;
		break;
	case 'b':
		good = parse_size(text, LOAD_BLOCK_MAX, &n);
		load->block_size = (uint32_t)n;
		break;
	case 'q':
		good = parse_number(text, 1, LOAD_DEPTH_MAX, &n);
		load->depth = (unsigned)n;
		break;
	case 'c':
		good = parse_number(text, 1, LOAD_CONNECTIONS_MAX, &n);
		load->connections = (unsigned)n;
		break;
	case 't':
		good = parse_seconds(text, &load->runtime_ns);
		cmd->runtime_given = true;
		break;
	case 'n':
		good = parse_number(text, 1, UINT64_MAX, &load->max_ios);
		break;
	case 'w':
		good = parse_seconds(text, &load->warmup_ns);
		break;
	case OPT_WORKING_SET:
		good = parse_size(text, INT64_MAX, &load->working_set);
		break;
	case OPT_FLUSH_EVERY:
		good = parse_number(text, 0, UINT32_MAX, &n);
		load->flush_every = (unsigned)n;
		break;
	case OPT_FUA:
		load->fua = true;
		break;
	case 'f':
		load->fill = true;
		break;
	case OPT_FILL_BLOCK:
		good = parse_size(text, LOAD_BLOCK_MAX, &n);
		load->fill_block = (uint32_t)n;
		break;
	case 'v':
		load->verify = true;
		break;
	case 'k':
		load->keep_going = true;
		break;
	case OPT_SEED:
		good = parse_number(text, 0, UINT64_MAX, &load->seed);
		break;
	case OPT_TIMEOUT:
		good = parse_number(text, 1, 86400, &n);
		load->timeout_s = (unsigned)n;
		break;
	case OPT_SERVER_PID:
		good = parse_number(text, 1, INT32_MAX, &n);
		load->server_pid = (pid_t)n;
		break;
	case 'j':
		cmd->json = true;
		break;
	case 'h':
		cmd->help = true;
		break;
	}
	if (!good)
		fprintf(stderr, "nbdload: \"%s\" is not a value that option takes\n", text);
	return good;
}

static bool parse_number(const char *text, uint64_t min, uint64_t max, uint64_t *ret)
{
	char *end;

	errno = 0;
	*ret = strtoull(text, &end, 10);
	return errno == 0 && end != text && !*end && text[0] != '-' && *ret >= min && *ret <= max;
}

static bool parse_size(const char *text, uint64_t max, uint64_t *ret)
{
	return size_parse(text, ret) == 0 && *ret > 0 && *ret <= max;
}

static bool parse_seconds(const char *text, uint64_t *ret_ns)
{
	char *end;
	double seconds = strtod(text, &end);

	if (end == text || *end || !(seconds >= 0 && seconds <= 1e6))
		return false;
	*ret_ns = (uint64_t)(seconds * 1e9);
	return true;
}

static bool check_command(struct command *cmd)
{
	struct load_config *load = &cmd->load;

	if (load->max_ios && !cmd->runtime_given)
		load->runtime_ns = 0;
	if (load->runtime_ns == 0 && load->max_ios == 0) {
		fputs("nbdload: a runtime of 0 needs --ios\n", stderr);
		return false;
	}
	if (load->block_size % 512 != 0) {
		fputs("nbdload: the block size must be a multiple of 512\n", stderr);
		return false;
	}
	if (load->pattern == LOAD_NONE && !load->fill) {
		fputs("nbdload: pattern none is for --fill\n", stderr);
		return false;
	}
	return true;
}
