"""The catalogue of services, delegations, and the validation of manifests and templates."""
