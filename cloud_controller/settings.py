"""Settings of the cloud controller."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pydantic

from archelon_core.settings import PublicUrl, WebSettings


class RegionSettings(pydantic.BaseModel):
    """One region: the name of its platform, which is found by entry point, and the platform's settings."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    platform: str = "local"
    settings: dict[str, Any] = {}


class CloudControllerSettings(WebSettings):
    """Settings of web and worker processes."""

    database_url: pydantic.SecretStr = pydantic.Field(
        description="SQLite or PostgreSQL; its web and worker processes share it",
        examples=["sqlite:////var/lib/archelon/state.db"],
    )
    state_directory: Path = pydantic.Field(
        description="directory for local processes' data, unpacked bundles and keys", examples=["/var/lib/archelon"]
    )
    cloud_controller_bind: str = pydantic.Field("127.0.0.1:8090", description="address and port to listen on")
    web_processes: int = pydantic.Field(2, ge=1, le=64, description="web processes")
    force_embedded: bool = pydantic.Field(
        False,
        description="allow an address that other machines reach although a region is local, which runs bundles as this user",
    )
    cloud_controller_url: PublicUrl = pydantic.Field(
        "http://127.0.0.1:8090",
        min_length=1,
        description="URL below which callers reach the modules, in the catalogue and in responses",
    )
    regions: dict[str, RegionSettings] = pydantic.Field(
        {"local": RegionSettings()},
        description="platforms by region; orchestrators run in the first",
        examples=[{"local": {"platform": "local", "settings": {}}}],
    )
    encryption_keys: Path | None = pydantic.Field(
        None, description="file of the keys that encrypt secrets; in state_directory by default"
    )
    realm: Path | None = pydantic.Field(None, description="file of the local realm's tenants, users and tokens")
    issuer: str = pydantic.Field("cloud-controller", description="issuer of this cloud controller's tokens")
    signing_key: Path = pydantic.Field(description="PEM file of the private key (Ed25519 or P-256) that it signs with")
    trusted_keys: dict[str, Path] = pydantic.Field({}, description="PEM file of each trusted issuer's public key")
    design_url: str = pydantic.Field(
        "", description="URL of the design module, if it runs separately; below cloud_controller_url by default"
    )
    keystone_url: str = pydantic.Field("", description="Keystone; empty with the local realm only")
    keystone_user: str = pydantic.Field(
        "",
        description="design's own user, to whom trusts delegate; for one cloud controller only. Set it for design only",
    )
    keystone_password: pydantic.SecretStr = pydantic.Field(pydantic.SecretStr(""), description="that user's password")
    keystone_user_domain: str = pydantic.Field("Default", description="that user's domain, by name")
    keystone_project: str = pydantic.Field(
        "", description="project, by name, in which that user may change the catalogue; the whole system by default"
    )
    keystone_project_domain: str = pydantic.Field("Default", description="domain of that project, by name")
    keystone_delegated_roles: list[str] = pydantic.Field(
        [], description="roles of tenants to delegate; all roles of the tenant's token by default"
    )
    catalogue_interval: float = pydantic.Field(
        60.0, gt=0, description="seconds between two synchronizations of the catalogue with Keystone's"
    )
    bundle_grace: float = pydantic.Field(7 * 86400.0, ge=60, description="seconds that an unused bundle is kept")
    orphan_grace: float = pydantic.Field(900.0, ge=0, description="seconds before orphaned objects are removed")
