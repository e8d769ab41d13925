"""Descriptions of infrastructures in Occopus' words: read, check, plan.

In: a description's text with the files that came along, parameters, and what is seen on the platform. Out: the steps possible
now. `parsing` reads, `resolving` puts values in, `planning` compares; none of them calls out. What a node is made of is a
resource type (`resources`), found by entry point.
"""
