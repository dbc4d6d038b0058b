"""Rules for the policies around a group: update, migrate, restart, reschedule, disconnect, scaling, launching."""

from __future__ import annotations

from nomadpy.model.cron import check_cron, time_zone
from nomadpy.model.job import (
    DisconnectStrategy,
    MigrateStrategy,
    ParameterizedJobConfig,
    PeriodicConfig,
    ReschedulePolicy,
    RestartPolicy,
    ScalingPolicy,
    UpdateStrategy,
)
from nomadpy.model.time import SECOND, format_duration
from nomadpy.model.validate.report import Problems, quoted

INTERVAL_MIN_NS = 5 * SECOND
RESCHEDULE_INTERVAL_MIN_NS = 15 * SECOND
DELAY_FUNCTIONS = ("constant", "exponential", "fibonacci")
RECONCILE_CHOICES = ("best_score", "keep_original", "keep_replacement", "longest_running")


def check_update(update: UpdateStrategy) -> Problems:
    """Problems of a group's update block."""
    if update.health_check not in ("checks", "task_states", "manual"):
        yield f'Invalid health check given: "{update.health_check}"'
    if update.max_parallel < 0:
        yield f"Max parallel can not be less than zero: {update.max_parallel} < 0"
    if update.canary < 0:
        yield f"Canary count can not be less than zero: {update.canary} < 0"
    if update.canary == 0 and update.auto_promote:
        yield "Auto Promote requires a Canary count greater than zero"
    healthy, deadline = update.min_healthy_time_ns, update.healthy_deadline_ns
    progress = update.progress_deadline_ns
    if healthy < 0:
        yield f"Minimum healthy time may not be less than zero: {format_duration(healthy)}"
    if deadline <= 0:
        yield f"Healthy deadline must be greater than zero: {format_duration(deadline)}"
    if progress < 0:
        yield f"Progress deadline must be zero or greater: {format_duration(progress)}"
    if healthy >= deadline:
        yield (
            "Minimum healthy time must be less than healthy deadline: "
            f"{format_duration(healthy)} > {format_duration(deadline)}"
        )
    if progress != 0 and deadline >= progress:
        yield (
            "Healthy deadline must be less than progress deadline: "
            f"{format_duration(deadline)} > {format_duration(progress)}"
        )
    if update.stagger_ns <= 0:
        yield f"Stagger must be greater than zero: {format_duration(update.stagger_ns)}"


def check_migrate(migrate: MigrateStrategy) -> Problems:
    """Problems of a group's migrate block."""
    if migrate.max_parallel < 0:
        yield f"MaxParallel must be >= 0 but found {migrate.max_parallel}"
    if not migrate.health_check:
        yield "Missing HealthCheck"
    elif migrate.health_check not in ("checks", "task_states"):
        yield f'Invalid HealthCheck: "{migrate.health_check}"'
    healthy, deadline = migrate.min_healthy_time_ns, migrate.healthy_deadline_ns
    if healthy < 0:
        yield f"MinHealthyTime is {format_duration(healthy)} and must be >= 0"
    if deadline < 0:
        yield f"HealthyDeadline is {format_duration(deadline)} and must be >= 0"
    if healthy > deadline:
        yield "MinHealthyTime must be less than HealthyDeadline"


def check_restart(policy: RestartPolicy) -> Problems:
    """Problems of a restart block."""
    if policy.mode not in ("fail", "delay"):
        yield f'Unsupported restart mode: "{policy.mode}"'
        return
    if policy.attempts < 0:
        yield f"Restart attempts can not be less than zero: {policy.attempts} < 0"
    if policy.delay_ns < 0:
        yield f"Restart delay can not be less than zero: {format_duration(policy.delay_ns)}"
    if policy.attempts == 0 and policy.mode != "fail":
        yield f'Restart policy "{policy.mode}" with {policy.attempts} attempts is ambiguous'
    if policy.interval_ns < INTERVAL_MIN_NS:
        least = format_duration(INTERVAL_MIN_NS)
        yield f"Interval can not be less than {least} (got {format_duration(policy.interval_ns)})"
    if policy.attempts * policy.delay_ns > policy.interval_ns:
        yield (
            f"Nomad can't restart the TaskGroup {policy.attempts} times in an interval of "
            f"{format_duration(policy.interval_ns)} with a delay of {format_duration(policy.delay_ns)}"
        )


def check_reschedule(policy: ReschedulePolicy) -> Problems:
    """Problems of a reschedule block. One that is switched off has none."""
    if policy.attempts <= 0 and not policy.unlimited:
        if policy.attempts < 0:
            yield f"Reschedule attempts can not be less than zero: {policy.attempts} < 0"
        return
    if policy.attempts > 0:
        if policy.interval_ns <= 0:
            yield "Interval must be a non zero value if Attempts > 0"
        if policy.unlimited:
            yield (
                f"Reschedule Policy with Attempts = {policy.attempts}, Interval = "
                f"{format_duration(policy.interval_ns)}, and Unlimited = true is ambiguous"
            )
    delays = list(_reschedule_delays(policy))
    yield from delays
    if policy.unlimited:
        return
    if policy.interval_ns < RESCHEDULE_INTERVAL_MIN_NS:
        least = format_duration(RESCHEDULE_INTERVAL_MIN_NS)
        yield f"Interval cannot be less than {least} (got {format_duration(policy.interval_ns)})"
    if not delays:
        yield from _attempts_fit(policy)


