"""The service manager: a catalogue of services, and the life of every instance ordered of them."""
