"""The services of the test bed, in order of their start.

Each service runs in a single process (`transport_url = fake://` is a message bus within a process), so there is no RabbitMQ. Its
configuration files are those in `etc/` whose names start with its own.
"""

from __future__ import annotations

import dataclasses

CORE, CLOUD, DNS, SHORT_LIVED = "core", "cloud", "dns", "short-lived"


@dataclasses.dataclass(frozen=True)
class Step:
    """A command that runs once per state directory. `@NAME@` is replaced as in `etc/`."""

    name: str
    command: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Part:
    """A service.

    Args:
        group: group of services that it belongs to.
        ports: ports that it listens on.
        command: command of its process.
        url: URL that returns a status below 500 when the service is up; empty for none.
        environment: additional environment of its process.
        databases: databases that it needs.
        setup: steps before its start.
        post_start: steps once all services respond.
        catalogue: entries of Keystone's catalogue, `name=type=url`.
    """

    name: str
    group: str
    ports: tuple[int, ...]
    command: tuple[str, ...]
    url: str = ""
    environment: tuple[tuple[str, str], ...] = ()
    databases: tuple[str, ...] = ()
    setup: tuple[Step, ...] = ()
    post_start: tuple[Step, ...] = ()
    catalogue: tuple[str, ...] = ()


def _manage(program: str, config: str, *words: str) -> tuple[str, ...]:
    return (f"@VENV@/bin/{program}", *_settings(config), *words)


def _settings(config: str) -> tuple[str, ...]:
    # An explicit directory disables the search of /etc and the home directory.
    return ("--config-file", f"@STATE@/etc/{config}", "--config-dir", "@STATE@/etc/conf.d")


def _inside(script: str, *words: str) -> tuple[str, ...]:
    return ("@VENV@/bin/python", f"@HERE@/inside/{script}", *words)


def _wsgi(application: str, port: int, threads: int = 8, **environment: str) -> tuple[tuple[str, str], ...]:
    # oslo.config parses the process' command line, so gunicorn's settings are passed by the environment.
    settings = f"-c @HERE@/inside/wsgi_server.py -b @HOST@:{port} --threads {threads}"
    return ("GUNICORN_CMD_ARGS", settings), ("WSGI_APPLICATION", application), *environment.items()


def _keystone(port: int, config: str) -> tuple[tuple[str, str], ...]:
    # Keystone's middleware stores a request's token in an attribute that all threads share (`AuthContextMiddleware.token`, as of
    # Keystone 27): with more than one thread, concurrent requests get each other's identity.
    return _wsgi("keystone.wsgi.api:application", port, 1, OS_KEYSTONE_CONFIG_FILES=f"@STATE@/etc/{config}")


_KEYSTONE = "keystone.conf"
_BOOTSTRAP = (
    "--bootstrap-password=@PASSWORD@",
    "--bootstrap-region-id=@REGION@",
    *(f"--bootstrap-{interface}-url=@KEYSTONE@/v3" for interface in ("public", "internal", "admin")),
)

