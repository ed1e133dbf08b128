# instance-stored: the instance store's daemon, and the commands that use one. It is linked with
# volumed's sockets and signals, and with nothing of the log engine.
ISTORED := $(wildcard instance-stored/*.c) volumed/sockets.c volumed/signals.c
ISTORED_CORE := $(wildcard base/*.c block/*.c nbd/*.c)

all: $(BIN)/instance-stored

$(BIN)/instance-stored: $(call obj,$(ISTORED) $(wildcard instance-store/*.c) $(ISTORED_CORE) $(REAL))
	@mkdir -p $(@D)
	$(call say,LINK)
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^ -lgnutls -luring -lisal -lmicrohttpd -ljansson -lcurl \
		-lsystemd

$(call obj,instance-stored/main.c): $(BUILD)/version
$(call obj,instance-stored/main.c): CPPFLAGS += \
	-DVOLUMED_VERSION='"$(VERSION)$(if $(COMMIT), ($(COMMIT)))"'
