"""What methods have learnt: sampling, chunking and reduction, shared by methods."""
