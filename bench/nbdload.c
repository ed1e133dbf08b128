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

#define EXIT_USAGE  2
#define TIMEOUT_MAX 86400

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
    "      --skew N            N of 100 random I/Os go to 100 - N of 100 blocks: 80\n"
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
    "Sizes are bytes or like 4KiB, 1GiB; blocks are multiples of 512. Writing patterns destroy "
    "what the export holds.\n";

enum option_id {
	OPT_READ_PERCENT = 256,
	OPT_WORKING_SET,
	OPT_SKEW,
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
    {"skew", required_argument, NULL, OPT_SKEW},
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
static bool parse_switch(int option, struct command *cmd);
static bool parse_pid(const char *text, pid_t *ret);
static bool parse_unsigned(const char *text, unsigned min, unsigned max, unsigned *ret);
static bool parse_number(const char *text, uint64_t min, uint64_t max, uint64_t *ret);
static bool parse_block_size(const char *text, uint32_t *ret);
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
	if (result.remote.size > 0 && cmd.load.connections > 1 &&
	    !(result.remote.flags & REMOTE_MULTI_CONN))
		fputs("nbdload: note: the export does not offer CAN_MULTI_CONN: its connections "
		      "need not agree on what is written\n",
		      stderr);
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

	while ((option = getopt_long(argc, argv, "p:b:q:c:t:n:w:fvkjh", long_options, NULL)) !=
	       -1) {
		if (option == '?')
			return false;
		if (!parse_option(option, optarg, cmd)) {
			fprintf(stderr, "nbdload: \"%s\" is not a value that option takes\n",
				optarg);
			return false;
		}
	}
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

	switch (option) {
	case 'p':
		return pattern_parse(text, &load->pattern) == 0;
	case 'b':
		return parse_block_size(text, &load->block_size);
	case 'q':
		return parse_unsigned(text, 1, LOAD_DEPTH_MAX, &load->depth);
	case 'c':
		return parse_unsigned(text, 1, LOAD_CONNECTIONS_MAX, &load->connections);
	case 't':
		cmd->runtime_given = true;
		return parse_seconds(text, &load->runtime_ns);
	case 'n':
		return parse_number(text, 1, UINT64_MAX, &load->max_ios);
	case 'w':
		return parse_seconds(text, &load->warmup_ns);
	case OPT_READ_PERCENT:
		return parse_unsigned(text, 0, 100, &load->read_percent);
	case OPT_WORKING_SET:
		return size_parse(text, &load->working_set) == 0;
	case OPT_SKEW:
		return parse_unsigned(text, 50, 99, &load->skew);
	case OPT_FLUSH_EVERY:
		return parse_unsigned(text, 0, UINT32_MAX, &load->flush_every);
	case OPT_FILL_BLOCK:
		return parse_block_size(text, &load->fill_block);
	case OPT_SEED:
		return parse_number(text, 0, UINT64_MAX, &load->seed);
	case OPT_TIMEOUT:
		return parse_unsigned(text, 1, TIMEOUT_MAX, &load->timeout_s);
	case OPT_SERVER_PID:
		return parse_pid(text, &load->server_pid);
	default:
		return parse_switch(option, cmd);
	}
}

/* The options without a value. */
static bool parse_switch(int option, struct command *cmd)
{
	switch (option) {
	case OPT_FUA:
		cmd->load.fua = true;
		return true;
	case 'f':
		cmd->load.fill = true;
		return true;
	case 'v':
		cmd->load.verify = true;
		return true;
	case 'k':
		cmd->load.keep_going = true;
		return true;
	case 'j':
		cmd->json = true;
		return true;
	case 'h':
		cmd->help = true;
		return true;
	default:
		return false;
	}
}

static bool parse_pid(const char *text, pid_t *ret)
{
	unsigned n;

	if (!parse_unsigned(text, 1, INT32_MAX, &n))
		return false;
	*ret = (pid_t)n;
	return true;
}

static bool parse_unsigned(const char *text, unsigned min, unsigned max, unsigned *ret)
{
	uint64_t n;

	if (!parse_number(text, min, max, &n))
		return false;
	*ret = (unsigned)n;
	return true;
}

static bool parse_number(const char *text, uint64_t min, uint64_t max, uint64_t *ret)
{
	char *end;

	errno = 0;
	*ret = strtoull(text, &end, 10);
	return errno == 0 && end != text && !*end && text[0] != '-' && *ret >= min && *ret <= max;
}

static bool parse_block_size(const char *text, uint32_t *ret)
{
	uint64_t n;

	if (size_parse(text, &n) < 0 || n == 0 || n > LOAD_BLOCK_MAX || n % 512 != 0)
		return false;
	*ret = (uint32_t)n;
	return true;
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
	if (load->pattern == LOAD_NONE && !load->fill) {
		fputs("nbdload: pattern none is for --fill\n", stderr);
		return false;
	}
	return true;
}
