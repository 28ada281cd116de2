"""A package, so that what its fixtures have started ends with its last test."""
