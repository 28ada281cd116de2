"""What is true of a drive: rules in SQL that both engines share.  A rule takes its message and a transaction."""
