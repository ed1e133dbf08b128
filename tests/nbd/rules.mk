# nbd_ram serves RAM disks for the protocol tests.
NBD_RAM := $(BUILD)/tests/nbd_ram

$(NBD_RAM): $(call obj,tests/nbd/nbd_ram.c $(CORE) $(REAL))
	@mkdir -p $(@D)
	$(call say,LINK)
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS_REAL)

check-nbd: $(NBD_RAM) ## the NBD protocol tests, against nbd_ram
	tests/nbd/check '$(abspath $(NBD_RAM))'

.PHONY: check-nbd
