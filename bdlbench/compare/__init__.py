"""Two sides cell by cell, their differences and margins; many methods ranked."""
