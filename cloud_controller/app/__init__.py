"""The cloud controller's processes: settings to dependencies, the web applications, the worker."""
