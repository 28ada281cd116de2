"""What is seen of requests from outside: request ids, metrics, the request log."""
