"""What a task asks for, what a node offers, and what an allocation was given."""

from __future__ import annotations

from msgspec import field

from nomadpy.model.naming import Noun, SparseNoun


class Port(SparseNoun):
    """A port that a group asks for: ``value`` is the host port (0 until a dynamic one is chosen)."""

    label: str = ""
    value: int = 0
    to: int = 0
    host_network: str = ""
    ignore_collision: bool = False


class DNSConfig(Noun):
    """Resolver settings of an allocation's own network."""

    servers: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


class CNIConfig(Noun):
    """Arguments handed to CNI plugins."""

    args: dict[str, str] = {}


class NetworkResource(SparseNoun):
    """A group's network: what it asks for, and on an allocation what it got."""

    mode: str = ""
    device: str = ""
    cidr: str = ""
    ip: str = ""
    hostname: str = ""
    mbits: int = field(default=0, name="MBits")
    dns: DNSConfig | None = None
    reserved_ports: tuple[Port, ...] = ()
    dynamic_ports: tuple[Port, ...] = ()
    cni: CNIConfig | None = None


class Constraint(Noun):
    """A condition that a node must meet. ``operand`` is one of the operators of the job specification."""

    l_target: str = ""
    r_target: str = ""
    operand: str = ""

    def __str__(self) -> str:
        """The text that scheduling metrics use for this constraint."""
        return f"{self.l_target} {self.operand} {self.r_target}"


class Affinity(Noun):
    """A wish about nodes; ``weight`` is -100…100 and never 0."""

    l_target: str = ""
    r_target: str = ""
    operand: str = ""
    weight: int = 0


class SpreadTarget(Noun):
    """The share of allocations, in percent, that one value of the spread's attribute should get."""

    value: str = ""
    percent: int = 0


class Spread(Noun):
    """A wish to distribute allocations over the values of a node attribute."""

    attribute: str = ""
    weight: int = 0
    spread_target: tuple[SpreadTarget, ...] = ()


class RequestedDevice(Noun):
    """A number of devices of one type, vendor or model."""

    name: str = ""
    count: int = 1
    constraints: tuple[Constraint, ...] = ()
    affinities: tuple[Affinity, ...] = ()


class NUMA(Noun):
    """How strictly cores must share a memory node: none, prefer or require."""

    affinity: str = ""
    devices: tuple[str, ...] = ()


class Resources(Noun):
    """What one task asks for."""

    cpu: int = 0
    cores: int = 0
    memory_mb: int = 0
    memory_max_mb: int = 0
    disk_mb: int = 0
    iops: int = 0
    networks: tuple[NetworkResource, ...] = ()
    devices: tuple[RequestedDevice, ...] = ()
    numa: NUMA | None = None
    secrets_mb: int = 0


# --- what a node offers -------------------------------------------------------------------------------------------


class NodeCpu(Noun):
    """A node's processors: total MHz, and the core ids that tasks may reserve."""

    cpu_shares: int = field(default=0, name="CpuShares")
    total_cpu_cores: int = field(default=0, name="TotalCpuCores")
    reservable_cpu_cores: tuple[int, ...] = field(default=(), name="ReservableCpuCores")

    def core_mhz(self) -> int:
        """MHz of one core, which is what a reserved core takes; 0 when the node does not say how many it has."""
        cores = self.total_cpu_cores or len(self.reservable_cpu_cores)
        return self.cpu_shares // cores if cores else 0


class NodeMemory(Noun):
    memory_mb: int = 0


class NodeDisk(Noun):
    disk_mb: int = 0


class TopologyCore(Noun):
    """One logical processor; speeds in MHz."""

    socket_id: int = 0
    node_id: int = 0
    id: int = 0
    grade: int = 0
    disable: bool = False
    base_speed: int = 0
    max_speed: int = 0
    guess_speed: int = 0


class Topology(Noun):
    """Memory nodes, their distances and the cores on them."""

    nodes: tuple[int, ...] = ()
    distances: tuple[tuple[int, ...], ...] = ()
    cores: tuple[TopologyCore, ...] = ()
    override_total_compute: int = 0
    override_withold_compute: int = 0


class NodeProcessors(Noun):
    topology: Topology | None = None


