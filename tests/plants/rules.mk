# Planted bugs: each must be caught by a test of the simulator. docs/testing.md.
check-plants: tests ## Plant known bugs, one at a time; each must be caught by the simulator
	tests/plants/run.sh $(PLANTS)

.PHONY: check-plants
