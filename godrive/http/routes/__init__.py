"""The HTTP routes, one module for each resource.  A route parses the request, asks an actor and renders the reply."""
