"""States, rules and requests: no I/O."""
