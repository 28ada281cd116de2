"""The framework of the API: operations, reading requests, problems, OpenAPI."""
