"""The drive and what is outside of its process: actors elsewhere, bucket events in, domain events out.

A module that needs NATS is imported only where NATS is configured.
"""
