"""The HTTP edge: parses, asks, renders.  It speaks to actors by messages alone."""
