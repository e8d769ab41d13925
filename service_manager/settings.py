"""What a service manager can be told."""

from __future__ import annotations

from typing import Self

import pydantic

from archelon_core.settings import WebSettings


class ServiceManagerSettings(WebSettings):
    """Settings of the service manager's web and worker processes."""

    database_url: pydantic.SecretStr = pydantic.Field(
        description="where state is kept: sqlite:////path/state.db or postgresql://host/name"
    )
    encryption_keys: pydantic.SecretStr = pydantic.Field(
        description="keys for secrets at rest, the current one first, separated by commas"
    )
    signing_key: pydantic.SecretStr = pydantic.Field(
        description="private key in PEM that this service manager signs with"
    )
    verification_keys: str = pydantic.Field(description="public keys of all services, as a JWK set in JSON")
    issuer: str = pydantic.Field("service-manager", description="iss of the tokens that this service manager signs")
    name: str = pydantic.Field("service-manager", description="name of this service manager, in logs and tokens")
    url: str = pydantic.Field(description="URL at which clients and orchestrators reach this service manager")
    internal_url: str = pydantic.Field(
        "", description="URL at which other services reach this service manager, where that is another"
    )
    keystone_url: str = pydantic.Field(
        "", description="the Keystone whose tokens are believed; empty where the local realm is all there is"
    )
    catalogue_interval: float = pydantic.Field(
        30.0, gt=0, description="seconds between two looks at design's catalogue"
    )
    design_url: str = pydantic.Field(description="URL of the cloud controller's design module")
    realm_file: str = pydantic.Field("", description="file of the local realm; empty where there is none")
    policy_file: str = pydantic.Field("", description="rules in oslo.policy's format, over the built-in ones")
    bind: str = pydantic.Field("127.0.0.1:8888", description="address to listen on")
    web_processes: int = pydantic.Field(2, ge=1, le=64, description="web processes")
    web_threads: int = pydantic.Field(8, ge=1, le=256, description="threads of each web process")
    worker_threads: int = pydantic.Field(8, ge=1, le=256, description="steps that a worker takes at once")
    worker_port: int = pydantic.Field(0, ge=0, le=65535, description="port of a worker's /healthz, /readyz, /metrics")
    worker_host: str = pydantic.Field(
        "127.0.0.1", description="address of that port; another machine's probes and Prometheus need one they reach"
    )
    lease: float = pydantic.Field(10.0, gt=0, le=600, description="seconds after which another worker takes over")
    metrics_interval: float = pydantic.Field(15.0, gt=0, description="seconds between two counts for /metrics")
    phase_timeout: float = pydantic.Field(300.0, gt=0, description="seconds that an attempt of a phase may take")
    phase_retries: int = pydantic.Field(2, ge=0, le=100, description="attempts after the first")
    phase_pause: float = pydantic.Field(1.0, ge=0, description="seconds before the second attempt; doubled each time")
    record_retention: float = pydantic.Field(
        30 * 86400.0, ge=0, description="seconds that a record outlives its instance"
    )
    quota_instances: int | None = pydantic.Field(
        None, ge=0, description="instances a tenant may have; none for no limit"
    )
    bundle_limit: int = pydantic.Field(16 << 20, ge=1024, description="bytes of a bundle's archive")

    @pydantic.model_validator(mode="after")
    def _know_people(self) -> Self:
        if not self.realm_file and not self.keystone_url:
            raise ValueError(
                "neither realm_file nor keystone_url is set, so nobody could order anything; set one of them"
            )
        return self
