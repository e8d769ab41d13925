"""What the cloud controller can be told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pydantic

from archelon_core.settings import WebSettings


class RegionSettings(pydantic.BaseModel):
    """One region: a platform's name, by which it is found as a package's entry point, and what that platform takes."""

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
        description="directory for what runs on this machine, unpacked bundles and keys", examples=["/var/lib/archelon"]
    )
    cloud_controller_bind: str = pydantic.Field("127.0.0.1:8090", description="address and port to listen on")
    force_embedded: bool = pydantic.Field(
        False,
        description="listen where other machines reach it although a region's platform is local, which runs bundles as you",
    )
    cloud_controller_url: str = pydantic.Field(
        "http://127.0.0.1:8090", description="scheme and host under which others reach the modules, for the catalogue"
    )
    regions: dict[str, RegionSettings] = pydantic.Field(
        {"local": RegionSettings()},
        description="platforms by region; orchestrators run in the first",
        examples=[{"local": {"platform": "local", "settings": {}}}],
    )
    encryption_keys: Path | None = pydantic.Field(
        None, description="file of the keys that secrets are encrypted with; in state_directory without one"
    )
    realm: Path | None = pydantic.Field(None, description="file of the local realm's tenants, users and tokens")
    issuer: str = pydantic.Field(
        "cloud-controller", description="issuer of the tokens that this cloud controller signs"
    )
    signing_key: Path = pydantic.Field(description="PEM file of the private key (Ed25519 or P-256) that it signs with")
    trusted_keys: dict[str, Path] = pydantic.Field(
        {}, description="PEM file of the public key of each issuer whose tokens are believed"
    )
    design_url: str = pydantic.Field(
        "", description="URL of the design module, where it runs apart; below cloud_controller_url without it"
    )
    keystone_url: str = pydantic.Field("", description="Keystone; empty where the local realm is all there is")
    keystone_user: str = pydantic.Field(
        "", description="design's own user, who is delegated to; of one cloud controller alone. Only design is told"
    )
    keystone_password: pydantic.SecretStr = pydantic.Field(pydantic.SecretStr(""), description="that user's password")
    keystone_user_domain: str = pydantic.Field("Default", description="that user's domain, by name")
    keystone_project: str = pydantic.Field(
        "", description="project, by name, in which that user may change the catalogue; the whole system without one"
    )
    keystone_project_domain: str = pydantic.Field("Default", description="domain of that project, by name")
    keystone_delegated_roles: list[str] = pydantic.Field(
        [], description="roles of tenants to delegate; all that the tenant's token has without any"
    )
    catalogue_interval: float = pydantic.Field(
        60.0, gt=0, description="seconds between two comparisons of the catalogue with Keystone's"
    )
    bundle_grace: float = pydantic.Field(
        7 * 86400.0, ge=60, description="seconds that a bundle is kept which no application runs"
    )
    orphan_grace: float = pydantic.Field(
        900.0, ge=0, description="seconds that something of an instance nobody knows is left alone"
    )
