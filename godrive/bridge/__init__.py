"""The drive and NATS: actors elsewhere, bucket events in, domain events out.  Imported only where it is configured."""
