"""Settings of an orchestrator from its environment, set by the service manager and the launcher.

The names are those of `archelon_api.orchestrator`, repeated here so that the process listens before it imports the API's kinds. A
test compares them.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

ENV_INSTANCE: Final = "ARCHELON_INSTANCE"
ENV_SERVICE_MANAGER: Final = "ARCHELON_SERVICE_MANAGER"
ENV_DESIGN: Final = "ARCHELON_DESIGN"
ENV_TOKEN: Final = "ARCHELON_TOKEN"  # noqa: S105 - a name
ENV_KEYS: Final = "ARCHELON_KEYS"
ENV_DIGEST: Final = "ARCHELON_BUNDLE_DIGEST"
#: Directory of the zone files.
ENV_ZONES: Final = "ARCHELON_ZONES"


@dataclasses.dataclass(frozen=True)
class Settings:
    """The environment's settings.

    Attributes:
        bundle: its directory.
        instance: id of the instance; `url` is its URL at the service manager, `design_url` the design module's.
        start_token: for `renew`; `keys`, a JWK set, verify callers' tokens.
        bind: address to listen at.
        digest: of the bundle; empty if the service manager, an older one, has not set it.
        zones: directory of zone files, or None.
    """

    bundle: Path
    instance: str
    url: str
    design_url: str
    start_token: str = dataclasses.field(repr=False)
    keys: str = dataclasses.field(repr=False)
    bind: str
    digest: str = ""
    zones: Path | None = None

    @classmethod
    def read(cls, environment: Mapping[str, str], bundle: Path) -> Settings:
        """Read an environment. Raises ValueError with all missing variables."""
        needed = (ENV_INSTANCE, ENV_SERVICE_MANAGER, ENV_DESIGN, ENV_TOKEN, ENV_KEYS)
        missing = [name for name in needed if not environment.get(name)]
        if missing:
            raise ValueError(f"the environment lacks {', '.join(missing)}; a service manager sets them")
        try:
            json.loads(environment[ENV_KEYS])
        except ValueError:
            raise ValueError(f"{ENV_KEYS} is not a JWK set; a service manager sets it") from None
        zones = environment.get(ENV_ZONES)
        instance, url, design_url, start_token, keys = [environment[name] for name in needed]
        return cls(
            bundle=bundle,
            instance=instance,
            url=url,
            design_url=design_url,
            start_token=start_token,
            keys=keys,
            bind=f"{environment.get('HOST', '127.0.0.1')}:{environment.get('PORT', '8080')}",
            digest=environment.get(ENV_DIGEST, ""),
            zones=Path(zones) if zones else None,
        )
