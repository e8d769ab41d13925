"""nova_databases.py --config-file FILE CELL0 CELL1: creates Nova's databases and cells with commands of nova-manage.

A single process instead of five loads Nova only once. CELL0 and CELL1 are database URLs.
"""

import sys

from nova import config, objects
from nova.cmd import manage
from oslo_log import log

*settings, cell0, cell1 = sys.argv
config.parse_args(settings)
log.setup(manage.CONF, "nova")
objects.register_all()
cells = manage.CellV2Commands()
for status in (
    manage.ApiDbCommands().sync(),
    cells.map_cell0(cell0),
    cells.create_cell("cell1", database_connection=cell1, transport_url="fake:///"),
    manage.DbCommands().sync(),
):
    # 2: the cell exists.
    if status not in (None, 0, 2):
        sys.exit(f"nova-manage failed with {status}")
