# The benchmark: its load generator, the packages it needs, and `make bench`.
BENCH      := $(wildcard bench/*.c)
BENCH_BASE := $(addprefix base/,check.c err.c mem.c size.c)
NBDLOAD    := $(BUILD)/bench/nbdload
# What is run, and the Debian package that brings it. No prefix: a command; / : a file.
BENCH_NEEDS := fio:fio nbdkit:nbdkit qemu-nbd:qemu-utils qemu-storage-daemon:qemu-system-common \
               nbd-server:nbd-server /usr/include/jansson.h:libjansson-dev

$(NBDLOAD): $(call obj,$(BENCH) $(BENCH_BASE))
	@mkdir -p $(@D)
	$(CC) $(ALL_LDFLAGS) -o $@ $^ -ljansson

# The header must be there before anything that includes it is compiled.
$(call obj,$(BENCH)): | bench-packages

bench-packages:
	@missing=; \
	for need in $(BENCH_NEEDS); do \
	  command -v "$${need%%:*}" >/dev/null || [ -e "$${need%%:*}" ] || \
	    missing="$$missing $${need##*:}"; \
	done; \
	[ -z "$$missing" ] || { \
	  echo "installing$$missing"; \
	  sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; \
	  $$sudo apt-get update -qq && \
	  $$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y \
	    --no-install-recommends $$missing; \
	}

# BENCH_DIR, BENCH_SIZE, BENCH_SECONDS, BENCH_ROUNDS and more: bench/README.md.
bench: all $(NBDLOAD) | bench-packages
	/usr/bin/python3 -B bench/run.py --nbdload $(NBDLOAD) --volumed $(BIN)/volumed

# The load generator against servers that behave, and servers that do not.
bench-check: $(NBDLOAD) | bench-packages
	/usr/bin/python3 -B bench/selftest.py $(NBDLOAD)

.PHONY: bench bench-check bench-packages
