"""What every other folder uses: errors, options, shapes, the spec, files, random numbers, the environment."""
