"""Descriptions of infrastructures in Occopus' language: parse, check, plan.

Input: a description's text and files, parameters, and the observed state of the platform. Output: the steps possible now.
`parsing` reads, `resolving` substitutes values, `planning` compares; none of them performs I/O. A node is made of a resource type
(`resources`), found by entry point.
"""
