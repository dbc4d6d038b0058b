"""Which image a task runs: found here, pulled, or loaded from a file; and images forgotten when nobody needs them.

Tasks that want the same image at the same time share one pull. It goes on while at least one of them waits.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping
from typing import Any

import docker.auth
import docker.errors
import msgspec
import trio

from nomadpy.drivers.docker.engine import Engine, EngineRefused, Unreachable
from nomadpy.drivers.docker.options import PluginOptions
from nomadpy.drivers.docker.reference import Reference, parse_reference
from nomadpy.model.errors import DriverError, Fatal, NotFound, Temporary

log = logging.getLogger(__name__)


class _Pull:
    """A pull under way: who waits for it and how it ended."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.scope = trio.CancelScope()
        self.n_waiting = 0
        self.error: DriverError | None = None


class Images:
    """The images of one engine. ``nursery`` runs pulls and removals; it belongs to the driver's ``run``."""

    def __init__(self, engine: Engine, options: PluginOptions, nursery: trio.Nursery) -> None:
        self._engine, self._options, self._nursery = engine, options, nursery
        self._pulls: dict[tuple[str, str], _Pull] = {}
        self._users: dict[str, set[str]] = {}
        self._removals: dict[str, trio.CancelScope] = {}

    async def obtain(self, config: Mapping[str, Any], local_dir: str) -> dict[str, Any]:
        """The inspected image of a task. Raises Fatal for a malformed name, Temporary when it cannot be had now."""
        try:
            reference = parse_reference(config["image"])
        except ValueError as error:
            raise Fatal(str(error)) from error
        if config.get("load"):
            await self._load(config["load"], local_dir)
            return await self._loaded(reference, config["load"])
        local = await self._local(reference)
        if local is not None and not config.get("force_pull") and not reference.moving:
            return local
        if reference.image_id:
            raise Temporary(f'image "{reference.name}" is not on this node, and an image id cannot be pulled')
        try:
            await self._pull_shared(reference, config)
        except Unreachable:
            raise
        except DriverError as error:
            if local is None:
                raise
            log.warning(
                "docker.image.pull_failed", extra={"image": reference.name, "used": "local", "error": str(error)}
            )
            return local
        pulled = await self._local(reference)
        if pulled is None:
            raise Temporary(f'image "{reference.name}" was pulled, but the Docker Engine does not find it')
        return pulled

    async def _local(self, reference: Reference) -> dict[str, Any] | None:
        try:
            return dict(await self._engine.call(lambda api: api.inspect_image(reference.name)))  # type: ignore[no-untyped-call]
        except NotFound:
            return None

    async def _loaded(self, reference: Reference, archive: str) -> dict[str, Any]:
        image = await self._local(reference)
        if image is None:
            raise Fatal(f'image "{reference.name}" is not in the loaded archive "{archive}"')
        return image

    async def _load(self, archive: str, local_dir: str) -> None:
        def load(api: docker.APIClient) -> None:
            root = os.path.realpath(local_dir)
            path = os.path.realpath(os.path.join(root, archive))
            if not path.startswith(root + os.sep):
                raise Fatal(f'load "{archive}" leaves the task\'s local directory')
            with open(path, "rb") as file:
                for report in api.load_image(file):  # type: ignore[no-untyped-call]
                    if error := report.get("error"):
                        raise Temporary(f'the image archive "{archive}" cannot be loaded: {error}')

        try:
            await self._engine.call(load)
        except OSError as error:
            raise Temporary(f'the image archive "{archive}" cannot be read: {error}') from error

    # --- pulling ----------------------------------------------------------------------------------------------------

    async def _pull_shared(self, reference: Reference, config: Mapping[str, Any]) -> None:
        auth = await trio.to_thread.run_sync(self._registry_auth, reference, config)
        timeout_s = config.get("image_pull_timeout") or self._options.image_pull_timeout_s
        # Other credentials may see another image, so they never share.
        key = (reference.name, auth)
        pull = self._pulls.get(key)
        if pull is None:
            pull = self._pulls[key] = _Pull()
            self._nursery.start_soon(self._run_pull, key, pull, reference)
        pull.n_waiting += 1
        try:
            with trio.fail_after(timeout_s):
                await pull.done.wait()
        except trio.TooSlowError:
            raise Temporary(f'pulling image "{reference.name}" took longer than {timeout_s:g} s') from None
        finally:
            pull.n_waiting -= 1
            if pull.n_waiting == 0 and not pull.done.is_set():
                self._pulls.pop(key, None)
                pull.scope.cancel()
        if pull.error is not None:
            raise type(pull.error)(*_arguments(pull.error)) from pull.error

    async def _run_pull(self, key: tuple[str, str], pull: _Pull, reference: Reference) -> None:
        with pull.scope:
            try:
                await self._pull(reference, auth=key[1])
            except DriverError as error:
                pull.error = error
            except NotFound as error:
                pull.error = Temporary(f'image "{reference.name}" cannot be pulled: {error}')
        if self._pulls.get(key) is pull:
            del self._pulls[key]
        pull.done.set()

    async def _pull(self, reference: Reference, *, auth: str) -> None:
        params = {"fromImage": reference.repository, "tag": reference.digest or reference.tag}
        headers = {"X-Registry-Auth": auth} if auth else {}
        idle_s = self._options.pull_activity_timeout_s
        log.info("docker.image.pull", extra={"image": reference.name})
        try:
            async with self._engine.stream("POST", "/images/create", params, headers) as answer:
                rest = b""
                chunks = answer.aiter_raw()
                while True:
                    with trio.fail_after(idle_s):
                        chunk = await anext(chunks, None)
                    if chunk is None:
                        return
                    *lines, rest = (rest + chunk).split(b"\n")
                    _check_progress(reference, lines)
        except trio.TooSlowError:
            raise Temporary(f'pulling image "{reference.name}" made no progress for {idle_s:g} s') from None
        except EngineRefused as error:
            raise Temporary(f'image "{reference.name}" cannot be pulled: {error}') from error

    def _registry_auth(self, reference: Reference, config: Mapping[str, Any]) -> str:
        """The header that carries credentials, "" for none. Runs in a thread: helpers are programs."""
        block = config.get("auth", {})
        found: Mapping[str, Any] | None = None
        if any(block.values()):
            found = {
                "username": block.get("username", ""),
                "password": block.get("password", ""),
                "email": block.get("email", ""),
                "serveraddress": block.get("server_address", ""),
            }
        else:
            try:
                found = self._operator_auth(reference.registry)
            except (docker.errors.DockerException, OSError, ValueError) as error:
                if not config.get("auth_soft_fail"):
                    raise Temporary(f'no credentials for registry "{reference.registry}": {error}') from error
                log.warning("docker.auth.failed", extra={"registry": reference.registry, "error": str(error)})
        return docker.auth.encode_header(dict(found)).decode() if found else ""

    def _operator_auth(self, registry: str) -> Mapping[str, Any] | None:
        options = self._options
        if options.auth_config:
            if not os.path.exists(options.auth_config):
                raise ValueError(f'plugin option auth.config: no file "{options.auth_config}"')
            found = docker.auth.load_config(config_path=options.auth_config).resolve_authconfig(registry)
            if found:
                return _credentials(found)
        if options.auth_helper:
            program = f"docker-credential-{options.auth_helper}"
            if shutil.which(program) is None:
                raise ValueError(f'plugin option auth.helper: no program "{program}" in the path')
            helper = docker.auth.AuthConfig({"credsStore": options.auth_helper})
            found = helper.resolve_authconfig(registry)
            return _credentials(found) if found else None
        return None

    # --- forgetting -------------------------------------------------------------------------------------------------

    def use(self, image_id: str, task_id: str) -> None:
        """Notes that a task needs the image, and calls off its removal."""
        self._users.setdefault(image_id, set()).add(task_id)
        if scope := self._removals.pop(image_id, None):
            scope.cancel()

    def release(self, image_id: str, task_id: str) -> None:
        """Notes that a task is gone. The image is removed when no other needs it before the delay is over."""
        users = self._users.get(image_id, set())
        users.discard(task_id)
        if users:
            return
        self._users.pop(image_id, None)
        if self._options.gc_image and image_id not in self._removals:
            scope = self._removals[image_id] = trio.CancelScope()
            self._nursery.start_soon(self._remove_later, image_id, scope)

    async def _remove_later(self, image_id: str, scope: trio.CancelScope) -> None:
        with scope:
            await trio.sleep(self._options.gc_image_delay_s)
            self._removals.pop(image_id, None)
            try:
                await self._engine.call(lambda api: api.remove_image(image_id))
                log.info("docker.image.removed", extra={"image": image_id})
            except NotFound:
                pass  # somebody else removed it
            except DriverError as error:
                # Another program's container uses it, or it has several names: then it is not ours to remove.
                log.info("docker.image.kept", extra={"image": image_id, "reason": str(error)})


def _check_progress(reference: Reference, lines: list[bytes]) -> None:
    """Raises Temporary when a line of the engine's progress report is an error."""
    for line in lines:
        if line.strip():
            report = msgspec.json.decode(line)
            if error := report.get("error"):
                raise Temporary(f'image "{reference.name}" cannot be pulled: {error}')


def _credentials(found: Mapping[str, Any]) -> dict[str, Any]:
    """Files name the fields in one case, helpers in another."""
    plain = {str(key).lower(): value for key, value in found.items()}
    return {key: value for key, value in plain.items() if key in ("username", "password", "email", "serveraddress")} | (
        {"identitytoken": plain["identitytoken"]} if plain.get("identitytoken") else {}
    )


def _arguments(error: DriverError) -> tuple[Any, ...]:
    return (error.message, error.status_code) if isinstance(error, EngineRefused) else (error.message,)
