"""Observation of requests: request ids, metrics, and the request log."""
