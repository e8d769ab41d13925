"""The application that gunicorn serves in these tests: a shop with one box of the tenant Ann."""

from __future__ import annotations

import uuid

from tests.occi_service.server.calls import call
from tests.occi_service.server.shop import BOX_TEXT, Shop

BOX = f"/box/{uuid.UUID(int=1)}"

application = Shop()
call(application, "PUT", BOX, {"X-Tenant": "ann"}, BOX_TEXT + 'X-OCCI-Attribute: shop.name="ann", shop.note="hers, ü"')
