# Tests of the daemon's own parts.
CONFIG_TESTS := $(BUILD)/tests/test_config
UNIT_OWN += $(CONFIG_TESTS)

$(CONFIG_TESTS): $(BUILD)/tests/%: $(BUILD)/obj/tests/unit/%.o \
		$(call obj,volumed/config.c volumed/settings.c $(wildcard base/*.c))
	@mkdir -p $(@D)
	$(call say,LINK)
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS_CORE) -linih -lcmocka