class NodeNetworkAddress(Noun):
    """An address of a node under the alias that ``host_network`` names."""

    family: str = "ipv4"
    alias: str = "default"
    address: str = ""
    reserved_ports: str = ""
    gateway: str = ""


class NodeNetwork(Noun):
    mode: str = "host"
    device: str = ""
    mac_address: str = ""
    speed: int = 0
    addresses: tuple[NodeNetworkAddress, ...] = ()


class DeviceAttribute(Noun):
    """A typed value with a unit; exactly one of the four is set."""

    float_: float | None = field(default=None, name="Float")
    int_: int | None = field(default=None, name="Int")
    string: str | None = None
    bool_: bool | None = field(default=None, name="Bool")
    unit: str = ""


class DeviceLocality(Noun):
    pci_bus_id: str = field(default="", name="PciBusID")


class DeviceInstance(Noun):
    id: str = ""
    healthy: bool = False
    health_description: str = ""
    locality: DeviceLocality | None = None


class NodeDevice(Noun):
    """A group of equal devices on a node."""

    vendor: str = ""
    type: str = ""
    name: str = ""
    instances: tuple[DeviceInstance, ...] = ()
    attributes: dict[str, DeviceAttribute] = {}


class NodeResources(Noun):
    """Everything a node has, before the reserved part is taken off."""

    cpu: NodeCpu = field(default=NodeCpu(), name="Cpu")
    processors: NodeProcessors = NodeProcessors()
    memory: NodeMemory = NodeMemory()
    disk: NodeDisk = NodeDisk()
    devices: tuple[NodeDevice, ...] = ()
    node_networks: tuple[NodeNetwork, ...] = ()
    networks: tuple[NetworkResource, ...] = ()
    min_dynamic_port: int = 20_000
    max_dynamic_port: int = 32_000


class ReservedCpu(Noun):
    cpu_shares: int = field(default=0, name="CpuShares")
    reserved_cpu_cores: tuple[int, ...] = field(default=(), name="ReservedCpuCores")


class ReservedNetworks(Noun):
    """Host ports kept from jobs, in the form ``22,80,8000-9000``."""

    reserved_host_ports: str = ""


class NodeReservedResources(Noun):
    """What the operator keeps for the system."""

    cpu: ReservedCpu = field(default=ReservedCpu(), name="Cpu")
    memory: NodeMemory = NodeMemory()
    disk: NodeDisk = NodeDisk()
    networks: ReservedNetworks = ReservedNetworks()


# --- what an allocation was given ---------------------------------------------------------------------------------


class AllocatedPort(SparseNoun):
    """A host port given to an allocation."""

    label: str = ""
    value: int = 0
    to: int = 0
    host_ip: str = ""
    ignore_collision: bool = False


class AllocatedCpu(Noun):
    cpu_shares: int = field(default=0, name="CpuShares")
    reserved_cores: tuple[int, ...] = ()


class AllocatedMemory(Noun):
    memory_mb: int = 0
    memory_max_mb: int = 0


class AllocatedDevice(Noun):
    vendor: str = ""
    type: str = ""
    name: str = ""
    device_ids: tuple[str, ...] = field(default=(), name="DeviceIDs")


class AllocatedTaskResources(Noun):
    """What one task of an allocation was given."""

    cpu: AllocatedCpu = field(default=AllocatedCpu(), name="Cpu")
    memory: AllocatedMemory = AllocatedMemory()
    networks: tuple[NetworkResource, ...] = ()
    devices: tuple[AllocatedDevice, ...] = ()


class AllocatedSharedResources(Noun):
    """What all tasks of an allocation share."""

    networks: tuple[NetworkResource, ...] = ()
    disk_mb: int = 0
    ports: tuple[AllocatedPort, ...] = ()


class TaskLifecycle(Noun):
    """When a task runs relative to the main tasks: prestart, poststart or poststop; a sidecar stays alive with them."""

    hook: str = ""
    sidecar: bool = False


class AllocatedResources(Noun):
    """Everything an allocation was given."""

    tasks: dict[str, AllocatedTaskResources] = {}
    task_lifecycles: dict[str, TaskLifecycle | None] = {}
    shared: AllocatedSharedResources = AllocatedSharedResources()
