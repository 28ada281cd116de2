"""The routes, one module for each resource: parse, ask, render."""
