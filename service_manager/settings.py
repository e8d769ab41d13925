"""Settings of the service manager."""

from __future__ import annotations

from typing import Self

import pydantic

from archelon_core.settings import PublicUrl, WebSettings


class ServiceManagerSettings(WebSettings):
    """Settings of the service manager's web and worker processes."""

    database_url: pydantic.SecretStr = pydantic.Field(description="sqlite:////path/state.db or postgresql://host/name")
    encryption_keys: pydantic.SecretStr = pydantic.Field(
        description="keys that encrypt secrets at rest, the current one first, separated by commas"
    )
    signing_key: pydantic.SecretStr = pydantic.Field(description="private key in PEM that signs tokens")
    verification_keys: str = pydantic.Field(description="public keys of all services, as a JWK set in JSON")
    issuer: str = pydantic.Field("service-manager", description="iss of the tokens that this service manager signs")
    name: str = pydantic.Field("service-manager", description="name of this service manager, in logs and tokens")
    url: PublicUrl = pydantic.Field(
        min_length=1,
        description="URL at which clients reach this service manager; the only one in responses to them",
        examples=["https://occi.example.org"],
    )
    internal_url: PublicUrl = pydantic.Field(
        "", description="URL at which orchestrators and other services reach it, if it is another one"
    )
    hurtle_catalogue: bool = pydantic.Field(
        False, description="whether Keystone's catalogue leads to /hurtle, for Hurtle's clients, instead of OCCI 1.2"
    )
    keystone_url: str = pydantic.Field("", description="Keystone whose tokens are accepted; empty for none")
    catalogue_interval: float = pydantic.Field(30.0, gt=0, description="seconds between polls of design's catalogue")
    design_url: str = pydantic.Field(description="URL of the cloud controller's design module")
    realm_file: str = pydantic.Field("", description="file of the local realm; empty for none")
    policy_file: str = pydantic.Field("", description="rules in oslo.policy's format that override the built-in ones")
    bind: str = pydantic.Field("127.0.0.1:8888", description="address to listen on")
    web_processes: int = pydantic.Field(2, ge=1, le=64, description="web processes")
    web_threads: int = pydantic.Field(8, ge=1, le=256, description="threads of each web process")
    worker_threads: int = pydantic.Field(8, ge=1, le=256, description="concurrent steps of a worker")
    worker_port: int = pydantic.Field(0, ge=0, le=65535, description="port of a worker's /healthz, /readyz, /metrics")
    worker_host: str = pydantic.Field(
        "127.0.0.1", description="address of that port; probes and Prometheus of other machines must reach it"
    )
    lease: float = pydantic.Field(10.0, gt=0, le=600, description="seconds after which another worker takes over")
    metrics_interval: float = pydantic.Field(15.0, gt=0, description="seconds between counts for /metrics")
    phase_timeout: float = pydantic.Field(300.0, gt=0, description="timeout of an attempt of a phase, in seconds")
    phase_retries: int = pydantic.Field(2, ge=0, le=100, description="attempts after the first")
    phase_pause: float = pydantic.Field(1.0, ge=0, description="seconds before the second attempt; doubled each time")
    record_retention: float = pydantic.Field(
        30 * 86400.0, ge=0, description="seconds that a record outlives its instance"
    )
    bundle_retention: float = pydantic.Field(
        30 * 86400.0, ge=60, description="seconds that an unused bundle, and the history of the catalogue, are kept"
    )
    quota_instances: int | None = pydantic.Field(None, ge=0, description="instances per tenant; none for no limit")
    bundle_limit: int = pydantic.Field(16 << 20, ge=1024, description="size limit of a bundle's archive, in bytes")

    @pydantic.model_validator(mode="after")
    def _require_user_source(self) -> Self:
        if not self.realm_file and not self.keystone_url:
            raise ValueError("neither realm_file nor keystone_url is set, so no user could log in; set one of them")
        return self
