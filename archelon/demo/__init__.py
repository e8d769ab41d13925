"""The demo: a whole service lifecycle, step by step. Each step prints what it does, sends plain requests and checks the result.

`stage` contains the all-in-one and prints the requests, `scenarios` defines the services to order, `steps` the steps, and
`remains` checks that nothing is left.
"""
