"""Descriptions that several tests use, in Occopus' style."""

from __future__ import annotations

import sys

from cloud_controller.core.labels import Labels
from cloud_controller.platforms.interface import StackOrder

LABELS = Labels("i-1", "tenant", "svc", 1)

#: Based on Occopus' tutorial of MySQL and WordPress on EC2, with added implementations for this platform.
WORDPRESS = """
infra_name: ec2_chef_wordpress_infra
user_id: somebody@somewhere.com

nodes:
    - &DBS_Node
        name: mysql_server
        type: mysql_server_node
        filter:
            type: process
    - &WP_Node
        name: wordpress
        type: wordpress_node

dependencies:
    -
        connection: [ *WP_Node, *DBS_Node ]
        mappings:
            -
                attributes: [ 'fqdn', 'wordpress.db.host' ]
variables:
    mysql_database_name: blog
    mysql_dbuser_username: writer

parameters:
    mysql_dbuser_password: {type: string, secret: true}
outputs:
    url: {value: "http://${nodes.wordpress.address}:${nodes.wordpress.port}/wordpress"}
"""

WORDPRESS_NODES = """
'node_def:mysql_server_node':
    -
        resource:
            type: ec2
            endpoint: replace_with_endpoint_of_ec2_interface_of_your_cloud
            regionname: replace_with_regionname_of_your_ec2_interface
            image_id: replace_with_id_of_your_image_on_your_target_cloud
            instance_type: replace_with_instance_type_of_your_image_on_your_target_cloud
        contextualisation:
            type: cloudinit
            context_template: !text_import
                url: file://cloud_init_wordpress.yaml
        config_management:
            type: chef
            endpoint: replace_with_url_of_chef_server
            run_list:
                - recipe[database-setup::db]
        health_check:
            mysqldbs:
                - {name: '{{ variables.mysql_database_name }}',
                   user: '{{ variables.mysql_dbuser_username }}',
                   pass: '${parameters.mysql_dbuser_password}'}
    -
        resource:
            type: process
            command: [PYTHON, -I, -u, server.py, mysql, '${self.port}']
            ports: [mysql]
        contextualisation:
            type: process
            env: ['MYSQL_PASSWORD=${parameters.mysql_dbuser_password}']
            files: {server.py: !text_import {url: 'file://server.py'}}
        health_check:
            mysqldbs:
                - {name: '{{ variables.mysql_database_name }}',
                   user: '{{ variables.mysql_dbuser_username }}',
                   pass: '${parameters.mysql_dbuser_password}'}

'node_def:wordpress_node':
    -
        resource:
            type: process
            command: [PYTHON, -I, -u, server.py, http, '${self.port}']
            environment:
                DB_HOST: ${mapped.wordpress.db.host}
                DB_IP: '{{getip(mysql_server)}}'
                DB_PORT: ${nodes.mysql_server.port}
            files: {server.py: !text_import {url: 'file://server.py'}}
            ports: [http]
        health_check:
            ping: true
            urls:
                - http://{{ip}}:${self.port}/wordpress
"""

#: Stands in for MySQL (its greeting) and for a web server that shows its environment.
SERVER = """
import os, socket, sys
kind, port = sys.argv[1], int(sys.argv[2])
server = socket.create_server(('127.0.0.1', port))
print(kind, 'listens', flush=True)
while True:
    client, _ = server.accept()
    if kind == 'mysql':
        client.sendall(bytes([9, 0, 0, 0, 10]) + b'8.0.36' + bytes(3))
    else:
        client.recv(1000)
        body = ' '.join(os.environ[name] for name in ('DB_HOST', 'DB_IP', 'DB_PORT')).encode()
        client.sendall(b'HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n%s' % (len(body), body))
    client.close()
"""

WORDPRESS_FILES = {
    "nodes/node_definitions.yaml": WORDPRESS_NODES.replace("PYTHON", sys.executable),
    "nodes/cloud_init_wordpress.yaml": "#cloud-config\n",
    "server.py": SERVER,
}

#: Based on Occopus' tutorial of CQueue: a master and workers that scale.
CQUEUE = """
infra_name: cqueue-cluster
user_id: somebody@somewhere

nodes:
  - &M
    name: cqueue-master
    type: cqueue_master_node
  - &W
    name: cqueue-worker
    type: cqueue_worker_node
    scaling:
      min: 1
      max: 10

dependencies:
  -
    connection: [ *W, *M ]

'node_def:cqueue_master_node':
  -
    resource: {type: process, command: [sleep, '1000'], ports: [queue]}
'node_def:cqueue_worker_node':
  -
    resource: {type: process, command: [sleep, '1000'], environment: {QUEUE: 'tcp://{{getip(cqueue-master)}}:${nodes.cqueue-master.port}'}}
"""


def order(template: str, **changes: object) -> StackOrder:
    """Return an order for a stack `s1` of `i-1`."""
    values: dict[str, object] = {"id": "s1", "name": "stack", "labels": LABELS, "template": template, **changes}
    return StackOrder(**values)  # type: ignore[arg-type]


def sleepers(nodes: dict[str, list[str]], *, extra: str = "", scaling: dict[str, tuple[int, int]] | None = None) -> str:
    """Return a description of nodes (name: its dependencies), each a process that sleeps."""
    lines = ["infra_name: sleepers", "nodes:"]
    for name in nodes:
        low, high = (scaling or {}).get(name, (1, 1))
        lines.append(f"  - {{name: {name}, type: sleeper, scaling: {{min: {low}, max: {high}}}}}")
    lines.append("dependencies:")
    lines += [f"  - [{name}, {needed}]" for name, needs in nodes.items() for needed in needs]
    if lines[-1] == "dependencies:":
        lines.pop()
    lines += ["'node_def:sleeper':", f"  - resource: {{type: process, command: [sleep, '1000']{extra}}}"]
    return "\n".join(lines) + "\n"
