"""What the actors do.  A module here imports contracts of other actors, never the actors themselves."""
