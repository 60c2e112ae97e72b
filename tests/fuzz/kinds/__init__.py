"""What is damaged: one file a kind, each with `prepare(base)`, `make(damage, base, folder)` and `IMPORTS`."""
