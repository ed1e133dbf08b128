/* SPDX-License-Identifier: Apache-2.0
 *
 * The invariants of catalog.h, each as a query for the rows that break it.
 */
#include "metadata/sql.h"

#include "base/util.h"

#include <stdio.h>

struct rule {
	const char *name;
	const char *what; /* is wrong with the row that the query names */
	const char *query;
};

static const struct rule rules[] = {
    {"M1", "has a size that no volume can have",
     "SELECT id FROM volumes WHERE (size <= 0 AND state <> 'error') OR size % 4096 <> 0"},
    {"M1", "is to be resized, but its state or sizes do not allow it",
     "SELECT id FROM volumes WHERE resize_to <> 0 AND "
     "(state NOT IN ('available', 'in-use') OR resize_to < size)"},
    {"M2", "is of a volume that does not exist",
     "SELECT id FROM attachments WHERE volume NOT IN (SELECT id FROM volumes)"},
    {"M2", "is of an instance that does not exist",
     "SELECT id FROM attachments WHERE instance NOT IN (SELECT id FROM instances)"},
    {"M3", "has more than one attachment",
     "SELECT volume FROM attachments GROUP BY volume HAVING count(*) > 1"},
    {"M3", "is in-use without an attachment",
     "SELECT id FROM volumes WHERE state = 'in-use' AND id NOT IN "
     "(SELECT volume FROM attachments)"},
    {"M3", "has an attachment, but is not in-use",
     "SELECT id FROM volumes WHERE state <> 'in-use' AND id IN (SELECT volume FROM attachments)"},
    {"M4", "has another generation than its volume",
     "SELECT a.id FROM attachments a JOIN volumes v ON v.id = a.volume "
     "WHERE a.generation <> v.generation"},
    {"M5", "has one device name twice",
     "SELECT instance FROM attachments GROUP BY instance, device HAVING count(*) > 1"},
    {"M5", "is an export name that exists twice",
     "SELECT min(id) FROM attachments GROUP BY export_name HAVING count(*) > 1"},
    {"M6", "has tags, but does not exist",
     "SELECT DISTINCT resource FROM tags WHERE resource NOT IN (SELECT id FROM volumes) AND "
     "resource NOT IN (SELECT id FROM instances) AND "
     "resource NOT IN (SELECT id FROM snapshots)"},
    {"M7", "is this machine's own instance, but does not exist",
     "SELECT value FROM meta WHERE key = 'own-instance' AND value NOT IN (SELECT id FROM "
     "instances)"},
    {"M9", "is a pending snapshot of a volume that does not exist",
     "SELECT id FROM snapshots WHERE state = 'pending' AND volume NOT IN (SELECT id FROM volumes)"},
    {"M9", "has more than five pending snapshots",
     "SELECT volume FROM snapshots WHERE state = 'pending' GROUP BY volume HAVING count(*) > 5"},
    {"M9", "is completed, and has no place in its volume's log",
     "SELECT id FROM snapshots WHERE state = 'completed' AND (sequence <= 0 OR completed <= 0)"},
    {"M8", "breaks a foreign key",
     "SELECT \"table\" || ' row ' || coalesce(rowid, '?') FROM pragma_foreign_key_check"},
    {"M8", "is what SQLite says of the file",
     "SELECT integrity_check FROM pragma_integrity_check(20) WHERE integrity_check <> 'ok'"},
};

static int check_rule(struct catalog *c, const struct rule *rule,
		      void (*say)(void *arg, const char *text), void *arg, uint64_t *wrong,
		      struct err *err)
{
	sqlite3_stmt *s = NULL;
	char text[400];
	int code = sqlite3_prepare_v2(c->db, rule->query, -1, &s, NULL);

	while (code == SQLITE_OK || code == SQLITE_ROW) {
		code = sqlite3_step(s);
		if (code != SQLITE_ROW)
			break;
		snprintf(text, sizeof(text), "catalog (%s): %s %s", rule->name,
			 (const char *)sqlite3_column_text(s, 0), rule->what);
		say(arg, text);
		(*wrong)++;
	}
	sqlite3_finalize(s);
	return code == SQLITE_DONE ? 0 : sql_error(c, code, "checking it", err);
}

int catalog_check(struct catalog *c, void (*say)(void *arg, const char *text), void *arg,
		  uint64_t *ret_wrong, struct err *err)
{
	uint64_t wrong = 0;
	int r = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(rules) && r == 0; i++)
		r = check_rule(c, &rules[i], say, arg, &wrong, err);
	if (r == 0)
		*ret_wrong = wrong;
	return r;
}
