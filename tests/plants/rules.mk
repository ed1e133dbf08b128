# Planted bugs: each must be caught by a test. docs/testing.md.
check-plants: tests ## Plant known bugs, one at a time; each must be caught by a test
	tests/plants/run.sh $(PLANTS)

.PHONY: check-plants
