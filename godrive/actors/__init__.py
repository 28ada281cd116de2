"""The actors.  A module here imports the contracts of other actors, never the actors themselves."""
