"""Blocks that say how allocations are placed, replaced, restarted and scaled."""

from __future__ import annotations

from nomadpy.jobspec.schema.rows import (
    Block,
    Raw,
    Report,
    boolean,
    duration,
    free_map,
    integer,
    labelled,
    string,
    strings,
)

OPERATORS = (
    "= == is != not < <= > >= regexp version semver set_contains set_contains_all set_contains_any is_set is_not_set "
    "distinct_hosts distinct_property"
)
_COMPARISONS = ("version", "semver", "regexp", "set_contains", "set_contains_all", "set_contains_any")
_PRESENCE = {"is_set": "is_not_set", "is_not_set": "is_set"}


def _finish_condition(raw: Raw, report: Report) -> None:
    """Turns ``version = ">= 1.2"`` and its like into an operator and a value."""
    given = [name for name in (*_COMPARISONS, *_PRESENCE, "distinct_hosts", "distinct_property") if name in raw]
    if len(given) > 1:
        detail = f'Only one of "{given[0]}" and "{given[1]}" may be set in one block; each is an operator of its own.'
        report("Conflicting arguments", detail, given[1])
    values = {name: raw.pop(name) for name in given}
    for name, value in values.items():
        raw["Operand"] = name
        if name in _PRESENCE:
            raw["Operand"] = name if value else _PRESENCE[name]
        elif name == "distinct_property":
            raw["LTarget"] = value
        elif name == "distinct_hosts":
            raw["RTarget"] = "true" if value else "false"
        else:
            raw["RTarget"] = value


_CONDITION = (
    string("attribute", "What is compared, such as ${attr.kernel.name}.", key="LTarget"),
    string("value", "What it is compared with.", key="RTarget"),
    string("version", "A version condition such as >= 1.2, < 2.0.", key="version"),
    string("semver", "A version condition by the rules of Semantic Versioning 2.0.", key="semver"),
    string("regexp", "A regular expression that must match somewhere.", key="regexp"),
    string("set_contains", "Items, separated by commas, that must all be in the attribute's list.", key="set_contains"),
    string("set_contains_all", "The same as set_contains.", key="set_contains_all"),
    string("set_contains_any", "Items of which at least one must be in the attribute's list.", key="set_contains_any"),
)

CONSTRAINT = Block(
    "Constraint",
    "A condition that a node must meet.",
    *_CONDITION,
    string("operator", "How attribute and value are compared; = if absent.", key="Operand", choices=OPERATORS),
    boolean("distinct_hosts", "No two allocations on one node.", key="distinct_hosts"),
    string(
        "distinct_property", "At most value (1) allocations for each value of this attribute.", key="distinct_property"
    ),
    boolean("is_set", "The attribute must exist.", key="is_set"),
    boolean("is_not_set", "The attribute must not exist.", key="is_not_set"),
    finish=_finish_condition,
)

AFFINITY = Block(
    "Affinity",
    "A wish about nodes.",
    *_CONDITION,
    string("operator", "How attribute and value are compared; = if absent.", key="Operand", choices=OPERATORS),
    integer("weight", "-100 to 100, 50 if absent; negative keeps allocations away."),
    finish=_finish_condition,
)

SPREAD = Block(
    "Spread",
    "A wish to distribute allocations over the values of an attribute.",
    string("attribute", "The attribute, such as ${node.datacenter}."),
    integer("weight", "1 to 100; 50 if absent."),
    labelled(
        "target",
        Block("SpreadTarget", "The share of one value.", integer("percent", "0 to 100.")),
        key="SpreadTarget",
        label_key="Value",
    ),
)

UPDATE = Block(
    "UpdateStrategy",
    "How a new version of a group replaces the old one.",
    integer("max_parallel", "Allocations replaced at the same time; 0 replaces all at once, without a deployment."),
    string("health_check", "What makes an allocation healthy.", choices="checks task_states manual"),
    duration("min_healthy_time", "How long an allocation must stay healthy; 10s if absent."),
    duration("healthy_deadline", "When an allocation that is not healthy counts as unhealthy; 5m if absent."),
    duration("progress_deadline", "When a deployment without progress fails; 10m if absent."),
    integer("canary", "Allocations of the new version that run beside the old one until promoted."),
    boolean("auto_revert", "Go back to the last stable version when the deployment fails."),
    boolean("auto_promote", "Promote canaries as soon as all are healthy."),
    duration("stagger", "Deprecated pause between two batches; 30s if absent."),
)

