# Each target builds twice: with a plain driver, for every compiler and `make check`; and with
# libFuzzer, by clang, for long runs.
FUZZ      := $(wildcard tests/fuzz/fuzz_*.c)
FUZZ_BINS := $(patsubst tests/fuzz/%.c,$(BUILD)/tests/%,$(FUZZ))
FUZZ_RUNS ?= 200000
FUZZ_SECONDS ?= 60

$(FUZZ_BINS): $(BUILD)/tests/%: $(BUILD)/obj/tests/fuzz/%.o \
              $(call obj,tests/fuzz/driver.c $(CORE) $(REAL))
	@mkdir -p $(@D)
	$(call say,LINK)
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS_REAL)

build/fuzz/%: tests/fuzz/%.c $(CORE) $(REAL)
	@mkdir -p $(@D)
	$(call say,FUZZ)
	$(Q)clang -std=c11 -g -O1 -I. -D_GNU_SOURCE -pthread -fsanitize=fuzzer,address,undefined \
	      -fno-sanitize-recover=all -o $@ $^ $(LIBS_REAL)

check-fuzz: $(FUZZ_BINS) ## every fuzz target, a fixed number of deterministic mutations
	@for f in $(FUZZ_BINS); do \
		$$f $(FUZZ_RUNS) tests/fuzz/corpus/$${f##*/fuzz_}/* || exit 1; \
	done

soak-fuzz: $(patsubst tests/fuzz/%.c,build/fuzz/%,$(FUZZ)) ## every fuzz target under libFuzzer
	@for f in $^; do \
		mkdir -p build/fuzz/corpus/$${f##*/}; \
		$$f -max_total_time=$(FUZZ_SECONDS) -timeout=10 build/fuzz/corpus/$${f##*/} \
		    tests/fuzz/corpus/$${f##*/fuzz_} || exit 1; \
	done

.PHONY: check-fuzz soak-fuzz
