"""Platforms: implementations of the modules' ports, which create the virtual resources."""