def _reschedule_delays(policy: ReschedulePolicy) -> Problems:
    least = format_duration(INTERVAL_MIN_NS)
    if policy.delay_function not in DELAY_FUNCTIONS:
        yield f'Invalid delay function "{policy.delay_function}", must be one of [{quoted(DELAY_FUNCTIONS)}]'
    if policy.delay_ns < INTERVAL_MIN_NS:
        yield f"Delay cannot be less than {least} (got {format_duration(policy.delay_ns)})"
    if policy.delay_function == "constant":
        return
    if policy.max_delay_ns < INTERVAL_MIN_NS:
        yield f"Max Delay cannot be less than {least} (got {format_duration(policy.max_delay_ns)})"
    if policy.max_delay_ns < policy.delay_ns:
        yield (
            f"Max Delay cannot be less than Delay {format_duration(policy.delay_ns)} "
            f"(got {format_duration(policy.max_delay_ns)})"
        )


def _attempts_fit(policy: ReschedulePolicy) -> Problems:
    feasible = _attempts_within(policy, policy.interval_ns)
    if feasible >= policy.attempts:
        return
    text = (
        f"Nomad can only make {feasible} attempts in {format_duration(policy.interval_ns)} with initial delay "
        f'{format_duration(policy.delay_ns)} and delay function "{policy.delay_function}"'
    )
    if policy.delay_function != "constant":
        text += f", and delay ceiling {format_duration(policy.max_delay_ns)}"
    yield text
    yield (
        f"Set the interval to at least {format_duration(_time_for(policy, policy.attempts))} "
        f"to accommodate {policy.attempts} attempts"
    )


def _ramp(policy: ReschedulePolicy) -> list[int]:
    """The delays before the first attempts, up to and including the first that repeats for ever."""
    if policy.delay_function == "constant":
        return [policy.delay_ns]
    delays = [policy.delay_ns]
    while delays[-1] < policy.max_delay_ns:
        before = delays[-2] if len(delays) > 1 else 0
        following = delays[-1] * 2 if policy.delay_function == "exponential" else delays[-1] + (before or delays[-1])
        delays.append(min(following, policy.max_delay_ns))
    return delays


def _attempts_within(policy: ReschedulePolicy, interval_ns: int) -> int:
    spent, count = 0, 0
    ramp = _ramp(policy)
    for delay in ramp:
        if spent + delay > interval_ns:
            return count
        spent, count = spent + delay, count + 1
    return count + (interval_ns - spent) // ramp[-1]


def _time_for(policy: ReschedulePolicy, attempts: int) -> int:
    ramp = _ramp(policy)
    return sum(ramp[:attempts]) + max(attempts - len(ramp), 0) * ramp[-1]


def check_disconnect(disconnect: DisconnectStrategy, job_type: str) -> Problems:
    """Problems of a group's disconnect block."""
    stop_after = disconnect.stop_on_client_after_ns
    if disconnect.lost_after_ns < 0:
        yield "lost_after cannot be a negative duration"
    if stop_after is not None:
        if stop_after < 0:
            yield "stop_on_client_after cannot be a negative duration"
        if job_type not in ("service", "batch"):
            yield "stop_on_client_after can only be set in batch and service jobs"
        if disconnect.lost_after_ns:
            yield "lost_after and stop_on_client_after cannot be set simultaneously"
    if disconnect.reconcile not in ("", *RECONCILE_CHOICES):
        yield f'reconcile must be one of {", ".join(RECONCILE_CHOICES)}; not "{disconnect.reconcile}"'


def check_scaling(scaling: ScalingPolicy, count: int) -> Problems:
    """Problems of a group's scaling block, given the group's count."""
    if scaling.type != "horizontal":
        yield f'scaling policy type must be "horizontal" for task groups; not "{scaling.type}"'
    if scaling.min < 0:
        yield "scaling policy invalid: minimum count must be specified and non-negative"
    if scaling.max < 0:
        yield "scaling policy invalid: maximum count must be specified and non-negative"
    if scaling.max < scaling.min:
        yield "scaling policy invalid: maximum count must not be less than minimum count"
    if scaling.max < count:
        yield "scaling policy invalid: task group count must not be greater than maximum count in scaling policy"
    if count < scaling.min:
        yield "scaling policy invalid: task group count must not be less than minimum count in scaling policy"


def check_periodic(periodic: PeriodicConfig) -> Problems:
    """Problems of a periodic block; one that is switched off has none."""
    if not periodic.enabled:
        return
    if periodic.spec and periodic.specs:
        yield "Only cron or crons may be used"
    if not periodic.spec and not periodic.specs:
        yield "Must specify a spec"
    if periodic.spec_type != "cron":
        yield f'Unknown periodic specification type "{periodic.spec_type}"'
    for spec in (periodic.spec, *periodic.specs) if periodic.spec else periodic.specs:
        try:
            check_cron(spec)
        except ValueError as error:
            yield f'Invalid cron spec "{spec}": {error}'
    try:
        time_zone(periodic.time_zone)
    except ValueError as error:
        yield f'Invalid time zone "{periodic.time_zone}": {error}'


def check_parameterized(config: ParameterizedJobConfig) -> Problems:
    """Problems of a parameterized block."""
    if config.payload not in ("optional", "required", "forbidden"):
        yield f'Unknown payload requirement: "{config.payload}"'
    both = sorted(set(config.meta_required) & set(config.meta_optional))
    if both:
        yield f"Required and optional meta keys should be disjoint. Following keys exist in both: [{' '.join(both)}]"
