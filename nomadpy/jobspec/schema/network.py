"""Networks, their ports, and the volumes that groups ask for and tasks mount."""

from __future__ import annotations

from nomadpy.jobspec.schema.rows import (
    Block,
    Raw,
    Report,
    boolean,
    duration,
    integer,
    labelled,
    one,
    string,
    string_map,
    strings,
)


def _finish_network(raw: Raw, report: Report) -> None:
    """Sorts ports by whether their number is given; the old ``reserved_ports`` counts only where no port block is."""
    ports, legacy = raw.pop("ports", None), raw.pop("legacy_ports", None)
    if ports is None:
        ports = legacy or []
    reserved = [port for port in ports if port.get("Value", 0) > 0]
    dynamic = [port for port in ports if port.get("Value", 0) <= 0]
    if reserved:
        raw["ReservedPorts"] = reserved
    if dynamic:
        raw["DynamicPorts"] = dynamic


PORT = Block(
    "Port",
    "A port that the group uses.",
    integer("static", "A fixed host port; without it a free one is chosen.", key="Value"),
    integer("to", "The port inside the group's network namespace; -1 for the same number."),
    string("host_network", "The client's host network that the port belongs to."),
    boolean("ignore_collision", "Let several allocations share this static port (host mode only)."),
)

NETWORK = Block(
    "NetworkResource",
    "A group's network and its ports.",
    string("mode", "host if absent; or bridge, none, cni/<name>."),
    string("hostname", "The host name inside the group's network namespace."),
    labelled("port", PORT, key="ports", label_key="Label"),
    labelled("reserved_ports", PORT, key="legacy_ports", label_key="Label"),
    one(
        "dns",
        Block(
            "DNSConfig",
            "Resolver settings of the group's network namespace.",
            strings("servers", "Addresses of name servers."),
            strings("searches", "Search domains."),
            strings("options", "Resolver options."),
        ),
        key="DNS",
    ),
    one("cni", Block("CNIConfig", "For CNI plugins.", string_map("args", "Arguments for the plugins.")), key="CNI"),
    integer("mbits", "Deprecated and ignored.", key="MBits"),
    string("device", "The network device; set by the system."),
    string("cidr", "The address range; set by the system."),
    string("ip", "The address; set by the system."),
    finish=_finish_network,
)

VOLUME = Block(
    "VolumeRequest",
    "A volume that the group needs on its node.",
    string("type", "host or csi.", choices="host csi"),
    string("source", "The volume's name on the client, or the id of a CSI volume."),
    boolean("read_only", "Mount it read-only."),
    string(
        "access_mode",
        "How many may use it, and for what.",
        choices="single-node-reader-only single-node-writer single-node-single-writer single-node-multi-writer "
        "multi-node-reader-only multi-node-single-writer multi-node-multi-writer",
    ),
    string("attachment_mode", "How a CSI volume appears.", choices="file-system block-device"),
    boolean("per_alloc", "One volume for each allocation; [<index>] is added to the source."),
    boolean("sticky", "Bind the group to the volume that it used first."),
    one(
        "mount_options",
        Block(
            "MountOptions",
            "How a CSI file system is mounted.",
            string("fs_type", "The file system.", key="FSType"),
            strings("mount_flags", "Mount options."),
        ),
    ),
)

VOLUME_MOUNT = Block(
    "VolumeMount",
    "Where the task sees a volume of its group.",
    string("volume", "The label of the group's volume block."),
    string("destination", "The path in the task."),
    boolean("read_only", "Mount it read-only."),
    string("propagation_mode", "How mounts made below it spread.", choices="private host-to-task bidirectional"),
    string("selinux_label", "z or Z.", key="SELinuxLabel"),
)

CSI_PLUGIN = Block(
    "CSIPluginConfig",
    "Marks the task as a CSI plugin.",
    string("id", "The plugin's id."),
    string("type", "What it serves.", choices="node controller monolith"),
    string("mount_dir", "Where the plugin finds its socket directory; /csi if absent."),
    string("stage_publish_base_dir", "Where volumes are staged; /local/csi if absent."),
    duration("health_timeout", "How long it may take to become healthy; 30s if absent."),
)
