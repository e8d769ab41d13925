"""What the five modules share: rows of resources, bases of backends and handlers, notifications of orchestrators."""
