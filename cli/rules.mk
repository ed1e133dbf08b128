# volumectl, and what is made of its tables.
CLI := $(wildcard cli/*.c)
LIBS_CLI := -lcurl -ljansson -lcrypto

all: $(BIN)/volumectl

$(BIN)/volumectl: $(call obj,$(CLI) $(wildcard base/*.c))
	@mkdir -p $(@D)
	$(call say,LINK)
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS_CORE) $(LIBS_CLI)

$(call obj,cli/main.c cli/client.c): $(BUILD)/version
$(call obj,cli/main.c cli/client.c): CPPFLAGS += \
	-DVOLUMED_VERSION='"$(VERSION)$(if $(COMMIT), ($(COMMIT)))"'

man: $(BIN)/volumectl ## Write the commands of volumectl into its man page
	@scripts/man.sh $(BIN)/volumectl man/volumectl.1

.PHONY: man

CLI_TESTS := $(BUILD)/tests/test_cli
UNIT_OWN += $(CLI_TESTS)

$(CLI_TESTS): $(BUILD)/tests/%: $(BUILD)/obj/tests/unit/%.o \
		$(call obj,$(filter-out cli/main.c,$(CLI)) $(wildcard base/*.c))
	@mkdir -p $(@D)
	$(call say,LINK)
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS_CORE) $(LIBS_CLI) -lcmocka
