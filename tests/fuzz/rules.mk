# Each target builds twice: with a plain driver, for every compiler and `make check`; and with
# libFuzzer, by clang, for long runs.
FUZZ      := $(wildcard tests/fuzz/fuzz_*.c)
FUZZ_MORE := api/request.c api/error.c api/routes.c api/render.c volumed/config.c volumed/settings.c
LIBS_FUZZ := $(LIBS_REAL) -ljansson -linih
FUZZ_BINS := $(patsubst tests/fuzz/%.c,$(BUILD)/tests/%,$(FUZZ))

$(FUZZ_BINS): $(BUILD)/tests/%: $(BUILD)/obj/tests/fuzz/%.o \
              $(call obj,tests/fuzz/driver.c $(FUZZ_MORE) $(CORE) $(REAL))
	@mkdir -p $(@D)
	$(call say,LINK)
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS_FUZZ)

build/fuzz/%: tests/fuzz/%.c $(FUZZ_MORE) $(CORE) $(REAL)
	@mkdir -p $(@D)
	$(call say,FUZZ)
	$(Q)clang -std=c11 -g -O1 -I. -D_GNU_SOURCE -pthread -fsanitize=fuzzer,address,undefined \
	      -fno-sanitize-recover=all -o $@ $^ $(LIBS_FUZZ)
