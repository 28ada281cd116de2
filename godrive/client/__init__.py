"""A client of a running server, over its HTTP API: what ``godrive ls``, ``put`` and ``get`` use."""
