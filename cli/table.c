/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/table.h"

#include "base/util.h"
#include "cli/run.h"

#include <string.h>

/* clang-format off */
const struct cli_option cli_options[OPT_COUNT] = {
	[OPT_SOCKET] = {"socket", "PATH",
		"the daemon's API socket (default: $VOLUMED_SOCKET, or volumed.sock in "
		"/run/volumed, /var/lib/volumed or ./data)", .words = WORDS_FILES},
	[OPT_JSON] = {"json", NULL, "print JSON, for scripts"},
	[OPT_QUIET] = {"quiet", NULL,
		"print only ids (attach: only the URI), and no progress", .letter = 'q'},
	[OPT_HELP] = {"help", NULL, "print this help", .letter = 'h'},
	[OPT_VERSION] = {"version", NULL, "print the version", .letter = 'V'},
	[OPT_SIZE] = {"size", "SIZE", "as 10GiB, 512MiB or 1.5TiB", .letter = 's'},
	[OPT_NAME] = {"name", "NAME",
		"a name for people, by which commands find it while no other has the same",
		.letter = 'n'},
	[OPT_TAG] = {"tag", "KEY=VALUE", "a label (repeatable)", .letter = 't',
		.repeatable = true},
	[OPT_CLIENT_TOKEN] = {"client-token", "TOKEN",
		"a text of your own, at most 64 bytes: repeating the command with the same one "
		"makes no second volume"},
	[OPT_FILTER] = {"filter", "NAME=VALUE",
		"list only what matches; * and ? match any text and any letter (repeatable: values "
		"of one name are alternatives, all names must match)", .letter = 'f',
		.repeatable = true},
	[OPT_INSTANCE] = {"instance", "INSTANCE", "an instance, by its id or name",
		.words = WORDS_INSTANCES, .letter = 'i'},
	[OPT_DEVICE] = {"device", "NAME", "the device name, as /dev/sdf", .letter = 'd'},
	[OPT_DELETE_ON_TERMINATION] = {"delete-on-termination", NULL,
		"delete the volume when the instance is terminated"},
	[OPT_FORCE] = {"force", NULL,
		"do not wait for its clients: cut them off; what they have not flushed may be "
		"lost"},
	[OPT_HOST] = {"host", "HOST", "the machine that runs it (default: this one)"},
	[OPT_WAIT] = {"wait", "SECONDS",
		"wait until the daemon is ready (default: 60 seconds)", .letter = 'w',
		.value_is_optional = true},
	[OPT_DEEP] = {"deep", NULL, "read every stored block, too; volumes in use are scrubbed"},
	[OPT_LIMIT] = {"limit", "N", "at most so many (default: 20)", .letter = 'l'},
	[OPT_SNAPSHOT] = {"snapshot", "SNAP", "a snapshot, by its id or name",
		.words = WORDS_SNAPSHOTS},
	[OPT_INITIALIZATION_RATE] = {"initialization-rate", "SIZE",
		"bytes a second at which the snapshot's blocks are copied behind, as 100MiB "
		"(default: the daemon's hydration-rate)"},
	[OPT_FULL] = {"full", NULL,
		"make it available only when all of the snapshot is copied"},
	[OPT_EXCLUDE_BOOT] = {"exclude-boot", NULL,
		"with --instance: not its boot volume, /dev/sda1 or /dev/xvda"},
	[OPT_DESCRIPTION] = {"description", "TEXT", "what it is for, at most 255 bytes"},
	[OPT_WAIT_COMPLETED] = {"wait-completed", NULL,
		"wait until it is done (a snapshot: in the repository; a volume: copied), and show "
		"how far it is"},
	[OPT_RATE] = {"rate", "SIZE",
		"bytes a second that it reads, as 100MiB (default of a scrub: 64MiB)"},
	[OPT_TO] = {"to", "DIR", "the folder of the other repository", .words = WORDS_FILES},
	[OPT_ALL] = {"all", NULL, "all of the region's that are completed"},
	[OPT_STOP] = {"stop", NULL, "stop the one that is under way"},
	[OPT_MDOC] = {"mdoc", NULL, "print all of it as mdoc, for the man page"},
};

const struct cli_group cli_groups[] = {
	{"volume", "create, list, show, resize and delete volumes"},
	{"snapshot", "take, list, show and delete snapshots of volumes"},
	{"instance", "register, list and deregister instances"},
	{NULL, NULL},
};

