"""The configuration of clusters in which things happen soon."""

# Servers that forget their log soon, and do not wait minutes for nodes that a restored state remembers.
HASTY = """
log_level = "INFO"
server {
  raft_snapshot_threshold = 40
  raft_trailing_logs = 5
  failover_heartbeat_ttl = "6s"
  heartbeat_grace = "2s"
  min_heartbeat_ttl = "2s"
}
"""
