"""A host: one process for the orchestrators of many instances, `python -m sdk.host shared` or `forked`.

The platform states in files which instances a host serves; the host reports in files what runs. Nothing else connects the two, so
either may be killed at any moment, and its successor reads the same files. In the current directory:

    orders/<instance>.json      the platform's, replaced atomically: {"environment": {…}, "bundle": "/its/directory"}. While it is
                                present, the instance is served; if it changes, the instance is started again.
    states/<instance>.json      the host's: {"state", "order", "message", "restarts", "since"}, until nothing of the instance runs
    logs/<instance>/<position>  the host's: the instance's output (`archelon_core.log_segments`)
    host.sock                   the host's: any datagram means that `orders/` has changed; the host also looks once a minute

`shared` serves orchestrators without code of their own, of all tenants, within one process, each at `/<instance>/`. `forked` is
for a bundle with code, and one tenant: each instance has a process of its own, forked from one that has imported the SDK, which
serves like `sdk.serve`.
"""
