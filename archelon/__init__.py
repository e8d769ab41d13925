"""The command line, and the all-in-one that wires everything on one machine."""
