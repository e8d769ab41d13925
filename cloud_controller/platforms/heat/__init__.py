"""Heat as a platform: stacks of HOT templates in tenants' own projects. `factory.open_heat` is its entry point."""
