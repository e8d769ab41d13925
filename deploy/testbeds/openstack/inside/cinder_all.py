"""Runs Cinder's api, scheduler and volume service in one process, for the in-memory message bus."""
# ruff: noqa: E402, I001 - the order of Cinder's own programs

import eventlet

eventlet.monkey_patch()
import __original_module_threading as original_threading
import threading

original_threading.current_thread.__globals__["_active"] = threading._active
import sys

from oslo_config import cfg
from oslo_log import log
from oslo_service import service as oslo_service

from cinder import i18n

i18n.enable_lazy()
from cinder import coordination, objects, rpc, service, utils, version
from cinder.common import config, constants
from cinder.db import api as database_api  # noqa: F401 - registers its options

CONF = cfg.CONF
CONF.register_opt(cfg.StrOpt("cluster"))
objects.register_all()
CONF(sys.argv[1:], project="cinder", version=version.version_string())
config.set_middleware_defaults()
log.setup(CONF, "cinder")
utils.monkey_patch()
coordination.COORDINATOR.start()
rpc.init(CONF)
launcher = oslo_service.ServiceLauncher(CONF)
launcher.launch_service(service.Service.create(binary="cinder-scheduler"))
for backend in CONF.enabled_backends:
    CONF.register_opt(cfg.StrOpt("backend_host"), group=backend)
    volume = service.Service.create(
        host=f"{CONF.host}@{backend}", service_name=backend, binary=constants.VOLUME_BINARY, coordination=False
    )
    launcher.launch_service(volume)
launcher.launch_service(service.WSGIService("osapi_volume"))
launcher.wait()
