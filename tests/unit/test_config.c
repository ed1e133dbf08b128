/* SPDX-License-Identifier: Apache-2.0
 *
 * volumed's config file: what it takes, what it refuses, and that its errors name the line.
 */
#include "base/util.h"
#include "volumed/config.h"
#include "volumed/settings.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static char path[64];

static int make_path(void **state)
{
	int fd;

	(void)state;
	snprintf(path, sizeof(path), "/tmp/volumed-config.XXXXXX");
	fd = mkstemp(path);
	return fd < 0 ? -1 : close(fd);
}

static int remove_path(void **state)
{
	(void)state;
	return unlink(path);
}

static void write_file(const char *text, size_t len)
{
	FILE *file = fopen(path, "w");

	assert_non_null(file);
	assert_int_equal(fwrite(text, 1, len, file), len);
	assert_int_equal(fclose(file), 0);
}

static int load_bytes(const char *text, size_t len, struct options *o, struct err *err)
{
	write_file(text, len);
	return config_load(path, o, err);
}

static int load(const char *text, struct options *o, struct err *err)
{
	return load_bytes(text, strlen(text), o, err);
}

/* Every setting can be set in a file, with comments, blanks and blank lines around. */
static void config_takes_all_settings(void **state)
{
	static const char text[] = "# all of them\n"
				   "\n"
				   "data-dir = /srv/volumes   # here\n"
				   "  nbd-listen=127.0.0.1:10809\n"
				   "\tnbd-listen = [::1]:10809\n"
				   "; an older way to comment\n"
				   "allow-remote-plaintext = yes\n"
				   "store = /dev/disk\n"
				   "store-max-size = 1.5TiB\n"
				   "volume-size = 20GiB\n"
				   "overcommit-limit = 2.5\n"
				   "zone = eu-1a\n"
				   "zone-number = 255\n"
				   "detach-wait = 60\n"
				   "io-stuck-after = 45\n"
				   "threads = 7\n"
				   "map-memory = 96MiB\n"
				   "log-level = debug"; /* no newline at the end */
	struct options o;
	struct err err;

	(void)state;
	settings_init(&o);
	assert_int_equal(load(text, &o, &err), 0);
	assert_string_equal(o.data_dir, "/srv/volumes");
	assert_int_equal(o.n_listen, 2);
	assert_string_equal(o.listen[0], "127.0.0.1:10809");
	assert_string_equal(o.listen[1], "[::1]:10809");
	assert_true(o.allow_remote);
	assert_string_equal(o.store, "/dev/disk");
	assert_int_equal(o.store_max_size, 3 * TiB / 2);
	assert_int_equal(o.volume_size, 20 * GiB);
	assert_true(o.overcommit_limit == 2.5);
	assert_string_equal(o.zone, "eu-1a");
	assert_int_equal(o.zone_number, 255);
	assert_int_equal(o.detach_wait, 60);
	assert_int_equal(o.io_stuck_after, 45);
	assert_int_equal(o.threads, 7);
	assert_int_equal(o.map_memory, 96 * MiB);
	assert_int_equal(o.log_level, LOG_LEVEL_DEBUG);
	arena_free(&o.memory);
}

/* An empty file changes nothing: every setting has a default. */
static void config_empty_keeps_defaults(void **state)
{
	struct options o;
	struct options defaults;
	struct err err;

	(void)state;
	settings_init(&o);
	settings_init(&defaults);
	assert_int_equal(load("", &o, &err), 0);
	assert_memory_equal(&o, &defaults, sizeof(o));
	assert_int_equal(load("\n\n   \n#x\n", &o, &err), 0);
	assert_memory_equal(&o, &defaults, sizeof(o));
}

