"""Monitors deployed nodes, and notifies the orchestrator when a metric crosses a threshold."""
