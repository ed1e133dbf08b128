# The benchmark: its load generator, and `make bench`.
BENCH      := $(wildcard bench/*.c)
BENCH_BASE := $(addprefix base/,check.c err.c mem.c size.c)
NBDLOAD    := $(BUILD)/bench/nbdload

$(NBDLOAD): $(call obj,$(BENCH) $(BENCH_BASE))
	@mkdir -p $(@D)
	$(call say,LINK)
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^ -ljansson

# What a snapshot costs a busy volume: build/release/bench/cutload FILE (bench/README.md).
CUTLOAD := $(BUILD)/bench/cutload

$(CUTLOAD): $(call obj,bench/snapshot/cutload.c bench/hist.c $(CORE) $(REAL))
	@mkdir -p $(@D)
	$(call say,LINK)
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS_REAL)

# BENCH_FORM=quick|usual|full, BENCH_DIR, BENCH_SIZE and more: bench/README.md.
bench:
	@scripts/setup.sh build bench
	@$(SUBMAKE) all $(NBDLOAD)
	/usr/bin/python3 -B bench/run.py --nbdload $(NBDLOAD) --volumed $(BIN)/volumed

# What garbage collection costs: BENCH_GC_SIZE, BENCH_GC_FULL, BENCH_GC_PATTERNS.
bench-gc:
	@scripts/setup.sh build bench
	@$(SUBMAKE) all $(NBDLOAD)
	/usr/bin/python3 -B bench/gc.py --nbdload $(NBDLOAD) --volumed $(BIN)/volumed \
		--volumectl $(BIN)/volumectl

# Many volumes, recovery, a map larger than its memory: BENCH_FORM=quick, BENCH_PUBLISH.
bench-many bench-recovery bench-map: bench-%:
	@scripts/setup.sh build bench
	@$(SUBMAKE) all $(NBDLOAD)
	/usr/bin/python3 -B bench/$(or $(BENCH_OWN_$*),$*).py --nbdload $(NBDLOAD) \
		--volumed $(BIN)/volumed

BENCH_OWN_many := many_volumes

# The load generator against servers that behave, and servers that do not.
bench-check:
	@scripts/setup.sh build bench
	@$(SUBMAKE) $(NBDLOAD)
	/usr/bin/python3 -B bench/selftest.py $(NBDLOAD)

.PHONY: bench bench-gc bench-many bench-recovery bench-map bench-check

# Snapshots: BENCH_FORM=quick, BENCH_PUBLISH. The first program is the repository without a daemon.
BENCH_REPOSITORY := $(BUILD)/bench/repository
$(BENCH_REPOSITORY): $(call obj,bench/repository/repository.c $(CORE) $(REAL))
	@mkdir -p $(@D)
	$(call say,LINK)
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS_REAL)

bench-repository: ## Measure snapshots, their upload, restore and deletion
	@scripts/setup.sh build bench
	@$(SUBMAKE) all $(NBDLOAD) $(BENCH_REPOSITORY)
	/usr/bin/python3 -B bench/repository.py --nbdload $(NBDLOAD) --volumed $(BIN)/volumed \
		--repository $(BENCH_REPOSITORY)

.PHONY: bench-repository
