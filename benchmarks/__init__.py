"""What docs/benchmarks.md reports; each module is run by one `make bench-…`."""
