"""Commands about servers as members of gossip."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from nomadpy.cli.failures import ApiError, CommandFailed, UsageProblem
from nomadpy.cli.flags import AsJSON, Template, Verbose
from nomadpy.cli.session import Session


def members(
    session: Session,
    *,
    verbose: Verbose = False,
    detailed: Annotated[bool, typer.Option("-detailed", help="Show tags, raft and health of each server.")] = False,
    as_json: AsJSON = False,
    template: Template = None,
) -> int:
    """List the servers, and which of them leads its region. The exit code is 1 when a region has no leader."""
    from nomadpy.cli.views import members as views

    rows = session.api.get("/v1/agent/members").get("Members") or []
    if session.put_out(rows, as_json=as_json, template=template):
        return 0
    regions = sorted({str((row.get("Tags") or {}).get("region", "")) for row in rows})
    leaders, problems = _leaders(session, regions)
    if detailed or verbose:
        session.show(views.detailed(rows, leaders, {} if problems else _reports(session)))
    else:
        session.show(views.members(rows, leaders))
    for problem in problems:
        session.warn(problem)
    return 1 if problems else 0


def _leaders(session: Session, regions: list[str]) -> tuple[dict[str, str], list[str]]:
    leaders, problems = {}, []
    for region in regions:
        try:
            leaders[region] = str(session.api.get("/v1/status/leader", region=region) or "")
        except ApiError as problem:
            problems.append(f'Error: the leader of region "{region}" is unknown: {problem.body}')
            continue
        if not leaders[region]:
            problems.append(f'Error: region "{region}" has no leader')
    return leaders, problems


def _reports(session: Session) -> dict[str, dict[str, Any]]:
    """What the leader says of each server, by id; nothing where it may not be asked."""
    try:
        report = session.api.get("/v1/operator/autopilot/health")
    except ApiError as problem:
        if problem.status != 429:  # the report of servers that are not all well
            return {}
        report = json.loads(problem.body)
    return {str(one.get("ID")): one for one in report.get("Servers") or []}


def join(
    session: Session,
    addresses: Annotated[list[str], typer.Argument(metavar="<address>...")],
) -> int:
    """Have the agent that is asked join other servers, by the addresses of their gossip (host or host:port)."""
    answer = session.api.put("/v1/agent/join", None, address=addresses)
    joined, trouble = int(answer.get("num_joined") or 0), str(answer.get("error") or "")
    if not joined:
        raise CommandFailed(f"no server was joined: {trouble}")
    session.say(f"Joined {joined} servers successfully")
    for sentence in trouble.split("; ") if trouble else ():
        session.warn(f"Warning: {sentence}")
    return 1 if trouble else 0


def force_leave(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="<server>")],
    *,
    prune: Annotated[bool, typer.Option("-prune", help="Forget the server at once.")] = False,
) -> None:
    """Let a server go that failed and does not come back. server members shows the names.

    A server that is alive stays. It has to be stopped first.
    """
    known = session.api.get("/v1/agent/members").get("Members") or []
    full = [str(row["Name"]) for row in known if name in (row["Name"], row["Name"].rpartition(".")[0])]
    if len(full) != 1:
        names = ", ".join(sorted(str(row["Name"]) for row in known))
        raise CommandFailed(
            f'"{name}" could be {", ".join(full)}' if full else f'no server "{name}"; there are: {names}'
        )
    session.api.put("/v1/agent/force-leave", None, node=full[0], prune=prune or None)
    now = session.api.get("/v1/agent/members").get("Members") or []
    if any(row["Name"] == full[0] and row["Status"] == "alive" for row in now):
        raise CommandFailed(
            f"{full[0]} is alive and stays: only a server that failed or left can be let go; stop it first"
        )
    session.say(f"Server {full[0]} was {'forgotten' if prune else 'let go'}")


# --- keys -----------------------------------------------------------------------------------------------------------

_KEYRING = "/v1/agent/keyring"
Key = Annotated[str | None, typer.Argument(metavar="<key>", show_default=False)]


def keygen(session: Session) -> None:
    """Make a key that encrypts gossip: the value of server { encrypt }."""
    import base64
    import secrets

    session.say(base64.b64encode(secrets.token_bytes(32)).decode())


def keyring(
    session: Session,
    *,
    list_: Annotated[bool, typer.Option("-list-keys", "-list", help="List the keys.")] = False,
    install: Annotated[str | None, typer.Option("-install", help="Give all members this key.")] = None,
    use: Annotated[str | None, typer.Option("-use", help="Encrypt with this key.")] = None,
    remove: Annotated[str | None, typer.Option("-remove", help="Take this key away.")] = None,
) -> None:
    """List or change the keys that encrypt gossip."""
    asked = [word for word, value in (("install", install), ("use", use), ("remove", remove)) if value]
    if len(asked) + list_ != 1:
        raise UsageProblem("say one of -list-keys, -install, -use and -remove")
    if list_:
        keyring_list(session)
    else:
        _change(session, asked[0], install or use or remove)


def keyring_list(session: Session, *, as_json: AsJSON = False, template: Template = None) -> int:
    """List the gossip keys, and how many members hold each. The exit code is 1 when a member did not answer."""
    from nomadpy.cli.views import members as views

    answer = session.api.get(f"{_KEYRING}/list")
    if not session.put_out(answer, as_json=as_json, template=template):
        session.show(views.keys(answer))
    messages = answer.get("Messages") or {}
    for who, text in sorted(messages.items()):
        session.warn(f"Warning: {who}: {text}")
    return 1 if messages else 0


def keyring_install(session: Session, key: Key = None) -> None:
    """Give all members a further gossip key, with which they can read from now on."""
    _change(session, "install", key)


def keyring_use(session: Session, key: Key = None) -> None:
    """Have all members encrypt with a key that was installed."""
    _change(session, "use", key)


def keyring_remove(session: Session, key: Key = None) -> None:
    """Take a gossip key away from all members. The one in use stays."""
    _change(session, "remove", key)


_NAMED_MAX = 5
_DONE = {
    "install": "Installed the key: every member reads with it",
    "use": "Every member encrypts with the key now",
    "remove": "Removed the key from every member",
}
_HINTS = {
    "install": "tell them again once they are back, and before the key is used",
    "use": "before they start again, set encrypt to this key in their configuration and delete their serf.keyring",
    "remove": "they keep it",
}


def _change(session: Session, action: str, key: str | None) -> None:
    if not key:
        raise UsageProblem("a key is needed; operator gossip keyring generate makes one")
    session.api.put(f"{_KEYRING}/{action}", {"Key": key})
    session.say(_DONE[action])
    known = session.api.get("/v1/agent/members", clients="true").get("Members") or []
    away = sorted(str(row["Name"]) for row in known if row["Status"] == "failed")
    if away:
        more = f" and {len(away) - _NAMED_MAX} more" if len(away) > _NAMED_MAX else ""
        names = ", ".join(away[:_NAMED_MAX]) + more
        session.warn(f"Warning: not told, because gossip does not reach them: {names}; {_HINTS[action]}")
