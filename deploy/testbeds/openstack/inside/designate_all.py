"""Runs Designate's central, worker, mdns, producer and api in one process, for the in-memory message bus.

Each start sets the pools from the file that DESIGNATE_POOLS names, because only this process reaches central.
"""
# ruff: noqa: E402 - eventlet comes first

import eventlet

eventlet.monkey_patch(os=False)
import os
import sys

import designate.conf
from designate import rpc, utils
from designate.api import service as api
from designate.central import service as central
from designate.manage import pool
from designate.mdns import service as mdns
from designate.producer import service as producer
from designate.worker import service as worker
from oslo_log import log
from oslo_service import service as oslo_service

CONF = designate.conf.CONF
CONF.import_group("keystone_authtoken", "keystonemiddleware.auth_token")
utils.read_config("designate", sys.argv)
log.setup(CONF, "designate")
rpc.init(CONF)
launcher = oslo_service.ServiceLauncher(CONF)
for module in (central, worker, mdns, producer):
    launcher.launch_service(module.Service())
# Wait until central listens.
eventlet.sleep(1)
pool.PoolCommands().update(os.environ["DESIGNATE_POOLS"], delete=False)
launcher.launch_service(api.Service())
launcher.wait()
