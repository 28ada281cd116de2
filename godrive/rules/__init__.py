"""The rules of a drive, in SQL for both engines.  A rule takes a transaction and a message."""