#define VOL      {"VOL", false, WORDS_VOLUMES}
#define INSTANCE {"INSTANCE", false, WORDS_INSTANCES}
#define SNAP     {"SNAP", false, WORDS_SNAPSHOTS}
#define BIT      OPTION_BIT

const struct cli_command cli_commands[] = {
	{"volume create", {{0}},
	 BIT(OPT_SIZE) | BIT(OPT_NAME) | BIT(OPT_TAG) | BIT(OPT_CLIENT_TOKEN) | BIT(OPT_SNAPSHOT) |
	     BIT(OPT_INITIALIZATION_RATE) | BIT(OPT_FULL) | BIT(OPT_WAIT_COMPLETED),
	 0,
	 "make a volume, empty or of a snapshot",
	 "An empty one needs a --size; it reads as zeroes until it is written, and takes only the "
	 "space that is. One that is made of a snapshot has at least the snapshot's size, and can "
	 "be used at once: what is read first is copied first, and the rest behind it, attached "
	 "or not. With --full it is creating until all is copied, and then as fast as any other.",
	 run_volume_create},
	{"volume list", {{0}}, BIT(OPT_FILTER), 0,
	 "list volumes",
	 "Filters: volume-id, status, size (in GiB), create-time, tag:KEY, tag-key, "
	 "attachment.instance-id, attachment.device, attachment.status.",
	 run_volume_list},
	{"volume show", {VOL}, 0, 0,
	 "show a volume: its state, attachment, URI and counters", "", run_volume_show},
	{"volume resize", {VOL}, BIT(OPT_SIZE), BIT(OPT_SIZE),
	 "make a volume larger, attached or not",
	 "A volume can't shrink. Clients that are connected see the new size when they ask again; "
	 "grow the file system in it after that.",
	 run_volume_resize},
	{"volume delete", {VOL}, 0, 0,
	 "delete a volume that is not attached, and all that is on it",
	 "There is no way back. The space comes back soon after.",
	 run_volume_delete},
	{"attach", {VOL}, BIT(OPT_INSTANCE) | BIT(OPT_DEVICE) | BIT(OPT_DELETE_ON_TERMINATION), 0,
	 "attach a volume, and print where it is served",
	 "Without --instance, it is attached to this machine's own instance. The URI holds the "
	 "attachment's secret name: whoever has it can use the disk.",
	 run_attach},
	{"detach", {VOL}, BIT(OPT_INSTANCE) | BIT(OPT_DEVICE) | BIT(OPT_FORCE), 0,
	 "detach a volume",
	 "Waits until what its clients have sent is written and answered. Unmount in the guest "
	 "first. If the disk below does not answer, it is said what the detach waits for, and the "
	 "exit status is 1; it goes on, and no client can use the volume any more.",
	 run_detach},
	{"scrub", {VOL}, BIT(OPT_RATE) | BIT(OPT_WAIT_COMPLETED) | BIT(OPT_STOP), 0,
	 "read all that a volume holds, and tell what is bad",
	 "Everything goes on meanwhile, attached or not. What can't be read as it was written is "
	 "listed by volume show until it is overwritten, trimmed, or found good again, and the "
	 "volume's health is impaired as long. With --wait-completed the exit status is 1 if "
	 "anything is bad.",
	 run_scrub},
	{"snapshot create", {{"VOL", true, WORDS_VOLUMES}},
	 BIT(OPT_DESCRIPTION) | BIT(OPT_NAME) | BIT(OPT_TAG) | BIT(OPT_WAIT_COMPLETED) |
	     BIT(OPT_INSTANCE) | BIT(OPT_EXCLUDE_BOOT),
	 0,
	 "take a snapshot of a volume, or of all that an instance has",
	 "It holds what the volume holds when the command returns, and the volume goes on. It is "
	 "pending while what has changed since the volume's newest completed snapshot is copied "
	 "to the repository. A volume can have five that are pending. With --instance in place of "
	 "VOL, it is one snapshot of each volume attached to the instance, all at one point.",
	 run_snapshot_create},
	{"snapshot list", {{0}}, BIT(OPT_FILTER), 0,
	 "list the region's snapshots",
	 "STORED is what the snapshot added to the repository. Filters: snapshot-id, status, "
	 "volume-id, volume-size (in GiB), start-time, description, tag:KEY, tag-key.",
	 run_snapshot_list},
	{"snapshot show", {SNAP}, 0, 0, "show a snapshot: its state, progress and sizes", "",
	 run_snapshot_show},
	{"snapshot verify", {{"SNAP", true, WORDS_SNAPSHOTS}},
	 BIT(OPT_ALL) | BIT(OPT_RATE) | BIT(OPT_WAIT_COMPLETED) | BIT(OPT_STOP), 0,
	 "read all that a snapshot needs from the repository, and tell what is bad",
	 "Everything goes on meanwhile. snapshot show tells how far it is, and where the snapshot "
	 "can't be read. With --wait-completed, or --all for one after the other, the exit status "
	 "is 1 if anything is bad.",
	 run_snapshot_verify},
	{"snapshot copy", {SNAP},
	 BIT(OPT_TO) | BIT(OPT_RATE) | BIT(OPT_WAIT_COMPLETED) | BIT(OPT_STOP), 0,
	 "copy a snapshot to another repository",
	 "The copy has the same id, and needs nothing of this repository. The folder is made if it "
	 "is missing. Where the snapshot's parent was copied before, only what differs is. A copy "
	 "that was cut short goes on when the command is given again.",
	 run_snapshot_copy},
	{"snapshot export", {SNAP}, 0, 0,
	 "print where a completed snapshot can be read, over NBD",
	 "Every completed snapshot is a read-only disk on the daemon's NBD socket, by its id: "
	 "qemu-img and nbdcopy make an image of any format of it. With --quiet it prints just the "
	 "URI.",
	 run_snapshot_export},
	{"snapshot delete", {SNAP}, 0, 0,
	 "delete a snapshot, pending or completed",
	 "Other snapshots keep all that they need.",
	 run_snapshot_delete},
	{"instance register", {{"NAME", true, WORDS_NONE}}, BIT(OPT_HOST), 0,
	 "make an instance known, so that volumes can be attached to it", "",
	 run_instance_register},
	{"instance list", {{0}}, BIT(OPT_FILTER), 0,
	 "list instances", "Filters: instance-id, name, host, instance-state-name.",
	 run_instance_list},
	{"instance deregister", {INSTANCE}, 0, 0,
	 "forget an instance that has no volumes attached", "", run_instance_deregister},
	{"status", {{0}}, 0, 0, "show the daemon's health, space and counts", "", run_status},
	{"ping", {{0}}, BIT(OPT_WAIT), 0, "ask whether the daemon is ready", "", run_ping},
	{"check", {{0}}, BIT(OPT_DEEP), 0,
	 "check that catalog, volumes and store agree, while all goes on",
	 "Exit status 0: clean, 1: something is wrong. If the command is stopped, the check goes "
	 "on, and the next one joins it.",
	 run_check},
	{"events", {{"VOL|INSTANCE", true, WORDS_VOLUMES}}, BIT(OPT_LIMIT) | BIT(OPT_FILTER), 0,
	 "show what has happened, the newest first",
	 "Filters: what, who, resource.", run_events},
	{"completion", {{"bash", false, WORDS_SHELLS}}, 0, 0,
	 "print the completion script for a shell",
	 "To use it: source <(volumectl completion bash)",
	 run_completion},
	{"help", {{"COMMAND", true, WORDS_COMMANDS}, {"COMMAND", true, WORDS_NONE}},
	 BIT(OPT_MDOC), 0,
	 "explain a command", "", run_help},
	{.name = NULL},
};

