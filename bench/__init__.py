"""How fast GoDrive is, as ratios to what it stands on, measured on the same machine in the same run."""
