"""Answers of an agent as the API gives them, for a cluster of two nodes that runs a service, a batch and a cron job."""

from __future__ import annotations

from typing import Any

NOW_NS = 1_790_000_000_000_000_000
MINUTE_NS = 60_000_000_000
NODE = "f7b2c3d4-1111-4222-8333-444455556666"
OTHER_NODE = "f7b2ffff-1111-4222-8333-444455556666"
EVAL = "0e0e0e0e-aaaa-4bbb-8ccc-000000000001"
ALLOC = "a1a1a1a1-aaaa-4bbb-8ccc-000000000001"
OTHER_ALLOC = "a1a1b2b2-aaaa-4bbb-8ccc-000000000002"
DEPLOYMENT = "d4d4d4d4-aaaa-4bbb-8ccc-000000000001"
ZERO_TIME = "0001-01-01T00:00:00Z"


def counts(**numbers: int) -> dict[str, int]:
    """A summary of one task group."""
    names = ("Queued", "Complete", "Failed", "Running", "Starting", "Lost", "Unknown")
    return {name: numbers.get(name.lower(), 0) for name in names}


def job_stub(job_id: str = "web", **changes: Any) -> dict[str, Any]:
    """An entry of the job list."""
    stub = {
        "ID": job_id,
        "ParentID": "",
        "Name": job_id,
        "Namespace": "default",
        "Datacenters": ["dc1"],
        "NodePool": "default",
        "Type": "service",
        "Priority": 50,
        "Periodic": False,
        "ParameterizedJob": False,
        "Stop": False,
        "Status": "running",
        "StatusDescription": "",
        "JobSummary": {
            "JobID": job_id,
            "Namespace": "default",
            "Summary": {"front": counts(running=2)},
            "Children": {"Pending": 0, "Running": 0, "Dead": 0},
        },
        "SubmitTime": NOW_NS - 5 * MINUTE_NS,
        "CreateIndex": 10,
        "ModifyIndex": 20,
        "JobModifyIndex": 10,
    }
    return {**stub, **changes}


def job(job_id: str = "web", **changes: Any) -> dict[str, Any]:
    """A registered job."""
    found = {
        "ID": job_id,
        "Name": job_id,
        "ParentID": "",
        "Region": "global",
        "Namespace": "default",
        "Type": "service",
        "Priority": 50,
        "Datacenters": ["dc1", "dc2"],
        "NodePool": "default",
        "TaskGroups": [{"Name": "front", "Count": 2, "Tasks": [{"Name": "httpd", "Driver": "raw_exec"}]}],
        "Periodic": None,
        "ParameterizedJob": None,
        "Stop": False,
        "Stable": True,
        "Status": "running",
        "StatusDescription": "",
        "Version": 3,
        "SubmitTime": NOW_NS - 5 * MINUTE_NS,
        "JobModifyIndex": 10,
        "VersionTag": None,
    }
    return {**found, **changes}


def alloc_stub(alloc_id: str = ALLOC, **changes: Any) -> dict[str, Any]:
    """An entry of the allocation list."""
    stub = {
        "ID": alloc_id,
        "EvalID": EVAL,
        "Name": "web.front[0]",
        "Namespace": "default",
        "NodeID": NODE,
        "NodeName": "node-1",
        "JobID": "web",
        "JobType": "service",
        "JobVersion": 3,
        "TaskGroup": "front",
        "DesiredStatus": "run",
        "DesiredDescription": "",
        "ClientStatus": "running",
        "ClientDescription": "Tasks are running",
        "DesiredTransition": {},
        "TaskStates": {},
        "DeploymentStatus": None,
        "CreateIndex": 30,
        "ModifyIndex": 40,
        "CreateTime": NOW_NS - 5 * MINUTE_NS,
        "ModifyTime": NOW_NS - 4 * MINUTE_NS,
    }
    return {**stub, **changes}


def event(kind: str, said: str, minutes_ago: float, **details: str) -> dict[str, Any]:
    """Something that happened to a task."""
    return {
        "Type": kind,
        "Time": int(NOW_NS - minutes_ago * MINUTE_NS),
        "DisplayMessage": said,
        "Message": "",
        "Details": details,
    }


