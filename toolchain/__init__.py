"""What a person calls: commands, pipeline, calibration, verification, bench and report."""