MIGRATE = Block(
    "MigrateStrategy",
    "How fast a group leaves a draining node.",
    integer("max_parallel", "Allocations moved at the same time; 1 if absent."),
    string("health_check", "What makes an allocation healthy.", choices="checks task_states"),
    duration("min_healthy_time", "How long an allocation must stay healthy; 10s if absent."),
    duration("healthy_deadline", "When an allocation that is not healthy counts as unhealthy; 5m if absent."),
)

RESCHEDULE = Block(
    "ReschedulePolicy",
    "How often, and after which delays, a failed allocation is placed anew.",
    integer("attempts", "Attempts within the interval."),
    duration("interval", "The window in which attempts are counted."),
    duration("delay", "The pause before the first attempt."),
    string("delay_function", "How the pause grows.", choices="constant exponential fibonacci"),
    duration("max_delay", "The longest pause."),
    boolean("unlimited", "Never give up."),
)

RESTART = Block(
    "RestartPolicy",
    "How often a failed task is started again on its node.",
    integer("attempts", "Restarts within the interval."),
    duration("interval", "The window in which restarts are counted."),
    duration("delay", "The pause before a restart; 15s if absent."),
    string("mode", "What follows when the attempts are used up.", choices="fail delay"),
    boolean("render_templates", "Render templates again on a restart."),
)

DISCONNECT = Block(
    "DisconnectStrategy",
    "What happens to allocations whose node is out of reach.",
    duration("lost_after", "How long an allocation may be unknown before it is lost."),
    duration("stop_on_client_after", "When the node itself stops the allocation."),
    boolean("replace", "Place a replacement meanwhile; true if absent."),
    string(
        "reconcile",
        "Which allocation stays when the node is back.",
        choices="best_score keep_original keep_replacement longest_running",
    ),
)


_SCALING_ROWS = (
    boolean("enabled", "Whether an autoscaler may act; true if absent."),
    integer("min", "The least count; the group's count if absent."),
    integer("max", "The greatest count."),
    free_map("policy", "Opaque to this system; an autoscaler reads it."),
)


def _finish_group_scaling(raw: Raw, report: Report) -> None:
    raw.setdefault("Type", "horizontal")


def _finish_task_scaling(raw: Raw, report: Report) -> None:
    label = raw.pop("label")
    if label not in ("cpu", "mem"):
        detail = f'The label of a task\'s scaling block must be "cpu" or "mem", not "{label}".'
        report("Invalid scaling policy name", detail)
    raw.setdefault("Type", f"vertical_{label}")


GROUP_SCALING = Block(
    "ScalingPolicy",
    "Bounds of a group's count, and a policy for an autoscaler.",
    *_SCALING_ROWS,
    string("type", "The kind of scaling.", choices="horizontal"),
    finish=_finish_group_scaling,
)

TASK_SCALING = Block(
    "ScalingPolicy",
    "Bounds of a task's cpu or memory, and a policy for an autoscaler.",
    *_SCALING_ROWS,
    string("type", "The kind of scaling.", choices="vertical_cpu vertical_mem"),
    finish=_finish_task_scaling,
)

PERIODIC = Block(
    "PeriodicConfig",
    "Launches a child job by the clock.",
    strings("crons", "Cron expressions; the earliest next time wins.", key="Specs"),
    string("cron", "One cron expression; deprecated in favour of crons.", key="Spec"),
    boolean("prohibit_overlap", "Skip a launch while a child still runs."),
    string("time_zone", "An IANA name; UTC if absent."),
    boolean("enabled", "Whether launches happen; true if absent."),
    finish=lambda raw, report: raw.update(SpecType="cron") if "Spec" in raw or "Specs" in raw else None,
)

PARAMETERIZED = Block(
    "ParameterizedJobConfig",
    "Launches a child job when it is dispatched.",
    string("payload", "Whether a dispatch brings a payload.", choices="optional required forbidden"),
    strings("meta_required", "Names of metadata that a dispatch must set."),
    strings("meta_optional", "Names of metadata that a dispatch may set."),
)
