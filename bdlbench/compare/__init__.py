"""Compare two sides cell by cell, with differences and margins, and rank many methods."""
