"""From a suite to records: planning, batches, processes; predictions made elsewhere; the protocol's lint."""
