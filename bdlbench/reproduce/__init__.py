"""Published numbers beside ours: a paper's protocol is run as written, and each row of its tables gets a verdict."""
