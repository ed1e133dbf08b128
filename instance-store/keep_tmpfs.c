/* SPDX-License-Identifier: Apache-2.0
 *
 * A map is made first and its key last, by rename, so that a key's name means that both are whole.
 * Destroying goes the other way round.
 */
#include "instance-store/keep_tmpfs.h"

#include "base/mem.h"
#include "instance-store/map.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#define NAME_SIZE 64

struct keep_tmpfs {
	struct keep keep; /* first */
	struct id store;
	struct id boot;
	int dir; /* holds the lock */
	char path[400];
};

/* A key or a map, mapped. */
struct mapped {
	uint8_t *page; /* the first */
	size_t size;
};

struct item {
	struct keep_item item; /* first */
	struct mapped key;
	struct mapped map;
};

static struct keep_tmpfs *tmpfs_of(struct keep *keep)
{
	return container_of(keep, struct keep_tmpfs, keep);
}

static const char *name_of(const struct keep_name *n, const char *end, char text[NAME_SIZE])
{
	snprintf(text, NAME_SIZE, "%" PRIu32 "-%" PRIu64 "%s", n->slot, n->generation, end);
	return text;
}

static size_t map_file_size(uint64_t n_blocks)
{
	return ISTORE_PAGE + map_words(n_blocks) * sizeof(uint64_t);
}

/* ---- Mapped files ------------------------------------------------------------------ */

static void unmap(struct mapped *m)
{
	if (m->page)
		munmap(m->page, m->size);
	m->page = NULL;
}

/* All of `size` is there afterwards, so that no access can find that memory has run out. */
static int map_new(struct keep_tmpfs *k, const char *name, size_t size, struct mapped *ret,
		   struct err *err)
{
	int fd = openat(k->dir, name, O_CREAT | O_TRUNC | O_RDWR | O_CLOEXEC | O_NOFOLLOW, 0600);
	int r;

	if (fd < 0)
		return err_set(err, -errno, "making %s/%s: %s", k->path, name, strerror(errno));
	r = -posix_fallocate(fd, 0, (off_t)size);
	if (r == 0) {
		ret->size = size;
		ret->page = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		if (ret->page == MAP_FAILED) {
			r = -errno;
			ret->page = NULL;
		}
	}
	close(fd);
	if (r == 0)
		return 0;
	unlinkat(k->dir, name, 0);
	return err_set(err, r,
		       "making %s/%s of %zu bytes: %s; a disk takes 32 MiB of the key folder for "
		       "each TiB",
		       k->path, name, size, strerror(-r));
}

static int map_old(struct keep_tmpfs *k, const char *name, size_t size, struct mapped *ret,
		   struct err *err)
{
	int fd = openat(k->dir, name, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	struct stat st;
	int r = 0;

	if (fd < 0)
		return err_set(err, -errno, "opening %s/%s: %s", k->path, name, strerror(errno));
	if (fstat(fd, &st) < 0)
		r = err_set(err, -errno, "%s/%s: %s", k->path, name, strerror(errno));
	else if ((size_t)st.st_size != size)
		r = err_set(err, -ENOENT, "%s/%s is damaged: it has another size", k->path, name);
	if (r == 0) {
		ret->size = size;
		ret->page = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		if (ret->page == MAP_FAILED) {
			r = err_set(err, -errno, "mapping %s/%s: %s", k->path, name,
				    strerror(errno));
			ret->page = NULL;
		}
	}
	close(fd);
	return r;
}

/* Best effort: a limit of locked memory that is too low is told by the daemon. */
static void guard(struct mapped *m)
{
	mlock(m->page, m->size);
	madvise(m->page, m->size, MADV_DONTDUMP);
}

/* ---- Items ------------------------------------------------------------------------- */

static struct item *item_new(const struct keep_name *name, uint64_t n_blocks, struct err *err)
{
	struct item *i = mem_alloc(sizeof(*i));

	if (!i) {
		err_set(err, -ENOMEM, "out of memory for a key");
		return NULL;
	}
	i->item.name = *name;
	i->item.n_blocks = n_blocks;
	return i;
}

static void item_free(struct item *i)
{
	unmap(&i->key);
	unmap(&i->map);
	mem_free(i);
}

static void take(struct item *i)
{
	guard(&i->key);
	i->item.key = i->key.page + ISTORE_KEY_AT;
	i->item.map = (uint64_t *)(i->map.page + ISTORE_PAGE);
}

static int make_key(struct keep_tmpfs *k, struct item *i, struct istore_key *what, struct err *err)
{
	char new[NAME_SIZE];
	char name[NAME_SIZE];
	int r;

	name_of(&i->item.name, ".key.new", new);
	name_of(&i->item.name, ".key", name);
	r = map_new(k, new, ISTORE_PAGE, &i->key, err);
	if (r < 0)
		return r;
	guard(&i->key);
	istore_key_encode(what, ISTORE_KEY, i->key.page);
	if (renameat(k->dir, new, k->dir, name) == 0)
		return 0;
	r = err_set(err, -errno, "making %s/%s: %s", k->path, name, strerror(errno));
	explicit_bzero(i->key.page, ISTORE_PAGE);
	unlinkat(k->dir, new, 0);
	return r;
}

static int tmpfs_make(struct keep *keep, const struct keep_name *name, uint64_t n_blocks,
		      const uint8_t key[ISTORE_KEY_SIZE], struct keep_item **ret_item,
		      struct err *err)
{
	struct keep_tmpfs *k = tmpfs_of(keep);
	struct item *i = item_new(name, n_blocks, err);
	struct istore_key what = {
	    .store = k->store,
	    .boot = k->boot,
	    .slot = name->slot,
	    .generation = name->generation,
	    .n_blocks = n_blocks,
	};
	char text[NAME_SIZE];
	int r;

