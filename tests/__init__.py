"""A package, so that pytest imports the modules of tests/clients, which is one, by their full names."""
