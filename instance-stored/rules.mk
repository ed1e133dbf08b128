# instance-stored: the instance store's daemon, and the commands that use one. It is linked with
# volumed's sockets and signals, and with nothing of the log engine.
ISTORED := $(wildcard instance-stored/*.c) volumed/sockets.c volumed/signals.c
LIBS_ISTORED := $(LIBS_ISTORE) -luring -lisal -lmicrohttpd -ljansson -lcurl -lsystemd
ISTORED_CORE := $(wildcard base/*.c block/*.c nbd/*.c)

all: $(BIN)/instance-stored

$(BIN)/instance-stored: $(call obj,$(ISTORED) $(wildcard instance-store/*.c) $(ISTORED_CORE) $(REAL))
	@mkdir -p $(@D)
	$(call say,LINK)
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS_ISTORED)

$(call obj,instance-stored/main.c): $(BUILD)/version
$(call obj,instance-stored/main.c): CPPFLAGS += \
	-DVOLUMED_VERSION='"$(VERSION)$(if $(COMMIT), ($(COMMIT)))"'

# What the encryption of the instance store costs: the same daemon with and without. The one without
# is for this alone. BENCH_DIR, BENCH_SECONDS.
ISTORE_PLAIN := $(BUILD)/bench/instance-stored-plain
$(ISTORE_PLAIN): $(call obj,$(ISTORED) $(filter-out instance-store/xts.c,$(ISTORE)) \
		bench/instance_store/plain_xts.c $(ISTORED_CORE) $(REAL))
	@mkdir -p $(@D)
	$(call say,LINK)
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS_ISTORED)

bench-instance-store: ## Measure the instance store, with its encryption and without
	@scripts/setup.sh build bench
	@$(SUBMAKE) all $(NBDLOAD) $(ISTORE_PLAIN)
	/usr/bin/python3 -B bench/instance_store.py --nbdload $(NBDLOAD) \
		--daemon $(BIN)/instance-stored --plain $(ISTORE_PLAIN)

.PHONY: bench-instance-store
