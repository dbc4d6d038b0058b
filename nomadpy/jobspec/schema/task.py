"""Tasks, and what belongs to a single task."""

from __future__ import annotations

from nomadpy.jobspec.schema.identity import CONSUL, IDENTITY, SECRET, VAULT
from nomadpy.jobspec.schema.network import CSI_PLUGIN, VOLUME_MOUNT
from nomadpy.jobspec.schema.policies import AFFINITY, CONSTRAINT, RESTART, TASK_SCALING
from nomadpy.jobspec.schema.resources import LOGS, RESOURCES
from nomadpy.jobspec.schema.rows import (
    Block,
    Raw,
    Report,
    boolean,
    duration,
    free_map,
    integer,
    labelled,
    many,
    one,
    string,
    string_map,
    strings,
)
from nomadpy.jobspec.schema.service import SERVICE

_SPLAY_NS = 5_000_000_000

CHANGE_SCRIPT = Block(
    "ChangeScript",
    "What is run in the task when a template has changed.",
    string("command", "The command.", required=True),
    strings("args", "Its arguments."),
    duration("timeout", "How long it may take; 5s if absent."),
    boolean("fail_on_error", "Fail the task when the script fails."),
    boolean("run_on_first_render", "Run it after the first rendering, too."),
)


def _finish_template(raw: Raw, report: Report) -> None:
    raw.setdefault("ChangeMode", "restart")
    raw.setdefault("Perms", "0644")
    raw.setdefault("Splay", _SPLAY_NS)
    raw.setdefault("ErrMissingKey", False)


TEMPLATE = Block(
    "Template",
    "A file rendered into the task's directory.",
    string("source", "The template's file.", key="SourcePath"),
    string("data", "The template's text.", key="EmbeddedTmpl"),
    string("destination", "Where the file is written.", key="DestPath"),
    string("change_mode", "What follows a new rendering.", choices="noop restart signal script"),
    string("change_signal", "The signal of change_mode signal."),
    one("change_script", CHANGE_SCRIPT),
    boolean("once", "Render once and do not watch."),
    duration("splay", "The longest random wait before acting; 5s if absent."),
    string("perms", "The file's mode, such as 0644."),
    integer("uid", "The file's owner.", key="Uid"),
    integer("gid", "The file's group.", key="Gid"),
    string("left_delimiter", "{{ if absent.", key="LeftDelim"),
    string("right_delimiter", "}} if absent.", key="RightDelim"),
    boolean("env", "Read the file as KEY=VALUE lines into the task's environment.", key="Envvars"),
    boolean("error_on_missing_key", "Fail on a missing key.", key="ErrMissingKey"),
    one(
        "wait",
        Block(
            "WaitConfig",
            "How long changes are gathered before rendering.",
            duration("min", "At least so long."),
            duration("max", "At most so long."),
        ),
    ),
    duration("vault_grace", "Deprecated and ignored."),
    finish=_finish_template,
)

ARTIFACT = Block(
    "TaskArtifact",
    "Something fetched into the task's directory before it starts.",
    string("source", "A URL.", key="GetterSource"),
    string("destination", "Where it goes; local/ if absent.", key="RelativeDest"),
    string("mode", "Whether it is a file or a directory.", key="GetterMode", choices="any file dir"),
    string_map("options", "Options such as checksum and archive.", key="GetterOptions"),
    string_map("headers", "HTTP headers.", key="GetterHeaders"),
    boolean("insecure", "Accept any certificate.", key="GetterInsecure"),
    boolean("chown", "Give the files to the task's user."),
)

ACTION = Block(
    "Action",
    "A command that an operator may run in the task by name.",
    string("command", "The command.", required=True),
    strings("args", "Its arguments."),
)

SCHEDULE = Block(
    "",
    "When the task runs (refused: the enterprise edition's).",
    one(
        "cron",
        Block(
            "",
            "A daily window.",
            string("start", "Six cron fields."),
            string("end", "Minute and hour."),
            string("timezone", "An IANA name."),
        ),
    ),
)

LIFECYCLE = Block(
    "TaskLifecycle",
    "When the task runs relative to the main tasks.",
    string("hook", "The moment.", required=True, choices="prestart poststart poststop"),
    boolean("sidecar", "Keep it running as long as the main tasks run."),
)


def _finish_task(raw: Raw, report: Report) -> None:
    """The first identity without a name of its own is the task's default one."""
    identities = raw.pop("Identities", [])
    default = next((each for each in identities if each.get("Name", "") in ("", "default")), None)
    others = [each for each in identities if each is not default]
    if default is not None:
        raw["Identity"] = default
    if others:
        raw["Identities"] = others


TASK = Block(
    "Task",
    "One process, container or JVM.",
    string("driver", "What runs it: raw_exec, exec, docker, java."),
    string("user", "The user that it runs as."),
    free_map("config", "The driver's settings."),
    string_map("env", "Environment variables."),
    string_map("meta", "Metadata; wins over that of group and job."),
    one("resources", RESOURCES),
    many("constraint", CONSTRAINT, key="Constraints"),
    many("affinity", AFFINITY, key="Affinities"),
    many("service", SERVICE, key="Services"),
    many("template", TEMPLATE, key="Templates"),
    many("artifact", ARTIFACT, key="Artifacts"),
    many("volume_mount", VOLUME_MOUNT, key="VolumeMounts"),
    one("restart", RESTART, key="RestartPolicy"),
    one("logs", LOGS, key="LogConfig"),
    one("lifecycle", LIFECYCLE),
    one(
        "dispatch_payload",
        Block("DispatchPayload", "Where a dispatch's payload goes.", string("file", "A path below local/.")),
    ),
    boolean("leader", "When it exits, the other tasks are stopped."),
    duration("kill_timeout", "The time between asking it to stop and killing it; 5s if absent."),
    string("kill_signal", "The signal that asks it to stop."),
    duration("shutdown_delay", "The wait between deregistering its services and stopping it."),
    many("identity", IDENTITY, key="Identities"),
    one("vault", VAULT),
    one("consul", CONSUL),
    labelled("secret", SECRET, key="Secrets"),
    labelled("action", ACTION, key="Actions"),
    one("schedule", SCHEDULE),
    labelled("scaling", TASK_SCALING, key="ScalingPolicies", label_key="label"),
    one("csi_plugin", CSI_PLUGIN, key="CSIPluginConfig"),
    string("kind", "Set by Connect."),
    finish=_finish_task,
)
