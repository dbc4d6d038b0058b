"""Images: pulled from a registry on loopback, shared, kept when a registry is away, loaded from a file, forgotten."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
import trio
from docker_bench import IMAGE, DockerBench, eventually
from docker_registry import Registry

from nomadpy.drivers.docker import DockerDriver
from nomadpy.model.errors import Fatal, Temporary

pytestmark = pytest.mark.docker


@pytest.fixture
def engine() -> Iterator[docker.APIClient]:
    client = docker.APIClient(base_url="unix:///var/run/docker.sock", version="auto")
    yield client
    client.close()


@pytest.fixture
def registry(engine: docker.APIClient) -> Iterator[Registry]:
    with Registry(Path("/bin/busybox")).serving() as registry:
        yield registry
        forget(engine, registry.host)


def forget(engine: docker.APIClient, host: str) -> None:
    """Removes every image of a registry."""
    for image in engine.images():
        for tag in image["RepoTags"] or ():
            if tag.startswith(host):
                engine.remove_image(tag, force=True)


@pytest.fixture
async def bench(tmp_path: Path, registry: Registry) -> AsyncIterator[DockerBench]:
    bench = DockerBench(tmp_path)
    yield bench
    await bench.remove_all()


@pytest.fixture
async def driver(bench: DockerBench) -> AsyncIterator[DockerDriver]:
    async with bench.running() as driver:
        yield driver


async def test_a_missing_image_is_pulled_once(bench: DockerBench, driver: DockerDriver, registry: Registry) -> None:
    config = {"image": f"{registry.host}/app:1"}
    assert (await bench.run(bench.task(config=config)))[1] == "pulled\n"
    asked = registry.asked
    assert asked > 0
    await bench.run(bench.task(config=config))
    assert registry.asked == asked, "an image that is here is not pulled again"
    await bench.run(bench.task(config={**config, "force_pull": True}))
    assert registry.asked > asked


async def test_the_latest_is_pulled_each_time(bench: DockerBench, driver: DockerDriver, registry: Registry) -> None:
    for _ in range(2):
        asked = registry.asked
        await bench.run(bench.task(config={"image": f"{registry.host}/app"}))
        assert registry.asked > asked


async def test_simultaneous_starts_share_a_pull(bench: DockerBench, driver: DockerDriver, registry: Registry) -> None:
    registry.hold.clear()
    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(bench.run, bench.task(config={"image": f"{registry.host}/app:1"}))
        await eventually(lambda: driver._images is not None and len(driver._images._pulls) == 1)
        (pull,) = driver._images._pulls.values()  # type: ignore[union-attr]
        await eventually(lambda: pull.n_waiting == 4)
        registry.hold.set()
    assert registry.layers_sent == 1


async def test_who_gives_up_leaves_the_pull_to_others(
    bench: DockerBench, driver: DockerDriver, registry: Registry
) -> None:
    registry.hold.clear()
    hasty = bench.task(config={"image": f"{registry.host}/app:1", "image_pull_timeout": "300ms"})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.run, bench.task(config={"image": f"{registry.host}/app:1"}))
        with pytest.raises(Temporary, match=r"longer than 0\.3 s"):
            await driver.start_task(hasty)
        registry.hold.set()


async def test_an_image_here_is_used_when_its_registry_is_away(
    bench: DockerBench, driver: DockerDriver, engine: docker.APIClient, caplog: pytest.LogCaptureFixture
) -> None:
    engine.tag(IMAGE, "127.0.0.1:9/offline", "latest")
    try:
        config = {"image": "127.0.0.1:9/offline:latest", "args": ["echo", "still here"]}
        assert (await bench.run(bench.task(config=config)))[1] == "still here\n"
        assert "docker.image.pull_failed" in caplog.text
    finally:
        engine.remove_image("127.0.0.1:9/offline:latest")


async def test_an_image_that_is_nowhere_may_be_tried_again(
    bench: DockerBench, driver: DockerDriver, registry: Registry
) -> None:
    for image in (f"{registry.host}/missing/app:1", "127.0.0.1:9/offline:1"):
        with pytest.raises(Temporary, match="cannot be pulled"):
            await driver.start_task(bench.task(config={"image": image}))


AUTH = {"username": "me", "password": "secret"}


@pytest.mark.parametrize(("auth", "works"), [(AUTH, True), ({**AUTH, "password": "wrong"}, False), (None, False)])
async def test_credentials_of_the_task(
    bench: DockerBench, driver: DockerDriver, registry: Registry, auth: dict[str, str] | None, works: bool
) -> None:
    registry.credentials = ("me", "secret")
    task = bench.task(config={"image": f"{registry.host}/app:1", **({"auth": [auth]} if auth else {})})
    if works:
        assert (await bench.run(task))[1] == "pulled\n"
    else:
        with pytest.raises(Temporary, match="cannot be pulled"):
            await driver.start_task(task)


async def test_credentials_of_the_operator(bench: DockerBench, registry: Registry, tmp_path: Path) -> None:
    registry.credentials = ("me", "secret")
    entry = {"auth": base64.b64encode(b"me:secret").decode()}
    (tmp_path / "config.json").write_text(json.dumps({"auths": {registry.host: entry}}))
    async with bench.running({"auth": [{"config": f"{tmp_path}/config.json"}]}):
        assert (await bench.run(bench.task(config={"image": f"{registry.host}/app:1"})))[1] == "pulled\n"


async def test_a_missing_helper_matters_unless_told_otherwise(bench: DockerBench, registry: Registry) -> None:
    config = {"image": f"{registry.host}/app:1"}
    async with bench.running({"auth": [{"helper": "nonesuch"}]}) as driver:
        with pytest.raises(Temporary, match="no credentials"):
            await driver.start_task(bench.task(config=config))
        assert (await bench.run(bench.task(config={**config, "auth_soft_fail": True})))[1] == "pulled\n"


async def test_an_image_is_loaded_from_a_file(
    bench: DockerBench, driver: DockerDriver, engine: docker.APIClient, registry: Registry
) -> None:
    name = f"{registry.host}/loaded:1"
    engine.tag(IMAGE, name)
    saved = b"".join(engine.get_image(name))
    engine.remove_image(name)
    task = bench.task(config={"image": name, "load": "image.tar", "args": ["echo", "loaded"]})
    await trio.Path(task.dirs.local_dir, "image.tar").write_bytes(saved)
    assert (await bench.run(task))[1] == "loaded\n"
    with pytest.raises(Fatal, match="leaves the task's local directory"):
        await driver.start_task(bench.task(config={"image": name, "load": "../../x.tar"}))
    with pytest.raises(Temporary, match=r"nothing\.tar"):
        await driver.start_task(bench.task(config={"image": name, "load": "nothing.tar"}))


async def test_an_unused_image_goes_after_a_while(
    bench: DockerBench, engine: docker.APIClient, registry: Registry
) -> None:
    def here() -> bool:
        return any(f"{registry.host}/app:1" in (image["RepoTags"] or ()) for image in engine.images())

    plugin: dict[str, Any] = {"gc": [{"image": True, "image_delay": "1s"}]}
    async with bench.running(plugin) as driver:
        first = await bench.start(bench.task(config={"image": f"{registry.host}/app:1"}))
        second = await bench.start(bench.task(config={"image": f"{registry.host}/app:1"}))
        for handle in (first, second):
            await driver.wait_task(handle.task_id)
        await driver.destroy_task(first.task_id)
        assert driver._images is not None
        assert driver._images._removals == {}, "another task still has it"
        await driver.destroy_task(second.task_id)
        assert here()
        third = await bench.start(bench.task(config={"image": f"{registry.host}/app:1"}))
        assert driver._images._removals == {}, "it is needed again"
        await driver.wait_task(third.task_id)
        await driver.destroy_task(third.task_id)
        await eventually(lambda: not here(), within_s=15)
