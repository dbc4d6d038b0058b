"""How each command changes the tables: one function per command, checks first, changes after.

A function returns the value of its outcome, or raises ``Refused`` before it has changed anything.
"""

from __future__ import annotations

from nomadpy.state import commands as c
from nomadpy.state.apply import allocs, deployments, jobs, nodes, operator, plans, restore
from nomadpy.state.store import Handler

HANDLERS: dict[type[c.Command], Handler] = {
    c.InitCluster: operator.init_cluster,
    c.RegisterJob: jobs.register,
    c.RegisterJobs: jobs.register_many,
    c.DeregisterJob: jobs.deregister,
    c.RecordScalingEvent: jobs.record_scaling_event,
    c.SetJobStability: jobs.set_stability,
    c.TagJobVersion: jobs.tag_version,
    c.RecordPeriodicLaunch: jobs.record_periodic_launch,
    c.ReconcileSummaries: jobs.reconcile_summaries,
    c.UpdateEvals: allocs.update_evals,
    c.UpdateAllocs: allocs.update_from_clients,
    c.UpdateAllocTransitions: allocs.update_transitions,
    c.Collect: allocs.collect,
    c.RegisterNode: nodes.register,
    c.UpdateNodeStatus: nodes.update_status,
    c.UpdateNodeEligibility: nodes.update_eligibility,
    c.UpdateNodeDrain: nodes.update_drain,
    c.AddNodeEvents: nodes.add_events,
    c.DeregisterNodes: nodes.deregister,
    c.ApplyPlans: plans.apply_plans,
    c.ApplyDecisions: plans.apply_decisions,
    c.ChangeDeployment: deployments.change,
    c.PromoteDeployment: deployments.promote,
    c.SetAllocsHealth: deployments.set_allocs_health,
    c.SetSchedulerConfig: operator.set_scheduler_config,
    c.SetAutopilotConfig: operator.set_autopilot_config,
    c.UpsertNamespace: operator.upsert_namespace,
    c.DeleteNamespace: operator.delete_namespace,
    c.UpsertNodePool: operator.upsert_node_pool,
    c.DeleteNodePool: operator.delete_node_pool,
    c.StageRestore: restore.stage,
    c.AbandonRestore: restore.abandon,
    c.RestoreState: restore.restore_state,
}
