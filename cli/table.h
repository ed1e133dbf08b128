/* SPDX-License-Identifier: Apache-2.0
 *
 * Every command, argument and option of volumectl, once. The parser, --help, the completion for
 * bash and the list in the man page are made of these tables.
 */
#ifndef CLI_TABLE_H
#define CLI_TABLE_H

#include <stdbool.h>
#include <stdint.h>

struct cli;

#define CLI_PROGRAM       "volumectl"
#define CLI_ARGUMENTS_MAX 2

/* How a shell completes a word. */
enum cli_words {
	WORDS_NONE,
	WORDS_FILES,
	WORDS_VOLUMES,
	WORDS_INSTANCES,
	WORDS_SNAPSHOTS,
	WORDS_SHELLS,
	WORDS_COMMANDS,
};

enum cli_option_id {
	OPT_SOCKET,
	OPT_JSON,
	OPT_QUIET,
	OPT_HELP,
	OPT_VERSION,
	OPT_SIZE,
	OPT_NAME,
	OPT_TAG,
	OPT_CLIENT_TOKEN,
	OPT_FILTER,
	OPT_INSTANCE,
	OPT_DEVICE,
	OPT_DELETE_ON_TERMINATION,
	OPT_FORCE,
	OPT_HOST,
	OPT_WAIT,
	OPT_DEEP,
	OPT_LIMIT,
	OPT_DESCRIPTION,
	OPT_SNAPSHOT,
	OPT_INITIALIZATION_RATE,
	OPT_FULL,
	OPT_EXCLUDE_BOOT,
	OPT_WAIT_COMPLETED,
	OPT_RATE,
	OPT_TO,
	OPT_ALL,
	OPT_STOP,
	OPT_MDOC,
	OPT_COUNT,
};
#define OPTION_BIT(id) (UINT32_C(1) << (id))

struct cli_option {
	const char *name;
	const char *value; /* "SIZE", as in --help; NULL: it takes none */
	const char *help;
	enum cli_words words;
	char letter;
	bool value_is_optional;
	bool repeatable;
};
extern const struct cli_option cli_options[OPT_COUNT];

/* Those that every command takes. */
#define OPTIONS_GLOBAL                                                                             \
	(OPTION_BIT(OPT_SOCKET) | OPTION_BIT(OPT_JSON) | OPTION_BIT(OPT_QUIET) |                   \
	 OPTION_BIT(OPT_HELP))

struct cli_argument {
	const char *name; /* "VOL"; NULL: no more */
	bool optional;
	enum cli_words words;
};

struct cli_command {
	const char *name; /* "volume create" */
	struct cli_argument arguments[CLI_ARGUMENTS_MAX];
	uint32_t options;  /* bits, besides OPTIONS_GLOBAL */
	uint32_t required; /* of these */
	const char *summary;
	const char *details;         /* more sentences, or "" */
	int (*run)(struct cli *cli); /* returns the exit status */
};
extern const struct cli_command cli_commands[]; /* ends with a NULL name */

/* "volume" and the like: the first word of several commands. */
struct cli_group {
	const char *name;
	const char *summary;
};
extern const struct cli_group cli_groups[]; /* ends with a NULL name */

enum cli_exit {
	EXIT_OK = 0,
	EXIT_FAILED = 1,
	EXIT_USAGE = 2,
	EXIT_UNREACHABLE = 3,
	EXIT_NOT_FOUND = 4,
	EXIT_CONFLICT = 5,
	EXIT_NO_SPACE = 6,
};
struct cli_exit_status {
	enum cli_exit status;
	const char *meaning;
};
extern const struct cli_exit_status cli_exits[];
extern const unsigned cli_n_exits;

/* The command of that name ("volume create"), or NULL. */
const struct cli_command *cli_command_find(const char *name);
const struct cli_group *cli_group_find(const char *name);
/* Whether the command's first word is the group's name. */
bool cli_command_in_group(const struct cli_command *command, const char *group);
/* The name without its group: "create". */
const char *cli_command_short(const struct cli_command *command);

#endif
