"""Two real, small models on real questions: `make real`."""
