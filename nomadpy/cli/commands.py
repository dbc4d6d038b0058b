"""The table of commands: what is typed, which function answers, and the line that ``nomadpy`` prints about it.

It is data and imports nothing, so that finding a command costs no start-up time; only the one module that answers is
imported.
"""

from __future__ import annotations

from typing import NamedTuple


class Command(NamedTuple):
    """One command: ``target`` is ``module:function`` below ``nomadpy.cli.verbs``."""

    target: str
    summary: str


COMMANDS: dict[str, Command] = {
    "agent": Command("agent:agent", "Run an agent: server, client, or both with -dev"),
    "agent-info": Command("operator:agent_info", "Show what the agent knows about itself"),
    "alloc exec": Command("alloc_exec:execute", "Run a command inside a running task"),
    "alloc fs": Command("alloc_fs:fs", "List, describe or print files of an allocation"),
    "alloc logs": Command("alloc_fs:logs", "Print or follow the output of a task"),
    "alloc restart": Command("alloc:restart", "Restart tasks of a running allocation"),
    "alloc signal": Command("alloc:signal", "Send a signal to tasks of an allocation"),
    "alloc stats": Command("alloc:stats", "Show what an allocation uses at the moment"),
    "alloc status": Command("alloc:status", "Show an allocation: tasks, usage, events, placement"),
    "alloc stop": Command("alloc:stop", "Stop an allocation and place it again elsewhere"),
    "deployment fail": Command("deployment:fail", "Mark a deployment as failed"),
    "deployment list": Command("deployment:list_", "List deployments"),
    "deployment pause": Command("deployment:pause", "Pause a deployment"),
    "deployment promote": Command("deployment:promote", "Promote the canaries of a deployment"),
    "deployment resume": Command("deployment:resume", "Resume a paused deployment"),
    "deployment status": Command("deployment:status", "Show a deployment, and follow it with -monitor"),
    "deployment unblock": Command("deployment:unblock", "Let a blocked deployment go on"),
    "eval list": Command("evaluation:list_", "List evaluations"),
    "eval status": Command("evaluation:status", "Show an evaluation and why it could not place everything"),
    "fmt": Command("fmt:fmt", "Rewrite HCL files in the standard layout"),
    "job allocs": Command("job_read:allocs", "List the allocations of a job"),
    "job capacity": Command("job_read:capacity", "Show how many more of a job would fit, and what runs out first"),
    "job deployments": Command("job_read:deployments", "List the deployments of a job"),
    "job dispatch": Command("job_write:dispatch", "Start an instance of a parameterized job"),
    "job eval": Command("job_write:evaluate", "Make the scheduler look at a job again"),
    "job history": Command("job_read:history", "List the versions of a job, and what changed with -p"),
    "job init": Command("job_init:init", "Write an example job file"),
    "job inspect": Command("job_read:inspect", "Print a registered job as JSON, or its source with -hcl"),
    "job periodic force": Command("job_write:periodic_force", "Launch a periodic job now"),
    "job plan": Command("job_run:plan", "Show what registering a job would change"),
    "job promote": Command("job_write:promote", "Promote the canaries of a job's latest deployment"),
    "job restart": Command("job_restart:restart", "Restart the allocations of a job, some at a time"),
    "job revert": Command("job_write:revert", "Go back to an earlier version of a job"),
    "job run": Command("job_run:run", "Register a job and follow it until it runs"),
    "job scale": Command("job_write:scale", "Change the count of a task group"),
    "job scale-status": Command("scaling:status", "Show how many each group of a job wants and has"),
    "job scaling-events": Command("scaling:events", "List what was scaled when"),
    "job start": Command("job_write:start", "Start a stopped job again"),
    "job status": Command("job_read:status", "List jobs, or show one"),
    "job stop": Command("job_write:stop", "Stop a job"),
    "job tag apply": Command("job_tag:apply", "Give a version of a job a name"),
    "job tag unset": Command("job_tag:unset", "Take the name of a version away"),
    "job validate": Command("job_run:validate", "Check a job file without registering it"),
    "monitor": Command("operator:monitor", "Stream the log of an agent"),
    "namespace apply": Command("namespace:apply", "Create or change a namespace"),
    "namespace delete": Command("namespace:delete", "Remove a namespace"),
    "namespace inspect": Command("namespace:inspect", "Print a namespace as JSON"),
    "namespace list": Command("cluster:namespace_list", "List namespaces"),
    "namespace status": Command("cluster:namespace_status", "Show a namespace"),
    "node config": Command("node:config", "Show or change which servers a client talks to"),
    "node drain": Command("node_drain:drain", "Move the work of a node elsewhere, or cancel that"),
    "node eligibility": Command("node:eligibility", "Allow or forbid new work on a node"),
    "node pool apply": Command("node_pool:apply", "Create or change a node pool"),
    "node pool delete": Command("node_pool:delete", "Remove a node pool"),
    "node pool info": Command("node_pool:info", "Show a node pool"),
    "node pool init": Command("node_pool:init", "Write an example of a node pool to a file"),
    "node pool jobs": Command("node_pool:jobs", "List the jobs of a node pool"),
    "node pool list": Command("node_pool:list_", "List node pools"),
    "node pool nodes": Command("node_pool:nodes", "List the nodes of a node pool"),
    "node status": Command("node:status", "List nodes, or show one"),
    "operator api": Command("operator:api", "Send one request to the HTTP API and print the answer"),
    "operator autopilot get-config": Command("operator_servers:autopilot_get", "Show how the leader treats servers"),
    "operator autopilot health": Command("operator_servers:health", "Show how the servers are doing"),
    "operator autopilot set-config": Command("operator_servers:autopilot_set", "Change how the leader treats servers"),
    "operator autopilot state": Command("operator_servers:health", "Show how the servers are doing"),
    "operator gossip keyring": Command("server:keyring", "List or change the keys of gossip"),
    "operator gossip keyring generate": Command("server:keygen", "Make a key that encrypts gossip"),
    "operator gossip keyring install": Command("server:keyring_install", "Give all members a further gossip key"),
    "operator gossip keyring list": Command("server:keyring_list", "List the gossip keys and who holds them"),
    "operator gossip keyring remove": Command("server:keyring_remove", "Take a gossip key away"),
    "operator gossip keyring use": Command("server:keyring_use", "Encrypt gossip with another key"),
    "operator metrics": Command("operator:metrics", "Print the metrics of an agent"),
    "operator raft info": Command("raft:info", "Show what a stopped server's replicated log holds"),
    "operator raft list-peers": Command("operator_servers:list_peers", "List the servers that vote, and who leads"),
    "operator raft logs": Command("raft:logs", "Print the entries of a stopped server's replicated log"),
    "operator raft remove-peer": Command("operator_servers:remove_peer", "Remove a server that does not come back"),
    "operator raft transfer-leadership": Command(
        "operator_servers:transfer_leadership", "Hand the leadership to another server"
    ),
    "operator scheduler get-config": Command("operator:scheduler_get", "Show the scheduler configuration"),
    "operator scheduler set-config": Command("operator:scheduler_set", "Change the scheduler configuration"),
    "operator snapshot inspect": Command("snapshot:inspect", "Show what a saved state holds"),
    "operator snapshot restore": Command("snapshot:restore", "Replace the state of the cluster by a saved one"),
    "operator snapshot save": Command("snapshot:save", "Save the state of the cluster to a file"),
    "scaling policy info": Command("scaling:policy_info", "Show a scaling policy"),
    "scaling policy list": Command("scaling:policy_list", "List scaling policies"),
    "server force-leave": Command("server:force_leave", "Let a server go that failed and does not come back"),
    "server join": Command("server:join", "Have an agent join other servers"),
    "server members": Command("server:members", "List the servers and who leads"),
    "status": Command("cluster:status", "Show whatever object an id belongs to"),
    "system gc": Command("operator:system_gc", "Collect garbage now"),
    "system reconcile summaries": Command("operator:reconcile_summaries", "Count the summaries of all jobs anew"),
    "tls ca create": Command("tls:ca_create", "Create an authority for the certificates of agents"),
    "tls ca info": Command("tls:ca_info", "Show the certificate of an authority"),
    "tls cert create": Command("tls:cert_create", "Create a certificate for an agent or the command line"),
    "tls cert info": Command("tls:cert_info", "Show the certificate of an agent"),
    "top": Command("top:top", "Watch nodes, jobs and allocations live"),
    "version": Command("version:version", "Print the version of this program"),
}

