"""Models, one file each: networks written against a layer rule, exact models, VAEs, stopping networks."""
