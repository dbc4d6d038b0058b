"""Who a task is, and the secrets that it is given: identity, vault, consul, secret."""

from __future__ import annotations

from nomadpy.jobspec.schema.rows import (
    Block,
    Raw,
    Report,
    boolean,
    duration,
    free_map,
    string,
    string_map,
    strings,
)

IDENTITY = Block(
    "WorkloadIdentity",
    "A token that the task or service is given.",
    string("name", "default if absent."),
    strings("aud", "Whom the token is for.", key="Audience"),
    boolean("env", "Hand it over as an environment variable."),
    boolean("file", "Hand it over as a file."),
    string("filepath", "Where the file is written, from the task's directory."),
    string("change_mode", "What follows a renewal.", choices="noop signal restart"),
    string("change_signal", "The signal of change_mode signal."),
    duration("ttl", "How long a token is valid; 0 for ever.", key="TTL"),
    string("service_name", "Set by the servers."),
    strings("extra_claims", "Names of claims that the namespace configures."),
)


def _finish_vault(raw: Raw, report: Report) -> None:
    raw.setdefault("Env", True)
    raw.setdefault("DisableFile", False)
    raw.setdefault("ChangeMode", "restart")


VAULT = Block(
    "Vault",
    "A Vault token for the task.",
    string("role", "The role that the token is made for."),
    string("cluster", "The Vault cluster; default if absent."),
    string("namespace", "The Vault namespace."),
    boolean("env", "Export VAULT_TOKEN; true if absent."),
    boolean("disable_file", "Do not write the token to secrets/vault_token."),
    string("change_mode", "What follows a new token.", choices="noop signal restart"),
    string("change_signal", "The signal of change_mode signal; SIGHUP if absent."),
    boolean("allow_token_expiration", "Do not renew the token."),
    strings("policies", "Accepted for compatibility."),
    finish=_finish_vault,
)

CONSUL = Block(
    "Consul",
    "Which Consul the group or task uses.",
    string("namespace", "The Consul namespace."),
    string("cluster", "The Consul cluster; default if absent."),
    string("partition", "The Consul partition."),
)

SECRET = Block(
    "Secret",
    "Values fetched before the task starts, read as ${secret.<name>.<key>}.",
    string("provider", "nomad, vault, or a secrets plugin of the client."),
    string("path", "Where the provider keeps the values."),
    free_map("config", "Settings of the providers nomad and vault."),
    string_map("env", "Environment of a secrets plugin."),
)
