"""Connects the drive to other processes: actors elsewhere, bucket events in, domain events out.

Modules that need NATS are imported only where NATS is configured.
"""
