"""Three servers as real processes: how fast they commit, fail over, serve clients and catch up."""