ALIASES: dict[str, str] = {
    "alloc-status": "alloc status",
    "eval-status": "eval status",
    "exec": "alloc exec",
    "fs": "alloc fs",
    "init": "job init",
    "inspect": "job inspect",
    "logs": "alloc logs",
    "node-drain": "node drain",
    "node-status": "node status",
    "operator keygen": "operator gossip keyring generate",
    "operator keyring": "operator gossip keyring",
    "plan": "job plan",
    "run": "job run",
    "server-force-leave": "server force-leave",
    "server-join": "server join",
    "server-members": "server members",
    "stop": "job stop",
    "validate": "job validate",
}
"""Short forms and the older spellings that scripts still use."""

OVERVIEW: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Start here", ("agent", "job init", "job run", "top")),
    ("Jobs", ("job plan", "job status", "job stop", "job history", "job revert", "job scale", "job validate")),
    ("Allocations", ("alloc status", "alloc logs", "alloc exec", "alloc fs", "alloc restart")),
    ("Cluster", ("node status", "node drain", "server members", "eval status", "deployment status", "monitor")),
)
"""What ``nomadpy`` without arguments shows first; every group is listed below it."""

GROUPS: dict[str, str] = {
    "alloc": "Inspect and control allocations",
    "deployment": "Inspect and steer deployments",
    "eval": "Inspect evaluations",
    "job": "Register, inspect and control jobs",
    "job periodic": "Control periodic jobs",
    "job tag": "Name versions of jobs",
    "namespace": "Inspect and change namespaces",
    "node": "Inspect and control nodes",
    "node pool": "Inspect and change node pools",
    "operator": "Tools for those who run the cluster",
    "operator autopilot": "See and steer how the leader looks after the servers",
    "operator gossip": "Keys that encrypt what agents tell each other",
    "operator raft": "See and change which servers vote",
    "operator scheduler": "Read and change the scheduler configuration",
    "operator snapshot": "Save and restore the state of the cluster",
    "scaling": "Inspect scaling",
    "scaling policy": "Inspect scaling policies",
    "server": "Inspect servers",
    "system": "Housekeeping of the whole cluster",
    "system reconcile": "Recount derived state",
    "tls": "Certificates for agents",
    "tls ca": "The authority that issues them",
    "tls cert": "Certificates of agents",
}


def resolve(words: list[str]) -> tuple[str, list[str]] | None:
    """The full name of the command that ``words`` begin with, and the words left over; None when there is none.

    >>> resolve(["job", "run", "-detach", "x.hcl"])
    ('job run', ['-detach', 'x.hcl'])
    >>> resolve(["run", "x.hcl"])
    ('job run', ['x.hcl'])
    >>> resolve(["jbo", "run"]) is None
    True
    """
    for length in (4, 3, 2, 1):
        name = " ".join(words[:length])
        name = ALIASES.get(name, name)
        if len(words) >= length and name in COMMANDS:
            return name, words[length:]
    return None


def below(group: str) -> dict[str, Command]:
    """The commands of a group by full name, sorted.

    >>> list(below("namespace"))
    ['namespace apply', 'namespace delete', 'namespace inspect', 'namespace list', 'namespace status']
    """
    return {name: command for name, command in sorted(COMMANDS.items()) if name.startswith(group + " ")}
