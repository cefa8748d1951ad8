"""Descriptions of the machines that come with optc, one YAML file each."""
