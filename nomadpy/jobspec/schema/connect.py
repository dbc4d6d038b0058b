"""Consul Connect: sidecars, upstreams and gateways."""

from __future__ import annotations

from nomadpy.jobspec.schema.identity import IDENTITY
from nomadpy.jobspec.schema.network import VOLUME_MOUNT
from nomadpy.jobspec.schema.resources import LOGS, RESOURCES
from nomadpy.jobspec.schema.rows import (
    Block,
    boolean,
    duration,
    free_map,
    integer,
    integers,
    keyed,
    many,
    one,
    string,
    string_map,
    strings,
)

MESH_GATEWAY = Block(
    "MeshGateway",
    "How traffic leaves the datacenter.",
    string("mode", "Which gateway is used.", choices="local remote none"),
)

UPSTREAMS = Block(
    "ConsulUpstream",
    "A service that the task reaches through the proxy.",
    string("destination_name", "The service's name."),
    string("destination_namespace", "Its Consul namespace."),
    string("destination_peer", "The peer cluster that has it."),
    string("destination_partition", "Its Consul partition."),
    string("destination_type", "service or prepared_query."),
    integer("local_bind_port", "Where the proxy listens for the task."),
    string("local_bind_address", "The address that it listens on."),
    string("local_bind_socket_path", "A Unix socket instead of a port."),
    string("local_bind_socket_mode", "The socket's mode."),
    string("datacenter", "Where the service is."),
    one("mesh_gateway", MESH_GATEWAY),
    free_map("config", "Settings of the proxy."),
)

EXPOSE = Block(
    "ExposeConfig",
    "Paths that bypass the proxy's authorization.",
    many(
        "path",
        Block(
            "ExposePath",
            "One such path.",
            string("path", "The URL's path."),
            string("protocol", "http or http2."),
            integer("local_path_port", "The task's port."),
            string("listener_port", "The label of the port that the proxy listens on."),
        ),
        key="Paths",
    ),
)

TRANSPARENT_PROXY = Block(
    "ConsulTransparentProxy",
    "Sends all traffic of the group through the proxy.",
    string("uid", "The proxy's user id.", key="UID"),
    integer("outbound_port", "The proxy's outbound port."),
    strings("exclude_inbound_ports", "Ports that are not redirected."),
    integers("exclude_outbound_ports", "Ports that are not redirected."),
    strings("exclude_outbound_cidrs", "Networks that are not redirected.", key="ExcludeOutboundCIDRs"),
    strings("exclude_uids", "User ids whose traffic is not redirected.", key="ExcludeUIDs"),
    boolean("no_dns", "Do not redirect DNS.", key="NoDNS"),
)

PROXY = Block(
    "ConsulProxy",
    "The sidecar proxy's settings.",
    string("local_service_address", "Where the service listens."),
    integer("local_service_port", "The port that the service listens on."),
    many("upstreams", UPSTREAMS, key="Upstreams"),
    one("expose", EXPOSE),
    one("transparent_proxy", TRANSPARENT_PROXY),
    free_map("config", "Settings of the proxy."),
)

SIDECAR_SERVICE = Block(
    "ConsulSidecarService",
    "The proxy's own registration.",
    strings("tags", "Tags of the proxy's service."),
    string("port", "The label of the proxy's port."),
    string_map("meta", "Metadata of the proxy's service."),
    boolean("disable_default_tcp_check", "No TCP check of the proxy.", key="DisableDefaultTCPCheck"),
    one("proxy", PROXY),
)

SIDECAR_TASK = Block(
    "SidecarTask",
    "Overrides for the proxy's task.",
    string("name", "The task's name."),
    string("driver", "The task driver."),
    string("user", "The user that it runs as."),
    free_map("config", "The driver's settings."),
    string_map("env", "Environment variables."),
    one("resources", RESOURCES),
    string_map("meta", "Metadata."),
    duration("kill_timeout", "The time between asking and killing; 5s if absent."),
    one("logs", LOGS, key="LogConfig"),
    duration("shutdown_delay", "The wait before the proxy is stopped; 5s if absent."),
    string("kill_signal", "The signal that asks it to stop."),
    many("volume_mount", VOLUME_MOUNT, key="VolumeMounts"),
    many("identity", IDENTITY, key="Identities"),
)

# --- gateways -------------------------------------------------------------------------------------------------------

_ADDRESS = Block("", "An address that the gateway listens on.", string("address"), integer("port"))

_GATEWAY_PROXY = Block(
    "",
    "The gateway's proxy.",
    duration("connect_timeout", "How long it may take to connect; 5s if absent."),
    boolean("envoy_gateway_bind_tagged_addresses", "Listen on tagged addresses."),
    keyed("envoy_gateway_bind_addresses", _ADDRESS, key="EnvoyGatewayBindAddresses"),
    boolean("envoy_gateway_no_default_bind", "Do not listen on the default address."),
    string("envoy_dns_discovery_type", "How host names are resolved.", key="EnvoyDNSDiscoveryType"),
    free_map("config", "Settings of the proxy."),
)

_TLS = Block(
    "",
    "TLS of a gateway.",
    boolean("enabled", "Whether clients use TLS."),
    string("tls_min_version", "The oldest version allowed."),
    string("tls_max_version", "The newest version allowed."),
    strings("cipher_suites", "The cipher suites allowed."),
    one(
        "sds",
        Block("", "Certificates from a secret discovery service.", string("cluster_name"), string("cert_resource")),
        key="SDS",
    ),
)

_HEADERS = Block(
    "",
    "How headers are changed.",
    string_map("add", "Headers to add."),
    string_map("set", "Headers to set."),
    strings("remove", "Headers to remove."),
)

_INGRESS_SERVICE = Block(
    "",
    "A service behind an ingress gateway.",
    string("name", "The service's name, or *."),
    strings("hosts", "Host names that lead to it."),
    one("tls", _TLS, key="TLS"),
    one("request_headers", _HEADERS),
    one("response_headers", _HEADERS),
    integer("max_connections", "Connections at the same time."),
    integer("max_pending_requests", "Requests that may wait."),
    integer("max_concurrent_requests", "Requests at the same time."),
)

_INGRESS = Block(
    "",
    "Lets traffic into the mesh.",
    one("tls", _TLS, key="TLS"),
    many(
        "listener",
        Block(
            "",
            "A port of the gateway.",
            integer("port", "Where it listens."),
            string("protocol", "tcp if absent.", choices="tcp http http2 grpc"),
            many("service", _INGRESS_SERVICE, key="Services"),
        ),
        key="Listeners",
    ),
)

_TERMINATING = Block(
    "",
    "Lets traffic out of the mesh.",
    many(
        "service",
        Block(
            "",
            "A service outside the mesh.",
            string("name", "The service's name."),
            string("ca_file", "The authority that signed its certificate.", key="CAFile"),
            string("cert_file", "The gateway's certificate."),
            string("key_file", "The certificate's key."),
            string("sni", "The name that is asked for.", key="SNI"),
        ),
        key="Services",
    ),
)

GATEWAY = Block(
    "",
    "A Connect gateway.",
    one("proxy", _GATEWAY_PROXY),
    one("ingress", _INGRESS),
    one("terminating", _TERMINATING),
    one("mesh", Block("", "Joins meshes.")),
)

CONNECT = Block(
    "ConsulConnect",
    "Takes part in Consul's service mesh; exactly one of native, sidecar_service and gateway.",
    boolean("native", "The task itself speaks the mesh's protocol."),
    one("sidecar_service", SIDECAR_SERVICE),
    one("sidecar_task", SIDECAR_TASK),
    one("gateway", GATEWAY),
)