const struct cli_exit_status cli_exits[] = {
	{EXIT_OK, "done"},
	{EXIT_FAILED, "it failed, or check found something wrong"},
	{EXIT_USAGE, "the command line, or a value in it, is wrong"},
	{EXIT_UNREACHABLE, "the daemon can't be reached, or is not ready"},
	{EXIT_NOT_FOUND, "there is no such volume, snapshot, instance or attachment"},
	{EXIT_CONFLICT, "the state of the thing does not allow it"},
	{EXIT_NO_SPACE, "the store has no space for it"},
};
/* clang-format on */

const unsigned cli_n_exits = ARRAY_SIZE(cli_exits);

const struct cli_command *cli_command_find(const char *name)
{
	for (const struct cli_command *c = cli_commands; c->name; c++)
		if (strcmp(c->name, name) == 0)
			return c;
	return NULL;
}

const struct cli_group *cli_group_find(const char *name)
{
	for (const struct cli_group *g = cli_groups; g->name; g++)
		if (strcmp(g->name, name) == 0)
			return g;
	return NULL;
}

bool cli_command_in_group(const struct cli_command *command, const char *group)
{
	size_t len = strlen(group);

	return strncmp(command->name, group, len) == 0 && command->name[len] == ' ';
}

const char *cli_command_short(const struct cli_command *command)
{
	const char *space = strchr(command->name, ' ');

	return space ? space + 1 : command->name;
}
