"""The wire: the server, its connections, bodies in and out."""
