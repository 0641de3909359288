"""What a posterior predicts, reduced over its samples."""
