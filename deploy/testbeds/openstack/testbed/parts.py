"""What the test bed consists of: one entry a service, in the order of their starts.

Each service runs in one process (`transport_url = fake://` is a message bus within a process), which is why there is no
RabbitMQ. Its configuration is every file of `etc/` that is named after it.
"""

from __future__ import annotations

import dataclasses

CORE, CLOUD, DNS, SHORT_LIVED = "core", "cloud", "dns", "short-lived"


@dataclasses.dataclass(frozen=True)
class Step:
    """A command that is run once for each state. `@NAME@` is filled in as in `etc/`."""

    name: str
    command: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Part:
    """A service.

    Args:
        group: what brings it along. ports: that it listens on.
        url: answers something below 500 when it is up; empty for none.
        command: of its process; empty for a part that is only set up.
        environment: of its process, beside what all get.
        databases: that it needs. prepared: before its start. settled: once everything answers, beside those of others.
        catalogue: `name=type=url`, for Keystone.
    """

    name: str
    group: str
    ports: tuple[int, ...]
    command: tuple[str, ...]
    url: str = ""
    environment: tuple[tuple[str, str], ...] = ()
    databases: tuple[str, ...] = ()
    prepared: tuple[Step, ...] = ()
    settled: tuple[Step, ...] = ()
    catalogue: tuple[str, ...] = ()


def _manage(program: str, config: str, *words: str) -> tuple[str, ...]:
    return (f"@VENV@/bin/{program}", *_settings(config), *words)


def _settings(config: str) -> tuple[str, ...]:
    # With a directory, those of the machine and of the user's home are not looked through.
    return ("--config-file", f"@STATE@/etc/{config}", "--config-dir", "@STATE@/etc/conf.d")


def _inside(script: str, *words: str) -> tuple[str, ...]:
    return ("@VENV@/bin/python", f"@HERE@/inside/{script}", *words)


def _wsgi(application: str, port: int, threads: int = 8, **environment: str) -> tuple[tuple[str, str], ...]:
    # oslo.config reads the command line of whoever imports it, so gunicorn's settings may not stand there.
    settings = f"-c @HERE@/inside/wsgi_server.py -b @HOST@:{port} --threads {threads}"
    return ("GUNICORN_CMD_ARGS", settings), ("WSGI_APPLICATION", application), *environment.items()


#: Keystone's middleware keeps the token of a request in an attribute that all threads share (`AuthContextMiddleware.token`, as
#: of Keystone 27): with more than one, a request is taken for another's that runs beside it.
_KEYSTONE_THREADS = 1
_KEYSTONE = "keystone.conf"
_KEYSTONE_URLS = tuple(f"--bootstrap-{interface}-url=@KEYSTONE@/v3" for interface in ("public", "internal", "admin"))

PARTS: tuple[Part, ...] = (
    Part(
        "keystone",
        CORE,
        (5000,),
        ("@VENV@/bin/gunicorn",),
        url="http://@HOST@:5000/v3",
        environment=_wsgi(
            "keystone.wsgi.api:application",
            5000,
            _KEYSTONE_THREADS,
            OS_KEYSTONE_CONFIG_FILES="@STATE@/etc/keystone.conf",
        ),
        databases=("keystone",),
        prepared=(
            Step("keystone-database", _manage("keystone-manage", _KEYSTONE, "db_sync")),
            Step("keystone-keys", _inside("keys.py", "@STATE@/keystone-fernet", "@STATE@/keystone-credential")),
            Step(
                "keystone-bootstrap",
                _manage(
                    "keystone-manage",
                    _KEYSTONE,
                    "bootstrap",
                    "--bootstrap-password=@PASSWORD@",
                    "--bootstrap-region-id=@REGION@",
                    *_KEYSTONE_URLS,
                ),
            ),
        ),
    ),
    Part(
        # The same Keystone by another door: its database and keys, but the tokens that it issues live seconds.
        "keystone-short",
        SHORT_LIVED,
        (5001,),
        ("@VENV@/bin/gunicorn",),
        url="http://@HOST@:5001/v3",
        environment=_wsgi(
            "keystone.wsgi.api:application",
            5001,
            _KEYSTONE_THREADS,
            OS_KEYSTONE_CONFIG_FILES="@STATE@/etc/keystone-short.conf",
        ),
    ),
    Part(
        "heat",
        CORE,
        (8004, 8000),
        (*_manage("heat-all", "heat.conf"),),
        url="http://@HOST@:8004/",
        databases=("heat",),
        prepared=(Step("heat-database", _manage("heat-manage", "heat.conf", "db_sync")),),
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
        prepared=(Step("placement-database", _manage("placement-manage", "placement.conf", "db", "sync")),),
        catalogue=("placement=placement=http://@HOST@:8778",),
    ),
    Part(
        "glance",
        CLOUD,
        (9292,),
        _manage("glance-api", "glance.conf"),
        url="http://@HOST@:9292/healthcheck",
        databases=("glance",),
        prepared=(Step("glance-database", _manage("glance-manage", "glance.conf", "db_sync")),),
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
        prepared=(Step("neutron-database", _manage("neutron-db-manage", "neutron.conf", "upgrade", "heads")),),
        catalogue=("neutron=network=http://@HOST@:9696",),
    ),
    Part(
        "nova",
        CLOUD,
        (8774,),
        _inside("nova_all.py", *_settings("nova.conf")),
        url="http://@HOST@:8774/",
        databases=("nova", "nova_api", "nova_cell0"),
        prepared=(
            Step(
                "nova-databases",
                _inside(
                    "nova_databases.py",
                    *_settings("nova.conf"),
                    "@DATABASE@/nova_cell0",
                    "@DATABASE@/nova",
                ),
            ),
        ),
        settled=(Step("nova-hosts", _manage("nova-manage", "nova.conf", "cell_v2", "discover_hosts")),),
        catalogue=("nova=compute=http://@HOST@:8774/v2.1",),
    ),
    Part(
        "cinder",
        CLOUD,
        (8776,),
        _inside("cinder_all.py", *_settings("cinder.conf")),
        url="http://@HOST@:8776/",
        databases=("cinder",),
        prepared=(Step("cinder-database", _manage("cinder-manage", "cinder.conf", "db", "sync")),),
        settled=(Step("seed", _inside("seed.py", "@STATE@/clouds.yaml")),),
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
        prepared=(
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
        prepared=(Step("designate-database", _manage("designate-manage", "designate.conf", "database", "sync")),),
        catalogue=("designate=dns=http://@HOST@:9001",),
    ),
)
