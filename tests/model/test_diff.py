"""What changes between two versions of a job, and what that means for allocations."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from model_strategies import records

from nomadpy.model.canonical import job_from_input
from nomadpy.model.diff import annotate, diff_jobs, group_update_kind, spec_equal
from nomadpy.model.errors import Refused
from nomadpy.model.evaluation import DesiredUpdates, FieldDiff, JobDiff, ObjectDiff, TaskDiff
from nomadpy.model.job import Job

QUICK = settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
TASK: dict[str, Any] = {
    "Name": "t",
    "Driver": "docker",
    "Config": {"image": "redis", "args": ["a"], "auth": {"username": "u"}},
    "Env": {"A": "1"},
    "Services": [{"Name": "s", "Provider": "nomad", "Checks": [{"Type": "tcp", "Interval": 1, "Timeout": 1}]}],
    "Constraints": [{"LTarget": "a", "RTarget": "b"}],
    "Templates": [{"DestPath": "local/x", "EmbeddedTmpl": "y"}],
}
GROUP: dict[str, Any] = {
    "Name": "g",
    "Count": 2,
    "Meta": {"k": "v"},
    "Networks": [{"DynamicPorts": [{"Label": "http"}]}],
    "Tasks": [TASK],
}
JOB: dict[str, Any] = {"ID": "web", "Datacenters": ["dc1", "dc2"], "TaskGroups": [GROUP]}


def changed(*changes: tuple[str, Any]) -> Job:
    """The job with values changed; a path such as TaskGroups.0.Count names the place, None removes it."""
    raw = copy.deepcopy(JOB)
    for path, value in changes:
        at: Any = raw
        *parents, last = path.split(".")
        for part in parents:
            at = at[int(part)] if part.isdecimal() else at[part]
        if value is None:
            del at[last]
        else:
            at[last] = value
    return job_from_input(raw).replace(job_modify_index=2)


OLD = changed().replace(job_modify_index=1)
G = "TaskGroups.0"
T = "TaskGroups.0.Tasks.0"


def task_diff(*changes: tuple[str, Any], contextual: bool = False) -> TaskDiff:
    return diff_jobs(OLD, changed(*changes), contextual=contextual).task_groups[0].tasks[0]


def field(kind: str, name: str, old: str, new: str) -> FieldDiff:
    return FieldDiff(type=kind, name=name, old=old, new=new)


def test_equal_jobs_still_name_their_groups_and_tasks() -> None:
    diff = diff_jobs(OLD, changed(), contextual=True)
    assert (diff.type, diff.fields, diff.objects) == ("None", (), ())
    assert [(group.name, group.type) for group in diff.task_groups] == [("g", "None")]
    assert [(task.name, task.type) for task in diff.task_groups[0].tasks] == [("t", "None")]


@QUICK
@given(records(Job))
def test_a_job_does_not_differ_from_itself(job: Job) -> None:
    diff = diff_jobs(job, job, contextual=True)
    assert diff.type == "None"
    assert diff.objects == ()
    assert {group.type for group in diff.task_groups} <= {"None"}


@QUICK
@given(records(Job), records(Job))
def test_any_two_jobs_can_be_compared(old: Job, new: Job) -> None:
    forward = diff_jobs(old, new.replace(id=old.id), contextual=False)
    back = diff_jobs(new.replace(id=old.id), old, contextual=False)
    assert forward.type == back.type
    assert len(forward.fields) == len(back.fields)
    annotate(forward, {})
    group_update_kind(old.replace(job_modify_index=1), new.replace(job_modify_index=2), "g")


def test_jobs_of_different_ids_are_not_compared() -> None:
    with pytest.raises(Refused, match="different IDs"):
        diff_jobs(OLD, OLD.replace(id="other"), contextual=False)


def test_a_new_job_is_added_with_new_values_only() -> None:
    diff = diff_jobs(None, OLD, contextual=True)
    assert diff.type == "Added"
    assert all(entry.type == "Added" and not entry.old for entry in diff.fields)
    assert {entry.name for entry in diff.fields}.isdisjoint({"ID", "Status", "Version", "SubmitTime", "JobModifyIndex"})
    assert {group.type for group in diff.task_groups} == {"Added"}
    assert diff_jobs(OLD, None, contextual=True).type == "Deleted"
    assert diff_jobs(None, None, contextual=True) == JobDiff()


def test_fields_of_the_job_and_the_group() -> None:
    diff = diff_jobs(OLD, changed(("Priority", 60), (f"{G}.Count", 5), (f"{G}.Meta", {"n": "w"})), contextual=True)
    assert diff.fields == (field("Edited", "Priority", "50", "60"),)
    assert diff.task_groups[0].fields == (
        field("Edited", "Count", "2", "5"),
        field("Deleted", "Meta[k]", "v", ""),
        field("Added", "Meta[n]", "", "w"),
    )
    assert (diff.type, diff.task_groups[0].type, diff.task_groups[0].tasks[0].type) == ("Edited", "Edited", "None")


def test_datacenters_are_a_set() -> None:
    (found,) = diff_jobs(OLD, changed(("Datacenters", ["dc2", "dc3"])), contextual=True).objects
    assert (found.name, found.type) == ("Datacenters", "Edited")
    assert found.fields == (
        field("Added", "Datacenters", "", "dc3"),
        field("Deleted", "Datacenters", "dc1", ""),
        field("None", "Datacenters", "dc2", "dc2"),
    )


def test_config_is_flattened_completely() -> None:
    new = {"image": "redis", "args": ["b", None], "auth": {"username": "u"}, "tty": True}
    (found,) = task_diff((f"{T}.Config", new)).objects
    assert found == ObjectDiff(
        type="Edited",
        name="Config",
        fields=(
            field("Edited", "args[0]", "a", "b"),
            field("Added", "args[1]", "", "nil"),
            field("Added", "tty", "", "true"),
        ),
    )
    (contextual,) = task_diff((f"{T}.Config", new), contextual=True).objects
    assert field("None", "auth[username]", "u", "u") in contextual.fields


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ((f"{T}.Constraints", [{"LTarget": "a", "RTarget": "c"}]), ["Constraint", "Constraint"]),
        ((f"{T}.Resources", {"CPU": 7}), ["Resources"]),
        ((f"{T}.LogConfig", {"MaxFiles": 3}), ["LogConfig"]),
        ((f"{T}.Services.0.PortLabel", "http"), ["Service"]),
        ((f"{T}.Templates.0.EmbeddedTmpl", "z"), ["Template"]),
        ((f"{T}.Vault", {}), ["Vault"]),
        ((f"{T}.VolumeMounts", [{"Volume": "v"}]), ["VolumeMount"]),
        ((f"{T}.DispatchPayload", {"File": "x"}), ["DispatchPayload"]),
        ((f"{T}.Artifacts", [{"GetterSource": "x"}]), ["Artifact"]),
    ],
)
def test_names_of_task_objects(change: tuple[str, Any], names: list[str]) -> None:
    assert [found.name for found in task_diff(change).objects] == names


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ((f"{G}.Networks.0.Mode", "host"), ["Network", "Network"]),
        ((f"{G}.Update", {"Canary": 1}), ["Update"]),
        ((f"{G}.RestartPolicy", {"Attempts": 9}), ["RestartPolicy"]),
        ((f"{G}.ReschedulePolicy", {"Delay": 9}), ["ReschedulePolicy"]),
        ((f"{G}.EphemeralDisk", {"SizeMB": 9}), ["EphemeralDisk"]),
        ((f"{G}.Scaling", {"Max": 9, "Policy": {"a": 1}}), ["Scaling"]),
        ((f"{G}.Volumes", {"v": {"Source": "s"}}), ["Volume"]),
        ((f"{G}.Disconnect", {"Replace": False}), ["Disconnect"]),
        ((f"{G}.Spreads", [{"Attribute": "a"}]), []),
    ],
)
def test_names_of_group_objects(change: tuple[str, Any], names: list[str]) -> None:
    assert [found.name for found in diff_jobs(OLD, changed(change), contextual=False).task_groups[0].objects] == names


def test_a_scaling_policy_shows_what_people_write() -> None:
    old = changed((f"{G}.Scaling", {"Min": 1, "Max": 9, "Policy": {"a": 1}}))
    new = changed((f"{G}.Scaling", {"Min": 1, "Max": 8, "Policy": {"a": 2}})).replace(job_modify_index=3)
    (found,) = diff_jobs(old, new, contextual=True).task_groups[0].objects
    assert found == ObjectDiff(
        type="Edited",
        name="Scaling",
        fields=(
            field("None", "Enabled", "true", "true"),
            field("Edited", "Max", "9", "8"),
            field("None", "Min", "1", "1"),
        ),
        objects=(ObjectDiff(type="Edited", name="Policy", fields=(field("Edited", "a", "1", "2"),)),),
    )


def test_stagger_is_not_shown() -> None:
    assert diff_jobs(OLD, changed((f"{G}.Update", {"Stagger": 9})), contextual=False).type == "None"


def test_nested_objects_show_what_is_inside() -> None:
    (service,) = task_diff((f"{T}.Services.0.Checks.0.Header", {"A": ["x"]}), contextual=False).objects
    assert service.type == "Edited"
    assert [(check.name, check.type) for check in service.objects] == [("Check", "Deleted"), ("Check", "Added")]
    header = service.objects[1].objects[0]
    assert (header.name, header.objects[0].fields) == ("Header", (field("Added", "A", "", "x"),))


def test_ports_are_objects_of_their_network() -> None:
    diff = diff_jobs(OLD, changed((f"{G}.Networks.0.ReservedPorts", [{"Label": "a", "Value": 80}])), contextual=False)
    added = diff.task_groups[0].objects[1]
    assert [port.name for port in added.objects] == ["Dynamic Port", "Static Port"]


# --- annotations ------------------------------------------------------------------------------------------------------


def test_counts_and_updates_are_annotated() -> None:
    diff = diff_jobs(OLD, changed((f"{G}.Count", 1)), contextual=True)
    (group,) = annotate(diff, {"g": DesiredUpdates(stop=1, ignore=1, in_place_update=0)}).task_groups
    assert group.updates == {"destroy": 1, "ignore": 1}
    assert group.fields[0].annotations == ("forces destroy",)
    (untold,) = annotate(diff_jobs(OLD, changed((f"{G}.Count", 3)), contextual=True), {}).task_groups
    assert untold.updates == {}
    assert untold.fields[0].annotations == ("forces create",)


@pytest.mark.parametrize(
    ("change", "annotation"),
    [
        (("Priority", 60), ()),
        ((f"{T}.KillTimeout", 9), ("forces in-place update",)),
        ((f"{T}.Services.0.PortLabel", "http"), ("forces in-place update",)),
        ((f"{T}.LogConfig", {"MaxFiles": 2}), ("forces in-place update",)),
        ((f"{T}.Lifecycle", {"Hook": "poststart"}), ("forces in-place update",)),
        ((f"{T}.LogConfig", {"Disabled": True}), ("forces create/destroy update",)),
        ((f"{T}.Env", {"A": "2"}), ("forces create/destroy update",)),
        ((f"{T}.Config", {"image": "nginx"}), ("forces create/destroy update",)),
    ],
)
def test_tasks_are_annotated(change: tuple[str, Any], annotation: tuple[str, ...]) -> None:
    diff = annotate(diff_jobs(OLD, changed(change), contextual=True), {})
    assert diff.task_groups[0].tasks[0].annotations == annotation


def test_tasks_of_new_and_old_groups_are_annotated() -> None:
    for old, new, annotation in ((None, OLD, "forces create"), (OLD, None, "forces destroy")):
        diff = annotate(diff_jobs(old, new, contextual=True), {})
        assert diff.task_groups[0].tasks[0].annotations == (annotation,)


# --- update kind ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (("Priority", 60), "in-place"),
        (("Meta", {"a": "b"}), "destructive"),
        ((f"{G}.Count", 9), "in-place"),
        ((f"{G}.Meta", {"k": "w"}), "destructive"),
        ((f"{G}.Update", {"Canary": 1}), "in-place"),
        ((f"{G}.RestartPolicy", {"Attempts": 9}), "in-place"),
        ((f"{G}.RestartPolicy", {"RenderTemplates": True}), "destructive"),
        ((f"{G}.EphemeralDisk", {"SizeMB": 9}), "destructive"),
        ((f"{G}.Networks.0.DynamicPorts", [{"Label": "other"}]), "destructive"),
        ((f"{G}.Volumes", {"v": {"Source": "s"}}), "destructive"),
        ((f"{G}.Name", "renamed"), "destructive"),
        ((f"{T}.Name", "renamed"), "destructive"),
        ((f"{T}.Driver", "exec"), "destructive"),
        ((f"{T}.Env", {}), "destructive"),
        ((f"{T}.Config", {}), "destructive"),
        ((f"{T}.Resources", {"CPU": 1}), "destructive"),
        ((f"{T}.KillTimeout", 1), "in-place"),
        ((f"{T}.Services.0.Checks", []), "in-place"),
        ((f"{T}.LogConfig", {"MaxFiles": 2}), "in-place"),
        ((f"{T}.LogConfig", {"Disabled": True}), "destructive"),
        ((f"{T}.Templates", []), "destructive"),
        ((f"{T}.Constraints", []), "in-place"),
        ((f"{T}.Lifecycle", {"Hook": "poststart"}), "in-place"),
    ],
)
def test_how_allocations_follow_a_change(change: tuple[str, Any], kind: str) -> None:
    assert group_update_kind(OLD, changed(change), "g") == kind


def test_the_same_modify_index_is_ignored() -> None:
    assert group_update_kind(OLD, changed(("Meta", {"a": "b"})).replace(job_modify_index=1), "g") == "ignore"


def test_moving_meta_between_levels_changes_nothing() -> None:
    moved = changed((f"{G}.Meta", {}), (f"{T}.Meta", {"k": "v"}))
    assert group_update_kind(OLD, moved, "g") == "in-place"


def test_bookkeeping_is_not_part_of_the_specification() -> None:
    noted = OLD.replace(status="dead", version=4, stable=True, submit_time_ns=9, create_index=3, modify_index=5)
    assert spec_equal(OLD, noted)
    assert not spec_equal(OLD, OLD.replace(priority=1))
    assert not spec_equal(OLD, OLD.replace(stop=True))
