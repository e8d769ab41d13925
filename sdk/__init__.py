"""What an author of orchestrators imports."""
