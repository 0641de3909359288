"""Claims as experiments that could refute them: hypothesis, protocol, statements, verdict, figure and page."""
