# Each target builds twice: with a plain driver, for every compiler and `make check`; and with
# libFuzzer, by clang, for long runs.
FUZZ      := $(wildcard tests/fuzz/fuzz_*.c)
# What runs on the simulated machine.
FUZZ_SIM  := tests/fuzz/fuzz_nbd_conversation.c
FUZZ_MORE := api/request.c api/error.c api/routes.c api/render.c volumed/config.c volumed/settings.c \
	     instance-stored/route.c $(ISTORE)
LIBS_FUZZ := $(LIBS_REAL) -ljansson -linih $(LIBS_ISTORE)
FUZZ_BINS := $(patsubst tests/fuzz/%.c,$(BUILD)/tests/%,$(FUZZ))
FUZZ_SIM_BINS := $(patsubst tests/fuzz/%.c,$(BUILD)/tests/%,$(FUZZ_SIM))

$(filter-out $(FUZZ_SIM_BINS),$(FUZZ_BINS)): $(BUILD)/tests/%: $(BUILD)/obj/tests/fuzz/%.o \
              $(call obj,tests/fuzz/driver.c $(FUZZ_MORE) $(CORE) $(REAL))
	@mkdir -p $(@D)
	$(call say,LINK)
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS_FUZZ)

$(FUZZ_SIM_BINS): $(BUILD)/tests/%: $(BUILD)/obj/tests/fuzz/%.o \
              $(call obj,tests/fuzz/driver.c $(CORE_ON_FAKE) $(FAKE))
	@mkdir -p $(@D)
	$(call say,LINK)
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS_CORE)

FUZZ_CLANG = clang -std=c11 -g -O1 -I. -D_GNU_SOURCE -pthread -fsanitize=fuzzer,address,undefined \
	      -fno-sanitize-recover=all -o $@ $^
$(patsubst tests/fuzz/%.c,build/fuzz/%,$(FUZZ_SIM)): build/fuzz/%: tests/fuzz/%.c \
		$(CORE_ON_FAKE) $(FAKE)
	@mkdir -p $(@D)
	$(call say,FUZZ)
	$(Q)$(FUZZ_CLANG) $(LIBS_CORE)

build/fuzz/%: tests/fuzz/%.c $(FUZZ_MORE) $(CORE) $(REAL)
	@mkdir -p $(@D)
	$(call say,FUZZ)
	$(Q)$(FUZZ_CLANG) $(LIBS_FUZZ)