PARTS: tuple[Part, ...] = (
    Part(
        "keystone",
        CORE,
        (5000,),
        ("@VENV@/bin/gunicorn",),
        url="http://@HOST@:5000/v3",
        environment=_keystone(5000, "keystone.conf"),
        databases=("keystone",),
        setup=(
            Step("keystone-database", _manage("keystone-manage", _KEYSTONE, "db_sync")),
            Step("keystone-keys", _inside("keys.py", "@STATE@/keystone-fernet", "@STATE@/keystone-credential")),
            Step("keystone-bootstrap", _manage("keystone-manage", _KEYSTONE, "bootstrap", *_BOOTSTRAP)),
        ),
    ),
    Part(
        # A second endpoint of the same Keystone, with its database and keys, that issues short-lived tokens.
        "keystone-short",
        SHORT_LIVED,
        (5001,),
        ("@VENV@/bin/gunicorn",),
        url="http://@HOST@:5001/v3",
        environment=_keystone(5001, "keystone-short.conf"),
    ),
    Part(
        "heat",
        CORE,
        (8004, 8000),
        (*_manage("heat-all", "heat.conf"),),
        url="http://@HOST@:8004/",
        databases=("heat",),
        setup=(Step("heat-database", _manage("heat-manage", "heat.conf", "db_sync")),),
        catalogue=(
            "heat=orchestration=http://@HOST@:8004/v1/%(tenant_id)s",
            "heat-cfn=cloudformation=http://@HOST@:8000/v1",
        ),
    ),
    Part(
        "placement",
        CLOUD,
        (8778,),
        ("@VENV@/bin/gunicorn",),
        url="http://@HOST@:8778/",
        environment=_wsgi("placement.wsgi.api:application", 8778, OS_PLACEMENT_CONFIG_DIR="@STATE@/etc"),
        databases=("placement",),
        setup=(Step("placement-database", _manage("placement-manage", "placement.conf", "db", "sync")),),
        catalogue=("placement=placement=http://@HOST@:8778",),
    ),
    Part(
        "glance",
        CLOUD,
        (9292,),
        _manage("glance-api", "glance.conf"),
        url="http://@HOST@:9292/healthcheck",
        databases=("glance",),
        setup=(Step("glance-database", _manage("glance-manage", "glance.conf", "db_sync")),),
        catalogue=("glance=image=http://@HOST@:9292",),
    ),
    Part(
        "neutron",
        CLOUD,
        (9696,),
        _manage("neutron-server", "neutron.conf"),
        url="http://@HOST@:9696/",
        environment=(("PYTHONPATH", "@HERE@/inside"),),
        databases=("neutron",),
        setup=(Step("neutron-database", _manage("neutron-db-manage", "neutron.conf", "upgrade", "heads")),),
        catalogue=("neutron=network=http://@HOST@:9696",),
    ),
    Part(
        "nova",
        CLOUD,
        (8774,),
        _inside("nova_all.py", *_settings("nova.conf")),
        url="http://@HOST@:8774/",
        databases=("nova", "nova_api", "nova_cell0"),
        setup=(
            Step(
                "nova-databases",
                _inside("nova_databases.py", *_settings("nova.conf"), "@DATABASE@/nova_cell0", "@DATABASE@/nova"),
            ),
        ),
        post_start=(Step("nova-hosts", _manage("nova-manage", "nova.conf", "cell_v2", "discover_hosts")),),
        catalogue=("nova=compute=http://@HOST@:8774/v2.1",),
    ),
    Part(
        "cinder",
        CLOUD,
        (8776,),
        _inside("cinder_all.py", *_settings("cinder.conf")),
        url="http://@HOST@:8776/",
        databases=("cinder",),
        setup=(Step("cinder-database", _manage("cinder-manage", "cinder.conf", "db", "sync")),),
        post_start=(Step("seed", _inside("seed.py", "@STATE@/clouds.yaml")),),
        catalogue=(
            "cinder=block-storage=http://@HOST@:8776/v3/%(tenant_id)s",
            "cinder=volumev3=http://@HOST@:8776/v3/%(tenant_id)s",
        ),
    ),
    Part(
        "named",
        DNS,
        (15353, 15953),
        ("named", "-g", "-c", "@STATE@/etc/named.conf"),
        setup=(
            Step(
                "rndc-key",
                ("rndc-confgen", "-a", "-A", "hmac-sha256", "-k", "rndc-key", "-c", "@STATE@/named/rndc.key"),
            ),
        ),
    ),
    Part(
        "designate",
        DNS,
        (9001, 15354),
        _inside("designate_all.py", *_settings("designate.conf")),
        url="http://@HOST@:9001/v2",
        environment=(("DESIGNATE_POOLS", "@STATE@/etc/designate-pools.yaml"),),
        databases=("designate",),
        setup=(Step("designate-database", _manage("designate-manage", "designate.conf", "database", "sync")),),
        catalogue=("designate=dns=http://@HOST@:9001",),
    ),
)
