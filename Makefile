# volumed. `make help` lists the targets.
MODE   ?= release
BUILD  := build/$(MODE)
BIN    := $(if $(filter release,$(MODE)),build/bin,$(BUILD)/bin)
PREFIX ?= /usr/local
CFLAGS ?= -O2 -g
WARN   := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla \
          -Wformat=2 -Wimplicit-fallthrough -Wswitch-enum $(if $(WERROR),-Werror)
MODE_release :=
MODE_lint    :=
MODE_asan    := -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
MODE_tsan    := -fsanitize=thread -fno-omit-frame-pointer
MODE_cov     := --coverage -O0
# V=1 shows the commands.
Q    := $(if $(V),,@)
say   = $(if $(V),@:,@printf '  %-5s %s\n' $(1) '$@')
ALL_CPPFLAGS  = -I. -D_GNU_SOURCE $(CPPFLAGS)
ALL_CFLAGS    = -std=c11 -pthread $(WARN) $(MODE_$(MODE)) $(CFLAGS)
ALL_LDFLAGS   = -pthread $(MODE_$(MODE)) $(LDFLAGS)

VERSION := 0.1.0
COMMIT  := $(shell git describe --always --dirty 2>/dev/null)

# What runs on any machine, and what stands below it: the real one or the simulated one.
CORE  := $(wildcard base/*.c block/*.c store/*.c engine/*.c snapshots/*.c nbd/*.c)
# What needs SQLite besides.
PLANE := $(wildcard metadata/*.c control/*.c)
REAL  := io/io_uring.c $(filter-out io/io_uring.c,$(wildcard io/*.c))
FAKE  := $(wildcard tests/sim/machine/*.c)
# The simulated machine counts its own memory, so that a power cut frees what a daemon held.
CORE_ON_FAKE := $(filter-out base/mem.c,$(CORE))
DAEMON := $(wildcard volumed/*.c)
UNIT  := $(wildcard tests/unit/test_*.c)
SIMT  := $(wildcard tests/sim/test_*.c)
SIM   := $(filter-out $(SIMT),$(wildcard tests/sim/*.c))
LIBS_CORE := -lisal -lcrypto
LIBS_REAL := -luring $(LIBS_CORE)
LIBS_PLANE := -lsqlite3
# The instance store: a library beside the engine, of which volumed has nothing.
ISTORE := $(wildcard instance-store/*.c)
LIBS_ISTORE := -lgnutls

obj = $(patsubst %.c,$(BUILD)/obj/%.o,$(1))
UNIT_BINS := $(patsubst tests/unit/%.c,$(BUILD)/tests/%,$(UNIT))
SIMT_BINS := $(patsubst tests/sim/%.c,$(BUILD)/tests/sim_%,$(SIMT))
SCRIPTS   := $(wildcard tests/*/test_*.sh tests/e2e/test_*.py)
.DEFAULT_GOAL := all
# What a folder brings of its own: programs, and targets for `make help`.
-include $(wildcard */rules.mk tests/*/rules.mk)
TEST_BINS := $(UNIT_BINS) $(SIMT_BINS) $(FUZZ_BINS)
LIBFUZZER := $(patsubst tests/fuzz/%.c,build/fuzz/%,$(FUZZ))
# A sub-make builds on all cores, unless -j was given.
JOBS       = $(if $(findstring -j,$(MAKEFLAGS)),,-j$(shell nproc))
SUBMAKE    = $(MAKE) --no-print-directory $(JOBS)

all: $(BIN)/volumed ## Build the programs into build/bin/ (the default)

$(BIN)/volumed: $(call obj,$(DAEMON) $(API) $(PLANE) $(CORE) $(REAL))
	@mkdir -p $(@D)
	$(call say,LINK)
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS_REAL) $(LIBS_PLANE) $(LIBS_API) \
		-lsystemd -linih

$(filter-out $(UNIT_OWN),$(UNIT_BINS)): $(BUILD)/tests/%: $(BUILD)/obj/tests/unit/%.o \
              $(call obj,$(PLANE) $(ISTORE) $(CORE) $(REAL))
	@mkdir -p $(@D)
	$(call say,LINK)
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS_REAL) $(LIBS_PLANE) $(LIBS_ISTORE) -lcmocka

# Tests on the simulated machine.
$(SIMT_BINS): $(BUILD)/tests/sim_%: $(BUILD)/obj/tests/sim/%.o \
		$(call obj,$(SIM) $(PLANE) $(ISTORE) $(CORE_ON_FAKE) $(FAKE))
	@mkdir -p $(@D)
	$(call say,LINK)
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS_CORE) $(LIBS_PLANE) $(LIBS_ISTORE) -lcmocka

$(BUILD)/obj/%.o: %.c $(BUILD)/flags
	@mkdir -p $(@D)
	$(call say,CC)
	$(Q)$(CC) $(ALL_CPPFLAGS) $(ALL_CFLAGS) -MMD -MP -c -o $@ $<

# Rewritten only when what is in it changes.
same_or_write = mkdir -p $(@D); echo '$(1)' | cmp -s - $@ || echo '$(1)' > $@
$(BUILD)/flags: FORCE
	@$(call same_or_write,$(CC) $(ALL_CPPFLAGS) $(ALL_CFLAGS))
$(BUILD)/version: FORCE
	@$(call same_or_write,$(VERSION) $(COMMIT))
$(BUILD)/obj/volumed/main.o: $(BUILD)/version
$(BUILD)/obj/volumed/main.o: CPPFLAGS += \
	-DVOLUMED_VERSION='"$(VERSION)$(if $(COMMIT), ($(COMMIT)))"'

tests: all $(TEST_BINS) $(NBD_RAM)
fuzzers: $(LIBFUZZER)
objects: $(call obj,$(DAEMON) $(API) $(CLI) $(PLANE) $(ISTORE) $(ISTORED) $(CORE) $(REAL) $(FAKE) $(SIM) \
         $(wildcard bench/*.c bench/*/*.c tests/*/*.c))

setup: ## Install the Debian packages that are missing, for all targets
	@scripts/setup.sh build test lint bench fuzz

DATA_DIR   ?= data
NBD_LISTEN ?= 127.0.0.1:10809
run: ## Set up, build, and serve a disk from DATA_DIR (./data); Ctrl-C stops it
	@scripts/setup.sh build
	@$(SUBMAKE) all
	@exec $(BIN)/volumed --data-dir '$(DATA_DIR)' --nbd-listen '$(NBD_LISTEN)' --hints $(ARGS)

check: ## Set up, build, and run the tests: unit, simulator, fuzz (short), end to end
	@scripts/setup.sh build test
	@$(SUBMAKE) tests
	@$(TRY_GUEST)
	@MODE=$(MODE) VOLUMED=$(BIN)/volumed scripts/check.sh $(TEST_BINS) \
		$(SCRIPTS) 'tests/nbd/check $(NBD_RAM)'

SOAK_SEEDS ?= 5000
SOAK_FUZZ_SECONDS ?= 600
soak: ## The long tests: thousands of simulator seeds, 200 kill rounds, ten minutes a fuzzer
	@scripts/setup.sh build test fuzz
	@$(SUBMAKE) tests fuzzers
	@$(TRY_GUEST)
	@MODE=$(MODE) VOLUMED=$(BIN)/volumed SOAK=1 SIM_SEEDS=$(SOAK_SEEDS) \
		KILL_ROUNDS=200 FUZZ_SECONDS=$(SOAK_FUZZ_SECONDS) CHECK_TIMEOUT=14400 \
		scripts/check.sh $(TEST_BINS) $(LIBFUZZER) $(SCRIPTS) 'tests/nbd/check $(NBD_RAM)'

# What .ci/run adds to `make check`. Under ASan and UBSan: every program, with few seeds; of the
# power-cut loops, which take long, each seventh point. Under TSan: what has threads.
ASAN_BINS  = $(subst $(BUILD)/,build/asan/,$(TEST_BINS))
TSAN_NAMES = $(notdir $(wildcard tests/unit/test_io_*.c tests/unit/test_store_*.c \
             tests/unit/test_snapshots_*.c)) test_api_server.c
TSAN_BINS  = $(patsubst %.c,build/tsan/tests/%,$(TSAN_NAMES))
check-sanitizers: ## What pays under sanitizers: parsers, protocol, few seeds; threads under TSan
	@scripts/setup.sh build test
	@$(SUBMAKE) MODE=asan tests
	@$(SUBMAKE) MODE=tsan all build/tsan/tests/nbd_ram $(TSAN_BINS)
	@SIM_SEEDS_MAX=5 SIM_STRIDE=7 FUZZ_RUNS=20000 scripts/check.sh $(ASAN_BINS) \
		'tests/nbd/check build/asan/tests/nbd_ram'
	@VOLUMED=build/tsan/bin/volumed KILL_ROUNDS=2 scripts/check.sh $(TSAN_BINS) \
		'tests/nbd/check build/tsan/tests/nbd_ram' $(addprefix tests/e2e/test_,stop.py kill.py \
		activation.py cli_http.sh instance_store.py)

check-asan: ## The tests under AddressSanitizer and UndefinedBehaviorSanitizer
	@$(MAKE) --no-print-directory MODE=asan check

check-tsan: ## The tests under ThreadSanitizer
	@$(MAKE) --no-print-directory MODE=tsan check

fuzz: ## Run the fuzz targets under libFuzzer, FUZZ_SECONDS (60) each, or only T=fuzz_name
	@scripts/setup.sh build fuzz
	@$(SUBMAKE) fuzzers
	@FUZZ_SECONDS=$(FUZZ_SECONDS) CHECK_TIMEOUT=14400 scripts/check.sh \
		$(if $(T),build/fuzz/$(T),$(LIBFUZZER))

lint: ## Layers, sizes, banned calls, format, warnings, shellcheck, man pages
	@scripts/setup.sh build test lint
	@$(SUBMAKE) MODE=lint WERROR=1 objects
	@scripts/lint.sh

tidy: ## clang-tidy over all sources (minutes; what did not change is not looked at again)
	@scripts/setup.sh build test lint
	@scripts/clang-tidy.sh

format: ## Rewrite the sources with clang-format
	@scripts/setup.sh lint
	git ls-files -co --exclude-standard '*.c' '*.h' | xargs clang-format -i

UNITDIR ?= $(or $(shell pkg-config --variable=systemdsystemunitdir systemd 2>/dev/null),\
	$(PREFIX)/lib/systemd/system)
SYSCONFDIR ?= /etc
SUBST    = sed -e 's,@SBINDIR@,$(PREFIX)/sbin,g' -e 's,@SYSCONFDIR@,$(SYSCONFDIR),g'
MAN      = $(DESTDIR)$(PREFIX)/share/man
UNITS    = $(patsubst packaging/%.in,%,$(wildcard packaging/*.in))
CONFIG   = $(DESTDIR)$(SYSCONFDIR)/volumed/volumed.conf
install: all ## Install into DESTDIR with PREFIX (/usr/local)
	install -D -m 755 $(BIN)/volumed $(DESTDIR)$(PREFIX)/sbin/volumed
	install -D -m 755 $(BIN)/volumectl $(DESTDIR)$(PREFIX)/bin/volumectl
	install -D -m 755 $(BIN)/instance-stored $(DESTDIR)$(PREFIX)/sbin/instance-stored
	install -D -m 644 man/volumectl.1 $(MAN)/man1/volumectl.1
	install -D -m 644 man/volumed.conf.5 $(MAN)/man5/volumed.conf.5
	install -D -m 644 man/volumed.8 $(MAN)/man8/volumed.8
	install -D -m 644 man/instance-stored.8 $(MAN)/man8/instance-stored.8
	install -d $(DESTDIR)$(PREFIX)/share/bash-completion/completions
	$(BIN)/volumectl completion bash \
		> $(DESTDIR)$(PREFIX)/share/bash-completion/completions/volumectl
	@# What the admin has changed stays.
	[ -e $(CONFIG) ] || install -D -m 644 packaging/volumed.conf $(CONFIG)
	install -d $(DESTDIR)$(UNITDIR)
	for unit in $(UNITS); do \
		$(SUBST) packaging/$$unit.in > $(DESTDIR)$(UNITDIR)/$$unit && \
		chmod 644 $(DESTDIR)$(UNITDIR)/$$unit || exit 1; done
	install -D -m 644 packaging/volumed.sysusers $(DESTDIR)$(PREFIX)/lib/sysusers.d/volumed.conf
	install -D -m 644 packaging/instance-stored.sysusers \
		$(DESTDIR)$(PREFIX)/lib/sysusers.d/instance-stored.conf

# Its recipe is in bench/rules.mk.
bench: ## Compare with other NBD servers and the raw disk (bench/README.md)

clean: ## Remove what was built (data/ stays)
	rm -rf build compile_commands.json

help: ## This list
	@echo 'Targets of volumed:'
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' $(filter-out %.d,$(MAKEFILE_LIST)) | sort | \
		while IFS="$$(printf '\t')" read -r name what; do printf '  %-17s %s\n' \
		"$$name" "$$what"; done
	@echo 'Variables: MODE=release|asan|tsan|cov, CFLAGS, WERROR=1, V=1, DATA_DIR, NBD_LISTEN,'
	@echo '  ARGS, PREFIX, DESTDIR, KILL_ROUNDS, SIM_SEEDS, NO_SETUP=1 (install no packages).'

.PHONY: all tests fuzzers objects setup run check soak check-sanitizers check-asan check-tsan fuzz lint tidy format \
	install clean help FORCE
.DELETE_ON_ERROR:
-include $(shell find $(BUILD)/obj -name '*.d' 2>/dev/null)
