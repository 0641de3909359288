"""Pure functions: linear maps, sampling, Kullback-Leibler divergences, objectives."""
