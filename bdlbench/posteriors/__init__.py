"""What methods have learnt: drawing samples, predicting in chunks, and reducing them, shared by methods."""
