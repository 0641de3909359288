"""What everything rests on: errors, options, shapes, the spec, files, random numbers, the environment."""
