# Tests with a real Linux guest in QEMU: tests/guest/test_*.py. `make check` runs them where their
# packages can be had; elsewhere they count as skipped.
SCRIPTS   += $(wildcard tests/guest/test_*.py)
GUEST     := scripts/setup.sh guest && /usr/bin/python3 tests/guest/image.py
TRY_GUEST := { $(GUEST); } || echo 'The tests with a guest will be skipped.'

check-guest: ## Only the tests with a Linux guest
	@scripts/setup.sh build test
	@$(GUEST)
	@$(SUBMAKE) all
	@VOLUMED=$(BIN)/volumed scripts/check.sh $(wildcard tests/guest/test_*.py)

guest-image: ## The guest's kernel and initramfs, in build/guest/
	@$(GUEST)

.PHONY: check-guest guest-image
