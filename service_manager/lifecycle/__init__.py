"""The lifecycle of instances: the planner, the reconciler that carries out its steps, and the history."""
