# The HTTP API. Its tests stand on a fake control/ of their own, and link no other.
API      := $(wildcard api/*.c)
LIBS_API := -lmicrohttpd -ljansson
API_TESTS := $(patsubst %,$(BUILD)/tests/test_%,api api_server)
UNIT_OWN += $(API_TESTS)

$(API_TESTS): $(BUILD)/tests/%: $(BUILD)/obj/tests/unit/%.o $(call obj,$(API) $(wildcard base/*.c))
	@mkdir -p $(@D)
	$(call say,LINK)
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS_CORE) $(LIBS_API) -lcmocka
