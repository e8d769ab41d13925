"""The kinds, attribute names and constants that Archelon's services say to one another; nothing else."""
