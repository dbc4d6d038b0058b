"""Rules for identities, Vault blocks, secrets and actions: what gives a task its credentials and commands."""

from __future__ import annotations

import re

from nomadpy.model.job import Action, Secret, Task, Vault
from nomadpy.model.service import WorkloadIdentity
from nomadpy.model.validate.report import Problems, nested

CHANGE_MODES = ("noop", "signal", "restart")
_IDENTITY_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}\Z")
_SECRET_NAME = re.compile(r"[a-zA-Z0-9_]{1,128}\Z")
_ACTION_NAME = re.compile(r"[^\s\x00]{1,128}\Z")


def check_identities(task: Task) -> Problems:
    """Problems of a task's default identity and of its others."""
    if task.identity is not None:
        yield from nested("Identity default", _identity(task.identity))
    seen = {"default"}
    for identity in task.identities:
        yield from nested(f"Identity {identity.name}", _identity(identity))
        if identity.name in seen:
            yield f'Identity "{identity.name}" is defined more than once'
        seen.add(identity.name)


def check_service_identity(identity: WorkloadIdentity) -> Problems:
    """Problems of a service's identity, which must say for whom its token is."""
    yield from _identity(identity)
    if not identity.audience:
        yield "Service identity must provide at least one target aud value"


def _identity(identity: WorkloadIdentity) -> Problems:
    if not _IDENTITY_NAME.match(identity.name):
        yield f'invalid name "{identity.name}". Must match regex ^[a-zA-Z0-9-_]{{1,128}}$'
    for number, audience in enumerate(identity.audience, 1):
        if not audience:
            yield f"an empty string is an invalid audience ({number})"
    if identity.change_mode not in ("", *CHANGE_MODES):
        yield f'invalid change_mode "{identity.change_mode}"'
    if identity.change_mode == "signal":
        if not identity.change_signal:
            yield 'change_signal must be specified when using change_mode="signal"'
    elif identity.change_signal:
        yield 'can only use change_signal when change_mode="signal"'
    if identity.ttl_ns < 0:
        yield f"ttl must be >= 0; got {identity.ttl_ns}"
    elif identity.ttl_ns > 0 and identity.name == "default":
        yield "ttl for default identity not yet supported"
    if identity.filepath and not identity.file:
        yield "file parameter must be true in order to specify filepath"


def check_vault(vault: Vault) -> Problems:
    """Problems of a task's Vault block."""
    if vault.change_mode not in CHANGE_MODES:
        yield f'Unknown change mode "{vault.change_mode}"'
    if vault.change_mode == "signal" and not vault.change_signal:
        yield 'Signal must be specified when using change mode "signal"'


def check_secrets(secrets: tuple[Secret, ...], vault: Vault | None) -> Problems:
    """Problems of a task's secret blocks."""
    seen: set[str] = set()
    for secret in secrets:
        yield from nested(f"Secret {secret.name}", _secret(secret, vault))
        if secret.name in seen:
            yield f'Secret "{secret.name}" is defined more than once'
        seen.add(secret.name)


def _secret(secret: Secret, vault: Vault | None) -> Problems:
    if not _SECRET_NAME.match(secret.name):
        yield f'invalid secret name "{secret.name}". Must match regex ^[a-zA-Z0-9_]{{1,128}}$'
    if not secret.provider:
        yield "secret provider cannot be empty"
    if not secret.path:
        yield "secret path cannot be empty"
    allowed = {"nomad": "namespace", "vault": "engine"}.get(secret.provider)
    if allowed is None and secret.config:
        yield "custom plugin secrets provider cannot use config block"
    elif allowed is not None:
        if secret.env:
            yield f"{secret.provider} secrets provider cannot use the env block"
        for key in sorted(set(secret.config) - {allowed}):
            yield f'{secret.provider} secrets provider does not know the config option "{key}"'
    if secret.provider == "vault" and vault is None:
        yield "secrets with provider vault require a vault block"


def check_actions(actions: tuple[Action, ...]) -> Problems:
    """Problems of a task's actions."""
    seen: set[str] = set()
    for action in actions:
        if not _ACTION_NAME.match(action.name):
            yield f'invalid action name "{action.name}": it must have 1 to 128 characters and no white space'
        if not action.command:
            yield f'Action "{action.name}" has no command: command cannot be empty'
        if action.name in seen:
            yield f'Action "{action.name}" is defined more than once'
        seen.add(action.name)
