"""The deploy module: applications (orchestrators) and stacks (virtual resources made from one template in one region)."""
