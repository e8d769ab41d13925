"""From an order to its end: the planner, the reconciler that takes its steps, and the history."""
