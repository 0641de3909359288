"""The lecture's claims, one file each; the folder is the registry."""
