# volumed. `make help` lists the targets.
MODE   ?= release
BUILD  := build/$(MODE)
BIN    := $(if $(filter release,$(MODE)),build/bin,$(BUILD)/bin)
PREFIX ?= /usr/local
CFLAGS ?= -O2 -g
WARN   := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla \
          -Wformat=2 -Wimplicit-fallthrough -Wswitch-enum $(if $(WERROR),-Werror)
MODE_release :=
MODE_asan    := -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
MODE_tsan    := -fsanitize=thread -fno-omit-frame-pointer
MODE_cov     := --coverage -O0
ALL_CPPFLAGS  = -I. -D_GNU_SOURCE $(CPPFLAGS)
ALL_CFLAGS    = -std=c11 -pthread $(WARN) $(MODE_$(MODE)) $(CFLAGS)
ALL_LDFLAGS   = -pthread $(MODE_$(MODE)) $(LDFLAGS)

# What runs on any machine, and what stands below it: the real one or the simulated one.
CORE  := $(wildcard base/*.c block/*.c store/*.c engine/*.c nbd/*.c)
REAL  := io/io_uring.c $(filter-out io/io_uring.c,$(wildcard io/*.c))
FAKE  := $(wildcard tests/sim/machine/*.c)
# The simulated machine counts its own memory, so that a power cut frees what a daemon held.
CORE_ON_FAKE := $(filter-out base/mem.c,$(CORE))
DAEMON := $(wildcard volumed/*.c)
UNIT  := $(wildcard tests/unit/test_*.c)
SIMT  := $(wildcard tests/sim/test_*.c)
SIM   := $(filter-out $(SIMT),$(wildcard tests/sim/*.c))
LIBS_CORE := -lisal
LIBS_REAL := -luring $(LIBS_CORE)

obj = $(patsubst %.c,$(BUILD)/obj/%.o,$(1))
UNIT_BINS := $(patsubst tests/unit/%.c,$(BUILD)/tests/%,$(UNIT))
SIMT_BINS := $(patsubst tests/sim/%.c,$(BUILD)/tests/sim_%,$(SIMT))

all: $(BIN)/volumed

$(BIN)/volumed: $(call obj,$(DAEMON) $(CORE) $(REAL))
	@mkdir -p $(@D)
	$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS_REAL) -lsystemd

$(UNIT_BINS): $(BUILD)/tests/%: $(BUILD)/obj/tests/unit/%.o $(call obj,$(CORE) $(REAL))
	@mkdir -p $(@D)
	$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS_REAL) -lcmocka

# Tests on the simulated machine.
$(SIMT_BINS): $(BUILD)/tests/sim_%: $(BUILD)/obj/tests/sim/%.o $(call obj,$(SIM) $(CORE_ON_FAKE) $(FAKE))
	@mkdir -p $(@D)
	$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS_CORE) -lcmocka

$(BUILD)/obj/%.o: %.c $(BUILD)/flags
	@mkdir -p $(@D)
	$(CC) $(ALL_CPPFLAGS) $(ALL_CFLAGS) -MMD -MP -c -o $@ $<

$(BUILD)/flags: FORCE
	@mkdir -p $(@D)
	@echo '$(CC) $(ALL_CPPFLAGS) $(ALL_CFLAGS)' | cmp -s - $@ || \
	 echo '$(CC) $(ALL_CPPFLAGS) $(ALL_CFLAGS)' > $@

-include bench/rules.mk

.PHONY: all FORCE
-include tests/*/rules.mk
-include $(shell find $(BUILD)/obj -name '*.d' 2>/dev/null)
