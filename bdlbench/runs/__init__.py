"""From a suite to records: planning, batches, processes, scores of predictions made elsewhere, the lint."""
