"""What may be said to each actor.  Importing a contract is the right to talk to that actor."""