def alloc(alloc_id: str = ALLOC, **changes: Any) -> dict[str, Any]:
    """A full allocation with a main task and a sidecar."""
    found = {
        "ID": alloc_id,
        "EvalID": EVAL,
        "Namespace": "default",
        "Name": "web.front[0]",
        "NodeID": NODE,
        "NodeName": "node-1",
        "JobID": "web",
        "TaskGroup": "front",
        "Job": job(
            TaskGroups=[{"Name": "front", "Tasks": [{"Name": "httpd"}, {"Name": "shipper"}]}],
        ),
        "AllocatedResources": {
            "Tasks": {
                "httpd": {"Cpu": {"CpuShares": 500}, "Memory": {"MemoryMB": 256, "MemoryMaxMB": 0}},
                "shipper": {"Cpu": {"CpuShares": 100}, "Memory": {"MemoryMB": 64, "MemoryMaxMB": 128}},
            },
            "TaskLifecycles": {"httpd": None, "shipper": {"Hook": "prestart", "Sidecar": True}},
            "Shared": {
                "DiskMB": 300,
                "Networks": [{"ReservedPorts": [{"Label": "admin", "Value": 9000}]}],
                "Ports": [
                    {"Label": "http", "Value": 23456, "To": 8080, "HostIP": "10.0.0.5"},
                    {"Label": "admin", "Value": 9000, "HostIP": "10.0.0.5"},
                ],
            },
        },
        "Metrics": {
            "NodesEvaluated": 2,
            "NodesFiltered": 1,
            "NodesExhausted": 0,
            "NodesAvailable": {"dc1": 2},
            "ConstraintFiltered": {"${attr.kernel.name} = linux": 1},
            "AllocationTime": 1_250_000,
            "ScoreMetaData": [{"NodeID": NODE, "Scores": {"binpack": 0.81, "job-anti-affinity": 0}, "NormScore": 0.81}],
        },
        "DesiredStatus": "run",
        "ClientStatus": "running",
        "ClientDescription": "Tasks are running",
        "TaskStates": {
            "httpd": {
                "State": "running",
                "Failed": False,
                "Restarts": 1,
                "LastRestart": "2026-09-21T14:55:00Z",
                "StartedAt": "2026-09-21T14:55:30.5Z",
                "FinishedAt": ZERO_TIME,
                "Events": [
                    event("Received", "Task received by client", 5),
                    event("Task Setup", "Building Task Directory", 5),
                    event("Terminated", "Exit Code: 1", 4, exit_code="1"),
                    event("Restarting", "Task restarting in 15.6s", 4),
                    event("Started", "Task started by client", 3),
                ],
            },
            "shipper": {
                "State": "running",
                "Failed": False,
                "Restarts": 0,
                "LastRestart": ZERO_TIME,
                "StartedAt": "2026-09-21T14:54:30Z",
                "FinishedAt": ZERO_TIME,
                "Events": [event("Started", "Task started by client", 5)],
            },
        },
        "DeploymentID": DEPLOYMENT,
        "DeploymentStatus": {"Healthy": True, "Timestamp": "2026-09-21T14:56:00Z", "Canary": False},
        "DesiredTransition": {},
        "CreateTime": NOW_NS - 5 * MINUTE_NS,
        "ModifyTime": NOW_NS - 4 * MINUTE_NS,
        "CreateIndex": 30,
        "ModifyIndex": 40,
    }
    return {**found, **changes}


def alloc_stats() -> dict[str, Any]:
    """What the tasks of an allocation use."""

    def usage(ticks: float, mib: int) -> dict[str, Any]:
        return {
            "ResourceUsage": {
                "CpuStats": {"TotalTicks": ticks, "Percent": ticks / 24, "ThrottledPeriods": 0},
                "MemoryStats": {"RSS": mib << 20, "Usage": mib << 20},
            },
            "Timestamp": NOW_NS,
            "Pids": None,
        }

    tasks = {"httpd": usage(120.4, 80), "shipper": usage(3.2, 12)}
    return {"ResourceUsage": usage(123.6, 92)["ResourceUsage"], "Tasks": tasks, "Timestamp": NOW_NS}