/* The command line wins, and yet what the file says about it must be right. */
static void config_command_line_overrides(void **state)
{
	struct options o;
	struct err err;

	(void)state;
	settings_init(&o);
	o.threads = 3;
	o.listen[o.n_listen++] = "127.0.0.1:1";
	o.given = UINT32_C(1) << setting_find("threads") | UINT32_C(1)
							       << setting_find("nbd-listen");
	assert_int_equal(
	    load("threads = 9\nnbd-listen = 127.0.0.1:2\nlog-level = error\n", &o, &err), 0);
	assert_int_equal(o.threads, 3);
	assert_int_equal(o.n_listen, 1);
	assert_string_equal(o.listen[0], "127.0.0.1:1");
	assert_int_equal(o.log_level, LOG_LEVEL_ERROR);
	assert_int_equal(load("threads = none\n", &o, &err), -EINVAL);
	arena_free(&o.memory);
}

struct wrong_case {
	const char *text;
	unsigned line;
	const char *says;
};

/* Each error names the file, the line and the cause, and only the first one counts. */
static void config_names_the_line(void **state)
{
	static const struct wrong_case cases[] = {
	    {"thread = 4\n", 1, "there is no setting 'thread'; did you mean threads?"},
	    {"\n\nxyzzy = 4\n", 3, "there is no setting 'xyzzy'; volumed.conf(5)"},
	    {"Threads = 4\n", 1, "did you mean threads?"},
	    {"threads = 4\n# more\nthreads = 5\n", 3, "set twice; it was in line 1"},
	    {"threads = many\n", 1, "threads: 'many' is not a number from 1 to"},
	    {"threads = 0\n", 1, "threads: '0' is not"},
	    {"volume-size = 5000\n", 1, "multiple of 4096"},
	    {"volume-size = big\n", 1, "10GiB"},
	    {"store-max-size = 9999999999GiB\n", 1, "too large"},
	    {"map-memory = 4MiB\n", 1, "map-memory: '4MiB' is not from 8MiB to 1TiB"},
	    {"map-memory = much\n", 1, "map-memory: 'much' is no size"},
	    {"threads = -1\n", 1, "threads: '-1' is not"},
	    {"threads = 4x\n", 1, "threads: '4x' is not"},
	    {"zone = Zone A\n", 1, "no name of a zone"},
	    {"zone-number = 256\n", 1, "from 1 to 255"},
	    {"detach-wait = 0\n", 1, "from 1 to 600"},
	    {"io-stuck-after = 0\n", 1, "from 1 to 3600"},
	    {"overcommit-limit = 0\n", 1, "from 0.1 to 1000"},
	    {"overcommit-limit = inf\n", 1, "from 0.1 to 1000"},
	    {"overcommit-limit = nan\n", 1, "from 0.1 to 1000"},
	    {"overcommit-limit = -2\n", 1, "from 0.1 to 1000"},
	    {"log-level = loud\n", 1, "one of error, warning, info, debug"},
	    {"allow-remote-plaintext = maybe\n", 1, "neither yes nor no"},
	    {"allow-remote-plaintext\n", 1, "no 'name = value'"},
	    {"threads = 4\njust words\nthreads = 5\n", 2, "no 'name = value'"},
	    {"threads = \n", 1, "has no value"},
	    {"store =\n", 1, "has no value"},
	    {"[nbd]\nthreads = 1\n", 1, "no [sections]"},
	    {"threads = 1\n  [empty]\n", 2, "no [sections]"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct options o;
		struct err err;
		char place[100];

		settings_init(&o);
		assert_int_equal(load(cases[i].text, &o, &err), -EINVAL);
		snprintf(place, sizeof(place), "%s:%u: ", path, cases[i].line);
		if (strncmp(err.text, place, strlen(place)) != 0 ||
		    !strstr(err.text, cases[i].says))
			fail_msg("case %zu: '%s'", i, err.text);
		arena_free(&o.memory);
	}
}

/* A list has a bound, and the line that passes it is named. */
static void config_bounds_lists(void **state)
{
	char text[OPTIONS_LISTEN_MAX * 32 + 64] = "";
	char place[100];
	struct options o;
	struct err err;

	(void)state;
	for (int i = 0; i <= OPTIONS_LISTEN_MAX; i++)
		snprintf(text + strlen(text), sizeof(text) - strlen(text),
			 "nbd-listen = 127.0.0.1:%d\n", 1000 + i);
	settings_init(&o);
	assert_int_equal(load(text, &o, &err), -EINVAL);
	snprintf(place, sizeof(place), "%s:%d: nbd-listen: at most", path, OPTIONS_LISTEN_MAX + 1);
	assert_non_null(strstr(err.text, place));
	arena_free(&o.memory);
}

/* Lines and files have bounds; bytes that are no text are refused. */
static void config_bounds_bytes(void **state)
{
	static char text[2 * CONFIG_FILE_MAX];
	struct options o;
	struct err err;
	char line[CONFIG_LINE_MAX + 100];

	(void)state;
	settings_init(&o);
	memset(line, 'x', sizeof(line));
	line[snprintf(line, sizeof(line), "store = ")] = 'x';
	line[CONFIG_LINE_MAX] = '\n'; /* as long as a line may be */
	assert_int_equal(load_bytes(line, CONFIG_LINE_MAX + 1, &o, &err), 0);
	line[CONFIG_LINE_MAX] = 'x';
	line[CONFIG_LINE_MAX + 4] = '\n';
	assert_int_equal(load_bytes(line, CONFIG_LINE_MAX + 5, &o, &err), -EINVAL);
	assert_non_null(strstr(err.text, ":1: "));

	for (size_t i = 0; i < sizeof(text); i++)
		text[i] = i % 80 == 79 ? '\n' : '#';
	assert_int_equal(load_bytes(text, sizeof(text), &o, &err), -EINVAL);
	assert_non_null(strstr(err.text, "larger than"));

	assert_int_equal(load_bytes("threads = 1\n\0\n", 14, &o, &err), -EINVAL);
	assert_non_null(strstr(err.text, ":2: "));
	arena_free(&o.memory);
}

/* A file that can't be read is named with its cause. */
static void config_missing_file(void **state)
{
	struct options o;
	struct err err;

	(void)state;
	settings_init(&o);
	assert_int_equal(config_load("/nonexistent/volumed.conf", &o, &err), -ENOENT);
	assert_non_null(strstr(err.text, "/nonexistent/volumed.conf: No such file"));
	assert_int_equal(config_load("/tmp", &o, &err), -EIO);
	assert_non_null(strstr(err.text, "directory"));
}

/* The example that is installed is right, and names every setting with its default. */
static void config_example_is_right(void **state)
{
	struct options o;
	struct options defaults;
	struct err err;
	char text[16384] = "";
	FILE *file = fopen("packaging/volumed.conf", "r");

	(void)state;
	assert_non_null(file);
	assert_true(fread(text, 1, sizeof(text) - 1, file) > 0);
	fclose(file);
	for (const struct setting *s = settings; s->name; s++) {
		char line[64];

		snprintf(line, sizeof(line), "\n#%s = ", s->name);
		if (!strstr(text, line) && !strstr(text, line + 2))
			fail_msg("packaging/volumed.conf does not mention %s", s->name);
	}
	settings_init(&o);
	settings_init(&defaults);
	assert_int_equal(config_load("packaging/volumed.conf", &o, &err), 0);
	assert_string_equal(o.data_dir, "/var/lib/volumed");
	o.data_dir = NULL;
	arena_free(&o.memory);
	assert_memory_equal(&o, &defaults, sizeof(o));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(config_takes_all_settings),
	    cmocka_unit_test(config_empty_keeps_defaults),
	    cmocka_unit_test(config_command_line_overrides),
	    cmocka_unit_test(config_names_the_line),
	    cmocka_unit_test(config_bounds_lists),
	    cmocka_unit_test(config_bounds_bytes),
	    cmocka_unit_test(config_missing_file),
	    cmocka_unit_test(config_example_is_right),
	};

	return cmocka_run_group_tests(tests, make_path, remove_path);
}
