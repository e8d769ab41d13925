"""Platforms implement the ports of the five modules: where virtual resources really come from."""
