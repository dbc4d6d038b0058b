"""What a task asks of its node: processors, memory, devices, and room for logs."""

from __future__ import annotations

from nomadpy.jobspec.schema.network import NETWORK
from nomadpy.jobspec.schema.policies import AFFINITY, CONSTRAINT
from nomadpy.jobspec.schema.rows import Block, boolean, integer, labelled, many, one, string, strings

DEVICE = Block(
    "RequestedDevice",
    "Devices of one type, vendor/type or vendor/type/model.",
    integer("count", "How many; 1 if absent."),
    many("constraint", CONSTRAINT, key="Constraints"),
    many("affinity", AFFINITY, key="Affinities"),
)

RESOURCES = Block(
    "Resources",
    "What the task asks for.",
    integer("cpu", "MHz; 100 if absent and no cores are reserved.", key="CPU"),
    integer("cores", "Whole cores, reserved for the task."),
    integer("memory", "MiB; 300 if absent.", key="MemoryMB"),
    integer(
        "memory_max", "MiB that the task may use where memory is oversubscribed; -1 for no limit.", key="MemoryMaxMB"
    ),
    integer("secrets", "MiB of the secrets directory.", key="SecretsMB"),
    integer("disk", "Not for tasks; use the group's ephemeral_disk.", key="DiskMB"),
    integer("iops", "Deprecated and ignored.", key="IOPS"),
    many("network", NETWORK, key="Networks"),
    labelled("device", DEVICE, key="Devices"),
    one(
        "numa",
        Block(
            "NUMA",
            "How strictly cores must share a memory node.",
            string("affinity", "none if absent.", choices="none prefer require"),
            strings("devices", "Requested devices that must be near, too."),
        ),
        key="NUMA",
    ),
)

LOGS = Block(
    "LogConfig",
    "How much of the task's output is kept.",
    integer("max_files", "Files for each of stdout and stderr; 10 if absent."),
    integer("max_file_size", "MB of each file; 10 if absent.", key="MaxFileSizeMB"),
    boolean("disabled", "Keep nothing."),
    boolean("enabled", "Obsolete and ignored.", key="Enabled"),
)
