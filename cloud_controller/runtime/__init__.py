"""Measures what was deployed, and tells its orchestrator when a measure crosses a line."""