def deployment(**changes: Any) -> dict[str, Any]:
    """A deployment that is done."""
    group = {
        "AutoRevert": True,
        "Promoted": False,
        "RequireProgressBy": "2026-09-21T15:05:00Z",
        "DesiredCanaries": 0,
        "DesiredTotal": 2,
        "PlacedAllocs": 2,
        "HealthyAllocs": 2,
        "UnhealthyAllocs": 0,
        "PlacedCanaries": None,
    }
    found = {
        "ID": DEPLOYMENT,
        "Namespace": "default",
        "JobID": "web",
        "JobVersion": 3,
        "Status": "successful",
        "StatusDescription": "Deployment completed successfully",
        "TaskGroups": {"front": group},
        "CreateIndex": 31,
        "ModifyIndex": 44,
    }
    return {**found, **changes}


def evaluation(**changes: Any) -> dict[str, Any]:
    """An evaluation that placed everything."""
    found = {
        "ID": EVAL,
        "Namespace": "default",
        "Priority": 50,
        "Type": "service",
        "TriggeredBy": "job-register",
        "JobID": "web",
        "Status": "complete",
        "DeploymentID": DEPLOYMENT,
        "QueuedAllocations": {"front": 0},
        "CreateIndex": 29,
        "ModifyIndex": 33,
        "CreateTime": NOW_NS - 5 * MINUTE_NS,
        "ModifyTime": NOW_NS - 5 * MINUTE_NS,
    }
    return {**found, **changes}


def failed_metrics(**changes: Any) -> dict[str, Any]:
    """Why one group could not be placed."""
    found = {
        "NodesEvaluated": 3,
        "NodesFiltered": 2,
        "NodesInPool": 3,
        "NodePool": "default",
        "NodesAvailable": {"dc1": 3, "dc9": 0},
        "ClassFiltered": {"gpu": 1},
        "ConstraintFiltered": {"${attr.kernel.name} = linux": 1, "missing drivers": 1},
        "NodesExhausted": 1,
        "ClassExhausted": None,
        "DimensionExhausted": {"memory": 1},
        "QuotaExhausted": None,
        "CoalescedFailures": 1,
    }
    return {**found, **changes}


def node_stub(node_id: str = NODE, **changes: Any) -> dict[str, Any]:
    """An entry of the node list."""
    stub = {
        "ID": node_id,
        "Address": "10.0.0.5",
        "Datacenter": "dc1",
        "Name": "node-1",
        "NodePool": "default",
        "NodeClass": "",
        "Version": "1.10.0",
        "Drain": False,
        "SchedulingEligibility": "eligible",
        "Status": "ready",
        "StatusDescription": "",
        "Drivers": {},
        "HostVolumes": {},
    }
    return {**stub, **changes}


def node(node_id: str = NODE, **changes: Any) -> dict[str, Any]:
    """A full node."""
    driver = {"Detected": True, "Healthy": True, "HealthDescription": "Healthy", "UpdateTime": "2026-09-21T14:00:00Z"}
    found = {
        **node_stub(node_id),
        "HTTPAddr": "10.0.0.5:4646",
        "Attributes": {"kernel.name": "linux", "os.name": "debian"},
        "Meta": {"rack": "r1"},
        "NodeResources": {"Cpu": {"CpuShares": 4800}, "Memory": {"MemoryMB": 7900}, "Disk": {"DiskMB": 50_000}},
        "ReservedResources": {"Cpu": {"CpuShares": 0}, "Memory": {"MemoryMB": 0}, "Disk": {"DiskMB": 0}},
        "DrainStrategy": None,
        "Drivers": {
            "raw_exec": driver,
            "docker": {**driver, "Healthy": False, "HealthDescription": "Failed to connect to docker daemon"},
            "java": {**driver, "Detected": False, "Healthy": False},
        },
        "Events": [
            {
                "Message": "Node registered",
                "Subsystem": "Cluster",
                "Timestamp": "2026-09-21T14:00:00Z",
                "Details": None,
            },
            {"Message": "Driver docker is unhealthy", "Subsystem": "Driver", "Timestamp": "2026-09-21T14:30:00Z"},
        ],
        "LastDrain": None,
    }
    return {**found, **changes}


