"""Long runs that break things at random instants; `make chaos`. Not among the tests' paths."""
