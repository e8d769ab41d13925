"""A bundle of the shape that Hurtle's have: a manifest and templates in `data/`, and Python 2 in `wsgi/so.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Final

TYPE: Final = "http://schemas.example.org/occi/sm#turnip"
MAAS: Final = "http://schemas.example.org/occi/sm#maas"
DNS: Final = "http://schemas.example.org/occi/sm#dns"

FILES: Final = {
    "data/service_manifest.json": f"""{{
  "service_type": "{TYPE}",
  "service_description": "Stores turnips",
  "service_attributes": {{"mcn.endpoint.turnip": "immutable", "turnip.size": ""}},
  "service_endpoint": "http://127.0.0.1:8888/turnip/",
  "depends_on": [
    {{"{MAAS}": {{"inputs": []}}}},
    {{"{DNS}": {{"inputs": ["{MAAS}#mcn.endpoint.maas"]}}}}
  ],
  "resources": {{
    "RegionOne": {{
      "deployment": "file:///opt/app-root/src/data/deployment.yaml",
      "provision": "file:///opt/app-root/src/data/provision.yaml"
    }}
  }}
}}
""",
    "data/deployment.yaml": """heat_template_version: 2013-05-23
resources:
  setup:
    type: OS::Heat::SoftwareConfig
    properties:
      config: {get_file: "file:///opt/app-root/src/data/setup.sh"}
outputs:
  mcn.endpoint.turnip: {value: 192.0.2.1}
""",
    "data/provision.yaml": "heat_template_version: 2013-05-23\nresources: {}\n",
    "data/setup.sh": "#!/bin/sh\necho turnips\n",
    "requirements.txt": "pyssf\n",
    "wsgi/application": "#!/usr/bin/python\nimport so\n",
    "wsgi/so.py": '''"""Turnips."""
import os
import urllib2

from sdk.mcn import util, monitoring
from sm.so import service_orchestrator
from sm.so.service_orchestrator import LOG

print "this file must not run"
open('ran', 'w').write('it did')


class TurnipExecution(service_orchestrator.Execution):

    def __init__(self, token, tenant):
        super(TurnipExecution, self).__init__(token, tenant)
        self.deployer = util.get_deployer(token, url_type='public', tenant_name=tenant)
        self.maas = util.get_maas(token, tenant_name=tenant)

    def design(self):
        self.resolver.design()

    def deploy(self):
        self.resolver.deploy()
        self.stack = self.deployer.deploy(self.template(), self.token, parameters={'size': 0644})

    def provision(self):
        self.deployer.update(self.stack, self.template(), self.token)
        util.get_provisioner(self.token).provision('192.0.2.1', 'make turnips')

    def state(self):
        try:
            found = self.deployer.details(self.stack, self.token)
        except IOError, error:
            raise ValueError, 'no stack'
        return found['state'], self.stack, found['output']

    def update(self, old, new, extras):
        print 'size', new.attributes

    def notify(self, entity, attributes, extras):
        super(TurnipExecution, self).notify(entity, attributes, extras)

    def dispose(self):
        self.deployer.dispose(self.stack, self.token)
        self.resolver.dispose()

    def template(self):
        return open(os.path.join('data', 'deployment.yaml')).read()


class TurnipDecision(service_orchestrator.Decision):

    def run(self):
        while True:
            if self.so_e.maas.get_metric('web', 'load') > 3:
                self.so_e.update(None, None, None)

    def stop(self):
        pass


class ServiceOrchestrator(object):

    def __init__(self, token, tenant):
        self.so_e = TurnipExecution(token, tenant)
        self.so_d = TurnipDecision(self.so_e, token, tenant)
''',
}


def write(directory: Path) -> Path:
    """Write the bundle and return its directory."""
    for path, content in FILES.items():
        place = directory / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(content)
    return directory