def host_stats() -> dict[str, Any]:
    """The statistics of a host."""
    gib = 1 << 30
    return {
        "Memory": {"Total": 8 * gib, "Available": 5 * gib, "Used": 3 * gib, "Free": gib},
        "CPU": [{"CPU": "cpu0", "User": 10.0, "System": 2.0, "Idle": 88.0, "TotalPercent": 12.0, "TotalTicks": 288.0}],
        "DiskStats": [],
        "AllocDirStats": {"Device": "/dev/sda1", "Mountpoint": "/", "Size": 100 * gib, "Used": 40 * gib},
        "DeviceStats": None,
        "Uptime": 93_784,
        "Timestamp": NOW_NS,
        "CPUTicksConsumed": 288.4,
    }


def plan() -> dict[str, Any]:
    """The answer to a dry run of a change that replaces every allocation."""
    return {
        "Annotations": {
            "DesiredTGUpdates": {"front": {"Ignore": 0, "Place": 1, "DestructiveUpdate": 2}},
            "PreemptedAllocs": None,
        },
        "FailedTGAllocs": None,
        "JobModifyIndex": 10,
        "CreatedEvals": None,
        "Diff": {
            "Type": "Edited",
            "ID": "web",
            "Fields": [{"Type": "Edited", "Name": "Priority", "Old": "50", "New": "60", "Annotations": None}],
            "Objects": [
                {"Type": "Added", "Name": "Datacenters", "Fields": [_field("Added", "Datacenters", "", "dc2")]},
            ],
            "TaskGroups": [
                {
                    "Type": "Edited",
                    "Name": "front",
                    "Fields": [{**_field("Edited", "Count", "2", "3"), "Annotations": ["forces create"]}],
                    "Objects": None,
                    "Tasks": [
                        {
                            "Type": "Edited",
                            "Name": "httpd",
                            "Annotations": ["forces create/destroy update"],
                            "Fields": [_field("Deleted", "User", "nobody", "")],
                            "Objects": [
                                {
                                    "Type": "Edited",
                                    "Name": "Config",
                                    "Fields": [
                                        _field("Edited", "args[0]", "a", "b"),
                                        _field("None", "command", "/bin/httpd", "/bin/httpd"),
                                    ],
                                    "Objects": None,
                                }
                            ],
                        }
                    ],
                    "Updates": {"create": 1, "create/destroy update": 2},
                }
            ],
        },
        "NextPeriodicLaunch": ZERO_TIME,
        "Warnings": "",
        "Index": 10,
    }


def _field(kind: str, name: str, old: str, new: str) -> dict[str, Any]:
    return {"Type": kind, "Name": name, "Old": old, "New": new, "Annotations": None}


def explanation(**changes: Any) -> dict[str, Any]:
    """One group of the answer to ``job plan -why``."""
    refused = {
        "NodeID": OTHER_NODE,
        "NodeName": "n2",
        "Holds": 1,
        "Fits": False,
        "Obstacles": [
            {"Kind": "memory", "Reason": "memory", "Detail": "memory: asks 512 MB, 200 free of 512 (short by 312 MB)"},
            {"Kind": "driver", "Reason": "missing drivers", "Detail": 'driver "docker" is not detected there'},
        ],
    }
    fits = {"NodeID": NODE, "NodeName": "n1", "Fits": True, "Scores": {"binpack": 0.5, "spread": 0}, "NormScore": 0.5}
    told = {
        "AfterPlan": False,
        "Unplaced": 0,
        "NodeCount": 2,
        "FitCount": 1,
        "Nodes": [fits, refused],
        "Refusals": [{"Reasons": ["memory", "missing drivers"], "Count": 1, "Nodes": [OTHER_NODE]}],
    }
    return {**told, **changes}


def room(**changes: Any) -> dict[str, Any]:
    """One group of a capacity."""
    limits = {"memory": 2, "cpu": 1}
    told = {"Fits": 7, "Nodes": 2, "Suitable": 3, "Limits": limits, "RunsOutFirst": "memory", "Exact": True}
    return {**told, "Displaced": 0, **changes}