	if (!i)
		return -ENOMEM;
	r = map_new(k, name_of(name, ".map", text), map_file_size(n_blocks), &i->map, err);
	if (r == 0) {
		istore_key_encode(&what, ISTORE_MAP, i->map.page);
		memcpy(what.key, key, ISTORE_KEY_SIZE);
		r = make_key(k, i, &what, err);
		explicit_bzero(&what, sizeof(what));
		if (r < 0)
			unlinkat(k->dir, text, 0);
	}
	if (r < 0) {
		item_free(i);
		return r;
	}
	take(i);
	*ret_item = &i->item;
	return 0;
}

/* -ENOENT unless the page says just what is wanted. */
static int look(const struct keep_tmpfs *k, const struct keep_item *item, const uint8_t *page,
		enum istore_key_kind kind, struct err *err)
{
	struct istore_key is;
	int r = istore_key_decode(page, kind, &is);

	if (r == -ENOTSUP)
		return err_set(err, r, "%s: a key of a newer version: install that", k->path);
	if (r == 0 && (!id_equal(is.store, k->store) || !id_equal(is.boot, k->boot) ||
		       is.slot != item->name.slot || is.generation != item->name.generation ||
		       is.n_blocks != item->n_blocks))
		r = -ENOENT;
	explicit_bzero(&is, sizeof(is));
	return r < 0 ? err_set(err, -ENOENT, "%s: a key is of another boot, or damaged", k->path)
		     : 0;
}

static int tmpfs_open(struct keep *keep, const struct keep_name *name, uint64_t n_blocks,
		      struct keep_item **ret_item, struct err *err)
{
	struct keep_tmpfs *k = tmpfs_of(keep);
	struct item *i = item_new(name, n_blocks, err);
	char text[NAME_SIZE];
	int r;

