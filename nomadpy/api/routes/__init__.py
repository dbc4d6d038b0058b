"""The table of everything that can be asked over HTTP, in the order in which paths are tried."""

from __future__ import annotations

from nomadpy.api.router import Operation
from nomadpy.api.routes.agent import OPERATIONS as AGENT
from nomadpy.api.routes.allocations import OPERATIONS as ALLOCATIONS
from nomadpy.api.routes.client import OPERATIONS as CLIENT
from nomadpy.api.routes.deployments import OPERATIONS as DEPLOYMENTS
from nomadpy.api.routes.enterprise import OPERATIONS as ENTERPRISE
from nomadpy.api.routes.evaluations import OPERATIONS as EVALUATIONS
from nomadpy.api.routes.exec import OPERATIONS as EXEC
from nomadpy.api.routes.gossip import OPERATIONS as GOSSIP
from nomadpy.api.routes.host import OPERATIONS as HOST
from nomadpy.api.routes.jobs import OPERATIONS as JOBS
from nomadpy.api.routes.nodes import OPERATIONS as NODES
from nomadpy.api.routes.operator import OPERATIONS as OPERATOR
from nomadpy.api.routes.scaling import OPERATIONS as SCALING
from nomadpy.api.routes.servers import OPERATIONS as SERVERS
from nomadpy.api.routes.snapshot import OPERATIONS as SNAPSHOT
from nomadpy.api.routes.statuses import OPERATIONS as STATUSES

OPERATIONS: tuple[Operation, ...] = (
    *EXEC,
    *STATUSES,
    *SCALING,
    *JOBS,
    *EVALUATIONS,
    *DEPLOYMENTS,
    *ALLOCATIONS,
    *CLIENT,
    *NODES,
    *AGENT,
    *GOSSIP,
    *HOST,
    *OPERATOR,
    *SERVERS,
    *SNAPSHOT,
    *ENTERPRISE,
)
