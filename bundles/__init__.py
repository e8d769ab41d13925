"""Bundles: the manifest model, service graphs, safe rendering of templates, packing by digest."""