	if (!i)
		return -ENOMEM;
	r = map_old(k, name_of(name, ".key", text), ISTORE_PAGE, &i->key, err);
	if (r == 0)
		r = look(k, &i->item, i->key.page, ISTORE_KEY, err);
	if (r == 0)
		r = map_old(k, name_of(name, ".map", text), map_file_size(n_blocks), &i->map, err);
	if (r == 0)
		r = look(k, &i->item, i->map.page, ISTORE_MAP, err);
	if (r < 0) {
		item_free(i);
		return r;
	}
	take(i);
	*ret_item = &i->item;
	return 0;
}

static void tmpfs_destroy_key(struct keep *keep, struct keep_item *item)
{
	struct keep_tmpfs *k = tmpfs_of(keep);
	struct item *i = container_of(item, struct item, item);
	char text[NAME_SIZE];

	if (!item->key)
		return;
	explicit_bzero(i->key.page, ISTORE_PAGE);
	item->key = NULL;
	unmap(&i->key);
	unlinkat(k->dir, name_of(&item->name, ".key", text), 0);
}

static void tmpfs_close(struct keep *keep, struct keep_item *item)
{
	struct keep_tmpfs *k = tmpfs_of(keep);
	char text[NAME_SIZE];

	if (!item)
		return;
	if (!item->key)
		unlinkat(k->dir, name_of(&item->name, ".map", text), 0);
	item_free(container_of(item, struct item, item));
}

/* ---- The folder -------------------------------------------------------------------- */

/* Reads the name of one of our files. */
static bool parse_name(const char *text, struct keep_name *ret, bool *ret_is_key)
{
	char *end;

	if (!isdigit((unsigned char)text[0]))
		return false;
	ret->slot = (uint32_t)strtoul(text, &end, 10);
	if (*end != '-' || !isdigit((unsigned char)end[1]))
		return false;
	ret->generation = strtoull(end + 1, &end, 10);
	*ret_is_key = strcmp(end, ".map") != 0;
	return !*ret_is_key || strcmp(end, ".key") == 0 || strcmp(end, ".key.new") == 0;
}

static void destroy_file(struct keep_tmpfs *k, const char *name, bool is_key)
{
	static const uint8_t zeroes[ISTORE_PAGE];
	int fd = is_key ? openat(k->dir, name, O_WRONLY | O_CLOEXEC | O_NOFOLLOW) : -1;

	if (fd >= 0 && pwrite(fd, zeroes, sizeof(zeroes), 0) < 0)
		errno = 0; /* it goes all the same */
	if (fd >= 0)
		close(fd);
	unlinkat(k->dir, name, 0);
}

static int tmpfs_sweep(struct keep *keep, bool (*wanted)(void *arg, const struct keep_name *name),
		       void *arg, struct err *err)
{
	struct keep_tmpfs *k = tmpfs_of(keep);
	int fd = openat(k->dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	const struct dirent *entry;
	int n = 0;

	if (!dir) {
		int r = err_set(err, -errno, "%s: %s", k->path, strerror(errno));

		if (fd >= 0)
			close(fd);
		return r;
	}
	while ((entry = readdir(dir))) {
		struct keep_name name;
		bool is_key;
		bool is_new;

		if (!parse_name(entry->d_name, &name, &is_key))
			continue;
		is_new = strstr(entry->d_name, ".new");
		if (!is_new && wanted(arg, &name))
			continue;
		destroy_file(k, entry->d_name, is_key);
		n += is_key;
	}
	closedir(dir);
	return n;
}

static void tmpfs_free(struct keep *keep)
{
	struct keep_tmpfs *k = tmpfs_of(keep);

	close(k->dir);
	mem_free(k);
}

static const struct keep_ops tmpfs_ops = {
    .make = tmpfs_make,
    .open = tmpfs_open,
    .destroy_key = tmpfs_destroy_key,
    .close = tmpfs_close,
    .sweep = tmpfs_sweep,
    .free = tmpfs_free,
};

static int check_place(const struct keep_tmpfs_source *source, int fd, struct err *err)
{
	struct statfs fs;

	if (source->allow_disk)
		return 0;
	if (fstatfs(fd, &fs) < 0)
		return err_set(err, -errno, "key folder %s: %s", source->path, strerror(errno));
	if (fs.f_type == TMPFS_MAGIC || fs.f_type == RAMFS_MAGIC)
		return 0;
	return err_set(
	    err, -EINVAL,
	    "key folder %s is not on tmpfs: keys would outlast the host's power, and the "
	    "data with them; choose one on tmpfs (--key-dir /run/instance-stored or "
	    "/dev/shm/...), or say --allow-key-dir-on-disk for a test",
	    source->path);
}

static int make_and_open_dir(int at, const char *name, const char *path, struct err *err)
{
	int fd;

	if (mkdirat(at, name, 0700) < 0 && errno != EEXIST)
		return err_set(err, -errno, "key folder %s: making it: %s", path, strerror(errno));
	fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 ? err_set(err, -errno, "key folder %s: %s", path, strerror(errno)) : fd;
}

static int source_open(struct keep_source *s, struct id store, struct keep **ret_keep,
		       struct err *err)
{
	struct keep_tmpfs_source *source = container_of(s, struct keep_tmpfs_source, source);
	struct keep_tmpfs *k = mem_alloc(sizeof(*k));
	char uuid[ID_TEXT_MAX];
	int top;
	int r;

	if (!k)
		return err_set(err, -ENOMEM, "key folder %s: out of memory", source->path);
	*k =
	    (struct keep_tmpfs){.keep.ops = &tmpfs_ops, .store = store, .boot = s->boot, .dir = -1};
	snprintf(k->path, sizeof(k->path), "%s/%s", source->path, uuid_format(store, uuid));
	top = make_and_open_dir(AT_FDCWD, source->path, source->path, err);
	r = top < 0 ? top : check_place(source, top, err);
	if (r == 0) {
		k->dir = make_and_open_dir(top, uuid, k->path, err);
		r = k->dir < 0 ? k->dir : 0;
	}
	if (top >= 0)
		close(top);
	if (r == 0 && flock(k->dir, LOCK_EX | LOCK_NB) < 0)
		r = err_set(err, -EBUSY, "%s: another process has the keys of this store", k->path);
	if (r == 0) {
		*ret_keep = &k->keep;
		return 0;
	}
	if (k->dir >= 0)
		close(k->dir);
	mem_free(k);
	return r;
}

void keep_tmpfs_source_init(struct keep_tmpfs_source *source, const char *path, bool allow_disk)
{
	*source = (struct keep_tmpfs_source){
	    .source.open = source_open, .path = path, .allow_disk = allow_disk};
}

/* ---- Names of machine and boot ----------------------------------------------------- */

static int digit_of(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

int keep_read_id(const char *path, struct id *ret_id, struct err *err)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	char text[64] = "";
	ssize_t len = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	int r = len < 0 ? -errno : 0;
	struct id id = {0};
	unsigned n = 0;

	if (fd >= 0)
		close(fd);
	if (r < 0)
		return err_set(err, r, "%s, which names this machine: %s", path, strerror(-r));
	for (const char *c = text; *c && *c != '\n'; c++) {
		int digit = digit_of(*c);

		if (*c == '-')
			continue;
		if (digit < 0 || n == 32)
			return err_set(err, -EINVAL, "%s: these are not 32 hex digits", path);
		id.hi = id.hi << 4 | id.lo >> 60;
		id.lo = id.lo << 4 | (unsigned)digit;
		n++;
	}
	if (n != 32 || id_is_zero(id))
		return err_set(err, -EINVAL, "%s: these are not 32 hex digits", path);
	*ret_id = id;
	return 0;
}
