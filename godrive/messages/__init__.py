"""The messages of each actor.  A module that imports a contract may send messages to that actor."""
